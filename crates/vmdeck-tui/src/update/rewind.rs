//! Showing a record from another time: what was shown is forgotten and folded anew.

use super::events;
use crate::model::Model;
use vmdeck_model::run_view::RunView;

/// The console of a guest that was powered on, where no log is shown yet.
pub(super) fn show_any_console(model: &mut Model) {
    let on = model.shown.view.guests.iter().find(|(_, guest)| guest.powered_ms.is_some());
    if let Some(guest) = on.map(|(id, _)| id.clone()) {
        events::show_console(model, &guest);
    }
}

/// Forgets everything of the run that was shown.
pub(super) fn forget_run(model: &mut Model) {
    model.shown.view = RunView::default();
    model.shown.began_wall_ms = None;
    model.is_tree_stale = true;
    model.pending.kept.clear();
    model.host.usage.clear();
    model.logs.merged.clear();
}

/// Folds a replay again from its first event to a time.
pub(super) fn seek(model: &mut Model, to_ms: u64) {
    let now = model.now_ms;
    let Some(player) = &mut model.shown.player else { return };
    let events = player.seek(to_ms, now);
    forget_run(model);
    // What happened then is not told again.
    for event in &events {
        events::fold(model, event);
    }
    show_any_console(model);
    model.logs.until_ms = Some(to_ms);
    model.logs.refresh();
}
