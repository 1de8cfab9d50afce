//! Moving: between the panes, within the one that has the keys, and folding the rows of the run pane.

use super::logs;
use crate::{
    layout::Layout,
    model::{Model, Pane},
    run_node::RunNode,
};
use tui_logger::TuiWidgetEvent;

/// Columns of a sideways scroll.
const COLUMNS: i64 = 8;

/// Moves in the pane that has the keys.
pub(in crate::update) fn step(model: &mut Model, by: i64) {
    match model.panes.focus {
        Pane::Machines => {
            let rows = model.shown_guests().len() + model.other_machines().len();
            model.panes.machines.step(by, rows);
        }
        Pane::Run => {
            model.panes.run.step(by, model.tree.len());
            logs::show_selected(model);
        }
        Pane::Logs => model.logs.step(by),
        Pane::Events => model.events.transition(if by < 0 { TuiWidgetEvent::UpKey } else { TuiWidgetEvent::DownKey }),
        Pane::Lock | Pane::Preflight => {
            let at = model.panes.scroll.entry(model.panes.focus).or_default();
            *at = at.saturating_add_signed(isize::try_from(by).unwrap_or(isize::MIN)).min(500);
        }
    }
}

pub(in crate::update) fn page(model: &mut Model, by: i64) {
    if model.panes.focus == Pane::Events {
        let key = if by < 0 { TuiWidgetEvent::PrevPageKey } else { TuiWidgetEvent::NextPageKey };
        return model.events.transition(key);
    }
    let rows = Layout::of(model).area(model.panes.focus).map_or(10, |area| area.height.saturating_sub(3).max(1));
    step(model, by * i64::from(rows));
}

pub(in crate::update) fn bottom(model: &mut Model) {
    match model.panes.focus {
        Pane::Logs => model.logs.set_follow(true),
        Pane::Events => model.events.transition(TuiWidgetEvent::EscapeKey),
        _ => step(model, i64::MAX / 2),
    }
}

pub(in crate::update) fn sideways(model: &mut Model, by: i64) {
    match model.panes.focus {
        Pane::Logs => model.logs.sideways(by * COLUMNS),
        Pane::Events => {
            model.events.transition(if by < 0 { TuiWidgetEvent::LeftKey } else { TuiWidgetEvent::RightKey });
        }
        Pane::Run => fold(model, by < 0),
        _ => {}
    }
}

/// Folds the row of the run pane in or out: a case shows all of its sub-tests or only those that failed, and folds its suite.
pub(in crate::update) fn fold(model: &mut Model, closed: bool) {
    let Some(node) = model.tree.get(model.panes.run.at) else { return };
    let mut head = node.clone();
    let word = node.selector();
    if node.case.is_some() && (node.has_subtests || node.subtest.is_some()) {
        let is_changed =
            if closed { model.panes.unfolded.remove(&word) } else { model.panes.unfolded.insert(word.clone()) };
        if is_changed || node.subtest.is_some() {
            let of_case = |n: &RunNode| n.is_case() && n.selector() == word;
            model.panes.run.at = model.tree.iter().position(of_case).unwrap_or(model.panes.run.at);
            model.is_tree_stale = true;
            return;
        }
    }
    (head.case, head.subtest) = (None, None);
    let word = head.selector();
    if closed {
        model.panes.folded.insert(word.clone());
        let of_head = |n: &RunNode| n.case.is_none() && n.selector() == word;
        model.panes.run.at = model.tree.iter().position(of_head).unwrap_or(model.panes.run.at);
    } else {
        model.panes.folded.remove(&word);
    }
    model.is_tree_stale = true;
}

pub(in crate::update) fn step_pane(model: &mut Model, by: i64) {
    let now = Pane::ALL.iter().position(|p| *p == model.panes.focus).unwrap_or(0);
    let count = i64::try_from(Pane::ALL.len()).unwrap_or(1);
    let next = (i64::try_from(now).unwrap_or(0) + by).rem_euclid(count);
    model.panes.focus = Pane::ALL[usize::try_from(next).unwrap_or(0)];
}
