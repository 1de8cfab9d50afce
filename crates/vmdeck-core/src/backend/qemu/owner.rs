//! The owner of a machine's process: the one task that waits for its end, ends it, or lets it live on.

use crate::host::{clock, pids, process::Child};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a process that is no child of ours may take to end.
const QUIT: Duration = Duration::from_secs(3);

/// What the owner of the process is asked.
pub(super) enum Ask {
    /// Kill the process and reap it; the answer is sent when this is done.
    Kill(oneshot::Sender<()>),
    /// Let the process live on without us.
    Leave,
}

/// The process of a machine.
pub(super) struct RunningProcess {
    pub(super) pid: u32,
    pub(super) started: Option<u64>,
    /// Asks the owner of the process.
    pub(super) kill: mpsc::Sender<Ask>,
    /// Set when the process was reaped.
    pub(super) collected: watch::Receiver<bool>,
}

/// Owns the process: reaps it when it ends, kills its group when asked or when the machine is dropped.
pub(super) async fn own(mut child: Child, mut asks: mpsc::Receiver<Ask>, collected: watch::Sender<bool>) {
    let asked = tokio::select! {
        _ = child.wait() => None,
        asked = asks.recv() => Some(asked),
    };
    match asked {
        Some(Some(Ask::Leave)) => return,
        Some(Some(Ask::Kill(reply))) => {
            let _ = child.kill_group().await;
            collected.send_replace(true);
            let _ = reply.send(());
        }
        Some(None) => drop(child.kill_group().await),
        None => {}
    }
    collected.send_replace(true);
}

/// Owns the process of a machine that was kept, which is no child of ours: it is killed when asked, and lives on when the machine is
/// dropped.
pub(super) async fn own_other(
    pid: u32,
    started: u64,
    uuid: String,
    mut asks: mpsc::Receiver<Ask>,
    collected: watch::Sender<bool>,
) {
    let asked = tokio::select! {
        () = pids::until_gone(pid, started) => None,
        asked = asks.recv() => asked,
    };
    match asked {
        Some(Ask::Kill(reply)) => {
            let _ = pids::kill_exactly(pid, |process| process.has_arg(&uuid), QUIT).await;
            collected.send_replace(true);
            let _ = reply.send(());
        }
        Some(Ask::Leave) => {}
        None => drop(collected.send_replace(true)),
    }
}

pub(super) async fn kill_and_wait(kill: &mpsc::Sender<Ask>) {
    let (reply, done) = oneshot::channel();
    // A closed channel means that the process was reaped already.
    if kill.send(Ask::Kill(reply)).await.is_ok() {
        let _ = clock::within(Duration::from_secs(10), done).await;
    }
}
