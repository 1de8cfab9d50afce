//! Keys: to what is being typed, to the dialog, to the console, else through the key map to an action.

use super::{
    dispatch::{dispatch, scopes, stop_and_leave},
    overlays, presence, rewind,
};
use crate::{
    input,
    keymap::Action,
    model::{Model, Pane},
    msg::Effect,
    overlay::Overlay,
    prompt::Purpose,
};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use vmdeck_model::{
    command::{Command, KernelKey},
    event::Severity,
    quantity::parse_duration,
};

/// Time within which a second Ctrl-C counts as one more.
const AGAIN_MS: u64 = 2000;

/// Takes a key.
pub(super) fn key(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    if model.console.is_some() && model.overlay.is_none() && model.panes.focus == Pane::Logs {
        return console_key(model, key, out);
    }
    if is_ctrl_c(key) {
        return interrupt(model, out);
    }
    if model.prompt.is_some() {
        return prompt_key(model, key, out);
    }
    if model.overlay.is_some() {
        return overlays::key(model, key, out);
    }
    if key.code == KeyCode::Esc {
        // What covers the keys of the footer goes, too.
        model.toast = None;
    }
    let Some(chord) = input::chord(key) else { return };
    let Some(action) = model.appearance.keymap.find(&scopes(model), chord) else {
        let help = model.appearance.keymap.key(Action::Help);
        return model.say(Severity::Ok, format!("{chord} does nothing in this pane; {help} shows all keys"));
    };
    dispatch(model, action, out);
}

fn is_ctrl_c(key: KeyEvent) -> bool {
    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}

/// Ctrl-C: leave; again: stop, clean up and leave; once more: leave now, the engine cleans up alone.
fn interrupt(model: &mut Model, out: &mut Vec<Effect>) {
    let (last, count) = model.pending.interrupts;
    let count = if count > 0 && model.now_ms.saturating_sub(last) < AGAIN_MS { count + 1 } else { 1 };
    model.pending.interrupts = (model.now_ms, count);
    model.prompt = None;
    match (model.is_running(), count) {
        (false, _) | (true, 3..) => out.push(Effect::Quit),
        (true, 2) => stop_and_leave(model, out),
        (true, _) => model.overlay = Some(Overlay::Quit),
    }
}

fn prompt_key(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) {
    let Some(mut prompt) = model.prompt.take() else { return };
    match key.code {
        KeyCode::Esc => {
            if prompt.purpose == Purpose::Filter {
                set_filter(model, "");
            }
        }
        KeyCode::Enter => {
            let text = prompt.line.text();
            match prompt.purpose {
                Purpose::Search => model.logs.search_for(&text),
                Purpose::Filter => set_filter(model, &text),
                Purpose::SysRq => press_sysrq(model, &text, out),
                Purpose::Seek => match parse_duration(&text) {
                    Ok(time) => rewind::seek(model, u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                    Err(why) => model.say(Severity::Warn, why),
                },
            }
        }
        _ => {
            prompt.line.key(key);
            if prompt.purpose == Purpose::Filter {
                // Lists are short: every letter counts at once.
                set_filter(model, &prompt.line.text());
            }
            model.prompt = Some(prompt);
        }
    }
}

/// Presses `SysRq` with the letter that was typed, for the guest that is selected.
fn press_sysrq(model: &mut Model, text: &str, out: &mut Vec<Effect>) {
    let mut letters = text.trim().chars();
    match (letters.next().filter(char::is_ascii_alphanumeric), letters.next(), model.current_guest()) {
        (Some(key), None, Some(guest)) => {
            model.say(Severity::Ok, format!("SysRq `{key}` for {guest}: its console has the answer"));
            out.push(Effect::Send(Command::Press { guest, key: KernelKey::SysRq { key } }));
        }
        (None, None, _) => {}
        _ => model.say(Severity::Warn, "SysRq takes one letter or digit"),
    }
}

fn set_filter(model: &mut Model, text: &str) {
    let list = if model.panes.focus == Pane::Run { &mut model.panes.run } else { &mut model.panes.machines };
    text.clone_into(&mut list.filter);
    list.at = 0;
    model.is_tree_stale = true;
}

/// The console gets every key but the one that leaves it.
fn console_key(model: &mut Model, key: KeyEvent, out: &mut Vec<Effect>) {
    let Some(console) = &mut model.console else { return };
    let leaves = input::chord(key).is_some_and(|c| c.to_string() == "ctrl-]");
    if leaves {
        if let Some(console) = model.console.take() {
            presence::tell(model, &console.guest, false, out);
        }
        return out.push(Effect::Unattach);
    }
    if key.modifiers.contains(KeyModifiers::SHIFT) && matches!(key.code, KeyCode::PageUp | KeyCode::PageDown) {
        return console.scroll(if key.code == KeyCode::PageUp { 10 } else { -10 });
    }
    if let Some(bytes) = console.bytes(key) {
        console.scroll(i64::MIN);
        out.push(Effect::Type(bytes));
    }
}

/// Takes a pasted text: into what is being typed, else into the console.
pub(super) fn paste(model: &mut Model, text: &str, out: &mut Vec<Effect>) {
    if let Some(prompt) = &mut model.prompt {
        prompt.line.insert(text);
    } else if let Some(line) = overlays::line(model) {
        line.insert(text);
    } else if model.console.is_some() && model.panes.focus == Pane::Logs {
        out.push(Effect::Type(text.as_bytes().to_vec()));
    }
}
