//! The lock and preflight panes: who holds this host, and whether it is ready for a run.

use super::{
    paint::{frame_of, paint, span},
    symbols,
    text::wrap,
};
use crate::{
    host_state::LockState,
    keymap::Action,
    model::{Model, Pane},
    notices,
    role::StyleRole,
};
use ratatui::{Frame, layout::Rect, text::Line};
use unicode_width::UnicodeWidthStr;
use vmdeck_model::{
    event::{Finding, Holder},
    ids::short_run,
    quantity::show_size,
    run_view::LockView,
    text::Clean,
};

/// Draws the lock pane.
pub(super) fn lock(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let mut lines = Vec::new();
    for row in &model.host.locks {
        let (word, role) = match row.state {
            LockState::Free => ("free", StyleRole::StateOk),
            LockState::Held => ("held", StyleRole::StateBusy),
            LockState::Stale => ("STALE: its holder is gone", StyleRole::StateWarn),
        };
        let path = format!("  {}", row.path);
        let mut spans = vec![span(model, role, word.to_owned())];
        if row.state == LockState::Stale {
            let key = model.appearance.keymap.key(Action::BreakLock);
            spans.push(span(model, role, format!("; {key} releases it")));
        }
        spans.push(span(model, StyleRole::UiDim, path));
        lines.push(Line::from(spans));
    }
    // First how each slot stands and who waits, then who has them: the pane may be low.
    let mut holders: Vec<&Holder> = model.host.locks.iter().filter_map(|row| row.holder.as_ref()).collect();
    if let LockView::Waiting(holder) = &model.shown.view.lock
        && model.shown.view.exit.is_none()
    {
        let key = model.appearance.keymap.key(Action::LeaveQueue);
        lines.push(Line::from(span(
            model,
            StyleRole::StateWarn,
            format!("this run waits for it; {key} leaves the queue"),
        )));
        if !holders.iter().any(|h| h.pid == holder.pid) {
            holders.push(holder);
        }
    }
    lines.extend(model.host.queue.iter().enumerate().map(|(index, waiter)| place(model, index + 1, waiter)));
    let memory = &model.host.memory;
    for (number, one) in memory.waiting.iter().enumerate() {
        let text = format!("{} of memory for {}", show_size(one.memory), one.whose());
        lines.push(Line::from(vec![
            span(model, StyleRole::UiDim, format!("  waiting {}  ", number + 1)),
            span(model, StyleRole::StateWarn, text),
        ]));
    }
    for one in &memory.promised {
        let text = format!("  memory     {one}, uses {}", show_size(one.used));
        lines.push(Line::from(span(model, StyleRole::UiDim, text)));
    }
    // One that has several slots is told once.
    holders.dedup_by_key(|holder| (holder.pid, holder.run.clone()));
    lines.extend(holders.into_iter().flat_map(|holder| describe(model, holder)));
    if lines.is_empty() {
        lines.push(not_checked(model));
    }
    let skip = model.panes.scroll.get(&Pane::Lock).copied().unwrap_or(0).min(lines.len().saturating_sub(1));
    paint(frame, area, frame_of(model, Pane::Lock, Vec::new()), lines.split_off(skip));
}

fn not_checked(model: &Model) -> Line<'static> {
    let key = model.appearance.keymap.key(Action::Recheck);
    Line::from(span(model, StyleRole::UiDim, format!("not checked yet ({key})")))
}

/// Returns a place in the queue: who, since when, what.
fn place(model: &Model, number: usize, waiter: &Holder) -> Line<'static> {
    let is_this = waiter.run.is_some() && waiter.run == model.shown.view.run;
    let who = match waiter.pid {
        _ if is_this => "this run".to_owned(),
        Some(pid) => format!("process {pid}"),
        None => "somebody".to_owned(),
    };
    let since = held_for(model, waiter).map(|time| format!(" for {time}")).unwrap_or_default();
    let run = waiter.run.as_deref().filter(|_| !is_this).map(|run| format!(", run {}", short_run(run)));
    let what = waiter.command.as_deref().filter(|_| !is_this).map(|command| format!(": {}", short(command)));
    // Another program wrote it.
    let more = Clean::from_text(&[run, what].into_iter().flatten().collect::<String>()).into_string();
    let role = if is_this { StyleRole::StateWarn } else { StyleRole::UiText };
    Line::from(vec![
        span(model, StyleRole::UiDim, format!("  waiting {number}  ")),
        span(model, role, format!("{who}{since}")),
        span(model, StyleRole::UiDim, more),
    ])
}

