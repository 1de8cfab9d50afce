//! The line at the bottom: the keys that matter here, a short message, or what is being typed. And the line of a replay.

use super::{
    guest,
    paint::{span, style},
    symbols,
    text::cut,
};
use crate::{
    keymap::{Action, Scope},
    model::{Model, Pane},
    prompt::Purpose,
    replay::Player,
    role::StyleRole,
    run_node::RunNode,
};
use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr;
use vmdeck_model::run_view::LockView;

/// Draws the footer.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.height == 0 {
        return;
    }
    if let Some(prompt) = &model.prompt {
        let lead = match prompt.purpose {
            Purpose::Search => "search (regex; lower case matches both): ",
            Purpose::Filter => "filter (!without, ~fuzzy, is:failed): ",
            Purpose::Seek => "go to (1m30s): ",
            Purpose::SysRq => "SysRq (w what waits, l processors, t tasks, m memory, c crash): ",
        };
        let text = prompt.line.text();
        let before: String = text.chars().take(prompt.line.cursor()).collect();
        let spans = vec![span(model, StyleRole::UiKey, lead), span(model, StyleRole::UiText, text)];
        frame.render_widget(Paragraph::new(Line::from(spans)), area);
        let column = u16::try_from(lead.width() + before.width()).unwrap_or(u16::MAX);
        frame.set_cursor_position(Position::new(
            area.x.saturating_add(column).min(area.right().saturating_sub(1)),
            area.y,
        ));
        return;
    }
    if let Some(toast) = &model.toast {
        let text = cut(&toast.text, usize::from(area.width.saturating_sub(1)), model.appearance.ascii);
        let line = Line::from(span(model, symbols::severity(toast.severity), format!(" {text}")));
        return frame.render_widget(Paragraph::new(line), area);
    }
    frame.render_widget(Paragraph::new(Line::from(hints(model, usize::from(area.width)))), area);
}

/// Returns the actions whose keys are shown for a pane, the most wanted first.
fn wanted(model: &Model) -> Vec<(Action, &'static str)> {
    use Action as A;
    let mut out = Vec::new();
    if model.console.is_some() && model.panes.focus == Pane::Logs {
        // Every key goes to the guest; how to leave stands in the pane's title.
        return out;
    }
    if model.shown.player.is_some() {
        out.extend([(A::Play, "play"), (A::SeekForward, "+10s"), (A::NextFailure, "failure"), (A::Faster, "faster")]);
    }
    if matches!(model.shown.view.lock, LockView::Waiting(_)) && model.is_running() {
        out.push((A::LeaveQueue, "leave the queue"));
    }
    if model.panes.focus == Pane::Run && model.tree.get(model.panes.run.at).is_some_and(RunNode::has_failed) {
        out.extend([
            (A::NextFailed, "next failure"),
            (A::Errors, "errors"),
            (A::Compare, "compare"),
            (A::Copy, "report"),
        ]);
    }
    match model.panes.focus {
        Pane::Machines | Pane::Run if model.forbidden().is_some() => {
            out.extend([(A::Enter, "open"), (A::Details, "details"), (A::Search, "filter")]);
        }
        Pane::Machines | Pane::Run if model.is_running() => out.extend([
            (A::Stop, "stop"),
            (A::Kill, "kill"),
            (A::Shell, "shell"),
            (A::Attach, "console"),
            (A::Details, "details"),
            (A::KeepGuest, "keep"),
            (A::Proceed, "release"),
            (A::Cancel, "cancel"),
            (A::RerunFailed, "rerun failed"),
        ]),
        Pane::Machines | Pane::Run => out.extend([
            (A::Run, "run"),
            (A::Start, "start"),
            (A::RerunFailed, "rerun failed"),
            (A::Mark, "mark"),
            (A::Enter, "open"),
            (A::Details, "details"),
            (A::Shell, "shell"),
        ]),
        Pane::Logs => out.extend([
            (A::Search, "search"),
            (A::NextMatch, "next"),
            (A::NextError, "error"),
            (A::NextFailed, "next failure"),
            (A::Follow, "follow"),
            (A::NextSource, "next log"),
            (A::Merged, "all/one"),
            (A::Times, "times"),
            (A::Wrap, "wrap"),
            (A::Copy, "copy"),
            (A::Save, "save"),
        ]),
        Pane::Lock => out.extend([(A::BreakLock, "release"), (A::Recheck, "check again")]),
        Pane::Preflight => {
            out.extend([(A::Enter, "what to do"), (A::Recheck, "check again"), (A::CleanUp, "clean up")]);
        }
        Pane::Events => out.extend([(A::Levels, "levels"), (A::PageUp, "back")]),
    }
    out.extend([(A::NextPane, "pane"), (A::Zoom, "zoom"), (A::Help, "help"), (A::Palette, "all"), (A::Quit, "quit")]);
    out
}

