//! A tree of fmf files: what a folder says, its children take over, and only what has no children of its own is a test or a plan.
//!
//! Facts: fmf's documentation. The root is the folder with `.fmf/`; `main.fmf` speaks for its folder, `x.fmf` for the child `x`, and a key
//! that begins with `/` is a child; `key+` adds to what came from above, `key+<` before it, `key-` takes away.

use super::yaml;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use vmdeck_model::error::Result;

/// Folders below one another; more is a circle of links.
const DEPTH_MAX: usize = 24;

/// One test or plan, with everything that it has from above.
pub(super) struct Leaf {
    /// Its name: `/plans/smoke`.
    pub name: String,
    pub data: Value,
    /// The folder of the file that names it, from the root: `tests/pack`.
    pub folder: String,
}

#[derive(Default)]
struct FmfNode {
    data: Map<String, Value>,
    children: BTreeMap<String, FmfNode>,
    folder: String,
}

/// Returns the root of the tree that a path is in.
pub(super) fn root(path: &Path) -> PathBuf {
    let start = if path.is_dir() {
        path
    } else {
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    };
    let absolute = std::path::absolute(start).unwrap_or_else(|_| start.to_owned());
    absolute.ancestors().find(|folder| folder.join(".fmf").is_dir()).map_or(absolute.clone(), Path::to_owned)
}

/// Returns every leaf of the tree, by its name.
pub(super) fn leaves(root: &Path) -> Result<Vec<Leaf>> {
    let mut tree = FmfNode::default();
    grow(&mut tree, root, "", 0)?;
    let mut out = Vec::new();
    gather(&tree, "", &Map::new(), &mut out);
    Ok(out)
}

/// Reads a folder into its node.
fn grow(node: &mut FmfNode, root: &Path, folder: &str, depth: usize) -> Result<()> {
    let here = root.join(folder);
    let mut names: Vec<(String, bool)> = std::fs::read_dir(&here)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir())))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    // The folder's own file first, then files, then folders.
    names.sort_by_key(|(name, is_folder)| (name != "main.fmf", *is_folder, name.clone()));
    for (name, is_folder) in names {
        let inner = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if is_folder {
            if depth < DEPTH_MAX && holds_fmf(&root.join(&inner), depth) {
                grow(node.children.entry(name).or_default(), root, &inner, depth + 1)?;
            }
        } else if let Some(stem) = name.strip_suffix(".fmf") {
            let value = yaml::read(&here.join(&name))?;
            let target = if stem == "main" { &mut *node } else { node.children.entry(stem.to_owned()).or_default() };
            put(target, &value, folder);
        }
    }
    Ok(())
}

/// Returns whether a folder has a file of fmf somewhere below.
fn holds_fmf(folder: &Path, depth: usize) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        path.extension().is_some_and(|end| end == "fmf")
            || (!is_hidden && depth < DEPTH_MAX && path.is_dir() && !path.is_symlink() && holds_fmf(&path, depth + 1))
    })
}

fn put(node: &mut FmfNode, value: &Value, folder: &str) {
    folder.clone_into(&mut node.folder);
    for (key, value) in yaml::entries(value) {
        match key.strip_prefix('/').filter(|path| !path.is_empty()) {
            Some(path) => {
                let child =
                    path.split('/').fold(&mut *node, |node, part| node.children.entry(part.to_owned()).or_default());
                put(child, value, folder);
            }
            None => {
                node.data.insert(key.clone(), value.clone());
            }
        }
    }
}

fn gather(node: &FmfNode, name: &str, above: &Map<String, Value>, out: &mut Vec<Leaf>) {
    let is_alone = node.data.get("/").is_some_and(|own| own["inherit"] == false);
    let mut data = if is_alone { Map::new() } else { above.clone() };
    for (key, value) in node.data.iter().filter(|(key, _)| *key != "/") {
        merge(&mut data, key, value);
    }
    let is_selected = node.data.get("/").is_some_and(|own| own["select"] == true);
    if (node.children.is_empty() || is_selected) && !name.is_empty() {
        out.push(Leaf { name: name.to_owned(), data: Value::Object(data.clone()), folder: node.folder.clone() });
    }
    for (child, node) in &node.children {
        gather(node, &format!("{name}/{child}"), &data, out);
    }
}

/// Sets a key, or adds to it, or takes from it.
fn merge(data: &mut Map<String, Value>, key: &str, value: &Value) {
    let (name, add): (&str, Option<bool>) = match (key.strip_suffix("+<"), key.strip_suffix('+'), key.strip_suffix('-'))
    {
        (Some(name), ..) => (name, Some(true)),
        (_, Some(name), _) => (name, Some(false)),
        (_, _, Some(name)) => {
            if let Some(Value::Array(list)) = data.get_mut(name) {
                list.retain(|item| !yaml::list(value).contains(&item));
            }
            return;
        }
        _ => (key, None),
    };
    let old = data.get(name).cloned();
    let new = match (add, old, value) {
        (Some(first), Some(Value::String(old)), Value::String(text)) => {
            Value::String(if first { format!("{text}{old}") } else { format!("{old}{text}") })
        }
        (Some(first), Some(Value::Array(old)), value) => {
            let more: Vec<Value> = yaml::list(value).into_iter().cloned().collect();
            Value::Array(if first { [more, old].concat() } else { [old, more].concat() })
        }
        (Some(_), Some(Value::Object(mut old)), Value::Object(more)) => {
            old.extend(more.clone());
            Value::Object(old)
        }
        _ => value.clone(),
    };
    data.insert(name.to_owned(), new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn children_take_over_add_and_take_away() {
        let home = tempfile::tempdir().expect("tempdir");
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().expect("folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write(".fmf/version", "1\n");
        write("main.fmf", "test: ./run.sh\ntag: [a, b]\nduration: 5m\nenv: {X: 1}\n");
        write("t/main.fmf", "tag+: [c]\n/one:\n  tag-: [a]\n  duration+: '*2'\n/deep/er:\n  env+: {Y: 2}\n");
        write("t/two.fmf", "test+<: 'nice '\n");
        write("t/alone/main.fmf", "/:\n  inherit: false\nsummary: alone\n");
        write("docs/readme.md", "x");
        let found: Vec<(String, String, Value)> =
            leaves(home.path()).expect("read").into_iter().map(|leaf| (leaf.name, leaf.folder, leaf.data)).collect();
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["/t/alone", "/t/deep/er", "/t/one", "/t/two"]);
        assert_eq!(found[0].2, json!({ "summary": "alone" }));
        assert_eq!(found[1].2["env"], json!({ "X": "1", "Y": "2" }));
        assert_eq!((&found[2].2["tag"], &found[2].2["duration"]), (&json!(["b", "c"]), &json!("5m*2")));
        assert_eq!((&found[3].2["test"], found[3].1.as_str()), (&json!("nice ./run.sh"), "t"));
        assert_eq!(root(&home.path().join("t/two.fmf")), home.path());
        // A folder that leads to itself ends.
        std::os::unix::fs::symlink(home.path(), home.path().join("t/loop")).expect("link");
        leaves(home.path()).expect("an end");
    }
}
