//! What has changed in a working tree since it was sent to a guest that lives on, and whether the guest still has what was sent.
//!
//! A tree in a guest is known by a hash that the guest itself makes: of the name, size, rights and time of every file. Whatever a
//! test has added, changed or taken away changes it, and then everything is sent again.

use crate::{command::sh_quote, host::files};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use vmdeck_model::digest::hex;

/// Most bytes of the names of files that are to go, in the text of a command.
const NAMES: usize = 48 * 1024;

/// Writes a line for each file and link: all but its contents. With the options of GNU's `find`.
const LINES: &str = r"\( -type l -printf 'l %l %p\0' \) -o \( ! -type d -printf '%y %s %m %T@ %p\0' \)";
/// Makes a hash of such lines.
const HASH: &str = "LC_ALL=C sort -z | sha256sum";

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FileState {
    /// A file: its size, its time in seconds and nanoseconds, and whether it can be run.
    File(u64, i64, i64, bool),
    /// A link to this place.
    Link(String),
}

/// The files of a tree, by their paths in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TreeState(BTreeMap<String, FileState>);

/// The tree that a guest was last seen to have, with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownTree {
    pub(super) hash: String,
    pub(super) files: TreeState,
}

impl KnownTree {
    /// Reads what was kept of the tree that was sent last, if it was.
    pub(super) fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&vmdeck_files::read(file, vmdeck_files::LARGE).ok()?).ok()
    }

    /// Keeps it for the next time. What a power cut leaves of it is not read again, and costs no more than one whole tree.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            files::private_dir(folder)?;
        }
        let new = file.with_extension("new");
        vmdeck_files::write(&new, &serde_json::to_vec(self)?)?;
        fs::rename(new, file)
    }
}

/// What has to be done to a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delta {
    /// The files that are new or have changed.
    pub(super) changed: Vec<PathBuf>,
    /// The files that are gone.
    pub(super) gone: Vec<String>,
}

impl TreeState {
    /// Looks at files below `root`; `None` = some name is not text.
    pub(super) fn of<'a>(root: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> io::Result<Option<Self>> {
        let mut out = BTreeMap::new();
        for path in paths {
            let (Some(name), full) = (path.to_str(), root.join(path)) else { return Ok(None) };
            let meta = match fs::symlink_metadata(&full) {
                Ok(meta) => meta,
                // An editor's passing file, gone since the list was made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let state = if meta.is_symlink() {
                match fs::read_link(&full)?.into_os_string().into_string() {
                    Ok(target) => FileState::Link(target),
                    Err(_) => return Ok(None),
                }
            } else {
                let can_run = meta.permissions().mode() & 0o111 != 0;
                FileState::File(meta.len(), meta.mtime(), meta.mtime_nsec(), can_run)
            };
            out.insert(name.to_owned(), state);
        }
        Ok(Some(Self(out)))
    }

    /// Returns these files of it alone.
    pub(super) fn part(&self, paths: &[PathBuf]) -> Self {
        let known = |path: &PathBuf| {
            let (name, state) = self.0.get_key_value(path.to_str()?)?;
            Some((name.clone(), state.clone()))
        };
        Self(paths.iter().filter_map(known).collect())
    }

    /// Returns whether a file is in it.
    pub(super) fn has(&self, name: &Path) -> bool {
        name.to_str().is_some_and(|name| self.0.contains_key(name))
    }

    /// Returns the names of the files that are not the same in another one, or only in one of the two.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let changed = other.0.iter().filter(|(name, state)| self.0.get(*name) != Some(state));
        let gone = self.0.iter().filter(|(name, _)| !other.0.contains_key(*name));
        changed.chain(gone).map(|(name, _)| name.clone()).collect()
    }

    /// Writes the names of the files, each ended by a zero byte.
    pub(super) fn write_names(&self, to: &mut fs::File) -> io::Result<()> {
        let mut out = io::BufWriter::new(to);
        self.0.keys().try_for_each(|name| write!(out, "./{name}\0"))?;
        out.flush()
    }

    /// Returns how many files there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the hash that a guest makes of this tree once it has been unpacked: that of the lines of [`hash_script`].
    pub(super) fn hash(&self) -> String {
        let line = |(name, state): (&String, &FileState)| match state {
            FileState::Link(target) => format!("l {target} ./{name}"),
            FileState::File(size, time, _, can_run) => {
                format!("f {size} {} {time}.0000000000 ./{name}", if *can_run { "755" } else { "644" })
            }
        };
        let mut lines: Vec<String> = self.0.iter().map(line).collect();
        lines.sort_unstable();
        let mut hasher = Sha256::new();
        for line in lines {
            hasher.update(line.as_bytes());
            hasher.update([0]);
        }
        hex(&hasher.finalize())
    }

    /// Returns what leads from this tree to another; `None` = it is simpler to send all of it.
    pub(super) fn delta(&self, to: &Self) -> Option<Delta> {
        let changed: Vec<PathBuf> =
            to.0.iter().filter(|(name, state)| self.0.get(*name) != Some(state)).map(|(name, _)| name.into()).collect();
        let gone: Vec<String> = self.0.keys().filter(|name| !to.0.contains_key(*name)).cloned().collect();
        let names = changed.iter().map(|path| path.as_os_str().len()).chain(gone.iter().map(String::len));
        let is_small = changed.len() * 2 <= to.len() && names.map(|length| length + 6).sum::<usize>() < NAMES;
        is_small.then_some(Delta { changed, gone })
    }
}

