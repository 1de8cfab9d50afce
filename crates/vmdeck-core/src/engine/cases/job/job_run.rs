//! One job from its first machine to the last proof, as a straight script with points at which it can be cancelled.
//!
//! A machine that is lost on the way is replaced for the cases that are left; the case that lost it is `infra`. Several that belong
//! together are not replaced: what the cases before have done in them cannot be made up for.

use crate::engine::cases::{
    background::Background,
    case::Outcome,
    case_run::CaseRun,
    floor, member_folders,
    members::{self, Member, NoMachines},
    peers::PeerWatch,
    suite::SuiteRun,
};
use crate::engine::{
    context::RunContext,
    controls::GuestEnd,
    machine::{self, LeasedMachine, Permits},
    phase_events::PhaseEvents,
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::sync::watch;
use vmdeck_model::{
    discover::Discovery,
    error::{Blame, Fault},
    event::Phase,
    guest::{Fresh, Guest},
    ids::{CaseId, GuestId},
    outcome::{CancelReason, Verdict},
    plan::{Keep, RunPurpose},
    suite::{Case, CaseAction, Suite, SuiteNetwork},
};

/// A suite in one of the rounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SuiteRound {
    pub(super) suite: usize,
    pub(super) round: u32,
}

/// A case that waits for its turn.
#[derive(Clone, Copy)]
pub(super) struct QueuedCase {
    pub(super) of: SuiteRound,
    pub(super) case: usize,
}

/// Why no more cases are run in a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing more is to be run in it: the queue is empty, a fresh machine is due, or somebody stopped the guest.
    Done,
    /// The machine was lost.
    Lost,
}

pub(super) struct JobRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) members: Vec<Member>,
    pub(super) network: SuiteNetwork,
    /// The suites; cases that are found in a guest are added to theirs.
    pub(super) suites: Vec<Suite>,
    pub(super) queue: VecDeque<QueuedCase>,
    /// Whether some case failed or was infra.
    pub(super) has_failed: bool,
    /// How the cases of the suites have ended that did not pass.
    pub(super) not_passed: BTreeMap<(SuiteRound, CaseId), Verdict>,
    /// The suite whose cases are being run.
    pub(super) current: Option<SuiteRound>,
    /// The cases that go on, each in one of the machines.
    pub(super) background: Vec<(QueuedCase, usize, Background)>,
    /// The suites after whose setup a machine was frozen.
    pub(super) frozen: BTreeSet<usize>,
    /// Told when the first machine is as far as that its case begins, where others wait for that.
    pub(super) is_ready: Option<watch::Sender<bool>>,
    pub(super) permits: Arc<Permits>,
}

impl<'a> JobRun<'a> {
    pub(super) fn new(
        context: &'a RunContext,
        members: Vec<Member>,
        suites: Vec<Suite>,
        permits: Arc<Permits>,
    ) -> Self {
        Self {
            context,
            members,
            network: SuiteNetwork::default(),
            suites,
            queue: VecDeque::new(),
            has_failed: false,
            not_passed: BTreeMap::new(),
            current: None,
            background: Vec::new(),
            frozen: BTreeSet::new(),
            is_ready: None,
            permits,
        }
    }
}

