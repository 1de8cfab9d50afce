//! What every part of a `JUnit` file is written with.

use quick_xml::{
    Writer,
    events::{BytesStart, BytesText, Event as Xml},
};
use std::io;

/// What a test is in the words of the format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TestKind {
    Passed,
    Failure,
    Error,
    Skipped,
}

/// How many tests there are of each kind.
#[derive(Clone, Copy, Default)]
pub(super) struct TestCounts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl TestCounts {
    /// Returns the counts of tests of these kinds.
    pub(super) fn of(kinds: impl Iterator<Item = TestKind>) -> Self {
        let mut out = Self::default();
        for kind in kinds {
            out.tests += 1;
            match kind {
                TestKind::Failure => out.failures += 1,
                TestKind::Error => out.errors += 1,
                TestKind::Skipped => out.skipped += 1,
                TestKind::Passed => {}
            }
        }
        out
    }

    /// Returns the tag of a suite, with its name, the counts and how long it took.
    pub(super) fn on<'a>(&self, mut tag: BytesStart<'a>, name: &str, took_ms: u64) -> BytesStart<'a> {
        tag.extend_attributes([
            ("name", name),
            ("tests", self.tests.to_string().as_str()),
            ("failures", self.failures.to_string().as_str()),
            ("errors", self.errors.to_string().as_str()),
            ("skipped", self.skipped.to_string().as_str()),
            ("time", seconds(took_ms).as_str()),
        ]);
        tag
    }
}

/// Writes the properties of a suite.
pub(super) fn properties<'a>(
    out: &mut Writer<Vec<u8>>,
    all: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    let parent = BytesStart::new("properties");
    out.write_event(Xml::Start(parent.borrow()))?;
    for (name, value) in all {
        let mut tag = BytesStart::new("property");
        tag.extend_attributes([("name", name), ("value", clean(value).as_str())]);
        out.write_event(Xml::Empty(tag))?;
    }
    out.write_event(Xml::End(parent.to_end()))
}

/// Writes an element that holds only text.
pub(super) fn element(out: &mut Writer<Vec<u8>>, tag: &str, text: &str) -> io::Result<()> {
    out.create_element(tag).write_text_content(BytesText::new(&clean(text)))?;
    Ok(())
}

/// Returns a time in seconds, with three decimals.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Returns what XML 1.0 can hold; tails are clean already, this is the last door.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || (!c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')))
        .collect()
}
