//! A line that is being typed: in the footer, the palette, the help and the dialogs.
//!
//! What happens with it is decided by who opened it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a line in the footer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The line searches the log.
    Search,
    /// The line filters a list.
    Filter,
    /// The line goes to a time of a replay.
    Seek,
    /// The line is the letter for a kernel's `SysRq`.
    SysRq,
}

/// A line that is being typed in the footer.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What the line is for.
    pub purpose: Purpose,
    /// The line itself.
    pub line: InputLine,
}

/// A line of text with a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputLine {
    text: Vec<char>,
    cursor: usize,
}

impl InputLine {
    /// Returns a line with a text in it and the cursor at its end.
    pub fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        Self { cursor: text.len(), text }
    }

    /// Returns the text.
    pub fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// Returns where the cursor is, in characters.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// Adds a text at the cursor; characters that are not printable are left out.
    pub fn insert(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_control()) {
            self.text.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    /// Takes a key; returns whether it was one for a line.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if ctrl => {
                self.text.drain(..self.cursor);
                self.cursor = 0;
            }
            KeyCode::Char('w') if ctrl => {
                let start = self.text[..self.cursor].iter().rposition(|c| *c == ' ').unwrap_or(0);
                self.text.drain(start..self.cursor);
                self.cursor = start;
            }
            KeyCode::Char('a') if ctrl => self.cursor = 0,
            KeyCode::Char('e') if ctrl => self.cursor = self.text.len(),
            KeyCode::Char(c) if !ctrl && !key.modifiers.contains(KeyModifiers::ALT) => self.insert(&c.to_string()),
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
            }
            KeyCode::Backspace => {}
            KeyCode::Delete if self.cursor < self.text.len() => drop(self.text.remove(self.cursor)),
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editing() {
        let mut line = InputLine::new("one two");
        let mut press = |code, mods| line.key(KeyEvent::new(code, mods));
        assert!(press(KeyCode::Char('w'), KeyModifiers::CONTROL));
        assert!(press(KeyCode::Home, KeyModifiers::NONE));
        assert!(press(KeyCode::Char('X'), KeyModifiers::SHIFT));
        assert!(press(KeyCode::Delete, KeyModifiers::NONE));
        assert!(press(KeyCode::End, KeyModifiers::NONE));
        assert!(press(KeyCode::Backspace, KeyModifiers::NONE));
        assert!(!press(KeyCode::Enter, KeyModifiers::NONE));
        assert!(!press(KeyCode::Char('x'), KeyModifiers::ALT));
        assert_eq!((line.text().as_str(), line.cursor()), ("Xn", 2));
        line.insert("a\x1b\nb");
        assert_eq!(line.text(), "Xnab");
    }
}
