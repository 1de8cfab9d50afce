//! The file and line of the code that an output line names, and where that file is on this host.

use regex::Regex;
use std::{
    path::{Component, Path, PathBuf},
    sync::LazyLock,
};
use vmdeck_model::guest::Source;

/// How a line may name a place in the code: Python's traceback, `sh`'s and `bash`'s complaints, and what everybody else writes.
const FORMS: [&str; 4] = [
    r#"File "([^"]+)", line (\d+)"#,
    r"([\w./@+~-]+): line (\d+):",
    r"([\w./@+~-]*[\w@+-]\.\w+):(\d+)\b",
    r"([\w./@+~-]+): (\d+): ",
];
/// How many lines after the line of an error are looked at for its place, and how many before it.
pub(crate) const AROUND: (u64, u64) = (10, 3);

static PARSED: LazyLock<Vec<Regex>> = LazyLock::new(|| FORMS.iter().filter_map(|form| Regex::new(form).ok()).collect());

/// A place in the code, as the guest named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPlace {
    /// The path, as it was written.
    pub path: String,
    /// The number of the line, from 1.
    pub line: u64,
}

/// Returns the places that a line names, in the order of the forms.
pub(crate) fn named(line: &str) -> Vec<NamedPlace> {
    let each = |form: &Regex| {
        let found = form.captures_iter(line).map(|parts| (parts[1].to_owned(), parts[2].parse()));
        found.filter_map(|(path, number)| Some(NamedPlace { path, line: number.ok()? })).collect::<Vec<_>>()
    };
    PARSED.iter().flat_map(each).collect()
}

/// Returns the file on this host that a place in a guest is of; `dirs` = where its commands run, besides where the code was put.
/// `None` = it is no file of the source: a guest may name whatever it likes.
pub(crate) fn on_host(place: &NamedPlace, source: &Source, dirs: &[&str]) -> Option<PathBuf> {
    let root = source.path.canonicalize().ok()?;
    let path = Path::new(&place.path);
    let candidates: Vec<PathBuf> = if path.is_absolute() {
        path.strip_prefix(&source.to).map(Path::to_owned).into_iter().collect()
    } else {
        let below = |dir: &&str| Path::new(*dir).strip_prefix(&source.to).ok().map(|dir| dir.join(path));
        dirs.iter().filter_map(below).chain(std::iter::once(path.to_owned())).collect()
    };
    let plain = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let files = candidates.into_iter().filter(plain).filter_map(|path| root.join(path).canonicalize().ok());
    // A link may lead out of the source.
    files.into_iter().find(|file| file.starts_with(&root) && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_that_tools_name_are_found() {
        let rows = [
            ("   at math.sh:12", Some(("math.sh", 12))),
            ("thread 'x' panicked at src/lib.rs:9:5:", Some(("src/lib.rs", 9))),
            ("  File \"/home/ci/app/t.py\", line 3, in <module>", Some(("/home/ci/app/t.py", 3))),
            ("./run.sh: line 7: frobnicate: command not found", Some(("./run.sh", 7))),
            ("/home/ci/app/run: 7: frobnicate: not found", Some(("/home/ci/app/run", 7))),
            ("    add_test.go:9: got 5, want 4", Some(("add_test.go", 9))),
            ("at Object.<anonymous> (/app/a-b.test.js:4:11)", Some(("/app/a-b.test.js", 4))),
            ("10:22:33 all fine", None),
            ("http://10.0.2.2:8080/x", Some(("//10.0.2.2", 8080))),
            ("error", None),
            ("a.c:99999999999999999999999", None),
        ];
        for (line, want) in rows {
            let want = want.map(|(path, line)| NamedPlace { path: path.into(), line });
            assert_eq!(named(line).into_iter().next(), want, "{line}");
        }
        assert_eq!(PARSED.len(), FORMS.len());
    }

    #[test]
    fn only_a_file_of_the_source_is_opened() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path().join("app");
        std::fs::create_dir_all(root.join("tests")).expect("folder");
        for file in ["a.sh", "tests/t.sh", "../secret"] {
            std::fs::write(root.join(file), "").expect("file");
        }
        std::os::unix::fs::symlink("../secret", root.join("link.sh")).expect("link");
        let source = Source { path: root.clone(), to: "/home/ci/app".into(), exclude: Vec::new() };
        let rows = [
            ("/home/ci/app/a.sh", Some("a.sh")),
            ("a.sh", Some("a.sh")),
            ("./a.sh", Some("a.sh")),
            ("t.sh", Some("tests/t.sh")),
            ("tests/t.sh", Some("tests/t.sh")),
            ("/etc/passwd", None),
            ("../secret", None),
            ("tests/../../secret", None),
            ("/home/ci/app/../secret", None),
            ("link.sh", None),
            ("tests", None),
            ("gone.sh", None),
        ];
        for (path, want) in rows {
            let place = NamedPlace { path: path.into(), line: 1 };
            let want = want.map(|file| root.canonicalize().expect("root").join(file));
            assert_eq!(on_host(&place, &source, &["/home/ci/app/tests", "/tmp"]), want, "{path}");
        }
    }
}
