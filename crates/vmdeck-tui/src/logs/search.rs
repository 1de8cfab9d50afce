//! Searching a log that may have millions of lines: on all processors, in the background, continuing as the log grows.
//!
//! Found lines are kept by number. What is searched for is a regular expression, or a plain text where that is none;
//! without a capital letter, case does not matter.

use super::{
    file::Waker,
    index::{Index, split_lines},
};
use parking_lot::{Mutex, MutexGuard};
use regex::bytes::{Regex, RegexBuilder};
use std::{
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How many lines are remembered; more are counted as "at least".
pub const HITS_MAX: usize = 2_000_000;
/// How many bytes are read at a time.
const BLOCK: usize = 1 << 20;
/// What is searched for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The text as it was typed.
    pub text: String,
    regex: Regex,
}

impl Query {
    /// Reads what was typed.
    pub fn new(text: &str) -> Self {
        let insensitive = !text.chars().any(char::is_uppercase);
        let build = |pattern: &str| {
            RegexBuilder::new(pattern)
                .case_insensitive(insensitive)
                .multi_line(true)
                .crlf(true)
                .size_limit(1 << 20)
                .build()
        };
        let literal = regex::escape(text);
        // A literal always builds; an empty expression finds everything, which is what an empty text means.
        let regex = build(text).or_else(|_| build(&literal)).unwrap_or_else(|_| empty());
        Self { text: text.to_owned(), regex }
    }

    /// Searches for exactly this text.
    pub fn literal(text: &str) -> Self {
        let literal = format!("(?-i:{})", regex::escape(text));
        Self { text: text.to_owned(), ..Self::new(&literal) }
    }

    /// Returns where the matches are in a text that is shown, in bytes.
    pub fn places(&self, text: &str) -> Vec<(usize, usize)> {
        self.regex.find_iter(text.as_bytes()).map(|m| (m.start(), m.end())).filter(|(a, b)| a < b).collect()
    }

    /// Returns whether a text has a match.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

fn empty() -> Regex {
    // The empty expression is always valid.
    #[expect(clippy::unwrap_used, reason = "a constant that compiles")]
    Regex::new("").unwrap()
}

/// The matches that were found so far.
#[derive(Debug, Default)]
pub struct Found {
    /// The numbers of the lines with matches, in order.
    pub lines: Vec<u64>,
    /// Whether there are more matches than were kept.
    pub more: bool,
    /// Up to where the log was searched: a line and its offset.
    done: (u64, u64),
}

impl Found {
    /// Returns the first hit at or after a line.
    pub fn at_or_after(&self, line: u64) -> Option<u64> {
        self.lines.get(self.lines.partition_point(|l| *l < line)).copied()
    }

    /// Returns the last hit before a line.
    pub fn before(&self, line: u64) -> Option<u64> {
        self.lines.get(self.lines.partition_point(|l| *l < line).checked_sub(1)?).copied()
    }

    /// Returns which hit a line is, from 1.
    pub fn rank(&self, line: u64) -> Option<usize> {
        self.lines.binary_search(&line).ok().map(|at| at + 1)
    }
}

/// A search in progress.
pub struct LogSearch {
    /// What is searched for.
    pub query: Query,
    found: Arc<Mutex<Found>>,
    busy: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// How long the log was when it was last searched: an unfinished last line is searched again only when it grows.
    tried: Arc<AtomicU64>,
}

impl Drop for LogSearch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl LogSearch {
    /// Returns a search that has not begun.
    pub fn new(query: Query) -> Self {
        Self { query, found: Arc::default(), busy: Arc::default(), stop: Arc::default(), tried: Arc::default() }
    }

    /// Returns what was found so far.
    pub fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock()
    }

    /// Returns whether the search is at work.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Returns whether the log was searched up to this length; the last line may be open.
    pub fn has_seen(&self, length: u64) -> bool {
        self.tried.load(Ordering::Acquire) >= length
    }

