//! Carries out a plan: lock, preflight, reap, boot, test, clean up. Commands go in, events come out.
//!
//! It knows no screen, reads no keyboard and prints nothing; it sees a finished [`Plan`], never a config file.

pub mod boot;
mod bootprint;
mod cases;
pub mod cleanup;
mod conductor;
pub mod controller;
mod dispatcher;
pub mod emit;
pub mod guardian;
mod history;
pub mod inventory;
pub mod journal;
mod launch;
mod link;
pub mod lock;
mod logs;
mod phases;
pub mod preflight;
pub mod reap;
mod retry;
pub mod shell;
mod stamps;
mod steer;
mod worker;

use crate::backend;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use vmdeck_model::{command::Command, event::Event, exit::Exit, outcome::Signal, plan::Plan};

/// What the engine is built with.
pub struct Deps {
    /// For the backends.
    pub backend: backend::Deps,
    /// The vmdeck binary: it is started again as the guardian. None = no guardian.
    pub binary: Option<PathBuf>,
    /// Signals that end the run; none in tests.
    pub signals: Option<mpsc::UnboundedReceiver<Signal>>,
    /// Instead of the cases: one request in the plan's only guest.
    pub shell: Option<shell::Request>,
}

/// A run that is going on.
pub struct Handle {
    /// What may be asked of it.
    pub commands: mpsc::Sender<Command>,
    /// What happens.
    pub events: Events,
    /// Its end.
    pub done: JoinHandle<Exit>,
}

/// The stream of events. A slow reader never holds the engine up: it misses `output` lines, which the logs have.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
    queued: Arc<AtomicUsize>,
}

impl Events {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        if matches!(event.kind, vmdeck_model::event::EventKind::Output { .. }) {
            self.queued.fetch_sub(1, Ordering::Relaxed);
        }
        Some(event)
    }
}

/// Starts a run; must be called within a runtime.
pub fn start(plan: Plan, deps: Deps) -> Handle {
    let (commands, asked) = mpsc::channel(16);
    let (sender, receiver) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let events = Events { receiver, queued: Arc::clone(&queued) };
    let done = tokio::spawn(dispatcher::run(plan, deps, asked, sender, queued));
    Handle { commands, events, done }
}