/// Returns a command line without the folder of its program.
fn short(command: &str) -> String {
    let (program, rest) = command.split_once(' ').unwrap_or((command, ""));
    format!("{} {rest}", program.rsplit('/').next().unwrap_or(program))
}

/// Returns since when somebody has the lock, or waits for it, as a span of time.
fn held_for(model: &Model, holder: &Holder) -> Option<String> {
    let since = holder.since.as_ref().and_then(|s| chrono::DateTime::parse_from_rfc3339(s).ok())?;
    let ms = model.wall_ms.saturating_sub(since.timestamp_millis());
    Some(super::guest::time(u64::try_from(ms).unwrap_or(0)))
}

fn describe(model: &Model, holder: &Holder) -> Vec<Line<'static>> {
    let pid = holder.pid.map(|p| p.to_string());
    let age = held_for(model, holder);
    let rows = [
        ("process", &pid),
        ("host", &holder.host),
        ("for", &age),
        ("run", &holder.run),
        ("doing", &holder.phase),
        ("command", &holder.command),
    ];
    let known = rows.into_iter().filter_map(|(word, value)| Some((word, value.as_ref()?)));
    known
        .map(|(word, value)| {
            // Another program wrote it.
            let value = Clean::from_text(value).into_string();
            Line::from(vec![
                span(model, StyleRole::UiDim, format!("  {word:<8}")),
                span(model, StyleRole::UiText, value),
            ])
        })
        .collect()
}

/// Draws the preflight pane.
pub(super) fn preflight(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let mut lines = Vec::new();
    let c = &model.host.capacity;
    if c.disk_free > 0 {
        lines.push(gauge(model, "disk", c.disk_free, c.disk_need, c.disk_min, c.disk_warn, width));
    }
    lines.extend(memory(model, width));
    let findings = notices::findings(model);
    lines.extend(findings.iter().flat_map(|finding| rows(model, finding, width)));
    if lines.is_empty() {
        lines.push(not_checked(model));
    }
    let bad = findings.iter().filter(|f| f.severity > vmdeck_model::event::Severity::Fixed).count();
    let extra = match bad {
        0 => Vec::new(),
        1 => vec![span(model, StyleRole::StateWarn, " 1 issue ")],
        n => vec![span(model, StyleRole::StateWarn, format!(" {n} issues "))],
    };
    let skip = model.panes.scroll.get(&Pane::Preflight).copied().unwrap_or(0).min(lines.len().saturating_sub(1));
    paint(frame, area, frame_of(model, Pane::Preflight, extra), lines.split_off(skip));
}

/// Returns what is free, what a run takes of it, and where it gets too little.
fn gauge(model: &Model, word: &str, free: u64, need: u64, min: u64, warn: u64, width: usize) -> Line<'static> {
    let left = free.saturating_sub(need);
    let (role, verdict) = match left {
        left if left < min => (StyleRole::StateBad, "TOO LITTLE"),
        left if left < warn => (StyleRole::StateWarn, "low"),
        _ => (StyleRole::StateOk, "OK"),
    };
    let cells = if width >= 60 { 12 } else { 6 };
    let (full, rest) = symbols::bar(model, need.max(1), free, cells);
    Line::from(vec![
        span(model, StyleRole::UiText, format!("{word:<7}")),
        span(model, role, full),
        span(model, StyleRole::GaugeUsual, rest),
        span(model, role, format!(" {verdict}")),
        span(
            model,
            StyleRole::UiDim,
            format!(": {} free; a run needs {}, {} must stay free", show_size(free), show_size(need), show_size(min)),
        ),
    ])
}

