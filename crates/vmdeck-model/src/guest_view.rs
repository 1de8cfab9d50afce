//! The state of a guest in a run, and of what is run in it: a part of the fold of `run_view`.

use super::{
    event::{Phase, PlannedGuest},
    ids::{CaseId, GuestId, SuiteId, short_run},
    lifecycle::MachineState,
    outcome::Tally,
    subtest::{Subtest, SubtestProgress, SubtestTally},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Most sub-tests of a case that are kept one by one, besides those that failed.
const SUBTESTS: usize = 10_000;
/// Most that failed.
const FAILURES: usize = 10_000;

/// The tests that one attempt at a case ran itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubtestsView {
    /// The counts; those of the tool itself once it has ended, before that those that it has told.
    pub tally: SubtestTally,
    /// The tests, in their order; not every one of very many.
    pub list: Vec<Subtest>,
    /// How many of the list failed.
    failures: usize,
    /// The names of those that failed in an earlier attempt.
    failed_before: BTreeSet<String>,
}

impl SubtestsView {
    /// Returns those that failed, in their order.
    pub fn failed(&self) -> impl Iterator<Item = &Subtest> {
        self.list.iter().filter(|subtest| subtest.status.is_failure())
    }

    pub(super) fn take(&mut self, subtest: &Subtest) {
        let is_failure = subtest.status.is_failure();
        let room = if is_failure { self.failures < FAILURES } else { self.list.len() - self.failures < SUBTESTS };
        if room {
            self.failures += usize::from(is_failure);
            let flaky = subtest.flaky || (!is_failure && self.failed_before.contains(&subtest.name));
            self.list.push(Subtest { flaky, ..subtest.clone() });
        }
    }

    /// Begins the next attempt: the whole case, or only those that failed.
    pub(super) fn begin_again(&mut self, only_failed: bool) {
        let mut failed_before = std::mem::take(&mut self.failed_before);
        failed_before.extend(self.failed().map(|subtest| subtest.name.clone()));
        let mut list = std::mem::take(&mut self.list);
        list.retain(|subtest| only_failed && !subtest.status.is_failure());
        *self = Self { list, failed_before, ..Self::default() };
    }

    pub(super) fn end(mut self, tally: SubtestTally) -> Self {
        let flaky = self.list.iter().filter(|subtest| subtest.flaky).count();
        let flaky = tally.flaky.max(u32::try_from(flaky).unwrap_or(u32::MAX));
        self.tally = SubtestTally { flaky, ..tally };
        self
    }
}

/// A phase that has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenPhase {
    /// The phase.
    pub phase: Phase,
    /// When the phase began, in milliseconds of the run.
    pub since_ms: u64,
    /// How long the phase took in earlier boots, in milliseconds.
    pub usual_ms: Option<u64>,
    /// How long the boot took after this phase in earlier boots, in milliseconds.
    pub rest_ms: Option<u64>,
    /// The longest time without a console line in this phase in earlier boots, in milliseconds.
    pub quiet_ms: Option<u64>,
}

/// The outcome of one way to find an address.
#[derive(Clone, Debug, PartialEq)]
pub struct SoughtView {
    /// The name of the way.
    pub way: String,
    /// The address that was found.
    pub address: Option<String>,
    /// Why the way did not lead to the guest; empty = it did.
    pub why: String,
}

/// The reuse of a machine that an earlier run kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReusedView {
    /// The machine.
    pub machine: String,
    /// The run that kept the machine.
    pub run: String,
    /// How many runs have used it since it was made.
    pub times: u32,
}

impl ReusedView {
    /// Returns the first eight digits of that run's id.
    pub fn short_run(&self) -> &str {
        short_run(&self.run)
    }
}

impl fmt::Display for ReusedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reused ×{}", self.times)
    }
}

