//! A raw line as it may be shown: colours kept or stripped, carriage returns played, nothing that could reach the terminal.
//!
//! The escape-sequence parser is the `vte` crate's; only colours and moves within the line are taken from what it finds.

use ratatui::style::{Color, Modifier, Style};
use vmdeck_model::text;

/// How a line is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineStyle {
    /// The line has the colours that the guest wrote.
    #[default]
    Colours,
    /// The line is its text alone.
    Plain,
    /// Every control byte is made visible.
    Raw,
}

/// The most characters of a line that are shown.
const WIDTH_MAX: usize = 4096;
/// The columns between tab stops.
const TAB: usize = 8;

/// A line, as parts with one style each.
pub type Parts = Vec<(String, Style)>;

/// Makes a raw line safe to be shown.
pub fn render(bytes: &[u8], line_style: LineStyle) -> Parts {
    if line_style == LineStyle::Raw {
        return vec![(visible(bytes), Style::new())];
    }
    let mut line = StyledLine { colours: line_style == LineStyle::Colours, ..StyledLine::default() };
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    vte::Parser::new().advance(&mut line, &bytes[..bytes.len().min(4 * WIDTH_MAX)]);
    let mut parts = Parts::new();
    for (c, style) in line.cells {
        match parts.last_mut() {
            Some((text, last)) if *last == style => text.push(c),
            _ => parts.push((c.into(), style)),
        }
    }
    parts
}

/// Returns the text of a rendered line.
pub fn plain(parts: &Parts) -> String {
    parts.iter().map(|(text, _)| text.as_str()).collect()
}

fn visible(bytes: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(WIDTH_MAX)]).chars() {
        match c {
            '\u{0}'..='\u{1f}' => out.extend(['^', char::from(c as u8 + 0x40)]),
            '\u{7f}' => out.push_str("^?"),
            c => push(c, |c| out.push(c)),
        }
    }
    out
}

/// A character, or its name where it would move, hide or reorder text.
fn push(c: char, mut each: impl FnMut(char)) {
    if text::is_deceptive(c) {
        format!("<U+{:04X}>", u32::from(c)).chars().for_each(each);
    } else if !c.is_control() {
        each(c);
    }
}

#[derive(Default)]
struct StyledLine {
    cells: Vec<(char, Style)>,
    column: usize,
    style: Style,
    colours: bool,
}

impl StyledLine {
    fn put(&mut self, c: char) {
        if self.column >= WIDTH_MAX {
            return;
        }
        while self.cells.len() < self.column {
            self.cells.push((' ', Style::new()));
        }
        let cell = (c, if self.colours { self.style } else { Style::new() });
        match self.cells.get_mut(self.column) {
            Some(old) => *old = cell,
            None => self.cells.push(cell),
        }
        self.column += 1;
    }

    fn colour(&mut self, params: &vte::Params) {
        let mut all = params.iter().flat_map(|p| p.iter().copied()).collect::<Vec<u16>>().into_iter();
        while let Some(code) = all.next() {
            let style = self.style;
            self.style = match code {
                0 => Style::new(),
                1 => style.add_modifier(Modifier::BOLD),
                2 => style.add_modifier(Modifier::DIM),
                3 => style.add_modifier(Modifier::ITALIC),
                4 => style.add_modifier(Modifier::UNDERLINED),
                7 => style.add_modifier(Modifier::REVERSED),
                22 => style.remove_modifier(Modifier::BOLD | Modifier::DIM),
                24 => style.remove_modifier(Modifier::UNDERLINED),
                27 => style.remove_modifier(Modifier::REVERSED),
                30..=37 => style.fg(Color::Indexed(low(code, 30))),
                90..=97 => style.fg(Color::Indexed(low(code, 90) + 8)),
                40..=47 => style.bg(Color::Indexed(low(code, 40))),
                100..=107 => style.bg(Color::Indexed(low(code, 100) + 8)),
                39 => style.fg(Color::Reset),
                49 => style.bg(Color::Reset),
                38 | 48 => match extended(&mut all) {
                    Some(color) if code == 38 => style.fg(color),
                    Some(color) => style.bg(color),
                    None => style,
                },
                _ => style,
            };
        }
    }
}

