//! The window in the middle of the screen that help, questions and details are drawn in.

use super::{
    paint::{span, style},
    symbols,
};
use crate::{model::Model, role::StyleRole};
use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Borders, Clear, Paragraph, Wrap},
};

/// Draws a window in the middle with these lines, as high as they need.
pub(super) fn show(model: &Model, frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>, width: u16) {
    let room = usize::from(width.min(frame.area().width).saturating_sub(4)).max(1);
    let height: usize = lines.iter().map(|l| l.width().div_ceil(room).max(1)).sum::<usize>() + 2;
    let area = window(model, frame, title, width, u16::try_from(height).unwrap_or(u16::MAX));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

/// Draws an empty window in the middle; returns the area inside its frame.
pub(super) fn window(model: &Model, frame: &mut Frame<'_>, title: &str, width: u16, height: u16) -> Rect {
    let whole = frame.area();
    let (width, height) = (width.min(whole.width), height.min(whole.height));
    let area = Rect::new((whole.width - width) / 2, (whole.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let block = Block::new()
        .borders(Borders::ALL)
        .border_style(style(model, StyleRole::UiBorderFocus))
        .title_top(span(model, StyleRole::UiTitleFocus, format!(" {title} ")));
    let block = if model.appearance.ascii { block.border_set(symbols::ASCII_BORDER) } else { block };
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner.inner(ratatui::layout::Margin::new(1, 0))
}
