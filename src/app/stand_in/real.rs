//! The real programs, for what is not the guest's.

use crate::app::Io;
use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};
use vmdeck_core::engine::stand_in::FOLDER;

/// The status of `ssh` and `scp` where they themselves fail.
pub(super) const FAILED: u8 = 255;

/// Becomes the real program of this name, which is further along the search path.
pub(super) fn become_real(name: &str, args: &[String], io: &mut Io<'_>) -> u8 {
    let own = std::env::var_os(FOLDER).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).filter(|folder| Some(folder) != own.as_ref());
    become_program(name, std::env::join_paths(others).ok(), args, io)
}

#[expect(clippy::disallowed_methods, reason = "the process becomes another program")]
pub(super) fn become_program(name: &str, path: Option<OsString>, args: &[String], io: &mut Io<'_>) -> u8 {
    let mut command = Command::new(name);
    command.args(args);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let error = command.exec();
    io.warn(&format!("error: cannot run `{name}`: {error}"));
    127
}

/// Returns whether a host is the one at which the guest is reached.
pub(super) fn is_guest(host: &str) -> bool {
    matches!(host.trim_matches(['[', ']']), "localhost" | "127.0.0.1" | "::1" | "ip6-localhost")
}
