//! Text to a checked [`Setup`]: file, environment and flags, merged, checked all at once.
//!
//! The config never names a backend or transport: their keys come in from outside as tables.

mod build;
mod check;
pub mod compat;
mod env;
pub mod example;
pub mod keys;
pub mod schema;
pub mod show;
pub mod tree;

use std::{collections::BTreeMap, path::Path};
use vmdeck_model::{
    error::{Fault, Result},
    key::Key,
    plan::Setup,
};

pub use build::Values;

/// Runs the command of a secret and returns what it printed.
pub type SecretCommand<'a> = &'a dyn Fn(&[String]) -> Result<String, String>;

/// Where a config comes from.
pub struct Sources<'a> {
    /// The file and its text; none = built-in defaults alone.
    pub file: Option<(&'a Path, &'a str)>,
    /// The folder that relative paths start from; absolute, for programs run in folders of their own.
    pub base: &'a Path,
    /// The environment.
    pub env: &'a BTreeMap<String, String>,
    /// `--set KEY=VALUE`.
    pub set: &'a [String],
    /// Every key that there is, the backends' and transports' included.
    pub keys: &'a [Key],
    /// The words that `backend` may be.
    pub backends: &'a [&'static str],
    /// The variables of older systems.
    pub old_names: &'a [compat::OldName],
    /// The words that `transports` may hold.
    pub transports: &'a [&'static str],
    /// Runs the command of a secret; `None` = secrets are not wanted now.
    pub secret_command: Option<SecretCommand<'a>>,
}

/// A mistake in the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is: `vmdeck.toml:12`, `--set`, `VMDECK_X`.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.text)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Reads everything; the error lists every mistake.
pub fn load(sources: &Sources<'_>) -> Result<(Setup, Values)> {
    let mut problems = Vec::new();
    let mut tree = match sources.file {
        Some((path, text)) => tree::parse(path, text).unwrap_or_else(|problem| {
            problems.push(problem);
            tree::Node::empty()
        }),
        None => tree::Node::empty(),
    };
    let mut notes = Vec::new();
    let families = families(&tree, sources, &mut problems);
    compat::apply(&mut tree, sources, &families, &mut notes);
    env::apply(&mut tree, sources, &mut problems, &mut notes);
    for word in sources.set {
        tree::set(&mut tree, word).unwrap_or_else(|problem| problems.push(problem));
    }
    let checked = check::check(&tree, sources, &mut problems);
    let (mut setup, values) = build::build(checked, sources, &mut problems);
    if !problems.is_empty() {
        return Err(fault(sources, &problems));
    }
    setup.notes.extend(notes);
    Ok((setup, values))
}

/// The families of old names that are switched on, wherever that is said: variables and flags come after them.
fn families(tree: &tree::Node, sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut whole = tree.clone();
    env::apply(&mut whole, sources, &mut Vec::new(), &mut Vec::new());
    for word in sources.set {
        // A flag that is wrong is told where it is applied.
        let _ = tree::set(&mut whole, word);
    }
    compat::wanted(&whole, sources, problems)
}

fn fault(sources: &Sources<'_>, problems: &[Problem]) -> Fault {
    let name = sources.file.map_or("the config".into(), |(path, _)| format!("`{}`", path.display()));
    let list: String = problems.iter().map(|p| format!("\n  {p}")).collect();
    let count = if problems.len() == 1 { "one problem".to_owned() } else { format!("{} problems", problems.len()) };
    Fault::user(format!("cannot use {name}"))
        .because(format!("{count}{list}"))
        .hint("`vmdeck config schema` and config.example.toml list every key")
}

#[cfg(test)]
mod tests;
