//! The stand-in of `scp`: files by `cat`, folders by `tar`, as commands in the guest.

use super::{
    options::SshOptions,
    real::{FAILED, become_real, is_guest},
    relayed::{self, copying},
    ssh::destination_of,
};
use crate::app::Io;
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
    thread,
};
use vmdeck_core::command::sh_quote;

/// The letters of OpenSSH's client that have a value (9.x).
const WITH_VALUE: &str = "cDFiJloPSX";
/// Most bytes of a folder that comes from the guest.
const FOLDER_MAX: u64 = 16 << 30;
/// Most bytes of names that a pattern may stand for.
const NAMES_MAX: u64 = 1 << 20;

/// Takes only so many bytes: a guest may send without an end.
struct Limited<'a> {
    inner: &'a mut dyn Write,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("the guest sends more than is taken"))?;
        self.inner.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Copies, or becomes the real program where another host is named.
pub(super) fn run(args: &[String], io: &mut Io<'_>) -> u8 {
    let options = match SshOptions::read(args, WITH_VALUE, usize::MAX) {
        Ok(options) => options,
        Err(why) => return fail(&why, io),
    };
    let places: Vec<CopyPlace> = options.rest.iter().map(|word| CopyPlace::read(word, options.value('P'))).collect();
    let Some((target, sources)) = places.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return become_real("scp", args, io);
    };
    if places.contains(&CopyPlace::Elsewhere) {
        return become_real("scp", args, io);
    }
    let deep = options.has('r') || options.has('R');
    let several = sources.len() > 1;
    let mut worst = 0;
    for source in sources {
        let done = match (source, target) {
            (CopyPlace::Here(from), CopyPlace::Guest(to)) => upload(from, to, several, deep, io),
            (CopyPlace::Guest(from), CopyPlace::Here(to)) => download(from, to, deep, io),
            _ => Err(CopyFailure::Said("one of the two places must be here and the other in the guest".into())),
        };
        worst = match done {
            Ok(()) => worst,
            Err(CopyFailure::Status(status)) => status,
            Err(CopyFailure::Said(why)) => fail(&why, io),
        };
    }
    worst
}

fn fail(why: &str, io: &mut Io<'_>) -> u8 {
    io.warn(&format!("scp: {why}"));
    1
}

/// Why something was not copied.
enum CopyFailure {
    /// The command in the guest has said why.
    Status(u8),
    Said(String),
}

impl From<io::Error> for CopyFailure {
    fn from(error: io::Error) -> Self {
        CopyFailure::Said(error.to_string())
    }
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CopyPlace {
    Here(PathBuf),
    Guest(String),
    Elsewhere,
}

impl CopyPlace {
    fn read(word: &str, port: Option<&str>) -> Self {
        if let Some((place, path)) = word.strip_prefix("scp://").and_then(|rest| rest.split_once('/')) {
            let (_, host) = destination_of(place);
            let port = place.rsplit_once(':').map(|(_, port)| port).or(port);
            return if is_guest(host, port) { CopyPlace::Guest(path.to_owned()) } else { CopyPlace::Elsewhere };
        }
        let colon = match word.find(':') {
            // The address of IPv6 stands in brackets.
            Some(_) if word.contains("]:") => word.find("]:").map(|at| at + 1),
            at => at,
        };
        let Some((host, path)) = colon.filter(|at| !word[..*at].contains('/')).map(|at| (&word[..at], &word[at + 1..]))
        else {
            return CopyPlace::Here(word.into());
        };
        let host = host.rsplit('@').next().unwrap_or(host);
        if is_guest(host, port) { CopyPlace::Guest(unescaped(path)) } else { CopyPlace::Elsewhere }
    }
}

/// Returns a path without the backslashes that were for the guest's shell.
fn unescaped(path: &str) -> String {
    let mut rest = path.chars();
    let mut out = String::new();
    while let Some(char) = rest.next() {
        out.push(if char == '\\' { rest.next().unwrap_or(char) } else { char });
    }
    out
}

/// Returns a path of the guest as one word of its shell; a `~` at its beginning is the login's home.
fn word(path: &str) -> String {
    match path {
        "" | "~" => "\"$HOME\"".to_owned(),
        path => match path.strip_prefix("~/") {
            Some(rest) => format!("\"$HOME\"/{}", sh_quote(rest)),
            // It is no option.
            None if path.starts_with('-') => sh_quote(&format!("./{path}")),
            None => sh_quote(path),
        },
    }
}

fn status(code: u8) -> Result<(), CopyFailure> {
    if code == 0 { Ok(()) } else { Err(CopyFailure::Status(code)) }
}

fn name_of(path: &Path) -> Result<String, CopyFailure> {
    let real = if path.file_name().is_none() { fs::canonicalize(path)? } else { path.to_owned() };
    let name = real.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| CopyFailure::Said(format!("`{}` has no name in UTF-8", path.display())))
}