fn low(code: u16, base: u16) -> u8 {
    u8::try_from(code - base).unwrap_or(7)
}

fn extended(rest: &mut impl Iterator<Item = u16>) -> Option<Color> {
    let mut byte = || rest.next().map(|v| u8::try_from(v).unwrap_or(u8::MAX));
    match byte()? {
        5 => byte().map(Color::Indexed),
        2 => Some(Color::Rgb(byte()?, byte()?, byte()?)),
        _ => None,
    }
}

impl vte::Perform for StyledLine {
    fn print(&mut self, c: char) {
        push(c, |c| self.put(c));
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\r' => self.column = 0,
            0x08 => self.column = self.column.saturating_sub(1),
            b'\t' => {
                let stop = (self.column / TAB + 1) * TAB;
                while self.column < stop.min(WIDTH_MAX) {
                    self.put(' ');
                }
            }
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &vte::Params, _: &[u8], _: bool, action: char) {
        let first = params.iter().next().and_then(|p| p.first().copied()).unwrap_or(0);
        match action {
            'm' => self.colour(params),
            'K' if first == 0 => self.cells.truncate(self.column),
            'K' if first == 2 => self.cells.clear(),
            'G' => self.column = usize::from(first.max(1)) - 1,
            'C' => self.column += usize::from(first.max(1)),
            'D' => self.column = self.column.saturating_sub(usize::from(first.max(1))),
            _ => {}
        }
        self.column = self.column.min(WIDTH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(bytes: &[u8], line_style: LineStyle) -> String {
        plain(&render(bytes, line_style))
    }

    #[test]
    fn colours_are_kept_stripped_or_shown() {
        let red = b"a\x1b[1;31mred\x1b[0m b\r";
        let parts = render(red, LineStyle::Colours);
        assert_eq!(parts[1], ("red".into(), Style::new().fg(Color::Indexed(1)).add_modifier(Modifier::BOLD)));
        assert_eq!(render(red, LineStyle::Plain), [("ared b".to_owned(), Style::new())]);
        assert_eq!(text(red, LineStyle::Raw), "a^[[1;31mred^[[0m b^M");
        assert_eq!(render(b"\x1b[38;2;1;2;3mx", LineStyle::Colours)[0].1.fg, Some(Color::Rgb(1, 2, 3)));
        assert_eq!(render(b"\x1b[48;5;200mx", LineStyle::Colours)[0].1.bg, Some(Color::Indexed(200)));
    }

    #[test]
    fn progress_bars_tabs_and_backspaces_are_played() {
        assert_eq!(text(b"10%\r20%\rdone", LineStyle::Plain), "done");
        assert_eq!(text(b"abcdef\r\x1b[Kxy", LineStyle::Plain), "xy");
        assert_eq!(text(b"a\tb", LineStyle::Plain), "a       b");
        assert_eq!(text(b"ab\x08c", LineStyle::Plain), "ac");
    }

    #[test]
    fn what_would_leave_the_line_or_deceive_does_not() {
        let evil = "x\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]0;t\x1b\\\u{202e}y\x1b[9999999Gz".as_bytes();
        let shown = text(evil, LineStyle::Colours);
        assert!(shown.starts_with("x<U+202E>y") && shown.chars().count() <= WIDTH_MAX + 1, "{}", shown.len());
    }

    proptest! {
        #[test]
        fn nothing_but_printable_text_comes_out(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for line_style in [LineStyle::Colours, LineStyle::Plain, LineStyle::Raw] {
                prop_assert!(!text(&bytes, line_style).chars().any(char::is_control));
            }
        }
    }
}