/// Returns the text that makes the hash of a folder in a guest. Where its `find` is another one than GNU's, it makes none that fits.
pub(super) fn hash_script(folder: &str) -> String {
    format!("cd -- {} && {}", sh_quote(folder), hash_below("."))
}

/// Returns the text that makes the hash of everything below these places.
fn hash_below(places: &str) -> String {
    format!("find {places} {LINES} | {HASH}")
}

/// Returns the text that makes the hash of those files of a folder whose names come on its standard input, each ended by a zero byte.
pub(super) fn hash_of_names_script(folder: &str) -> String {
    let find = sh_quote(&format!("exec find \"$@\" -maxdepth 0 {LINES}"));
    format!("cd -- {} && xargs -0 sh -c {find} sh 2>/dev/null | {HASH}", sh_quote(folder))
}

/// Returns the text that does to a folder in a guest what has to be done, with an archive on its standard input, and makes the hash of
/// what has changed.
pub(super) fn apply_script(folder: &str, delta: &Delta) -> String {
    let word = |name: &str| format!(" {}", sh_quote(&format!("./{name}")));
    let gone: String = delta.gone.iter().map(|name| word(name)).collect();
    let changed: String = delta.changed.iter().map(|path| word(&path.to_string_lossy())).collect();
    // Without a place it would be everything.
    let check = if changed.is_empty() { "printf '' | sha256sum".to_owned() } else { hash_below(changed.trim_start()) };
    // A folder that has become empty may be in the way of a file.
    let remove = if gone.is_empty() {
        String::new()
    } else {
        format!("rm -f --{gone} && find . -mindepth 1 -type d -empty -delete && ")
    };
    format!("cd -- {} && {remove}tar -xf - && {check}", sh_quote(folder))
}

