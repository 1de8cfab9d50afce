//! Starting a run, or queueing it behind the current one.

use crate::{
    model::{Model, RunRequest},
    msg::Effect,
};
use vmdeck_model::{command::Command, event::Severity, ids::GuestId};

/// Starts a run, or queues it behind the current one.
pub(super) fn begin(model: &mut Model, request: RunRequest, out: &mut Vec<Effect>) {
    let request = RunRequest { keep_failed: model.keep_failed, pause: model.pause, ..request };
    if !model.is_running() {
        model.say(Severity::Ok, format!("starting: {}", words(&request)));
        model.shown.is_starting = true;
        return out.push(Effect::Start(request));
    }
    let only_held = model.shown.view.guests.values().all(|g| g.planned == 0);
    if only_held {
        // Guests that are only kept up make room.
        let on: Vec<GuestId> = model.shown.view.guests.keys().cloned().collect();
        out.extend(on.into_iter().map(|guest| Effect::Send(Command::Stop { guest })));
    }
    model.say(Severity::Ok, format!("queued: {}", words(&request)));
    model.pending.next = Some(request);
}

fn words(request: &RunRequest) -> String {
    let what = if request.select.is_empty() { "everything".to_owned() } else { request.select.join(" ") };
    if request.hold { format!("{what}, to stay up") } else { what }
}
