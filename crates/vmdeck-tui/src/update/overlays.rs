//! What the keys do in help, palette, questions and the other things that lie over the panes.

use super::actions;
use crate::{
    input,
    keymap::Action,
    model::Model,
    msg::Effect,
    overlay::{self, Confirm, Overlay, Question},
    prompt::Line,
    theme,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmdeck_model::{command::Command, event::Severity, outcome::CancelReason};

/// Takes a key while something lies over the panes.
pub(super) fn key(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    if is_control && !overlay::is_typing(model) && !matches!(model.overlay, Some(Overlay::Details(_))) {
        // ctrl-d is no d: what is asked here must be meant.
        return;
    }
    let Some(overlay) = model.overlay.take() else { return };
    // Whatever it is, its next state is put back unless it is closed.
    model.overlay = match overlay {
        Overlay::Help(chooser) | Overlay::Palette(chooser) if key.code == KeyCode::Enter => {
            if let Some(action) = overlay::chosen(&chooser) {
                actions::from_menu(model, action, out);
            }
            // The action may have opened something itself.
            model.overlay.take()
        }
        Overlay::Help(chooser) => choose(chooser, key).map(Overlay::Help),
        Overlay::Palette(chooser) => choose(chooser, key).map(Overlay::Palette),
        Overlay::Themes { names, at, before } => themes(model, names, at, before, key, out),
        Overlay::Details(guest) => details(model, guest, key, out),
        Overlay::Confirm(confirm) => answer(model, confirm, key, out),
        Overlay::Quit => quit(model, key, out),
        Overlay::Welcome(text) => {
            let stays = welcome(model, key, out);
            stays.then_some(Overlay::Welcome(text))
        }
        Overlay::Message { title, text } => match key.code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => None,
            _ => Some(Overlay::Message { title, text }),
        },
    };
}

/// The line that is typed into, if there is one.
pub(super) fn line(model: &mut Model) -> Option<&mut Line> {
    match &mut model.overlay {
        Some(Overlay::Help(chooser) | Overlay::Palette(chooser)) => Some(&mut chooser.line),
        Some(Overlay::Confirm(confirm)) if confirm.word.is_some() => Some(&mut confirm.typed),
        _ => None,
    }
}

fn choose(mut chooser: overlay::Chooser, key: KeyEvent) -> Option<overlay::Chooser> {
    let rows = overlay::matching(&chooser.line).len();
    let last = rows.saturating_sub(1);
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Esc => return None,
        KeyCode::Up => chooser.at = chooser.at.saturating_sub(1),
        KeyCode::Down => chooser.at = (chooser.at + 1).min(last),
        KeyCode::Char('p') if ctrl => chooser.at = chooser.at.saturating_sub(1),
        KeyCode::Char('n') if ctrl => chooser.at = (chooser.at + 1).min(last),
        KeyCode::PageUp => chooser.at = chooser.at.saturating_sub(10),
        KeyCode::PageDown => chooser.at = (chooser.at + 10).min(last),
        _ => {
            if chooser.line.key(key) {
                chooser.at = 0;
            }
        }
    }
    Some(chooser)
}

/// Opens the choice of themes.
pub(super) fn open_themes(model: &mut Model) {
    let names = theme::names(model.look.theme_folder.as_deref());
    let at = names.iter().position(|n| *n == model.look.theme.name).unwrap_or(0);
    model.overlay = Some(Overlay::Themes { names, at, before: Box::new(model.look.theme.clone()) });
}

fn themes(
    model: &mut Model,
    names: Vec<String>,
    at: usize,
    before: Box<theme::Theme>,
    key: KeyEvent,
    out: &mut Vec<Effect>,
) -> Option<Overlay> {
    let next = match key.code {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => (at + 1).min(names.len().saturating_sub(1)),
        KeyCode::Enter => {
            let name = &names[at];
            model.say(Severity::Ok, format!("to keep it: [cockpit] theme = \"{name}\""));
            return None;
        }
        KeyCode::Esc | KeyCode::Char('q') => {
            model.look.theme = *before;
            return None;
        }
        _ => at,
    };
    if next != at {
        out.push(Effect::LoadTheme(names[next].clone()));
    }
    Some(Overlay::Themes { names, at: next, before })
}

