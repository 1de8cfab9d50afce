//! The formats that come in lines, while the tool runs.

pub(crate) mod automake;
pub(crate) mod ctest;
pub(crate) mod gotest;
pub(crate) mod gtest;
pub(crate) mod libtest;
pub(crate) mod libtest_json;
pub(crate) mod meson;
pub(crate) mod prove;
pub(crate) mod pytest;
pub(crate) mod tap;

use crate::{format::Format, reader::LineReader};

/// Returns the reader of a format that comes in lines; `stem` is the name of its file without the ending, if it has one.
pub(crate) fn reader_of(format: Format, stem: Option<&str>) -> Box<dyn LineReader> {
    match format {
        Format::Ktap => Box::new(tap::TapReader::new(true)),
        Format::GoTest => Box::new(gotest::GoTest::default()),
        Format::Libtest => Box::new(libtest::Libtest::default()),
        Format::LibtestJson => Box::new(libtest_json::LibtestJson::default()),
        Format::Pytest => Box::new(pytest::Pytest::default()),
        Format::Ctest => Box::new(ctest::Ctest::default()),
        Format::Meson => Box::new(meson::Meson::default()),
        Format::Automake => Box::new(automake::Automake::new(stem.unwrap_or("test"))),
        Format::Gtest => Box::new(gtest::Gtest::default()),
        Format::Prove => Box::new(prove::Prove::default()),
        // Documents never come here.
        _ => Box::new(tap::TapReader::new(false)),
    }
}
