//! Finds our marks in what a command writes, over any chunk borders: what came before them is not the command's own.
//!
//! Which text writes the marks is in `frame`.

use super::frame::{ask_mark, ready_mark};
use memchr::memmem;

/// Most that is kept of what comes before a mark: a message of the day, a complaint of sudo.
const SEEN_MAX: usize = 64 * 1024;
/// Longest status in an end mark, with its bracket.
const STATUS_MAX: usize = 5;

/// What was found on standard error before the command's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameMark {
    /// sudo wants a password.
    Asked,
    /// A shell of ours runs and waits for the command on its standard input.
    Ready,
    /// The command runs under this pid; the rest is its own output.
    Running {
        /// The pid in the guest.
        pid: u32,
        /// What came right after the mark.
        rest: Vec<u8>,
    },
}

/// Looks for marks in the first bytes of standard error.
#[derive(Clone, Debug)]
pub struct FrameMarks {
    ask: Vec<u8>,
    ready: Vec<u8>,
    run: Vec<u8>,
    seen: Vec<u8>,
}

impl FrameMarks {
    /// Returns a reader for the marks of this nonce.
    pub fn new(nonce: &str) -> Self {
        Self {
            ask: ask_mark(nonce).into_bytes(),
            ready: ready_mark(nonce).into_bytes(),
            run: format!("[run-{nonce} ").into_bytes(),
            seen: Vec::new(),
        }
    }

    /// Takes a piece, which may be empty; returns the next mark, if it is complete. A caller asks again with an empty piece
    /// until there is none: several may come in one piece.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<FrameMark> {
        self.seen.extend_from_slice(bytes);
        let small = [(&self.ask, FrameMark::Asked), (&self.ready, FrameMark::Ready)];
        let small =
            small.into_iter().filter_map(|(text, mark)| Some((memmem::find(&self.seen, text)?, text.len(), mark)));
        let small = small.min_by_key(|found| found.0);
        let marks: Vec<usize> = memmem::find_iter(&self.seen, &self.run).map(|at| at + self.run.len()).collect();
        for after in marks {
            if small.as_ref().is_some_and(|found| found.0 < after) {
                break;
            }
            let Some(length) = memchr::memchr(b']', &self.seen[after..]) else { break };
            let pid = std::str::from_utf8(&self.seen[after..after + length]).ok().and_then(|text| text.parse().ok());
            // Without a number it is no mark of ours, whoever wrote it.
            if let Some(pid) = pid {
                let rest = self.seen.split_off(after + length + 1);
                return Some(FrameMark::Running { pid, rest });
            }
        }
        if let Some((at, length, mark)) = small {
            self.seen.drain(..at + length);
            return Some(mark);
        }
        let excess = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..excess);
        None
    }

    /// Returns what was written instead of a mark.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }
}

/// Passes standard output on from our mark on: what a login shell's own files wrote before it is noise.
#[derive(Clone, Debug)]
pub struct StartMark {
    mark: Vec<u8>,
    seen: Vec<u8>,
    found: bool,
}

impl StartMark {
    /// Returns a reader for the mark of this nonce.
    pub fn new(nonce: &str) -> Self {
        Self { mark: format!("[out-{nonce}]").into_bytes(), seen: Vec::new(), found: false }
    }

    /// Takes a piece; returns what of it is the command's own.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        if self.found {
            return bytes.into();
        }
        self.seen.extend_from_slice(bytes);
        if let Some(at) = memmem::find(&self.seen, &self.mark) {
            self.found = true;
            let rest = self.seen.split_off(at + self.mark.len());
            self.seen.truncate(at);
            return rest.into();
        }
        let excess = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..excess);
        Vec::new().into()
    }

    /// Returns what was written before the mark.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }
}

/// Passes one stream of a framed command on and takes the mark at its end off.
#[derive(Clone, Debug)]
pub struct EndMark {
    mark: Vec<u8>,
    held: Vec<u8>,
}

impl EndMark {
    /// Returns a reader for the mark of this nonce.
    pub fn new(nonce: &str) -> Self {
        Self { mark: format!("[end-{nonce} ").into_bytes(), held: Vec::new() }
    }

