//! Where a config comes from: its file, the environment, the flags, and the keys that exist.

use super::old_name::OldName;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use vmdeck_model::key::Key;

/// Runs the command of a secret and returns what it printed.
pub type SecretCommand<'a> = &'a dyn Fn(&[String]) -> Result<String, String>;

/// Where a config comes from.
pub struct Sources<'a> {
    /// The file and its text; `None` = the built-in defaults alone.
    pub file: Option<(&'a Path, &'a str)>,
    /// The folder that relative paths start from; absolute, for programs run in folders of their own.
    pub base: &'a Path,
    /// The environment.
    pub env: &'a BTreeMap<String, String>,
    /// The arguments of `--set KEY=VALUE`.
    pub set: &'a [String],
    /// Every key, those of backends and transports included.
    pub keys: &'a [Key],
    /// The words that `backend` may be.
    pub backends: &'a [&'static str],
    /// Those of them whose machines can be in a private network with others.
    pub private_networks: &'a [&'static str],
    /// The variables of older systems.
    pub old_names: &'a [OldName],
    /// The words that `transports` may hold.
    pub transports: &'a [&'static str],
    /// Runs the command of a secret; `None` = secrets are not wanted now.
    pub secret_command: Option<SecretCommand<'a>>,
    /// The guests whose secrets are wanted; `None` = those of all.
    pub secrets_of: Option<&'a BTreeSet<String>>,
    /// Whether programs and commands that the file names may be started; if not they are left out.
    pub trusts_file: bool,
}