/// Returns for what the host's memory is: what programs use, what was promised to guests and is not used yet, of this run and of others,
/// and what must stay free.
fn memory(model: &Model, width: usize) -> Option<Line<'static>> {
    let memory = &model.host.memory;
    let (total, free) = (memory.total?, memory.free?);
    let run = model.shown.view.run.as_deref().filter(|_| model.shown.view.exit.is_none());
    let (of_run, of_others) = memory.unused(run);
    // Before a run, what it would need.
    let ours = if run.is_some() { of_run } else { model.host.capacity.memory_need };
    let left = free.saturating_sub(of_others).saturating_sub(ours);
    let is_enough = memory.left_alone.is_none_or(|most| ours <= most) && left >= memory.reserve;
    let (role, verdict) = match is_enough {
        false if memory.waiting.is_empty() && of_others == 0 => (StyleRole::StateBad, "TOO LITTLE"),
        false => (StyleRole::StateWarn, "taken"),
        true => (StyleRole::StateOk, "OK"),
    };
    let cells = if width >= 60 { 24 } else { 12 };
    let parts = [
        (total.saturating_sub(free), StyleRole::UiText, "█", "#"),
        (of_others, StyleRole::StateWarn, "▓", "+"),
        (ours, StyleRole::StateBusy, "▒", "="),
    ];
    let mut spans = vec![span(model, StyleRole::UiText, format!("{:<7}", "memory"))];
    let mut room = cells;
    for (bytes, role, unicode, ascii) in parts {
        let wanted = bytes.saturating_mul(cells as u64).div_ceil(total.max(1));
        let filled = usize::try_from(wanted).unwrap_or(room).min(room);
        room -= filled;
        spans.push(span(model, role, symbols::pick(model, unicode, ascii).repeat(filled)));
    }
    spans.push(span(model, StyleRole::GaugeUsual, symbols::pick(model, "░", "-").repeat(room)));
    spans.push(span(model, role, format!(" {verdict}")));
    let whose = if run.is_some() { "this run" } else { "a run needs" };
    let of_others = if of_others > 0 { format!(" | {} promised", show_size(of_others)) } else { String::new() };
    let text = format!(
        ": {} used{of_others} | {whose} {} | {} must stay free, of {}",
        show_size(total.saturating_sub(free)),
        show_size(ours),
        show_size(memory.reserve),
        show_size(total)
    );
    spans.push(span(model, StyleRole::UiDim, text));
    Some(Line::from(spans))
}

/// Returns the rows of a finding: its text wrapped, the remedy below.
pub(super) fn rows(model: &Model, finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let head = format!("{} {}: ", finding.severity.word(), finding.check);
    let indent = "      ";
    let mut out = Vec::new();
    let clean = |text: &str| Clean::from_text(text).into_string();
    for (index, text) in wrap(&clean(&finding.text), width.saturating_sub(head.width())).into_iter().enumerate() {
        out.push(if index == 0 {
            Line::from(vec![
                span(model, symbols::severity(finding.severity), finding.severity.word()),
                span(model, StyleRole::UiText, format!(" {}: ", finding.check)),
                span(model, StyleRole::UiDim, text),
            ])
        } else {
            Line::from(span(model, StyleRole::UiDim, format!("{}{text}", " ".repeat(head.width()))))
        });
    }
    if let Some(hint) = &finding.hint {
        let lead = symbols::pick(model, "→ ", "-> ");
        for (index, text) in
            wrap(&clean(hint), width.saturating_sub(indent.len() + lead.width())).into_iter().enumerate()
        {
            let lead = if index == 0 { lead.to_owned() } else { " ".repeat(lead.width()) };
            out.push(Line::from(span(model, StyleRole::UiKey, format!("{indent}{lead}{text}"))));
        }
    }
    out
}
