//! The line at the top: which run, how it stands, what is switched on.

use super::{span, style, symbols};
use crate::model::{Model, Watch};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use vmdeck_model::{outcome::Verdict, run_view::LockView};

/// Draws it.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let mut spans = vec![span(model, "ui.badge", " vmdeck "), span(model, "ui.text", " ")];
    let run = model.run_name();
    let what = match (&model.watch, run) {
        (Watch::Nothing, _) | (_, None) => "no run".to_owned(),
        (Watch::Own { .. }, Some(run)) => format!("run {run}"),
        (Watch::Other { who }, Some(run)) => format!("run {run} of {who}"),
        (Watch::Replay, Some(run)) => format!("replay of run {run}"),
    };
    spans.push(span(model, "ui.text", what));
    for (on, role, badge) in [
        (model.read_only, "ui.badge", "READ-ONLY"),
        (matches!(model.watch, Watch::Other { .. }) && model.view.exit.is_none(), "ui.badge", "LOOK ONLY"),
        (model.is_orphaned(), "ui.danger", "ITS ENGINE DIED"),
        (model.keep_failed, "ui.badge", "keeps what fails"),
        (model.pause.is_some() && model.forbidden().is_none(), "ui.dim", "waits when a guest fails"),
        (model.next.is_some(), "ui.badge", "ONE MORE RUN WAITS"),
        (model.is_leaving, "ui.danger", "STOPPING"),
    ] {
        if on {
            spans.push(span(model, role, format!("  {badge}")));
        }
    }
    if model.view.run.is_some() {
        progress(model, &mut spans);
    }
    frame.render_widget(Paragraph::new(Line::from(spans)).style(style(model, "ui.header")), area);
}

fn progress(model: &Model, spans: &mut Vec<Span<'static>>) {
    let view = &model.view;
    let now = model.run_ms();
    spans.push(span(model, "ui.dim", format!("  {}", super::guest::time(now))));
    let (lock, role) = match &view.lock {
        LockView::Unknown => ("", "ui.dim"),
        LockView::Waiting(_) => ("  waiting for the lock", "state.warn"),
        LockView::Held => ("", "ui.dim"),
        LockView::Lost => ("  LOCK LOST", "state.bad"),
    };
    spans.push(span(model, role, lock));
    if view.planned > 0 {
        let (full, rest) = symbols::bar(model, u64::from(view.tally.total()), view.planned as u64, 10);
        spans.push(span(model, "gauge.full", format!("  {full}")));
        spans.push(span(model, "gauge.usual", rest));
        spans.push(span(model, "ui.text", format!(" {}/{}", view.tally.total(), view.planned)));
    }
    for verdict in Verdict::ALL {
        let count = view.tally.of(verdict);
        if count > 0 {
            let (sign, role) = symbols::verdict(model, verdict);
            spans.push(span(model, role, format!("  {sign} {count} {verdict}")));
        }
    }
    if let Some(reason) = view.cancelled.filter(|_| view.exit.is_none()) {
        spans.push(span(model, "state.warn", format!("  CANCELLED ({reason:?})")));
    }
    if let Some(exit) = view.exit {
        let role = if exit.code() == 0 { "state.ok" } else { "state.bad" };
        spans.push(span(model, role, format!("  ended, exit {}", exit.code())));
    }
}
