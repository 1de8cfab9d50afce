//! The map in ARCHITECTURE.md, enforced: who may import whom, what may appear where, how long a file may be, and that the
//! documents say what the program does.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Layer and what it may import. What is not listed is forbidden, so a cycle cannot be written down.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &["error"]),
    ("host", &["error", "model"]),
    ("config", &["error", "model"]),
    ("report", &["error", "model"]),
    ("backend", &["error", "model", "host"]),
    ("transport", &["error", "model", "host", "backend"]),
    ("engine", &["error", "model", "host", "backend", "transport"]),
    ("headless", &["error", "model", "engine", "report"]),
    ("attach", &["error", "model", "transport"]),
    ("tui", &["error", "model", "host", "engine", "headless"]),
    ("cli", &["error", "model"]),
    (
        "app",
        &[
            "error",
            "model",
            "host",
            "config",
            "report",
            "backend",
            "transport",
            "engine",
            "headless",
            "attach",
            "tui",
            "cli",
        ],
    ),
    (
        "lib",
        &[
            "app",
            "attach",
            "backend",
            "cli",
            "config",
            "engine",
            "error",
            "headless",
            "host",
            "model",
            "report",
            "transport",
            "tui",
        ],
    ),
    ("main", &[]),
];

/// Words, and the only places where they may stand.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("ratatui", &["tui/"]),
    ("crossterm", &["tui/"]),
    ("tui_logger", &["tui/"]),
    ("Command::new", &["host/process.rs", "app/settings.rs"]),
    ("println!", &[]),
    ("eprintln!", &[]),
    ("Instant::now", &["host/clock.rs", "headless.rs"]),
    ("Utc::now", &["host/clock.rs"]),
    ("unsafe ", &[]),
    ("todo!", &[]),
    ("process::exit", &[]),
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
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            out.push(path);
        }
    }
}

/// Code without comments and without the test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let bare = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

/// The first segment of every `crate::…`, groups included.
fn imports(code: &str) -> BTreeSet<String> {
    let ident = |s: &str| s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        let rest = &code[at + word.len()..];
        let Some(body) = rest.strip_prefix('{') else {
            out.insert(ident(rest));
            continue;
        };
        let (mut depth, mut head) = (0, true);
        for (i, c) in body.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    head = true;
                    continue;
                }
                _ => {}
            }
            if head && !c.is_whitespace() {
                out.insert(ident(&body[i..]));
                head = false;
            }
        }
    }
    out
}

#[test]
fn layers_sizes_and_reserved_words() {
    let src = root().join("src");
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    sources(&src, &mut files);
    assert!(files.len() > 50, "the sources were found");
    for path in &files {
        let name = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        let layer = name.split('/').next().expect("part").trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(path).expect("text");
        let code = code(&text);
        let lines = code.lines().filter(|l| !l.trim().is_empty()).count();
        if lines > MAX_LINES {
            faults.push(format!("{name}: {lines} lines of code, at most {MAX_LINES}; split it by purpose"));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{name}: no module doc; say in one line what lives here"));
        }
        match MAY_IMPORT.iter().find(|(l, _)| *l == layer) {
            None => faults.push(format!("{name}: `{layer}` is no layer")),
            Some((_, allowed)) => {
                for to in imports(&code) {
                    let is_layer = MAY_IMPORT.iter().any(|(l, _)| *l == to);
                    if to != layer && is_layer && !allowed.contains(&to.as_str()) {
                        faults.push(format!("{name}: `{layer}` must not import `{to}`"));
                    }
                }
            }
        }
        for (word, homes) in ONLY_IN {
            if code.contains(word) && !homes.iter().any(|home| name.starts_with(home)) {
                faults.push(format!("{name}: `{word}` may stand only in {homes:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_state_picture_is_the_table() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let picture = vmdeck::model::lifecycle::mermaid();
    assert!(text.contains(&format!("```mermaid\n{picture}```")), "ARCHITECTURE.md must hold exactly:\n{picture}");
}

#[test]
fn the_map_names_every_layer_and_folder() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (layer, _) in MAY_IMPORT.iter().filter(|(l, _)| !matches!(*l, "lib" | "main")) {
        assert!(text.contains(&format!("`{layer}`")), "{layer} is not in the map");
    }
}

#[test]
fn the_readme_lists_the_exit_codes() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md");
    for (_, code, meaning) in vmdeck::model::exit::Exit::ALL {
        assert!(text.contains(&format!("| `{code}` | {meaning} |")), "README's table lacks {code}: {meaning}");
    }
}
