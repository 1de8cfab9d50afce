//! The run pane: guests, suites and cases as a tree, with verdicts, times and why something was not green.

use super::{
    guest,
    paint::{frame_of, paint, span, style},
    symbols,
    text::{cut, fit},
};
use crate::{
    layout::first_row,
    model::{Model, Pane},
    role::StyleRole,
    run_node::{NodeState, RunNode},
};
use ratatui::{Frame, layout::Rect, text::Line};
use vmdeck_model::outcome::Verdict;

/// How many of the last verdicts of a case are shown.
const PAST: usize = 8;
/// From how many columns on there is room for them.
const WIDE: usize = 60;

/// Draws the run pane.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let rows = usize::from(area.height.saturating_sub(2));
    let first = first_row(model.panes.run.at, rows, model.tree.len());
    let now = model.run_ms();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, node) in model.tree.iter().enumerate().skip(first).take(rows) {
        let line = row(model, node, now, width);
        let is_current = index == model.panes.run.at && model.panes.focus == Pane::Run;
        lines.push(if is_current { line.style(style(model, StyleRole::UiSelection)) } else { line });
    }
    if lines.is_empty() {
        lines.push(Line::from(span(model, StyleRole::UiDim, "no cases: the config has no suite that runs on a guest")));
    }
    let mut extra = Vec::new();
    if !model.panes.run.filter.is_empty() {
        extra.push(span(model, StyleRole::UiBadge, format!(" /{} ", model.panes.run.filter)));
    }
    paint(frame, area, frame_of(model, Pane::Run, extra), lines);
}

fn row(model: &Model, node: &RunNode, now: u64, width: usize) -> Line<'static> {
    let ascii = model.appearance.ascii;
    let (sign, role) = symbols::state(model, node.state);
    let indent = "  ".repeat(node.depth());
    let fold = match (node.case.is_some(), node.folded) {
        (true, _) => "",
        (_, true) => symbols::pick(model, "▸ ", "+ "),
        _ => symbols::pick(model, "▾ ", "- "),
    };
    let name_width = (width / 2).clamp(10, 40);
    let name = fit(&format!("{indent}{fold}{}", node.name()), name_width.saturating_sub(2), ascii);
    let mut spans = vec![span(model, role, format!("{sign} ")), span(model, StyleRole::UiText, name)];
    if node.case.is_none() {
        spans.push(span(model, StyleRole::UiDim, format!(" {}/{}", node.tally.total(), node.planned)));
        for verdict in [Verdict::Failed, Verdict::Infra, Verdict::Flaky] {
            let count = node.tally.of(verdict);
            if count > 0 {
                let (sign, role) = symbols::verdict(model, verdict);
                spans.push(span(model, role, format!(" {sign} {count} {verdict}")));
            }
        }
        return Line::from(spans);
    }
    let (word, time) = match node.state {
        NodeState::Waiting => (String::new(), String::new()),
        NodeState::On(since) => ("running".to_owned(), guest::time(now.saturating_sub(since))),
        NodeState::Ended(verdict) => (verdict.to_string(), guest::time(node.took_ms)),
    };
    spans.push(span(model, role, format!(" {word:<9}")));
    spans.push(span(model, StyleRole::UiDim, format!("{time:>6} ")));
    let past = model.history.of(&node.selector(), PAST);
    let mut used = name_width + 2 + 9 + 7;
    if width >= WIDE && !past.is_empty() {
        spans.extend(past.iter().map(|verdict| {
            let (sign, role) = symbols::verdict(model, *verdict);
            span(model, role, sign)
        }));
        spans.push(span(model, StyleRole::UiDim, " ".repeat(PAST - past.len() + 1)));
        used += PAST + 1;
    }
    let message = node.message.lines().next().unwrap_or_default();
    spans.push(span(model, StyleRole::UiDim, cut(message, width.saturating_sub(used), ascii)));
    Line::from(spans)
}
