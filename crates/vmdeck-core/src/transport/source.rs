//! Packs a working tree the way git sees it, and unpacks it in the guest.
//!
//! Uncommitted work goes along, ignored files stay behind, and a tracked file is taken although a rule names it: the list is
//! `source_list`'s, what has changed `source_delta`'s.

use super::{
    cancellable::Cancellable,
    session::Session,
    source_delta::{self, KnownTree, TreeState},
    source_list,
};
use crate::{
    command::{
        Collected, CommandExit, Input, RemoteCommand, Shell,
        frame::{self, NOT_READY},
    },
    host::{capacity, files},
};
use globset::{Glob, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    guest::Source,
    quantity::show_size,
    suite::ScriptShell,
};

/// From how many bytes on a source is called large.
const LARGE: u64 = 1 << 30;
/// Most names that a note gives.
const NAMES: usize = 3;

/// Returns what would stay behind although somebody might expect it, before anything is started; an error means that nothing can
/// be sent.
pub fn check(source: &Source) -> Result<Vec<String>> {
    let exclude = excluded(&source.exclude)?;
    let list = source_list::list(&source.path)?;
    let mut notes = list.notes;
    notes.extend(size_note(source, list.files.iter().filter(|path| !is_excluded(&exclude, path)))?);
    Ok(notes)
}

/// Returns a note on a source that is large; an error where its archive would fill the disk.
fn size_note<'a>(source: &Source, files: impl Iterator<Item = &'a PathBuf>) -> Result<Option<String>> {
    let sized = files.map(|path| (fs::symlink_metadata(source.path.join(path)).map_or(0, |meta| meta.len()), path));
    let (total, largest) =
        sized.fold((0_u64, None), |(total, largest), file| (total.saturating_add(file.0), largest.max(Some(file))));
    let Some((size, path)) = largest.filter(|_| total > LARGE) else { return Ok(None) };
    let text = format!(
        "the source is {}, of which `{}` has {}; `source.exclude` leaves files out",
        show_size(total),
        path.display(),
        show_size(size)
    );
    let folder = std::env::temp_dir();
    if capacity::free_disk(&folder).is_ok_and(|free| total > free) {
        return Err(Fault::user(format!("cannot pack `{}`", source.path.display()))
            .because(text)
            .hint(format!("free disk space in `{}`, or leave files out", folder.display())));
    }
    Ok(Some(text))
}

fn is_excluded(exclude: &GlobSet, path: &Path) -> bool {
    path.ancestors().any(|part| !part.as_os_str().is_empty() && exclude.is_match(part))
}

/// What came of sending a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// What was found on the way, each as a sentence.
    pub notes: Vec<String>,
    /// How many files were sent, and of how many, where only what had changed was sent.
    pub changed: Option<(usize, usize)>,
}

/// What a guest that lives on has of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSource {
    /// Where it is kept in mind.
    pub file: PathBuf,
    /// What becomes of what else is in the folder.
    pub extras: Extras,
}

/// What becomes of files in the guest's folder that were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// Any of them makes everything be sent again, into an empty folder.
    Refused,
    /// They stay: what a build has made is built upon.
    Kept,
}

/// Sends the tree to the guest, where it replaces the folder as a whole. `kept` = what a guest that lives on has of it: then only what
/// has changed is sent, if the guest still has the rest as it was.
pub async fn send(
    session: &dyn Session,
    source: &Source,
    kept: Option<&KeptSource>,
    cancel: &CancellationToken,
) -> Result<Sent> {
    let Some(KeptSource { file: kept, extras }) = kept.filter(|_| session.shell() == Shell::Posix) else {
        return send_all(session, source, cancel).await;
    };
    let known_file = kept.to_owned();
    let before = tokio::task::spawn_blocking(move || KnownTree::read(&known_file)).await.ok().flatten();
    let (now, there) = tokio::join!(look(source), async {
        match &before {
            Some(known) => ask_for_hash(session, &source.to, *extras, &known.files, cancel).await,
            None => Ok(None),
        }
    });
    let (now, there) = (now?, there?);
    let before = before.zip(now.as_ref());
    let before = before.and_then(|(known, now)| Some((known.hash, known.files.delta(now)?)));
    // A guest whose tree is not what it was, or that cannot say, gets everything.
    if let (Some(now), Some((hash, delta))) = (&now, before)
        && there == Some(hash)
    {
        let (root, files, stop) = (source.path.clone(), delta.changed.clone(), cancel.clone());
        let packed = tokio::task::spawn_blocking(move || pack(&root, &files, &stop)).await;
        let (archive, notes) = packed.map_err(|e| Fault::bug("the packing task panicked").because(e))??;
        let script = source_delta::apply_script(&source.to, &delta);
        // The rest is as it was: the guest has just said so.
        let wanted = now.part(&delta.changed).hash();
        let applying = ask(session, &script, Input::Unnamed(Arc::new(archive)), cancel);
        let (applied, known) = tokio::join!(applying, known(now.clone()));
        if applied? == Some(wanted) {
            remember(&known?, kept);
            let changed = Some((delta.changed.len() + delta.gone.len(), now.len()));
            return Ok(Sent { notes, changed });
        }
    }
    let sent = send_all(session, source, cancel).await?;
    match now {
        Some(now) => {
            // Only what the guest itself confirms is built on next time.
            let there = ask_for_hash(session, &source.to, *extras, &now, cancel).await?;
            let known = known(now).await?;
            if there.as_ref() == Some(&known.hash) { remember(&known, kept) } else { forget(kept) }
        }
        None => forget(kept),
    }
    Ok(sent)
}

