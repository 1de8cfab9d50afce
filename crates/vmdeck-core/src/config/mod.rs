//! Text to a checked [`Setup`]: file, environment and flags, merged, checked all at once.
//!
//! The config never names a backend or transport: their keys come in from outside as tables.

mod build;
mod build_action;
mod build_host;
mod build_image;
mod build_matrix;
mod build_results;
mod build_roles;
mod build_suite;
mod build_trouble;
mod case_defaults;
mod case_values;
mod catalogue;
mod check;
mod compat;
mod digest;
mod env;
pub mod example;
pub mod keys;
pub mod old_name;
mod problem;
pub mod schema;
mod script_notes;
pub mod show;
mod sources;
mod suite_keys;
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
        // The line ends of an editor on Windows: a carriage return must not reach a shell.
        Some((path, text)) => tree::parse(path, &text.replace("\r\n", "\n")).unwrap_or_else(|problem| {
            problems.push(problem);
            tree::Node::empty()
        }),
        None => tree::Node::empty(),
    };
    let mut notes = Vec::new();
    let families = families(&tree, sources, &mut problems);
    compat::apply(&mut tree, sources, &families, &mut notes);
    env::apply(&mut tree, sources, &mut problems, &mut notes);
    let before = tree.clone();
    for word in sources.set {
        tree::set(&mut tree, word).unwrap_or_else(|problem| problems.push(problem));
    }
    unknown_names(&before, &tree, &mut problems);
    let checked = check::check(&tree, sources, &mut problems);
    let (mut setup, values) = build::build(checked, sources, &mut problems);
    if !problems.is_empty() {
        return Err(fault(sources, &problems));
    }
    setup.notes.extend(notes);
    setup.digest = digest::of(&values, &setup.folder);
    Ok((setup, values))
}

/// Finds names that only a flag has: a guest is made by a flag only with its backend, a suite never.
fn unknown_names(before: &tree::Node, tree: &tree::Node, problems: &mut Vec<Problem>) {
    for section in ["guests", "suites"] {
        let known = before.get(section).map(tree::Node::entries).unwrap_or_default();
        for (name, node) in tree.get(section).map(tree::Node::entries).unwrap_or_default() {
            let is_new = !known.iter().any(|(other, _)| other == name);
            if is_new && (section == "suites" || node.get("backend").is_none()) {
                let list: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
                let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
                let what = section.trim_end_matches('s');
                let make = format!("--set guests.{}.backend=... makes a new one", tree::shown(name));
                problems.push(Problem {
                    place: node.origin.to_string(),
                    key: format!("{section}.{}", tree::shown(name)),
                    text: format!("there is no {what} `{name}` (known: {list})"),
                    hint: (section == "guests").then_some(make),
                });
            }
        }
    }
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
