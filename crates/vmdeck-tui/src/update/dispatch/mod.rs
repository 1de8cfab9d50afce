//! The one way to everything that a person can ask for: it holds the gate that keeps a read-only cockpit, a replay and the
//! run of others unchanged.
//!
//! `actions` is private here, so that no key, menu or dialog can go round the gate.

mod actions;

use crate::{
    keymap::{self, Action, Privilege, Scope},
    model::{Model, Pane},
    msg::Effect,
    overlay::Question,
};
use vmdeck_model::{command::Command, event::Severity, outcome::CancelReason};

/// Returns the scopes in which a key is looked for, the nearest first.
pub(super) fn scopes(model: &Model) -> Vec<Scope> {
    let mut scopes = Vec::new();
    if model.shown.player.is_some() {
        scopes.push(Scope::Replay);
    }
    scopes.push(match model.panes.focus {
        Pane::Machines | Pane::Run => Scope::Guests,
        Pane::Logs => Scope::Logs,
        Pane::Lock | Pane::Preflight | Pane::Events => Scope::Host,
    });
    scopes.push(Scope::Global);
    scopes
}

/// Returns whether something may be changed now; says why not.
pub(super) fn may_change(model: &mut Model) -> bool {
    match model.forbidden() {
        Some(why) => {
            model.say(Severity::Warn, why);
            false
        }
        None => true,
    }
}

/// Does an action if it may be done.
pub(super) fn dispatch(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    if keymap::def(action).privilege == Privilege::Look || may_change(model) {
        actions::act(model, action, out);
    }
}

/// Carries out what was asked and confirmed, if it still may be done.
pub(super) fn carry_out(model: &mut Model, question: Question, out: &mut Vec<Effect>) {
    if !may_change(model) {
        return;
    }
    match question {
        Question::Kill(guests) => out.extend(guests.into_iter().map(|guest| Effect::Send(Command::Kill { guest }))),
        Question::Answer(guest, passed) => out.push(Effect::Send(Command::Answer { guest, passed })),
        Question::Cancel => {
            model.pending.next = None;
            out.push(Effect::Send(Command::Cancel { reason: CancelReason::User }));
        }
        Question::CleanUp => {
            model.say(Severity::Ok, "removing ...");
            out.push(Effect::CleanUp);
        }
        Question::Mend(words) => out.push(Effect::Mend(words)),
        Question::BreakLock(path, pid) => out.push(Effect::BreakLock { path, pid }),
    }
}

/// Cancels the run; the cockpit closes when it has ended.
pub(super) fn stop_and_leave(model: &mut Model, out: &mut Vec<Effect>) {
    model.overlay = None;
    model.pending.is_leaving = true;
    model.pending.next = None;
    model.say(Severity::Warn, "stopping and cleaning up; then the cockpit closes");
    out.push(Effect::Send(Command::Cancel { reason: CancelReason::User }));
}
