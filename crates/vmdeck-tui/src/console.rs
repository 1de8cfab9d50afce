//! A guest's serial console in a pane, with a person typing into it.
//!
//! The screen is the `vt100` crate's, which no bytes can bring to panic or stall; here are its size, what keys mean to a
//! serial line, and how a cell looks.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use std::num::NonZeroU16;
use vmdeck_model::{ids::GuestId, text::is_deceptive};

/// How many lines can be scrolled back to.
const SCROLLBACK: usize = 2000;

/// An attached console.
pub struct AttachedConsole {
    /// The guest whose console it is.
    pub guest: GuestId,
    parser: vt100::Parser,
}

fn size(value: u16) -> NonZeroU16 {
    // The crate's screens are not smaller than this anywhere sensible; a pane of one cell shows a part.
    NonZeroU16::new(value.max(2)).unwrap_or(NonZeroU16::MIN)
}

impl AttachedConsole {
    /// Returns an empty screen.
    pub fn new(guest: GuestId, columns: u16, rows: u16) -> Self {
        Self { guest, parser: vt100::Parser::new(size(rows), size(columns), SCROLLBACK) }
    }

    /// Takes what the guest wrote.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
    }

    /// Takes the new size of the pane.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let wanted = (size(rows), size(columns));
        if self.parser.screen().size() != wanted {
            self.parser.screen_mut().set_size(wanted.0, wanted.1);
        }
    }

    /// Scrolls back, or to the live screen.
    pub fn scroll(&mut self, rows: i64) {
        let now = self.parser.screen().scrollback();
        let wanted = now.saturating_add_signed(isize::try_from(rows).unwrap_or(0));
        self.parser.screen_mut().set_scrollback(wanted);
    }

    /// Returns where the cursor is, unless it is hidden: row and column.
    pub fn cursor(&self) -> Option<(u16, u16)> {
        let screen = self.parser.screen();
        (!screen.hide_cursor() && screen.scrollback() == 0).then(|| screen.cursor_position())
    }

    /// Returns a cell's text and style; `None` outside, or where a wide character continues.
    pub fn cell(&self, row: u16, column: u16) -> Option<(&str, Style)> {
        let cell = self.parser.screen().cell(row, column)?;
        if cell.is_wide_continuation() {
            return None;
        }
        let mut style = Style::new();
        for (color, is_fg) in [(cell.fgcolor(), true), (cell.bgcolor(), false)] {
            let color = match color {
                vt100::Color::Default => continue,
                vt100::Color::Idx(n) => Color::Indexed(n),
                vt100::Color::Rgb(r, g, b) => Color::Rgb(r, g, b),
            };
            style = if is_fg { style.fg(color) } else { style.bg(color) };
        }
        for (on, modifier) in [
            (cell.bold(), Modifier::BOLD),
            (cell.dim(), Modifier::DIM),
            (cell.italic(), Modifier::ITALIC),
            (cell.underline(), Modifier::UNDERLINED),
            (cell.inverse(), Modifier::REVERSED),
        ] {
            if on {
                style = style.add_modifier(modifier);
            }
        }
        // vt100 keeps what the guest wrote; what would reorder or hide text is shown as unknown.
        let text = match cell.contents() {
            "" => " ",
            text if text.chars().any(is_deceptive) => "\u{fffd}",
            text => text,
        };
        Some((text, style))
    }

    /// Returns the bytes that a key sends to the guest; `None` = nothing.
    pub fn bytes(&self, key: KeyEvent) -> Option<Vec<u8>> {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let arrow = |letter: u8| {
            let lead: &[u8] = if self.parser.screen().application_cursor() { b"\x1bO" } else { b"\x1b[" };
            [lead, &[letter]].concat()
        };
        let mut out = match key.code {
            KeyCode::Char(c) if ctrl && c.is_ascii() => vec![c.to_ascii_uppercase() as u8 & 0x1f],
            KeyCode::Char(c) => c.to_string().into_bytes(),
            KeyCode::Enter => b"\r".to_vec(),
            KeyCode::Tab => b"\t".to_vec(),
            KeyCode::Backspace => vec![0x7f],
            KeyCode::Esc => vec![0x1b],
            KeyCode::Up => arrow(b'A'),
            KeyCode::Down => arrow(b'B'),
            KeyCode::Right => arrow(b'C'),
            KeyCode::Left => arrow(b'D'),
            KeyCode::Home => b"\x1b[H".to_vec(),
            KeyCode::End => b"\x1b[F".to_vec(),
            KeyCode::PageUp => b"\x1b[5~".to_vec(),
            KeyCode::PageDown => b"\x1b[6~".to_vec(),
            KeyCode::Delete => b"\x1b[3~".to_vec(),
            KeyCode::Insert => b"\x1b[2~".to_vec(),
            KeyCode::F(n @ 1..=4) => vec![0x1b, b'O', b'O' + n],
            _ => return None,
        };
        if key.modifiers.contains(KeyModifiers::ALT) {
            out.insert(0, 0x1b);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn console() -> AttachedConsole {
        AttachedConsole::new(GuestId::new("deb").expect("name"), 20, 5)
    }

    #[test]
    fn the_screen_is_drawn_and_resized() {
        let mut console = console();
        console.feed(b"\x1b[2;3H\x1b[1;31mlogin\x1b[0m: ");
        assert_eq!(console.cell(1, 2), Some(("l", Style::new().fg(Color::Indexed(1)).add_modifier(Modifier::BOLD))));
        assert_eq!(console.cursor(), Some((1, 9)));
        console.resize(0, 0);
        console.resize(200, 60);
        assert_eq!(console.cell(60, 0), None);
    }

    #[test]
    fn keys_are_those_of_a_serial_terminal() {
        let mut console = console();
        let bytes = |c: &AttachedConsole, code, mods| c.bytes(KeyEvent::new(code, mods));
        assert_eq!(bytes(&console, KeyCode::Char('c'), KeyModifiers::CONTROL), Some(vec![3]));
        assert_eq!(bytes(&console, KeyCode::Enter, KeyModifiers::NONE), Some(vec![13]));
        assert_eq!(bytes(&console, KeyCode::Up, KeyModifiers::NONE), Some(b"\x1b[A".to_vec()));
        assert_eq!(bytes(&console, KeyCode::Char('x'), KeyModifiers::ALT), Some(b"\x1bx".to_vec()));
        console.feed(b"\x1b[?1h");
        assert_eq!(bytes(&console, KeyCode::Up, KeyModifiers::NONE), Some(b"\x1bOA".to_vec()));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), columns in 0u16..200, rows in 0u16..60
        ) {
            let mut console = console();
            console.feed(&bytes);
            console.resize(columns, rows);
            console.feed(&bytes);
            console.scroll(5);
            for row in 0..60 {
                for column in 0..200 {
                    let _ = console.cell(row, column);
                }
            }
        }
    }
}
