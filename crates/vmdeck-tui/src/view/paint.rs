//! Styles, frames and lines: what every pane is drawn with.

use super::symbols;
use crate::{
    model::{Model, Pane},
    role::StyleRole,
};
use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, BorderType, Borders, Paragraph},
};

/// Returns the style of a role.
pub(super) fn style(model: &Model, role: StyleRole) -> Style {
    model.appearance.theme.style(role)
}

/// Returns a text in the style of a role.
pub(super) fn span(model: &Model, role: StyleRole, text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), style(model, role))
}

/// Returns a pane's frame with its key and title; `extra` is to the right.
pub(super) fn frame_of<'a>(model: &Model, pane: Pane, extra: Vec<Span<'a>>) -> Block<'a> {
    let has_focus = model.panes.focus == pane && model.overlay.is_none();
    let (title_role, border_role) = if has_focus {
        (StyleRole::UiTitleFocus, StyleRole::UiBorderFocus)
    } else {
        (StyleRole::UiTitle, StyleRole::UiBorder)
    };
    let number = Pane::ALL.iter().position(|p| *p == pane).unwrap_or(0) + 1;
    let mut title = vec![
        Span::raw(" "),
        span(model, StyleRole::UiKey, number.to_string()),
        span(model, title_role, format!(" {} ", pane.title())),
    ];
    if has_focus && model.appearance.theme.name == "mono" {
        title.insert(0, Span::raw(">"));
    }
    let block = Block::new()
        .borders(Borders::ALL)
        .border_type(BorderType::Plain)
        .border_style(style(model, border_role))
        .title_top(Line::from(title));
    let block = if model.appearance.ascii { block.border_set(symbols::ASCII_BORDER) } else { block };
    if extra.is_empty() { block } else { block.title_top(Line::from(extra).right_aligned()) }
}

/// Draws lines in a frame.
pub(super) fn paint(frame: &mut Frame<'_>, area: Rect, block: Block<'_>, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
