//! What follows from the state: the rows of the run pane, and the sizes that the panes have on this screen.
//!
//! Done once before the state is drawn.

use super::{
    layout::Layout,
    model::{Model, Pane},
    tree,
};

/// Brings everything that follows from the state up to date.
pub(crate) fn derive(model: &mut Model) {
    if std::mem::take(&mut model.is_tree_stale) {
        model.tree = tree::rows(model);
        model.panes.run.at = model.panes.run.at.min(model.tree.len().saturating_sub(1));
    }
    let rows = model.shown_guests().len() + model.other_machines().len();
    model.panes.machines.at = model.panes.machines.at.min(rows.saturating_sub(1));
    if let Some(area) = Layout::of(model).area(Pane::Logs) {
        model.logs.resize(usize::from(area.height.saturating_sub(2)));
        if let Some(console) = &mut model.console {
            console.resize(area.width.saturating_sub(2), area.height.saturating_sub(2));
        }
    }
}
