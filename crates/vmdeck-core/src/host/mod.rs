//! The only code that touches the operating system: processes, files, memory, network, clock and signals.
//!
//! Nothing in here knows what a run, a guest or a report is.

pub mod capacity;
pub(crate) mod certificate;
pub mod clock;
pub mod failpoint;
pub mod files;
pub mod info;
pub mod lockdir;
pub mod net;
pub mod packages;
pub mod pids;
pub mod process;
pub mod random;
pub mod read_only;
pub mod signal;
pub mod switch;
pub mod tail;
pub mod tickets;