impl JobRun<'_> {
    /// Puts the cases in order; those that the config skips are reported at once and need no machine.
    pub(super) fn fill_queue(&mut self) {
        for round in 1..=self.context.plan.options.repeat {
            for suite in 0..self.suites.len() {
                for case in 0..self.suites[suite].cases.len() {
                    let queued = QueuedCase { of: SuiteRound { suite, round }, case };
                    if !self.skip(queued) {
                        self.queue.push_back(queued);
                    }
                }
            }
        }
    }

    /// Reports a case that is not to be run at all; returns whether it is one.
    fn skip(&mut self, queued: QueuedCase) -> bool {
        let Some(why) = self.case_of(queued).0.skip.clone() else { return false };
        self.note(queued, Verdict::Skipped);
        self.report_unrun(queued, Verdict::Skipped, &why);
        true
    }

    /// Returns a case with its suite.
    pub(super) fn case_of(&self, queued: QueuedCase) -> (&Case, &Suite) {
        let suite = &self.suites[queued.of.suite];
        (&suite.cases[queued.case], suite)
    }

    /// Notes that a case did not pass.
    pub(super) fn note(&mut self, queued: QueuedCase, verdict: Verdict) {
        let id = self.case_of(queued).0.id.clone();
        self.not_passed.insert((queued.of, id), verdict);
    }

    /// Returns why a case is not run: one that it needs did not pass.
    pub(super) fn lacks(&self, queued: QueuedCase) -> Option<String> {
        let (case, suite) = self.case_of(queued);
        let is_gone = |id: &CaseId| self.not_passed.contains_key(&(queued.of, id.clone()));
        let before = suite.cases[..queued.case].iter().filter(|before| before.background.is_some());
        if let Some(gone) = before.map(|before| &before.id).find(|id| is_gone(id)) {
            return Some(format!("`{gone}`, beside which it is run, is not there"));
        }
        let is_planned = |need: &CaseId| suite.cases.iter().any(|case| case.id == *need);
        if let Some(need) = case.needs.iter().find(|need| !is_planned(need)) {
            return Some(format!("it needs `{need}`, which is not meant for this guest"));
        }
        // What was found for a case counts for it.
        let is_of = |id: &CaseId, need: &CaseId| id == need || id.parent().is_some_and(|parent| parent == *need);
        let bad = |need: &CaseId| {
            let mut ended = self.not_passed.iter().filter(|((round, _), _)| *round == queued.of);
            ended.find(|((_, id), _)| is_of(id, need)).map(|((_, id), verdict)| (id.clone(), *verdict))
        };
        let (need, verdict) = case.needs.iter().find_map(bad)?;
        let became = match verdict {
            Verdict::Failed => "failed",
            Verdict::Skipped => "was skipped",
            Verdict::Cancelled => "was cancelled",
            Verdict::Infra | Verdict::Passed | Verdict::Flaky => "could not be judged",
        };
        Some(format!("it needs `{need}`, which {became}"))
    }

    pub(super) fn case_run<'m>(&'m self, queued: QueuedCase, member: &'m Member) -> CaseRun<'m> {
        let (case, suite) = self.case_of(queued);
        CaseRun {
            context: self.context,
            guest: &member.guest,
            told: &member.told,
            suite,
            case,
            round: queued.of.round,
            of_suite: member.folders.as_ref(),
            folders: None,
        }
    }

    /// Returns the case in each of its guests.
    pub(super) fn case_runs(&self, queued: QueuedCase) -> impl Iterator<Item = CaseRun<'_>> {
        let (case, _) = self.case_of(queued);
        self.members.iter().filter(|member| member.takes(case)).map(move |member| self.case_run(queued, member))
    }

    pub(super) fn suite_run<'m>(&'m self, round: SuiteRound, member: &'m Member) -> SuiteRun<'m> {
        let suite = &self.suites[round.suite];
        SuiteRun { context: self.context, guest: &member.guest, told: &member.told, suite }
    }

    /// Returns the names of the guests, for a person.
    fn names(&self) -> String {
        let names: Vec<&str> = self.members.iter().map(|member| member.guest.id.as_str()).collect();
        names.join(", ")
    }

    pub(super) fn report_unrun(&self, queued: QueuedCase, verdict: Verdict, message: &str) {
        self.case_runs(queued).for_each(|run| run.report_unrun(verdict, message));
    }

    /// Gives this verdict to every case that is left.
    pub(super) fn give_up(&mut self, verdict: Verdict, message: &str) {
        while let Some(queued) = self.queue.pop_front() {
            self.report_unrun(queued, verdict, message);
        }
    }

    pub(super) async fn run(&mut self) {
        let mut held = self.context.plan.options.purpose == RunPurpose::Cases;
        while !self.queue.is_empty() || !held {
            held = true;
            self.reacquire_permits().await;
            if self.context.is_stopped(&self.members[0].guest) {
                return self.give_up(Verdict::Cancelled, self.context.stop_reason());
            }
            self.context.set_lock_phase(&format!("booting {}", self.names()));
            match self.lease().await {
                Ok(machines) => self.use_machines(machines).await,
                Err(no) => return self.no_machines(&no),
            }
        }
    }

    /// Waits for the permits if they were given back, or for the guest's end.
    async fn reacquire_permits(&self) {
        match self.context.controls.of(&self.members[0].guest.id) {
            Some(control) => tokio::select! {
                _ = self.permits.reacquire() => {}
                () = control.stop.cancelled() => {}
            },
            None => drop(self.permits.reacquire().await),
        }
    }

    fn no_machines(&mut self, no: &NoMachines) {
        let NoMachines { guest, fault } = no;
        if fault.blame() == Blame::Cancelled {
            return self.give_up(Verdict::Cancelled, self.context.stop_reason());
        }
        let text = self.context.redactor.text(&fault.to_string());
        self.context.events.warn(Some(&guest.id), text.clone(), fault.remedy().map(str::to_owned));
        self.has_failed = true;
        if self.queue.is_empty() {
            // Without a case there is no verdict that would say it.
            self.context.events.infra();
        }
        // The warning above has the console's lines; once is enough.
        let short = text.lines().next().unwrap_or_default().trim_end_matches(": the console's last lines:");
        self.give_up(Verdict::Infra, short);
        self.fail_fast();
    }

    /// Returns the machines with the code in them; a stop ends their boot.
    async fn lease(&mut self) -> Result<Vec<LeasedMachine>, NoMachines> {
        let (context, network) = (self.context, self.network);
        let control = context.controls.of(&self.members[0].guest.id);
        let setup = match self.next_setup().await {
            Ok(setup) => setup,
            Err(fault) => return Err(NoMachines { guest: Arc::clone(&self.members[0].guest), fault }),
        };
        let lease = members::lease(context, &mut self.members, network, setup.as_ref(), &self.permits);
        let Some(control) = control else { return lease.await };
        tokio::pin!(lease);
        tokio::select! {
            machines = &mut lease => return machines,
            () = control.stop.cancelled() => control.cancel.cancel(),
        }
        lease.await
    }

    /// Runs cases until there are none left, a machine is lost, or fresh ones are due; then ends the lease.
    async fn use_machines(&mut self, mut machines: Vec<LeasedMachine>) {
        let context = self.context;
        let had_failed = self.has_failed;
        context.set_lock_phase(&format!("testing in {}", self.names()));
        let guests: Vec<GuestId> = self.members.iter().map(|member| member.machine.id.clone()).collect();
        let begin = |id| PhaseEvents::begin(&context.events, id, Phase::Tests, None);
        let phases: Vec<PhaseEvents> = guests.iter().map(begin).collect();
        let lost = self.run_queue(&mut machines).await == Stop::Lost;
        self.leave_background(&machines).await;
        self.leave_suite(&machines).await;
        for phase in phases {
            phase.end(!lost);
        }
        if lost && self.members.len() > 1 {
            // What the cases before have done in the others would be missing in new ones.
            let why = self.lost(&machines);
            self.give_up(Verdict::Infra, &why);
        }
        if !lost && context.plan.options.purpose == RunPurpose::Hold && self.queue.is_empty() {
            join_all(self.each(&mut machines).map(|(guest, machine)| machine::hold(context, guest, machine))).await;
        }
        let failed = self.has_failed != had_failed;
        if failed && !lost {
            join_all(self.members.iter().map(|member| machine::pause(context, &member.machine, &self.permits))).await;
        }
        let end = if failed { GuestEnd::Failed } else { GuestEnd::Well };
        let ends = self.members.iter().zip(machines).map(|(member, machine)| async move {
            let guest = &member.machine;
            // What a person kept stays kept.
            let options = &context.plan.options;
            let stays = machine.kept().is_some() || options.purpose == RunPurpose::Keep;
            let keep = context.controls.keeps(&guest.id, if stays { Keep::Always } else { options.keep }, end);
            if keep && !lost && !machine.is_lost() && !machine.is_frozen() {
                return machine::keep(context, guest, machine).await;
            }
            machine::take_down(context, guest, machine).await;
        });
        join_all(ends).await;
    }

    /// Returns each guest with its machine.
    fn each<'m>(
        &'m self,
        machines: &'m mut [LeasedMachine],
    ) -> impl Iterator<Item = (&'m Guest, &'m mut LeasedMachine)> {
        self.members.iter().map(|member| member.guest.as_ref()).zip(machines)
    }

    /// Returns which machine is lost, and why.
    pub(super) fn lost(&self, machines: &[LeasedMachine]) -> String {
        let lost = self.members.iter().zip(machines).find(|(_, machine)| machine.is_lost());
        let Some((member, machine)) = lost else { return "a guest of the suite was lost before".to_owned() };
        self.context.redactor.text(&format!("guest `{}` was lost before: {}", member.guest.id, why_lost(machine)))
    }

    /// Runs cases in these machines as long as they may be.
    async fn run_queue(&mut self, machines: &mut [LeasedMachine]) -> Stop {
        self.current = None;
        let mut ran = 0;
        while let Some(queued) = self.queue.front().copied() {
            if self.context.cancel.is_cancelled() {
                break;
            }
            if self.context.is_stopped(&self.members[0].guest) {
                break;
            }
            if ran > 0 && machines.iter().any(LeasedMachine::is_lost) {
                self.tell_replaced(machines);
                return Stop::Lost;
            }
            let next = self.case_of(queued).0;
            if ran > 0 && next.fresh && next.skip.is_none() && self.lacks(queued).is_none() {
                break;
            }
            if self.current != Some(queued.of) {
                if self.current.is_some() && self.wants_fresh(Fresh::Suite) {
                    break;
                }
                if let Some(before) = self.current {
                    self.finish_suite(before, machines).await;
                }
                self.current = Some(queued.of);
                if ran == 0 && self.is_prepared(queued.of, machines) {
                    self.begin_folders(queued.of, machines).await;
                } else if let Err(failure) = self.prepare_suite(queued.of, machines).await {
                    self.fail_suite(queued.of, &failure);
                    if machines.iter().any(LeasedMachine::is_lost) {
                        return Stop::Lost;
                    }
                    if self.wants_fresh(Fresh::Suite) || self.wants_fresh(Fresh::Case) {
                        // What the failed preparation left behind is not for the next one.
                        return Stop::Done;
                    }
                    self.current = None;
                    continue;
                } else if ran == 0 && self.freeze(queued.of, machines).await {
                    // Each case goes on from there, the first one, too.
                    self.current = None;
                    return Stop::Done;
                } else {
                    self.begin_folders(queued.of, machines).await;
                }
            }
            if let Some(ready) = self.is_ready.take() {
                ready.send_replace(true);
            }
            self.look_after_background().await;
            self.queue.pop_front();
            if self.skip(queued) {
                continue;
            }
            if let Some(why) = self.lacks(queued) {
                self.note(queued, Verdict::Skipped);
                self.report_unrun(queued, Verdict::Skipped, &why);
                continue;
            }
            if let CaseAction::Discover(discovery) = &self.case_of(queued).0.action {
                let discovery = discovery.clone();
                self.discover(queued, &discovery, machines).await;
                if machines.iter().any(LeasedMachine::is_lost) {
                    return Stop::Lost;
                }
                if self.wants_fresh(Fresh::Case) {
                    // What the listing has left is for none of them.
                    break;
                }
                continue;
            }
            if self.case_of(queued).0.background.is_some() {
                ran += 1;
                self.start_background(queued, machines).await;
                continue;
            }
            let (case, suite) = self.case_of(queued);
            let Some(floor) = floor::take(self.context, &self.members[0].guest.id, suite, case).await else {
                self.queue.push_front(queued);
                break;
            };
            ran += 1;
            let outcomes = self.run_case(queued, machines).await;
            drop(floor);
            let is_bad = |verdict: &Verdict| !matches!(verdict, Verdict::Passed | Verdict::Flaky);
            if let Some(verdict) = outcomes.iter().map(|outcome| outcome.verdict).find(is_bad) {
                self.note(queued, verdict);
            }
            if outcomes.iter().any(|outcome| outcome.is_red) {
                self.has_failed = true;
                self.fail_fast();
            }
            if outcomes.iter().any(|outcome| outcome.machine_lost) {
                return Stop::Lost;
            }
            if self.wants_fresh(Fresh::Case) {
                break;
            }
        }
        if !self.context.cancel.is_cancelled()
            && let Some(last) = self.current
        {
            self.finish_suite(last, machines).await;
        }
        Stop::Done
    }

    /// Puts the cases for which a case stands in its place; where they cannot be found, it has failed.
    async fn discover(&mut self, queued: QueuedCase, discovery: &Discovery, machines: &[LeasedMachine]) {
        let of_case = self.members.iter().zip(machines).find(|(member, _)| member.takes(self.case_of(queued).0));
        let Some((member, machine)) = of_case else { return };
        match self.case_run(queued, member).discover(machine, discovery).await {
            Ok(found) => {
                self.tell_missing(queued, &found);
                let suite = &self.suites[queued.of.suite];
                let of_found: Vec<&Case> = found.iter().collect();
                member_folders::add(self.context, suite, &mut self.members, machines, &of_found).await;
                let cases = &mut self.suites[queued.of.suite].cases;
                // In a further round they may be there already.
                let known: BTreeMap<CaseId, usize> =
                    cases.iter().enumerate().map(|(at, case)| (case.id.clone(), at)).collect();
                let mut places = Vec::new();
                for case in found {
                    let at = known.get(&case.id).copied().unwrap_or(cases.len());
                    if at == cases.len() {
                        cases.push(case);
                    } else {
                        cases[at] = case;
                    }
                    places.push(QueuedCase { of: queued.of, case: at });
                }
                for queued in places.into_iter().rev() {
                    self.queue.push_front(queued);
                }
            }
            Err(failure) => {
                self.case_runs(queued).for_each(|run| run.report_not_found(&failure));
                self.note(queued, failure.verdict);
                if failure.verdict.is_failure() {
                    self.has_failed = true;
                    self.fail_fast();
                }
            }
        }
    }

    /// Tells of the cases that an earlier round has found and this one has not.
    fn tell_missing(&self, queued: QueuedCase, found: &[Case]) {
        let (case, suite) = self.case_of(queued);
        let is_gone =
            |other: &&Case| other.id.parent().as_ref() == Some(&case.id) && !found.iter().any(|now| now.id == other.id);
        let gone: Vec<&str> = suite.cases.iter().filter(is_gone).map(|other| other.id.as_str()).collect();
        if !gone.is_empty() {
            let text =
                format!("`{}/{}`: found in an earlier round, and not now: {}", suite.id, case.id, gone.join(", "));
            self.context.events.warn(Some(&self.members[0].guest.id), text, None);
        }
    }

    /// Returns whether one of the guests is to be fresh so often.
    pub(super) fn wants_fresh(&self, often: Fresh) -> bool {
        self.members.iter().any(|member| member.guest.fresh == often)
    }

    /// Says that a machine went with the case that is judged already: the next one has no part in that.
    fn tell_replaced(&self, machines: &[LeasedMachine]) {
        let ([member], [machine]) = (&self.members[..], machines) else { return };
        let text = format!("guest `{}` is replaced before the next case: {}", member.guest.id, why_lost(machine));
        self.context.events.warn(Some(&member.guest.id), self.context.redactor.text(&text), None);
    }

    /// Runs a case in every guest that takes it, at once, while the others are watched.
    async fn run_case(&self, queued: QueuedCase, machines: &mut [LeasedMachine]) -> Vec<Outcome> {
        let (case, _) = self.case_of(queued);
        let watch = |(member, machine): (&Member, &LeasedMachine)| {
            let may_restart = member.takes(case) && case.may_restart();
            PeerWatch::of(&member.guest, machine, may_restart)
        };
        let watches: Vec<PeerWatch> = self.members.iter().zip(&*machines).map(watch).collect();
        let takes = |(_, (member, _)): &(usize, (&Member, &mut LeasedMachine))| member.takes(case);
        let runs = self.members.iter().zip(&mut *machines).enumerate().filter(takes).map(|(own, (member, machine))| {
            let others = watches.iter().enumerate().filter(|(index, _)| *index != own);
            let peers: Vec<PeerWatch> = others.map(|(_, watch)| watch.clone()).collect();
            async move { self.case_run(queued, member).run(machine, &peers).await }
        });
        let outcomes = join_all(runs).await;
        if outcomes.iter().any(|outcome| outcome.verdict == Verdict::Infra || outcome.machine_lost) {
            self.diagnose_others(case, machines).await;
        }
        outcomes
    }

    /// Writes down what is known of the machines that only stood by: the cause may be there.
    async fn diagnose_others(&self, case: &Case, machines: &[LeasedMachine]) {
        for (member, machine) in self.members.iter().zip(machines).filter(|(member, _)| !member.takes(case)) {
            let guest = &member.guest;
            machine::save_memory(self.context, guest, machine).await;
            let fault = Fault::infra(format!("guest `{}` took part while case `{}` ended badly", guest.id, case.id));
            let fault = machine.crash().unwrap_or(fault);
            machine::diagnose(self.context, guest, &machine.controller, &fault).await;
        }
    }

    pub(super) fn fail_fast(&self) {
        if self.context.plan.options.fail_fast {
            // At once, so that no further case begins before the dispatcher has heard of it.
            self.context.cancel_run(CancelReason::FailFast);
        }
    }
}

/// Returns what became of a machine that is lost.
fn why_lost(machine: &LeasedMachine) -> String {
    machine.crash().map_or_else(|| "it has ended".to_owned(), |crash| crash.to_string())
}
