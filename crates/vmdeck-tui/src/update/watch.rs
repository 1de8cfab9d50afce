//! Watching the code: each change runs the same cases again, and ends the run that it makes stale.

use super::start;
use crate::{
    code_watch::CodeWatch,
    model::{Model, RunRequest},
    msg::Effect,
};
use vmdeck_model::{
    command::Command,
    event::{EventKind, Severity},
    exit::RunExit,
    outcome::CancelReason,
};

/// Begins to run these after each change, or ends that; they are run at once, too.
pub(super) fn toggle(model: &mut Model, select: Vec<String>, out: &mut Vec<Effect>) {
    if model.code_watch.take().is_some() {
        out.push(Effect::WatchCode(false));
        return model.say(Severity::Ok, "the code is not watched any more; the guests stay up");
    }
    let what = select.join(" ");
    model.code_watch = Some(CodeWatch::new(select));
    out.push(Effect::WatchCode(true));
    run(model, out);
    model.say(Severity::Ok, format!("{what}: run after each change of the code; w ends that"));
}

/// Runs the cases again: the code has changed.
pub(super) fn changed(model: &mut Model, names: &[String], out: &mut Vec<Effect>) {
    let Some(watch) = &model.code_watch else { return };
    let is_stale = watch.is_running && !boots(model);
    run(model, out);
    if is_stale {
        // The guests are kept, as of every run of a watch.
        out.push(Effect::Send(Command::Cancel { reason: CancelReason::Stale }));
    }
    let first = names.first().map_or("the code", String::as_str);
    let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    out.push(Effect::Log { severity: Severity::Ok, target: "engine::watch", text: format!("{first}{more} changed") });
}

/// Notes how a run ended, if it was one of the watch.
pub(super) fn ended(model: &mut Model, exit: Option<RunExit>, out: &mut Vec<Effect>) {
    let was_stale = model.shown.view.cancelled == Some(CancelReason::Stale);
    let Some(watch) = model.code_watch.as_mut().filter(|watch| watch.is_running) else { return };
    if was_stale {
        watch.is_running = false;
        return;
    }
    if let Some(news) = watch.ended(exit.unwrap_or(RunExit::Bug)) {
        out.push(Effect::Notify { text: format!("vmdeck: {news}") });
        model.say(if news.starts_with("RED") { Severity::Warn } else { Severity::Ok }, news);
    }
}

/// Notes that a run has begun: one that was asked for by the watch is its own.
pub(super) fn begun(model: &mut Model, kind: &EventKind) {
    if let (EventKind::RunStarted { selection, .. }, Some(watch)) = (kind, &mut model.code_watch) {
        watch.is_running = *selection == watch.select;
    }
}

fn run(model: &mut Model, out: &mut Vec<Effect>) {
    if let Some(watch) = &model.code_watch {
        let select = watch.select.clone();
        start::begin(model, RunRequest { select, keep_all: true, ..RunRequest::default() }, out);
    }
}

/// Returns whether a guest boots: a boot that is begun again with each change would never come to its end.
fn boots(model: &Model) -> bool {
    let mut guests = model.shown.view.guests.values();
    guests.any(|guest| guest.reused.is_none() && guest.boot_ms().is_none() && !guest.open.is_empty())
}
