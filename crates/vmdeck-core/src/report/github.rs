//! GitHub Actions: annotations for the first cases that are not green, a group of lines for each guest, and a table in the step's
//! summary with the worst first.
//!
//! Guest text can issue workflow commands if it reaches the log as it is; here it only ever is an escaped value.

use super::{
    ReportSink,
    plan_index::{PlanIndex, ShownPlace},
};
use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use vmdeck_model::{
    event::{Event, EventKind},
    ids::GuestId,
    lifecycle::MachineState,
    outcome::Verdict,
    quantity::show_duration,
    run_view::{EndedCase, RunView},
    text::Clean,
};

/// Annotations of one kind that GitHub shows for a step.
const ANNOTATIONS: usize = 10;
/// Bytes of a step's summary that GitHub takes; it drops the whole of a longer one.
const SUMMARY_MAX: usize = 1024 * 1024;
/// Bytes of it that are left for the last sentence, and for what other steps of the same job wrote before us.
const ROOM: usize = 64 * 1024;
/// Cases whose last lines the summary shows.
const DETAILS: usize = 20;
/// Last lines of each.
const LINES: usize = 12;

/// See the module.
pub struct Github {
    out: Box<dyn Write + Send>,
    summary: Option<PathBuf>,
    index: PlanIndex,
    errors: usize,
    warnings: usize,
    details: Vec<CaseDetail>,
    /// The first tests of cases that failed at a place that is known: title, place and reason.
    subtests: Vec<(String, ShownPlace, String)>,
    /// The guests that are up.
    active: BTreeSet<GuestId>,
    /// The guest whose lines are being gathered in a group.
    group: Option<GuestId>,
}

impl Github {
    /// Returns a report to this log; `summary` is the file of `GITHUB_STEP_SUMMARY`.
    pub fn new(out: Box<dyn Write + Send>, summary: Option<PathBuf>, index: PlanIndex) -> Self {
        Self {
            out,
            summary,
            index,
            errors: 0,
            warnings: 0,
            details: Vec::new(),
            subtests: Vec::new(),
            active: BTreeSet::new(),
            group: None,
        }
    }

    fn annotate(&mut self, level: &str, title: &str, place: Option<&ShownPlace>, message: &str) -> io::Result<()> {
        let place =
            place.map(|place| format!("file={},line={},", property(&place.file), place.line)).unwrap_or_default();
        writeln!(self.out, "::{level} {place}title={}::{}", property(title), data(message))
    }

    fn case(&mut self, event: &EventKind) -> io::Result<()> {
        let EventKind::CaseEnded {
            guest, suite, case, verdict, message, stdout_tail, stderr_tail, quarantined, ..
        } = event
        else {
            return Ok(());
        };
        if !verdict.is_failure() && *verdict != Verdict::Flaky {
            return Ok(());
        }
        let title = format!("{suite}/{case}@{guest}: {verdict}");
        let place = self.index.place(suite, case);
        if verdict.is_failure() && self.details.len() < DETAILS {
            let tail = if stderr_tail.is_empty() { stdout_tail } else { stderr_tail };
            let lines: Vec<String> = tail.lines().map(str::to_owned).collect();
            let lines = lines[lines.len().saturating_sub(LINES)..].to_vec();
            self.details.push(CaseDetail {
                title: title.clone(),
                place: place.clone(),
                message: message.clone(),
                lines,
            });
        }
        let excuse = quarantined.as_ref().map(|issue| format!(" (quarantined: {issue})")).unwrap_or_default();
        let message = &format!("{message}{excuse}");
        let (level, shown) = if verdict.is_failure() && quarantined.is_none() {
            ("error", &mut self.errors)
        } else {
            ("warning", &mut self.warnings)
        };
        *shown += 1;
        // GitHub shows no more, and one is left for the run's own error.
        if *shown >= ANNOTATIONS {
            return Ok(());
        }
        self.annotate(level, &title, place.as_ref(), message)
    }

    /// Begins the group of a guest's lines, and ends the one before.
    fn group(&mut self, guest: Option<&GuestId>) -> io::Result<()> {
        if self.group.as_ref() == guest {
            return Ok(());
        }
        if self.group.take().is_some() {
            writeln!(self.out, "::endgroup::")?;
        }
        if let Some(guest) = guest {
            writeln!(self.out, "::group::{}", data(guest.as_str()))?;
            self.group = Some(guest.clone());
        }
        Ok(())
    }

