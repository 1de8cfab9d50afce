//! The lines of the KVM guest-test framework's launcher: what scripts of its users look for in a log.
//!
//! A line of a guest's console or of an executor is printed as it was written, as far as that is safe.

use super::{ReportSink, text::safe};
use chrono::{DateTime, Utc};
use std::io::{self, Write};
use vmdeck_model::{
    event::{Event, EventKind, PatternKind, Severity, Stream},
    ids::CaseId,
    memory::WaitingMemory,
    outcome::Verdict,
    run_view::RunView,
    text::one_line,
};

/// How far a run came, in the framework's own stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// QEMU was not started, or ended before the guest ran.
    #[default]
    NeverStarted,
    /// The machine ran and its boot ended before the pattern was seen.
    DiedEarly,
    /// The pattern was not seen, or the guest not reached, in time.
    DidNotBoot,
    /// The test case took too long.
    Stuck,
    /// The test case ended.
    TestRan,
    /// The test case ended well, and the guest is still up.
    NotClosed,
}

impl Stage {
    /// Returns the words for a person.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::NeverStarted => "never started",
            Stage::DiedEarly => "died early",
            Stage::DidNotBoot => "did not boot",
            Stage::Stuck => "stuck",
            Stage::TestRan => "test ran",
            Stage::NotClosed => "was not closed",
        }
    }
}

/// What the lines are about.
#[derive(Clone, Debug)]
pub struct LauncherRun {
    /// The kind of machine: `legacy`, `tdx`.
    pub kind: String,
    /// The flags as one line, for the line that says that the test begins.
    pub parameters: String,
    /// Whether the machine is kept for the collection of coverage.
    pub kept: bool,
    /// The case that is judged as the test; others are boots before it.
    pub judged: CaseId,
}

/// See the module.
pub struct Launcher {
    run: LauncherRun,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    stage: Stage,
    /// Whether the test case was skipped.
    skipped: bool,
    /// The folder of the record.
    record: String,
    /// Where the guest is reached.
    address: Option<String>,
}

impl Launcher {
    /// Returns a report to these two streams.
    pub fn new(run: LauncherRun, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { run, out, err, stage: Stage::default(), skipped: false, record: String::new(), address: None }
    }

    fn trace(&mut self, at: DateTime<Utc>, text: &str) -> io::Result<()> {
        writeln!(self.out, "|{}|TRACE|{}|", stamp(at), safe(text))?;
        self.out.flush()
    }

    fn complain(&mut self, at: DateTime<Utc>, word: &str, text: &str) -> io::Result<()> {
        self.out.flush()?;
        writeln!(self.err, "|{}|{word}| vmdeck guest-test - {}|", stamp(at), safe(&one_line(text)))
    }

    fn print(&mut self, event: &Event) -> io::Result<()> {
        let (at, kind) = (event.at, self.run.kind.clone());
        match &event.kind {
            EventKind::RunStarted { dir, .. } => {
                self.record.clone_from(dir);
                self.trace(at, &format!("VM test is starting now...; record: {dir}"))
            }
            EventKind::LockWaiting { holder, .. } => {
                self.trace(at, &format!("waiting for the host lock, held by {holder}"))
            }
            EventKind::MemoryWaiting { guest, with, needs, left, place, promised, .. } => self.trace(
                at,
                &WaitingMemory { guest, with, needs: *needs, left: *left, place: *place, promised }.to_string(),
            ),
            EventKind::PreflightFinding(finding) if finding.severity >= Severity::Warn => {
                let word = if finding.severity == Severity::Fatal { "ERROR" } else { "WARNING" };
                let hint = finding.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                self.complain(at, word, &format!("{}{hint}", finding.text))
            }
            EventKind::Progress { text, .. } => self.trace(at, text),
            EventKind::RouteTried { ok: true, address: Some(address), .. } => {
                self.address = Some(address.clone());
                Ok(())
            }
            EventKind::CaseStarted { .. } => {
                self.stage = Stage::TestRan;
                let text = format!("VM_TYPE: {kind}, {}, SECONDS: {}", self.run.parameters, event.elapsed_ms / 1000);
                self.trace(at, &text)
            }
            EventKind::Output { stream, line, .. } => match stream {
                Stream::Console => {
                    if self.stage == Stage::NeverStarted {
                        self.stage = Stage::DiedEarly;
                    }
                    writeln!(self.out, "[{kind}_vm]: {}", safe(line.trim()))
                }
                Stream::Stdout => writeln!(self.out, "{}", safe(line)),
                Stream::Stderr => writeln!(self.err, "{}", safe(line)),
            },
            EventKind::ConsoleMatch { meaning, pattern, line, .. } => match meaning {
                PatternKind::Ready => Ok(()),
                PatternKind::Warning => {
                    self.complain(at, "WARNING", &format!("There is {}, please check: {line}", named(pattern)))
                }
                PatternKind::Error => {
                    let end = if pattern == "trouble:msr" { "test is not fully PASS" } else { "test failed" };
                    self.complain(at, "ERROR", &format!("There is {}, {end}: {line}", named(pattern)))
                }
            },
            EventKind::Warning { text, .. } => self.complain(at, "WARNING", text),
            EventKind::CaseEnded { case, verdict: Verdict::Passed, .. } if *case != self.run.judged => {
                self.trace(at, &format!("{kind} VM: {case}: the guest has begun again"))
            }
            EventKind::CaseEnded { verdict, message, .. } => self.ended(at, *verdict, message),
            EventKind::CleanupEnded { left, .. } => {
                left.iter().try_for_each(|what| self.complain(at, "ERROR", &format!("NOT CLEANED UP: {what}")))
            }
            EventKind::RunEnded { exit, error, .. } => {
                if let Some(error) = error {
                    self.complain(at, "ERROR", error)?;
                }
                self.trace(at, &format!("{kind} VM: {}", self.stage.as_str()))?;
                if exit.code() == 0 && self.skipped {
                    // Nobody shall take it for a pass.
                    self.trace(at, &format!("{kind} VM test was skipped"))
                } else if exit.code() == 0 {
                    self.trace(at, &format!("{kind} VM test complete all correctly..."))
                } else {
                    let text =
                        format!("{kind} VM test fail, please check test log {} (exit {})", self.record, exit.code());
                    self.complain(at, "ERROR", &text)
                }
            }
            _ => Ok(()),
        }
    }

