//! What the compiler and the lints cannot say: who may import whom within a crate, that no files import each other in a
//! circle, how long a file may be, and that the documents say what the program does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A layer of `vmdeck-core` and what it may import. What is not listed is forbidden, so a circle cannot be written down.
const CORE: &[(&str, &[&str])] = &[
    ("command", &["host"]),
    ("host", &[]),
    ("config", &["trouble"]),
    ("trouble", &[]),
    ("coverage", &[]),
    ("report", &[]),
    ("history", &[]),
    ("merge", &["host", "report"]),
    ("context", &["host"]),
    ("assets", &["host", "context"]),
    ("backend", &["command", "host", "context", "assets"]),
    ("transport", &["command", "host", "context", "backend"]),
    ("engine", &["command", "host", "context", "assets", "backend", "transport", "trouble", "coverage"]),
    ("fuzz", &["command", "config", "backend", "transport", "engine"]),
];

/// Crates and the only ones of ours that each may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("vmdeck-files", &[]),
    ("vmdeck-guest", &[]),
    ("vmdeck-model", &[]),
    ("vmdeck-results", &["vmdeck-files", "vmdeck-model"]),
    ("vmdeck-core", &["vmdeck-files", "vmdeck-guest", "vmdeck-model", "vmdeck-results"]),
    ("vmdeck-tui", &["vmdeck-files", "vmdeck-model"]),
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

