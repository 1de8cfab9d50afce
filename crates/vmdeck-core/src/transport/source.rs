//! Packs a working tree the way git sees it, and unpacks it in the guest.
//!
//! Uncommitted work goes along, ignored files stay behind, and a tracked file is taken although a rule names it.

use super::session::FileTransfer;
use crate::command::{
    Input, RemoteCommand,
    frame::{self, NOT_READY},
};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    guest::Source,
    suite::ScriptShell,
};

/// Sends the tree to the guest, where it replaces the folder as a whole.
pub async fn send(files: &dyn FileTransfer, source: &Source, cancel: &CancellationToken) -> Result<()> {
    let (from, exclude) = (source.path.clone(), source.exclude.clone());
    let packed = tokio::task::spawn_blocking(move || pack(&from, &exclude)).await;
    let archive = packed.map_err(|e| Fault::bug("the packing task panicked").because(e))?.map_err(|e| {
        Fault::user(format!("cannot pack `{}`", source.path.display()))
            .because(e)
            .hint("check `source.path` and its permissions")
    })?;
    let failed = || Fault::infra(format!("cannot bring `{}` into the guest", source.path.display()));
    files.send(archive.path(), &source.to, cancel).await.map_err(|inner| match inner.blame() {
        Blame::Infra => failed().caused_by(inner),
        _ => inner,
    })
}

/// Writes a tar of the tree to a private temporary file.
fn pack(root: &Path, exclude: &[String]) -> io::Result<tempfile::NamedTempFile> {
    let mut globs = GlobSetBuilder::new();
    for glob in exclude {
        globs.add(Glob::new(glob).map_err(io::Error::other)?);
    }
    let globs = globs.build().map_err(io::Error::other)?;
    let file = tempfile::NamedTempFile::new()?;
    let mut tar = tar::Builder::new(io::BufWriter::new(file.reopen()?));
    for path in tree(root, &globs)? {
        append(&mut tar, root, &path)?;
    }
    io::Write::flush(&mut tar.into_inner()?)?;
    Ok(file)
}

/// Returns every file and link below `root` that belongs to the tree, relative and sorted.
fn tree(root: &Path, exclude: &GlobSet) -> io::Result<BTreeSet<PathBuf>> {
    let mut out = BTreeSet::new();
    let walk = ignore::WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .git_exclude(true)
        .git_global(true)
        .parents(true)
        .require_git(false)
        .filter_entry(|e| e.file_name() != ".git")
        .build();
    for entry in walk {
        let entry = entry.map_err(io::Error::other)?;
        if entry.file_type().is_some_and(|kind| kind.is_file() || kind.is_symlink()) {
            out.extend(entry.path().strip_prefix(root).ok().map(Path::to_owned));
        }
    }
    out.extend(tracked_but_ignored(root));
    out.retain(|path| !path.ancestors().any(|part| !part.as_os_str().is_empty() && exclude.is_match(part)));
    Ok(out)
}

/// Tracked files that an ignore rule names; git keeps them, so the guest gets them.
fn tracked_but_ignored(root: &Path) -> Vec<PathBuf> {
    let words = ["ls-files", "-z", "-ci", "--exclude-standard"];
    let listed = crate::host::process::run_blocking("git", &words, root);
    let names = listed.unwrap_or_default();
    let paths = names
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|n| PathBuf::from(String::from_utf8_lossy(n).into_owned()));
    paths.filter(|p| root.join(p).symlink_metadata().is_ok()).collect()
}

fn append(tar: &mut tar::Builder<impl io::Write>, root: &Path, path: &Path) -> io::Result<()> {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        return tar.append_link(&mut header, path, fs::read_link(&full)?);
    }
    // Whole at once: a file that grows while it is packed would break the archive.
    let bytes = fs::read(&full)?;
    header.set_size(bytes.len() as u64);
    header.set_mode(if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 });
    tar.append_data(&mut header, path, &bytes[..])
}

/// Returns a command that runs a file of this host in the guest: it is sent to a temporary name there, run, and removed. It
/// goes to the first of the usual folders in which a program can be run, since `/tmp` may be mounted without that right.
pub fn script(path: &Path, base: &RemoteCommand) -> RemoteCommand {
    let name = frame::nonce();
    let prepare = format!(
        r#"f=; for d in "${{TMPDIR:-/tmp}}" /tmp /var/tmp "$HOME" /dev/shm /run; do
  t=$d/.vmdeck-{name}; (umask 077; set -C; printf '#!/bin/sh\n:\n' > "$t") 2>/dev/null || continue
  chmod 700 "$t"; if "$t" 2>/dev/null; then f=$t; break; fi; rm -f "$t"
done
[ -n "$f" ] || {{ echo 'no folder of the guest can hold a script that runs: /tmp, /var/tmp, the home folder and /dev/shm are mounted with noexec, full, or not writable' >&2; exit {NOT_READY}; }}
trap 'rm -f "$f"' EXIT
cat > "$f" || exit {NOT_READY}
IFS= read -r h < "$f"; case $h in '#!'*) h=${{h#'#!'}}; h=${{h#"${{h%%[! ]*}}"}}; h=${{h%% *}}
  [ -e "$h" ] || {{ echo "there is no \`$h\` in the guest, which the first line of the script names" >&2; exit {NOT_READY}; }} ;; esac"#
    );
    RemoteCommand {
        prepare,
        script: "\"$f\" </dev/null".to_owned(),
        shell: ScriptShell::Plain,
        stdin: Input::File(path.to_owned()),
        ..base.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
    }

    fn names(root: &Path, exclude: &[&str]) -> Vec<String> {
        let exclude: Vec<String> = exclude.iter().map(|s| (*s).to_owned()).collect();
        let archive = pack(root, &exclude).expect("packed");
        let mut tar = tar::Archive::new(archive.reopen().expect("open"));
        tar.entries().expect("entries").map(|e| e.expect("entry").path().expect("path").display().to_string()).collect()
    }

    #[test]
    fn the_tree_is_what_git_sees() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path();
        make(
            root,
            &[
                (".gitignore", "target\n*.log\n"),
                (".github/ci.yml", "x"),
                ("src/a b.rs", "x"),
                ("target/big", "x"),
                ("kept.log", "x"),
                ("sub/.gitignore", "secret\n"),
                ("sub/secret", "x"),
                ("skip/me/x", "x"),
            ],
        );
        let git = |words: &[&str]| crate::host::process::run_blocking("git", words, root).expect("git");
        git(&["init", "-q"]);
        git(&["add", "-f", "kept.log"]);
        std::os::unix::fs::symlink("a b.rs", root.join("src/link")).expect("link");
        assert_eq!(
            names(root, &["skip"]),
            [".github/ci.yml", ".gitignore", "kept.log", "src/a b.rs", "src/link", "sub/.gitignore"]
        );
    }
}
