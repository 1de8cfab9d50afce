//! The list of the errors of a run, and the comparison of a case with the last time that it passed.

use super::{
    paint::{span, style},
    symbols,
    text::cut,
    window::window,
};
use crate::{errors::ErrorRow, green_diff::DiffLine, layout::first_row, model::Model, role::StyleRole};
use ratatui::{Frame, text::Line, widgets::Paragraph};

/// Draws the list of errors.
pub(super) fn errors(model: &Model, all: &[ErrorRow], at: usize, frame: &mut Frame<'_>) {
    let ascii = model.appearance.ascii;
    let failures = all.iter().filter(|row| !row.is_line()).count();
    let title = format!("errors ({failures}): Enter shows one in its log, Esc closes");
    let area = window(model, frame, &title, 140, frame.area().height.saturating_sub(2));
    let (rows, width) = (usize::from(area.height), usize::from(area.width));
    let mut lines = Vec::new();
    for (index, row) in all.iter().enumerate().skip(first_row(at, rows, all.len())).take(rows) {
        let line = if row.is_line() {
            Line::from(span(
                model,
                StyleRole::UiText,
                format!("    {}", cut(&row.text, width.saturating_sub(4), ascii)),
            ))
        } else {
            Line::from(vec![
                span(model, StyleRole::StateBad, symbols::pick(model, "✗ ", "x ")),
                span(model, StyleRole::StateBad, cut(&row.text, width.saturating_sub(2), ascii)),
            ])
        };
        lines.push(if index == at { line.style(style(model, StyleRole::UiSelection)) } else { line });
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// Draws the comparison of a case with the last time that it passed.
pub(super) fn comparison(model: &Model, title: &str, all: &[DiffLine], top: usize, frame: &mut Frame<'_>) {
    let title = format!("{title} beside the last time that it passed; y copies, Esc closes");
    let area = window(model, frame, &title, 140, frame.area().height.saturating_sub(2));
    let cut = |text: &str| cut(text, usize::from(area.width), model.appearance.ascii);
    let seen = all.iter().skip(top).take(usize::from(area.height));
    let lines: Vec<Line<'_>> = seen.map(|line| Line::from(span(model, line.role, cut(&line.text)))).collect();
    frame.render_widget(Paragraph::new(lines), area);
}
