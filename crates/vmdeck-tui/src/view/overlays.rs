//! Help, palette, questions, themes and messages, over the panes.

use super::{
    details, evidence, footer,
    paint::{span, style},
    remedies, symbols,
    text::{cut, fit},
    tour,
    window::{show, window},
};
use crate::{
    keymap::{ActionDef, Privilege},
    layout::first_row,
    model::Model,
    overlay::{self, Chooser, Confirm, Overlay},
    past_runs::PastRunRow,
    role::StyleRole,
};
use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr;
use vmdeck_model::exit::RunExit;

/// Draws what is open.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    match &model.overlay {
        None => {}
        Some(Overlay::Help(chooser)) => help(model, chooser, frame),
        Some(Overlay::Tour) => tour::draw(model, frame),
        Some(Overlay::Palette(chooser)) => palette(model, chooser, frame),
        Some(Overlay::Themes { names, at, .. }) => themes(model, names, *at, frame),
        Some(Overlay::History { rows, at }) => history(model, rows, *at, frame),
        Some(Overlay::Errors { rows, at }) => evidence::errors(model, rows, *at, frame),
        Some(Overlay::Comparison { title, lines, top }) => evidence::comparison(model, title, lines, *top, frame),
        Some(Overlay::Remedies(at)) => remedies::draw(model, *at, frame),
        Some(Overlay::Details(guest)) => details::draw(model, guest, frame),
        Some(Overlay::Confirm(confirm)) => question(model, confirm, frame),
        Some(Overlay::Quit) => quit(model, frame),
        Some(Overlay::Welcome(text)) => welcome(model, text, frame),
        Some(Overlay::Message { title, text }) => {
            let mut lines: Vec<Line<'_>> =
                text.lines().map(|l| Line::from(span(model, StyleRole::UiText, l))).collect();
            lines.extend([Line::default(), keys(model, &[("Enter", "close")])]);
            show(model, frame, title, lines, 76);
        }
    }
}

/// Keys with what they do.
fn keys(model: &Model, all: &[(&str, &str)]) -> Line<'static> {
    let spans = all.iter().flat_map(|(key, word)| {
        [span(model, StyleRole::UiKey, (*key).to_owned()), span(model, StyleRole::UiText, format!(" {word}   "))]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn typed(frame: &mut Frame<'_>, area: Rect, lead: usize, line: &crate::prompt::InputLine) {
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
    let mut lines = vec![Line::from(vec![
        span(model, StyleRole::UiKey, "find: "),
        span(model, StyleRole::UiText, chooser.line.text()),
    ])];
    for (index, def) in all.iter().enumerate().skip(first).take(rows) {
        let line = row(def, usize::from(area.width));
        lines.push(if index == chooser.at { line.style(style(model, StyleRole::UiSelection)) } else { line });
    }
    if all.is_empty() {
        lines.push(Line::from(span(model, StyleRole::UiDim, "no match")));
    }
    frame.render_widget(Paragraph::new(lines), area);
    typed(frame, area, "find: ".width(), &chooser.line);
}

fn key_text(model: &Model, def: &ActionDef) -> String {
    let chords: Vec<String> = model.appearance.keymap.chords(def.action).iter().map(ToString::to_string).collect();
    if chords.is_empty() { "-".into() } else { chords.join(" ") }
}

fn power_sign(model: &Model, def: &ActionDef) -> Span<'static> {
    match def.privilege {
        Privilege::Danger => span(model, StyleRole::UiDanger, "! "),
        Privilege::Change if model.forbidden().is_some() => span(model, StyleRole::UiDim, "x "),
        _ => Span::raw("  "),
    }
}

fn help(model: &Model, chooser: &Chooser, frame: &mut Frame<'_>) {
    let title = "help: all keys; ? the tour, Enter runs one, Esc closes; ! asks first";
    chooser_rows(model, chooser, frame, title, 100, |def, width| {
        let ascii = model.appearance.ascii;
        Line::from(vec![
            power_sign(model, def),
            span(model, StyleRole::UiKey, fit(&key_text(model, def), 16, ascii)),
            span(model, StyleRole::UiDim, fit(footer::scope_word(def.scope), 15, ascii)),
            span(model, StyleRole::UiText, cut(def.doc, width.saturating_sub(33), ascii)),
        ])
    });
}

fn palette(model: &Model, chooser: &Chooser, frame: &mut Frame<'_>) {
    chooser_rows(model, chooser, frame, "actions", 84, |def, width| {
        let ascii = model.appearance.ascii;
        Line::from(vec![
            power_sign(model, def),
            span(model, StyleRole::UiText, fit(def.name, 18, ascii)),
            span(model, StyleRole::UiKey, fit(&key_text(model, def), 12, ascii)),
            span(model, StyleRole::UiDim, cut(def.doc, width.saturating_sub(32), ascii)),
        ])
    });
}

fn themes(model: &Model, names: &[String], at: usize, frame: &mut Frame<'_>) {
    let mut lines: Vec<Line<'_>> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let sign = if index == at { symbols::pick(model, "▶ ", "> ") } else { "  " };
            let line = Line::from(span(model, StyleRole::UiText, format!("{sign}{name}")));
            if index == at { line.style(style(model, StyleRole::UiSelection)) } else { line }
        })
        .collect();
    lines.extend([Line::default(), keys(model, &[("Enter", "apply"), ("Esc", "cancel")])]);
    show(model, frame, "themes", lines, 40);
}

