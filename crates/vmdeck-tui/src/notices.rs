//! What the lock and preflight have to say where their panes are not seen: a line each, and none where all is well.

use super::{
    host_state::LockState,
    keymap::Action,
    model::{Model, Pane, RecordSource},
    room::has_lower_panes,
};
use vmdeck_model::{
    event::{Finding, Holder, Severity},
    run_view::LockView,
    text::Clean,
};

/// From this many rows on there is room for them.
const ROOM: u16 = 16;

/// A line below the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// How serious it is.
    pub severity: Severity,
    /// The line.
    pub text: String,
}

/// Returns the lines for this state.
pub(crate) fn of(model: &Model) -> Vec<Notice> {
    let both_seen = has_lower_panes(model);
    if model.size.1 < ROOM || both_seen || model.panes.zoom {
        return Vec::new();
    }
    let unseen = |pane| model.panes.focus != pane;
    let lock = lock(model).filter(|_| unseen(Pane::Lock));
    lock.into_iter().chain(preflight(model).filter(|_| unseen(Pane::Preflight))).collect()
}

fn lock(model: &Model) -> Option<Notice> {
    let key = |action| model.appearance.keymap.key(action);
    let said = |severity, text: String| Some(Notice { severity, text: Clean::from_text(&text).into_string() });
    let more = format!("{} shows it", key(Action::PaneLock));
    if let LockView::Waiting(holder) = &model.shown.view.lock
        && model.is_live()
    {
        return said(Severity::Warn, format!("lock: {}; {more}", held(holder)));
    }
    if model.shown.view.run.is_some() && model.is_live() {
        // The run that is shown has it.
        return None;
    }
    let row = |state| model.host.locks.iter().find(|row| row.state == state);
    if let Some(row) = row(LockState::Stale) {
        return said(Severity::Warn, format!("lock: stale: {}; {} releases it", row.path, key(Action::BreakLock)));
    }
    let is_free = model.host.locks.iter().any(|row| row.state == LockState::Free);
    let holder = row(LockState::Held).filter(|_| !is_free)?.holder.as_ref()?;
    let is_running = matches!(model.shown.record, RecordSource::Own { ended: false });
    let wait = if is_running { String::new() } else { format!(": {} waits for it", key(Action::Run)) };
    said(Severity::Ok, format!("lock: {}{wait}; {more}", held(holder)))
}

fn held(holder: &Holder) -> String {
    // What it does was true when it was looked at, and is told in the pane.
    holder.pid.map_or("held by another process".to_owned(), |pid| format!("held by process {pid}"))
}

/// Returns the place of the shown run in the queue for the lock, from 1, and how many wait.
pub(crate) fn place_in_queue(model: &Model) -> Option<(usize, usize)> {
    let run = model.shown.view.run.as_ref()?;
    let at = model.host.queue.iter().position(|waiter| waiter.run.as_ref() == Some(run))?;
    Some((at + 1, model.host.queue.len()))
}

/// Returns what preflight found, the worst first: what a run found is newer than the last look.
pub(crate) fn findings(model: &Model) -> Vec<&Finding> {
    let all = if model.shown.view.findings.is_empty() { &model.host.findings } else { &model.shown.view.findings };
    let mut all: Vec<&Finding> = all.iter().collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

fn preflight(model: &Model) -> Option<Notice> {
    // Of a run that is in progress, what did not stop it is in its pane.
    let least = if model.is_live() { Severity::Fatal } else { Severity::Warn };
    let worst = findings(model).into_iter().find(|finding| finding.severity >= least)?;
    let what_to_do = worst.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    let key = model.appearance.keymap.key(Action::PanePreflight);
    let text = format!("{key} preflight: {} {}: {}{what_to_do}", worst.severity.word().trim(), worst.check, worst.text);
    Some(Notice { severity: worst.severity, text: Clean::from_text(&text).into_string() })
}

/// Returns the command that mends a finding, if one does: a record does not hold it, the last look at this host does.
pub(crate) fn fix<'a>(model: &'a Model, finding: &'a Finding) -> Option<&'a Vec<String>> {
    let same = |other: &&Finding| other.check == finding.check && other.text == finding.text;
    finding.fix.as_ref().or_else(|| model.host.findings.iter().find(same)?.fix.as_ref())
}

/// Returns a command as a shell takes it.
pub(crate) fn command(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}
