//! How files move by a session's commands, in the language of its guest.

use super::{
    powershell_transfer::PowerShellTransfer,
    session::{CommandRunner, FileTransfer},
    tar_transfer::TarTransfer,
};
use crate::{backend::guest_exec::CopyOut, command::Shell};

/// Returns what moves files with the commands of this session; `copy_out` = a better way out, where a POSIX guest has one.
pub(super) fn by_commands<'a>(
    runner: &'a dyn CommandRunner,
    copy_out: Option<&'a dyn CopyOut>,
) -> Box<dyn FileTransfer + 'a> {
    match runner.shell() {
        Shell::Posix => Box::new(TarTransfer { runner, copy_out }),
        Shell::PowerShell => Box::new(PowerShellTransfer { runner }),
    }
}