fn history(model: &Model, all: &[PastRunRow], at: usize, frame: &mut Frame<'_>) {
    let ascii = model.appearance.ascii;
    let title = "runs: Enter opens one, Esc closes";
    let area = window(model, frame, title, 120, frame.area().height.saturating_sub(2));
    let rows = usize::from(area.height);
    let mut lines = Vec::new();
    for (index, row) in all.iter().enumerate().skip(first_row(at, rows, all.len())).take(rows) {
        let (sign, role) = match row.exit {
            _ if row.is_running => (symbols::pick(model, "▶ ", "> "), StyleRole::StateBusy),
            Some(RunExit::Passed) => (symbols::pick(model, "✓ ", "+ "), StyleRole::StateOk),
            Some(_) => (symbols::pick(model, "✗ ", "x "), StyleRole::StateBad),
            None => ("! ", StyleRole::StateWarn),
        };
        let text = cut(&row.line, usize::from(area.width).saturating_sub(2), ascii);
        let line = Line::from(vec![span(model, role, sign), span(model, StyleRole::UiText, text)]);
        lines.push(if index == at { line.style(style(model, StyleRole::UiSelection)) } else { line });
    }
    if all.is_empty() {
        lines.push(Line::from(span(model, StyleRole::UiDim, "no run yet: r begins one")));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn question(model: &Model, confirm: &Confirm, frame: &mut Frame<'_>) {
    let rows = usize::from(frame.area().height.saturating_sub(8));
    let mut lines: Vec<Line<'_>> =
        confirm.lines.iter().take(rows).map(|l| Line::from(span(model, StyleRole::UiText, l.clone()))).collect();
    if confirm.lines.len() > rows {
        lines.push(Line::from(span(model, StyleRole::UiDim, format!("... and {} more", confirm.lines.len() - rows))));
    }
    lines.push(Line::default());
    match &confirm.word {
        None if confirm.no.is_some() => {
            lines.push(keys(model, &[("y", "yes: passed"), ("n", "no: failed"), ("Esc", "later")]));
        }
        None => lines.push(keys(model, &[("y", "yes"), ("Enter", "no"), ("Esc", "no")])),
        Some(word) => {
            lines.push(Line::from(vec![
                span(model, StyleRole::UiText, "type "),
                span(model, StyleRole::UiDanger, word.clone()),
                span(model, StyleRole::UiText, " and press Enter to confirm; Esc goes back:"),
            ]));
            lines.push(Line::from(vec![
                span(model, StyleRole::UiKey, "> "),
                span(model, StyleRole::UiText, confirm.typed.text()),
            ]));
        }
    }
    show(model, frame, &confirm.title, lines, 76);
}

fn quit(model: &Model, frame: &mut Frame<'_>) {
    let lines = vec![
        Line::from(span(model, StyleRole::UiText, "A run is still in progress.")),
        Line::default(),
        keys(model, &[("d", "detach: the run continues; `vmdeck attach` joins it again")]),
        keys(model, &[("s", "stop, clean up, then leave")]),
        keys(model, &[("Esc", "stay here")]),
    ];
    show(model, frame, "leave?", lines, 60);
}

fn explained(model: &Model, text: &'static str) -> Line<'static> {
    Line::from(span(model, StyleRole::UiDim, format!("    {text}")))
}

fn welcome(model: &Model, text: &str, frame: &mut Frame<'_>) {
    let mut lines = vec![
        Line::from(span(
            model,
            StyleRole::UiText,
            "vmdeck boots virtual machines, tests in them, and leaves nothing behind.",
        )),
        Line::default(),
    ];
    lines.extend(text.lines().map(|l| Line::from(span(model, StyleRole::StateWarn, l))));
    lines.extend([
        Line::default(),
        keys(model, &[("d", "the demo")]),
        explained(model, "makes a small Linux guest from Debian packages (once, some seconds),"),
        explained(model, "boots it, runs a few tests in it, removes it; nothing is installed here"),
        keys(model, &[("i", "init")]),
        explained(model, "writes ./vmdeck.toml from what this folder and this host have: a guest,"),
        explained(model, "a first test, a comment at each line; nothing is started"),
        keys(model, &[("e", "edit the config"), ("r", "read it again")]),
        keys(model, &[("q", "leave")]),
    ]);
    show(model, frame, "welcome", lines, 84);
}
