//! GitHub Actions: an annotation for each case that is not green, and a table in the step's summary.
//!
//! Guest text can issue workflow commands if it reaches the log as it is; here it only ever is an escaped value.

use super::ReportSink;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use vmdeck_model::{
    event::{Event, EventKind},
    outcome::Verdict,
    quantity::show_duration,
    run_view::RunView,
    text::Clean,
};

/// See the module.
pub struct Github {
    out: Box<dyn Write + Send>,
    summary: Option<PathBuf>,
}

impl Github {
    /// `summary` is the file of `GITHUB_STEP_SUMMARY`.
    pub fn new(out: Box<dyn Write + Send>, summary: Option<PathBuf>) -> Self {
        Self { out, summary }
    }

    fn annotate(&mut self, level: &str, title: &str, message: &str) -> io::Result<()> {
        writeln!(self.out, "::{level} title={}::{}", property(title), data(message))
    }
}

impl ReportSink for Github {
    fn name(&self) -> String {
        "the GitHub annotations".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        match &event.kind {
            EventKind::CaseEnded { guest, suite, case, verdict, message, .. } => {
                let title = format!("{suite}/{case}@{guest}: {verdict}");
                match verdict {
                    Verdict::Failed | Verdict::Infra => self.annotate("error", &title, message),
                    Verdict::Flaky => self.annotate("warning", &title, message),
                    _ => Ok(()),
                }
            }
            EventKind::RunEnded { error, .. } => {
                if let Some(error) = error {
                    self.annotate("error", "vmdeck", error)?;
                }
                self.out.flush()?;
                match &self.summary {
                    Some(path) => {
                        OpenOptions::new().create(true).append(true).open(path)?.write_all(table(view).as_bytes())
                    }
                    None => Ok(()),
                }
            }
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

fn table(view: &RunView) -> String {
    let exit = view.exit.map_or_else(|| "?".to_owned(), |e| e.code().to_string());
    let mut out = format!("## vmdeck: exit {exit}\n\n");
    let counts: Vec<String> =
        Verdict::ALL.iter().filter(|v| view.tally.of(**v) > 0).map(|v| format!("{} {v}", view.tally.of(*v))).collect();
    out.push_str(&format!("{} in {}\n\n", counts.join(", "), show_duration(Duration::from_millis(view.now_ms))));
    out.push_str("| guest | case | verdict | time | why |\n|---|---|---|---:|---|\n");
    for case in &view.cases {
        let took = show_duration(Duration::from_millis(case.took_ms));
        let (guest, name) = (cell(case.guest.as_str()), cell(&format!("{}/{}", case.suite, case.case)));
        out.push_str(&format!("| {guest} | {name} | {} | {took} | {} |\n", case.verdict, cell(&case.message)));
    }
    out.push('\n');
    out
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
    fn guest_text_cannot_leave_its_cell() {
        assert_eq!(cell("a|b<script>`x`"), "a\\|b&lt;script&gt;\\`x\\`");
    }
}