/// Returns every crate's source folder.
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

    /// Returns the file that a path leads to: the longest part of it that is a module, or the child from which that module takes the
    /// name to show it as its own.
    fn resolve(&self, path: &[String]) -> Option<&Vec<String>> {
        let (length, module) =
            (0..=path.len()).rev().find_map(|n| Some((n, self.files.get_key_value(&path[..n])?.0)))?;
        let origin = path.get(length).and_then(|name| self.shown(module).remove(name));
        match origin {
            Some(origin) if origin != *module => self.resolve(&origin),
            _ => Some(module),
        }
    }

    /// Returns the names that a module shows as its own, each with its full path.
    fn shown(&self, module: &[String]) -> BTreeMap<String, Vec<String>> {
        let mut out = BTreeMap::new();
        for statement in self.files[module].1.split(';') {
            let Some(body) = shown_body(statement) else { continue };
            for leaf in leaves(body) {
                let child = [module, &leaf[..1]].concat();
                if self.files.contains_key(&child) {
                    out.insert(leaf[leaf.len() - 1].clone(), [module, &leaf[..]].concat());
                }
            }
        }
        out
    }

    /// Files that import each other, directly or by others.
    fn circles(&self) -> Vec<Vec<String>> {
        let imports: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> =
            self.files.keys().map(|module| (module, self.imports(module))).collect();
        let reach = |from: &Vec<String>| {
            let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(next) = todo.pop() {
                todo.extend(imports[&next].iter().filter(|to| seen.insert((*to).clone())).cloned());
            }
            seen
        };
        let all: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = imports.keys().map(|m| (*m, reach(m))).collect();
        let mut out: BTreeSet<Vec<String>> = BTreeSet::new();
        for (module, reached) in &all {
            let circle = all.iter().filter(|(other, back)| reached.contains(**other) && back.contains(*module));
            let names: Vec<String> = circle.map(|(other, _)| self.files[*other].0.clone()).collect();
            if !names.is_empty() {
                out.insert(names);
            }
        }
        out.into_iter().collect()
    }

    /// Returns the modules that a file takes something from, by every path in it that begins with `crate` or `super`, and by the
    /// names of its own child modules.
    fn imports(&self, module: &[String]) -> BTreeSet<Vec<String>> {
        let code = &self.files[module].1;
        let mut out = BTreeSet::new();
        for (at, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') && !code[..at].ends_with("super::") {
                continue;
            }
            // A visibility takes nothing.
            if code[..at].ends_with("super::") || code[..at].ends_with("(in ") {
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
        // What a module shows as its own is no use of it.
        let code: String = code.split_inclusive(';').filter(|statement| shown_body(statement).is_none()).collect();
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

/// Returns the path of a `pub use` statement, without what stands before it.
fn shown_body(statement: &str) -> Option<&str> {
    let at = statement.rfind("use ")?;
    let before = statement[..at].trim_end().lines().next_back().unwrap_or_default().trim();
    before.starts_with("pub").then(|| statement[at + 4..].trim_end_matches(';'))
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// Returns the paths that a path with groups stands for: `a::{b, c::D}` is `a::b` and `a::c::D`.
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
                let last = body[from..at].trim();
                out.extend((!last.is_empty()).then(|| leaves(last)).into_iter().flatten());
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
fn no_file_imports_in_a_circle() {
    let circles: Vec<String> = crates()
        .iter()
        .flat_map(|src| {
            Modules::of(src).circles().into_iter().map(|circle| format!("{}: {}", src.display(), circle.join(", ")))
        })
        .collect();
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

#[test]
fn no_type_name_stands_for_two_things() {
    let mut files = Vec::new();
    for src in crates() {
        sources(&src, &mut files);
    }
    sources(&root().join("tests"), &mut files);
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files {
        for line in fs::read_to_string(&path).expect("text").lines() {
            // A type of a trait's implementation is indented, and means that trait's.
            let bare =
                if line.starts_with(' ') && line.trim_start().starts_with("type ") { "" } else { line.trim_start() };
            let bare = bare.strip_prefix("pub").map_or(bare, |rest| match rest.strip_prefix('(') {
                Some(scoped) => scoped.split_once(") ").map_or("", |(_, rest)| rest),
                None => rest.trim_start(),
            });
            let named =
                ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|word| bare.strip_prefix(word));
            let name: String =
                named.unwrap_or_default().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                seen.entry(name).or_default().push(path.display().to_string());
            }
        }
    }
    assert!(seen.len() > 300, "the types were found");
    let twice: Vec<String> =
        seen.iter().filter(|(_, at)| at.len() > 1).map(|(name, at)| format!("{name}: {}", at.join(", "))).collect();
    assert!(twice.is_empty(), "\n{}\n", twice.join("\n"));
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

/// Files that may open and read files without `vmdeck-files`, and why nobody else can have put something there.
const READERS: &[(&str, &str)] = &[
    ("crates/vmdeck-files/src/lib.rs", "this is the place"),
    ("crates/vmdeck-core/src/host/info.rs", "/proc and /etc are root's"),
    ("crates/vmdeck-core/src/host/read_only.rs", "/proc is the kernel's"),
    ("crates/vmdeck-core/src/assets/own_program.rs", "/proc is the kernel's"),
    ("crates/vmdeck-guest/src/init.rs", "the initial RAM disk is ours"),
    ("crates/vmdeck-guest/src/network.rs", "/sys is the kernel's"),
    ("crates/vmdeck-guest/src/port.rs", "/sys is the kernel's"),
    ("crates/vmdeck-guest/src/users.rs", "/etc is root's"),
    ("crates/vmdeck-core/src/backend/qemu/findings.rs", "/sys is the kernel's"),
    ("crates/vmdeck-core/src/engine/journal.rs", "the private folder itself, for its sync"),
    ("crates/vmdeck-core/src/transport/unpack.rs", "a file that it has just made"),
];

#[test]
fn what_others_may_have_put_somewhere_is_opened_in_one_place() {
    let words = ["fs::read(", "fs::read_to_string(", " File::open(", "fs::File::open(", "(File::open("];
    let mut faults = Vec::new();
    for src in crates().iter().filter(|src| !src.ends_with("testkit/src")) {
        let mut paths = Vec::new();
        sources(src, &mut paths);
        for path in paths.iter().filter(|p| p.file_name().is_some_and(|n| n != "tests.rs" && n != "fixture.rs")) {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            let text = code(&fs::read_to_string(path).expect("text"));
            if words.iter().any(|word| text.contains(word)) && !READERS.iter().any(|(known, _)| *known == name) {
                faults.push(format!("{name}: use vmdeck-files, which does not wait for a named pipe and has a limit"));
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
    for (_, code, meaning) in vmdeck_model::exit::RunExit::ALL {
        assert!(text.contains(&format!("| `{code}` | {meaning} |")), "README's table lacks {code}: {meaning}");
    }
}

/// The getters of `Options` and the kinds of keys that each can find.
const GETTERS: &[(&str, &[&str])] = &[
    ("text", &["Text", "Program", "Choice", "KeyOrPath"]),
    ("path", &["Path", "KeyOrPath"]),
    ("flag", &["Bool"]),
    ("int", &["Int"]),
    ("duration", &["Duration"]),
    ("texts", &["Texts"]),
    ("secret", &["Secret"]),
];

#[test]
fn every_key_that_is_read_is_a_key_of_the_config_with_that_kind() {
    use vmdeck_core::{backend::BACKENDS, config::keys, transport::TRANSPORTS};
    let tables = BACKENDS.iter().map(|row| row.keys).chain(TRANSPORTS.iter().map(|row| row.keys));
    let all = tables.flatten().chain(keys::core()).chain(vmdeck_tui::KEYS).chain(vmdeck_tui::keymap::KEYS);
    let keyed: Vec<_> = all.collect();
    let known: Vec<(String, String)> = keyed
        .iter()
        .map(|key| {
            (
                format!(".{}", key.path),
                format!("{:?}", key.kind).chars().take_while(char::is_ascii_alphanumeric).collect(),
            )
        })
        .collect();
    let mut files = Vec::new();
    crates().iter().filter(|src| !src.ends_with("testkit/src")).for_each(|src| sources(src, &mut files));
    let with_default = |name: &str| keyed.iter().any(|key| key.path.ends_with(name) && key.default.is_some());
    let (mut read, mut wrong) = (0, Vec::new());
    for path in files {
        let text = code(&fs::read_to_string(&path).expect("text"));
        for (getter, kinds) in GETTERS {
            for (at, _) in text.match_indices(&format!(".{getter}(\"")) {
                let name: String = text[at + getter.len() + 3..].chars().take_while(|c| *c != '"').collect();
                read += 1;
                if !known
                    .iter()
                    .any(|(known, kind)| known.ends_with(&format!(".{name}")) && kinds.contains(&kind.as_str()))
                {
                    wrong.push(format!("{}: no key `{name}` for `{getter}`", path.display()));
                }
                // The loader has set it already: a second default beside the reader could only be another one.
                let rest = text[at..].split_once(')').map_or("", |(_, rest)| rest).trim_start();
                if with_default(&format!(".{name}")) && rest.starts_with(".unwrap_or(") {
                    wrong.push(format!("{}: a second default of `{name}`", path.display()));
                }
            }
        }
    }
    assert!(read > 50, "the getters were found");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
