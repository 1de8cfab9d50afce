//! Reads a console while it is written: boot marks, ready, warning and error patterns, over any chunk borders.
//!
//! Pure: bytes in, findings out. Who follows the file and what is done about a finding is in `console_reader`.

use std::collections::VecDeque;
use vmdeck_model::{
    event::PatternKind,
    guest::ConsolePatterns,
    pattern::Pattern,
    secret::Redactor,
    text::{Clean, LineSplitter},
};

/// Lines that are kept for a finding's context.
const CONTEXT: usize = 12;
/// Longest piece of an unfinished line that patterns see, in bytes.
const WINDOW: usize = 8 * 1024;
/// What stays of a longer one, so that a match over its border is found.
const OVERLAP: usize = 1024;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleFinding {
    /// The kernel wrote its first line.
    Kernel,
    /// The first process runs.
    Userspace,
    /// A pattern was found.
    Match {
        /// What it means.
        meaning: PatternKind,
        /// The pattern as written.
        pattern: String,
        /// The line, clean.
        line: String,
        /// The lines before it, clean.
        context: Vec<String>,
    },
    /// A whole line, clean.
    Line(String),
}

/// The state of the reader.
pub struct ConsoleScanner {
    marks: [(Pattern, ConsoleFinding, bool); 2],
    patterns: Vec<(PatternKind, Pattern, bool)>,
    /// The line so far, raw.
    line: Vec<u8>,
    clean: LineSplitter,
    context: VecDeque<String>,
    redactor: Redactor,
}

impl ConsoleScanner {
    /// Returns a reader for these patterns; it takes secrets out of all that it finds. A pattern that was found in a line is not
    /// found again in the same line.
    pub fn new(boot: &ConsolePatterns, redactor: Redactor) -> Self {
        let mark = |text: &str, seen| Pattern::parse(text).map(|p| (p, seen, false));
        // Built in and tested below; a pattern that does not parse would be a bug in this line.
        let (Ok(kernel), Ok(user)) = (
            mark(r"/Linux version |Booting Linux on|Darwin Kernel Version/", ConsoleFinding::Kernel),
            mark(r"/Run \S+ as init process|systemd\[1\]: |INIT: version|login: /", ConsoleFinding::Userspace),
        ) else {
            unreachable!("built-in patterns")
        };
        let errors = boot.errors.iter().map(|p| (PatternKind::Error, p.clone(), false));
        let warnings = boot.warnings.iter().map(|p| (PatternKind::Warning, p.clone(), false));
        let ready = boot.pattern.iter().map(|p| (PatternKind::Ready, p.clone(), false));
        Self {
            marks: [kernel, user],
            patterns: errors.chain(ready).chain(warnings).collect(),
            line: Vec::new(),
            clean: LineSplitter::default(),
            context: VecDeque::new(),
            redactor,
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(ConsoleFinding)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.piece(piece, &mut each);
        }
    }

    fn piece(&mut self, piece: &[u8], each: &mut impl FnMut(ConsoleFinding)) {
        let ends = piece.ends_with(b"\n");
        // A flood without a newline: looked at window by window, with an overlap.
        for part in piece.chunks(WINDOW - OVERLAP) {
            if self.line.len() + part.len() > WINDOW {
                let excess = self.line.len().saturating_sub(OVERLAP);
                self.line.drain(..excess);
            }
            self.line.extend_from_slice(part);
            self.look(each);
        }
        let (context, redactor) = (&mut self.context, &self.redactor);
        self.clean.feed(piece, |line| {
            let line = redactor.text(&line.into_string());
            if context.len() == CONTEXT {
                context.pop_front();
            }
            context.push_back(line.clone());
            each(ConsoleFinding::Line(line));
        });
        if ends {
            self.line.clear();
            for (_, _, found) in &mut self.patterns {
                *found = false;
            }
        }
    }

    /// Returns the line so far, clean and without secrets.
    fn open_line(&self) -> String {
        self.redactor.text(&Clean::from_text(&String::from_utf8_lossy(&self.line)).into_string())
    }

    fn look(&mut self, each: &mut impl FnMut(ConsoleFinding)) {
        for (pattern, seen, found) in &mut self.marks {
            if !*found && pattern.is_match(&self.line) {
                *found = true;
                each(seen.clone());
            }
        }
        for index in 0..self.patterns.len() {
            let (meaning, pattern, found) = &mut self.patterns[index];
            if *found || !pattern.is_match(&self.line) {
                continue;
            }
            *found = true;
            let (meaning, pattern) = (*meaning, pattern.source().to_owned());
            let context = self.context.iter().cloned().collect();
            each(ConsoleFinding::Match { meaning, pattern, line: self.open_line(), context });
        }
    }

