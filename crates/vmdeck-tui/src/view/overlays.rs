//! Help, palette, questions, themes and messages, over the panes.

use super::{cut, details, fit, footer, span, style, symbols};
use crate::{
    keymap::{ActionDef, Power},
    model::Model,
    overlay::{self, Chooser, Confirm, Overlay},
    update::first_row,
};
use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph, Wrap},
};
use unicode_width::UnicodeWidthStr;

/// Draws what is open.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    match &model.overlay {
        None => {}
        Some(Overlay::Help(chooser)) => help(model, chooser, frame),
        Some(Overlay::Palette(chooser)) => palette(model, chooser, frame),
        Some(Overlay::Themes { names, at, .. }) => themes(model, names, *at, frame),
        Some(Overlay::Details(guest)) => details::draw(model, guest, frame),
        Some(Overlay::Confirm(confirm)) => question(model, confirm, frame),
        Some(Overlay::Quit) => quit(model, frame),
        Some(Overlay::Welcome(text)) => welcome(model, text, frame),
        Some(Overlay::Message { title, text }) => {
            let mut lines: Vec<Line<'_>> = text.lines().map(|l| Line::from(span(model, "ui.text", l))).collect();
            lines.extend([Line::default(), keys(model, &[("Enter", "close")])]);
            show(model, frame, title, lines, 76);
        }
    }
}

