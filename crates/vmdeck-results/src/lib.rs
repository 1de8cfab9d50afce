//! Reads what test tools report of their single tests, while they write it, in bounded memory and whatever they write.
//!
//! Everything that is read comes from a guest: names are text and nothing else. What a case's verdict becomes of it is decided in
//! [`judge()`]; running the case, and fetching its files, is the engine's work.

mod document;
mod files;
mod format;
pub mod fuzz;
mod judge;
mod line;
mod listing;
mod place;
mod reader;
mod rerun;
mod sheet;
mod stream;
mod summary;
mod text;
mod words;

pub use files::{ResultFile, read_files};
pub use format::Format;
pub use judge::{Judgement, judge};
pub use listing::{ListedTest, Quote, list_command, list_results, read_list, read_names, read_paths};
pub use rerun::{check_rerun, rerun_command, rerun_words};
pub use stream::ResultStream;
pub use summary::ResultSummary;
