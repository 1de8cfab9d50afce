//! What the cockpit needs of the operating system, as the composition root hands it in: files that grow, programs that take
//! the terminal, the clipboard's program.
//!
//! What it needs of the rest of vmdeck is in [`super::services`].

use std::{
    ffi::OsString,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitStatus,
};
use tokio_util::sync::CancellationToken;

/// A boxed future: what an object-safe trait can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Reads a file while another process writes it.
pub trait FileTail: Send {
    /// Waits for new bytes and returns them; cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, io::Result<&[u8]>>;
}

/// The operating system, as the cockpit needs it; see the module.
pub trait Host: Send + Sync + 'static {
    /// Follows a file from its beginning. The file need not exist yet; its folder must.
    fn follow(&self, path: &Path) -> io::Result<Box<dyn FileTail>>;
    /// Calls `on_change` from another thread when one of these files is written or replaced, until the returned value is
    /// dropped. Where the system has no watches left, nothing is called.
    fn watch(&self, files: &[PathBuf], on_change: Box<dyn Fn() + Send>) -> Box<dyn Send>;
    /// Runs a program on the whole terminal and waits for its end; `end` asks it to terminate.
    fn run_foreground<'a>(
        &'a self,
        words: &'a [OsString],
        end: CancellationToken,
    ) -> BoxFuture<'a, io::Result<ExitStatus>>;
    /// Writes a text to the standard input of a program, and fails unless the program succeeds.
    fn feed<'a>(&'a self, words: &'a [String], text: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;
    /// Returns whether a program of this name is on the search path.
    fn has_program(&self, name: &str) -> bool;
    /// Stops this process as Ctrl-Z does, and returns when the shell continues it.
    fn suspend(&self) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
pub(crate) mod tests {
    //! A host for unit tests: it follows files by reading them again and again, and runs nothing.

    use super::{BoxFuture, CancellationToken, FileTail, Host, Path, PathBuf, io};
    use std::{ffi::OsString, fs::File, io::Read, process::ExitStatus, sync::Arc};

    struct Polling {
        path: PathBuf,
        file: Option<File>,
        buffer: Vec<u8>,
    }

    impl FileTail for Polling {
        fn next(&mut self) -> BoxFuture<'_, io::Result<&[u8]>> {
            Box::pin(async move {
                loop {
                    if self.file.is_none() {
                        self.file = File::open(&self.path).ok();
                    }
                    let n = self.file.as_mut().map_or(Ok(0), |file| file.read(&mut self.buffer))?;
                    if n > 0 {
                        return Ok(&self.buffer[..n]);
                    }
                    tokio::task::yield_now().await;
                }
            })
        }
    }

    pub(crate) struct TestHost;

    pub(crate) fn host() -> Arc<dyn Host> {
        Arc::new(TestHost)
    }

    impl Host for TestHost {
        fn follow(&self, path: &Path) -> io::Result<Box<dyn FileTail>> {
            Ok(Box::new(Polling { path: path.to_owned(), file: None, buffer: vec![0; 64 * 1024] }))
        }

        fn watch(&self, _: &[PathBuf], _: Box<dyn Fn() + Send>) -> Box<dyn Send> {
            Box::new(())
        }

        fn run_foreground<'a>(
            &'a self,
            _: &'a [OsString],
            _: CancellationToken,
        ) -> BoxFuture<'a, io::Result<ExitStatus>> {
            Box::pin(async { Err(io::Error::from(io::ErrorKind::Unsupported)) })
        }

        fn feed<'a>(&'a self, _: &'a [String], _: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
            Box::pin(async { Err(io::Error::from(io::ErrorKind::Unsupported)) })
        }

        fn has_program(&self, _: &str) -> bool {
            false
        }

        fn suspend(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }
}
