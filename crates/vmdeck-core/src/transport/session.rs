//! An open session with a guest: commands, files, and a terminal where there is one.

use crate::command::{CommandExit, OutputSink, RemoteCommand, Shell};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{fs::File, net::SocketAddr, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::Result;

/// Runs commands in a guest.
pub trait CommandRunner: Send + Sync {
    /// Returns the language that commands must be written in.
    fn shell(&self) -> Shell;

    /// Runs a command to its end. A lost connection or a missing status is a fault, never an exit. Cancelling ends the command
    /// in the guest.
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>>;
}

/// An open session with a guest.
pub trait Session: CommandRunner {
    /// Returns the word of the transport.
    fn kind(&self) -> &'static str;

    /// Returns the power to move files.
    fn files(&self) -> Box<dyn FileTransfer + '_>;

    /// Returns the power to give a person a terminal. Without one, the command that a person can type on this host instead, if
    /// the hypervisor has one.
    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal>;

    /// Returns the address of the guest, if there is one.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    /// Ends the session in order.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// A session that has no terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoTerminal {
    /// What a person types on this host instead, if its hypervisor has such a command.
    pub instead: Option<String>,
}

/// What came of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What did not come, a line for each file or reason.
    pub complaints: Vec<String>,
    /// Whether the archive was ended before its own end.
    pub is_cut: bool,
}

/// Moves files between this host and a guest, as tar archives.
pub trait FileTransfer: Send + Sync {
    /// Replaces the folder `to` of the guest by what is in `archive`, a tar file.
    fn send<'a>(&'a self, archive: Arc<File>, to: &'a str, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>>;

    /// Writes a tar archive of what the globs name, and perhaps more, below the working directory of `base` and with its rights,
    /// to the empty file `archive`. At `limit` bytes it ends, and what came stays: one file that cannot be read does not cost the
    /// others.
    fn fetch<'a>(
        &'a self,
        globs: &'a [String],
        base: &'a RemoteCommand,
        archive: &'a File,
        limit: u64,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Received>>;
}

/// The power to give a person a terminal in the guest.
pub trait RemoteTerminal: Send + Sync {
    /// Serves these streams until the shell or the command in the guest ends.
    fn attach(&self, streams: TerminalStreams) -> BoxFuture<'_, Result<CommandExit>>;
}

/// A person's terminal, as streams.
pub struct TerminalStreams {
    /// What the person types.
    pub input: mpsc::Receiver<Bytes>,
    /// What the person sees.
    pub output: mpsc::Sender<Bytes>,
    /// Columns and rows, as they change.
    pub size: watch::Receiver<(u16, u16)>,
    /// The value of `TERM`.
    pub kind: String,
    /// A command instead of the login shell.
    pub command: Option<String>,
}