    /// Searches what has been added to the log, in a thread; `waker` is called at the end.
    pub fn go_on(&self, path: &Path, index: &Index, waker: Waker) {
        let from = self.found().done;
        let length = index.bytes();
        if from.1 >= length || self.tried.load(Ordering::Acquire) == length || self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        self.tried.store(length, Ordering::Release);
        let (query, found, busy, stop) =
            (self.query.clone(), Arc::clone(&self.found), Arc::clone(&self.busy), Arc::clone(&self.stop));
        let segments = segments(index, from);
        let path = path.to_owned();
        let work = move || {
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
            for round in segments.chunks(threads) {
                let hits: Vec<(Vec<u64>, (u64, u64))> = std::thread::scope(|scope| {
                    let run = |s: &Segment| scan(&path, s, &query, &stop);
                    let handles: Vec<_> = round.iter().map(|segment| scope.spawn(move || run(segment))).collect();
                    handles.into_iter().filter_map(|h| h.join().ok()).collect()
                });
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut found = found.lock();
                for (lines, done) in hits {
                    let room = HITS_MAX.saturating_sub(found.lines.len());
                    found.more |= lines.len() > room;
                    found.lines.extend(lines.into_iter().take(room));
                    found.done = done;
                }
                drop(found);
                waker.wake();
            }
            busy.store(false, Ordering::Release);
            waker.wake();
        };
        if std::thread::Builder::new().name("search".into()).spawn(work).is_err() {
            self.busy.store(false, Ordering::Release);
        }
    }
}

/// A part of the log that begins at the beginning of a line.
#[derive(Clone, Copy, Debug)]
struct Segment {
    line: u64,
    from: u64,
    to: u64,
    last: bool,
}

/// Returns parts of at least [`SEGMENT`] bytes.
fn segments(index: &Index, (line, from): (u64, u64)) -> Vec<Segment> {
    const SEGMENT: u64 = 16 << 20;
    let mut out = vec![Segment { line, from, to: index.bytes(), last: true }];
    for mark in index.marks().iter().filter(|m| m.offset > from) {
        let Some(open) = out.last_mut() else { break };
        if mark.offset - open.from >= SEGMENT {
            (open.to, open.last) = (mark.offset, false);
            out.push(Segment { line: mark.line, from: mark.offset, to: index.bytes(), last: true });
        }
    }
    out
}

/// Returns the hits of a segment, and where the search must continue: the last segment leaves a line that has not
/// ended.
fn scan(path: &Path, segment: &Segment, query: &Query, stop: &AtomicBool) -> (Vec<u64>, (u64, u64)) {
    let mut hits = Vec::new();
    let (mut line, mut at) = (segment.line, segment.from);
    let Ok(file) = vmdeck_files::open(path) else { return (hits, (line, at)) };
    let mut buffer: Vec<u8> = Vec::with_capacity(BLOCK + super::index::LINE_MAX);
    while at + (buffer.len() as u64) < segment.to && !stop.load(Ordering::Relaxed) {
        let have = buffer.len();
        let want = usize::try_from(segment.to - at - have as u64).unwrap_or(BLOCK).min(BLOCK);
        buffer.resize(have + want, 0);
        let Ok(n) = file.read_at(&mut buffer[have..], at + have as u64) else { break };
        buffer.truncate(have + n);
        if n == 0 {
            break;
        }
        let is_end = at + (buffer.len() as u64) >= segment.to && !segment.last;
        let used = block(&buffer, is_end, &mut line, query, &mut hits);
        at += used as u64;
        buffer.drain(..used);
    }
    (hits, (line, at))
}

/// Searches the whole lines of a block; returns how many bytes they take. A segment's end is always the end of a line.
fn block(bytes: &[u8], is_end: bool, line: &mut u64, query: &Query, hits: &mut Vec<u64>) -> usize {
    let whole = if is_end { bytes.len() } else { memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1) };
    let text = &bytes[..whole];
    // Colours inside of words would hide them, and lines that were cut are counted one by one: the slow way is for those.
    if memchr::memchr(0x1b, text).is_some() || has_long_line(text) || whole == 0 {
        let mut used = 0;
        split_lines(bytes, |piece| {
            if piece.ended || is_end {
                let stripped = piece
                    .bytes
                    .contains(&0x1b)
                    .then(|| super::ansi::plain(&super::ansi::render(piece.bytes, super::ansi::LineStyle::Plain)));
                if query.is_in(stripped.as_ref().map_or(piece.bytes, String::as_bytes)) {
                    hits.push(*line);
                }
                *line += 1;
                used += piece.size;
            }
            piece.ended
        });
        return used;
    }
    let (mut from, mut number) = (0, *line);
    let mut at = 0;
    while let Some(hit) = query.regex.find_at(text, at) {
        number += memchr::memchr_iter(b'\n', &text[from..hit.start()]).count() as u64;
        let Some(end) = memchr::memchr(b'\n', &text[hit.start()..]).map(|n| hit.start() + n + 1) else { break };
        // An expression may reach over the end of a line; what counts is what is within one.
        let is_within = hit.end() < end || {
            let start = memchr::memrchr(b'\n', &text[..hit.start()]).map_or(0, |n| n + 1);
            query.is_in(text[start..end].trim_ascii_end())
        };
        if is_within {
            hits.push(number);
        }
        number += 1;
        (from, at) = (end, end);
        if at >= text.len() {
            break;
        }
    }
    *line = number + memchr::memchr_iter(b'\n', &text[from..]).count() as u64;
    whole
}

