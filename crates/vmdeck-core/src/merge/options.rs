//! How records are merged, as the command line says it.

/// How records are merged.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions {
    /// Whether records are merged that do not seem to be parts of one run.
    pub force: bool,
    /// How many records there must be.
    pub expect: Option<usize>,
    /// Whether logs are linked in place of copied.
    pub link: bool,
}
