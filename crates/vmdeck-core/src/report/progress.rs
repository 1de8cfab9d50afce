//! The one line that says what is being done now, how long it has taken and how long it usually takes.
//!
//! Pure text; putting it on a terminal is `text`'s work.

use std::time::Duration;
use vmdeck_model::{
    quantity::show_duration,
    run_view::{GuestView, LockView, OpenPhase, RunView},
};

/// Remembers what is on the screen, so that nothing is written when nothing changed.
#[derive(Debug, Default)]
pub(super) struct ProgressLine {
    shown: String,
}

impl ProgressLine {
    /// Returns the text, if it differs from what is shown.
    pub(super) fn change(&mut self, text: String) -> Option<String> {
        if text == self.shown {
            return None;
        }
        self.shown.clone_from(&text);
        Some(text)
    }

    /// Returns whether something is shown; it counts as gone from now on.
    pub(super) fn take_shown(&mut self) -> bool {
        !std::mem::take(&mut self.shown).is_empty()
    }
}

/// Returns what is being done, in at most `width` columns; empty = nothing.
pub(super) fn line(view: &RunView, now_ms: u64, width: usize) -> String {
    if view.exit.is_some() {
        return String::new();
    }
    let mut parts: Vec<String> =
        view.guests.iter().filter_map(|(id, guest)| of_guest(guest, now_ms).map(|t| format!("{id}: {t}"))).collect();
    if let LockView::Waiting(who) = &view.lock {
        parts.push(format!("waiting for {who}"));
    }
    if parts.is_empty() {
        return String::new();
    }
    let done = view.tally.total();
    let text = format!("[{done}/{}] {}", view.planned, parts.join(" | "));
    text.chars().take(width.saturating_sub(1)).collect()
}

fn of_guest(guest: &GuestView, now_ms: u64) -> Option<String> {
    let open = guest.open.last()?;
    let took = now_ms.saturating_sub(open.since_ms);
    if let Some((suite, case)) = &guest.case {
        let tests = guest.progress.as_ref().map(|progress| format!(" ({progress})")).unwrap_or_default();
        return Some(format!("{suite}/{case} {}{tests}", time(now_ms.saturating_sub(guest.case_since_ms))));
    }
    let mut text = format!("{} {}", open.phase.as_str(), time(took));
    if let Some(usual) = open.usual_ms {
        text.push_str(&format!(" (usual {})", time(usual)));
        text.push_str(&bar(took, usual));
        if let Some(left) = left(open, took) {
            text.push_str(&format!(" ~{} left", time(left)));
        }
    }
    Some(text)
}

/// Returns milliseconds that the phase still takes if it is as long as usual.
fn left(open: &OpenPhase, took: u64) -> Option<u64> {
    open.usual_ms.and_then(|usual| usual.checked_sub(took)).filter(|left| *left > 0)
}

fn bar(took: u64, usual: u64) -> String {
    const CELLS: u64 = 10;
    let full = (took * CELLS / usual.max(1)).min(CELLS);
    let cells: String = (0..CELLS).map(|i| if i < full { '=' } else { ' ' }).collect();
    format!(" [{cells}]")
}

fn time(ms: u64) -> String {
    // Whole seconds once it takes long: a line that changes ten times a second is noise.
    show_duration(Duration::from_millis(if ms >= 10_000 { ms / 1000 * 1000 } else { ms / 100 * 100 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::event::Phase;

    #[test]
    fn the_time_left_comes_from_earlier_boots() {
        let open = OpenPhase { phase: Phase::Kernel, since_ms: 0, usual_ms: Some(2000), rest_ms: None, quiet_ms: None };
        assert_eq!(left(&open, 500), Some(1500));
        assert_eq!(left(&open, 5000), None);
        assert_eq!(bar(500, 2000), " [==        ]");
        assert_eq!(bar(9000, 2000), " [==========]");
    }
}
