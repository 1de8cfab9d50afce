//! A test of a list.

/// A test of a list, and how it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedTest {
    /// Its name, as the tool has it.
    pub name: String,
    /// The script that runs it.
    pub script: String,
    /// Whether it wants root's rights.
    pub as_root: bool,
    /// Whether output on standard error is a failure.
    pub is_silent: bool,
    /// The exit code by which it says that it was skipped.
    pub skip: Option<i32>,
    /// Why it is not run.
    pub skipped: Option<String>,
}

/// Makes one word for a shell of any text.
pub type Quote<'a> = &'a dyn Fn(&str) -> String;
