//! Lists the files of a working tree exactly as git sees them; where git cannot say it, that is an error or is told.
//!
//! Packing them is `source`'s work.

use crate::host::process::{self, GitAnswer};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use vmdeck_model::{
    error::{Fault, Result},
    text::Clean,
};

/// Folder of vmdeck's own records: never sent.
const RECORDS: &str = ".vmdeck";
/// Most submodules within each other.
const DEPTH: usize = 16;

/// The files of a tree.
#[derive(Debug, Default)]
pub(super) struct SourceList {
    /// Every file and link, relative to the root.
    pub(super) files: BTreeSet<PathBuf>,
    /// What stays behind although somebody might expect it, each as a sentence.
    pub(super) notes: Vec<String>,
}

/// Returns the files below `root` that are tracked, or new and not ignored; without a repository, those that no rule below
/// `root` ignores.
pub(super) fn list(root: &Path) -> Result<SourceList> {
    let mut out = SourceList::default();
    let in_repository = root.ancestors().any(|folder| folder.join(".git").symlink_metadata().is_ok());
    if in_repository {
        by_git(root, Path::new(""), DEPTH, &mut out)?;
    } else {
        by_walk(root, &mut out)?;
    }
    out.files.retain(|path| path.components().all(|part| part.as_os_str() != RECORDS));
    Ok(out)
}

fn by_git(root: &Path, below: &Path, depth: usize, out: &mut SourceList) -> Result<()> {
    let folder = root.join(below);
    let Some(tracked) = git(&folder, &["ls-files", "-z", "-t", "--stage"])? else {
        out.notes.push("git is not installed: a tracked file that an ignore rule names stays behind".into());
        return by_walk(root, out);
    };
    let untracked = git(&folder, &["ls-files", "-z", "--others", "--exclude-standard"])?.unwrap_or_default();
    let mut sparse = 0;
    for entry in entries(&tracked) {
        let (Some(name), Some(tag), mode) = (after_tab(entry), entry.first(), entry.get(2..8)) else { continue };
        let path = below.join(name);
        if mode == Some(b"160000") {
            submodule(root, &path, depth, out)?;
            continue;
        }
        match root.join(&path).symlink_metadata() {
            Ok(there) if there.is_file() || there.is_symlink() => drop(out.files.insert(path)),
            // A folder now: what is in it is listed by itself.
            Ok(_) => {}
            Err(_) if *tag == b'S' => sparse += 1,
            // Deleted in the working tree, like every other change in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {}
            Err(e) => return Err(cannot_list(root).because(format!("`{}`: {e}", path.display()))),
        }
    }
    if sparse > 0 {
        out.notes.push(format!("a sparse checkout leaves {sparse} tracked files out"));
    }
    for name in entries(&untracked) {
        let path = below.join(OsStr::from_bytes(name));
        if name.ends_with(b"/") {
            out.notes.push(format!("`{}` is a repository of its own, so it stays behind", shown(&path)));
        } else {
            out.files.insert(path);
        }
    }
    Ok(())
}

fn submodule(root: &Path, path: &Path, depth: usize, out: &mut SourceList) -> Result<()> {
    if root.join(path).join(".git").symlink_metadata().is_err() {
        out.notes.push(format!("the submodule `{}` is not checked out, so it stays behind", shown(path)));
        return Ok(());
    }
    match depth.checked_sub(1) {
        Some(depth) => by_git(root, path, depth, out),
        None => Err(cannot_list(root).because(format!("more than {DEPTH} submodules are within each other"))),
    }
}

/// Runs git; `None` = there is none. Its refusal is an error in its own words.
fn git(folder: &Path, words: &[&str]) -> Result<Option<Vec<u8>>> {
    match process::git(folder, words) {
        Ok(GitAnswer::Said(bytes)) => Ok(Some(bytes)),
        Ok(GitAnswer::Refused(words)) => {
            let text = Clean::from_text(words.lines().next().unwrap_or("it did not say why")).into_string();
            let fault = cannot_list(folder).because(format!("git says: {text}"));
            Err(if words.contains("dubious ownership") {
                // Compared letter by letter, without a slash at the end.
                let repository =
                    folder.ancestors().find(|f| f.join(".git").symlink_metadata().is_ok()).unwrap_or(folder);
                let shown = repository.display().to_string();
                let shown = shown.trim_end_matches('/');
                fault.hint(format!(
                    "make the folder your own, or run `git config --global --add safe.directory {shown}`"
                ))
            } else {
                fault.hint("run `git status` there")
            })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot_list(folder).because(format!("cannot run git: {e}"))),
    }
}

