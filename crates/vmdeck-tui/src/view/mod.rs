//! Draws the state. Nothing is decided or changed here; one file for each pane.

mod details;
mod events;
mod footer;
mod guest;
mod header;
mod host;
mod logs;
mod machines;
mod overlays;
mod run;
mod symbols;

use super::{
    layout::Layout,
    model::{Model, Pane},
};
use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, BorderType, Borders, Paragraph},
};

pub(super) use footer::track_start;

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame<'_>) {
    let layout = Layout::of(model);
    header::draw(model, frame, layout.header);
    for (pane, area) in &layout.panes {
        match pane {
            Pane::Machines => machines::draw(model, frame, *area),
            Pane::Lock => host::lock(model, frame, *area),
            Pane::Preflight => host::preflight(model, frame, *area),
            Pane::Logs => logs::draw(model, frame, *area),
            Pane::Run => run::draw(model, frame, *area),
            Pane::Events => events::draw(model, frame, *area),
        }
    }
    if let Some(bar) = layout.bar {
        footer::replay(model, frame, bar);
    }
    footer::draw(model, frame, layout.footer);
    overlays::draw(model, frame);
}

/// The style of a role.
fn style(model: &Model, role: &str) -> Style {
    model.look.theme.style(role)
}

fn span(model: &Model, role: &str, text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), style(model, role))
}

/// A pane's frame with its key and title; `extra` stands to the right.
fn frame_of<'a>(model: &Model, pane: Pane, extra: Vec<Span<'a>>) -> Block<'a> {
    let has_focus = model.focus == pane && model.overlay.is_none();
    let suffix = if has_focus { "_focus" } else { "" };
    let number = Pane::ALL.iter().position(|p| *p == pane).unwrap_or(0) + 1;
    let mut title = vec![
        Span::raw(" "),
        span(model, "ui.key", number.to_string()),
        span(model, &format!("ui.title{suffix}"), format!(" {} ", pane.title())),
    ];
    if has_focus && model.look.theme.name == "mono" {
        title.insert(0, Span::raw(">"));
    }
    let block = Block::new()
        .borders(Borders::ALL)
        .border_type(BorderType::Plain)
        .border_style(style(model, &format!("ui.border{suffix}")))
        .title_top(Line::from(title));
    let block = if model.look.ascii { block.border_set(symbols::ASCII_BORDER) } else { block };
    if extra.is_empty() { block } else { block.title_top(Line::from(extra).right_aligned()) }
}

/// Lines in a frame.
fn paint(frame: &mut Frame<'_>, area: Rect, block: Block<'_>, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A text cut to so many columns, with a mark where it was cut.
fn cut(text: &str, columns: usize, ascii: bool) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= columns {
        return text.to_owned();
    }
    let mark = if ascii { "~" } else { "…" };
    let (mut out, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    if columns > 0 {
        out.push_str(mark);
    }
    out
}

/// A text in exactly so many columns.
fn fit(text: &str, columns: usize, ascii: bool) -> String {
    use unicode_width::UnicodeWidthStr;
    let text = cut(text, columns, ascii);
    let pad = columns.saturating_sub(text.width());
    text + &" ".repeat(pad)
}

#[cfg(test)]
mod tests;
