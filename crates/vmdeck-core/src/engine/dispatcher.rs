//! The one owner of a run's state: takes in what the parts report, signals and commands; numbers events and sends them
//! out.
//!
//! One `select!`, no shared state: what is counted here is what every reader counts.

use super::{
    EngineDeps, cases,
    controls::RunControls,
    events::EventSender,
    run::{Run, Work},
};
use crate::{
    backend,
    host::{clock, info},
};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicUsize},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    command::Command,
    error::{Blame, Fault},
    event::{CaseCause, Event, EventKind, PlannedGuest},
    exit::RunExit,
    guest::Guest,
    ids::{CaseId, GuestId, SuiteId},
    job::Job,
    outcome::{CancelReason, Signal, Verdict},
    plan::{Keep, Plan},
    run_state,
    run_view::RunView,
};

struct Dispatcher {
    plan: Arc<Plan>,
    seq: u64,
    out: mpsc::UnboundedSender<Event>,
    view: RunView,
    events: EventSender,
    cancel: CancellationToken,
    controls: Arc<RunControls>,
    signals: u32,
}

/// Where the events go.
pub(super) struct EventOutput {
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// The output lines that are on their way to the reader.
    pub(super) queued: Arc<AtomicUsize>,
}

/// Runs a plan to its end; returns the exit code after the last event was sent.
pub(super) async fn run(
    plan: Plan,
    deps: EngineDeps,
    work: Work,
    mut commands: mpsc::Receiver<Command>,
    output: EventOutput,
) -> RunExit {
    let (events, mut inbox) = EventSender::new(output.queued);
    let (cancel_requests, mut requested) = mpsc::unbounded_channel();
    let plan = Arc::new(plan);
    let cancel = CancellationToken::new();
    // Also of the further machines of a guest that has several at once.
    let machines: Vec<Vec<Guest>> = plan.jobs.iter().map(|job| machines_of(&plan, job)).collect();
    let jobs = machines.iter().map(|guests| guests.iter().map(|guest| &guest.id));
    let controls = Arc::new(RunControls::new(jobs, &cancel, plan.options.keep == Keep::Failed));
    let mut this = Dispatcher {
        plan: Arc::clone(&plan),
        seq: 0,
        out: output.events,
        view: RunView::default(),
        events: events.clone(),
        cancel,
        controls: Arc::clone(&controls),
        signals: 0,
    };
    this.started();
    let mut signals = deps.signals;
    let run = Run {
        plan,
        events,
        backend: deps.backend,
        binary: deps.binary,
        meter: deps.meter,
        cancel: this.cancel.clone(),
        cancel_requests,
        controls,
    };
    let mut running = tokio::spawn(run.carry_out(work));
    let result = loop {
        tokio::select! {
            Some(kind) = inbox.recv() => this.send(kind),
            Some(reason) = requested.recv() => this.cancel(reason),
            Some(command) = commands.recv() => this.command(command),
            signal = next(&mut signals) => if this.signal(signal) { break None },
            done = &mut running => break Some(done),
        }
    };
    while let Ok(kind) = inbox.try_recv() {
        this.send(kind);
    }
    while let Ok(reason) = requested.try_recv() {
        this.cancel(reason);
    }
    match result {
        Some(Ok(Ok(()))) => this.ended(None),
        Some(Ok(Err(fault))) => this.ended(Some(&fault)),
        Some(Err(panic)) => this.ended(Some(&Fault::bug("cannot go on").because(panic))),
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
    fn send(&mut self, kind: EventKind) {
        self.seq += 1;
        let event = Event { seq: self.seq, at: clock::utc(), elapsed_ms: self.events.elapsed_ms(), origin: None, kind };
        self.view.apply(&event);
        // A reader that is gone does not stop the run: the machines must still be taken down.
        let _ = self.out.send(event);
    }

    fn started(&mut self) {
        let planned = |job: &Job, guest: &Guest| PlannedGuest {
            guest: guest.id.clone(),
            backend: guest.backend.clone(),
            os: guest.os.to_string(),
            isolated: backend::capabilities_of(&guest.backend).isolated,
            cases: job.cases_in(&guest.id).count() * self.plan.options.repeat as usize,
            names: job.cases_in(&guest.id).map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect(),
            one_more_of: guest.one_more_of.clone(),
        };
        let of_guest = |job: &Job, guest: &Guest| match guest.one_more_of {
            Some(_) => PlannedGuest { cases: 0, names: Vec::new(), ..planned(job, guest) },
            None => planned(job, guest),
        };
        let of_job =
            |job: &Job| machines_of(&self.plan, job).iter().map(|guest| of_guest(job, guest)).collect::<Vec<_>>();
        let guests = self.plan.jobs.iter().flat_map(of_job).collect();
        let kind = EventKind::RunStarted {
            run: self.plan.run.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            host: info::host_name(),
            dir: self.plan.dir.display().to_string(),
            selection: self.plan.selection.clone(),
            config: self.plan.config.as_ref().map(|path| path.display().to_string()),
            guests,
            cases: self.plan.case_count(),
            part: self.plan.part.clone(),
            origins: Vec::new(),
        };
        self.send(kind);
    }

    fn cancel(&mut self, reason: CancelReason) {
        self.cancel.cancel();
        // A weaker reason after a stronger one says nothing new.
        if self.view.cancelled.is_none_or(|now| reason > now && reason != CancelReason::Again) {
            self.send(EventKind::CancelBegan { reason });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Cancel { reason } => self.cancel(reason),
            command => {
                if let Err(text) = self.controls.apply(&command) {
                    self.send(EventKind::Warning { guest: None, text, hint: None });
                }
            }
        }
    }

    /// Returns whether the run is to be left at once.
    fn signal(&mut self, signal: Signal) -> bool {
        self.signals += 1;
        if signal == Signal::Quit {
            let text = run_state::lines(&self.view, self.events.elapsed_ms()).join("\n");
            self.send(EventKind::Warning { guest: None, text, hint: None });
        }
        self.cancel(match signal {
            Signal::Interrupt => CancelReason::Interrupt,
            Signal::Quit => CancelReason::Quit,
            Signal::Terminate => CancelReason::Terminate,
            Signal::Hangup => CancelReason::Hangup,
        });
        if self.signals == 2 {
            let text = "a second signal: still cleaning up; a third leaves that to the guardian".into();
            self.send(EventKind::Warning { guest: None, text, hint: None });
        }
        self.signals >= 3
    }

    /// Gives every planned case that has no verdict one: a report that lists none would read as a clean run.
    fn report_unended(&mut self, fault: Option<&Fault>) {
        let cancelled = fault.is_none_or(|fault| fault.blame() == Blame::Cancelled);
        let (verdict, message) = match fault {
            Some(fault) if !cancelled => (Verdict::Infra, fault.to_string()),
            _ => (Verdict::Cancelled, "the run was cancelled".to_owned()),
        };
        let name = |guest: &GuestId, suite: &SuiteId, case: &CaseId, round: u32| {
            (guest.clone(), suite.clone(), case.clone(), round)
        };
        let ended: HashSet<_> =
            self.view.cases.iter().map(|case| name(&case.guest, &case.suite, &case.case, case.round)).collect();
        let plan = Arc::clone(&self.plan);
        let rounds = 1..=plan.options.repeat;
        let planned = rounds.flat_map(|round| plan.jobs.iter().map(move |job| (round, job)));
        for (round, job) in planned {
            for (guest, suite, case) in job.cases() {
                let key = name(&guest.id, &suite.id, &case.id, round);
                let found = self.view.found.of(&key).map_or_else(|| vec![case.id.clone()], <[CaseId]>::to_vec);
                for case in found {
                    if ended.contains(&name(&guest.id, &suite.id, &case, round)) {
                        continue;
                    }
                    let name = name(&guest.id, &suite.id, &case, round);
                    self.send(EventKind::case_not_run(name, verdict, message.clone(), CaseCause::NotBegun));
                }
            }
        }
    }

    fn ended(mut self, fault: Option<&Fault>) -> RunExit {
        self.report_unended(fault);
        let leftover = self.view.left().next().is_some();
        let of_run = RunExit::of_run(&self.view.tally, self.events.has_infra(), leftover, self.view.cancelled);
        let exit = match fault {
            _ if self.events.has_bug() => RunExit::Bug,
            None => of_run,
            Some(fault) if fault.blame() == Blame::Cancelled => match of_run {
                RunExit::Passed => RunExit::Interrupted,
                other => other,
            },
            Some(fault) => RunExit::of_blame(fault.blame()),
        };
        let kind = EventKind::RunEnded {
            tally: self.view.tally,
            exit,
            took_ms: self.events.elapsed_ms(),
            skipped_output: self.events.skipped(),
            error: fault.filter(|f| f.blame() != Blame::Cancelled).map(ToString::to_string),
            hint: fault.and_then(|f| f.remedy().map(str::to_owned)),
        };
        self.send(kind);
        exit
    }
}

/// Returns the guests of a job, and the further machines of one that has several at once.
fn machines_of(plan: &Plan, job: &Job) -> Vec<Guest> {
    let further = cases::machines_at_once(plan, job).0.into_iter().filter(|guest| guest.one_more_of.is_some());
    job.guests().cloned().chain(further).collect()
}