/// The state of a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestView {
    /// The backend of the guest.
    pub backend: String,
    /// The operating system of the guest.
    pub os: String,
    /// The name of the guest's machine, once there was one.
    pub machine: Option<String>,
    /// The member of a cluster that the machine is on, or was.
    pub placed: Option<String>,
    /// The transport by which the guest was reached, and its address if there is one.
    pub reached: Option<(String, Option<String>)>,
    /// How the guest's address was looked up: the last outcome of each way.
    pub sought: Vec<SoughtView>,
    /// When the guest last wrote to its console, in milliseconds of the run.
    pub heard_ms: Option<u64>,
    /// When the guest's machine was powered on, in milliseconds of the run.
    pub powered_ms: Option<u64>,
    /// Whether the guest is isolated from this host.
    pub isolated: bool,
    /// The machine's state.
    pub state: MachineState,
    /// The phases that have not ended, oldest first.
    pub open: Vec<OpenPhase>,
    /// The phases that have ended with their milliseconds, in order.
    pub done: Vec<(Phase, u64)>,
    /// How long each phase usually takes, where that is known, in milliseconds.
    pub usual: BTreeMap<Phase, u64>,
    /// The reuse of a machine that an earlier run kept, if the guest got one.
    pub reused: Option<ReusedView>,
    /// Whether the guest's last boot failed.
    pub boot_failed: bool,
    /// The case that is running.
    pub case: Option<(SuiteId, CaseId)>,
    /// The cases that go on beside it, and when they began, in milliseconds of the run.
    pub background: Vec<((SuiteId, CaseId), u64)>,
    /// The question that the running case is, while it waits for an answer.
    pub question: Option<String>,
    /// When the running case began, in milliseconds of the run.
    pub case_since_ms: u64,
    /// How far the tests are that the running case runs itself, as far as it tells.
    pub progress: Option<SubtestProgress>,
    /// Those of them that have ended.
    pub subtests: SubtestsView,
    /// The time from which the next case to end is measured, in milliseconds of the run.
    pub busy_since_ms: Option<u64>,
    /// The verdicts so far.
    pub tally: Tally,
    /// How many cases are planned.
    pub planned: usize,
    /// The names of the planned cases, `suite/case`.
    pub names: Vec<String>,
    /// The guest of which this is a further machine, under whose name its cases are told.
    pub one_more_of: Option<GuestId>,
    /// What of the guest could not be proven gone.
    pub left: Vec<String>,
    /// What was proven gone, and how.
    pub proofs: Vec<String>,
    /// Whether the guest was kept on purpose.
    pub kept: bool,
}

/// The place of each planned case of a guest in its order.
pub struct CasePlaces<'a>(BTreeMap<&'a str, usize>);

impl CasePlaces<'_> {
    /// Returns the place of a case, `suite/case`; what is not planned comes last.
    pub fn of(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(usize::MAX)
    }
}

impl GuestView {
    /// Returns the place of each planned case.
    pub fn places(&self) -> CasePlaces<'_> {
        CasePlaces(self.names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect())
    }

    /// Puts the cases that were found behind a name, or in its place; those that are there already stay alone.
    pub(super) fn put_found(&mut self, name: &str, stays: bool, found: impl Iterator<Item = String>) {
        let Some(at) = self.names.iter().position(|own| own == name) else { return };
        let known: BTreeSet<String> = self.names.iter().cloned().collect();
        let new: Vec<String> = found.filter(|name| !known.contains(name)).collect();
        self.names.splice(at + usize::from(stays)..=at, new);
    }

    pub(super) fn new(planned: &PlannedGuest) -> Self {
        Self {
            backend: planned.backend.clone(),
            os: planned.os.clone(),
            machine: None,
            placed: None,
            reached: None,
            sought: Vec::new(),
            heard_ms: None,
            powered_ms: None,
            isolated: planned.isolated,
            state: MachineState::NotCreated,
            open: Vec::new(),
            done: Vec::new(),
            usual: BTreeMap::new(),
            reused: None,
            boot_failed: false,
            case: None,
            background: Vec::new(),
            question: None,
            case_since_ms: 0,
            progress: None,
            subtests: SubtestsView::default(),
            busy_since_ms: None,
            tally: Tally::default(),
            planned: planned.cases,
            names: planned.names.clone(),
            one_more_of: planned.one_more_of.clone(),
            left: Vec::new(),
            proofs: Vec::new(),
            kept: false,
        }
    }

    /// Returns whether its machine goes on from a snapshot.
    fn is_restored(&self) -> bool {
        self.done.iter().any(|(phase, _)| *phase == Phase::Restore)
    }

    /// Returns how its machine came up, as the middle of a sentence.
    pub fn came_up(&self) -> &'static str {
        if self.is_restored() { "goes on from its snapshot" } else { "is ready" }
    }

    /// Returns the same in one word.
    pub fn came_up_short(&self) -> &'static str {
        if self.is_restored() { "restored" } else { "booted" }
    }

    /// Returns the milliseconds from power-on to the first command, once the guest has booted.
    pub fn boot_ms(&self) -> Option<u64> {
        let booted = self.done.iter().any(|(p, _)| *p == Phase::FirstCommand);
        booted.then(|| self.done.iter().filter(|(p, _)| p.is_boot()).map(|(_, ms)| ms).sum())
    }
}
