//! The report that a person reads while the run is in progress.
//!
//! Every line that shows guest text begins with a mark of ours, and what CI systems would take for a command anywhere in
//! a line is broken up. State is never shown by colour alone.

mod ending;

use super::{
    ReportSink,
    plan_index::{PlanIndex, planned_names},
    progress::{self, ProgressLine},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    time::Duration,
};
use vmdeck_model::{
    event::{CaseCause, Event, EventKind, Phase, Severity},
    ids::{GuestId, SuiteId},
    memory::WaitingMemory,
    outcome::Verdict,
    quantity::{show_artifacts, show_count, show_duration, show_size},
    run_view::RunView,
    subtest::SubtestStatus,
    text::Clean,
};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only failures and the summary.
    Quiet,
    /// Phases and cases as well.
    Normal,
    /// Every output line as well.
    Verbose,
}

/// How the report is printed.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether colours are used.
    pub color: bool,
    /// Whether the last line is rewritten in place, as on a terminal.
    pub live: bool,
    /// How much is printed.
    pub level: Level,
    /// The columns of the terminal.
    pub width: usize,
}

/// How long nothing is printed before a line says that the run continues, in milliseconds.
const HEARTBEAT: u64 = 30_000;

/// Cases of a run that fit on a screen; after more, what is not green is listed once more.
const LONG: u32 = 12;
/// Most of them that are listed.
const RED_MAX: usize = 20;
/// How many sub-tests of a case that failed are told.
const SUBTESTS_MAX: usize = 20;

/// See the module.
pub struct Text {
    out: Box<dyn Write + Send>,
    style: Style,
    progress: ProgressLine,
    last_line_ms: u64,
    index: PlanIndex,
    /// The suite whose failed setup was shown last: its output is the same for each of its cases.
    setup_shown: Option<(GuestId, SuiteId)>,
    /// What is not green, for the end of a long run.
    red: Vec<String>,
    /// The sub-tests of the running cases that failed and were told, by guest.
    red_subtests: BTreeMap<GuestId, BTreeSet<String>>,
    /// When progress was last shown, and what it was without its figures.
    shown_progress: (u64, String),
}

