//! The signals that end a run, as a stream.
//!
//! Once asked for, the default action of these signals never returns, so somebody must listen until the process ends.

use std::time::Duration;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use vmdeck_model::outcome::Signal;

/// How long a stop may take to come: it is another thread's signal.
const STOP: Duration = Duration::from_millis(500);

/// Stops this process and its group, as Ctrl-Z does; returns when the shell continues it.
pub async fn stop_ourselves() {
    // The call returns before the stop has come: only being continued shows that it has been there.
    let continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()));
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
    if let Ok(mut continued) = continued {
        // A group that cannot be stopped, as in a container's first process, simply goes on.
        let _ = super::clock::within(STOP, continued.recv()).await;
    }
}

/// Listens for all of them until the receiver is dropped; must be called within a runtime.
pub fn listen() -> std::io::Result<mpsc::UnboundedReceiver<Signal>> {
    let (send, receive) = mpsc::unbounded_channel();
    for (kind, what) in [
        (SignalKind::interrupt(), Signal::Interrupt),
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::hangup(), Signal::Hangup),
        (SignalKind::quit(), Signal::Quit),
    ] {
        let mut stream = signal(kind)?;
        let send = send.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                // Nobody listens any more while the process ends; the signal is still swallowed.
                let _ = send.send(what);
            }
        });
    }
    Ok(receive)
}
