//! The one owner of a run's state: takes in what workers tell, signals and commands; numbers events and sends them out.
//!
//! One `select!`, no shared state: what is counted here is what every reader counts.

use super::{Deps, conductor, emit::Emit, steer::Steering};
use crate::{
    backend::find,
    host::{clock, info},
};
use std::sync::{Arc, atomic::AtomicUsize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    command::Command,
    event::{Event, EventKind, PlannedGuest},
    exit::Exit,
    outcome::{CancelReason, Signal},
    plan::{Keep, Plan},
    run_view::RunView,
};

struct Dispatcher {
    plan: Arc<Plan>,
    seq: u64,
    out: mpsc::UnboundedSender<Event>,
    view: RunView,
    emit: Emit,
    cancel: CancellationToken,
    steering: Arc<Steering>,
    signals: u32,
}

/// Runs a plan to its end; returns the exit code after the last event was sent.
pub(super) async fn run(
    plan: Plan,
    deps: Deps,
    mut commands: mpsc::Receiver<Command>,
    out: mpsc::UnboundedSender<Event>,
    queued: Arc<AtomicUsize>,
) -> Exit {
    let (emit, mut inbox) = Emit::new(queued);
    let (asks, mut asked) = mpsc::unbounded_channel();
    let plan = Arc::new(plan);
    let cancel = CancellationToken::new();
    let guests = plan.jobs.iter().map(|job| &job.guest.id);
    let steering = Arc::new(Steering::new(guests, &cancel, plan.options.keep == Keep::Failed));
    let mut this = Dispatcher {
        plan: Arc::clone(&plan),
        seq: 0,
        out,
        view: RunView::default(),
        emit: emit.clone(),
        cancel,
        steering: Arc::clone(&steering),
        signals: 0,
    };
    this.began();
    let mut signals = deps.signals;
    let brief = conductor::Brief {
        plan,
        emit,
        backend: deps.backend,
        binary: deps.binary,
        cancel: this.cancel.clone(),
        asks,
        steering,
        shell: deps.shell,
    };
    let mut conductor = tokio::spawn(conductor::run(brief));
    let result = loop {
        tokio::select! {
            Some(kind) = inbox.recv() => this.fact(kind),
            Some(reason) = asked.recv() => this.cancel(reason),
            Some(command) = commands.recv() => this.command(command),
            signal = next(&mut signals) => if this.signal(signal) { break None },
            done = &mut conductor => break Some(done),
        }
    };
    while let Ok(kind) = inbox.try_recv() {
        this.fact(kind);
    }
    while let Ok(reason) = asked.try_recv() {
        this.cancel(reason);
    }
    match result {
        Some(Ok(Ok(()))) => this.ended(None),
        Some(Ok(Err(fault))) => this.ended(Some(&fault)),
        Some(Err(panic)) => this.ended(Some(&vmdeck_model::error::Fault::bug("cannot go on").because(panic))),
        // A third signal: the guardian, or the next start, finishes.
        None => this.ended(None),
    }
}

async fn next(signals: &mut Option<mpsc::UnboundedReceiver<Signal>>) -> Signal {
    match signals {
        Some(stream) => match stream.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Dispatcher {
    fn fact(&mut self, kind: EventKind) {
        self.seq += 1;
        let event = Event { seq: self.seq, at: clock::utc(), elapsed_ms: self.emit.elapsed_ms(), kind };
        self.view.apply(&event);
        // A reader that is gone does not stop the run: the machines must still be taken down.
        let _ = self.out.send(event);
    }

    fn began(&mut self) {
        let guests = self.plan.jobs.iter().map(|job| PlannedGuest {
            guest: job.guest.id.clone(),
            backend: job.guest.backend.clone(),
            os: job.guest.os.to_string(),
            isolated: find(&job.guest.backend).is_ok_and(|row| row.caps.isolated),
            cases: job.cases().count() * self.plan.options.repeat as usize,
            names: job.cases().map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect(),
        });
        let kind = EventKind::RunStarted {
            run: self.plan.run.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            host: info::host_name(),
            dir: self.plan.dir.display().to_string(),
            selection: self.plan.selection.clone(),
            guests: guests.collect(),
            cases: self.plan.case_count(),
        };
        self.fact(kind);
    }

    fn cancel(&mut self, reason: CancelReason) {
        self.cancel.cancel();
        // A weaker reason after a stronger one says nothing new.
        if self.view.cancelled.is_none_or(|now| reason > now && reason != CancelReason::Again) {
            self.fact(EventKind::CancelBegan { reason });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Cancel { reason } => self.cancel(reason),
            command => {
                if let Err(text) = self.steering.obey(&command) {
                    self.fact(EventKind::Warning { guest: None, text, hint: None });
                }
            }
        }
    }

    /// Returns whether the run is to be left at once.
    fn signal(&mut self, signal: Signal) -> bool {
        self.signals += 1;
        self.cancel(match signal {
            Signal::Interrupt | Signal::Quit => CancelReason::Interrupt,
            Signal::Terminate => CancelReason::Terminate,
            Signal::Hangup => CancelReason::Hangup,
        });
        if self.signals == 2 {
            let text = "a second signal: still cleaning up; a third leaves that to the guardian".into();
            self.fact(EventKind::Warning { guest: None, text, hint: None });
        }
        self.signals >= 3
    }

    fn ended(mut self, fault: Option<&vmdeck_model::error::Fault>) -> Exit {
        let leftover = self.view.left().next().is_some();
        let of_run = Exit::of_run(&self.view.tally, self.emit.has_infra(), leftover, self.view.cancelled);
        let exit = match fault {
            _ if self.emit.has_bug() => Exit::Bug,
            None => of_run,
            Some(fault) if fault.blame() == vmdeck_model::error::Blame::Cancelled => match of_run {
                Exit::Passed => Exit::Interrupted,
                other => other,
            },
            Some(fault) => Exit::of_blame(fault.blame()),
        };
        let kind = EventKind::RunEnded {
            tally: self.view.tally,
            exit,
            took_ms: self.emit.elapsed_ms(),
            skipped_output: self.emit.skipped(),
            error: fault.filter(|f| f.blame() != vmdeck_model::error::Blame::Cancelled).map(ToString::to_string),
            hint: fault.and_then(|f| f.remedy().map(str::to_owned)),
        };
        self.fact(kind);
        exit
    }
}
