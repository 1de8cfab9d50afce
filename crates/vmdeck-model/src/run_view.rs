//! The state of a run: the one fold from events to state that every front end and report shares.
//!
//! It holds no text for the screen and asks no clock: a replay of a record gives the same view as the run gave.

use super::{
    event::{CaseCause, Event, EventKind, Finding, Holder, Phase, PlannedGuest, Severity, Stream},
    evidence::telling_line,
    exit::RunExit,
    found_view::FoundView,
    ids::{CaseId, GuestId, SuiteId, short_run},
    lifecycle::MachineState,
    outcome::{CancelReason, Tally, Verdict},
    select::{word_of_case, word_of_suite},
    subtest::{Subtest, SubtestProgress, SubtestTally},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A warning of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunWarning {
    /// The guest that the warning is about; `None` = the whole run.
    pub guest: Option<GuestId>,
    /// The text of the warning.
    pub text: String,
}

/// A case that has ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the case_ended event")]
pub struct EndedCase {
    pub guest: GuestId,
    pub suite: SuiteId,
    pub case: CaseId,
    pub round: u32,
    pub verdict: Verdict,
    pub exit: Option<i32>,
    pub took_ms: u64,
    pub message: String,
    /// How long the case took together with the launch, setup and connection that it needed, in milliseconds.
    pub span_ms: u64,
    /// What the verdict comes from, if not from the case itself.
    pub cause: Option<CaseCause>,
    /// The line of its output that tells best why it failed; `None` = it did not fail, or no line says so.
    pub evidence: Option<String>,
    /// The tests that it ran itself; `None` = it says of none where their results are.
    pub subtests: Option<SubtestsView>,
    /// Whether nothing but those of them that failed speaks against it.
    pub by_subtests: bool,
    pub quarantined: Option<String>,
}

impl EndedCase {
    /// Returns why the case did not pass, in one line: the reason of the verdict, then the line of its output that tells most.
    pub fn why(&self) -> String {
        let reason = self.message.lines().next().unwrap_or_default();
        let excuse = self.quarantined.as_ref().map(|issue| format!("quarantined ({issue}): ")).unwrap_or_default();
        match &self.evidence {
            Some(line) if !self.message.contains(line.as_str()) => format!("{excuse}{reason}: {line}"),
            _ => format!("{excuse}{reason}"),
        }
    }
}

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

    fn take(&mut self, subtest: &Subtest) {
        let is_failure = subtest.status.is_failure();
        let room = if is_failure { self.failures < FAILURES } else { self.list.len() - self.failures < SUBTESTS };
        if room {
            self.failures += usize::from(is_failure);
            let flaky = subtest.flaky || (!is_failure && self.failed_before.contains(&subtest.name));
            self.list.push(Subtest { flaky, ..subtest.clone() });
        }
    }

    /// Begins the next attempt: the whole case, or only those that failed.
    fn begin_again(&mut self, only_failed: bool) {
        let mut failed_before = std::mem::take(&mut self.failed_before);
        failed_before.extend(self.failed().map(|subtest| subtest.name.clone()));
        let mut list = std::mem::take(&mut self.list);
        list.retain(|subtest| only_failed && !subtest.status.is_failure());
        *self = Self { list, failed_before, ..Self::default() };
    }

    fn end(mut self, tally: SubtestTally) -> Self {
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

/// The revision of the code that a run tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionView {
    /// The commit, in hexadecimal.
    pub commit: String,
    /// Whether there were changes that no commit has.
    pub dirty: bool,
}

impl fmt::Display for RevisionView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.commit.get(..10).unwrap_or(&self.commit);
        write!(f, "{short}{}", if self.dirty { "+" } else { "" })
    }
}

/// The reuse of a machine that an earlier run kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReusedView {
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
    /// What of the guest could not be proven gone.
    pub left: Vec<String>,
    /// What was proven gone, and how.
    pub proofs: Vec<String>,
    /// Whether the guest was kept on purpose.
    pub kept: bool,
}

