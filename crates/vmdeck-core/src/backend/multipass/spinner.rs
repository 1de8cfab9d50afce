//! Multipass animates its progress even where nobody watches: control codes on standard output, terminal or not.
//!
//! Each change of text begins with `ESC[2K ESC[0A ESC[0E`; then a wheel turns with a backspace before each of its characters
//! (read in Multipass 1.16, `animated_spinner.cpp`).

use vmdeck_model::text::Clean;

/// Turns the animation into the lines that it shows.
#[derive(Debug, Default)]
pub(super) struct Spinner {
    line: String,
    last: String,
    escape: Option<String>,
    /// Whether the next character is the wheel's.
    wheel: bool,
}

impl Spinner {
    /// Takes a piece; `each` gets every new line, clean.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for c in String::from_utf8_lossy(bytes).chars() {
            if let Some(sequence) = &mut self.escape {
                let ends = c.is_ascii_alphabetic();
                sequence.push(c);
                if ends || sequence.len() > 16 {
                    self.escape = None;
                    self.flush(&mut each);
                }
                continue;
            }
            match c {
                _ if self.wheel => self.wheel = false,
                '\x1b' => self.escape = Some(String::new()),
                '\x08' => self.wheel = true,
                '\n' | '\r' => self.flush(&mut each),
                c => self.line.push(c),
            }
        }
    }

    /// The line that was not ended.
    pub(super) fn flush(&mut self, each: &mut impl FnMut(&str)) {
        let line = Clean::from_text(self.line.trim()).into_string();
        self.line.clear();
        if !line.is_empty() && line != self.last {
            each(&line);
            self.last = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOISE: &[u8] = b"\x1b[2K\x1b[0A\x1b[0ERetrieving image: 5%  \x08|\x08/\x08-\x1b[2K\x1b[0A\x1b[0EStarting foo  \x08|\x08/\x08-\x08\\\x1b[2K\x1b[0A\x1b[0ELaunched: foo\n";

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let (mut spinner, mut out) = (Spinner::default(), Vec::new());
        for part in parts {
            spinner.feed(part, |line| out.push(line.to_owned()));
        }
        spinner.flush(&mut |line: &str| out.push(line.to_owned()));
        out
    }

    /// Trap 9 of the tool: control codes on standard output although it is not a terminal.
    #[test]
    fn trap_09_spinner_codes_on_stdout_become_lines() {
        assert_eq!(lines(&[NOISE]), ["Retrieving image: 5%", "Starting foo", "Launched: foo"]);
    }

    proptest! {
        #[test]
        fn no_cut_changes_the_lines_and_no_control_code_passes(cut in 0usize..NOISE.len(), noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(lines(&[&NOISE[..cut], &NOISE[cut..]]), lines(&[NOISE]));
            prop_assert!(lines(&[&noise]).iter().all(|line| !line.chars().any(char::is_control)));
        }
    }
}
