//! What kind of project a folder holds: how it is known, how it is tested, and what a guest needs for that.

use clap::ValueEnum;
use std::path::Path;

/// A kind of project.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// A Makefile with `check` or `test`.
    Make,
    /// A Rust crate or workspace.
    Rust,
    /// A Go module.
    Go,
    /// A package of Node.js.
    Node,
    /// A Python project.
    Python,
    /// A tree of the Linux kernel.
    Kernel,
    /// Nothing that is known: a first case that only shows that the guest works.
    Plain,
}

/// How a kind of project is tested.
pub(super) struct ProjectTest {
    /// The command.
    pub command: String,
    /// The program without which it cannot run.
    pub needs: &'static str,
    /// Debian's packages for it.
    pub packages: &'static [&'static str],
}

impl Template {
    /// Returns the kind of project in a folder.
    pub(super) fn of(folder: &Path) -> Self {
        let has = |name: &str| folder.join(name).exists();
        match () {
            () if has("Kconfig") && has("arch") && has("init") && has("Kbuild") => Template::Kernel,
            () if make_target(folder).is_some() => Template::Make,
            () if has("Cargo.toml") => Template::Rust,
            () if has("go.mod") => Template::Go,
            () if has("package.json") => Template::Node,
            () if has("pyproject.toml") || has("setup.py") => Template::Python,
            () => Template::Plain,
        }
    }

    /// Returns how a project of this kind is tested; `None` where only its people know.
    pub(super) fn test(self, folder: &Path) -> Option<ProjectTest> {
        let test = |command: &str, needs, packages| Some(ProjectTest { command: command.to_owned(), needs, packages });
        match self {
            Template::Make => {
                let target = make_target(folder).unwrap_or("test");
                test(&format!("make {target}"), "make", &["make", "gcc", "libc6-dev"])
            }
            // A guest on this host's root has what was fetched before, and no network.
            Template::Rust => test("cargo test", "cargo", &["cargo"]),
            Template::Go => test("go test ./...", "go", &["golang-go"]),
            Template::Node => {
                let package = package(folder)?;
                package["scripts"]["test"].as_str()?;
                let has = |name: &str| folder.join(name).exists();
                let (fetch, tool) = match () {
                    () if has("pnpm-lock.yaml") => ("pnpm install --frozen-lockfile", "pnpm"),
                    () if has("yarn.lock") => ("yarn install --frozen-lockfile", "yarn"),
                    () if has("package-lock.json") => ("npm ci", "npm"),
                    () => ("npm install", "npm"),
                };
                let fetch = if needs_packages(&package) { format!("{fetch}\n") } else { String::new() };
                test(&format!("{fetch}{tool} test"), tool, &["npm"])
            }
            Template::Python => test("python3 -m pytest", "pytest", &["python3-pytest"]),
            Template::Kernel | Template::Plain => None,
        }
    }

    /// Returns why the tools that Debian 12 has are not enough for a project of this kind, where that can be told.
    pub(super) fn misfit(self, folder: &Path) -> Option<String> {
        let text = |name: &str| vmdeck_files::read_text(&folder.join(name), vmdeck_files::LARGE).unwrap_or_default();
        let value_of = |text: &str, key: &str| -> Option<String> {
            text.lines().find_map(|line| {
                let rest = line.trim().strip_prefix(key)?.trim_start_matches([' ', '=']);
                Some(rest.trim_matches('"').to_owned())
            })
        };
        let minor = |version: &str| version.split('.').nth(1).and_then(|part| part.parse::<u32>().ok());
        match self {
            Template::Rust => {
                let manifest = text("Cargo.toml");
                let is_new = value_of(&manifest, "edition").is_some_and(|edition| edition.starts_with("2024"))
                    || value_of(&manifest, "rust-version").and_then(|version| minor(&version)).is_some_and(|n| n > 63)
                    || value_of(&text("Cargo.lock"), "version").is_some_and(|version| version == "4");
                is_new.then(|| "Debian 12's Rust, 1.63, is too old for it".to_owned())
            }
            Template::Go => {
                let version = value_of(&text("go.mod"), "go ")?;
                (minor(&version)? > 19).then(|| "Debian 12's Go, 1.19, is too old for it".to_owned())
            }
            Template::Node if folder.join("pnpm-lock.yaml").exists() || folder.join("yarn.lock").exists() => {
                Some("Debian 12 has neither yarn nor pnpm".to_owned())
            }
            Template::Python => {
                let has_needs =
                    text("pyproject.toml").contains("dependencies") || folder.join("requirements.txt").exists();
                has_needs.then(|| "it has dependencies, which a `setup` of the suite must install".to_owned())
            }
            _ => None,
        }
    }

    /// Returns whether its test fetches something first.
    pub(super) fn fetches(self, folder: &Path) -> bool {
        self == Template::Node && package(folder).is_some_and(|package| needs_packages(&package))
    }

