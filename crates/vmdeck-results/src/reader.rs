//! The seam to every format that is read line by line.

use crate::{format::Format, line::Line, sheet::Sheet, text};

/// Reads one format as it comes.
pub(crate) trait Reader: Send {
    /// Takes the next line.
    fn line(&mut self, line: &Line, sheet: &mut Sheet);

    /// Returns whether what was read so far is whole, so that another format may follow.
    fn is_closed(&self) -> bool {
        false
    }

    /// Ends the stream: what is still running did not end.
    fn end(&mut self, sheet: &mut Sheet);
}

/// Returns the reader of a format that comes in lines; `stem` is the name of its file without the ending, if it has one.
pub(crate) fn of(format: Format, stem: Option<&str>) -> Box<dyn Reader> {
    match format {
        Format::Ktap => Box::new(text::tap::Tap::new(true)),
        Format::GoTest => Box::new(text::gotest::GoTest::default()),
        Format::Libtest => Box::new(text::libtest::Libtest::default()),
        Format::LibtestJson => Box::new(text::libtest_json::LibtestJson::default()),
        Format::Pytest => Box::new(text::pytest::Pytest::default()),
        Format::Ctest => Box::new(text::ctest::Ctest::default()),
        Format::Meson => Box::new(text::meson::Meson::default()),
        Format::Automake => Box::new(text::automake::Automake::new(stem.unwrap_or("test"))),
        Format::Gtest => Box::new(text::gtest::Gtest::default()),
        Format::Prove => Box::new(text::prove::Prove::default()),
        // Documents never come here.
        _ => Box::new(text::tap::Tap::new(false)),
    }
}
