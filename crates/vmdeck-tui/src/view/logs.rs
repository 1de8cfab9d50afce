//! The logs pane: the lines of the window, or a console that is typed into.

use super::{
    paint::{frame_of, paint, span, style},
    symbols,
};
use crate::{
    console::AttachedConsole,
    logs::{
        Shown, TimeMode,
        ansi::{self, LineStyle},
    },
    model::{Model, Pane},
    role::StyleRole,
};
use ratatui::{
    Frame,
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthChar;
use vmdeck_model::ids::GuestId;
use vmdeck_model::quantity::show_count;

/// Draws the logs pane.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if let Some(console) = &model.console {
        return draw_console(model, console, frame, area);
    }
    let width = usize::from(area.width.saturating_sub(2));
    let rows = usize::from(area.height.saturating_sub(2));
    let shown = model.logs.window(rows);
    let mut before = first_time(model, &shown);
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut current_row = 0;
    for line in &shown {
        let built = build(model, line, before, width);
        before = line.ms.or(before);
        if line.number == model.logs.at {
            current_row = lines.len();
        }
        lines.extend(built);
    }
    if lines.len() > rows {
        // Wrapped lines take more rows than there are: the current line, or the end, is what must be seen.
        let end = if model.logs.follow { lines.len() } else { (current_row + 1).max(rows) };
        lines.drain(end..);
        lines.drain(..end - rows);
    }
    if lines.is_empty() {
        let text = match &model.logs.source {
            Some(_) => "nothing was written yet",
            None if model.shown.view.run.is_none() => "no run yet: r runs what is selected, s boots a guest",
            None => "no guest has written anything yet",
        };
        lines.push(Line::from(span(model, StyleRole::UiDim, text)));
    }
    paint(frame, area, frame_of(model, Pane::Logs, title(model)), lines);
}

fn title(model: &Model) -> Vec<Span<'static>> {
    let logs = &model.logs;
    let name = match &logs.source {
        Some(source) => format!(" {} {} ", source.guest, source.label),
        None => " all by time ".to_owned(),
    };
    let mut out = vec![span(model, StyleRole::UiText, name)];
    let count = logs.count();
    if !count.is_empty() {
        out.push(span(model, StyleRole::LogMatch, format!(" /{count} ")));
    }
    if let Some(error) = logs.error_count() {
        out.push(span(model, StyleRole::StateBad, format!(" {error} ")));
    }
    let (_, end) = logs.range();
    let place = if logs.follow {
        {
            let lines = show_count(usize::try_from(end).unwrap_or(usize::MAX), "line");
            format!(" {} {lines} ", symbols::pick(model, "▼ follow", "follow"))
        }
    } else {
        let new = logs.unseen();
        let new = if new > 0 { format!(", {} {new} new", symbols::pick(model, "▼", "v")) } else { String::new() };
        format!(" PAUSED {}/{end}{new} ", logs.at + 1)
    };
    out.push(span(model, if logs.follow { StyleRole::StateOk } else { StyleRole::StateWarn }, place));
    for (on, word) in [
        (logs.wrap, "wrap"),
        (logs.only, "only matches"),
        (logs.selected_from.is_some(), "selecting"),
        (logs.line_style == LineStyle::Plain, "plain"),
        (logs.line_style == LineStyle::Raw, "raw"),
        (logs.times != TimeMode::Off, logs.times.word()),
    ] {
        if on {
            out.push(span(model, StyleRole::UiDim, format!(" {word} ")));
        }
    }
    out
}

/// Returns the time of the line before the first one, for the deltas.
fn first_time(model: &Model, shown: &[Shown]) -> Option<u64> {
    if model.logs.times != TimeMode::Delta {
        return None;
    }
    let first = shown.first()?.number.checked_sub(1)?;
    model.logs.read(first, 1).first()?.ms
}

/// Returns the rows of a line: one, or several where it is wrapped.
fn build(model: &Model, line: &Shown, before: Option<u64>, width: usize) -> Vec<Line<'static>> {
    let logs = &model.logs;
    let mut head: Vec<Span<'static>> = Vec::new();
    if logs.times != TimeMode::Off {
        head.push(span(model, StyleRole::LogTime, format!("{:>12} ", time(model, line, before))));
    }
    let sign = if logs.is_bookmarked(line.number) { symbols::pick(model, "◆", "#") } else { " " };
    head.push(span(model, StyleRole::LogBookmark, sign));
    if let Some((guest, from)) = &line.origin {
        head.push(span(model, guest_role(model, guest), format!("{guest} ")));
        if from != "console" {
            head.push(span(model, StyleRole::UiDim, format!("{from} ")));
        }
    }
    let parts = highlighted(model, line);
    let used: usize = head.iter().map(Span::width).sum();
    let room = width.saturating_sub(used).max(1);
    let (from, to) = logs.selection();
    let is_current = line.number == logs.at && !logs.follow;
    let is_selected = logs.selected_from.is_some() && (from..=to).contains(&line.number);
    let paint = |line: Line<'static>| {
        if is_current || is_selected { line.style(style(model, StyleRole::LogCursor)) } else { line }
    };
    if !logs.wrap {
        head.extend(window(&parts, logs.left, room));
        return vec![paint(Line::from(head))];
    }
    let rows = wrapped(&parts, room);
    let mut out = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let lead = if index == 0 { std::mem::take(&mut head) } else { vec![Span::raw(" ".repeat(used))] };
        out.push(paint(Line::from([lead, row].concat())));
    }
    out
}

