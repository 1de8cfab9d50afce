//! The state of a run: the one fold from events to state that every front end and report shares.
//!
//! It holds no text for the screen and asks no clock: a replay of a record gives the same view as the run gave.

pub use super::guest_view::{GuestView, OpenPhase, ReusedView, SoughtView, SubtestsView};
use super::{
    event::{CaseCause, Event, EventKind, Finding, Holder, Phase, Severity, Stream},
    evidence::telling_line,
    exit::RunExit,
    found_view::FoundView,
    ids::{CaseId, GuestId, SuiteId},
    lifecycle::MachineState,
    outcome::{CancelReason, Tally, Verdict},
    select::{word_of_case, word_of_suite},
    subtest::{Subtest, SubtestTally},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

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
    /// From how many records this one was merged; zero = it is a run's own.
    pub origins: usize,
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
            EventKind::RunStarted { run, dir, guests, cases, selection, config, origins, .. } => {
                self.origins = origins.len();
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
                self.put_in_order();
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
                    // A guest that has no machine of its own in this record has further ones.
                    span_ms: busy.map_or(*took_ms, |since| now.saturating_sub(since)),
                });
                // Missing artifacts are a case that nobody has planned.
                let unplanned = *cause == Some(CaseCause::Artifacts);
                self.planned += usize::from(unplanned);
                if let Some(g) = self.guests.get_mut(guest) {
                    if unplanned {
                        g.planned += 1;
                        g.names.push(format!("{suite}/{case}"));
                    }
                    let ended = (suite.clone(), case.clone());
                    if let Some(at) = g.background.iter().position(|(going, _)| *going == ended) {
                        g.background.remove(at);
                    } else {
                        (g.case, g.question) = (None, None);
                    }
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
                    // Another machine than the one that was to be used again.
                    g.reused = g.reused.take().filter(|reused| machine.as_ref() == Some(&reused.machine));
                    g.busy_since_ms = Some(now);
                    g.sought.clear();
                    g.boot_failed = false;
                    g.powered_ms = None;
                }
                if *to != MachineState::Running {
                    g.reached = None;
                }
            }),
            EventKind::MachinePlaced { guest, on, .. } => of(guest, &mut |g| g.placed = Some(on.clone())),
            EventKind::Reused { guest, machine, run, times } => of(guest, &mut |g| {
                g.reused = Some(ReusedView { machine: machine.clone(), run: run.clone(), times: *times });
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
                let begins = matches!(phase, Phase::Restore | Phase::Firmware | Phase::Launch);
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
            EventKind::CaseStarted { guest, suite, case, background: true, .. } => {
                of(guest, &mut |g| g.background.push(((suite.clone(), case.clone()), now)));
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

    /// Returns what says in which guest something is, behind its name: `@deb` in a run of several, else nothing.
    pub fn at(&self, guest: &GuestId) -> String {
        if self.has_several_guests() { format!("@{guest}") } else { String::new() }
    }

    /// Returns whether cases are told of more than one guest.
    pub fn has_several_guests(&self) -> bool {
        self.guests.values().filter(|guest| guest.one_more_of.is_none()).count() > 1
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

    /// Puts the cases of each guest into the order of the plan: several of its machines may have run them at once. Between guests nothing
    /// changes.
    fn put_in_order(&mut self) {
        for (id, guest) in &self.guests {
            let places = guest.places();
            let mut own: Vec<usize> = (0..self.cases.len()).filter(|at| self.cases[*at].guest == *id).collect();
            let mut sorted: Vec<EndedCase> = own.iter().map(|at| self.cases[*at].clone()).collect();
            sorted.sort_by_cached_key(|case| (case.round, places.of(&format!("{}/{}", case.suite, case.case))));
            for (at, case) in own.drain(..).zip(sorted) {
                self.cases[at] = case;
            }
        }
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