/// Returns the hash in what such a text has written.
pub(super) fn hash_in(said: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(said).ok()?;
    text.split_whitespace().next().filter(|word| word.len() == 64).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    fn state(root: &Path, names: &[&str]) -> TreeState {
        let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        TreeState::of(root, paths.iter()).expect("readable").expect("text")
    }

    /// Unpacks these files of a tree elsewhere, as a guest would; returns the hash that is made there.
    fn there(from: &Path, names: &[&str], to: &Path, script: &str) -> Option<String> {
        let archive = Command::new("tar")
            .args(["-c", "-C"])
            .arg(from)
            .args(["--no-recursion", "-f", "-", "--mode=u=rwX,go=rX", "--"])
            .args(names)
            .stdout(Stdio::piped())
            .spawn();
        let mut archive = archive.expect("tar");
        let unpack = Command::new("sh").args(["-c", script]).stdin(archive.stdout.take().expect("piped")).output();
        let out = unpack.expect("sh");
        archive.wait().expect("tar");
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(to.is_dir());
        hash_in(&out.stdout)
    }

    #[test]
    fn a_guest_makes_the_hash_that_is_expected_and_any_change_makes_another() {
        let (here, guest) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let (root, to) = (here.path(), guest.path().join("it's"));
        fs::create_dir_all(root.join("d/e")).expect("mkdir");
        fs::create_dir_all(&to).expect("mkdir");
        let whole = |path: &Path| {
            // A tar of seconds has no parts of one.
            Command::new("touch").args(["-h", "-d", "@1700000000"]).arg(path).status().expect("touch");
        };
        let put = |name: &str, text: &str| {
            fs::write(root.join(name), text).expect("write");
            whole(&root.join(name));
        };
        put("a b", "1");
        put("d/e/ü", "2");
        put("run", "3");
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o775)).expect("mode");
        std::os::unix::fs::symlink("nowhere", root.join("link")).expect("link");
        let names = ["a b", "d/e/ü", "run", "link"];
        let first = state(root, &names);
        let folder = to.display().to_string();
        let all = Delta { changed: names.iter().map(PathBuf::from).collect(), gone: Vec::new() };
        assert_eq!(there(root, &names, &to, &apply_script(&folder, &all)), Some(first.hash()));
        // One is changed, one is new, two are gone; a folder becomes a file.
        put("a b", "12");
        fs::remove_dir_all(root.join("d")).expect("removed");
        put("d", "file");
        fs::remove_file(root.join("link")).expect("removed");
        let names = ["a b", "run", "d"];
        let second = state(root, &names);
        let delta = first.delta(&second);
        assert_eq!(delta, None, "two of three are not few");
        let delta = Delta { changed: vec!["a b".into(), "d".into()], gone: vec!["d/e/ü".into(), "link".into()] };
        let changed = second.part(&delta.changed).hash();
        assert_eq!(there(root, &["a b", "d"], &to, &apply_script(&folder, &delta)), Some(changed));
        let whole = Command::new("sh").args(["-c", &hash_script(&folder)]).output().expect("sh");
        assert_eq!(hash_in(&whole.stdout), Some(second.hash()), "and the whole is as it should be");
        let names = || {
            let mut file = tempfile::tempfile().expect("tempfile");
            second.write_names(&mut file).expect("written");
            io::Seek::rewind(&mut file).expect("rewound");
            file
        };
        let of_names = |before: &str| {
            let script = format!("cd {}; {before}; {}", sh_quote(&folder), hash_of_names_script(&folder));
            let out = Command::new("sh").args(["-c", &script]).stdin(names()).output().expect("sh");
            hash_in(&out.stdout)
        };
        assert_eq!(of_names("mkdir -p target; echo built > target/x"), Some(second.hash()), "what was built may stay");
        for change in ["touch 'a b'", "chmod 700 run", "rm d; mkdir d"] {
            let undo = format!("cp -a . ../saved; {change}");
            assert_ne!(of_names(&undo), Some(second.hash()), "{change}");
            let back = "rm -rf ./* && cp -a ../saved/. . && rm -rf ../saved";
            assert_eq!(of_names(back), Some(second.hash()), "as it was before {change}");
        }
        of_names("rm -r target");
        for change in ["echo x > new", "chmod 600 run", "touch 'a b'", "rm run", "ln -s x y", "mkdir q; echo > q/r"] {
            let undo = "cd / ; true";
            let script = format!("cd {} && {change} && {}; {undo}", sh_quote(&folder), hash_script(&folder));
            let out = Command::new("sh").args(["-c", &script]).output().expect("sh");
            assert_ne!(hash_in(&out.stdout), Some(second.hash()), "{change}");
        }
    }

    #[test]
    fn few_changes_are_a_delta_and_many_are_not() {
        let many =
            |count: usize| TreeState((0..count).map(|n| (format!("f{n}"), FileState::File(1, 2, 3, false))).collect());
        let mut next = many(100);
        next.0.insert("f1".into(), FileState::File(1, 2, 4, false));
        next.0.remove("f2");
        let delta = many(100).delta(&next).expect("few");
        assert_eq!((delta.changed, delta.gone), (vec![PathBuf::from("f1")], vec!["f2".to_owned()]));
        assert_eq!(many(100).delta(&TreeState::default()).map(|delta| delta.gone.len()), Some(100));
        assert_eq!(many(40_000).delta(&many(10)), None, "more names than a command holds");
        assert_eq!(hash_in(b"sha256sum: not found"), None);
    }
}
