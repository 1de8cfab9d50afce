//! What vmdeck runs inside a guest that it boots from a folder of the host, and the words that host and guest exchange.
//!
//! The same program is on both sides: the host puts its own binary into the initial RAM disk, where [`PROGRAM`] is the name by
//! which it knows that it is the guest's. Making that disk and speaking to the guest is `vmdeck-core`'s work.
//!
//! - [`setup`]: what the host tells the guest's init, as a file of the initial RAM disk.
//! - [`wire`]: the messages on the serial port.
//! - `init` mounts the root and reaps processes; `agent` serves the port; `command` becomes one command.

#[cfg(target_os = "linux")]
mod agent;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod host_line;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod job;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod port;
pub mod setup;
#[cfg(target_os = "linux")]
mod users;
pub mod wire;
mod words;

use std::ffi::OsString;

pub use words::{CONSOLE_FAILED, CONSOLE_PREFIX, PROGRAM};

/// Returns whether a program that was called with these words is the guest's.
pub fn is_guest(args: &[OsString]) -> bool {
    args.first().and_then(|word| std::path::Path::new(word).file_name()).is_some_and(|name| name == PROGRAM)
}

/// Does the guest's part: as process 1 its init, else what the first word says. Returns the exit status.
#[cfg(target_os = "linux")]
pub fn main(args: &[OsString]) -> u8 {
    if std::process::id() == 1 {
        return init::run();
    }
    match args.get(1).and_then(|word| word.to_str()) {
        Some(agent::WORD) => agent::run(),
        Some(command::WORD) => command::run(&args[2..]),
        // It was called so by hand.
        _ => 2,
    }
}