/// Keeps in mind what a guest has; where that cannot be, everything is sent the next time.
fn remember(known: &KnownTree, kept: &Path) {
    if known.write(kept).is_err() {
        forget(kept);
    }
}

fn forget(kept: &Path) {
    let _ = std::fs::remove_file(kept);
}

/// Returns a tree with its hash, which takes a while.
async fn known(files: TreeState) -> Result<KnownTree> {
    let hashing = tokio::task::spawn_blocking(move || KnownTree { hash: files.hash(), files }).await;
    hashing.map_err(|e| Fault::bug("hashing the tree panicked").because(e))
}

/// Looks at the files of the tree; `None` = they cannot be kept in mind.
pub(super) async fn look(source: &Source) -> Result<Option<TreeState>> {
    let (root, exclude) = (source.path.clone(), source.exclude.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let exclude = excluded(&exclude)?;
        let list = source_list::list(&root)?;
        let files = list.files.iter().filter(|path| !is_excluded(&exclude, path));
        TreeState::of(&root, files).map_err(|e| Fault::user(format!("cannot look at `{}`", root.display())).because(e))
    });
    looking.await.map_err(|e| Fault::bug("looking at the tree panicked").because(e))?
}

/// Asks the guest for the hash of what it has of a tree: of everything in its folder, or of these files.
async fn ask_for_hash(
    session: &dyn Session,
    folder: &str,
    extras: Extras,
    files: &TreeState,
    cancel: &CancellationToken,
) -> Result<Option<String>> {
    match extras {
        Extras::Refused => ask(session, &source_delta::hash_script(folder), Input::Empty, cancel).await,
        Extras::Kept => {
            let cannot = |e| Fault::host("cannot write a temporary file").because(e);
            let mut names = tempfile::tempfile().map_err(cannot)?;
            files.write_names(&mut names).map_err(cannot)?;
            let script = source_delta::hash_of_names_script(folder);
            ask(session, &script, Input::Unnamed(Arc::new(names)), cancel).await
        }
    }
}

/// Runs a text of ours in the guest; returns the hash that it makes, if it makes one.
async fn ask(session: &dyn Session, script: &str, stdin: Input, cancel: &CancellationToken) -> Result<Option<String>> {
    let mut said = Collected::default();
    let command = RemoteCommand { stdin, ..RemoteCommand::new(script) };
    Ok(match session.run(&command, &mut said, cancel).await? {
        CommandExit::Code(0) => source_delta::hash_in(&said.stdout),
        _ => None,
    })
}

async fn send_all(session: &dyn Session, source: &Source, cancel: &CancellationToken) -> Result<Sent> {
    let (from, exclude, stop) = (source.path.clone(), source.exclude.clone(), cancel.clone());
    let packed = tokio::task::spawn_blocking(move || pack_all(&from, &exclude, &stop)).await;
    let packed = packed.map_err(|e| Fault::bug("the packing task panicked").because(e))?;
    let (archive, notes) = match packed {
        Err(_) if cancel.is_cancelled() => {
            return Err(Fault::cancelled("cannot send the code").because("it was cancelled"));
        }
        packed => packed?,
    };
    let failed = || Fault::infra(format!("cannot bring `{}` into the guest", source.path.display()));
    session.files().send(Arc::new(archive), &source.to, cancel).await.map_err(|inner| match inner.blame() {
        Blame::Infra => failed().caused_by(inner),
        _ => inner,
    })?;
    Ok(Sent { notes, changed: None })
}