fn has_long_line(text: &[u8]) -> bool {
    let mut start = 0;
    // Only blocks with fewer newlines than one for each longest line can have one.
    while text.len() - start > super::index::LINE_MAX {
        match memchr::memrchr(b'\n', &text[start..=start + super::index::LINE_MAX]) {
            Some(at) => start += at + 1,
            None => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn search(text: &[u8], query: &str) -> Vec<u64> {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("log");
        std::fs::write(&path, text).expect("write");
        let mut index = Index::default();
        index.feed(text);
        let search = LogSearch::new(Query::new(query));
        run(&search, &path, &index);

        search.found().lines.clone()
    }

    fn run(search: &LogSearch, path: &Path, index: &Index) {
        search.go_on(path, index, Waker::new(|| true));
        let start = crate::clock::now();
        while search.is_busy() {
            assert!(start.elapsed() < Duration::from_secs(20), "it ends");
            std::thread::yield_now();
        }
    }

    #[test]
    fn smart_case_expressions_and_texts_that_are_none() {
        let text = b"Error one\nerror two\nnothing\na.b(c\n";
        assert_eq!(search(text, "error"), [0, 1]);
        assert_eq!(search(text, "Error"), [0]);
        assert_eq!(search(text, "^(error|noth)"), [0, 1, 2]);
        assert_eq!(search(text, "b(c"), [3]);
        assert_eq!(search(text, "one$"), [0]);
        assert!(search(text, "mars").is_empty());
        assert!(search(b"foo\nbar\n", r"foo\s+bar").is_empty(), "a match is within a line");
        assert_eq!(search(b"foo \nfoo  bar\n", r"foo\s+bar"), [1]);
    }

    #[test]
    fn an_unfinished_last_line_is_not_searched_again_and_again() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("log");
        std::fs::write(&path, "x\nlogin: ").expect("write");
        let mut index = Index::default();
        index.feed(b"x\nlogin: ");
        let search = LogSearch::new(Query::new("x"));
        run(&search, &path, &index);
        search.go_on(&path, &index, Waker::new(|| true));
        assert!(!search.is_busy(), "nothing has grown");
    }

    #[test]
    fn colours_within_a_word_and_carriage_returns_do_not_hide_it() {
        assert_eq!(search(b"ok\r\n\x1b[31mFA\x1b[0mILED\r\nFAILED\r\n", "FAILED$"), [1, 2]);
    }

    #[test]
    fn it_goes_on_where_it_was_when_the_log_grows() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("log");
        std::fs::write(&path, "x 1\nx 2\nx hal").expect("write");
        let mut index = Index::default();
        index.feed(b"x 1\nx 2\nx hal");
        let search = LogSearch::new(Query::new("x"));
        run(&search, &path, &index);
        assert_eq!(search.found().lines, [0, 1], "an unfinished line is not judged");
        std::fs::write(&path, "x 1\nx 2\nx half\nno\nx 3\n").expect("write");
        index.feed(b"f\nno\nx 3\n");
        run(&search, &path, &index);
        assert_eq!(search.found().lines, [0, 1, 2, 4]);
        let found = search.found();
        assert_eq!((found.at_or_after(3), found.before(2), found.rank(4)), (Some(4), Some(1), Some(4)));
        assert_eq!((found.at_or_after(5), found.before(0), found.rank(3)), (None, None, None));
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_each_line_finds(
            lines in proptest::collection::vec("[a-c\u{1b}\\[m]{0,9}", 0..40), query in "[a-c]{1,2}"
        ) {
            let text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
            let wanted: Vec<u64> = lines
                .iter()
                .enumerate()
                .filter(|(_, l)| super::super::ansi::plain(&super::super::ansi::render(l.as_bytes(), super::super::ansi::LineStyle::Plain)).contains(&query))
                .map(|(i, _)| i as u64)
                .collect();
            prop_assert_eq!(search(text.as_bytes(), &query), wanted);
        }
    }
}
