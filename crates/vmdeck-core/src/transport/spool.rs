//! Takes an archive that a command of the guest writes to its standard output, up to a limit, and what it complains of.
//!
//! What the command is, and what is done with the archive, is its callers' matter.

use super::session::{CommandRunner, Received};
use crate::command::{CommandExit, OutputSink, RemoteCommand};
use std::{fs::File, io::Write};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    quantity::show_size,
};

/// Most bytes of complaints that are kept.
const COMPLAINTS: usize = 64 * 1024;

/// What an archive may have besides the content of its files: a header, a long name and padding for each of 10 000, and its end.
pub(super) const BESIDES: u64 = 16 << 20;

/// Returns why no more is taken than an archive of this size.
pub(super) fn too_large(limit: u64) -> String {
    let limit = show_size(limit.saturating_sub(BESIDES));
    format!(
        "there is more than {limit}, which is as much as is fetched (`artifacts_size`): what came before that is kept"
    )
}

/// Takes the archive from standard output, up to a limit, and tar's complaints from standard error.
pub(super) struct Spool {
    file: File,
    left: u64,
    limit: u64,
    complaints: Vec<u8>,
    /// Why no more can be taken.
    full: Option<String>,
    /// Cancelled when no more can be taken.
    enough: CancellationToken,
}

impl Spool {
    /// Runs the command and writes what it writes to the archive; each line of its complaints is one of what did not come.
    pub(super) async fn receive(
        runner: &dyn CommandRunner,
        command: &RemoteCommand,
        archive: &File,
        limit: u64,
        cancel: &CancellationToken,
    ) -> Result<Received> {
        let file = archive.try_clone().map_err(|e| Fault::host("cannot write the archive").because(e))?;
        // What can take no more ends the guest's command: it may have a terabyte of nothing to send.
        let enough = cancel.child_token();
        let mut sink = Self { file, left: limit, limit, complaints: Vec::new(), full: None, enough: enough.clone() };
        let ran = runner.run(command, &mut sink, &enough).await;
        if let Some(reason) = sink.full.take().filter(|_| !cancel.is_cancelled()) {
            return Ok(Received { complaints: vec![reason], is_cut: true });
        }
        let exit = ran?;
        if exit == CommandExit::Code(0) {
            return Ok(Received::default());
        }
        let text = String::from_utf8_lossy(&sink.complaints).into_owned();
        // Two lines of tar are mere remarks: that names lose their slash, and that something went wrong before.
        let remark = |line: &&str| line.contains("Removing leading") || line.contains("due to previous errors");
        let mut lines: Vec<String> = text.lines().filter(|line| !remark(line)).map(str::to_owned).collect();
        if lines.is_empty() {
            lines.push(format!("packing ended with {exit}"));
        }
        Ok(Received { complaints: lines, is_cut: false })
    }
}

impl OutputSink for Spool {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stderr {
            let room = COMPLAINTS.saturating_sub(self.complaints.len());
            self.complaints.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return;
        }
        if self.full.is_some() {
            return;
        }
        // What still fits is kept: the files before the one that is cut are whole.
        let fits = usize::try_from(self.left).unwrap_or(bytes.len()).min(bytes.len());
        self.left -= fits as u64;
        self.full = match self.file.write_all(&bytes[..fits]) {
            Err(e) => Some(format!("cannot write the archive: {e}")),
            Ok(()) => (fits < bytes.len()).then(|| too_large(self.limit)),
        };
        if self.full.is_some() {
            self.enough.cancel();
        }
    }
}
