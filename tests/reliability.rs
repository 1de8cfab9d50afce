//! docs/reliability.md says what answers each fault and which tests prove it: here, that all of them are there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// How many faults there are.
const FAULTS: usize = 138;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every source file below a folder.
fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            out.push(path);
        }
    }
}

/// Returns the names of all tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "crates"] {
        sources(&root().join(folder), &mut files);
    }
    let mut out = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("source");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let rest = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
            let Some(name) = rest.and_then(|rest| rest.split('(').next()) else { continue };
            // What stands before it says whether it is one; those of `proptest!` and of macros have it, too.
            let before = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
            if before.clone().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
                || in_proptest(&lines, at)
            {
                out.insert(name.to_owned());
            }
        }
    }
    out
}

fn in_proptest(lines: &[&str], at: usize) -> bool {
    lines[..at].iter().any(|line| line.starts_with("proptest!"))
}

/// Returns the cells of the rows of tables whose last column names tests: the row's first cell, and its last one.
fn rows(text: &str) -> Vec<(String, String)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim_matches([' ', '|']).to_owned()).collect()
    };
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---")).map(cells);
    rows.filter(|row| row.len() == 4).map(|row| (row[0].clone(), row[3].clone())).collect()
}

#[test]
fn each_fault_has_a_row_and_each_test_that_is_named_is_there() {
    let text = fs::read_to_string(root().join("docs/reliability.md")).expect("page");
    let known = tests();
    assert!(known.len() > 500, "the tests were found");
    let faults: Vec<(String, String)> = rows(&text)
        .into_iter()
        .filter(|(first, _)| first.strip_prefix('F').is_some_and(|number| number.parse::<usize>().is_ok()))
        .collect();
    let numbers: Vec<usize> = faults.iter().map(|(first, _)| first[1..].parse().expect("number")).collect();
    assert_eq!(numbers, (1..=FAULTS).collect::<Vec<_>>(), "each once, in order");
    let without = ["by design", "none", "does not apply"];
    let mut wrong = Vec::new();
    for (number, tests) in &faults {
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        wrong.extend(
            named.iter().filter(|name| !known.contains(**name)).map(|name| format!("{number}: no test `{name}`")),
        );
        if named.is_empty() && !without.contains(&tests.as_str()) {
            wrong.push(format!("{number}: neither a test nor a word why: {tests}"));
        }
    }
    // Besides the numbered ones, every name with underscores in the page is a test, or a key or variable.
    let names = text.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() >= 3);
    wrong.extend(names.filter(|name| !known.contains(*name)).map(|name| format!("no test `{name}`")));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