    /// Takes a piece; returns what cannot belong to the mark any more.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let keep = match memmem::find(&self.held, &self.mark) {
            Some(at) => at,
            None => (0..self.mark.len().min(self.held.len() + 1))
                .rev()
                .find(|n| self.held.ends_with(&self.mark[..*n]))
                .map_or(self.held.len(), |n| self.held.len() - n),
        };
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns whether the whole mark has come.
    pub fn is_complete(&self) -> bool {
        self.held.strip_prefix(&self.mark[..]).is_some_and(|after| memchr::memchr(b']', after).is_some())
    }

    /// Returns the status in the mark, and what came after it. `None` = there was no mark; then what was held back is the second.
    pub fn finish(self) -> (Option<i32>, Vec<u8>) {
        let Some(after) = self.held.strip_prefix(&self.mark[..]) else { return (None, self.held) };
        let end = memchr::memchr(b']', after).filter(|at| *at < STATUS_MAX);
        let status = end.and_then(|end| std::str::from_utf8(&after[..end]).ok()?.parse().ok());
        match (status, end) {
            (Some(status), Some(end)) => (Some(status), after[end + 1..].to_vec()),
            _ => (None, self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mark_without_a_number_hides_no_other_and_grows_nothing() {
        let mut marks = FrameMarks::new("n");
        assert_eq!(marks.feed(b"[run-n x] [run-n"), None);
        assert_eq!(marks.feed(b" 7]rest"), Some(FrameMark::Running { pid: 7, rest: b"rest".to_vec() }));
        let mut flood = FrameMarks::new("n");
        for _ in 0..100 {
            assert_eq!(flood.feed(&[b"[run-n ".as_slice(), &[b'x'; 1000]].concat()), None);
        }
        assert!(flood.seen().len() <= SEEN_MAX);
    }

    #[test]
    fn marks_are_found_wherever_they_are_cut() {
        let text = b"motd [ask n0]x[ready-n0]y[run-n0 4711]out";
        for at in 0..text.len() {
            let mut marks = FrameMarks::new("n0");
            let mut found = Vec::new();
            for piece in [&text[..at], &text[at..]] {
                let mut next = marks.feed(piece);
                while let Some(mark) = next {
                    found.push(mark);
                    if matches!(found.last(), Some(FrameMark::Running { .. })) {
                        break;
                    }
                    next = marks.feed(b"");
                }
            }
            assert_eq!(found[..2], [FrameMark::Asked, FrameMark::Ready], "cut at {at}");
            assert!(matches!(found[2], FrameMark::Running { pid: 4711, .. }), "cut at {at}");
        }
    }

    #[test]
    fn what_follows_the_end_mark_is_the_tools_own() {
        let mut end = EndMark::new("n");
        assert_eq!(end.feed(b"text[end-n 0]Error from event: x"), b"text");
        assert_eq!(end.finish(), (Some(0), b"Error from event: x".to_vec()));
        let mut cut = EndMark::new("n");
        assert_eq!(cut.feed(b"text[end-"), b"text");
        assert_eq!(cut.finish(), (None, b"[end-".to_vec()), "nothing is lost where the mark is missing");
    }

    proptest! {
        #[test]
        fn noise_before_the_start_mark_is_not_passed_on_and_nothing_after_it_is_lost(
            noise in proptest::collection::vec(any::<u8>(), 0..60), text in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::vec(0usize..200, 0..5)
        ) {
            prop_assume!(memmem::find(&noise, b"[out-nonce]").is_none());
            let whole = [&noise[..], b"[out-nonce]", &text].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (whole.len() + 1)).collect();
            cuts.sort_unstable();
            let (mut start, mut passed, mut from) = (StartMark::new("nonce"), Vec::new(), 0);
            for cut in cuts.into_iter().chain([whole.len()]) {
                passed.extend_from_slice(&start.feed(&whole[from..cut]));
                from = cut;
            }
            prop_assert_eq!(passed, text);
            prop_assert_eq!(start.seen(), noise);
        }

        #[test]
        fn the_end_mark_is_found_wherever_it_is_cut(
            text in proptest::collection::vec(prop_oneof![Just(b'['), Just(b'e'), Just(b'n'), any::<u8>()], 0..40), cut in 0usize..60
        ) {
            let whole = [&text[..], b"[end-nonce 3]"].concat();
            prop_assume!(memmem::find(&text, b"[end-nonce ").is_none());
            let cut = cut.min(whole.len());
            let mut end = EndMark::new("nonce");
            let passed = [end.feed(&whole[..cut]), end.feed(&whole[cut..])].concat();
            prop_assert_eq!(passed, text);
            prop_assert_eq!(end.finish(), (Some(3), Vec::new()));
        }
    }
}