    fn ended(&mut self, view: &RunView, error: Option<&str>) -> io::Result<()> {
        self.group(None)?;
        if let Some(error) = error {
            self.annotate("error", "vmdeck", None, error)?;
        }
        // What the cases have left of them.
        let left = (ANNOTATIONS - 1).saturating_sub(self.errors);
        for (title, place, message) in std::mem::take(&mut self.subtests).into_iter().take(left) {
            let message = if message.is_empty() { "failed" } else { &message };
            self.annotate("error", &title, Some(&place), message)?;
        }
        let hidden = self.errors.saturating_sub(ANNOTATIONS - 1);
        if hidden > 0 {
            writeln!(self.out, "{hidden} more cases are not green; the step's summary and junit.xml have them all")?;
        }
        self.out.flush()?;
        let Some(path) = &self.summary else { return Ok(()) };
        let written = std::fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
        let most = SUMMARY_MAX.saturating_sub(ROOM).saturating_sub(written);
        let text = summary(view, &self.index, &self.details, most);
        OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    }
}

impl ReportSink for Github {
    fn name(&self) -> String {
        "the GitHub annotations".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        match &event.kind {
            // The lines of guests that are up at the same time are mixed: no group could hold one of them.
            EventKind::GuestState { guest, to: MachineState::Created, .. } => {
                let alone = self.active.is_empty();
                self.active.insert(guest.clone());
                self.group(Some(guest).filter(|_| alone))
            }
            EventKind::CleanupEnded { guest, .. } => {
                self.active.remove(guest);
                self.group(None)
            }
            EventKind::SubtestEnded { guest, suite, case, subtest, .. }
                if subtest.status.is_failure() && self.subtests.len() < ANNOTATIONS =>
            {
                if let (Some(file), Some(line)) = (&subtest.file, subtest.line) {
                    let place = ShownPlace { file: self.index.file_of(guest, file), line: line as usize };
                    let title = format!("{suite}/{case}@{guest}: {} {}", subtest.name, subtest.status);
                    self.subtests.push((title, place, subtest.message.clone()));
                }
                Ok(())
            }
            EventKind::CaseEnded { .. } => self.case(&event.kind),
            EventKind::RunEnded { error, .. } => self.ended(view, error.as_deref()),
            _ => Ok(()),
        }
    }
}

