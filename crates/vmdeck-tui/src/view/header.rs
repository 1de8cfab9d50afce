//! The line at the top: which run, its state, what is switched on. Below it, where their panes are not seen, the lock and the worst
//! finding of preflight, if they have something to say.

use super::{
    paint::{span, style},
    symbols,
    text::cut,
};
use crate::{
    keymap::Action,
    model::{Model, RecordSource, Whose},
    notices,
    role::StyleRole,
};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use vmdeck_model::{outcome::Verdict, run_view::LockView};

/// What of the line is given up first where there is too little room, from [`Worth::Spare`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// It is nice to see.
    Spare,
    /// It can be seen elsewhere.
    Elsewhere,
    /// It is part of the state of the run.
    State,
    /// It is never given up: what is wrong, and how the run ended.
    Always,
}

/// A part of the line.
struct HeaderPart {
    worth: Worth,
    spans: Vec<Span<'static>>,
}

/// Draws the header.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let mut parts = vec![part(Worth::Always, vec![span(model, StyleRole::UiBadge, " vmdeck ")])];
    let is_ours = model.shown.whose == Whose::Ours;
    let run = model.run_name();
    let what = match (&model.shown.record, run) {
        (RecordSource::Nothing, _) | (_, None) => "no run".to_owned(),
        (RecordSource::Own { .. }, Some(run)) => match &model.shown.whose {
            Whose::Ours => format!("run {run}"),
            Whose::Joined(who) => format!("run {run} of {who}"),
            Whose::Earlier => format!("earlier run {run}"),
        },
        (RecordSource::Other { who }, Some(run)) => format!("run {run} of {who}"),
        (RecordSource::Replay, Some(run)) => format!("replay of run {run}"),
    };
    parts.push(part(Worth::State, vec![span(model, StyleRole::UiText, format!(" {what}"))]));
    for (on, worth, role, badge) in [
        (model.read_only, Worth::State, StyleRole::UiBadge, "READ-ONLY"),
        (
            matches!(model.shown.record, RecordSource::Other { .. }) && model.shown.view.exit.is_none(),
            Worth::State,
            StyleRole::UiBadge,
            "VIEW ONLY",
        ),
        (model.is_orphaned(), Worth::Always, StyleRole::UiDanger, "ENGINE DIED"),
        (model.keep_failed, Worth::Elsewhere, StyleRole::UiBadge, "keep failed"),
        (
            is_ours && model.pause.is_some() && model.forbidden().is_none(),
            Worth::Spare,
            StyleRole::UiDim,
            "pause on failure",
        ),
        (model.pending.next.is_some(), Worth::State, StyleRole::UiBadge, "1 RUN QUEUED"),
        (model.pending.is_leaving, Worth::Always, StyleRole::UiDanger, "STOPPING"),
    ] {
        if on {
            parts.push(part(worth, vec![span(model, role, format!("  {badge}"))]));
        }
    }
    if let Some(watch) = &model.code_watch {
        let role = match watch.last {
            Some(exit) if exit.code() != 0 => StyleRole::StateBad,
            Some(_) => StyleRole::StateOk,
            None => StyleRole::UiBadge,
        };
        parts.push(part(Worth::State, vec![span(model, role, format!("  {}", watch.badge()))]));
    }
    if model.shown.view.run.is_some() {
        progress(model, &mut parts);
    }
    let line = fitting(parts, usize::from(area.width));
    let mut lines = vec![Line::from(line)];
    lines.extend(notices::of(model).into_iter().map(|notice| {
        let text = cut(&notice.text, usize::from(area.width).saturating_sub(1), model.appearance.ascii);
        Line::from(span(model, symbols::severity(notice.severity), format!(" {text}")))
    }));
    frame.render_widget(Paragraph::new(lines).style(style(model, StyleRole::UiHeader)), area);
}

fn part(worth: Worth, spans: Vec<Span<'static>>) -> HeaderPart {
    HeaderPart { worth, spans }
}

/// Returns the parts that fit; what is worth least is left out first, of equals the last.
fn fitting(mut parts: Vec<HeaderPart>, width: usize) -> Vec<Span<'static>> {
    let size = |parts: &[HeaderPart]| parts.iter().flat_map(|part| &part.spans).map(Span::width).sum::<usize>();
    while size(&parts) > width {
        let least = parts.iter().enumerate().rev().min_by_key(|(_, part)| part.worth);
        match least {
            Some((at, part)) if part.worth < Worth::Always => drop(parts.remove(at)),
            _ => break,
        }
    }
    parts.into_iter().flat_map(|part| part.spans).collect()
}

/// Returns that the run waits for the lock, at which place, and how to leave it.
fn waiting(model: &Model) -> String {
    let place = notices::place_in_queue(model).map(|(place, all)| format!(", {place} of {all}")).unwrap_or_default();
    format!("  waiting for the lock{place} ({} leaves)", model.appearance.keymap.key(Action::LeaveQueue))
}

fn progress(model: &Model, parts: &mut Vec<HeaderPart>) {
    let view = &model.shown.view;
    let mut add = |worth, role, text: String| parts.push(part(worth, vec![span(model, role, text)]));
    add(Worth::Elsewhere, StyleRole::UiDim, format!("  {}", super::guest::time(model.run_ms())));
    match &view.lock {
        LockView::Unknown | LockView::Held => {}
        LockView::Waiting(_) if view.exit.is_some() => {}
        LockView::Waiting(_) => add(Worth::State, StyleRole::StateWarn, waiting(model)),
        LockView::Lost => add(Worth::Always, StyleRole::StateBad, "  LOCK LOST".to_owned()),
    }
    if view.planned > 0 {
        let (full, rest) = symbols::bar(model, u64::from(view.tally.total()), view.planned as u64, 10);
        let bar =
            vec![span(model, StyleRole::GaugeFull, format!("  {full}")), span(model, StyleRole::GaugeUsual, rest)];
        parts.push(part(Worth::Spare, bar));
        let count = format!(" {}/{}", view.tally.total(), view.planned);
        parts.push(part(Worth::State, vec![span(model, StyleRole::UiText, count)]));
    }
    for verdict in Verdict::ALL {
        let count = view.tally.of(verdict);
        if count > 0 {
            let (sign, role) = symbols::verdict(model, verdict);
            let worth = if verdict.is_failure() { Worth::Always } else { Worth::State };
            parts.push(part(worth, vec![span(model, role, format!("  {sign} {count} {verdict}"))]));
        }
    }
    if let Some(reason) = view.cancelled.filter(|_| view.exit.is_none()) {
        parts.push(part(Worth::Always, vec![span(model, StyleRole::StateWarn, format!("  CANCELLED ({reason:?})"))]));
    }
    if let Some(exit) = view.exit {
        let role = if exit.code() == 0 { StyleRole::StateOk } else { StyleRole::StateBad };
        parts.push(part(Worth::Always, vec![span(model, role, format!("  ended, exit {}", exit.code()))]));
    }
}
