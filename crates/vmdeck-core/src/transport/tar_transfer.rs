//! Moves files with the guest's own `tar`, through a session's commands: for every guest with a POSIX shell.

use super::{
    archive_input::run_unpack,
    artifact_globs::pack_script,
    session::{CommandRunner, FileTransfer, Received},
    spool::{Spool, too_large},
};
use crate::{
    backend::guest_exec::CopyOut,
    command::{Collected, Input, RemoteCommand, frame, sh_quote},
    host::clock,
};
use futures_util::future::BoxFuture;
use std::{fs::File, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    suite::ScriptShell,
};

/// How often the size of a file that a tool writes is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Moves files with the guest's own `tar`.
pub(super) struct TarTransfer<'a> {
    /// Runs the commands.
    pub(super) runner: &'a dyn CommandRunner,
    /// Copies a file out, where output of any length does not come through the runner.
    pub(super) copy_out: Option<&'a dyn CopyOut>,
}

impl FileTransfer for TarTransfer<'_> {
    fn send<'a>(&'a self, archive: Arc<File>, to: &'a str, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let to = sh_quote(to);
            let unpack = RemoteCommand {
                stdin: Input::Unnamed(archive),
                ..RemoteCommand::new(format!("rm -rf -- {to} && mkdir -p -- {to} && exec tar -xf - -C {to}"))
            };
            run_unpack(self.runner, &unpack, cancel).await
        })
    }

    fn fetch<'a>(
        &'a self,
        globs: &'a [String],
        base: &'a RemoteCommand,
        archive: &'a File,
        limit: u64,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Received>> {
        Box::pin(async move {
            // Where the way out is narrow the archive becomes a file of the guest first.
            let spooled = self.copy_out.map(|copier| (copier, format!("/tmp/.vmdeck-{}", frame::nonce())));
            let script = pack_script(globs, spooled.as_ref().map(|(_, there)| there.as_str()));
            let command = RemoteCommand { script, shell: ScriptShell::Plain, stdin: Input::Empty, ..base.clone() };
            let received = Spool::receive(self.runner, &command, archive, limit, cancel).await?;
            if let Some((copier, there)) = spooled.filter(|_| !received.is_cut) {
                self.copy(copier, &there, archive, limit, cancel).await?;
            }
            Ok(received)
        })
    }
}

impl TarTransfer<'_> {
    /// Copies the archive that lies at `there` in the guest, if there is one, and removes it.
    async fn copy(
        &self,
        copier: &dyn CopyOut,
        there: &str,
        archive: &File,
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
            Ok(size) if size <= limit => {
                let enough = cancel.child_token();
                tokio::select! {
                    copied = copier.copy_out(there, archive, &enough) => copied,
                    () = until_larger(archive, limit) => {
                        Err(Fault::infra("cannot receive the archive").because(too_large(limit)))
                    }
                }
            }
            Ok(_) => Err(Fault::infra("cannot receive the archive").because(too_large(limit))),
            Err(e) => Err(Fault::infra("cannot receive the archive").because(e)),
        };
        // What stays is in /tmp of a machine that is taken down.
        let remove = RemoteCommand::new(format!("rm -f {there}"));
        let _ = self.runner.run(&remove, &mut Collected::default(), cancel).await;
        copied?;
        match archive.metadata() {
            Ok(file) if file.len() > limit => Err(Fault::infra("cannot receive the archive").because(too_large(limit))),
            _ => Ok(()),
        }
    }
}

/// Waits until a file that a tool writes is larger than this: the guest's own word for its size proves nothing.
async fn until_larger(file: &File, limit: u64) {
    while file.metadata().is_ok_and(|meta| meta.len() <= limit) {
        clock::sleep(LOOK).await;
    }
}
