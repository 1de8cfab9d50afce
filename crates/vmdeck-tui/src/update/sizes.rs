//! The sizes of the panes: by key, or by dragging the line between two of them. What is chosen is kept.

use crate::{
    layout::Layout,
    look::{Edge, SHARES},
    model::{Model, Pane},
};
use ratatui::layout::Rect;

/// How much one key changes the share of the run pane, per cent.
const STEP: u16 = 5;
/// How many rows the machines pane may have more than it needs, or fewer.
const ROWS: i16 = 40;

/// Gives the pane that has the keys more room, or less.
pub(super) fn step(model: &mut Model, by: i16) {
    let look = &mut model.appearance.look;
    let wider = |share: u16, on: bool| if on { share + STEP } else { share.saturating_sub(STEP) };
    match model.panes.focus {
        Pane::Machines => look.machine_rows = (look.machine_rows + by).clamp(-ROWS, ROWS),
        Pane::Run => look.run_share = wider(look.run_share, by > 0).clamp(SHARES.0, SHARES.1),
        Pane::Logs => look.run_share = wider(look.run_share, by < 0).clamp(SHARES.0, SHARES.1),
        Pane::Lock | Pane::Preflight | Pane::Events => {}
    }
}

/// Returns the line between two panes at this place.
pub(super) fn edge_at(layout: &Layout, column: u16, row: u16) -> Option<Edge> {
    let (machines, run, logs) = (layout.area(Pane::Machines)?, layout.area(Pane::Run), layout.area(Pane::Logs));
    if let (Some(run), Some(logs)) = (run, logs)
        && run.y == logs.y
        && (run.right() == column + 1 || logs.x == column)
        && (run.y..run.bottom()).contains(&row)
    {
        return Some(Edge::RunAndLogs);
    }
    let below = layout.panes.iter().any(|(pane, area)| *pane != Pane::Machines && area.y == machines.bottom());
    (below && row + 1 == machines.bottom()).then_some(Edge::Machines)
}

/// Moves a line between two panes to this place.
pub(super) fn drag(model: &mut Model, edge: Edge, column: u16, row: u16) {
    let layout = Layout::of(model);
    match edge {
        Edge::RunAndLogs => {
            let whole: Vec<Rect> = [Pane::Run, Pane::Logs].iter().filter_map(|pane| layout.area(*pane)).collect();
            if let [run, logs] = whole[..] {
                let width = u32::from(logs.right().saturating_sub(run.x)).max(1);
                let share = u32::from((column + 1).saturating_sub(run.x)) * 100 / width;
                model.appearance.look.run_share = u16::try_from(share).unwrap_or(SHARES.1).clamp(SHARES.0, SHARES.1);
            }
        }
        Edge::Machines => {
            if let Some(machines) = layout.area(Pane::Machines) {
                let by = i32::from(row) + 1 - i32::from(machines.bottom());
                let rows = i32::from(model.appearance.look.machine_rows) + by;
                model.appearance.look.machine_rows = i16::try_from(rows).unwrap_or(0).clamp(-ROWS, ROWS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{fixture::TestCockpit, layout::Layout, model::Pane, msg::Msg};
    use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

    fn wide() -> TestCockpit {
        let mut case = TestCockpit::with_run();
        case.msg(Msg::Resize(160, 50)).sent();
        case
    }

    fn width(case: &TestCockpit, pane: Pane) -> u16 {
        Layout::of(&case.model).area(pane).expect("seen").width
    }

    fn mouse(case: &mut TestCockpit, kind: MouseEventKind, column: u16, row: u16) {
        case.msg(Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
    }

    #[test]
    fn a_pane_grows_by_its_key_and_what_is_chosen_is_kept() {
        let mut case = wide();
        let before = width(&case, Pane::Run);
        case.keys("5 + +");
        assert_eq!(width(&case, Pane::Run), before + 16);
        case.keys("4 +");
        assert_eq!(width(&case, Pane::Run), before + 8, "the logs grow to the left");
        assert_eq!(case.model.appearance.look.run_share, 50);
        let rows = |case: &TestCockpit| Layout::of(&case.model).area(Pane::Machines).expect("seen").height;
        let before = rows(&case);
        case.keys("1 + + -");
        assert_eq!(rows(&case), before + 1);
        case.keys(&["-"; 99].join(" "));
        assert!(rows(&case) >= 5, "it never goes away");
        let look = case.model.appearance.look.clone();
        case.keys("6 +");
        assert_eq!(case.model.appearance.look, look, "events have what is left");
    }

    #[test]
    fn the_line_between_run_and_logs_is_dragged() {
        let mut case = wide();
        let run = Layout::of(&case.model).area(Pane::Run).expect("seen");
        let (left, row) = (MouseButton::Left, run.y + 3);
        mouse(&mut case, MouseEventKind::Down(left), run.right() - 1, row);
        mouse(&mut case, MouseEventKind::Drag(left), 100, row);
        assert_eq!(width(&case, Pane::Run), 101);
        mouse(&mut case, MouseEventKind::Drag(left), 159, row);
        assert!(width(&case, Pane::Logs) >= 30, "both are still there");
        mouse(&mut case, MouseEventKind::Up(left), 159, row);
        mouse(&mut case, MouseEventKind::Drag(left), 20, row);
        assert!(width(&case, Pane::Run) > 100, "let go of, it stays");
    }
}
