//! Text to a checked [`Setup`]: file, environment and flags, merged, checked all at once.
//!
//! The config never names a backend or transport: their keys come in from outside as tables.

mod build;
mod check;
mod compat;
mod env;
pub mod example;
pub mod keys;
pub mod old_name;
mod problem;
pub mod schema;
pub mod show;
mod sources;
pub mod tree;

use vmdeck_model::{
    error::{Fault, Result},
    plan::Setup,
};

pub use build::Values;
pub use problem::Problem;
pub use sources::{SecretCommand, Sources};

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

/// Returns the families of old names that are switched on, wherever that is said: variables and flags come after them.
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