fn time(model: &Model, line: &Shown, before: Option<u64>) -> String {
    let Some(ms) = line.ms else { return String::new() };
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    match model.logs.times {
        TimeMode::Off => String::new(),
        TimeMode::Clock => {
            let wall = model.shown.began_wall_ms.map(|began| began + ms.cast_signed());
            let time = wall.and_then(chrono::DateTime::from_timestamp_millis);
            time.map(|t| t.format("%H:%M:%S%.3f").to_string()).unwrap_or_default()
        }
        TimeMode::Power => {
            let guest = line.origin.as_ref().map(|(g, _)| g).or(model.logs.source.as_ref().map(|s| &s.guest));
            let powered = guest.and_then(|g| model.shown.view.guests.get(g)).and_then(|v| v.powered_ms).unwrap_or(0);
            seconds(ms.saturating_sub(powered))
        }
        TimeMode::Delta => before.map_or(String::new(), |before| format!("+{}", seconds(ms.saturating_sub(before)))),
    }
}

fn guest_role(model: &Model, guest: &GuestId) -> StyleRole {
    let index = model.shown.view.guests.keys().position(|g| g == guest).unwrap_or(0);
    StyleRole::GUESTS[index % StyleRole::GUESTS.len()]
}

/// Returns the line's parts with the matches marked; a line that tells of an error, and has no colours of its own, gets one.
fn highlighted(model: &Model, line: &Shown) -> Vec<(String, Style)> {
    let depth = model.appearance.theme.depth;
    let fitted = |s: Style| Style { fg: s.fg.map(|c| depth.fit(c)), bg: s.bg.map(|c| depth.fit(c)), ..s };
    let mut parts: Vec<(String, Style)> = line.parts.iter().map(|(t, s)| (t.clone(), fitted(*s))).collect();
    let Some(search) = &model.logs.search else { return parts };
    let text = ansi::plain(&line.parts);
    let role = if line.number == model.logs.at { StyleRole::LogMatchNow } else { StyleRole::LogMatch };
    for (from, to) in search.query.places(&text) {
        parts = mark(parts, from, to, style(model, role));
    }
    parts
}

/// Gives the bytes `from..to` of the text another style.
fn mark(parts: Vec<(String, Style)>, from: usize, to: usize, style: Style) -> Vec<(String, Style)> {
    let mut out = Vec::with_capacity(parts.len() + 2);
    let mut at = 0;
    for (text, own) in parts {
        let end = at + text.len();
        let (a, b) = (from.clamp(at, end) - at, to.clamp(at, end) - at);
        for (piece, look) in [(&text[..a], own), (&text[a..b], own.patch(style)), (&text[b..], own)] {
            if !piece.is_empty() {
                out.push((piece.to_owned(), look));
            }
        }
        at = end;
    }
    out
}

/// Returns the columns `left..left + room` of a line.
fn window(parts: &[(String, Style)], left: usize, room: usize) -> Vec<Span<'static>> {
    let mut out: Vec<Span<'static>> = Vec::new();
    let mut column = 0;
    for (text, style) in parts {
        let mut piece = String::new();
        for c in text.chars() {
            let width = c.width().unwrap_or(0);
            if column >= left && column + width <= left + room {
                piece.push(c);
            }
            column += width;
        }
        if !piece.is_empty() {
            out.push(Span::styled(piece, *style));
        }
        if column >= left + room {
            break;
        }
    }
    out
}

fn wrapped(parts: &[(String, Style)], room: usize) -> Vec<Vec<Span<'static>>> {
    let mut rows = vec![Vec::new()];
    let mut column = 0;
    for (text, style) in parts {
        let mut piece = String::new();
        for c in text.chars() {
            let width = c.width().unwrap_or(0);
            if column + width > room {
                if let Some(row) = rows.last_mut() {
                    row.push(Span::styled(std::mem::take(&mut piece), *style));
                }
                rows.push(Vec::new());
                column = 0;
            }
            piece.push(c);
            column += width;
        }
        if let Some(row) = rows.last_mut() {
            row.push(Span::styled(piece, *style));
        }
    }
    rows
}

/// The screen of an attached console.
fn draw_console(model: &Model, console: &AttachedConsole, frame: &mut Frame<'_>, area: Rect) {
    let extra = vec![
        span(model, StyleRole::UiText, format!(" {} serial console ", console.guest)),
        span(model, StyleRole::UiKey, " ctrl-] "),
        span(model, StyleRole::UiDim, "leaves "),
    ];
    let block = frame_of(model, Pane::Logs, extra);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let depth = model.appearance.theme.depth;
    let buffer = frame.buffer_mut();
    for row in 0..inner.height {
        for column in 0..inner.width {
            let Some((text, own)) = console.cell(row, column) else { continue };
            let own = Style { fg: own.fg.map(|c| depth.fit(c)), bg: own.bg.map(|c| depth.fit(c)), ..own };
            if let Some(cell) = buffer.cell_mut(Position::new(inner.x + column, inner.y + row)) {
                cell.set_symbol(text).set_style(own);
            }
        }
    }
    if let Some((row, column)) = console.cursor().filter(|_| model.panes.focus == Pane::Logs && model.overlay.is_none())
        && row < inner.height
        && column < inner.width
    {
        frame.set_cursor_position(Position::new(inner.x + column, inner.y + row));
    }
}
