//! Moves files with the guest's own `tar`, through a session's commands: for every guest with a POSIX shell.

use super::{
    artifact_globs::pack_script,
    session::{CommandRunner, FileTransfer},
};
use crate::{
    backend::guest_exec::CopyOut,
    command::{Collected, CommandExit, Input, OutputSink, RemoteCommand, frame, sh_quote},
};
use futures_util::future::BoxFuture;
use std::{fs, io::Write, path::Path};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::ScriptShell,
};

/// Most bytes of tar's complaints that are kept.
const COMPLAINTS: usize = 64 * 1024;

/// Moves files with the guest's own `tar`.
pub(super) struct TarTransfer<'a> {
    /// Runs the commands.
    pub(super) runner: &'a dyn CommandRunner,
    /// Copies a file out, where output of any length does not come through the runner.
    pub(super) copy_out: Option<&'a dyn CopyOut>,
}

impl FileTransfer for TarTransfer<'_> {
    fn send<'a>(&'a self, archive: &'a Path, to: &'a str, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let to = sh_quote(to);
            let unpack = RemoteCommand {
                stdin: Input::File(archive.to_owned()),
                ..RemoteCommand::new(format!("rm -rf -- {to} && mkdir -p -- {to} && exec tar -xf - -C {to}"))
            };
            let mut output = Collected::default();
            match self.runner.run(&unpack, &mut output, cancel).await? {
                CommandExit::Code(0) => Ok(()),
                exit => Err(Fault::infra("cannot unpack the archive in the guest")
                    .because(exit)
                    .because(String::from_utf8_lossy(&output.stderr).trim())),
            }
        })
    }

    fn fetch<'a>(
        &'a self,
        globs: &'a [String],
        base: &'a RemoteCommand,
        archive: &'a Path,
        limit: u64,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            // Where the way out is narrow the archive becomes a file of the guest first.
            let spooled = self.copy_out.map(|copier| (copier, format!("/tmp/.vmdeck-{}", frame::nonce())));
            let script = pack_script(globs, spooled.as_ref().map(|(_, there)| there.as_str()));
            let file = fs::OpenOptions::new().write(true).open(archive);
            let file = file.map_err(|e| Fault::host("cannot write the archive").because(e))?;
            let mut sink = Spool { file, left: limit, limit, complaints: Vec::new(), full: None };
            let command = RemoteCommand { script, shell: ScriptShell::Plain, stdin: Input::Empty, ..base.clone() };
            let exit = self.runner.run(&command, &mut sink, cancel).await?;
            if let Some((copier, there)) = spooled {
                self.copy(copier, &there, archive, limit, cancel).await?;
            }
            if let Some(reason) = sink.full {
                return Err(Fault::infra("cannot receive the archive").because(reason));
            }
            if exit == CommandExit::Code(0) {
                return Ok(Vec::new());
            }
            let text = String::from_utf8_lossy(&sink.complaints).into_owned();
            // Two lines are mere remarks: that names lose their slash, and that something went wrong before.
            let remark = |line: &&str| line.contains("Removing leading") || line.contains("due to previous errors");
            let mut lines: Vec<String> = text.lines().filter(|line| !remark(line)).map(str::to_owned).collect();
            if lines.is_empty() {
                lines.push(format!("tar ended with {exit}"));
            }
            Ok(lines)
        })
    }
}

impl TarTransfer<'_> {
    /// Copies the archive that lies at `there` in the guest, if there is one, and removes it.
    async fn copy(
        &self,
        copier: &dyn CopyOut,
        there: &str,
        archive: &Path,
        limit: u64,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut said = Collected::default();
        let question = RemoteCommand::new(format!("[ ! -e {there} ] || wc -c < {there}"));
        self.runner.run(&question, &mut said, cancel).await?;
        if said.stdout.is_empty() {
            return Ok(());
        }
        // The guest's own word: it only spares the copy.
        let size = String::from_utf8_lossy(&said.stdout).trim().parse::<u64>();
        let copied = match size {
            Ok(size) if size <= limit => copier.copy_out(there, archive, cancel).await,
            Ok(_) => Err(Fault::infra("cannot receive the archive").because(too_large(limit))),
            Err(e) => Err(Fault::infra("cannot receive the archive").because(e)),
        };
        // What stays is in /tmp of a machine that is taken down.
        let remove = RemoteCommand::new(format!("rm -f {there}"));
        let _ = self.runner.run(&remove, &mut Collected::default(), cancel).await;
        copied?;
        match fs::metadata(archive) {
            Ok(file) if file.len() > limit => Err(Fault::infra("cannot receive the archive").because(too_large(limit))),
            _ => Ok(()),
        }
    }
}

fn too_large(limit: u64) -> String {
    format!("it is larger than {}", vmdeck_model::quantity::show_size(limit))
}

/// Takes the archive from standard output, up to a limit, and tar's complaints from standard error.
struct Spool {
    file: fs::File,
    left: u64,
    limit: u64,
    complaints: Vec<u8>,
    /// Why no more can be taken.
    full: Option<String>,
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
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.left = left;
                self.full = self.file.write_all(bytes).err().map(|e| e.to_string());
            }
            None => self.full = Some(too_large(self.limit)),
        }
    }
}