    fn ended(&mut self, at: DateTime<Utc>, verdict: Verdict, message: &str) -> io::Result<()> {
        let kind = self.run.kind.clone();
        self.stage = match self.stage {
            // The beginnings are the engine's own words; what a guest says comes behind them.
            Stage::DiedEarly if booted_too_long(message) => Stage::DidNotBoot,
            Stage::TestRan if message.starts_with("took longer than ") => Stage::Stuck,
            Stage::TestRan if message.starts_with("the guest was not closed") => Stage::NotClosed,
            stage => stage,
        };
        match verdict {
            Verdict::Passed | Verdict::Flaky => self.trace(at, &format!("{kind} VM test complete..."))?,
            Verdict::Skipped => {
                self.skipped = true;
                self.trace(at, &format!("{kind} VM test skipped: {message}"))?;
            }
            // What comes behind it is what the console said before.
            _ => {
                let first = message.lines().next().unwrap_or_default();
                self.complain(at, "ERROR", &format!("{kind} VM test: {verdict}: {first}"))?;
            }
        }
        if self.run.kept && self.stage != Stage::NeverStarted {
            self.trace(at, &format!("{kind}vm keep alive for gcov data collection"))?;
            if let Some(port) = self.address.as_deref().and_then(|address| address.rsplit(':').next()) {
                self.trace(at, &format!("'ssh -p {port} root@localhost' to login and get data"))?;
            }
            self.trace(at, "Please shutdown the VM after gcov collect completed: `vmdeck cleanup`")?;
        }
        Ok(())
    }
}

/// Returns whether a boot was given up for its time.
fn booted_too_long(message: &str) -> bool {
    let cause = message.strip_prefix("cannot boot guest ").and_then(|rest| rest.split_once("`: "));
    cause.is_some_and(|(_, cause)| cause.contains(" within ") && !cause.starts_with("the console "))
}

/// Returns the framework's own pattern for a kind of trouble, where it has one.
fn named(pattern: &str) -> String {
    match pattern.strip_prefix("trouble:") {
        Some("msr") => "*unchecked MSR access error*".to_owned(),
        Some("ve") => "*Unexpected #VE*".to_owned(),
        Some("bug-memory" | "bug-on" | "bug-atomic" | "list-corruption") => "*BUG:*".to_owned(),
        Some("warning") => "*WARNING:*".to_owned(),
        Some("call-trace") => "*Call Trace:*".to_owned(),
        Some(kind) => format!("trouble of the kind `{kind}`"),
        None => format!("`{pattern}`"),
    }
}

/// Returns a time as the framework writes it, in UTC.
fn stamp(at: DateTime<Utc>) -> String {
    at.format("%m%d_%H%M%S%.3f").to_string()
}

impl ReportSink for Launcher {
    fn name(&self) -> String {
        "the lines of the launcher".into()
    }

    fn event(&mut self, event: &Event, _: &RunView) -> io::Result<()> {
        self.print(event)
    }

    fn idle(&mut self, _: u64, _: &RunView) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::jsonl::Shared;
    use vmdeck_model::ids::{CaseId, GuestId, SuiteId};

