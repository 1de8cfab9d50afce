//! Talks into a machine that is up. One file or folder for each transport, plus one row in [`TRANSPORTS`].
//!
//! The seam is in [`contract`] and [`session`]. The search for a machine's address is in `discovery`; the order in which
//! transports are tried is in [`route`]. Making the machine is `backend`'s work.

mod archive_input;
mod artifact_globs;
pub mod artifacts;
mod cancellable;
pub mod contract;
mod discovery;
mod exec;
pub mod file_stamps;
mod file_transfer;
pub mod pin;
mod powershell_transfer;
pub mod route;
mod serial;
pub mod session;
pub mod source;
mod source_delta;
mod source_list;
pub mod source_watch;
mod spool;
pub mod ssh;
mod table;
mod tar_transfer;
pub(crate) mod unpack;
mod winrm;

pub use table::{TRANSPORTS, TransportInfo, find};
