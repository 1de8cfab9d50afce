//! The run pane: guests, suites and cases as a tree, with verdicts, times and why something was not green.

use super::{
    guest,
    paint::{frame_of, paint, span, style},
    sparkline, symbols,
    text::{cut, fit},
};
use crate::{
    layout::first_row,
    look::CaseOrder,
    model::{Model, Pane},
    past_runs::CaseResult,
    role::StyleRole,
    run_node::{NodeState, RunNode},
};
use ratatui::{Frame, layout::Rect, text::Line};
use unicode_width::UnicodeWidthStr;
use vmdeck_model::outcome::Verdict;

/// How many of the last verdicts of a case are shown.
const PAST: usize = 8;
/// The columns of the durations, and of how often it was not green.
const TREND: usize = PAST + 15;
/// How much of a message must have room beside them, in columns.
const MESSAGE: usize = 60;
/// From how many columns on there is room for them.
const WIDE: usize = 60;

/// Draws the run pane.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let rows = usize::from(area.height.saturating_sub(2));
    let first = first_row(model.panes.run.at, rows, model.tree.len());
    let now = model.run_ms();
    let names = name_width(model, width);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, node) in model.tree.iter().enumerate().skip(first).take(rows) {
        let line = row(model, node, now, names, width);
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
    if model.appearance.look.order != CaseOrder::Planned {
        extra.push(span(model, StyleRole::UiDim, format!(" {} ", model.appearance.look.order.word())));
    }
    paint(frame, area, frame_of(model, Pane::Run, extra), lines);
}

/// Returns how long a case took lately as bars, then how often it was not green.
fn trend(model: &Model, node: &RunNode, past: &[CaseResult]) -> String {
    let times: Vec<u64> = past.iter().map(|(_, ms)| *ms).collect();
    let top = times.iter().max().copied().unwrap_or(1);
    let rate = model.history.trouble(&node.selector()).map(|rate| format!(" {rate}% not green")).unwrap_or_default();
    format!("{}{rate}", sparkline::bars(model, &times, top, PAST))
}

/// Returns the columns of the names: as many as the longest needs, and at most half, so that why something failed has room.
fn name_width(model: &Model, width: usize) -> usize {
    let longest = model.tree.iter().map(|node| 2 * node.depth() + 2 + node.name().width()).max().unwrap_or(0);
    (longest + 3).clamp(10, (width / 2).clamp(10, 40))
}

fn row(model: &Model, node: &RunNode, now: u64, name_width: usize, width: usize) -> Line<'static> {
    let ascii = model.appearance.ascii;
    let (sign, role) = symbols::state(model, node.state);
    let indent = "  ".repeat(node.depth());
    let fold = match (node.case.is_some(), node.folded) {
        (true, _) if !node.has_subtests => "",
        (_, true) => symbols::pick(model, "▸ ", "+ "),
        _ => symbols::pick(model, "▾ ", "- "),
    };
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
    // What is remembered is remembered of cases.
    let past = if node.is_case() { model.history.of(&node.selector(), PAST) } else { &[] };
    let message = node.message.lines().next().unwrap_or_default();
    let mut used = name_width + 2 + 9 + 7;
    // Why it failed comes first.
    let has_room = width >= WIDE && (message.is_empty() || used + PAST + 1 + message.width().min(MESSAGE) <= width);
    if has_room && !past.is_empty() {
        spans.extend(past.iter().map(|(verdict, _)| {
            let (sign, role) = symbols::verdict(model, *verdict);
            span(model, role, sign)
        }));
        spans.push(span(model, StyleRole::UiDim, " ".repeat(PAST - past.len() + 1)));
        used += PAST + 1;
        if message.is_empty() && used + TREND <= width {
            spans.push(span(model, StyleRole::UiDim, trend(model, node, past)));
        }
    }
    spans.push(span(model, StyleRole::UiDim, cut(message, width.saturating_sub(used), ascii)));
    Line::from(spans)
}
