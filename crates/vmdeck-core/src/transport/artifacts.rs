//! Fetches files from a guest. The archive that comes back is hostile: what is unpacked is decided here, not by it.
//!
//! Only regular files, only below the folder, no execute bit, bounded in number and bytes.

use super::Session;
use crate::{
    command::frame,
    command::{Collected, Exec, Exit, Sink, sh_quote},
};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
};

/// Most bytes of all artifacts of one suite.
const BYTES_MAX: u64 = 2 << 30;
/// Most files.
const FILES_MAX: usize = 10_000;

/// Fetches what the globs name below the working directory of `env` into `to`; returns how many files came, and what the
/// guest's tar complained about: one file that cannot be read does not cost the others.
pub async fn fetch(
    session: &dyn Session,
    globs: &[String],
    env: &Exec,
    to: &Path,
    cancel: &CancellationToken,
) -> Result<(usize, Option<String>)> {
    let failed = || Fault::infra("cannot fetch artifacts");
    // The shell expands the globs, each quoted around its wildcards; a glob that finds nothing is left out.
    let words: Vec<String> = globs.iter().map(|g| quote_glob(g)).collect();
    // Where the way out is narrow the archive becomes a file of the guest first.
    let spooled = session.puller().map(|puller| (puller, format!("/tmp/.vmdeck-{}", frame::nonce())));
    let pack = match &spooled {
        Some((_, there)) => format!("{{ umask 077; tar -cf {there} -- \"$@\"; }}"),
        None => "exec tar -cf - -- \"$@\"".to_owned(),
    };
    let script = format!(
        "set --; for f in {}; do [ -e \"$f\" ] || continue; case $f in /*) ;; *) f=./$f ;; esac; set -- \"$@\" \"$f\"; done; [ $# -eq 0 ] || {pack}",
        words.join(" ")
    );
    let spool = tempfile::NamedTempFile::new().map_err(|e| failed().because(e))?;
    let mut sink = Spool {
        file: spool.reopen().map_err(|e| failed().because(e))?,
        left: BYTES_MAX,
        errors: Vec::new(),
        full: None,
    };
    let exit =
        session.exec(&Exec { script, stdin: crate::command::Input::Empty, ..env.clone() }, &mut sink, cancel).await?;
    if let Some((puller, there)) = spooled {
        let out = Exec::new(format!("[ ! -e {there} ] || echo there"));
        let mut said = Collected::default();
        session.exec(&out, &mut said, cancel).await?;
        if !said.stdout.is_empty() {
            let pulled = puller.pull(&there, spool.path(), cancel).await;
            // What stays is in /tmp of a machine that is taken down.
            let _ = session.exec(&Exec::new(format!("rm -f {there}")), &mut Collected::default(), cancel).await;
            pulled?;
        }
    }
    if let Some(why) = sink.full {
        return Err(failed().because(why));
    }
    let complaint = (exit != Exit::Code(0)).then(|| {
        let text = String::from_utf8_lossy(&sink.errors).into_owned();
        // The first line that is no mere remark names the file; the last one only says that there was one.
        let line = text.lines().find(|l| !l.contains("Removing leading")).unwrap_or("tar failed");
        format!("{exit}: {line}")
    });
    let file = spool.reopen().map_err(|e| failed().because(e))?;
    let count = unpack(io::BufReader::new(file), to).or_else(|e| match &complaint {
        // What an unfinished archive held is there.
        Some(_) => Ok(0),
        None => Err(failed().because(e)),
    })?;
    Ok((count, complaint))
}

fn quote_glob(glob: &str) -> String {
    let mut out = String::new();
    for part in glob.split_inclusive(['*', '?']) {
        let (text, wild) = match part.strip_suffix(['*', '?']) {
            Some(text) => (text, &part[text.len()..]),
            None => (part, ""),
        };
        if !text.is_empty() {
            out.push_str(&sh_quote(text));
        }
        out.push_str(wild);
    }
    out
}

struct Spool {
    file: fs::File,
    left: u64,
    errors: Vec<u8>,
    full: Option<String>,
}

impl Sink for Spool {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stderr {
            let room = 64 * 1024usize.saturating_sub(self.errors.len());
            self.errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return;
        }
        if self.full.is_some() {
            return;
        }
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.left = left;
                self.full = self.file.write_all(bytes).err().map(|e| e.to_string());
            }
            None => self.full = Some(format!("they are larger than {} GiB", BYTES_MAX >> 30)),
        }
    }
}

/// Unpacks what is safe; returns how many files.
fn unpack(archive: impl Read, to: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let Some(path) = safe(&entry.path()?) else { continue };
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        if count >= FILES_MAX {
            return Err(io::Error::other(format!("there are more than {FILES_MAX}")));
        }
        let full = to.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        // A name that exists already is not written again: no link can be followed, because none is ever made.
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&full);
        match made {
            Ok(mut file) => {
                io::copy(&mut entry, &mut file)?;
                count += 1;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

/// The path without leading dots, if it stays below the folder and has no control characters.
fn safe(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_entry(
        tar: &mut tar::Builder<Vec<u8>>,
        name: &str,
        kind: tar::EntryType,
        link: &str,
        mode: u32,
        body: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the builder itself refuses such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        header.set_cksum();
        tar.append(&header, body).expect("append");
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside_and_nothing_executable() {
        use tar::EntryType as T;
        let home = tempfile::tempdir().expect("tempdir");
        let to = home.path().join("artifacts");
        fs::create_dir(&to).expect("mkdir");
        let mut tar = tar::Builder::new(Vec::new());
        raw_entry(&mut tar, "../escaped", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "/etc/escaped-vmdeck", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "link", T::Symlink, "..", 0o777, b"");
        raw_entry(&mut tar, "link/through", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "hard", T::Link, "/etc/passwd", 0o644, b"");
        raw_entry(&mut tar, "fifo", T::Fifo, "", 0o644, b"");
        raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o4755, b"good");
        raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o755, b"again");
        let bytes = tar.into_inner().expect("tar");
        unpack(&bytes[..], &to).expect("unpacked");
        let out: Vec<_> = fs::read_dir(home.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(out, ["artifacts"]);
        assert!(!Path::new("/etc/escaped-vmdeck").exists());
        assert!(to.join("link").is_dir(), "the link was not made, the folder was");
        assert!(!to.join("hard").exists() && !to.join("fifo").exists());
        let run = to.join("target/run.sh");
        assert_eq!(fs::read(&run).expect("file"), b"good");
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(run).expect("meta").permissions()) & 0o7111,
            0
        );
    }

    #[test]
    fn globs_are_quoted_around_their_wildcards() {
        assert_eq!(quote_glob("target/*.xml"), "target/*.xml");
        assert_eq!(quote_glob("a b/$(x)*"), "'a b/$(x)'*");
    }
}
