//! Where a test failed, by the habits with which tools write a file and a line.

use crate::words;

/// Most lines in which a place is looked for.
const LINES: usize = 400;
/// Most bytes of a line in which a place is looked for.
const LINE: usize = 2048;

/// A file, as the tool wrote it, and a line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodePlace {
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: Option<u32>,
}

impl CodePlace {
    /// Returns a file with a line that is perhaps known; `None` = there is no file.
    pub(crate) fn new(file: &str, line: Option<u32>) -> Option<Self> {
        let file = words::name(file);
        (!file.is_empty()).then(|| Self { file, line: line.filter(|line| *line > 0) })
    }

    /// Returns the first place in a text: in the file that is preferred, else in any that is not a library's.
    pub(crate) fn find(text: &str, preferred: Option<&str>) -> Option<Self> {
        let is_wanted = |place: &CodePlace| match preferred {
            Some(file) => base(&place.file) == base(file),
            None => !is_library(&place.file),
        };
        text.lines().take(LINES).flat_map(in_line).find(is_wanted)
    }
}

/// Returns the first line of a text that says why something failed, and is not only a place.
pub(crate) fn reason(text: &str) -> String {
    let mut lines = text.lines();
    // What Rust's panics say is on the line after the place.
    let panicked =
        lines.by_ref().take(LINES).find(|line| line.contains("panicked at ") && line.trim_end().ends_with(':'));
    let told = panicked.and_then(|_| lines.next()).map(words::message).filter(|line| !line.is_empty());
    told.or_else(|| {
        let mut lines = text.lines().take(LINES).map(words::message);
        lines.find(|line| !line.is_empty() && !is_only_place(line))
    })
    .unwrap_or_default()
}

/// Returns whether a line has nothing but a place, or a heading.
fn is_only_place(line: &str) -> bool {
    let line = line.trim();
    if line == "FAILED:" || line.starts_with("(in test file ") || line.starts_with("(from function ") {
        return true;
    }
    let bare = line.trim_start_matches(['(', '❯', ' ']).trim_end_matches([')', ':', ' ']);
    let bare = bare.strip_prefix("at ").unwrap_or(bare);
    !bare.contains(' ') && in_line(line).first().is_some_and(|place| bare.starts_with(&place.file))
}

fn base(file: &str) -> &str {
    file.rsplit(['/', '\\']).next().unwrap_or(file)
}

fn is_library(file: &str) -> bool {
    ["/usr/lib", "node_modules/", "site-packages/", "dist-packages/", "/rustc/", "node:"]
        .iter()
        .any(|part| file.contains(part))
}

/// Returns the places of a line, in their order.
fn in_line(line: &str) -> Vec<CodePlace> {
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LINE).last().unwrap_or(0);
    let line = &line[..end];
    let mut out = Vec::new();
    for (before, between) in
        [("in test file ", ", line "), ("File \"", "\", line "), (" in ", ":line "), (" at ", " line ")]
    {
        let found = line.split_once(before).and_then(|(_, rest)| rest.split_once(between));
        if let Some((file, rest)) = found
            && let Some(number) = leading_number(rest)
            && (before != " at " || is_file(file))
        {
            out.extend(CodePlace::new(file, Some(number)));
        }
    }
    for (at, _) in line.match_indices(':') {
        let Some(number) = leading_number(&line[at + 1..]) else { continue };
        let begins = |c: char| c.is_whitespace() || "\"'`()[]<>❯,".contains(c);
        let start =
            line[..at].rfind(begins).map_or(0, |from| from + line[from..].chars().next().map_or(1, char::len_utf8));
        let file = &line[start..at];
        if is_file(file) {
            out.extend(CodePlace::new(file, Some(number)));
        }
    }
    out
}

/// Returns whether a word looks like the path of a file with an ending.
fn is_file(word: &str) -> bool {
    let Some((stem, ending)) = base(word).rsplit_once('.') else { return false };
    let is_ending = ending.len() <= 6 && ending.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_word = ending.chars().all(|c| c.is_ascii_alphanumeric() || c == '+');
    let is_host = ["com", "org", "net", "local"].contains(&ending) && !word.contains('/');
    let has_place = word.get(2..).is_some_and(|rest| rest.contains(':'));
    !stem.is_empty() && is_ending && is_word && !is_host && !has_place && !word.contains("://")
}

/// Returns the number with which a text begins.
pub(crate) fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_as_tools_write_them() {
        for (text, want) in [
            ("(in test file a.bats, line 5)", Some(("a.bats", 5))),
            ("  File \"/src/t.py\", line 7, in x", Some(("/src/t.py", 7))),
            ("   at Demo.X() in C:\\src\\Calc Tests.cs:line 21", Some(("C:\\src\\Calc Tests.cs", 21))),
            ("#   at t/mixed.t line 5.", Some(("t/mixed.t", 5))),
            ("thread 'x' (1) panicked at src/lib.rs:9:68:", Some(("src/lib.rs", 9))),
            ("    at Object.toEqual (/src/js/m.test.js:3:40)", Some(("/src/js/m.test.js", 3))),
            (" ❯ v/m.spec.mjs:4:40", Some(("v/m.spec.mjs", 4))),
            ("at c.cc:4", Some(("c.cc", 4))),
            ("    calc_test.go:4: got 1, want 2", Some(("calc_test.go", 4))),
            ("see http://example.org:80/x and host.com:22", None),
            ("12:30:05 done", None),
            ("ratio 1.5:2", None),
        ] {
            let found = CodePlace::find(text, None).map(|place| (place.file, place.line.unwrap_or(0)));
            assert_eq!(found, want.map(|(file, line)| (file.to_owned(), line)), "{text}");
        }
        let text = "/usr/lib/python3/x.py:3: in a\nother.py:4: b\ntests/t.py:9: c";
        assert_eq!(CodePlace::find(text, Some("t.py")).and_then(|place| place.line), Some(9));
        assert_eq!(CodePlace::find(text, None).map(|place| place.file), Some("other.py".to_owned()));
    }

    #[test]
    fn a_reason_is_no_place() {
        for (text, want) in [
            ("/src/cpp/g.cc:3\nExpected equality:\n 1", "Expected equality:"),
            ("(in test file a.bats, line 5)\n  `x' failed", "`x' failed"),
            ("FAILED:\nboom\nat c.cc:7", "boom"),
            ("before\n\nthread 'a' panicked at src/lib.rs:9:8:\nleft != right\n left", "left != right"),
            ("", ""),
        ] {
            assert_eq!(reason(text), want, "{text}");
        }
    }
}
