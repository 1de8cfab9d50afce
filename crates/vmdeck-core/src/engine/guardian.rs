//! The process that finishes what a dead vmdeck began: it holds the journal and the lock, and cleans up when the main
//! process is gone, whatever killed it.
//!
//! It is this very binary, started again in a session of its own. Its three streams are not for text: standard input is a
//! pipe from the main process (its end is the news of the death), standard output is the lock directory and standard
//! error the journal, held only so that the kernel keeps both flocks. That way no descriptor has to be passed by number.

use super::{
    admission,
    events::EventSender,
    journal::Journal,
    lock::{self, HostLock},
    reap,
};
use crate::{
    backend::{BackendDeps, Tools},
    host::{clock, failpoint, process, signal},
};
use parking_lot::Mutex;
use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::ChildStdin,
    sync::oneshot,
    task::JoinHandle,
};

/// The hidden subcommand of the vmdeck binary.
pub const COMMAND: &str = "__guardian";
/// What the main process writes when nothing is left to do.
const DONE: &[u8] = b"done";
/// How many guardians of one run are replaced before its enemy has won.
const REPLACED: usize = 20;
/// What a run without a guardian means.
const UNGUARDED: &str = "if vmdeck itself is killed now, its next start cleans up";
/// Time between two attempts.
const AGAIN: Duration = Duration::from_secs(2);
/// The guardian's own limit.
const LIMIT: Duration = Duration::from_mins(5);

/// The guardian of a run, seen from the main process: one that is killed is replaced.
pub(super) struct Guardian {
    dismiss: oneshot::Sender<()>,
    watch: JoinHandle<()>,
}

/// What a guardian is started with, again and again.
struct Post {
    binary: PathBuf,
    journal: Journal,
    lock: Arc<Mutex<Option<HostLock>>>,
    /// The lock that the host has, also where the run does not take it.
    base: PathBuf,
    events: EventSender,
}

/// A guardian's process, and the pipe whose end tells it that we are dead.
struct OnPost {
    child: tokio::process::Child,
    alive: ChildStdin,
}

impl Guardian {
    /// Starts a guardian for this journal and lock, and keeps one there until it is dismissed.
    pub(super) fn start(
        binary: PathBuf,
        journal: Journal,
        (lock, base): (Arc<Mutex<Option<HostLock>>>, PathBuf),
        events: EventSender,
    ) -> io::Result<Self> {
        let post = Post { binary, journal, lock, base, events };
        let first = post.fill()?;
        let (dismiss, dismissed) = oneshot::channel();
        let watch = tokio::spawn(post.keep_filled(first, dismissed));
        Ok(Self { dismiss, watch })
    }

    /// Reports to the guardian that everything was cleaned up, and waits for its end.
    pub(super) async fn dismiss(self) {
        let _ = self.dismiss.send(());
        let _ = self.watch.await;
    }
}

impl Post {
    fn fill(&self) -> io::Result<OnPost> {
        let mut lock = self.lock.lock();
        let held: Stdio = match lock.as_ref() {
            Some(lock) => lock.fd().try_clone()?.into(),
            None => Stdio::null(),
        };
        let path = lock.as_ref().map_or_else(|| "-".into(), |lock| lock.path().as_os_str().to_owned());
        let args = [COMMAND.into(), self.journal.path().as_os_str().to_owned(), path, self.base.as_os_str().to_owned()];
        failpoint::pass("guardian-begin");
        let mut child = process::spawn_detached(&self.binary, &args, held, self.journal.share()?.into())?;
        failpoint::pass("guardian-there");
        if let (Some(lock), Some(pid)) = (lock.as_mut(), child.id()) {
            // The guardian is the last to need the lock.
            lock.set_pid(pid);
        }
        // Taken out: waiting for the child would close it, and tell it that we are dead.
        let alive = child.stdin.take().ok_or_else(|| io::Error::other("it has no pipe"))?;
        Ok(OnPost { child, alive })
    }

    async fn keep_filled(self, mut guardian: OnPost, mut dismissed: oneshot::Receiver<()>) {
        for _ in 0..REPLACED {
            tokio::select! {
                _ = &mut dismissed => return guardian.dismiss().await,
                _ = guardian.child.wait() => {}
            }
            // What kills it again and again must not keep us busy.
            clock::sleep(AGAIN / 4).await;
            let remedy = "whoever killed it can take the clean-up away; until then everything is still guarded";
            match self.fill() {
                Ok(next) => {
                    let text = "the guardian process was killed; another has taken its place".to_owned();
                    self.events.warn(None, text, Some(remedy.into()));
                    guardian = next;
                }
                Err(e) => {
                    self.events.warn(
                        None,
                        format!("the guardian process was killed, and no other starts: {e}"),
                        Some(UNGUARDED.into()),
                    );
                    break;
                }
            }
        }
        self.events.warn(None, "this run is not guarded any more".to_owned(), Some(UNGUARDED.into()));
        // Nobody to dismiss; the run goes on.
        let _ = dismissed.await;
        guardian.dismiss().await;
    }
}

impl OnPost {
    async fn dismiss(mut self) {
        // If it died before us there is nobody to tell.
        let _ = self.alive.write_all(DONE).await;
        drop(self.alive);
        let _ = self.child.wait().await;
    }
}

/// Runs the guardian. `lock` is `-` where the run held none, `base` the lock that the host has.
pub async fn watch(journal: &Path, lock: &Path, base: &Path) -> io::Result<()> {
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
    let deps = BackendDeps {
        spawner: process::Spawner::new(None)?,
        state,
        tools: Tools::new(),
        images: crate::assets::image::store::ImageStore::unused(),
        snapshots: crate::assets::snapshot::store::SnapshotStore::unused(),
    };
    let all = async {
        // What cannot be taken now (a process that does not end, a daemon that starts again) can be a moment later.
        while !reap::one(&deps, journal).await {
            clock::sleep(AGAIN).await;
        }
    };
    let _ = clock::within(LIMIT, all).await;
    if lock != Path::new("-") {
        lock::release_by_fd(lock, base, &rustix::stdio::stdout());
    }
    admission::sweep(base);
    Ok(())
}