    /// Returns what is written of these events, both streams together.
    fn written(events: Vec<EventKind>) -> String {
        let buffer = Shared::default();
        let run = LauncherRun {
            kind: "tdx".into(),
            parameters: "VCPU: 2".into(),
            kept: false,
            judged: CaseId::new("c").expect("name"),
        };
        let mut lines = Launcher::new(run, Box::new(buffer.clone()), Box::new(buffer.clone()));
        for kind in events {
            let event = Event { seq: 1, at: DateTime::UNIX_EPOCH, elapsed_ms: 4000, origin: None, kind };
            lines.event(&event, &RunView::default()).expect("written");
        }
        buffer.text()
    }

    fn guest() -> GuestId {
        GuestId::new("guest").expect("name")
    }

    fn console(line: &str) -> EventKind {
        EventKind::Output { guest: guest(), suite: None, case: None, stream: Stream::Console, line: line.into() }
    }

    fn began() -> EventKind {
        let (suite, case) = (SuiteId::new("s").expect("name"), CaseId::new("c").expect("name"));
        EventKind::CaseStarted { guest: guest(), suite, case, round: 1, attempt: 1, only: None, background: false }
    }

    fn ended(verdict: Verdict, message: &str) -> EventKind {
        let (suite, case) = (SuiteId::new("s").expect("name"), CaseId::new("c").expect("name"));
        EventKind::CaseEnded {
            guest: guest(),
            suite,
            case,
            round: 1,
            verdict,
            exit: None,
            took_ms: 1,
            message: message.into(),
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            cause: None,
            earlier: Vec::new(),
            subtests: None,
            by_subtests: false,
            quarantined: None,
        }
    }

    fn over(exit: vmdeck_model::exit::RunExit) -> EventKind {
        let tally = vmdeck_model::outcome::Tally::default();
        EventKind::RunEnded { tally, exit, took_ms: 1, skipped_output: 0, error: None, hint: None }
    }

    #[test]
    fn a_run_that_went_well_has_the_lines_that_scripts_look_for() {
        use vmdeck_model::exit::RunExit::Passed;
        let text = written(vec![console("  Linux \r"), began(), ended(Verdict::Passed, ""), over(Passed)]);
        assert_eq!(
            text,
            "[tdx_vm]: Linux\n|0101_000000.000|TRACE|VM_TYPE: tdx, VCPU: 2, SECONDS: 4|\n\
             |0101_000000.000|TRACE|tdx VM test complete...|\n|0101_000000.000|TRACE|tdx VM: test ran|\n\
             |0101_000000.000|TRACE|tdx VM test complete all correctly...|\n"
        );
    }

    #[test]
    fn the_stage_says_how_far_it_came() {
        use vmdeck_model::exit::RunExit::{Infra, TestFailed as Failed};
        for (events, stage) in [
            (vec![ended(Verdict::Infra, "cannot start"), over(Infra)], "never started"),
            (vec![console("x"), ended(Verdict::Infra, "a panic"), over(Infra)], "died early"),
            (
                vec![
                    console("x"),
                    ended(Verdict::Infra, "cannot boot guest `guest`: the pattern did not appear within 2 s"),
                    over(Infra),
                ],
                "did not boot",
            ),
            (vec![console("x"), began(), ended(Verdict::Failed, "took longer than 2 s"), over(Failed)], "stuck"),
            (
                vec![console("x"), began(), ended(Verdict::Failed, "the guest was not closed"), over(Failed)],
                "was not closed",
            ),
            (vec![console("x"), began(), ended(Verdict::Failed, "exit 1"), over(Failed)], "test ran"),
        ] {
            let text = written(events);
            assert!(text.contains(&format!("|TRACE|tdx VM: {stage}|")), "{stage}: {text}");
            assert!(text.contains("|ERROR| vmdeck guest-test - tdx VM test fail, please check test log"), "{text}");
        }
    }

    #[test]
    fn trouble_has_the_frameworks_own_words_on_one_line() {
        let found = |pattern: &str, meaning| EventKind::ConsoleMatch {
            guest: guest(),
            meaning,
            pattern: pattern.into(),
            line: "a\nb ::error::x".into(),
            context: Vec::new(),
            block: Vec::new(),
            taint: None,
        };
        let text =
            written(vec![found("trouble:msr", PatternKind::Error), found("trouble:warning", PatternKind::Warning)]);
        assert_eq!(
            text,
            "|0101_000000.000|ERROR| vmdeck guest-test - There is *unchecked MSR access error*, test is not fully PASS: a; b : :error: :x|\n\
             |0101_000000.000|WARNING| vmdeck guest-test - There is *WARNING:*, please check: a; b : :error: :x|\n"
        );
    }
}