    /// Returns its name in a sentence.
    pub(super) fn words(self) -> &'static str {
        match self {
            Template::Make => "a project with a Makefile",
            Template::Rust => "a Rust project",
            Template::Go => "a Go module",
            Template::Node => "a project of Node.js",
            Template::Python => "a Python project",
            Template::Kernel => "a Linux kernel tree",
            Template::Plain => "no project that vmdeck knows",
        }
    }
}

/// Returns the description of a package of Node.js.
fn package(folder: &Path) -> Option<serde_json::Value> {
    let text = vmdeck_files::read_text(&folder.join("package.json"), vmdeck_files::LARGE).ok()?;
    serde_json::from_str(&text).ok()
}

fn needs_packages(package: &serde_json::Value) -> bool {
    ["dependencies", "devDependencies"].iter().any(|key| package[*key].as_object().is_some_and(|all| !all.is_empty()))
}

/// Returns the target of a Makefile that tests.
fn make_target(folder: &Path) -> Option<&'static str> {
    let text = ["GNUmakefile", "Makefile", "makefile"]
        .iter()
        .find_map(|name| vmdeck_files::read_text(&folder.join(name), vmdeck_files::SMALL).ok())?;
    ["check", "test"].into_iter().find(|target| {
        // A rule, and no line of a recipe or a comment.
        let rules = text.lines().filter(|line| !line.starts_with(['\t', '#', ' ']));
        rules
            .filter_map(|line| line.split_once(':'))
            // `test := x` sets a variable, and so does `test: X = 1`, for a rule that stands elsewhere.
            .filter(|(_, rest)| !rest.contains('='))
            .any(|(names, _)| names.split_whitespace().any(|n| n == *target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_that_are_too_old_are_known_where_files_tell() {
        for (template, files, why) in [
            (Template::Rust, &[("Cargo.toml", "[package]\nedition = \"2024\"\n")][..], Some("Rust, 1.63")),
            (Template::Rust, &[("Cargo.toml", "rust-version = \"1.80\"\n")], Some("too old")),
            (
                Template::Rust,
                &[("Cargo.toml", "edition = \"2021\"\n"), ("Cargo.lock", "version = 4\n")],
                Some("too old"),
            ),
            (Template::Rust, &[("Cargo.toml", "edition = \"2021\"\nrust-version = \"1.56\"\n")], None),
            (Template::Go, &[("go.mod", "module x\n\ngo 1.22.1\n")], Some("Go, 1.19")),
            (Template::Go, &[("go.mod", "module x\ngo 1.18\n")], None),
            (Template::Python, &[("requirements.txt", "")], Some("dependencies")),
            (Template::Python, &[("setup.py", "")], None),
            (Template::Make, &[("Makefile", "")], None),
        ] {
            let home = tempfile::tempdir().expect("tempdir");
            for (name, text) in files {
                std::fs::write(home.path().join(name), text).expect("written");
            }
            let found = template.misfit(home.path());
            assert_eq!(found.is_some(), why.is_some(), "{files:?}");
            assert!(why.is_none_or(|why| found.unwrap_or_default().contains(why)), "{files:?}");
        }
    }

    #[test]
    fn a_project_is_known_by_its_build_files() {
        let home = tempfile::tempdir().expect("tempdir");
        assert_eq!(Template::of(home.path()), Template::Plain);
        // Each one beside those before: the one that says most about the test wins.
        for (name, content, template, command) in [
            ("setup.py", "", Template::Python, Some("python3 -m pytest")),
            ("package.json", "{", Template::Node, None),
            ("package.json", "{\"scripts\": {}}", Template::Node, None),
            ("package.json", "{\"scripts\": {\"test\": \"x\"}}", Template::Node, Some("npm test")),
            (
                "package.json",
                "{\"scripts\": {\"test\": \"x\"}, \"dependencies\": {\"a\": \"1\"}}",
                Template::Node,
                Some("npm install\nnpm test"),
            ),
            ("yarn.lock", "", Template::Node, Some("yarn install --frozen-lockfile\nyarn test")),
            ("go.mod", "", Template::Go, Some("go test ./...")),
            ("Cargo.toml", "", Template::Rust, Some("cargo test")),
            ("Makefile", "all:\n# test: no\n\tx: test:\n", Template::Rust, Some("cargo test")),
            ("Makefile", "all:\ntest := x\ncheck: CFLAGS = -g\n", Template::Rust, Some("cargo test")),
            ("Makefile", "all:\nlint test: all\n", Template::Make, Some("make test")),
            ("Makefile", "test: all\ncheck: all\n", Template::Make, Some("make check")),
        ] {
            std::fs::write(home.path().join(name), content).expect("written");
            let found = Template::of(home.path());
            assert_eq!((found, found.test(home.path()).map(|t| t.command).as_deref()), (template, command), "{name}");
        }
        for name in ["Kconfig", "Kbuild", "arch", "init"] {
            std::fs::create_dir(home.path().join(name)).expect("made");
        }
        assert_eq!(Template::of(home.path()), Template::Kernel);
    }
}
