//! The run pane: guests, suites and cases as a tree, with verdicts, times and why something was not green.

use super::{cut, fit, frame_of, guest, paint, span, style, symbols};
use crate::{
    model::{Model, Pane},
    tree::{Node, Standing},
    update::first_row,
};
use ratatui::{Frame, layout::Rect, text::Line};
use vmdeck_model::outcome::Verdict;

/// Draws it.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let rows = usize::from(area.height.saturating_sub(2));
    let first = first_row(model.run.at, rows, model.tree.len());
    let now = model.run_ms();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, node) in model.tree.iter().enumerate().skip(first).take(rows) {
        let line = row(model, node, now, width);
        let is_current = index == model.run.at && model.focus == Pane::Run;
        lines.push(if is_current { line.style(style(model, "ui.selection")) } else { line });
    }
    if lines.is_empty() {
        lines.push(Line::from(span(model, "ui.dim", "no cases: the config has no suite that runs on a guest")));
    }
    let mut extra = Vec::new();
    if !model.run.filter.is_empty() {
        extra.push(span(model, "ui.badge", format!(" /{} ", model.run.filter)));
    }
    paint(frame, area, frame_of(model, Pane::Run, extra), lines);
}

fn row(model: &Model, node: &Node, now: u64, width: usize) -> Line<'static> {
    let ascii = model.look.ascii;
    let (sign, role) = symbols::standing(model, node.standing);
    let indent = "  ".repeat(node.depth());
    let fold = match (node.case.is_some(), node.folded) {
        (true, _) => "",
        (_, true) => symbols::pick(model, "▸ ", "+ "),
        _ => symbols::pick(model, "▾ ", "- "),
    };
    let name_width = (width / 2).clamp(10, 40);
    let name = fit(&format!("{indent}{fold}{}", node.name()), name_width.saturating_sub(2), ascii);
    let mut spans = vec![span(model, role, format!("{sign} ")), span(model, "ui.text", name)];
    if node.case.is_none() {
        spans.push(span(model, "ui.dim", format!(" {}/{}", node.tally.total(), node.planned)));
        for verdict in [Verdict::Failed, Verdict::Infra, Verdict::Flaky] {
            let count = node.tally.of(verdict);
            if count > 0 {
                let (sign, role) = symbols::verdict(model, verdict);
                spans.push(span(model, role, format!(" {sign} {count} {verdict}")));
            }
        }
        return Line::from(spans);
    }
    let (word, time) = match node.standing {
        Standing::Waiting => (String::new(), String::new()),
        Standing::On(since) => ("running".to_owned(), guest::time(now.saturating_sub(since))),
        Standing::Ended(verdict) => (verdict.to_string(), guest::time(node.took_ms)),
    };
    spans.push(span(model, role, format!(" {word:<9}")));
    spans.push(span(model, "ui.dim", format!("{time:>6} ")));
    let used = name_width + 2 + 9 + 7;
    let message = node.message.lines().next().unwrap_or_default();
    spans.push(span(model, "ui.dim", cut(message, width.saturating_sub(used), ascii)));
    Line::from(spans)
}
