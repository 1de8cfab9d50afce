//! What the compiler and the lints cannot say: who may import whom within a crate, that no files import each other in a
//! circle, how long a file may be, and that the documents say what the program does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A layer of `vmdeck-core` and what it may import. What is not listed is forbidden, so a circle cannot be written down.
const CORE: &[(&str, &[&str])] = &[
    ("command", &[]),
    ("host", &[]),
    ("config", &[]),
    ("report", &[]),
    ("backend", &["command", "host"]),
    ("transport", &["command", "host", "backend"]),
    ("engine", &["command", "host", "backend", "transport"]),
];

/// Crates and the only ones of ours that each may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("vmdeck-model", &[]),
    ("vmdeck-core", &["vmdeck-model"]),
    ("vmdeck-tui", &["vmdeck-model"]),
    ("testkit", &["vmdeck-model", "vmdeck-tui"]),
];

/// Lines of code in a file, its tests and comments not counted.
const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).expect("readable").map(|e| e.expect("entry").path()) {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Every crate's source folder.
fn crates() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = CRATES.iter().map(|(name, _)| root().join("crates").join(name).join("src")).collect();
    out.push(root().join("src"));
    out
}

/// Code without comments and without the test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let text = text.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap_or_default();
    let bare = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

/// A crate's files by their module paths, without tests.
struct Modules {
    files: BTreeMap<Vec<String>, (String, String)>,
}

impl Modules {
    fn of(src: &Path) -> Self {
        let mut paths = Vec::new();
        sources(src, &mut paths);
        let mut files = BTreeMap::new();
        for path in paths {
            let name = path.strip_prefix(src).expect("below src").to_string_lossy().into_owned();
            if name.ends_with("tests.rs") || name == "fixture.rs" {
                continue;
            }
            let module: Vec<String> = name
                .trim_end_matches(".rs")
                .split('/')
                .filter(|part| !matches!(*part, "mod" | "lib"))
                .map(str::to_owned)
                .collect();
            files.insert(module, (name, code(&fs::read_to_string(&path).expect("text"))));
        }
        Self { files }
    }

    /// The file that a path leads to: the longest part of it that is a module.
    fn resolve(&self, path: &[String]) -> Option<&Vec<String>> {
        (0..=path.len()).rev().find_map(|n| self.files.get_key_value(&path[..n]).map(|(key, _)| key))
    }

    /// The modules that a file takes something from, by every path in it that begins with `crate` or `super`, and by the
    /// names of its own child modules.
    fn imports(&self, module: &[String]) -> BTreeSet<Vec<String>> {
        let code = &self.files[module].1;
        let mut out = BTreeSet::new();
        for (at, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') && !code[..at].ends_with("super::") {
                continue;
            }
            if code[..at].ends_with("super::") {
                continue;
            }
            let mut start: Vec<String> = if word == "crate::" { Vec::new() } else { parent(module) };
            let mut rest = &code[at + word.len()..];
            while let Some(more) = rest.strip_prefix("super::") {
                start.pop();
                rest = more;
            }
            for leaf in leaves(rest) {
                let full = [start.clone(), leaf].concat();
                out.extend(self.resolve(&full).cloned());
            }
        }
        for child in self.files.keys().filter(|key| key.len() == module.len() + 1 && key.starts_with(module)) {
            let name = child.last().expect("a name");
            let uses = |(at, _): (usize, &str)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            };
            if code.match_indices(&format!("{name}::")).any(uses) {
                out.insert(child.clone());
            }
        }
        out.remove(module);
        out
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// The paths that a path with groups stands for: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn leaves(text: &str) -> Vec<Vec<String>> {
    let ident: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let after = &text[ident.len()..];
    if let Some(body) = after.strip_prefix('{').or_else(|| text.strip_prefix('{')) {
        return group(body);
    }
    let inner = match after.strip_prefix("::") {
        Some(rest) => leaves(rest),
        None => vec![Vec::new()],
    };
    inner.into_iter().map(|tail| [vec![ident.clone()], tail].concat()).collect()
}

fn group(body: &str) -> Vec<Vec<String>> {
    let (mut depth, mut from, mut out) = (0, 0, Vec::new());
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                out.extend(leaves(body[from..at].trim_start()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                out.extend(leaves(body[from..at].trim_start()));
                from = at + 1;
            }
            _ => {}
        }
    }
    out
}

#[test]
fn the_layers_of_the_core() {
    let core = Modules::of(&root().join("crates/vmdeck-core/src"));
    let mut faults = Vec::new();
    for (module, (name, _)) in core.files.iter().filter(|(module, _)| !module.is_empty()) {
        let layer = module[0].as_str();
        let Some((_, allowed)) = CORE.iter().find(|(l, _)| *l == layer) else {
            faults.push(format!("{name}: `{layer}` is no layer"));
            continue;
        };
        for to in core.imports(module) {
            let Some(to) = to.first() else { continue };
            if to != layer && !allowed.contains(&to.as_str()) {
                faults.push(format!("{name}: `{layer}` must not import `{to}`"));
            }
        }
    }
    assert!(core.files.len() > 50, "the sources were found");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_crate_depends_only_on_those_below_it() {
    for (name, allowed) in CRATES {
        let text = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("manifest");
        let ours = text.lines().filter_map(|l| l.split(['.', ' ']).next()).filter(|w| w.starts_with("vmdeck"));
        let wrong: Vec<&str> = ours.filter(|w| !allowed.contains(w) && *w != *name).collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
}

#[test]
fn files_are_short_and_say_what_lives_in_them() {
    let mut faults = Vec::new();
    for src in crates() {
        let mut paths = Vec::new();
        sources(&src, &mut paths);
        for path in paths.iter().filter(|p| p.file_name().is_some_and(|n| n != "tests.rs")) {
            let text = fs::read_to_string(path).expect("text");
            let lines = code(&text).lines().filter(|l| !l.trim().is_empty()).count();
            let name = path.strip_prefix(root()).expect("below the root").display();
            if lines > MAX_LINES {
                faults.push(format!("{name}: {lines} lines of code, at most {MAX_LINES}; split it by purpose"));
            }
            if !text.starts_with("//!") {
                faults.push(format!("{name}: no module doc; say in one line what lives here"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_state_picture_is_the_table() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let picture = vmdeck_model::lifecycle::mermaid();
    assert!(text.contains(&format!("```mermaid\n{picture}```")), "ARCHITECTURE.md must hold exactly:\n{picture}");
}

#[test]
fn the_map_names_every_layer_and_crate() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for name in CORE.iter().map(|(layer, _)| layer).chain(CRATES.iter().map(|(name, _)| name)) {
        assert!(text.contains(&format!("`{name}`")), "{name} is not in the map");
    }
}

#[test]
fn the_readme_lists_the_exit_codes() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md");
    for (_, code, meaning) in vmdeck_model::exit::Exit::ALL {
        assert!(text.contains(&format!("| `{code}` | {meaning} |")), "README's table lacks {code}: {meaning}");
    }
}
