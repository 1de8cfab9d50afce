//! What preflight found, with what to do about each.

use super::{
    host,
    paint::{span, style},
    window::window,
};
use crate::{model::Model, notices, role::StyleRole};
use ratatui::{Frame, text::Line, widgets::Paragraph};
use vmdeck_model::event::Severity;

/// Draws the list; the current finding is the first that is seen if they do not all fit.
pub(super) fn draw(model: &Model, at: usize, frame: &mut Frame<'_>) {
    let is_fit = !notices::findings(model).iter().any(|finding| finding.severity == Severity::Fatal);
    let what = if is_fit { "preflight" } else { "this host is not ready" };
    let title = &format!("{what}: Enter runs the command, y copies it, Esc closes");
    let area = window(model, frame, title, 110, frame.area().height.saturating_sub(2));
    let width = usize::from(area.width);
    let (mut lines, mut begins) = (Vec::new(), 0);
    for (index, finding) in notices::findings(model).into_iter().enumerate() {
        if index == at {
            begins = lines.len();
        }
        let mut rows = host::rows(model, finding, width);
        if let Some(words) = notices::fix(model, finding) {
            let command = notices::command(words);
            rows.push(Line::from(span(model, StyleRole::UiText, format!("      $ {command}"))));
        }
        let chosen = |line: Line<'static>| line.style(style(model, StyleRole::UiSelection));
        lines.extend(rows.into_iter().map(|line| if index == at { chosen(line) } else { line }));
    }
    let rows = usize::from(area.height);
    let first = if lines.len() <= rows { 0 } else { begins.min(lines.len() - rows) };
    frame.render_widget(Paragraph::new(lines.split_off(first)), area);
}
