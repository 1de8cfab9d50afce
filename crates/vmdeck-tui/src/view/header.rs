//! The line at the top: which run, its state, what is switched on.

use super::{
    paint::{span, style},
    symbols,
};
use crate::{
    keymap::Action,
    model::{Model, RecordSource},
    role::StyleRole,
};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use vmdeck_model::{outcome::Verdict, run_view::LockView};

/// Draws the header.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let mut spans = vec![span(model, StyleRole::UiBadge, " vmdeck "), span(model, StyleRole::UiText, " ")];
    let run = model.run_name();
    let what = match (&model.shown.record, run) {
        (RecordSource::Nothing, _) | (_, None) => "no run".to_owned(),
        (RecordSource::Own { .. }, Some(run)) => format!("run {run}"),
        (RecordSource::Other { who }, Some(run)) => format!("run {run} of {who}"),
        (RecordSource::Replay, Some(run)) => format!("replay of run {run}"),
    };
    spans.push(span(model, StyleRole::UiText, what));
    for (on, role, badge) in [
        (model.read_only, StyleRole::UiBadge, "READ-ONLY"),
        (
            matches!(model.shown.record, RecordSource::Other { .. }) && model.shown.view.exit.is_none(),
            StyleRole::UiBadge,
            "VIEW ONLY",
        ),
        (model.is_orphaned(), StyleRole::UiDanger, "ENGINE DIED"),
        (model.keep_failed, StyleRole::UiBadge, "keep failed"),
        (model.pause.is_some() && model.forbidden().is_none(), StyleRole::UiDim, "pause on failure"),
        (model.pending.next.is_some(), StyleRole::UiBadge, "1 RUN QUEUED"),
        (model.pending.is_leaving, StyleRole::UiDanger, "STOPPING"),
    ] {
        if on {
            spans.push(span(model, role, format!("  {badge}")));
        }
    }
    if let Some(watch) = &model.code_watch {
        let role = match watch.last {
            Some(exit) if exit.code() != 0 => StyleRole::StateBad,
            Some(_) => StyleRole::StateOk,
            None => StyleRole::UiBadge,
        };
        spans.push(span(model, role, format!("  {}", watch.badge())));
    }
    if model.shown.view.run.is_some() {
        progress(model, &mut spans);
    }
    frame.render_widget(Paragraph::new(Line::from(spans)).style(style(model, StyleRole::UiHeader)), area);
}

/// Returns that the run waits for the lock, at which place, and how to leave it.
fn waiting(model: &Model) -> String {
    let run = model.shown.view.run.as_ref();
    let queue = &model.host.queue;
    let place = queue.iter().position(|waiter| run.is_some() && waiter.run.as_ref() == run);
    let place = place.map(|place| format!(", {} of {}", place + 1, queue.len())).unwrap_or_default();
    format!("  waiting for the lock{place} ({} leaves)", model.appearance.keymap.key(Action::LeaveQueue))
}

fn progress(model: &Model, spans: &mut Vec<Span<'static>>) {
    let view = &model.shown.view;
    let now = model.run_ms();
    spans.push(span(model, StyleRole::UiDim, format!("  {}", super::guest::time(now))));
    let (lock, role) = match &view.lock {
        LockView::Unknown => (String::new(), StyleRole::UiDim),
        LockView::Waiting(_) => (waiting(model), StyleRole::StateWarn),
        LockView::Held => (String::new(), StyleRole::UiDim),
        LockView::Lost => ("  LOCK LOST".to_owned(), StyleRole::StateBad),
    };
    spans.push(span(model, role, lock));
    if view.planned > 0 {
        let (full, rest) = symbols::bar(model, u64::from(view.tally.total()), view.planned as u64, 10);
        spans.push(span(model, StyleRole::GaugeFull, format!("  {full}")));
        spans.push(span(model, StyleRole::GaugeUsual, rest));
        spans.push(span(model, StyleRole::UiText, format!(" {}/{}", view.tally.total(), view.planned)));
    }
    for verdict in Verdict::ALL {
        let count = view.tally.of(verdict);
        if count > 0 {
            let (sign, role) = symbols::verdict(model, verdict);
            spans.push(span(model, role, format!("  {sign} {count} {verdict}")));
        }
    }
    if let Some(reason) = view.cancelled.filter(|_| view.exit.is_none()) {
        spans.push(span(model, StyleRole::StateWarn, format!("  CANCELLED ({reason:?})")));
    }
    if let Some(exit) = view.exit {
        let role = if exit.code() == 0 { StyleRole::StateOk } else { StyleRole::StateBad };
        spans.push(span(model, role, format!("  ended, exit {}", exit.code())));
    }
}
