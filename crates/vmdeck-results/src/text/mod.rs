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
