//! Where the panes are, for every size of the terminal.
//!
//! Pure: the same state gives the same places, so keys and mouse mean what is seen.

use super::{
    look::SHARES,
    model::{Model, Pane},
    notices,
    room::{SMALL, WIDE, has_lower_panes},
};
use ratatui::layout::{Constraint, Layout as Split, Rect};

/// The places of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The line at the top.
    pub header: Rect,
    /// The panes that are shown, each with its place.
    pub panes: Vec<(Pane, Rect)>,
    /// The line of a replay.
    pub bar: Option<Rect>,
    /// The line at the bottom.
    pub footer: Rect,
}

impl Layout {
    /// Returns the layout for this state.
    pub fn of(model: &Model) -> Self {
        let whole = Rect::new(0, 0, model.size.0, model.size.1);
        let has_bar = model.shown.player.is_some() && whole.height >= 6;
        let has_lines = whole.height >= 5;
        let lines = u16::from(has_lines);
        let notices = u16::try_from(notices::of(model).len()).unwrap_or(0);
        let rows = [
            Constraint::Length(lines + notices),
            Constraint::Min(0),
            Constraint::Length(u16::from(has_bar)),
            Constraint::Length(lines),
        ];
        let [header, body, bar, footer] = Split::vertical(rows).areas(whole);
        let panes = if model.panes.zoom || whole.width < SMALL.0 || whole.height < SMALL.1 {
            vec![(model.panes.focus, body)]
        } else if whole.width < WIDE {
            narrow(model, body)
        } else {
            wide(model, body)
        };
        Self { header, panes, bar: has_bar.then_some(bar), footer }
    }

    /// Returns where a pane is, if it is seen.
    pub fn area(&self, pane: Pane) -> Option<Rect> {
        self.panes.iter().find(|(p, _)| *p == pane).map(|(_, area)| *area)
    }

    /// Returns the pane at a place.
    pub fn at(&self, column: u16, row: u16) -> Option<(Pane, Rect)> {
        self.panes.iter().find(|(_, area)| area.contains((column, row).into())).copied()
    }
}

/// Returns how many rows the machines need, title and frame included.
fn machine_rows(model: &Model) -> u16 {
    let rows = model.shown_guests().len() + model.other_machines().len() + 3;
    let rows = i32::try_from(rows).unwrap_or(i32::MAX).saturating_add(i32::from(model.appearance.look.machine_rows));
    u16::try_from(rows.max(0)).unwrap_or(u16::MAX)
}

/// Returns the places with the machines above and one other pane below.
fn narrow(model: &Model, body: Rect) -> Vec<(Pane, Rect)> {
    let other = if model.panes.focus == Pane::Machines { Pane::Logs } else { model.panes.focus };
    let height = machine_rows(model).clamp(4, (body.height / 2).saturating_sub(1).max(4));
    if body.height >= 28 {
        let rows = [Constraint::Length(height), Constraint::Fill(2), Constraint::Fill(3)];
        let [top, middle, bottom] = Split::vertical(rows).areas(body);
        let last = if matches!(other, Pane::Run | Pane::Logs) { Pane::Logs } else { other };
        return vec![(Pane::Machines, top), (Pane::Run, middle), (last, bottom)];
    }
    let [top, bottom] = Split::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(body);
    vec![(Pane::Machines, top), (other, bottom)]
}

/// Returns the machines above, for they have the most to tell of each; the run to the left, logs to the right, the host below.
fn wide(model: &Model, body: Rect) -> Vec<(Pane, Rect)> {
    let lower = if has_lower_panes(model) { 9 } else { 0 };
    let [upper, lower] = Split::vertical([Constraint::Min(0), Constraint::Length(lower)]).areas(body);
    let height = machine_rows(model).clamp(5, (upper.height * 2 / 3).max(5));
    let [machines, rest] = Split::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(upper);
    let share = model.appearance.look.run_share.clamp(SHARES.0, SHARES.1);
    let [run, right] = Split::horizontal([Constraint::Percentage(share), Constraint::Fill(1)]).areas(rest);
    let mut out = vec![(Pane::Machines, machines), (Pane::Run, run)];
    if lower.height == 0 {
        let other =
            if matches!(model.panes.focus, Pane::Machines | Pane::Run) { Pane::Logs } else { model.panes.focus };
        out.push((other, right));
        return out;
    }
    let [lock, preflight, events] =
        Split::horizontal([Constraint::Fill(4), Constraint::Fill(5), Constraint::Fill(9)]).areas(lower);
    out.extend([(Pane::Lock, lock), (Pane::Preflight, preflight), (Pane::Logs, right), (Pane::Events, events)]);
    out
}

/// Returns the first row of a list that is drawn, so that the current one is seen.
pub fn first_row(at: usize, rows: usize, all: usize) -> usize {
    if all <= rows { 0 } else { at.saturating_sub(rows / 2).min(all - rows) }
}
