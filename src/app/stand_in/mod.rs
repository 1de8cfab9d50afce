//! The stand-ins of `ssh`, `scp`, `sshpass` and `wget` that a host program finds on its search path: what is for the guest goes over
//! the engine's own session, and what is for another host to the real program.
//!
//! Keys, passwords and host keys are the engine's matter; nothing here knows them.

mod options;
mod real;
mod relayed;
mod scp;
mod ssh;
mod wget;

use super::Io;
use real::{FAILED, become_program};
use std::ffi::OsString;

/// Does what the program of this name would do; returns its status.
pub(super) fn main(args: &[OsString], io: &mut Io<'_>) -> u8 {
    let Some((name, args)) = args.split_first() else { return FAILED };
    let Some(args) = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect::<Option<Vec<String>>>() else {
        io.warn("error: an argument is not UTF-8");
        return FAILED;
    };
    match name.to_str() {
        Some("ssh") => ssh::run(&args, io),
        Some("scp") => scp::run(&args, io),
        Some("sshpass") => sshpass(&args, io),
        Some("wget") => wget::run(&args, io),
        _ => FAILED,
    }
}

/// Runs the program whose password would be typed: nobody is asked for one.
fn sshpass(args: &[String], io: &mut Io<'_>) -> u8 {
    let mut rest = args.iter();
    let mut command = Vec::new();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-f" | "-d" | "-p" | "-P" => drop(rest.next()),
            // Given with its value in one word, or without one.
            word if word.starts_with('-') => {}
            word => {
                command.push(word.to_owned());
                command.extend(rest.by_ref().cloned());
            }
        }
    }
    let Some((name, args)) = command.split_first() else {
        io.warn("error: sshpass was given no program");
        return 1;
    };
    become_program(name, std::env::var_os("PATH"), args, io)
}