/// A window in the middle with these lines, as high as they need.
pub(super) fn show(model: &Model, frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>, width: u16) {
    let room = usize::from(width.min(frame.area().width).saturating_sub(4)).max(1);
    let height: usize = lines.iter().map(|l| l.width().div_ceil(room).max(1)).sum::<usize>() + 2;
    let area = window(model, frame, title, width, u16::try_from(height).unwrap_or(u16::MAX));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

/// An empty window in the middle; what is inside its frame.
pub(super) fn window(model: &Model, frame: &mut Frame<'_>, title: &str, width: u16, height: u16) -> Rect {
    let whole = frame.area();
    let (width, height) = (width.min(whole.width), height.min(whole.height));
    let area = Rect::new((whole.width - width) / 2, (whole.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let block = Block::new().borders(Borders::ALL).border_style(style(model, "ui.border_focus")).title_top(span(
        model,
        "ui.title_focus",
        format!(" {title} "),
    ));
    let block = if model.look.ascii { block.border_set(symbols::ASCII_BORDER) } else { block };
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner.inner(ratatui::layout::Margin::new(1, 0))
}

/// Keys with what they do.
fn keys(model: &Model, all: &[(&str, &str)]) -> Line<'static> {
    let spans = all.iter().flat_map(|(key, word)| {
        [span(model, "ui.key", (*key).to_owned()), span(model, "ui.text", format!(" {word}   "))]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn typed(frame: &mut Frame<'_>, area: Rect, lead: usize, line: &crate::prompt::Line) {
    let before: String = line.text().chars().take(line.cursor()).collect();
    let column = u16::try_from(lead + before.width()).unwrap_or(0);
    if area.width > 0 && area.height > 0 {
        frame.set_cursor_position(Position::new((area.x + column).min(area.right() - 1), area.y));
    }
}

fn chooser_rows<'a>(
    model: &Model,
    chooser: &Chooser,
    frame: &mut Frame<'_>,
    title: &str,
    width: u16,
    row: impl Fn(&'static ActionDef, usize) -> Line<'a>,
) {
    let height = frame.area().height.saturating_sub(2);
    let area = window(model, frame, title, width, height);
    let all = overlay::matching(&chooser.line);
    let rows = usize::from(area.height.saturating_sub(1));
    let first = first_row(chooser.at, rows, all.len());
    let mut lines =
        vec![Line::from(vec![span(model, "ui.key", "find: "), span(model, "ui.text", chooser.line.text())])];
    for (index, def) in all.iter().enumerate().skip(first).take(rows) {
        let line = row(def, usize::from(area.width));
        lines.push(if index == chooser.at { line.style(style(model, "ui.selection")) } else { line });
    }
    if all.is_empty() {
        lines.push(Line::from(span(model, "ui.dim", "nothing fits")));
    }
    frame.render_widget(Paragraph::new(lines), area);
    typed(frame, area, "find: ".width(), &chooser.line);
}

fn key_text(model: &Model, def: &ActionDef) -> String {
    let chords: Vec<String> = model.look.keymap.chords(def.action).iter().map(ToString::to_string).collect();
    if chords.is_empty() { "-".into() } else { chords.join(" ") }
}

fn power_sign(model: &Model, def: &ActionDef) -> Span<'static> {
    match def.power {
        Power::Danger => span(model, "ui.danger", "! "),
        Power::Change if model.forbidden().is_some() => span(model, "ui.dim", "x "),
        _ => Span::raw("  "),
    }
}

fn help(model: &Model, chooser: &Chooser, frame: &mut Frame<'_>) {
    let title = "help: every key; Enter does it, Esc closes; ! asks first";
    chooser_rows(model, chooser, frame, title, 100, |def, width| {
        let ascii = model.look.ascii;
        Line::from(vec![
            power_sign(model, def),
            span(model, "ui.key", fit(&key_text(model, def), 16, ascii)),
            span(model, "ui.dim", fit(footer::scope_word(def.scope), 15, ascii)),
            span(model, "ui.text", cut(def.doc, width.saturating_sub(33), ascii)),
        ])
    });
}

fn palette(model: &Model, chooser: &Chooser, frame: &mut Frame<'_>) {
    chooser_rows(model, chooser, frame, "actions", 84, |def, width| {
        let ascii = model.look.ascii;
        Line::from(vec![
            power_sign(model, def),
            span(model, "ui.text", fit(def.name, 18, ascii)),
            span(model, "ui.key", fit(&key_text(model, def), 12, ascii)),
            span(model, "ui.dim", cut(def.doc, width.saturating_sub(32), ascii)),
        ])
    });
}

fn themes(model: &Model, names: &[String], at: usize, frame: &mut Frame<'_>) {
    let mut lines: Vec<Line<'_>> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let sign = if index == at { symbols::pick(model, "▶ ", "> ") } else { "  " };
            let line = Line::from(span(model, "ui.text", format!("{sign}{name}")));
            if index == at { line.style(style(model, "ui.selection")) } else { line }
        })
        .collect();
    lines.extend([Line::default(), keys(model, &[("Enter", "take"), ("Esc", "as before")])]);
    show(model, frame, "themes", lines, 40);
}

fn question(model: &Model, confirm: &Confirm, frame: &mut Frame<'_>) {
    let rows = usize::from(frame.area().height.saturating_sub(8));
    let mut lines: Vec<Line<'_>> =
        confirm.lines.iter().take(rows).map(|l| Line::from(span(model, "ui.text", l.clone()))).collect();
    if confirm.lines.len() > rows {
        lines.push(Line::from(span(model, "ui.dim", format!("... and {} more", confirm.lines.len() - rows))));
    }
    lines.push(Line::default());
    match &confirm.word {
        None => lines.push(keys(model, &[("y", "yes"), ("Enter", "no"), ("Esc", "no")])),
        Some(word) => {
            lines.push(Line::from(vec![
                span(model, "ui.text", "type "),
                span(model, "ui.danger", word.clone()),
                span(model, "ui.text", " and Enter to do it, Esc to leave:"),
            ]));
            lines.push(Line::from(vec![span(model, "ui.key", "> "), span(model, "ui.text", confirm.typed.text())]));
        }
    }
    show(model, frame, &confirm.title, lines, 76);
}

fn quit(model: &Model, frame: &mut Frame<'_>) {
    let lines = vec![
        Line::from(span(model, "ui.text", "A run of this cockpit goes on.")),
        Line::default(),
        keys(model, &[("d", "detach: it goes on; `vmdeck` shows it again")]),
        keys(model, &[("s", "stop, clean up, then leave")]),
        keys(model, &[("Esc", "stay here")]),
    ];
    show(model, frame, "leave?", lines, 60);
}

fn welcome(model: &Model, text: &str, frame: &mut Frame<'_>) {
    let mut lines = vec![
        Line::from(span(model, "ui.text", "vmdeck boots virtual machines, tests in them, and leaves nothing behind.")),
        Line::default(),
    ];
    lines.extend(text.lines().map(|l| Line::from(span(model, "state.warn", l))));
    lines.extend([
        Line::default(),
        keys(model, &[("d", "the demo: a real guest, made and tested here")]),
        keys(model, &[("i", "write a vmdeck.toml from what this host has")]),
        keys(model, &[("e", "edit the config"), ("r", "read it again")]),
        keys(model, &[("q", "leave")]),
    ]);
    show(model, frame, "welcome", lines, 84);
}
