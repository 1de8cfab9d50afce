//! Starting a run, or queueing it behind the current one.

use crate::{
    model::{Model, RunRequest},
    msg::Effect,
};
use vmdeck_model::{
    command::Command,
    event::{Phase, Severity},
    ids::GuestId,
    run_view::GuestView,
    select::Selector,
};

/// Starts a run, or queues it behind the current one. Guests that are only held, and that the new run needs, are kept for it.
pub(super) fn begin(model: &mut Model, request: RunRequest, out: &mut Vec<Effect>) {
    // What is kept need not be held.
    let pause = model.pause.filter(|_| !request.keep_all);
    let request = RunRequest { keep_failed: model.keep_failed, pause, ..request };
    if !model.is_running() {
        model.say(Severity::Ok, format!("starting: {}", words(&request)));
        model.shown.is_starting = true;
        return out.push(Effect::Start(request));
    }
    let selectors: Vec<Selector> = request.select.iter().filter_map(|word| Selector::parse(word).ok()).collect();
    let is_wanted = |guest: &GuestId| selectors.is_empty() || selectors.iter().any(|s| s.takes(guest));
    let all = &model.shown.view.guests;
    let is_held = |view: &GuestView| view.open.iter().any(|open| matches!(open.phase, Phase::Pause | Phase::Hold));
    let held: Vec<GuestId> = all.iter().filter(|(_, view)| is_held(view)).map(|(id, _)| id.clone()).collect();
    for guest in held.into_iter().filter(is_wanted) {
        model.pending.kept.insert(guest.clone());
        out.push(Effect::Send(Command::Keep { guest, on: true }));
    }
    if all.values().all(|view| view.planned == 0) {
        // Guests that are only kept up make room.
        out.extend(all.keys().cloned().map(|guest| Effect::Send(Command::Stop { guest })));
    }
    model.say(Severity::Ok, format!("queued: {}", words(&request)));
    model.pending.next = Some(request);
}

fn words(request: &RunRequest) -> String {
    let what = if request.select.is_empty() { "everything".to_owned() } else { request.select.join(" ") };
    if request.hold { format!("{what}, to stay up") } else { what }
}
