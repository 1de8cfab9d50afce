//! What a single line of TAP or KTAP says.

use vmdeck_model::subtest::SubtestStatus;

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// `TAP version 14`, `KTAP version 1`.
    Version {
        is_kernel: bool,
    },
    /// `1..7`, `1..0 # SKIP why`.
    Plan {
        count: u64,
        skip: Option<String>,
    },
    Result(TapResult<'a>),
    /// `# Subtest: name`, and the words with which kselftest begins a test.
    Announce(String),
    /// `Bail out! why`.
    Bail(&'a str),
    /// `---` after a result.
    Yaml,
    /// `}` after a block that follows its parent.
    Close,
    Comment(&'a str),
    Noise,
}

/// `ok 1 - name # SKIP why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TapResult<'a> {
    pub(super) is_ok: bool,
    pub(super) number: Option<u64>,
    pub(super) name: String,
    pub(super) directive: Option<Directive<'a>>,
    pub(super) took_ms: Option<u64>,
    /// Whether the parts of the test follow between `{` and `}`.
    pub(super) opens: bool,
    /// Whether it may be the beginning of a sentence as well.
    pub(super) is_doubtful: bool,
}

/// What stands after the `#` of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directive<'a> {
    Skip(&'a str),
    Todo(&'a str),
    Xfail(&'a str),
    Timeout(&'a str),
    Error(&'a str),
    Other(&'a str),
}

impl Directive<'_> {
    /// Returns the status of a result with this directive.
    pub(super) fn status(&self, is_ok: bool) -> SubtestStatus {
        match self {
            Directive::Skip(_) => SubtestStatus::Skipped,
            Directive::Todo(_) if is_ok => SubtestStatus::Xpass,
            Directive::Todo(_) | Directive::Xfail(_) => SubtestStatus::Xfail,
            Directive::Error(_) => SubtestStatus::Error,
            Directive::Timeout(_) => SubtestStatus::Failed,
            Directive::Other(_) if is_ok => SubtestStatus::Passed,
            Directive::Other(_) => SubtestStatus::Failed,
        }
    }
}

/// Takes a kernel's time stamp from the start of a line.
pub(crate) fn without_stamp(text: &str) -> &str {
    let stamped = text.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    let is_stamp = |inner: &str| {
        let inner = inner.trim_start();
        inner.split_once('.').is_some_and(|(whole, rest)| {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits(whole) && digits(rest)
        })
    };
    stamped.filter(|(inner, _)| is_stamp(inner)).map_or(text, |(_, rest)| rest)
}

/// Returns whether a stream of TAP can begin with this line, besides by its version.
pub(crate) fn is_start(text: &str) -> bool {
    match read(text, false) {
        Word::Plan { .. } => true,
        // A single word is what any program may say.
        Word::Result(result) => !result.is_doubtful || ["ok", "not ok"].contains(&text.trim_end()),
        _ => false,
    }
}

/// Returns how deep a line is, how many of its `#` say so, and the line without that. The runner of kselftest puts `# ` before all that a
/// test prints: that is a block of its own where the test begins one.
pub(super) fn depth(text: &str, is_kernel: bool, has_inner: bool) -> (usize, usize, &str) {
    let mut rest = text;
    let mut hashes = 0;
    while let Some(inner) = rest.strip_prefix("# ") {
        let begins = inner.trim_start_matches("# ").trim_start();
        let is_version = begins.starts_with("TAP version") || begins.starts_with("KTAP version");
        let is_word = !matches!(read(begins, is_kernel), Word::Noise | Word::Comment(_) | Word::Announce(_));
        if !(is_version || (is_kernel && has_inner && is_word)) {
            break;
        }
        hashes += 1;
        rest = inner;
    }
    let bare = rest.trim_start_matches(' ');
    (hashes * 64 + (rest.len() - bare.len()), hashes, bare)
}

/// Reads a line without its indentation.
pub(super) fn read(text: &str, is_kernel: bool) -> Word<'_> {
    let text = text.trim_end();
    if let Some(rest) = text.strip_prefix("ok").or_else(|| text.strip_prefix("not ok")) {
        if rest.is_empty() || rest.starts_with(' ') {
            return Word::Result(result(!text.starts_with('n'), rest, is_kernel));
        }
        return Word::Noise;
    }
    if let Some(rest) = text.strip_prefix("1..") {
        return plan(rest).unwrap_or(Word::Noise);
    }
    if let Some(rest) = text.strip_prefix("TAP version ").or_else(|| text.strip_prefix("KTAP version ")) {
        let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        return if is_number { Word::Version { is_kernel: text.starts_with('K') } } else { Word::Noise };
    }
    if let Some(why) = text.strip_prefix("Bail out!") {
        return Word::Bail(why.trim());
    }
    match text {
        "---" => return Word::Yaml,
        "}" => return Word::Close,
        _ => {}
    }
    let Some(comment) = text.strip_prefix('#') else { return Word::Noise };
    let inner = comment.trim_start();
    if let Some(name) = inner.strip_prefix("Subtest:") {
        return Word::Announce(unescape(name.trim()));
    }
    if inner.starts_with("selftests: ") {
        return Word::Announce(inner.to_owned());
    }
    Word::Comment(comment)
}

fn plan(rest: &str) -> Option<Word<'static>> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    // A number that is too long is a plan that nobody keeps.
    let count = if end == 0 { return None } else { rest[..end].parse().unwrap_or(u64::MAX) };
    let after = rest[end..].trim_start();
    if after.is_empty() {
        return Some(Word::Plan { count, skip: None });
    }
    let comment = after.strip_prefix('#')?.trim_start();
    let skip = strip_word(comment, "skip").map(|why| why.trim_start_matches([':', ' ']).to_owned());
    Some(Word::Plan { count, skip: skip.or((count == 0).then(|| comment.to_owned())) })
}

fn result(is_ok: bool, rest: &str, is_kernel: bool) -> TapResult<'_> {
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let has_number = end > 0 && (rest.len() == end || rest[end..].starts_with([' ', '\t']));
    let number = if has_number { rest[..end].parse().ok() } else { None };
    let mut text = if has_number { rest[end..].trim_start() } else { rest };
    let is_doubtful = !has_number && !text.starts_with("- ") && !text.starts_with('#');
    let opens = text.ends_with(" {") || text == "{";
    if opens {
        text = text[..text.len() - 1].trim_end();
    }
    text = text.strip_prefix("- ").or_else(|| text.strip_prefix('-').filter(|rest| rest.is_empty())).unwrap_or(text);
    let (name, directive, took_ms) = split(text, is_kernel);
    let (name, took_ms) = if took_ms.is_none() { without_time(name) } else { (name, took_ms) };
    TapResult { is_ok, number, name: unescape(name.trim()), directive, took_ms, opens, is_doubtful }
}

/// Takes the time from the end of a name, as `bats --timing` writes it: `name in 12ms`.
fn without_time(name: &str) -> (&str, Option<u64>) {
    let timed = name.rsplit_once(" in ").and_then(|(name, time)| Some((name, time.strip_suffix("ms")?.parse().ok()?)));
    timed.map_or((name, None), |(name, ms)| (name, Some(ms)))
}

/// Returns a description, its directive, and how long it took.
fn split(text: &str, is_kernel: bool) -> (&str, Option<Directive<'_>>, Option<u64>) {
    let mut took = None;
    let mut text = text;
    loop {
        let Some(at) = last_hash(text, is_kernel) else { return (text, None, took) };
        let (name, comment) = (text[..at].trim_end(), text[at + 1..].trim());
        if let Some(time) = comment.strip_prefix("time=") {
            let ms = time.strip_suffix("ms").and_then(|ms| ms.parse::<f64>().ok());
            took = ms.and_then(|ms| crate::words::millis(ms / 1000.0));
            text = name;
            continue;
        }
        let directive = directive(comment, is_kernel);
        return match directive {
            Some(directive) => (name, Some(directive), took),
            None => (text, None, took),
        };
    }
}

/// Returns where the last `#` is that is not escaped and has a blank before it; of the kernel's form, the first.
fn last_hash(text: &str, is_kernel: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_one = |at: &usize| {
        let escapes = bytes[..*at].iter().rev().take_while(|byte| **byte == b'\\').count();
        (*at == 0 || bytes[*at - 1].is_ascii_whitespace()) && escapes % 2 == 0
    };
    let mut all = memchr::memchr_iter(b'#', bytes).filter(is_one);
    if is_kernel { all.next() } else { all.next_back() }
}

fn directive(comment: &str, is_kernel: bool) -> Option<Directive<'_>> {
    if let Some(why) = strip_word(comment, "skip") {
        return Some(Directive::Skip(why.trim_start_matches([':', ' '])));
    }
    if let Some(why) = strip_word(comment, "todo") {
        return Some(Directive::Todo(why.trim_start_matches([':', ' '])));
    }
    if !is_kernel {
        return None;
    }
    let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
    Some(match word {
        "XFAIL" => Directive::Xfail(rest.trim()),
        "TIMEOUT" => Directive::Timeout(rest.trim()),
        "ERROR" => Directive::Error(rest.trim()),
        _ => Directive::Other(comment),
    })
}

/// Returns what follows a word in any case; letters that run on belong to it, as in `SKIPPED`.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    let rest = &text[word.len()..];
    Some(rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim())
}

