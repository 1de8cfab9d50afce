//! What the terminal says as chords of the key map.
//!
//! What a chord does is in `keymap` and `update`.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmdeck_model::chord::{Chord, KeyName};

/// Returns a key as a chord; `None` for one that cannot be bound.
pub(super) fn chord(key: KeyEvent) -> Option<Chord> {
    let has = |modifier| key.modifiers.contains(modifier);
    let mut chord = Chord {
        ctrl: has(KeyModifiers::CONTROL),
        alt: has(KeyModifiers::ALT),
        shift: has(KeyModifiers::SHIFT),
        key: KeyName::Char(' '),
    };
    chord.key = match key.code {
        KeyCode::Char(' ') => KeyName::Named("space"),
        KeyCode::Char(c) => {
            chord.shift = false;
            // Terminals send some of these as the control character of another key.
            KeyName::Char(match c {
                '5' if chord.ctrl => ']',
                c if chord.ctrl => c.to_ascii_lowercase(),
                c => c,
            })
        }
        KeyCode::F(n) => KeyName::F(n),
        KeyCode::BackTab => {
            chord.shift = true;
            KeyName::Named("tab")
        }
        KeyCode::Esc => KeyName::Named("esc"),
        KeyCode::Enter => KeyName::Named("enter"),
        KeyCode::Tab => KeyName::Named("tab"),
        KeyCode::Backspace => KeyName::Named("backspace"),
        KeyCode::Delete => KeyName::Named("delete"),
        KeyCode::Insert => KeyName::Named("insert"),
        KeyCode::Up => KeyName::Named("up"),
        KeyCode::Down => KeyName::Named("down"),
        KeyCode::Left => KeyName::Named("left"),
        KeyCode::Right => KeyName::Named("right"),
        KeyCode::Home => KeyName::Named("home"),
        KeyCode::End => KeyName::Named("end"),
        KeyCode::PageUp => KeyName::Named("pgup"),
        KeyCode::PageDown => KeyName::Named("pgdn"),
        _ => return None,
    };
    Some(chord)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pressed_is_what_is_written_in_the_config() {
        for (code, mods, text) in [
            (KeyCode::Char('X'), KeyModifiers::SHIFT, "X"),
            (KeyCode::Char('R'), KeyModifiers::CONTROL | KeyModifiers::SHIFT, "ctrl-r"),
            (KeyCode::Char('5'), KeyModifiers::CONTROL, "ctrl-]"),
            (KeyCode::BackTab, KeyModifiers::SHIFT, "shift-tab"),
            (KeyCode::Char(' '), KeyModifiers::NONE, "space"),
            (KeyCode::F(2), KeyModifiers::NONE, "f2"),
            (KeyCode::Char('?'), KeyModifiers::SHIFT, "?"),
        ] {
            assert_eq!(chord(KeyEvent::new(code, mods)), Chord::parse(text).ok(), "{text}");
        }
    }
}
