//! `VMDECK_<KEY>`: any key from the environment.
//!
//! The name is the key in capitals with `_` for everything else: `guests.deb.memory` is `VMDECK_GUESTS_DEB_MEMORY`.

use super::{
    Problem, Sources,
    tree::{self, Node, Origin},
};

const PREFIX: &str = "VMDECK_";

pub(super) fn apply(tree: &mut Node, sources: &Sources<'_>, problems: &mut Vec<Problem>, notes: &mut Vec<String>) {
    let is_old = |name: &str| sources.old_names.iter().any(|old| old.name == name);
    let given: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(PREFIX) && !is_old(name)).collect();
    if given.is_empty() {
        return;
    }
    let known = paths(tree, sources);
    for (name, value) in given {
        let mut fitting = known.iter().filter(|path| variable(path) == *name);
        match (fitting.next(), fitting.next()) {
            (Some(path), None) => {
                let parts: Vec<&str> = path.iter().map(String::as_str).collect();
                tree.put(&parts, tree::loose(value, &Origin::Env(name.clone())));
            }
            (Some(one), Some(other)) => problems.push(Problem {
                place: name.clone(),
                key: String::new(),
                text: format!("it could be `{}` or `{}`", shown(one), shown(other)),
                hint: Some("use --set with the full key".into()),
            }),
            (None, _) => notes.push(format!("the variable {name} sets no key of this config")),
        }
    }
}

fn variable(path: &[String]) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{PREFIX}{}", path.join(".").chars().map(letter).collect::<String>())
}

fn shown(path: &[String]) -> String {
    path.iter().map(|part| tree::shown(part)).collect::<Vec<_>>().join(".")
}

/// Returns every full path that the tables and the names in the file allow.
fn paths(tree: &Node, sources: &Sources<'_>) -> Vec<Vec<String>> {
    let split = |key: &str| key.split('.').map(str::to_owned).collect::<Vec<_>>();
    let mut out = Vec::new();
    for key in sources.keys.iter().filter(|k| !k.path.contains("[]")) {
        let Some((section, rest)) = key.path.split_once(".*.") else {
            out.push(split(key.path));
            continue;
        };
        for (name, _) in tree.get(section).map(Node::entries).unwrap_or_default() {
            out.push([vec![section.to_owned(), name.clone()], split(rest)].concat());
        }
        if section == "guests" {
            out.push([vec!["defaults".to_owned()], split(rest)].concat());
        }
    }
    out
}
