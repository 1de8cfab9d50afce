//! The process that finishes what a dead vmdeck began: it holds the journal and the lock, and cleans up when the main
//! process is gone, whatever killed it.
//!
//! It is this very binary, started again in a session of its own. Its three streams are not for text: standard input is a
//! pipe from the main process (its end is the news of the death), standard output is the lock directory and standard
//! error the journal, held only so that the kernel keeps both flocks. That way no descriptor has to be passed by number.

use super::{
    journal::Journal,
    lock::{self, HostLock},
    reap,
};
use crate::{
    backend::{BackendDeps, Tools},
    host::{clock, process, signal},
};
use std::{
    io::{self, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tokio::io::AsyncReadExt;

/// The hidden subcommand of the vmdeck binary.
pub const COMMAND: &str = "__guardian";
/// What the main process writes when nothing is left to do.
const DONE: &[u8] = b"done";
/// Time between two attempts.
const AGAIN: Duration = Duration::from_secs(2);
/// The guardian's own limit.
const LIMIT: Duration = Duration::from_mins(5);

/// The running guardian, seen from the main process.
pub(super) struct Guardian {
    child: std::process::Child,
}

impl Guardian {
    /// Starts it for this journal and lock.
    pub(super) fn start(binary: &Path, journal: &Journal, lock: Option<&HostLock>) -> io::Result<Self> {
        let held: Stdio = match lock {
            Some(lock) => lock.fd().try_clone()?.into(),
            None => Stdio::null(),
        };
        let lock_path = lock.map_or_else(|| "-".into(), |l| l.path().as_os_str().to_owned());
        let args = [COMMAND.into(), journal.path().as_os_str().to_owned(), lock_path];
        let child = process::spawn_detached(binary, &args, held, journal.share()?.into())?;
        Ok(Self { child })
    }

    /// Returns its pid.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reports to the guardian that everything was cleaned up, and waits for its end.
    pub(super) async fn dismiss(mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // If it died before us there is nobody to tell.
            let _ = stdin.write_all(DONE);
        }
        let _ = tokio::task::spawn_blocking(move || self.child.wait()).await;
    }
}

/// Runs the guardian. `lock` is `-` where the run held none.
pub async fn watch(journal: &Path, lock: &Path) -> io::Result<()> {
    // Standard error is the journal: nothing may ever be written there.
    std::panic::set_hook(Box::new(|_| {}));
    process::leave_session();
    // Swallowed, not ignored: a Ctrl-C or a closed terminal is the main process's business.
    let _signals = signal::listen()?;
    let mut said = Vec::new();
    tokio::io::stdin().read_to_end(&mut said).await?;
    if said == DONE {
        return Ok(());
    }
    let state = journal.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    // The journal says which tools.
    let deps = BackendDeps { spawner: process::Spawner::new(None)?, state, tools: Tools::new() };
    let all = async {
        // What cannot be taken now (a process that does not end, a daemon that starts again) can be a moment later.
        while !reap::one(&deps, journal).await {
            clock::sleep(AGAIN).await;
        }
    };
    let _ = clock::within(LIMIT, all).await;
    if lock != Path::new("-") {
        lock::release_by_fd(lock, &rustix::stdio::stdout());
    }
    Ok(())
}