fn upload(from: &Path, to: &str, several: bool, deep: bool, io: &mut Io<'_>) -> Result<(), CopyFailure> {
    let unreadable = |e: io::Error| CopyFailure::Said(format!("{}: {e}", from.display()));
    let meta = fs::metadata(from).map_err(unreadable)?;
    let name = sh_quote(&name_of(from)?);
    let to_folder = several || to.ends_with('/');
    let must = if to_folder { "[ -d \"$t\" ] || { echo \"scp: $t: no such folder\" >&2; exit 1; }\n" } else { "" };
    let begin = format!("t={}\n{must}[ -d \"$t\" ] && t=\"$t\"/{name}\n", word(to));
    if !meta.is_dir() {
        let file = vmdeck_files::open(from).map_err(unreadable)?;
        let mode = meta.permissions().mode() & 0o777;
        let script = format!("{begin}cat > \"$t\" && chmod {mode:o} \"$t\"");
        return status(relayed::run(&copying(script), Some(Box::new(file)), io.out, io.err));
    }
    if !deep {
        return Err(CopyFailure::Said(format!("{}: not a regular file", from.display())));
    }
    let (archive, pipe) = io::pipe()?;
    let folder = from.to_owned();
    let packing = thread::spawn(move || pack(&folder, pipe));
    let script = format!("{begin}[ -d \"$t\" ] || mkdir \"$t\" || exit 1\ntar -xof - -C \"$t\"");
    let code = relayed::run(&copying(script), Some(Box::new(archive)), io.out, io.err);
    // Half a folder must not look like a whole one; a pipe that broke has its reason on the other side.
    match packing.join() {
        Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(e)),
        _ => status(code),
    }
}

/// Packs what is in a folder; links are followed, as `scp` does.
fn pack(folder: &Path, pipe: io::PipeWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(pipe);
    archive.follow_symlinks(true);
    archive.append_dir_all(".", folder)?;
    archive.into_inner()?.flush()
}

fn download(from: &str, to: &Path, deep: bool, io: &mut Io<'_>) -> Result<(), CopyFailure> {
    for path in names(from, io)? {
        let plain = word(&path);
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        if name.is_empty() || name == "." || name == ".." {
            return Err(CopyFailure::Said(format!("{path}: it has no name of its own")));
        }
        let is_folder = relayed::run(&copying(format!("[ -d {plain} ]")), None, io.out, io.err);
        if is_folder == FAILED {
            return Err(CopyFailure::Status(FAILED));
        }
        let target = if to.is_dir() { to.join(&name) } else { to.to_owned() };
        if is_folder == 0 {
            if !deep {
                return Err(CopyFailure::Said(format!("{path}: not a regular file")));
            }
            unpack(&plain, &target, io)?;
        } else {
            // A file that does not come leaves none, and what lies there may be a link.
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let cannot = |e: io::Error| CopyFailure::Said(format!("{}: {e}", target.display()));
            let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot)?;
            status(relayed::run(&copying(format!("cat {plain}")), None, &mut file, io.err))?;
            file.persist(&target).map_err(|e| cannot(e.error))?;
        }
    }
    Ok(())
}