/// Takes the escapes out of a name.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek().is_some_and(|next| matches!(next, '\\' | '#')) {
            out.extend(chars.next());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_they_say() {
        for (text, want) in [
            ("1..4", Word::Plan { count: 4, skip: None }),
            ("1..0 # SKIP needs root", Word::Plan { count: 0, skip: Some("needs root".into()) }),
            ("1..99999999999999999999999", Word::Plan { count: u64::MAX, skip: None }),
            ("1..4 of them", Word::Noise),
            ("1..", Word::Noise),
            ("okay", Word::Noise),
            ("TAP version 14", Word::Version { is_kernel: false }),
            ("KTAP version 1", Word::Version { is_kernel: true }),
            ("# Subtest: a b", Word::Announce("a b".into())),
            ("Bail out!  gone", Word::Bail("gone")),
            ("#   at x line 5.", Word::Comment("   at x line 5.")),
        ] {
            assert_eq!(read(text, false), want, "{text}");
        }
    }

    #[test]
    fn names_end_where_a_directive_begins() {
        for (text, is_kernel, name, directive) in [
            ("ok 2 - a # skip: why", false, "a", Some(Directive::Skip("why"))),
            ("ok 2 - a # SKIPPED", false, "a", Some(Directive::Skip(""))),
            ("not ok - a # TODO later", false, "a", Some(Directive::Todo("later"))),
            ("ok 4 prints # hash and colour", false, "prints # hash and colour", None),
            (r"ok 7 - name with \\\# hash # todo", false, r"name with \# hash", Some(Directive::Todo(""))),
            (r"ok 7 - a \# skip", false, "a # skip", None),
            ("not ok 2 x # exit=1", true, "x", Some(Directive::Other("exit=1"))),
            ("not ok 4 x # TIMEOUT 45 seconds", true, "x", Some(Directive::Timeout("45 seconds"))),
        ] {
            let Word::Result(result) = read(text, is_kernel) else { panic!("{text} is no result") };
            assert_eq!((result.name.as_str(), result.directive), (name, directive), "{text}");
        }
    }

    #[test]
    fn only_a_kernels_stamp_is_one() {
        for (text, want) in [("[    0.601234] ok 1", "ok 1"), ("[x] ok", "[x] ok"), ("[1] ok", "[1] ok"), ("[", "[")] {
            assert_eq!(without_stamp(text), want);
        }
    }
}
