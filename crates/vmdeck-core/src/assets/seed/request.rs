//! What a machine is to be given at its first boot.

use std::path::Path;
use vmdeck_model::guest::Seed;

/// What a machine is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeedRequest<'a> {
    pub(crate) seed: Seed,
    /// The user to make.
    pub(crate) user: &'a str,
    /// That user's shell.
    pub(crate) shell: &'a str,
    /// The machine's own name.
    pub(crate) name: &'a str,
    /// The file with what it gets besides.
    pub(crate) user_data: Option<&'a Path>,
}
