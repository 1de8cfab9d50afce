//! The real programs, for what is not the guest's.

use crate::app::Io;
use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};
use vmdeck_core::engine::stand_in::{self, FOLDER, PORT};

/// The status of a stand-in that fails. It is not that of `ssh`: scripts of the framework take it for a pass.
pub(super) const FAILED: u8 = stand_in::FAILED;

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

/// Returns whether a host, at this port, is where the guest is reached. Without a port it is: nobody tests this host by itself.
pub(super) fn is_guest(host: &str, port: Option<&str>) -> bool {
    let is_here = matches!(host.trim_matches(['[', ']']), "localhost" | "127.0.0.1" | "::1" | "ip6-localhost");
    is_here && port.is_none_or(|port| std::env::var(PORT).map_or(true, |own| own == port))
}
