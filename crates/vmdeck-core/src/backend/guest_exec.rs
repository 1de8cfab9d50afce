//! The power to run commands in a machine without a network: by the provider, or by an agent in the guest.

use crate::command::{CommandExit, OutputSink, RemoteCommand, Shell};
use futures_util::future::BoxFuture;
use std::fs::File;
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::Result;

/// Runs commands in a machine without a network.
pub trait GuestExec: Send + Sync {
    /// Returns the language of its commands. An error means that nothing can be run, now or at all.
    fn language(&self) -> BoxFuture<'_, Result<Shell>> {
        Box::pin(async { Ok(Shell::Posix) })
    }

    /// Runs one command to its end. Cancelling ends the command in the guest. A lost status is an error, never an exit.
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>>;

    /// Returns what copies files out where output of any length does not come through [`GuestExec::run`].
    fn copy_out(&self) -> Option<&dyn CopyOut> {
        None
    }

    /// Returns what a person types on this host for a shell in the guest, if its hypervisor has such a command.
    fn shell_hint(&self) -> Option<String> {
        None
    }
}

/// The power to copy a file out of a guest.
pub trait CopyOut: Send + Sync {
    /// Copies a file of the guest to an empty one of this host, proven to be whole.
    fn copy_out<'a>(&'a self, path: &'a str, to: &'a File, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>>;
}