    /// Returns the last lines, for a message.
    pub fn last_lines(&self) -> Vec<String> {
        let mut out: Vec<String> = self.context.iter().cloned().collect();
        let open = self.open_line();
        if !open.is_empty() {
            out.push(open);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boot(pattern: &str, error: &str) -> ConsolePatterns {
        let parse = |p: &str| Pattern::parse(p).expect("pattern");
        ConsolePatterns {
            pattern: Some(parse(pattern)),
            errors: vec![parse(error)],
            warnings: vec![parse("*WARNING:*")],
        }
    }

    fn kinds(parts: &[&[u8]]) -> Vec<String> {
        let mut watch = ConsoleScanner::new(&boot("login:", "/Kernel panic/"), Redactor::default());
        let mut out = Vec::new();
        for part in parts {
            watch.feed(part, |seen| match seen {
                ConsoleFinding::Match { meaning, line, .. } => out.push(format!("{meaning:?} {line}")),
                ConsoleFinding::Line(_) => {}
                mark => out.push(format!("{mark:?}")),
            });
        }
        out
    }

    #[test]
    fn secrets_are_in_no_finding() {
        let redactor = Redactor::new(&[vmdeck_model::secret::Secret::new("canary-secret")]);
        let mut scanner = ConsoleScanner::new(&boot("login:", "/Kernel panic/"), redactor);
        let mut seen = String::new();
        for part in
            [&b"token=canary-"[..], b"secret\n", b"Kernel panic - canary-secret not found", b"\nlogin: canary-secret"]
        {
            scanner.feed(part, |finding| seen.push_str(&format!("{finding:?}\n")));
        }
        seen.push_str(&scanner.last_lines().join("\n"));
        assert!(seen.contains("***") && !seen.contains("canary"), "{seen}");
    }

    const TEXT: &[u8] = b"SeaBIOS\r\n[    0.000000] Linux version 6.1\r\n[ 1.0] WARNING: at x\r\n[ 2.0] Run /init as init process\r\n\r\nmicro login: ";

    #[test]
    fn the_whole_way_up_wherever_it_is_cut() {
        let whole = ["Kernel", "Warning [ 1.0] WARNING: at x", "Userspace", "Ready micro login:"];
        for at in 0..TEXT.len() {
            let got: Vec<String> = kinds(&[&TEXT[..at], &TEXT[at..]]);
            let kinds: Vec<&str> = got.iter().map(|s| s.split(' ').next().expect("word")).collect();
            assert_eq!(kinds, ["Kernel", "Warning", "Userspace", "Ready"], "cut at {at}: {got:?}");
        }
        assert_eq!(kinds(&[TEXT])[..3], whole[..3]);
    }

    #[test]
    fn a_prompt_without_a_newline_is_found_and_only_once() {
        let got = kinds(&[b"micro log", b"in: ", b" \x08", b"x"]);
        assert_eq!(got.iter().filter(|s| s.starts_with("Ready")).count(), 1);
    }

    #[test]
    fn an_error_brings_the_lines_before_it() {
        let mut watch = ConsoleScanner::new(&boot("login:", "/Kernel panic/"), Redactor::default());
        let mut context = Vec::new();
        watch.feed(b"one\ntwo\n\x1b[31mKernel panic - not syncing\x1b[0m", |seen| {
            if let ConsoleFinding::Match { meaning: PatternKind::Error, context: before, line, .. } = seen {
                assert_eq!(line, "Kernel panic - not syncing");
                context = before;
            }
        });
        assert_eq!(context, ["one", "two"]);
        assert_eq!(watch.last_lines(), ["one", "two", "Kernel panic - not syncing"]);
    }

    #[test]
    fn a_flood_without_a_newline_is_bounded_and_still_searched() {
        let mut watch = ConsoleScanner::new(&boot("login:", "/Kernel panic/"), Redactor::default());
        let mut found = 0;
        let mut count = |seen| found += u32::from(matches!(seen, ConsoleFinding::Match { .. }));
        let flood = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            watch.feed(&flood, &mut count);
        }
        watch.feed(b"Kernel pa", &mut count);
        watch.feed(b"nic", &mut count);
        watch.feed(&flood, &mut count);
        assert_eq!(found, 1);
        assert!(watch.line.len() <= WINDOW);
    }

    proptest! {
        #[test]
        fn chunks_do_not_change_what_is_seen(
            noise in proptest::collection::vec(any::<u8>(), 0..60), cuts in proptest::collection::vec(0usize..200, 0..6)
        ) {
            let mut text = noise;
            text.extend_from_slice(b"\nLinux version 6\nKernel panic - x\nlogin: \n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % text.len()).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts {
                parts.push(&text[from..cut]);
                from = cut;
            }
            parts.push(&text[from..]);
            // Two things in one line may be found in either order.
            let names = |got: Vec<String>| {
                let mut names: Vec<_> = got.iter().map(|s| s.split(' ').next().unwrap_or_default().to_owned()).collect();
                names.sort_unstable();
                names
            };
            let (a, b) = (names(kinds(&parts)), names(kinds(&[&text])));
            prop_assert_eq!(a, b);
        }
    }
}
