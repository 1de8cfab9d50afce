//! The tools whose lists have a test on each line, or are JSON.

use super::listed::Quote;

/// A tool with a list of tests.
pub(super) struct ListTool {
    /// The command that lists them.
    pub(super) list: &'static str,
    /// The format in which it reports what it ran, where it may have run nothing and say that all is well.
    pub(super) results: Option<&'static str>,
    /// Reads the names in a list.
    pub(super) read: fn(&str) -> Result<Vec<String>, String>,
    /// Returns the script that runs the test of this name.
    pub(super) run: fn(&str, Quote<'_>) -> String,
}

/// What stands between a package and a test of it, and is in neither.
const APART: char = '/';

/// Returns the tool of a word.
pub(super) fn of(word: &str) -> Option<ListTool> {
    Some(match word {
        "pytest" => ListTool {
            list: "pytest --collect-only -q",
            results: Some("pytest"),
            read: |text| {
                Ok(own_lines(text)
                    .take_while(|line| !line.is_empty())
                    .filter(|line| line.contains("::"))
                    .map(str::to_owned)
                    .collect())
            },
            run: |name, quote| format!("pytest -v {}", quote(name)),
        },
        "go" => ListTool {
            list: "go test -list . ./...",
            results: Some("gotest"),
            read: go,
            run: |name, quote| {
                let (package, test) = name.rsplit_once(APART).unwrap_or((".", name));
                format!("go test -count=1 -v -run {} {}", quote(&format!("^{test}$")), quote(package))
            },
        },
        "cargo" => ListTool {
            list: "cargo test --quiet -- --list",
            results: Some("libtest"),
            read: |text| {
                let names = own_lines(text).filter_map(|line| line.strip_suffix(": test"));
                // Cargo finds no doc test by its exact name.
                Ok(names.filter(|name| !(name.contains(" - ") && name.contains("(line "))).map(str::to_owned).collect())
            },
            run: |name, quote| format!("cargo test -- --exact {}", quote(name)),
        },
        "nextest" => ListTool {
            list: "cargo nextest list --message-format json",
            // It writes to standard error, and fails where it runs nothing.
            results: None,
            read: nextest,
            run: |name, quote| {
                let (binary, test) = name.split_once(APART).unwrap_or(("", name));
                format!("cargo nextest run -E {}", quote(&format!("binary_id(={binary}) & test(={test})")))
            },
        },
        "ctest" => ListTool {
            list: "ctest -N",
            results: Some("ctest"),
            read: |text| {
                let numbered = own_lines(text)
                    .filter_map(|line| line.trim_start().strip_prefix("Test ")?.trim_start().strip_prefix('#'));
                let names = numbered.filter_map(|rest| rest.split_once(": ").map(|(_, name)| name));
                Ok(names.filter(|name| !name.ends_with(" (Disabled)")).map(str::to_owned).collect())
            },
            run: |name, quote| format!("ctest --output-on-failure -R {}", quote(&format!("^{}$", as_regex(name)))),
        },
        "bats" => ListTool {
            list: "find . -name '*.bats' -not -path '*/.*/*' | LC_ALL=C sort",
            results: Some("tap"),
            read: |text| Ok(own_lines(text).filter_map(|line| line.strip_prefix("./")).map(str::to_owned).collect()),
            run: |name, quote| format!("bats --tap {}", quote(&format!("./{name}"))),
        },
        "kselftest" => ListTool {
            list: "./run_kselftest.sh --list",
            results: Some("ktap"),
            read: |text| {
                let pairs = own_lines(text).filter_map(|line| line.split_once(':'));
                Ok(pairs.map(|(collection, test)| format!("{collection}{APART}{test}")).collect())
            },
            run: |name, quote| {
                let (collection, test) = name.split_once(APART).unwrap_or(("", name));
                format!("./run_kselftest.sh -t {}", quote(&format!("{collection}:{test}")))
            },
        },
        _ => return None,
    })
}

fn own_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.trim_end_matches('\r'))
}

/// Reads what `go test -list` writes: the tests of a package, then the package.
fn go(text: &str) -> Result<Vec<String>, String> {
    let (mut out, mut open) = (Vec::new(), Vec::new());
    for line in own_lines(text) {
        match line.split_once('\t') {
            Some((status, rest)) => {
                let package = rest.split('\t').next().unwrap_or_default();
                if status.trim() == "FAIL" {
                    return Err(format!("the package `{package}` cannot be built"));
                }
                out.extend(open.drain(..).map(|test: &str| format!("{package}{APART}{test}")));
            }
            None if ["Test", "Example", "Fuzz"].iter().any(|kind| line.starts_with(kind)) => open.push(line),
            None => {}
        }
    }
    Ok(out)
}

/// Reads nextest's list of binaries with their tests; those that are switched off are left out.
fn nextest(text: &str) -> Result<Vec<String>, String> {
    let list: serde_json::Value =
        serde_json::from_str(text.trim()).map_err(|e| format!("it is not the JSON of nextest: {e}"))?;
    let mut out = Vec::new();
    for (binary, suite) in list["rust-suites"].as_object().into_iter().flatten() {
        let tests = suite["testcases"].as_object().into_iter().flatten();
        let wanted = tests.filter(|(_, test)| test["ignored"] != true);
        out.extend(wanted.map(|(name, _)| format!("{binary}{APART}{name}")));
    }
    Ok(out)
}

/// Returns an expression that only this text matches, in the old language of `CMake`, which has no `\`.
fn as_regex(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '.' | '*' | '+' | '?' | '(' | ')' | '|' | '$' | '[' => out.extend(['[', c, ']']),
            c => out.push(c),
        }
        out
    })
}