fn hints(model: &Model, width: usize) -> Vec<Span<'static>> {
    let mut spans = vec![Span::raw(" ")];
    let mut used = 1;
    let all: Vec<(String, &str)> = wanted(model)
        .into_iter()
        .map(|(action, word)| (model.appearance.keymap.key(action), word))
        .filter(|(key, _)| !key.is_empty())
        .collect();
    // Help and quit are never the ones that do not fit.
    let (rest, last) = all.split_at(all.len().saturating_sub(3));
    let reserved: usize = last.iter().map(|(key, word)| key.width() + word.width() + 3).sum();
    let fits: Vec<&(String, &str)> = rest
        .iter()
        .filter(|(key, word)| {
            let size = key.width() + word.width() + 3;
            let fits = used + size + reserved <= width;
            used += if fits { size } else { 0 };
            fits
        })
        .chain(last)
        .collect();
    for (key, word) in fits {
        spans.push(span(model, StyleRole::UiKey, key.clone()));
        spans.push(span(model, StyleRole::UiDim, format!(" {word}  ")));
    }
    spans
}

/// Returns what the line of a replay says before its track.
fn lead(model: &Model, player: &Player) -> String {
    let sign = if player.is_playing() { symbols::pick(model, "▶", ">") } else { symbols::pick(model, "⏸", "=") };
    let count = player.failures.len();
    format!(
        " {sign} {} / {}  x{}  {count} failure{} ",
        guest::time(player.now_ms()),
        guest::time(player.total_ms),
        player.speed(),
        if count == 1 { "" } else { "s" }
    )
}

/// Returns the column at which the track begins, for the mouse.
pub(crate) fn track_start(model: &Model) -> usize {
    model.shown.player.as_ref().map_or(0, |player| lead(model, player).width())
}

/// The line of a replay: where it is, how fast, and where the failures are.
pub(super) fn replay(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(player) = &model.shown.player else { return };
    let text = lead(model, player);
    let cells = usize::from(area.width).saturating_sub(text.width() + 1);
    let mut spans = vec![span(model, StyleRole::UiText, text)];
    spans.extend(track(model, player, cells));
    frame.render_widget(Paragraph::new(Line::from(spans)).style(style(model, StyleRole::UiHeader)), area);
}

fn track(model: &Model, player: &Player, cells: usize) -> Vec<Span<'static>> {
    let place = |ms: u64| usize::try_from(ms * cells.saturating_sub(1) as u64 / player.total_ms.max(1)).unwrap_or(0);
    let now = place(player.now_ms());
    let failures: Vec<usize> = player.failures.iter().map(|ms| place(*ms)).collect();
    (0..cells)
        .map(|cell| {
            let (sign, role) = if cell == now {
                (symbols::pick(model, "┃", "|"), StyleRole::UiKey)
            } else if failures.contains(&cell) {
                (symbols::pick(model, "✗", "x"), StyleRole::StateBad)
            } else if cell < now {
                (symbols::pick(model, "━", "="), StyleRole::GaugeFull)
            } else {
                (symbols::pick(model, "─", "-"), StyleRole::GaugeUsual)
            };
            span(model, role, sign)
        })
        .collect()
}

/// Returns the keys of a scope, for the help.
pub(super) fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "everywhere",
        Scope::Guests => "machines, run",
        Scope::Logs => "logs",
        Scope::Host => "host panes",
        Scope::Replay => "replay",
    }
}
