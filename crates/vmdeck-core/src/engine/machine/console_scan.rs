//! Reads a console while it is written: boot marks, ready, warning and error patterns, over any chunk borders.
//!
//! Pure: bytes in, findings out. Who follows the file and what is done about a finding is in `console_reader`.

use crate::trouble::TroubleFinder;
use std::collections::VecDeque;
use vmdeck_model::{
    event::PatternKind,
    guest::ConsolePatterns,
    pattern::Pattern,
    secret::Redactor,
    text::{Clean, EscapeFilter, LineSplitter},
    trouble::TroubleKind,
};

/// Lines that are kept for a finding's context.
const CONTEXT: usize = 12;
/// Longest piece of a line that patterns see, in bytes.
const WINDOW: usize = 64 * 1024;
/// What stays of a longer one, so that a match over its border is found.
const OVERLAP: usize = 32 * 1024;

/// Something that was found on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleFinding {
    /// The kernel has written its first line.
    Kernel,
    /// The first process runs.
    Userspace,
    /// A line matched a pattern.
    Match {
        /// What the pattern means.
        meaning: PatternKind,
        /// The pattern as written in the config.
        pattern: String,
        /// The line that matched, clean.
        line: String,
        /// The lines before it, clean.
        context: Vec<String>,
    },
    /// A line tells of trouble in the system.
    Trouble {
        /// The kind.
        kind: TroubleKind,
        /// The line, clean.
        line: String,
        /// The lines before it, clean.
        context: Vec<String>,
    },
    /// A whole line was written; here it is, clean.
    Line(String),
}

/// Whether more of a line may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    /// It may.
    Open,
    /// The line is whole, or a person reads it as it is.
    Here,
}

/// The state of the reader.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the line so far")]
pub struct ConsoleScanner {
    marks: [(Pattern, ConsoleFinding, bool); 2],
    patterns: Vec<(PatternKind, Pattern, bool)>,
    troubles: TroubleFinder,
    /// Whether the line so far was found to tell of trouble.
    in_trouble: bool,
    /// Whether a kernel's programs have run.
    was_up: bool,
    /// Whether another kernel began in the line so far.
    in_kernel: bool,
    escapes: EscapeFilter,
    /// The line so far as a person reads it: without colours, and without what a carriage return went back over.
    line: Vec<u8>,
    /// Whether the beginning of the line was dropped.
    cut: bool,
    /// Whether a carriage return came: text after it overwrites the line.
    returned: bool,
    clean: LineSplitter,
    context: VecDeque<String>,
    redactor: Redactor,
}

