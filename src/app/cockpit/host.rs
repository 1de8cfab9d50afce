//! What the cockpit needs of the operating system, done with the real one.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use vmdeck_core::host::{
    info,
    process::{Spawner, Spec, Streams},
    signal,
    tail::{FileWatch, Tail},
};
use vmdeck_tui::host::{BoxFuture, FileTail, Host};

/// The host that vmdeck runs on.
pub struct LocalHost {
    spawner: Spawner,
}

impl LocalHost {
    /// Returns a host whose programs are started by `spawner`.
    pub fn new(spawner: Spawner) -> Self {
        Self { spawner }
    }
}

/// A followed file.
struct Followed(Tail);

impl FileTail for Followed {
    fn next(&mut self) -> BoxFuture<'_, io::Result<&[u8]>> {
        Box::pin(self.0.next())
    }
}

impl Host for LocalHost {
    fn follow(&self, path: &Path) -> io::Result<Box<dyn FileTail>> {
        Ok(Box::new(Followed(Tail::follow(path)?)))
    }

    fn watch(&self, files: &[PathBuf], on_change: Box<dyn Fn() + Send>) -> Box<dyn Send> {
        Box::new(FileWatch::new(files, on_change))
    }

    fn run_foreground<'a>(
        &'a self,
        words: &'a [OsString],
        end: CancellationToken,
    ) -> BoxFuture<'a, io::Result<ExitStatus>> {
        Box::pin(async move {
            let Some((program, args)) = words.split_first() else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program to run"));
            };
            let streams = Streams { stdin: Stdio::inherit(), stdout: Stdio::inherit(), stderr: Stdio::inherit() };
            let mut child = self.spawner.spawn(&Spec::new(program).args(args).foreground(), streams).await?;
            tokio::select! {
                status = child.wait() => return status,
                () = end.cancelled() => child.terminate(),
            }
            child.wait().await
        })
    }

    fn feed<'a>(&'a self, words: &'a [String], text: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let Some((program, args)) = words.split_first() else { return Ok(()) };
            let streams = Streams { stdin: Stdio::piped(), stdout: Stdio::null(), stderr: Stdio::null() };
            let mut child = self.spawner.spawn(&Spec::new(program).args(args).outliving(), streams).await?;
            if let Some(mut stdin) = child.inner.stdin.take() {
                stdin.write_all(text).await?;
            }
            let status = child.wait().await?;
            if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
        })
    }

    fn has_program(&self, name: &str) -> bool {
        info::find_program(name).is_some()
    }

    fn suspend(&self) -> BoxFuture<'_, ()> {
        Box::pin(signal::stop_ourselves())
    }
}
