//! A key with its modifiers, as it is written in the config: `x`, `X`, `ctrl-r`, `shift-tab`, `f5`, `ctrl-]`.
//!
//! What a key does, and how a terminal reports it, is a front end's matter.

use std::fmt;

/// A key of the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyName {
    /// A character, as typed: `X` is shift and x.
    Char(char),
    /// `f1` to `f12`.
    F(u8),
    /// One of [`NAMED`].
    Named(&'static str),
}

/// A key with its modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chord {
    /// Whether Ctrl is held.
    pub ctrl: bool,
    /// Whether Alt is held.
    pub alt: bool,
    /// Whether Shift is held; for a character this is in the character itself.
    pub shift: bool,
    /// The key.
    pub key: KeyName,
}

/// The keys that have a name instead of a character.
pub const NAMED: [&str; 17] = [
    "esc",
    "enter",
    "tab",
    "space",
    "backspace",
    "delete",
    "insert",
    "up",
    "down",
    "left",
    "right",
    "home",
    "end",
    "pgup",
    "pgdn",
    "minus",
    "backtab",
];

impl Chord {
    /// Returns a key without modifiers.
    pub const fn plain(key: KeyName) -> Self {
        Self { ctrl: false, alt: false, shift: false, key }
    }

    /// Reads a chord; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a key; write it like x, X, ctrl-r, alt-x, shift-tab, f5, or one of {}",
                NAMED.join(", ")
            )
        };
        let mut chord = Self::plain(KeyName::Char(' '));
        let mut rest = text;
        while let Some((word, after)) =
            rest.split_once('-').filter(|(word, after)| !word.is_empty() && !after.is_empty())
        {
            let flag = match word {
                "ctrl" => &mut chord.ctrl,
                "alt" => &mut chord.alt,
                "shift" => &mut chord.shift,
                _ => return Err(bad()),
            };
            *flag = true;
            rest = after;
        }
        let mut letters = rest.chars();
        chord.key = match (letters.next(), letters.as_str()) {
            (Some(c), "") if !c.is_control() && c != ' ' => KeyName::Char(c),
            (Some('f'), number) if number.parse().is_ok_and(|n: u8| (1..=12).contains(&n)) => {
                KeyName::F(number.parse().unwrap_or(1))
            }
            _ => match NAMED.iter().find(|name| **name == rest) {
                Some(&"minus") => KeyName::Char('-'),
                Some(&"backtab") => {
                    chord.shift = true;
                    KeyName::Named("tab")
                }
                Some(name) => KeyName::Named(name),
                None => return Err(bad()),
            },
        };
        if let (KeyName::Char(c), true) = (chord.key, chord.shift) {
            // One way to say one thing: shift-x is X.
            chord.key = KeyName::Char(c.to_ascii_uppercase());
            chord.shift = false;
        }
        Ok(chord)
    }
}

impl fmt::Display for Chord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (on, word) in [(self.ctrl, "ctrl-"), (self.alt, "alt-"), (self.shift, "shift-")] {
            if on {
                f.write_str(word)?;
            }
        }
        match self.key {
            KeyName::Char('-') => f.write_str("minus"),
            KeyName::Char(c) => write!(f, "{c}"),
            KeyName::F(n) => write!(f, "f{n}"),
            KeyName::Named(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_is_written_the_same_way() {
        for text in ["x", "X", "ctrl-r", "alt-x", "shift-tab", "f5", "ctrl-]", "?", "space", "minus", "ctrl-alt-up"] {
            assert_eq!(Chord::parse(text).expect(text).to_string(), text);
        }
        for (text, shown) in [("-", "minus"), ("shift-x", "X"), ("backtab", "shift-tab")] {
            assert_eq!(Chord::parse(text).expect(text).to_string(), shown);
        }
        for bad in ["", "hyper-x", "f0", "f13", "enterr", "ctrl-", " "] {
            assert!(Chord::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,12}") {
            if let Ok(chord) = Chord::parse(&text) {
                prop_assert_eq!(Chord::parse(&chord.to_string()), Ok(chord));
            }
        }
    }
}
