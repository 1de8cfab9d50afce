//! The mouse: a click chooses, the wheel scrolls, a line between two panes is dragged, a click on the line of a replay goes to that
//! time.

use super::{moves, rewind, sizes};
use crate::{
    layout::{Layout, first_row},
    model::{Model, Pane},
    view::track_start,
};
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

/// Rows of one turn of the wheel.
const WHEEL: i64 = 3;

/// Takes a mouse event.
pub(super) fn mouse(model: &mut Model, mouse: MouseEvent) {
    if model.overlay.is_some() {
        return;
    }
    let layout = Layout::of(model);
    match mouse.kind {
        MouseEventKind::Drag(MouseButton::Left) => {
            if let Some(edge) = model.panes.dragged {
                sizes::drag(model, edge, mouse.column, mouse.row);
            }
        }
        MouseEventKind::Up(MouseButton::Left) => model.panes.dragged = None,
        MouseEventKind::Down(MouseButton::Left) => {
            if let (Some(bar), Some(player)) = (layout.bar, &model.shown.player)
                && bar.contains((mouse.column, mouse.row).into())
            {
                let lead = u16::try_from(track_start(model)).unwrap_or(0);
                let cells = u64::from(bar.width.saturating_sub(lead + 1)).max(2) - 1;
                let cell = u64::from((mouse.column - bar.x).saturating_sub(lead)).min(cells);
                let to_ms = cell * player.total_ms / cells;
                return rewind::seek(model, to_ms);
            }
            model.panes.dragged = sizes::edge_at(&layout, mouse.column, mouse.row);
            let Some((pane, area)) = layout.at(mouse.column, mouse.row).filter(|_| model.panes.dragged.is_none())
            else {
                return;
            };
            model.panes.focus = pane;
            let row = usize::from(mouse.row.saturating_sub(area.y + 1));
            click(model, pane, row, area.height);
        }
        MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
            let Some((pane, _)) = layout.at(mouse.column, mouse.row) else { return };
            let by = if mouse.kind == MouseEventKind::ScrollUp { -WHEEL } else { WHEEL };
            let before = std::mem::replace(&mut model.panes.focus, pane);
            moves::step(model, by);
            model.panes.focus = before;
        }
        _ => {}
    }
}

fn click(model: &mut Model, pane: Pane, row: usize, height: u16) {
    let rows = usize::from(height.saturating_sub(2));
    match pane {
        Pane::Machines => {
            let all = model.shown_guests().len() + model.other_machines().len();
            let first = first_row(model.panes.machines.at, rows.saturating_sub(1), all);
            model.panes.machines.at = (first + row.saturating_sub(1)).min(all.saturating_sub(1));
        }
        Pane::Run => {
            model.panes.run.at =
                (first_row(model.panes.run.at, rows, model.tree.len()) + row).min(model.tree.len().saturating_sub(1));
        }
        Pane::Logs => {
            let line = model.logs.top + row as u64;
            if line < model.logs.range().1 {
                model.logs.go(line);
            }
        }
        Pane::Lock | Pane::Preflight | Pane::Events => {}
    }
}