/// Returns the paths that a pattern stands for in the guest; a path without one stands for itself.
fn names(from: &str, io: &mut Io<'_>) -> Result<Vec<String>, CopyFailure> {
    if !from.contains(['*', '?', '[']) {
        return Ok(vec![from.to_owned()]);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "*?[]-/._~".contains(c);
    let pattern: String = from.chars().flat_map(|c| (!is_plain(c)).then_some('\\').into_iter().chain([c])).collect();
    let script = format!("for f in {pattern}; do [ -e \"$f\" ] && printf '%s\\0' \"$f\"; done; :");
    let mut found = Vec::new();
    status(relayed::run(&copying(script), None, &mut Limited { inner: &mut found, left: NAMES_MAX }, io.err))?;
    // The guest does not choose what is written here.
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = globset::Glob::new(&last(from)).map_err(|e| CopyFailure::Said(e.to_string()))?.compile_matcher();
    let names: Vec<String> = String::from_utf8_lossy(&found)
        .split('\0')
        .filter(|path| !path.is_empty() && wanted.is_match(last(path)))
        .map(str::to_owned)
        .collect();
    if names.is_empty() { Err(CopyFailure::Said(format!("{from}: no such file"))) } else { Ok(names) }
}

/// Fetches a folder: regular files and folders, below the target, and nothing else.
fn unpack(from: &str, target: &Path, io: &mut Io<'_>) -> Result<(), CopyFailure> {
    let mut spool = tempfile::tempfile()?;
    status(relayed::run(
        &copying(format!("tar -chf - -C {from} .")),
        None,
        &mut Limited { inner: &mut spool, left: FOLDER_MAX },
        io.err,
    ))?;
    io::Seek::rewind(&mut spool)?;
    fs::create_dir_all(target)?;
    let mut left_out = false;
    for entry in tar::Archive::new(spool).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts: Vec<Component<'_>> = path.components().filter(|part| *part != Component::CurDir).collect();
        if parts.iter().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(CopyFailure::Said(format!(
                "{}: the guest names a place outside of its folder",
                path.display()
            )));
        }
        let to = parts.iter().fold(target.to_owned(), |to, part| to.join(part));
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&to)?,
            tar::EntryType::Regular => {
                // What lies there may be a link to somewhere else.
                let _ = fs::remove_file(&to);
                io::copy(&mut entry.by_ref(), &mut vmdeck_files::create_new(&to)?)?;
            }
            _ => {
                io.warn(&format!("scp: {}: left out: it is neither a file nor a folder", path.display()));
                left_out = true;
            }
        }
    }
    if left_out { Err(CopyFailure::Status(1)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_here_in_the_guest_or_elsewhere() {
        for (word, place) in [
            ("root@localhost:/root/x", CopyPlace::Guest("/root/x".into())),
            ("127.0.0.1:", CopyPlace::Guest(String::new())),
            ("root@[::1]:x", CopyPlace::Guest("x".into())),
            ("a/b:c", CopyPlace::Here("a/b:c".into())),
            ("common.sh", CopyPlace::Here("common.sh".into())),
            ("host:x", CopyPlace::Elsewhere),
            ("scp://root@localhost//root/x", CopyPlace::Guest("/root/x".into())),
            ("scp://root@host/x", CopyPlace::Elsewhere),
            ("localhost:/a\\ b", CopyPlace::Guest("/a b".into())),
        ] {
            assert_eq!(CopyPlace::read(word, None), place, "{word}");
        }
    }

    #[test]
    fn a_path_is_one_word() {
        for (path, expected) in
            [("", "\"$HOME\""), ("~/a b", "\"$HOME\"/'a b'"), ("/x;y", "'/x;y'"), ("-rf", "./-rf"), ("a", "a")]
        {
            assert_eq!(word(path), expected);
        }
    }
}
