//! What the keys do in help, palette, questions and the other things that lie over the panes.

use super::{
    dispatch::{carry_out, dispatch, may_change, scopes, stop_and_leave},
    evidence,
    list_keys::moved,
    remedies,
};
use crate::{
    input,
    keymap::{self, Action, Scope},
    look::{AUTO, ChosenTheme, KeptLook},
    model::{Model, Pane},
    msg::Effect,
    overlay::{self, Confirm, Overlay},
    past_runs::PastRunRow,
    prompt::InputLine,
    theme,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmdeck_model::event::Severity;

/// Takes a key while something lies over the panes.
pub(super) fn key(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    if is_control && !model.is_typing() && !matches!(model.overlay, Some(Overlay::Details(_))) {
        // ctrl-d is no d: what is asked here must be meant.
        return;
    }
    let Some(overlay) = model.overlay.take() else { return };
    // Whatever it is, its next state is put back unless it is closed.
    model.overlay = match overlay {
        Overlay::Help(chooser) | Overlay::Palette(chooser) if key.code == KeyCode::Enter => {
            if let Some(action) = overlay::chosen(&chooser) {
                from_menu(model, action, out);
            }
            // The action may have opened something itself.
            model.overlay.take()
        }
        // No key is looked for by a question mark.
        Overlay::Help(chooser) if key.code == KeyCode::Char('?') && chooser.line.text().is_empty() => {
            Some(Overlay::Tour)
        }
        Overlay::Help(chooser) => choose(chooser, key).map(Overlay::Help),
        Overlay::Tour => match key.code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => None,
            KeyCode::Char('?') => Some(Overlay::Help(overlay::Chooser::default())),
            _ => Some(Overlay::Tour),
        },
        Overlay::Palette(chooser) => choose(chooser, key).map(Overlay::Palette),
        Overlay::Themes { names, at, before } => themes(model, names, at, before, key, out),
        Overlay::History { rows, at } => history(model, rows, at, key, out),
        Overlay::Errors { rows, at } => evidence::errors_key(model, rows, at, key),
        Overlay::Comparison { title, lines, top } => evidence::comparison_key(model, title, lines, top, key, out),
        Overlay::Remedies(at) => remedies::key(model, at, key, out),
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

/// Returns the line that is typed into, if there is one.
pub(super) fn line(model: &mut Model) -> Option<&mut InputLine> {
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
            let name = names[at].clone();
            let config = model.setup.as_ref().and_then(|setup| setup.cockpit.text("theme")).unwrap_or(AUTO).to_owned();
            model.say(Severity::Ok, format!("{name} is the theme from now on, until the config names another one"));
            // What would be there without a choice is none.
            let own = KeptLook::default().theme_for(&config, model.appearance.fitting_theme);
            model.appearance.look.theme = (name != own).then_some(ChosenTheme { name, config });
            return None;
        }
        KeyCode::Esc | KeyCode::Char('q') => {
            model.appearance.theme = *before;
            return None;
        }
        _ => at,
    };
    if next != at {
        out.push(Effect::LoadTheme(names[next].clone()));
    }
    Some(Overlay::Themes { names, at: next, before })
}

/// Takes a key in the list of runs: Enter shows one, joined if it is in progress.
fn history(
    model: &mut Model,
    rows: Vec<PastRunRow>,
    at: usize,
    key: KeyEvent,
    out: &mut Vec<Effect>,
) -> Option<Overlay> {
    match key.code {
        KeyCode::Esc | KeyCode::Char('q' | 'H') => return None,
        KeyCode::Enter => {
            let row = rows.get(at)?;
            if model.is_running() {
                model.say(Severity::Warn, "a run is in progress: it is shown until it has ended");
                return Some(Overlay::History { rows, at });
            }
            out.push(if row.is_running {
                Effect::Watch { dir: row.dir.clone(), who: "another vmdeck".into() }
            } else {
                Effect::OpenRun(row.dir.clone())
            });
            return None;
        }
        _ => {}
    }
    let at = moved(at, rows.len(), key);
    Some(Overlay::History { rows, at })
}

/// Takes a key in the details: the keys of the guest's actions work here too; anything else closes it.
fn details(
    model: &mut Model,
    guest: vmdeck_model::ids::GuestId,
    key: KeyEvent,
    out: &mut Vec<Effect>,
) -> Option<Overlay> {
    let action = input::chord(key).and_then(|c| model.appearance.keymap.find(&scopes(model), c));
    match action {
        Some(Action::Back | Action::Quit | Action::Enter | Action::Details) => None,
        Some(Action::Up | Action::Down) => {
            dispatch(model, action.unwrap_or(Action::Up), out);
            model.current_guest().map(Overlay::Details)
        }
        Some(action) => {
            dispatch(model, action, out);
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
            KeyCode::Char('n') if confirm.no.is_some() => {
                if let Some(no) = confirm.no {
                    carry_out(model, no, out);
                }
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
            model.say(Severity::Warn, format!("not done: type `{word}` and press Enter, or Esc to go back"));
            Some(Overlay::Confirm(confirm))
        }
        _ => {
            confirm.typed.key(key);
            Some(Overlay::Confirm(confirm))
        }
    }
}

fn quit(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) -> Option<Overlay> {
    match key.code {
        KeyCode::Char('d') => {
            model.pending.is_detached = true;
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

/// Takes a key in the welcome; returns whether it stays open.
fn welcome(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) -> bool {
    if matches!(key.code, KeyCode::Char('i' | 'd' | 'e')) && !may_change(model) {
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

/// Does what the help or the palette chose: in the pane where it works.
fn from_menu(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    model.overlay = None;
    let pane = match keymap::def(action).scope {
        Scope::Guests if !matches!(model.panes.focus, Pane::Machines | Pane::Run) => Some(Pane::Machines),
        Scope::Logs => Some(Pane::Logs),
        Scope::Host if !matches!(model.panes.focus, Pane::Lock | Pane::Preflight) => Some(Pane::Events),
        _ => None,
    };
    model.panes.focus = pane.unwrap_or(model.panes.focus);
    dispatch(model, action, out);
}
