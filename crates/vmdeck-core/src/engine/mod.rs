//! Carries out a plan: lock, preflight, reap, boot, test, clean up. Commands go in, events come out.
//!
//! It knows no screen, reads no keyboard and prints nothing; it sees a finished [`Plan`], never a config file.

pub mod admission;
mod cases;
pub mod cleanup;
mod context;
mod controls;
mod deps;
mod dispatcher;
pub mod events;
pub mod guardian;
pub mod inventory;
pub mod journal;
mod kernel_reach;
pub mod lock;
pub mod machine;
mod phase_events;
pub mod preflight;
mod reach;
pub mod reap;
mod revision;
mod run;
#[cfg(test)]
mod sample;
pub mod shell;
pub mod stand_in;
mod suspend;
mod timestamps;

pub use deps::EngineDeps;

use run::Work;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{sync::mpsc, task::JoinHandle};
use vmdeck_model::{command::Command, event::Event, exit::RunExit, plan::Plan};

/// A run that is in progress.
pub struct Handle {
    /// Takes commands for the run.
    pub commands: mpsc::Sender<Command>,
    /// The events of the run.
    pub events: Events,
    /// Ends with the run, and holds its exit code.
    pub done: JoinHandle<RunExit>,
}

/// The stream of events. A slow reader never holds the engine up: it misses `output` lines, which the logs have.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
    queued: Arc<AtomicUsize>,
}

impl Events {
    /// Returns the next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        if matches!(event.kind, vmdeck_model::event::EventKind::Output { .. }) {
            self.queued.fetch_sub(1, Ordering::Relaxed);
        }
        Some(event)
    }
}

/// Starts a run of the plan's cases; must be called within a runtime.
pub fn start(plan: Plan, deps: EngineDeps) -> Handle {
    begin(plan, deps, Work::Cases)
}

/// Starts the plan's only guest for one request instead of cases; must be called within a runtime.
pub fn start_shell(plan: Plan, deps: EngineDeps, request: shell::ShellRequest) -> Handle {
    begin(plan, deps, Work::Shell(request))
}

fn begin(plan: Plan, deps: EngineDeps, work: Work) -> Handle {
    let (commands, asked) = mpsc::channel(16);
    let (sender, receiver) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let events = Events { receiver, queued: Arc::clone(&queued) };
    let output = dispatcher::EventOutput { events: sender, queued };
    let done = tokio::spawn(dispatcher::run(plan, deps, work, asked, output));
    Handle { commands, events, done }
}