/// Returns the value of a workflow command.
fn data(text: &str) -> String {
    Clean::from_text(text).as_str().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Returns a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Returns a cell of a Markdown table.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in Clean::from_text(text).as_str().chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '!' | '#' | '~' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Returns a case's place in the summary: the worst first.
fn rank(verdict: Verdict) -> usize {
    let order =
        [Verdict::Failed, Verdict::Infra, Verdict::Flaky, Verdict::Cancelled, Verdict::Skipped, Verdict::Passed];
    order.iter().position(|one| *one == verdict).unwrap_or(order.len())
}

/// Returns the summary of a run in at most this many bytes.
fn summary(view: &RunView, index: &PlanIndex, details: &[CaseDetail], most: usize) -> String {
    let exit = view.exit.map_or_else(|| "?".to_owned(), |e| e.code().to_string());
    let mut out = format!("## vmdeck: exit {exit}\n\n");
    out.push_str(&format!("{} in {}\n\n", view.tally, show_duration(Duration::from_millis(view.now_ms))));
    for detail in details {
        let text = detail.markdown();
        if out.len() + text.len() > most / 2 {
            break;
        }
        out.push_str(&text);
    }
    out.push_str("| guest | case | verdict | time | why |\n|---|---|---|---:|---|\n");
    let mut cases: Vec<&EndedCase> = view.cases.iter().collect();
    cases.sort_by_key(|case| rank(case.verdict));
    for (at, case) in cases.iter().enumerate() {
        let row = row(case, index);
        if out.len() + row.len() > most {
            out.push_str(&format!("\n{} more in junit.xml\n", cases.len() - at));
            return out;
        }
        out.push_str(&row);
    }
    out.push('\n');
    out
}

fn row(case: &EndedCase, index: &PlanIndex) -> String {
    let took = show_duration(Duration::from_millis(case.took_ms));
    let (guest, name) = (cell(case.guest.as_str()), cell(&format!("{}/{}", case.suite, case.case.shown())));
    let place = index.place(&case.suite, &case.case).filter(|_| case.verdict.is_failure());
    let place = place.map(|place| format!(" ({})", cell(&place.to_string()))).unwrap_or_default();
    format!("| {guest} | {name}{place} | {} | {took} | {} |\n", case.verdict, cell(&case.message))
}

/// A case that is not green, with its last lines.
struct CaseDetail {
    title: String,
    place: Option<ShownPlace>,
    message: String,
    lines: Vec<String>,
}

impl CaseDetail {
    fn markdown(&self) -> String {
        let place = self.place.as_ref().map(|place| format!(" ({})", cell(&place.to_string()))).unwrap_or_default();
        let mut out = format!("**{}**{place}: {}\n", cell(&self.title), cell(&self.message));
        if !self.lines.is_empty() {
            // Indented, so that no line of the guest's can end the block.
            out.push('\n');
            for line in &self.lines {
                out.push_str(&format!("    {}\n", Clean::from_text(line)));
            }
        }
        out.push('\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_issue_a_command() {
        let hostile = "x\n::set-env name=PATH::/evil\r\n##[add-mask]y%0A::error::z";
        let value = data(hostile);
        assert!(!value.contains('\n') && !value.contains('\r'));
        assert!(value.contains("%250A"), "an escaped newline in the text stays text: {value}");
        assert!(!property("a,b:c\nd").contains([',', ':', '\n']));
    }

    #[test]
    fn the_summary_is_short_enough_and_has_the_worst_first() {
        let case = |n: u32| EndedCase {
            subtests: None,
            by_subtests: false,
            evidence: None,
            guest: GuestId::new("g").expect("name"),
            suite: vmdeck_model::ids::SuiteId::new("s").expect("name"),
            case: vmdeck_model::ids::CaseId::new(&format!("case-{n:05}")).expect("name"),
            round: 1,
            verdict: if n % 100 == 7 { Verdict::Failed } else { Verdict::Passed },
            exit: None,
            took_ms: 1,
            message: "m".repeat(80),
            span_ms: 0,
            cause: None,
            quarantined: None,
        };
        let view = RunView { cases: (0..20_000).map(case).collect(), ..RunView::default() };
        let text = summary(&view, &PlanIndex::default(), &[], SUMMARY_MAX);
        assert!(text.len() <= SUMMARY_MAX && text.ends_with("more in junit.xml\n"));
        assert_eq!(text.matches("| failed |").count(), 200);
        let failed = text.find("| failed |").expect("failed");
        assert!(failed < text.find("| passed |").expect("passed"));
        let detail = CaseDetail {
            title: "s/a@g".into(),
            place: None,
            message: "exit 1".into(),
            lines: vec!["```".into(), "</details>".into()],
        };
        let text = summary(&view, &PlanIndex::default(), &[detail], SUMMARY_MAX);
        assert!(text.contains("\n    ```\n    </details>\n"), "a line of the guest's cannot end the block");
    }

    #[test]
    fn ten_annotations_and_a_word_on_the_rest() {
        let buffer = crate::report::jsonl::Shared::default();
        let mut sink = Github::new(Box::new(buffer.clone()), None, PlanIndex::default());
        let mut view = RunView::default();
        for line in (0..40).map(|n| {
            format!(
                "{{\"seq\":1,\"at\":\"2026-01-01T00:00:00Z\",\"elapsed_ms\":0,\"kind\":\"case_ended\",\"guest\":\"g\",\"suite\":\"s\",\"case\":\"c{n}\",\
                 \"round\":1,\"verdict\":\"failed\",\"exit\":1,\"took_ms\":0,\"message\":\"exit 1\",\"stdout_tail\":\"\",\"stderr_tail\":\"\"}}"
            )
        }) {
            let event: Event = serde_json::from_str(&line).expect("event");
            view.apply(&event);
            sink.event(&event, &view).expect("written");
        }
        sink.ended(&view, Some("an error")).expect("written");
        let text = buffer.text();
        assert_eq!(text.matches("::error ").count(), ANNOTATIONS);
        assert!(text.contains("31 more cases are not green"), "{text}");
    }

    #[test]
    fn guest_text_cannot_leave_its_cell() {
        assert_eq!(cell("a|b<script>`x`"), "a\\|b&lt;script&gt;\\`x\\`");
    }
}