fn cannot_list(root: &Path) -> Fault {
    Fault::user(format!("cannot list the files of `{}`", root.display()))
}

fn shown(path: &Path) -> String {
    Clean::from_text(&path.display().to_string()).into_string()
}

fn entries(listed: &[u8]) -> impl Iterator<Item = &[u8]> {
    listed.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

fn after_tab(entry: &[u8]) -> Option<&OsStr> {
    memchr::memchr(b'\t', entry).map(|at| OsStr::from_bytes(&entry[at + 1..]))
}

fn by_walk(root: &Path, out: &mut SourceList) -> Result<()> {
    let walk = ignore::WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .git_exclude(true)
        // A rule above the tree is about another tree.
        .parents(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    for entry in walk {
        let entry = entry.map_err(|e| cannot_list(root).because(e))?;
        let (Some(kind), Ok(path)) = (entry.file_type(), entry.path().strip_prefix(root)) else { continue };
        if kind.is_file() || kind.is_symlink() {
            out.files.insert(path.to_owned());
        } else if !kind.is_dir() {
            out.notes.push(format!("`{}` is not a regular file, so it stays behind", shown(path)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::{fs, process::Command};

    fn make(root: &Path, files: &[&str]) {
        for name in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, *name).expect("write");
        }
    }

    fn run_git(root: &Path, words: &[&str]) {
        let name = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always"];
        let out = Command::new("git").args(name).args(words).current_dir(root).output().expect("git");
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn names(root: &Path) -> Vec<String> {
        let listed = list(root).expect("listed");
        listed.files.iter().map(|path| path.display().to_string()).collect()
    }

    /// What git itself would take along: everything that is tracked or could be added.
    fn by_git_alone(root: &Path) -> BTreeSet<PathBuf> {
        let words = ["ls-files", "-z", "-co", "--exclude-standard", "--deduplicate"];
        let out = Command::new("git").args(words).current_dir(root).output().expect("git");
        let named = entries(&out.stdout).map(|name| PathBuf::from(OsStr::from_bytes(name)));
        named.filter(|path| root.join(path).symlink_metadata().is_ok()).collect()
    }

    #[test]
    fn the_files_are_those_that_git_names() {
        let home = tempfile::tempdir().expect("tempdir");
        fs::write(home.path().join(".gitignore"), "*.txt\n").expect("a rule above the tree");
        let root = &home.path().join("tree");
        let files = [
            "src/a b.rs",
            "target/big",
            "kept.log",
            "sub/secret",
            "gone.rs",
            "note.txt",
            "deep/down/x",
            "\u{fc}ber",
            "new\nline",
        ];
        make(root, &files);
        fs::write(root.join(".gitignore"), "target\n*.log\n").expect("rules");
        fs::write(root.join("sub/.gitignore"), "secret\n").expect("rules");
        run_git(root, &["init", "-q"]);
        run_git(root, &["add", "."]);
        run_git(root, &["add", "-f", "kept.log"]);
        run_git(root, &["commit", "-qm", "x"]);
        fs::remove_file(root.join("gone.rs")).expect("deleted");
        fs::write(root.join(OsStr::from_bytes(b"l\xe4tin")), "x").expect("untracked");
        make(root, &[".vmdeck/runs/1/events.jsonl", "untracked"]);
        std::os::unix::fs::symlink("a b.rs", root.join("src/link")).expect("link");
        let mut wanted = by_git_alone(root);
        wanted.retain(|path| !path.starts_with(RECORDS));
        let listed = list(root).expect("listed");
        assert_eq!(listed.files, wanted);
        assert!(wanted.contains(Path::new("kept.log")) && wanted.contains(Path::new("note.txt")));
        assert!(!wanted.contains(Path::new("gone.rs")) && listed.notes.is_empty(), "{:?}", listed.notes);
        fs::remove_file(root.join("note.txt")).expect("removed");
        make(root, &["note.txt/now a folder"]);
        let listed = list(root).expect("listed").files;
        assert!(!listed.contains(Path::new("note.txt")) && listed.contains(Path::new("note.txt/now a folder")));
        assert_eq!(names(&root.join("deep")), ["down/x"], "a folder of the tree");
        run_git(root, &["worktree", "add", "-q", "../other"]);
        assert!(names(&home.path().join("other")).contains(&"kept.log".to_owned()), "a worktree");
        run_git(root, &["sparse-checkout", "set", "sub"]);
        let listed = list(root).expect("listed");
        assert!(listed.notes.iter().any(|note| note.contains("sparse")), "{:?}", listed.notes);
    }

    #[test]
    fn submodules_come_along_and_repositories_within_are_told() {
        let home = tempfile::tempdir().expect("tempdir");
        let (root, lib) = (&home.path().join("tree"), &home.path().join("lib"));
        for repository in [root, lib] {
            make(repository, &["a"]);
            run_git(repository, &["init", "-q"]);
            run_git(repository, &["add", "."]);
            run_git(repository, &["commit", "-qm", "x"]);
        }
        run_git(root, &["submodule", "--quiet", "add", "../lib", "vendor/lib"]);
        make(root, &["vendor/lib/new", "inner/x"]);
        run_git(&root.join("inner"), &["init", "-q"]);
        run_git(&root.join("inner"), &["add", "."]);
        run_git(&root.join("inner"), &["commit", "-qm", "x"]);
        let listed = list(root).expect("listed");
        let files: Vec<String> = listed.files.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(files, [".gitmodules", "a", "vendor/lib/a", "vendor/lib/new"]);
        assert!(listed.notes.iter().any(|note| note.contains("`inner/`")), "{:?}", listed.notes);
        run_git(root, &["commit", "-qam", "x"]);
        run_git(home.path(), &["clone", "-q", "tree", "bare-clone"]);
        let listed = list(&home.path().join("bare-clone")).expect("listed");
        assert!(listed.notes.iter().any(|note| note.contains("vendor/lib")), "{:?}", listed.notes);
    }

    #[test]
    fn what_git_refuses_is_an_error_and_never_an_empty_list() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path();
        make(root, &["a"]);
        run_git(root, &["init", "-q"]);
        run_git(root, &["add", "."]);
        fs::write(root.join(".git/index"), "broken").expect("broken");
        let fault = list(root).expect_err("refused");
        assert!(fault.to_string().contains("git says: ") && fault.to_string().contains("index"), "{fault}");
        fs::remove_file(root.join(".git/index")).expect("removed");
        make(root, &["deep/x"]);
        run_git(root, &["add", "."]);
        fs::remove_dir_all(root.join("deep")).expect("removed");
        std::os::unix::fs::symlink("deep", root.join("deep")).expect("a link to itself");
        let fault = list(root).expect_err("it cannot be seen whether the file is there").to_string();
        assert!(fault.contains("deep/x"), "{fault}");
        fs::remove_dir_all(root.join(".git")).expect("removed");
        fs::write(root.join(".git"), "gitdir: /no/such\n").expect("a worktree whose repository is gone");
        assert!(list(root).expect_err("refused").to_string().contains("git says: "));
    }

    #[test]
    fn without_a_repository_the_rules_below_count_and_those_above_do_not() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = &home.path().join("tree");
        make(root, &["a", "b.log", "sub/c", ".vmdeck/x"]);
        fs::write(home.path().join(".gitignore"), "a\n").expect("rules");
        fs::write(root.join(".gitignore"), "*.log\n").expect("rules");
        assert_eq!(names(root), [".gitignore", "a", "sub/c"]);
        let made = Command::new("mkfifo").arg(root.join("pipe")).status().expect("mkfifo");
        let listed = list(root).expect("listed");
        assert!(made.success() && listed.files.len() == 3);
        assert!(matches!(&listed.notes[..], [note] if note.contains("`pipe`")), "{:?}", listed.notes);
    }
}
