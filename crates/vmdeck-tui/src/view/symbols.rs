//! The signs for states, in Unicode or ASCII. A sign never stands alone for a state: a word or a colour is with it.

use crate::{model::Model, role::StyleRole, run_node::NodeState};
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

/// Returns one of the two, as the config wants.
pub(super) fn pick(model: &Model, unicode: &'static str, ascii: &'static str) -> &'static str {
    if model.appearance.ascii { ascii } else { unicode }
}

/// Returns a verdict's sign and role.
pub(super) fn verdict(model: &Model, verdict: Verdict) -> (&'static str, StyleRole) {
    match verdict {
        Verdict::Passed => (pick(model, "✓", "+"), StyleRole::StateOk),
        Verdict::Failed => (pick(model, "✗", "x"), StyleRole::StateBad),
        Verdict::Infra => ("!", StyleRole::StateInfra),
        Verdict::Skipped => ("-", StyleRole::StateIdle),
        Verdict::Cancelled => (pick(model, "⊘", "c"), StyleRole::StateWarn),
        Verdict::Flaky => ("~", StyleRole::StateFlaky),
    }
}

/// Returns the sign and role of a row of the run pane.
pub(super) fn state(model: &Model, state: NodeState) -> (&'static str, StyleRole) {
    match state {
        NodeState::Waiting => (pick(model, "·", "."), StyleRole::StateIdle),
        NodeState::On(_) => (pick(model, "▶", ">"), StyleRole::StateBusy),
        NodeState::Ended(v) => verdict(model, v),
    }
}

/// Returns a severity's role.
pub(super) fn severity(severity: Severity) -> StyleRole {
    match severity {
        Severity::Ok => StyleRole::StateOk,
        Severity::Fixed => StyleRole::StateBusy,
        Severity::Warn => StyleRole::StateWarn,
        Severity::Fatal => StyleRole::StateBad,
    }
}

/// Returns a bar of so many cells, `full` of `all` of them filled.
pub(super) fn bar(model: &Model, full: u64, all: u64, cells: usize) -> (String, String) {
    let filled = usize::try_from(full.min(all) * cells as u64 / all.max(1)).unwrap_or(cells);
    // What has begun is seen.
    let filled = filled.max(usize::from(full > 0)).min(cells);
    let (one, other) = (pick(model, "█", "#"), pick(model, "░", "-"));
    (one.repeat(filled), other.repeat(cells - filled))
}