/// Returns a hash of the files of the tree that these globs name: of their names, modes and contents. Only files that would be sent count.
pub fn hash_of_contents(source: &Source, globs: &[String]) -> Result<Vec<u8>> {
    let (wanted, exclude) = (globs_of("setup_inputs", globs)?, excluded(&source.exclude)?);
    let mut hash = Sha256::new();
    let listed = source_list::list(&source.path)?.files;
    for path in listed.iter().filter(|path| wanted.is_match(path) && !is_excluded(&exclude, path)) {
        let full = source.path.join(path);
        let cannot = |e: io::Error| Fault::user(format!("cannot read `{}`", full.display())).because(e);
        hash.update(path.as_os_str().as_encoded_bytes());
        let about = fs::symlink_metadata(&full).map_err(cannot)?;
        if about.is_symlink() {
            hash.update(fs::read_link(&full).map_err(cannot)?.as_os_str().as_encoded_bytes());
        } else {
            // One that can be run is another one.
            hash.update((about.permissions().mode() & 0o777).to_le_bytes());
            let mut file = vmdeck_files::open(&full).map_err(cannot)?;
            files::read_pieces(&mut file, |bytes| hash.update(bytes)).map_err(cannot)?;
        }
        hash.update([0]);
    }
    Ok(hash.finalize().to_vec())
}

fn excluded(exclude: &[String]) -> Result<GlobSet> {
    globs_of("source.exclude", exclude)
}

fn globs_of(key: &str, globs: &[String]) -> Result<GlobSet> {
    let cannot = |e: globset::Error| Fault::user(format!("cannot read `{key}`")).because(e);
    let mut out = GlobSetBuilder::new();
    for glob in globs {
        out.add(Glob::new(glob).map_err(cannot)?);
    }
    out.build().map_err(cannot)
}

/// Packs the whole tree.
fn pack_all(root: &Path, exclude: &[String], cancel: &CancellationToken) -> Result<(File, Vec<String>)> {
    let exclude = excluded(exclude)?;
    let files: Vec<PathBuf> =
        source_list::list(root)?.files.into_iter().filter(|path| !is_excluded(&exclude, path)).collect();
    pack(root, &files, cancel)
}

/// Writes a tar of files of the tree to a temporary file without a name; returns it with notes on what is in it.
fn pack(root: &Path, files: &[PathBuf], cancel: &CancellationToken) -> Result<(File, Vec<String>)> {
    let failed = |e: io::Error| {
        let packing = Fault::user(format!("cannot pack `{}`", root.display()));
        packing.because(e).hint("check `source.path` and its permissions, and the free space of the temporary folder")
    };
    let file = tempfile::tempfile().map_err(failed)?;
    let mut tar = tar::Builder::new(io::BufWriter::new(file.try_clone().map_err(failed)?));
    let mut pointers = Vec::new();
    for path in files {
        let named = |e: io::Error| failed(io::Error::new(e.kind(), format!("`{}`: {e}", path.display())));
        match append(&mut tar, root, path, cancel) {
            Ok(true) => {}
            Ok(false) => pointers.push(path.display().to_string()),
            // An editor's passing file, gone since the list was made.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(named(e)),
        }
    }
    tar.into_inner().and_then(|mut out| io::Write::flush(&mut out)).map_err(failed)?;
    let mut notes = Vec::new();
    if !pointers.is_empty() {
        let names = pointers.iter().take(NAMES).cloned().collect::<Vec<_>>().join("`, `");
        let more = if pointers.len() > NAMES { format!(" and {} more", pointers.len() - NAMES) } else { String::new() };
        notes.push(format!("`{names}`{more}: only pointers of Git LFS were sent; `git lfs pull` fetches the files"));
    }
    Ok((file, notes))
}

/// How a pointer of Git LFS begins (its specification, version 1).
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Longest pointer in bytes.
const LFS_MAX: u64 = 1024;

/// Adds a file or link; `false` = it is a pointer of Git LFS.
fn append(
    tar: &mut tar::Builder<impl io::Write>,
    root: &Path,
    path: &Path,
    cancel: &CancellationToken,
) -> io::Result<bool> {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        return tar.append_link(&mut header, path, fs::read_link(&full)?).map(|()| true);
    }
    let file = vmdeck_files::open(&full)?;
    let size = file.metadata()?.len();
    header.set_size(size);
    header.set_mode(if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 });
    let mut head = Vec::new();
    (&file).take(LFS.len() as u64).read_to_end(&mut head)?;
    let is_pointer = head == LFS && size < LFS_MAX;
    // Exactly what was announced: a file that grows while it is packed would break the archive.
    let mut content = Cancellable::new(head.chain(file), cancel).take(size);
    tar.append_data(&mut header, path, &mut content)?;
    if content.limit() > 0 {
        return Err(io::Error::other("it became shorter while it was packed"));
    }
    Ok(!is_pointer)
}