impl GuestView {
    /// Puts the cases that were found behind a name, or in its place; those that are there already stay alone.
    fn put_found(&mut self, name: &str, stays: bool, found: impl Iterator<Item = String>) {
        let Some(at) = self.names.iter().position(|own| own == name) else { return };
        let known: BTreeSet<String> = self.names.iter().cloned().collect();
        let new: Vec<String> = found.filter(|name| !known.contains(name)).collect();
        self.names.splice(at + usize::from(stays)..=at, new);
    }

    fn new(planned: &PlannedGuest) -> Self {
        Self {
            backend: planned.backend.clone(),
            os: planned.os.clone(),
            machine: None,
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
            question: None,
            case_since_ms: 0,
            progress: None,
            subtests: SubtestsView::default(),
            busy_since_ms: None,
            tally: Tally::default(),
            planned: planned.cases,
            names: planned.names.clone(),
            left: Vec::new(),
            proofs: Vec::new(),
            kept: false,
        }
    }

    /// Returns the milliseconds from power-on to the first command, once the guest has booted.
    pub fn boot_ms(&self) -> Option<u64> {
        let booted = self.done.iter().any(|(p, _)| *p == Phase::FirstCommand);
        booted.then(|| self.done.iter().filter(|(p, _)| p.is_boot()).map(|(_, ms)| ms).sum())
    }
}

/// The results of a suite in one guest.
#[derive(Clone, Debug, PartialEq)]
pub struct SuiteView {
    /// The guest.
    pub guest: GuestId,
    /// The suite.
    pub suite: SuiteId,
    /// The verdicts of its cases.
    pub tally: Tally,
    /// How long the suite took, launches included, in milliseconds.
    pub took_ms: u64,
    /// Whether the setup of the suite failed.
    pub setup_failed: bool,
}

impl SuiteView {
    /// Returns the outcome in one word, with the reason where that is not plain.
    pub fn outcome(&self) -> (Verdict, &'static str) {
        let any = |verdict| self.tally.of(verdict) > 0;
        match () {
            () if self.setup_failed && !any(Verdict::Infra) => (Verdict::Failed, "FAILED (setup)"),
            () if self.setup_failed => (Verdict::Infra, "FAILED (setup)"),
            () if any(Verdict::Failed) => (Verdict::Failed, "FAILED"),
            () if any(Verdict::Infra) => (Verdict::Infra, "FAILED (infra)"),
            () if any(Verdict::Cancelled) => (Verdict::Cancelled, "CANCELLED"),
            () if any(Verdict::Flaky) => (Verdict::Flaky, "PASSED (flaky)"),
            () if any(Verdict::Passed) => (Verdict::Passed, "PASSED"),
            () => (Verdict::Skipped, "SKIPPED"),
        }
    }
}

/// The lock as this run sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LockView {
    /// The lock was not asked for yet.
    #[default]
    Unknown,
    /// Another process holds the lock.
    Waiting(Holder),
    /// This run holds the lock.
    Held,
    /// The lock was taken from this run.
    Lost,
}

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunView {
    /// The run's id, once started.
    pub run: Option<String>,
    /// The folder of the record.
    pub dir: String,
    /// When it began.
    pub began: Option<DateTime<Utc>>,
    /// The words that selected its cases; none = all.
    pub selection: Vec<String>,
    /// The config file.
    pub config: Option<String>,
    /// The revision of the code.
    pub revision: Option<RevisionView>,
    /// The time of the last event, in milliseconds of the run.
    pub now_ms: u64,
    /// The state of the host lock.
    pub lock: LockView,
    /// The findings of preflight.
    pub findings: Vec<Finding>,
    /// The guests by name.
    pub guests: BTreeMap<GuestId, GuestView>,
    /// The cases that have ended, in order.
    pub cases: Vec<EndedCase>,
    /// The cases that were found in the guests.
    pub found: FoundView,
    /// How many cases are planned in all.
    pub planned: usize,
    /// The verdicts so far.
    pub tally: Tally,
    /// The counts of the tests that cases ran themselves.
    pub subtests: SubtestTally,
    /// The warnings so far.
    pub warnings: Vec<RunWarning>,
    /// Why the run is being cancelled.
    pub cancelled: Option<CancelReason>,
    /// The exit code, once the run has ended.
    pub exit: Option<RunExit>,
    /// How many output lines a slow reader did not get; the logs of the record have them.
    pub skipped_output: u64,
    /// How many files have come from the guests, and how many bytes they have.
    pub artifacts: (u64, u64),
}

