//! The signs for states, in Unicode or ASCII. A sign never stands alone for a state: a word or a colour is with it.

use crate::{model::Model, tree::Standing};
use ratatui::symbols::border;
use vmdeck_model::{event::Severity, outcome::Verdict};

/// Frames without box drawing.
pub(super) const ASCII_BORDER: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// One of the two, as the config wants.
pub(super) fn pick(model: &Model, unicode: &'static str, ascii: &'static str) -> &'static str {
    if model.look.ascii { ascii } else { unicode }
}

/// A verdict's sign and role.
pub(super) fn verdict(model: &Model, verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Passed => (pick(model, "✓", "+"), "state.ok"),
        Verdict::Failed => (pick(model, "✗", "x"), "state.bad"),
        Verdict::Infra => ("!", "state.infra"),
        Verdict::Skipped => ("-", "state.idle"),
        Verdict::Cancelled => (pick(model, "⊘", "c"), "state.warn"),
        Verdict::Flaky => ("~", "state.flaky"),
    }
}

/// The sign and role of a row of the run pane.
pub(super) fn standing(model: &Model, standing: Standing) -> (&'static str, &'static str) {
    match standing {
        Standing::Waiting => (pick(model, "·", "."), "state.idle"),
        Standing::On(_) => (pick(model, "▶", ">"), "state.busy"),
        Standing::Ended(v) => verdict(model, v),
    }
}

/// A severity's role.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "state.ok",
        Severity::Fixed => "state.busy",
        Severity::Warn => "state.warn",
        Severity::Fatal => "state.bad",
    }
}

/// A bar of so many cells, `full` of `all` of them filled.
pub(super) fn bar(model: &Model, full: u64, all: u64, cells: usize) -> (String, String) {
    let filled = usize::try_from(full.min(all) * cells as u64 / all.max(1)).unwrap_or(cells);
    // What has begun is seen.
    let filled = filled.max(usize::from(full > 0)).min(cells);
    let (one, other) = (pick(model, "█", "#"), pick(model, "░", "-"));
    (one.repeat(filled), other.repeat(cells - filled))
}