impl ConsoleScanner {
    /// Returns a scanner for these patterns; it takes secrets out of all that it finds. A pattern that was found in a
    /// line is not found again in the same line.
    pub fn new(boot: &ConsolePatterns, troubles: TroubleFinder, redactor: Redactor) -> Self {
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
            troubles,
            in_trouble: false,
            was_up: false,
            in_kernel: false,
            escapes: EscapeFilter::default(),
            line: Vec::new(),
            cut: false,
            returned: false,
            clean: LineSplitter::default(),
            context: VecDeque::new(),
            redactor,
        }
    }

    /// Forgets that the kernel and its first process were seen: the guest begins again.
    pub fn begin_again(&mut self) {
        self.was_up = false;
        for (_, _, found) in &mut self.marks {
            *found = false;
        }
    }

    /// Takes the next bytes; `each` is called with every finding.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(ConsoleFinding)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.piece(piece, &mut each);
        }
    }

    /// Notes that nothing has come for a while: the line so far is as a person reads it.
    pub fn settle(&mut self, mut each: impl FnMut(ConsoleFinding)) {
        self.look(LineEnd::Here, &mut each);
    }

    fn piece(&mut self, piece: &[u8], each: &mut impl FnMut(ConsoleFinding)) {
        for &byte in piece.strip_suffix(b"\n").unwrap_or(piece) {
            self.byte(byte, each);
        }
        let ends = piece.ends_with(b"\n");
        // A newline ends an escape sequence, too.
        let _ = ends && self.escapes.is_text(b'\n');
        self.look(if ends { LineEnd::Here } else { LineEnd::Open }, each);
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
            self.begin_line();
            for (_, _, found) in &mut self.patterns {
                *found = false;
            }
        }
    }

    fn byte(&mut self, byte: u8, each: &mut impl FnMut(ConsoleFinding)) {
        if !self.escapes.is_text(byte) {
            return;
        }
        match byte {
            b'\r' => {
                self.returned = true;
                return;
            }
            0x08 => {
                self.line.pop();
                return;
            }
            _ => {}
        }
        if self.returned {
            self.look(LineEnd::Here, each);
            self.begin_line();
        }
        if self.line.len() == WINDOW {
            self.look(LineEnd::Open, each);
            self.line.drain(..WINDOW - OVERLAP);
            self.cut = true;
        }
        self.line.push(byte);
    }

    fn begin_line(&mut self) {
        self.line.clear();
        self.in_trouble = false;
        if std::mem::take(&mut self.in_kernel) {
            self.marks[1].2 = false;
        }
        (self.cut, self.returned) = (false, false);
    }

    /// Returns the line so far, clean and without secrets.
    fn open_line(&self) -> String {
        self.redactor.text(&Clean::from_text(&String::from_utf8_lossy(&self.line)).into_string())
    }

    fn look(&mut self, end: LineEnd, each: &mut impl FnMut(ConsoleFinding)) {
        let start = usize::from(self.cut).min(self.line.len());
        let [kernel, user] = &mut self.marks;
        self.was_up |= user.2;
        if kernel.2 && self.was_up && !self.in_kernel && kernel.0.is_match_at(&self.line, start, false) {
            // Another kernel has taken over from the one whose programs ran. What is glued before its first line is of the old one.
            kernel.2 = false;
            self.in_kernel = true;
        }
        for (pattern, seen, found) in &mut self.marks {
            if !*found && pattern.is_match_at(&self.line, start, false) {
                *found = true;
                each(seen.clone());
            }
        }
        for index in 0..self.patterns.len() {
            let (meaning, pattern, found) = &mut self.patterns[index];
            // A prompt has no end and is meant as it is there; a complaint must not be read out of half a line.
            let is_open = end == LineEnd::Open && *meaning != PatternKind::Ready;
            if *found || !pattern.is_match_at(&self.line, start, is_open) {
                continue;
            }
            *found = true;
            let (meaning, pattern) = (*meaning, pattern.source().to_owned());
            let context = self.context.iter().cloned().collect();
            // The user's own word for it is enough.
            self.in_trouble |= meaning == PatternKind::Error;
            each(ConsoleFinding::Match { meaning, pattern, line: self.open_line(), context });
        }
        if end == LineEnd::Here && !self.in_trouble {
            let Some(kind) = self.troubles.find(&self.line).cloned() else { return };
            self.in_trouble = true;
            let context = self.context.iter().cloned().collect();
            each(ConsoleFinding::Trouble { kind, line: self.open_line(), context });
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
            restarts: None,
            watchdog: 0,
        }
    }

    fn kinds(parts: &[&[u8]]) -> Vec<String> {
        let mut watch =
            ConsoleScanner::new(&boot("login:", "/Kernel panic/"), TroubleFinder::new(&[]), Redactor::default());
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
        let mut scanner = ConsoleScanner::new(&boot("login:", "/Kernel panic/"), TroubleFinder::new(&[]), redactor);
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
    fn each_kernel_that_takes_over_is_seen_once() {
        let again = [TEXT, b"[ 99.9] kexec_core: Starting new kernel\r\n", TEXT, b"\r\nlogin: ", TEXT].concat();
        for at in 0..again.len() {
            let got = kinds(&[&again[..at], &again[at..]]);
            let marks: Vec<&str> =
                got.iter().map(String::as_str).filter(|kind| ["Kernel", "Userspace"].contains(kind)).collect();
            assert_eq!(marks, ["Kernel", "Userspace"].repeat(3), "cut at {at}");
        }
        let early = kinds(&[b"Linux version 6\nLinux version 6\n"]);
        assert_eq!(early.len(), 1, "one that has not come far is the same: {early:?}");
    }

    #[test]
    fn a_prompt_without_a_newline_is_found_and_only_once() {
        let got = kinds(&[b"micro log", b"in: ", b" \x08", b"x"]);
        assert_eq!(got.iter().filter(|s| s.starts_with("Ready")).count(), 1);
    }

    #[test]
    fn patterns_see_what_a_person_reads() {
        let rows: [(&str, &[u8], bool); 14] = [
            (
                "Reached target Multi-User System",
                b"[\x1b[0;32m  OK  \x1b[0m] Reached \x1b[0;1mtarget \x1b[0mMulti-User System.\r\n",
                true,
            ),
            ("/^\\[FAILED\\] Failed/", b"[\x1b[0;1;31mFAILED\x1b[0m] Failed to start x.\r\n", true),
            ("/^oops$/", b"oops\n", true),
            ("/^oops$/", b"oops\r\n", true),
            ("/^oops$/", b"oops\r\r\n", true),
            ("/^oops$/", b"oops", true),
            ("/^oops$/", b"oopsie\n", false),
            ("/^oops$/", b"10%\r50%\roops\r\n", true),
            ("/^oops$/", b"oops\rdone\r\n", true),
            ("/oops/", b"o\x1b[1mo\x1b[0mps\n", true),
            ("/oops/", b"oox\x08ps\n", true),
            ("/oops/", b"oo\nps\n", false),
            ("/^b/", b"a\rb\n", true),
            ("/a.*b/", b"a\rb\n", false),
        ];
        for (pattern, text, want) in rows {
            for at in 0..=text.len() {
                let mut scanner =
                    ConsoleScanner::new(&boot("never", pattern), TroubleFinder::new(&[]), Redactor::default());
                let mut found = 0;
                let mut count = |seen| found += u32::from(matches!(seen, ConsoleFinding::Match { .. }));
                scanner.feed(&text[..at], &mut count);
                scanner.feed(&text[at..], &mut count);
                scanner.settle(&mut count);
                assert_eq!(found > 0, want, "{pattern} {text:?} cut at {at}");
            }
        }
    }

    #[test]
    fn half_a_line_is_no_complaint_but_a_prompt_is_ready() {
        let mut scanner =
            ConsoleScanner::new(&boot("/login: $/", "/^FAIL$/"), TroubleFinder::new(&[]), Redactor::default());
        let mut found = Vec::new();
        scanner.feed(b"FAIL", |seen| found.extend(meaning(&seen)));
        scanner.feed(b"OVER works\nmicro login: ", |seen| found.extend(meaning(&seen)));
        assert_eq!(found, [PatternKind::Ready]);
    }

    fn meaning(seen: &ConsoleFinding) -> Option<PatternKind> {
        if let ConsoleFinding::Match { meaning, .. } = seen { Some(*meaning) } else { None }
    }

    #[test]
    fn the_start_of_a_window_is_no_start_of_a_line() {
        let mut scanner = ConsoleScanner::new(&boot("never", "/^x/"), TroubleFinder::new(&[]), Redactor::default());
        let mut found = 0;
        let mut count = |seen| found += u32::from(matches!(seen, ConsoleFinding::Match { .. }));
        scanner.feed(b"y", &mut count);
        scanner.feed(&vec![b'x'; 4 * WINDOW], &mut count);
        assert_eq!(found, 0);
    }

    #[test]
    fn an_error_brings_the_lines_before_it() {
        let mut watch =
            ConsoleScanner::new(&boot("login:", "/Kernel panic/"), TroubleFinder::new(&[]), Redactor::default());
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
        let mut watch =
            ConsoleScanner::new(&boot("login:", "/Kernel panic/"), TroubleFinder::new(&[]), Redactor::default());
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