/// The keys of the guest's actions work here too; anything else closes it.
fn details(
    model: &mut Model,
    guest: vmdeck_model::ids::GuestId,
    key: KeyEvent,
    out: &mut Vec<Effect>,
) -> Option<Overlay> {
    let action = input::chord(key).and_then(|c| model.look.keymap.find(&super::keys::scopes(model), c));
    match action {
        Some(Action::Back | Action::Quit | Action::Enter | Action::Details) => None,
        Some(Action::Up | Action::Down) => {
            actions::act(model, action.unwrap_or(Action::Up), out);
            model.guest().map(Overlay::Details)
        }
        Some(action) => {
            super::keys::run(model, action, out);
            model.overlay.take()
        }
        None => Some(Overlay::Details(guest)),
    }
}

fn answer(model: &mut Model, mut confirm: Confirm, key: KeyEvent, out: &mut Vec<Effect>) -> Option<Overlay> {
    let Some(word) = confirm.word.clone() else {
        return match key.code {
            KeyCode::Char('y') => {
                carry_out(model, confirm.question, out);
                None
            }
            KeyCode::Char('n' | 'q') | KeyCode::Esc | KeyCode::Enter => None,
            // Also the key that asked: pressing it twice must not do it.
            _ => Some(Overlay::Confirm(confirm)),
        };
    };
    match key.code {
        KeyCode::Esc => None,
        KeyCode::Enter if confirm.typed.text().trim() == word => {
            carry_out(model, confirm.question, out);
            None
        }
        KeyCode::Enter => {
            model.say(Severity::Warn, format!("not done: type `{word}` to do it, Esc to leave"));
            Some(Overlay::Confirm(confirm))
        }
        _ => {
            confirm.typed.key(key);
            Some(Overlay::Confirm(confirm))
        }
    }
}

fn carry_out(model: &mut Model, question: Question, out: &mut Vec<Effect>) {
    match question {
        Question::Kill(guests) => out.extend(guests.into_iter().map(|guest| Effect::Send(Command::Kill { guest }))),
        Question::Cancel => {
            model.next = None;
            out.push(Effect::Send(Command::Cancel { reason: CancelReason::User }));
        }
        Question::CleanUp => {
            model.say(Severity::Ok, "removing ...");
            out.push(Effect::CleanUp);
        }
        Question::BreakLock(path, pid) => out.push(Effect::BreakLock { path, pid }),
    }
}

fn quit(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) -> Option<Overlay> {
    match key.code {
        KeyCode::Char('d') => {
            model.is_detached = true;
            out.extend([Effect::Detach, Effect::Quit]);
            None
        }
        KeyCode::Char('s') => {
            stop_and_leave(model, out);
            None
        }
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('n' | 'q' | 'c') => None,
        _ => Some(Overlay::Quit),
    }
}

/// Cancels the run; the cockpit closes when it has ended.
pub(super) fn stop_and_leave(model: &mut Model, out: &mut Vec<Effect>) {
    model.overlay = None;
    model.is_leaving = true;
    model.next = None;
    model.say(Severity::Warn, "stopping and cleaning up; then the cockpit closes");
    out.push(Effect::Send(Command::Cancel { reason: CancelReason::User }));
}

/// Returns whether it stays open.
fn welcome(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) -> bool {
    if matches!(key.code, KeyCode::Char('i' | 'd' | 'e'))
        && let Some(why) = model.forbidden()
    {
        model.say(Severity::Warn, why);
        return true;
    }
    match key.code {
        KeyCode::Char('i') => out.push(Effect::Init),
        KeyCode::Char('d') => {
            // Closed at once: a second press must not begin a second demo.
            model.say(Severity::Ok, "making the demo's guest ...");
            out.push(Effect::Demo);
            return false;
        }
        KeyCode::Char('e') => out.push(Effect::EditConfig),
        KeyCode::Char('r') => out.push(Effect::LoadSetup),
        KeyCode::Char('q') | KeyCode::Esc => out.push(Effect::Quit),
        _ => {}
    }
    true
}
