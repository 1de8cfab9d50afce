//! The formats by name, and how each is known by what it says.

use crate::line::Line;

/// A format in which tests are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// TAP 12 to 14: Perl, bats, node, vitest and others.
    Tap,
    /// The kernel's form of it: `KUnit`, kselftest.
    Ktap,
    /// `JUnit` XML.
    Junit,
    /// `go test -json`, or `go test -v`.
    GoTest,
    /// The text of Rust's own test harness.
    Libtest,
    /// Its JSON, and nextest's of the same form.
    LibtestJson,
    /// The text of pytest.
    Pytest,
    /// The text of ctest.
    Ctest,
    /// The text of `meson test`, and its `testlog.json`.
    Meson,
    /// The text of `make check`, and `.trs` files.
    Automake,
    /// The text of `GoogleTest`.
    Gtest,
    /// The XML of Catch2.
    Catch2,
    /// The JSON of Jest and Vitest.
    Jest,
    /// The text of `prove`.
    Prove,
    /// The binary stream of subunit, version 2.
    Subunit,
    /// The XML of `dotnet test`.
    Trx,
    /// The XML of `NUnit` 3.
    Nunit,
}

/// Each format with its word; several words may stand for one format.
const WORDS: &[(&str, Format)] = &[
    ("tap", Format::Tap),
    ("ktap", Format::Ktap),
    ("junit", Format::Junit),
    ("gotest", Format::GoTest),
    ("libtest", Format::Libtest),
    ("libtest-json", Format::LibtestJson),
    ("nextest", Format::LibtestJson),
    ("pytest", Format::Pytest),
    ("ctest", Format::Ctest),
    ("meson", Format::Meson),
    ("automake", Format::Automake),
    ("gtest", Format::Gtest),
    ("catch2", Format::Catch2),
    ("jest", Format::Jest),
    ("prove", Format::Prove),
    ("subunit", Format::Subunit),
    ("trx", Format::Trx),
    ("nunit", Format::Nunit),
    ("bats", Format::Tap),
    ("kselftest", Format::Ktap),
    ("vitest", Format::Jest),
];

impl Format {
    /// Returns the format of a word of the config.
    pub fn of_word(word: &str) -> Option<Self> {
        WORDS.iter().find(|(known, _)| *known == word).map(|(_, format)| *format)
    }

    /// Returns every word of the config.
    pub fn words() -> impl Iterator<Item = &'static str> {
        WORDS.iter().map(|(word, _)| *word)
    }

    /// Returns the word that stands for the format.
    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(_, format)| *format == self).map_or("", |(word, _)| word)
    }

    /// Returns whether the format is one document, which says nothing before its end.
    pub(crate) fn is_document(self) -> bool {
        matches!(self, Format::Junit | Format::Catch2 | Format::Jest | Format::Trx | Format::Nunit | Format::Subunit)
    }

    /// Returns whether the format is XML: which one, the first element says.
    pub(crate) fn is_xml(self) -> bool {
        matches!(self, Format::Junit | Format::Catch2 | Format::Trx | Format::Nunit)
    }

    /// Returns the format that begins with this line; `None` = the line tells none. XML is `Junit` here.
    pub(crate) fn of_line(line: &Line) -> Option<Self> {
        let text = line.text.strip_prefix('\u{feff}').unwrap_or(&line.text);
        if text.starts_with('{') || text.starts_with("\u{16}{") {
            return of_json(text);
        }
        let bare = text.trim_start();
        if bare.starts_with("<?xml") || xml_root(bare).is_some() {
            return Some(Format::Junit);
        }
        of_text(crate::text::tap::without_stamp(text).trim_end())
    }
}

fn of_json(text: &str) -> Option<Format> {
    let has = |word: &str| text.contains(word);
    if has("\"Action\":") && (has("\"Package\":") || has("\"ImportPath\":")) {
        return Some(Format::GoTest);
    }
    let says = |key: &str, values: &[&str]| {
        values.iter().any(|value| has(&format!("\"{key}\":\"{value}\"")) || has(&format!("\"{key}\": \"{value}\"")))
    };
    if says("type", &["suite", "test"]) && has("\"event\"") {
        return Some(Format::LibtestJson);
    }
    if has("\"numTotalTest") || has("\"numFailedTest") {
        return Some(Format::Jest);
    }
    (has("\"result\"") && has("\"returncode\"")).then_some(Format::Meson)
}

/// Returns the format of an XML document by the name of its first element.
pub(crate) fn of_root(root: &str) -> Option<Format> {
    match root {
        "testsuites" | "testsuite" => Some(Format::Junit),
        "TestRun" => Some(Format::Trx),
        "test-run" => Some(Format::Nunit),
        "Catch" | "Catch2TestRun" => Some(Format::Catch2),
        _ => None,
    }
}

fn xml_root(text: &str) -> Option<Format> {
    let name = text.strip_prefix('<')?;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == ':')).unwrap_or(name.len());
    of_root(&name[..end])
}

fn of_text(text: &str) -> Option<Format> {
    let number_after = |text: &str, word: &str| {
        let rest = text.strip_prefix(word)?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        (digits > 0).then(|| rest[digits..].to_owned())
    };
    if text.starts_with("KTAP version") {
        return Some(Format::Ktap);
    }
    if text.starts_with("TAP version 1") || crate::text::tap::is_start(text) {
        return Some(Format::Tap);
    }
    if text.starts_with("===") && text.contains(" test session starts ") {
        return Some(Format::Pytest);
    }
    if text.starts_with("Test project ") || text == "No tests were found!!!" {
        return Some(Format::Ctest);
    }
    if number_after(text, "running ").is_some_and(|rest| rest == " tests" || rest == " test") {
        return Some(Format::Libtest);
    }
    if text.starts_with("[==========] Running ") {
        return Some(Format::Gtest);
    }
    if text.starts_with(":test-result: ") || text.starts_with(":global-test-result: ") {
        return Some(Format::Automake);
    }
    if crate::text::pytest::is_closing(text) {
        return Some(Format::Pytest);
    }
    if crate::text::meson::console(text).is_some() {
        return Some(Format::Meson);
    }
    if text.starts_with("--- FAIL: ") || text.starts_with("FAIL\t") && text.ends_with('s') || text.starts_with("ok  \t")
    {
        return Some(Format::GoTest);
    }
    if text.starts_with("=== RUN   ") || (text.starts_with("FAIL\t") && text.ends_with(" failed]")) {
        return Some(Format::GoTest);
    }
    if crate::text::prove::is_start(text) {
        return Some(Format::Prove);
    }
    let automake = crate::text::automake::result(text).is_some();
    automake.then_some(Format::Automake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_formats_belong_together() {
        for (word, format) in WORDS {
            assert_eq!(Format::of_word(word), Some(*format));
            assert_eq!(Format::of_word(format.word()), Some(*format));
        }
        assert_eq!(Format::of_word("auto"), None);
    }

    #[test]
    fn ordinary_lines_are_no_results() {
        for text in [
            "okay then",
            "running late",
            "ok: done",
            "<html>",
            "{\"a\": 1}",
            "FAIL",
            "1..",
            "PASSED",
            "not okay",
            "running 3 tests of the network",
        ] {
            assert_eq!(Format::of_line(&Line { text: text.into(), is_cut: false }), None, "{text}");
        }
    }
}