/// Returns a command that runs a file of this host in a guest with this shell.
pub fn script(path: &Path, base: &RemoteCommand, shell: Shell) -> Result<RemoteCommand> {
    match shell {
        Shell::Posix => Ok(posix_script(path, base)),
        Shell::PowerShell => powershell_script(path, base),
    }
}

/// Returns the command for PowerShell: the file is sent to a temporary name, run by what its name says, and removed.
fn powershell_script(path: &Path, base: &RemoteCommand) -> Result<RemoteCommand> {
    let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_lowercase()).unwrap_or_default();
    let run = match suffix.as_str() {
        "ps1" => "& $f",
        // PowerShell does not wait for a program with windows by itself.
        "exe" => "$p=Start-Process -FilePath $f -NoNewWindow -Wait -PassThru;exit $p.ExitCode",
        "cmd" | "bat" => "& $env:ComSpec /d /c $f",
        _ => {
            return Err(Fault::user(format!("cannot run `{}` in Windows", path.display()))
                .because("its name does not say what runs it")
                .hint("give a .ps1, .cmd, .bat or .exe file, or a `run` that starts the right program"));
        }
    };
    // Without a mark at its beginning Windows PowerShell takes a script for one in the code page of the system.
    let begin =
        if suffix == "ps1" && !has_byte_order_mark(path) { "$file.Write([byte[]](0xEF,0xBB,0xBF),0,3)\n" } else { "" };
    let prepare = format!(
        "$f=[IO.Path]::Combine([IO.Path]::GetTempPath(),'vmdeck-'+$n+'.{suffix}')\n$file=[IO.File]::Create($f)\n{begin}\
         $onLine={{$b=[Convert]::FromBase64String($_);$file.Write($b,0,$b.Length)}}"
    );
    Ok(RemoteCommand {
        prepare,
        script: format!(
            "$file.Close();try{{{run}}}finally{{Remove-Item -LiteralPath $f -Force -ErrorAction SilentlyContinue}}"
        ),
        shell: ScriptShell::Sh,
        stdin: Input::File(path.to_owned()),
        ..base.clone()
    })
}

fn has_byte_order_mark(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = vmdeck_files::open(path).and_then(|file| file.take(3).read_to_end(&mut head));
    read.is_ok() && (head.starts_with(&[0xEF, 0xBB, 0xBF]) || head.starts_with(&[0xFF, 0xFE]))
}

/// Returns the command for a POSIX shell: the file is sent to a temporary name there, run, and removed. It
/// goes to the first of the usual folders in which a program can be run, since `/tmp` may be mounted without that right.
fn posix_script(path: &Path, base: &RemoteCommand) -> RemoteCommand {
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
  [ -z "$h" ] || [ -e "$h" ] || {{ echo "there is no \`$h\` in the guest, which the first line of the script names" >&2; exit {NOT_READY}; }} ;; esac"#
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

    #[test]
    fn what_is_packed_is_the_list_without_what_is_excluded() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path();
        for (name, text) in
            [("a", "x"), ("skip/me/x", "x"), ("big.bin", "version https://git-lfs.github.com/spec/v1\n")]
        {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        std::os::unix::fs::symlink("nowhere", root.join("link")).expect("link");
        let (archive, notes) = pack_all(root, &["skip".to_owned()], &CancellationToken::new()).expect("packed");
        let mut tar = tar::Archive::new({
            let mut archive = archive;
            io::Seek::rewind(&mut archive).expect("rewind");
            archive
        });
        let names =
            tar.entries().expect("entries").map(|e| e.expect("entry").path().expect("path").display().to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "big.bin", "link"]);
        assert!(matches!(&notes[..], [note] if note.contains("`big.bin`: only pointers")), "{notes:?}");
        assert!(
            pack_all(root, &["[".to_owned()], &CancellationToken::new())
                .expect_err("a glob")
                .to_string()
                .contains("source.exclude")
        );
        assert!(
            pack_all(&root.join("none"), &[], &CancellationToken::new())
                .expect_err("no folder")
                .to_string()
                .contains("none")
        );
    }
}