impl RunView {
    /// Folds a whole record.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut view = Self::default();
        for event in events {
            view.apply(event);
        }
        view
    }

    /// Takes one more event in.
    pub fn apply(&mut self, event: &Event) {
        self.now_ms = self.now_ms.max(event.elapsed_ms);
        match &event.kind {
            EventKind::RunStarted { run, dir, guests, cases, selection, config, .. } => {
                self.began = Some(event.at);
                self.selection.clone_from(selection);
                self.config.clone_from(config);
                self.run = Some(run.to_string());
                self.dir.clone_from(dir);
                self.planned = *cases;
                for g in guests {
                    self.guests.insert(g.guest.clone(), GuestView::new(g));
                }
            }
            EventKind::Revision { commit, dirty } => {
                self.revision = Some(RevisionView { commit: commit.clone(), dirty: *dirty });
            }
            EventKind::LockWaiting { holder, .. } => self.lock = LockView::Waiting(holder.clone()),
            EventKind::LockHeld { .. } => self.lock = LockView::Held,
            EventKind::LockLost { .. } => self.lock = LockView::Lost,
            EventKind::PreflightFinding(finding) => self.findings.push(finding.clone()),
            EventKind::CancelBegan { reason } => self.cancelled = Some(*reason),
            EventKind::Warning { guest, text, .. } => {
                self.warnings.push(RunWarning { guest: guest.clone(), text: text.clone() });
            }
            EventKind::RunEnded { exit, skipped_output, .. } => {
                self.exit = Some(*exit);
                self.skipped_output = *skipped_output;
            }
            EventKind::CaseEnded {
                guest,
                suite,
                case,
                round,
                verdict,
                exit,
                took_ms,
                message,
                stdout_tail,
                stderr_tail,
                cause,
                subtests,
                by_subtests,
                quarantined,
                ..
            } => {
                let count = |tally: &mut Tally| match quarantined {
                    Some(_) => tally.add_quarantined(),
                    None => tally.add(*verdict),
                };
                count(&mut self.tally);
                let seen = self.guests.get_mut(guest).map(|g| {
                    g.progress = None;
                    std::mem::take(&mut g.subtests)
                });
                let subtests = subtests.map(|tally| seen.unwrap_or_default().end(tally));
                if let Some(subtests) = &subtests {
                    self.subtests.merge(&subtests.tally);
                }
                let evidence = verdict.is_failure().then(|| telling_line(stdout_tail, stderr_tail)).flatten();
                let now = event.elapsed_ms;
                let busy = self.guests.get_mut(guest).and_then(|g| g.busy_since_ms.replace(now));
                self.cases.push(EndedCase {
                    cause: *cause,
                    evidence: evidence.map(str::to_owned),
                    guest: guest.clone(),
                    suite: suite.clone(),
                    case: case.clone(),
                    round: *round,
                    verdict: *verdict,
                    exit: *exit,
                    took_ms: *took_ms,
                    message: message.clone(),
                    subtests,
                    by_subtests: *by_subtests,
                    quarantined: quarantined.clone(),
                    span_ms: busy.map_or(0, |since| now.saturating_sub(since)),
                });
                // Missing artifacts are a case that nobody has planned.
                let unplanned = *cause == Some(CaseCause::Artifacts);
                self.planned += usize::from(unplanned);
                if let Some(g) = self.guests.get_mut(guest) {
                    if unplanned {
                        g.planned += 1;
                        g.names.push(format!("{suite}/{case}"));
                    }
                    (g.case, g.question) = (None, None);
                    count(&mut g.tally);
                    if g.state == MachineState::NotCreated {
                        g.busy_since_ms = None;
                    }
                }
            }
            EventKind::ArtifactsFetched { files, bytes, .. } => {
                self.artifacts.0 += files;
                self.artifacts.1 += bytes;
            }
            EventKind::CasesFound { guest, suite, case, round, cases } => {
                let last = self.found.take((guest.clone(), suite.clone(), case.clone(), *round), cases);
                // Of many, the first part stands for the case itself.
                let more = cases.len().saturating_sub(usize::from(last.is_none()));
                self.planned += more;
                if let Some(view) = self.guests.get_mut(guest) {
                    view.planned += more;
                    let names = cases.iter().map(|found| format!("{suite}/{}", found.case));
                    view.put_found(&format!("{suite}/{}", last.as_ref().unwrap_or(case)), last.is_some(), names);
                }
            }
            kind => self.apply_to_guest(event.elapsed_ms, kind),
        }
    }

    fn apply_to_guest(&mut self, now: u64, kind: &EventKind) {
        let mut of = |guest: &GuestId, change: &mut dyn FnMut(&mut GuestView)| {
            if let Some(view) = self.guests.get_mut(guest) {
                change(view);
            }
        };
        match kind {
            EventKind::GuestState { guest, to, machine, .. } => of(guest, &mut |g| {
                g.state = *to;
                g.machine.clone_from(machine);
                if *to == MachineState::Created {
                    g.done.clear();
                    g.busy_since_ms = Some(now);
                    g.sought.clear();
                    g.boot_failed = false;
                    g.powered_ms = None;
                }
                if *to != MachineState::Running {
                    g.reached = None;
                }
            }),
            EventKind::Reused { guest, run, times, .. } => of(guest, &mut |g| {
                g.reused = Some(ReusedView { run: run.clone(), times: *times });
            }),
            EventKind::RouteTried { guest, transport, way: None, ok: true, address, .. } => {
                of(guest, &mut |g| g.reached = Some((transport.clone(), address.clone())));
            }
            EventKind::RouteTried { guest, way: Some(way), address, why, .. } => of(guest, &mut |g| {
                g.sought.retain(|s| s.way != *way);
                g.sought.push(SoughtView { way: way.clone(), address: address.clone(), why: why.clone() });
            }),
            EventKind::Output { guest, stream: Stream::Console, .. } => of(guest, &mut |g| g.heard_ms = Some(now)),
            EventKind::PhaseStarted { guest, phase, usual_ms, rest_ms, quiet_ms } => of(guest, &mut |g| {
                // A boot of its own, in a machine that was up.
                let begins = matches!(phase, Phase::Firmware | Phase::Launch);
                if begins && g.done.iter().any(|(done, _)| *done == Phase::FirstCommand) {
                    g.done.retain(|(done, _)| !done.is_boot());
                }
                if phase.is_boot() && g.powered_ms.is_none() {
                    g.powered_ms = Some(now);
                    g.heard_ms = Some(now);
                }
                if let Some(usual) = usual_ms {
                    g.usual.insert(*phase, *usual);
                }
                let (usual_ms, rest_ms, quiet_ms) = (*usual_ms, *rest_ms, *quiet_ms);
                g.open.push(OpenPhase { phase: *phase, since_ms: now, usual_ms, rest_ms, quiet_ms });
            }),
            EventKind::PhaseEnded { guest, phase, took_ms, ok } => of(guest, &mut |g| {
                g.open.retain(|o| o.phase != *phase);
                g.done.push((*phase, *took_ms));
                g.boot_failed |= phase.is_boot() && !ok;
            }),
            EventKind::SubtestEnded { guest, subtest, .. } => of(guest, &mut |g| g.subtests.take(subtest)),
            EventKind::SubtestProgress { guest, progress, .. } => {
                of(guest, &mut |g| g.progress = Some(progress.clone()));
            }
            EventKind::CaseStarted { guest, suite, case, attempt, only, .. } => {
                of(guest, &mut |g| {
                    if *attempt > 1 {
                        g.subtests.begin_again(only.is_some());
                    } else {
                        g.subtests = SubtestsView::default();
                    }
                    g.progress = None;
                    g.case = Some((suite.clone(), case.clone()));
                    g.case_since_ms = now;
                });
            }
            EventKind::Asked { guest, question, .. } => of(guest, &mut |g| g.question = Some(question.clone())),
            EventKind::CleanupEnded { guest, left, proofs, kept, .. } => of(guest, &mut |g| {
                g.left.extend(left.iter().cloned());
                g.proofs.extend(proofs.iter().cloned());
                g.kept |= kept;
            }),
            _ => {}
        }
    }

    /// Returns whether a finding of preflight forbids the run.
    pub fn is_host_unfit(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Fatal)
    }

    /// Returns every suite in every guest that had a case, in the order in which they ended.
    pub fn suites(&self) -> Vec<SuiteView> {
        let mut out: Vec<SuiteView> = Vec::new();
        for case in &self.cases {
            let same = |s: &SuiteView| s.guest == case.guest && s.suite == case.suite;
            let at = out.iter().position(same).unwrap_or_else(|| {
                let (guest, suite) = (case.guest.clone(), case.suite.clone());
                out.push(SuiteView { guest, suite, tally: Tally::default(), took_ms: 0, setup_failed: false });
                out.len() - 1
            });
            out[at].tally.add(case.verdict);
            out[at].took_ms += case.span_ms;
            out[at].setup_failed |= case.cause == Some(CaseCause::Setup);
        }
        out
    }

    /// Returns how a case of a suite ended in a guest, the last time; `None` = it has not.
    pub fn last_end(&self, guest: &GuestId, suite: Option<&str>, case: Option<&str>) -> Option<&EndedCase> {
        let is_it = |ended: &&EndedCase| {
            ended.guest == *guest && suite == Some(ended.suite.as_str()) && case == Some(ended.case.as_str())
        };
        self.cases.iter().rev().find(is_it)
    }

    /// Returns the cases whose last verdict says that they failed, or that nothing is known of them: the SELECT word of each, in the
    /// order in which they ended. Artifacts that did not come are no case that could be selected: then it is the whole suite.
    pub fn failed(&self) -> Vec<String> {
        let mut failed: Vec<String> = Vec::new();
        for case in &self.cases {
            let word = match case.cause {
                Some(CaseCause::Artifacts) => word_of_suite(&case.suite, &case.guest),
                _ => word_of_case(&case.suite, &case.case, &case.guest),
            };
            failed.retain(|other| *other != word);
            if case.verdict.is_failure() {
                failed.push(word);
            }
        }
        failed
    }

    /// Returns the tests that cases ran themselves and that alone made their last verdict, by the SELECT word of the case.
    pub fn failed_subtests(&self) -> BTreeMap<String, Vec<Subtest>> {
        let mut out = BTreeMap::new();
        for case in &self.cases {
            let word = word_of_case(&case.suite, &case.case, &case.guest);
            match &case.subtests {
                Some(subtests) if case.verdict == Verdict::Failed && case.by_subtests => {
                    out.insert(word, subtests.failed().cloned().collect());
                }
                _ => drop(out.remove(&word)),
            }
        }
        out
    }

    /// Returns everything that could not be proven gone.
    pub fn left(&self) -> impl Iterator<Item = &String> {
        self.guests.values().flat_map(|g| &g.left)
    }
}
