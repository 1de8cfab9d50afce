//! The end of the text of a run: the table of suites, what failed once more where there was much, the counts.

use super::{BOLD, LONG, Level, RED, Text, color_of, safe, time};
use std::{
    fmt::Write as _,
    io::{self, Write},
};
use vmdeck_model::{
    event::{Event, EventKind},
    quantity::{show_artifacts, show_count},
    run_view::{RunView, SuiteView},
};

impl Text {
    /// Returns one line for each suite in each guest, where there is more than one.
    fn table(&mut self, now: u64, view: &RunView) -> io::Result<()> {
        let suites = view.suites();
        if suites.len() < 2 || self.style.level < Level::Normal {
            return Ok(());
        }
        let several = view.has_several_guests();
        let name = |s: &SuiteView| if several { format!("{}@{}", s.suite, s.guest) } else { s.suite.to_string() };
        let words = suites.iter().map(|s| s.outcome().1.len()).max().unwrap_or_default();
        let names = suites.iter().map(|s| name(s).len()).max().unwrap_or_default();
        self.line(now, "")?;
        for suite in &suites {
            let (verdict, word) = suite.outcome();
            let word = self.paint(color_of(verdict), &format!("{word:<words$}"));
            self.line(now, &format!("  {word} {:<names$} {:>8}", name(suite), time(suite.took_ms)))?;
        }
        self.line(now, "")
    }

    pub(super) fn ended(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        let EventKind::RunEnded { tally, exit, took_ms, skipped_output, error, hint } = &event.kind else {
            return Ok(());
        };
        let now = event.elapsed_ms;
        if *skipped_output > 0 {
            self.line(
                now,
                &format!(
                    "  {} came too fast to show; see the logs in the record",
                    show_count(usize::try_from(*skipped_output).unwrap_or(usize::MAX), "output line")
                ),
            )?;
        }
        if let Some(error) = error {
            self.line(now, &format!("{} {}", self.paint(RED, "error:"), safe(error)))?;
            if let Some(hint) = hint {
                self.line(now, &format!("\nhint: {}\n", safe(hint)))?;
            }
        }
        self.table(now, view)?;
        let (files, bytes) = view.artifacts;
        if files > 0 && self.style.level != Level::Quiet {
            self.line(now, &format!("{} in the record", show_artifacts(files, bytes)))?;
        }
        if tally.total() > LONG && !self.red.is_empty() {
            let (shown, all) = (std::mem::take(&mut self.red), tally.failed + tally.infra + tally.flaky);
            for line in &shown {
                self.line(now, line)?;
            }
            let more = (all as usize).saturating_sub(shown.len());
            if more > 0 {
                self.line(now, &format!("  and {more} more, all in junit.xml of the record"))?;
            }
            self.line(now, "")?;
        }
        let mut counts = String::new();
        for (verdict, text) in tally.counts() {
            let comma = if counts.is_empty() { "" } else { ", " };
            let _ = write!(counts, "{comma}{}", self.paint(color_of(verdict), &text));
        }
        let unrun = (view.planned as u64).saturating_sub(u64::from(tally.total()));
        if unrun > 0 {
            let comma = if counts.is_empty() { "" } else { ", " };
            let _ = write!(counts, "{comma}{unrun} not run");
        }
        let head = match view.planned {
            0 => self.paint(BOLD, "no tests run"),
            planned => self.paint(BOLD, &format!("{}:", show_count(planned, "case"))) + " ",
        };
        if view.subtests.total() > 0 {
            let tests = show_count(view.subtests.total() as usize, "sub-test");
            let _ = write!(counts, "; {tests}: {}", view.subtests);
        }
        self.line(now, &format!("{head}{counts} in {} (exit {})", time(*took_ms), exit.code()))?;
        self.out.flush()
    }
}