/// How far apart lines about progress are, in milliseconds.
const PROGRESS_MS: u64 = 10_000;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Text {
    /// Returns a report to `out`.
    pub fn new(out: Box<dyn Write + Send>, style: Style, index: PlanIndex) -> Self {
        let progress = ProgressLine::default();
        Self {
            out,
            style,
            progress,
            last_line_ms: 0,
            index,
            setup_shown: None,
            red: Vec::new(),
            red_subtests: BTreeMap::new(),
            shown_progress: (0, String::new()),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.style.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, now: u64, text: &str) -> io::Result<()> {
        self.clear()?;
        self.last_line_ms = now;
        writeln!(self.out, "{text}")
    }

    fn clear(&mut self) -> io::Result<()> {
        if self.progress.take_shown() { write!(self.out, "\r\x1b[2K") } else { Ok(()) }
    }

    /// Rewrites the line at the bottom.
    fn redraw(&mut self, now: u64, view: &RunView) -> io::Result<()> {
        if self.style.live && self.style.level > Level::Quiet {
            let text = progress::line(view, now, self.style.width);
            if let Some(text) = self.progress.change(text) {
                write!(self.out, "\r\x1b[2K{}", self.paint(DIM, &text))?;
            }
        }
        self.out.flush()
    }

    fn verdict(&self, verdict: Verdict) -> String {
        let word = match verdict {
            Verdict::Passed => "pass ",
            Verdict::Flaky => "FLAKY",
            Verdict::Failed => "FAIL ",
            Verdict::Infra => "INFRA",
            Verdict::Skipped => "skip ",
            Verdict::Cancelled => "stop ",
        };
        self.paint(color_of(verdict), word)
    }

    fn print(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        let now = event.elapsed_ms;
        let normal = self.style.level >= Level::Normal;
        match &event.kind {
            EventKind::RunStarted { run, version, guests, cases, dir, .. } if normal => {
                let isolated = guests.iter().all(|g| g.isolated);
                let names = planned_names(guests);
                let cases = show_count(*cases, "case");
                self.line(now, &format!("vmdeck {version} · run {} · {cases} on {}", run.short(), names.join(", ")))?;
                self.line(now, &self.paint(DIM, &format!("record: {dir}")))?;
                if !isolated {
                    let text = "NOT ISOLATED: commands of a `local` guest run directly on this host, as you".to_owned();
                    self.line(now, &self.paint(YELLOW, &text))?;
                }
                Ok(())
            }
            EventKind::LockWaiting { holder, waited_ms, .. } => {
                let who = holder;
                let text = format!("waiting for the host lock ({} so far), held by {who}", time(*waited_ms));
                self.line(now, &self.paint(YELLOW, &text))
            }
            EventKind::MemoryWaiting { guest, with, needs, left, place, promised, .. } => {
                let text =
                    WaitingMemory { guest, with, needs: *needs, left: *left, place: *place, promised }.to_string();
                self.line(now, &self.paint(YELLOW, &text))
            }
            EventKind::LockLost { path, why } => self.line(now, &self.paint(RED, &format!("LOCK LOST: {path}: {why}"))),
            EventKind::PreflightFinding(finding) => {
                let code = match finding.severity {
                    Severity::Ok | Severity::Fixed => GREEN,
                    Severity::Warn => YELLOW,
                    Severity::Fatal => RED,
                };
                if normal || finding.severity == Severity::Fatal {
                    self.line(
                        now,
                        &format!("  {} {}", self.paint(code, finding.severity.word()), safe(&finding.text)),
                    )?;
                    if let (Some(hint), true) = (&finding.hint, finding.severity >= Severity::Warn) {
                        self.line(now, &self.paint(DIM, &format!("        hint: {}", safe(hint))))?;
                    }
                }
                Ok(())
            }
            EventKind::Reaped { what, how, run } if normal => {
                self.line(now, &format!("  {} {what}, left by run {run}: {how}", self.paint(YELLOW, "reaped")))
            }
            EventKind::PhaseStarted { guest, phase: Phase::Pause, usual_ms, .. } => {
                let limit = usual_ms.map(|ms| format!(" for {}", time(ms))).unwrap_or_default();
                self.line(
                    now,
                    &self.paint(
                        YELLOW,
                        &format!("{guest} failed and is held{limit}: inspect it with `vmdeck shell {guest}`"),
                    ),
                )
            }
            EventKind::PhaseStarted { guest, phase: Phase::Hold, .. } => self.line(
                now,
                &format!("{guest} is held: `vmdeck shell {guest}` opens a shell in it; Ctrl-C ends the run"),
            ),
            EventKind::PhaseEnded { guest, phase: Phase::FirstCommand, ok: true, .. } if normal => {
                self.booted(now, guest, view)
            }
            EventKind::RouteTried { guest, way: Some(way), why, address, .. } if self.style.level == Level::Verbose => {
                let found = address.as_deref().unwrap_or("no address");
                let why = if why.is_empty() { String::new() } else { format!(": {}", safe(why)) };
                self.line(now, &format!("  {guest}: {way}: {}{why}", safe(found)))
            }
            EventKind::RouteTried { guest, transport, ok: false, why, .. } if self.style.level == Level::Verbose => {
                self.line(now, &format!("  {guest}: {transport} failed: {}", safe(why)))
            }
            EventKind::ConsoleMatch { guest, meaning, pattern, line, taint, .. } => {
                use vmdeck_model::event::PatternKind;
                let taint = taint.as_ref().map(|letters| format!(" (tainted: {letters})")).unwrap_or_default();
                match meaning {
                    PatternKind::Ready => Ok(()),
                    PatternKind::Warning => self.line(
                        now,
                        &format!(
                            "  {} {guest}: console matched `{pattern}`{taint}: {}",
                            self.paint(YELLOW, "warn "),
                            safe(line)
                        ),
                    ),
                    PatternKind::Error => self.line(
                        now,
                        &format!(
                            "  {} {guest}: console matched `{pattern}`{taint}: {}",
                            self.paint(RED, "ERROR"),
                            safe(line)
                        ),
                    ),
                }
            }
            EventKind::Asked { guest, question, .. } => {
                self.line(now, &self.paint(YELLOW, &format!("  {guest} asks: {}", safe(question))))
            }
            EventKind::CasesFound { guest, suite, case, cases, .. } if normal => {
                let at = view.at(guest);
                self.line(now, &format!("  {suite}/{}{at}: {} found", case.shown(), show_count(cases.len(), "case")))
            }
            EventKind::MachinePlaced { guest, on, .. } if normal => {
                self.line(now, &self.paint(DIM, &format!("  {guest}: made on `{on}`")))
            }
            EventKind::ArtifactsFetched { guest, suite, case, files, bytes } if normal => {
                let at = view.at(guest);
                let of = case.as_ref().map(|case| format!("/{}", case.shown())).unwrap_or_default();
                self.line(now, &format!("  {suite}{of}{at}: {} fetched", show_artifacts(*files, *bytes)))
            }
            EventKind::Retrying { what, attempt, of, why, .. } if normal => self
                .line(now, &self.paint(YELLOW, &format!("  retry {what} (attempt {attempt} of {of}): {}", safe(why)))),
            EventKind::Output { guest, case, line, .. } if self.style.level == Level::Verbose => {
                let who = case.as_ref().map_or_else(|| guest.to_string(), |c| format!("{guest} {c}"));
                self.line(now, &format!("{} {}", self.paint(DIM, &format!("  {who} |")), safe(line)))
            }
            EventKind::SubtestEnded { guest, suite, case, subtest, .. } if subtest.status.is_failure() => {
                let why =
                    if subtest.message.is_empty() { String::new() } else { format!(": {}", short(&subtest.message)) };
                let place = subtest.place().map(|place| format!(" ({})", safe(&place))).unwrap_or_default();
                let has_details = !why.is_empty() || !place.is_empty();
                let of = (guest, format!("{suite}/{case}"));
                self.subtest(event, view, of, (subtest.status, &subtest.name), &format!("{why}{place}"), has_details)
            }
            // Some tools say only at their end why a test failed; that it did is told at once.
            EventKind::SubtestProgress { guest, suite, case, progress } => {
                for name in &progress.failed {
                    let of = (guest, format!("{suite}/{case}"));
                    self.subtest(event, view, of, (SubtestStatus::Failed, name), "", false)?;
                }
                Ok(())
            }
            EventKind::CaseEnded { .. } => self.case(event, view),
            EventKind::CancelBegan { reason } => {
                self.line(now, &self.paint(YELLOW, &format!("cancelled: {reason}; cleaning up")))
            }
            EventKind::CleanupEnded { guest, left, kept, adopted, freed, .. } => {
                self.cleaned(now, guest, left, *kept, (*adopted, *freed), view)
            }
            EventKind::Warning { guest, text, hint } => {
                let who = guest.as_ref().map(|g| format!("{g}: ")).unwrap_or_default();
                self.line(now, &format!("  {} {who}{}", self.paint(YELLOW, "warn "), safe(text)))?;
                match hint {
                    Some(hint) => self.line(now, &self.paint(DIM, &format!("        hint: {}", safe(hint)))),
                    None => Ok(()),
                }
            }
            EventKind::Progress { guest, text } if normal => {
                // A line now and then is enough for what only counts on.
                let what: String = text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
                if self.shown_progress.1 == what && now < self.shown_progress.0 + PROGRESS_MS {
                    return Ok(());
                }
                self.shown_progress = (now, what);
                let who = guest.as_ref().map(|g| format!("{g}: ")).unwrap_or_default();
                self.line(now, &format!("  {}", self.paint(DIM, &format!("{who}{}", safe(text)))))
            }
            EventKind::Coverage { file, lines, hit } if normal => {
                let percent = if *lines == 0 { 0 } else { hit.saturating_mul(1000) / lines };
                let text = format!("  coverage: {}.{}% of {lines} lines: {file}", percent / 10, percent % 10);
                self.line(now, &text)
            }
            EventKind::RunEnded { .. } => self.ended(event, view),
            _ => Ok(()),
        }
    }

    fn booted(&mut self, now: u64, guest: &GuestId, view: &RunView) -> io::Result<()> {
        let Some(seen) = view.guests.get(guest) else { return Ok(()) };
        let phases: Vec<String> = seen
            .done
            .iter()
            .filter(|(p, _)| p.is_boot())
            .map(|(p, ms)| format!("{} {}", p.as_str(), time(*ms)))
            .collect();
        if let Some(reused) = &seen.reused {
            let ready = self.paint(BOLD, &format!("{guest} is {reused}"));
            let since =
                format!("kept by run {}; ready after {}", reused.short_run(), time(seen.boot_ms().unwrap_or_default()));
            return self.line(now, &format!("{ready}  {}", self.paint(DIM, &since)));
        }
        let total = time(seen.boot_ms().unwrap_or_default());
        let ready = self.paint(BOLD, &format!("{guest} {} after {total}", seen.came_up()));
        self.line(now, &format!("{ready}  {}", self.paint(DIM, &phases.join(" · "))))
    }

    /// Writes a line for a sub-test that failed: of very many, the first, and again only where more is known of it.
    fn subtest(
        &mut self,
        event: &Event,
        view: &RunView,
        (guest, case): (&GuestId, String),
        (status, name): (SubtestStatus, &str),
        details: &str,
        again: bool,
    ) -> io::Result<()> {
        let told = self.red_subtests.entry(guest.clone()).or_default();
        let is_new = told.insert(name.to_owned());
        if told.len() > SUBTESTS_MAX || !(is_new || again) {
            return Ok(());
        }
        let at = view.at(guest);
        let word = self.paint(RED, status.as_str());
        self.line(event.elapsed_ms, &format!("    {word} {case}{at}: {}{details}", safe(name)))
    }

    fn case(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        let EventKind::CaseEnded {
            guest,
            suite,
            case,
            round,
            verdict,
            took_ms,
            message,
            stdout_tail,
            stderr_tail,
            cause,
            subtests,
            quarantined,
            ..
        } = &event.kind
        else {
            return Ok(());
        };
        let now = event.elapsed_ms;
        let told = self.red_subtests.remove(guest).unwrap_or_default();
        let more = told.len().saturating_sub(SUBTESTS_MAX);
        if more > 0 {
            self.line(now, &format!("    and {more} more; results.jsonl and junit.xml of the record have them all"))?;
        }
        let red = matches!(verdict, Verdict::Failed | Verdict::Infra | Verdict::Flaky);
        // The reason is the run's, and told at its end.
        if (self.style.level == Level::Quiet && !red) || *cause == Some(CaseCause::NotBegun) {
            return Ok(());
        }
        let at = view.at(guest);
        let round = if *round > 1 { format!(" (round {round})") } else { String::new() };
        let name = format!("{suite}/{}{at}{round}", case.shown());
        let excuse = quarantined.as_ref().map(|issue| format!("  (quarantined: {})", safe(issue))).unwrap_or_default();
        let tests = subtests.filter(|tally| message.is_empty() && tally.total() > 0);
        let why = match tests {
            Some(tally) => format!("  tests: {tally}"),
            None if message.is_empty() => String::new(),
            None => format!("  {}", safe(message)),
        };
        let own = view.found.name(suite, case);
        let own = own.map(|name| format!("  [{}]", safe(name))).unwrap_or_default();
        let why = format!("{own}{why}{excuse}");
        self.line(now, &format!("  {} {name:<38} {:>7}{why}", self.verdict(*verdict), time(*took_ms)))?;
        let place = self.index.place(suite, case).filter(|_| red).map(|place| format!("{place}"));
        if let Some(place) = &place {
            self.line(now, &self.paint(DIM, &format!("        {}", safe(place))))?;
        }
        if red && self.red.len() < RED_MAX {
            let place = place.map(|place| format!(" ({})", safe(&place))).unwrap_or_default();
            self.red.push(format!("  {} {name}{place}{why}", self.verdict(*verdict)));
        }
        let of_setup = (*cause == Some(CaseCause::Setup)).then(|| (guest.clone(), suite.clone()));
        let shown = of_setup.is_some() && self.setup_shown == of_setup;
        self.setup_shown = of_setup;
        if *verdict == Verdict::Failed && !shown {
            for (stream, tail) in [("stdout", stdout_tail), ("stderr", stderr_tail)] {
                let lines: Vec<&str> = tail.lines().collect();
                for text in &lines[lines.len().saturating_sub(12)..] {
                    self.line(now, &format!("        {} {}", self.paint(DIM, &format!("{stream} |")), short(text)))?;
                }
            }
        }
        Ok(())
    }

    fn cleaned(
        &mut self,
        now: u64,
        guest: &GuestId,
        left: &[String],
        kept: bool,
        (adopted, freed): (bool, Option<u64>),
        view: &RunView,
    ) -> io::Result<()> {
        for what in left {
            self.line(now, &self.paint(RED, &format!("NOT CLEANED UP: {guest}: {}", safe(what))))?;
        }
        if left.is_empty() && !kept && self.style.level >= Level::Normal {
            let took = view.guests.get(guest).and_then(|g| g.done.iter().rfind(|(p, _)| *p == Phase::Cleanup));
            let took = took.map(|(_, ms)| format!(" in {}", time(*ms))).unwrap_or_default();
            let freed = freed.map(|bytes| format!(", {} of disk freed", show_size(bytes))).unwrap_or_default();
            let text = if adopted {
                format!("{guest} was put back to how it was found{took}{freed}")
            } else {
                format!("removed {guest} (verified{took}{freed})")
            };
            self.line(now, &text)?;
        }
        Ok(())
    }
}

impl ReportSink for Text {
    fn name(&self) -> String {
        "to the terminal".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        self.print(event, view)?;
        // One screen line for a burst of output is enough.
        if matches!(event.kind, EventKind::Output { .. }) { Ok(()) } else { self.redraw(event.elapsed_ms, view) }
    }

    fn idle(&mut self, now: u64, view: &RunView) -> io::Result<()> {
        if now.saturating_sub(self.last_line_ms) >= HEARTBEAT && view.exit.is_none() {
            let text = progress::line(view, now, usize::MAX);
            self.line(now, &format!("  ... {}", if text.is_empty() { "still running" } else { &text }))?;
        }
        self.redraw(now, view)
    }
}

fn color_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => GREEN,
        Verdict::Flaky => YELLOW,
        Verdict::Failed | Verdict::Infra => RED,
        Verdict::Skipped | Verdict::Cancelled => DIM,
    }
}

fn time(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}

/// Returns a line of a failed case's output, cut to what a screen can take.
fn short(text: &str) -> String {
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{} ... ({} more bytes in the log)", safe(&text[..end]), text.len() - end),
        None => safe(text),
    }
}

/// Guest text for a terminal and a CI log: clean, and without what a CI system takes for a command in mid-line.
pub fn safe(text: &str) -> String {
    let clean: Vec<String> = text.split('\n').map(|l| Clean::from_text(l).into_string()).collect();
    let mut out = String::new();
    for c in clean.join("\n").chars() {
        if matches!(c, '#' | ':') && out.ends_with(c) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::jsonl::Shared;

    /// A recorded run, read as a person would see it on a dumb terminal.
    #[test]
    fn a_recorded_run_reads_well() {
        let buffer = Shared::default();
        let style = Style { color: false, live: false, level: Level::Normal, width: 80 };
        let mut sink = Text::new(Box::new(buffer.clone()), style, PlanIndex::default());
        let mut view = RunView::default();
        for line in include_str!("../../../testkit/records/mixed.jsonl").lines() {
            let event: Event = serde_json::from_str(line).expect("event");
            view.apply(&event);
            sink.event(&event, &view).expect("written");
        }
        insta::assert_snapshot!(buffer.text());
    }

    #[test]
    fn ci_commands_in_guest_text_are_broken_up() {
        for hostile in [
            "::set-env name=x::y",
            "a ##[error]x",
            "##vso[task.setvariable]x",
            "##teamcity[x]",
            "###[error]x",
            "a:::error::y",
            "\x1b]0;t\x07::error::x",
        ] {
            let shown = safe(hostile);
            assert!(!shown.contains("::") && !shown.contains("##") && !shown.contains('\x1b'), "{shown}");
        }
    }

    #[test]
    fn silence_is_broken_every_thirty_seconds() {
        let buffer = Shared::default();
        let style = Style { color: false, live: false, level: Level::Normal, width: 80 };
        let mut sink = Text::new(Box::new(buffer.clone()), style, PlanIndex::default());
        let view = RunView::default();
        for now in (0..=90_000).step_by(1000) {
            sink.idle(now, &view).expect("written");
        }
        assert_eq!(buffer.text().lines().count(), 3);
    }
}
