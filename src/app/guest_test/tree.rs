//! The folders in which the framework's scripts run: a copy, with files of this run in it.
//!
//! Small files are copied and large ones are links, so that two calls never write into the same files, and the user's tree is not
//! written to. What the scripts leave in their folders is kept in the record.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};
use vmdeck_model::error::{Fault, Result};

/// Most files and folders that are copied.
const ENTRIES: usize = 100_000;
/// Most bytes of a file that is copied; a larger one is a link.
const SMALL: u64 = 1 << 20;
const ENV: &str = include_str!("files/env.sh");
const COMMON: &str = include_str!("files/common.sh");
const EXECUTOR: &str = include_str!("files/guest.test_executor.sh");

/// The name of the script that the framework runs.
pub(super) const EXECUTOR_NAME: &str = "guest.test_executor.sh";

/// The copy; it is removed when this is dropped.
pub(super) struct Tree {
    root: PathBuf,
    /// What was put there, as it was then.
    made: BTreeMap<PathBuf, (u64, Option<SystemTime>)>,
    /// Where what the scripts leave is kept.
    kept: PathBuf,
}

impl Tree {
    /// Makes a copy of the scripts in `folder` at `root`, which does not exist yet. `feature` = the folder of a feature, from
    /// `folder`'s own parent; `record` = the lines of `test_params.py`; `kept` = where what the scripts leave is kept.
    pub(super) fn make(
        root: &Path,
        folder: &Path,
        feature: Option<&str>,
        record: &[String],
        kept: &Path,
    ) -> Result<Self> {
        let mut tree = Self { root: root.to_owned(), made: BTreeMap::new(), kept: kept.to_owned() };
        let cannot = |e: io::Error| {
            Fault::host(format!("cannot copy the scripts of `{}` to `{}`", folder.display(), root.display())).because(e)
        };
        tree.fill(folder, feature, record).map_err(cannot)?;
        Ok(tree)
    }

    fn fill(&mut self, folder: &Path, feature: Option<&str>, record: &[String]) -> io::Result<()> {
        vmdeck_files::make_folders(&self.root)?;
        let mut left = ENTRIES;
        let scripts = self.scripts();
        self.copy(folder, &scripts, &mut left)?;
        if let Some(parent) = folder.parent() {
            if let Some(Component::Normal(first)) = feature.and_then(|name| Path::new(name).components().next()) {
                let to = self.root.join(first);
                self.copy(&parent.join(first), &to, &mut left)?;
            }
            for entry in fs::read_dir(parent)?.filter_map(io::Result::ok) {
                let to = self.root.join(entry.file_name());
                if to.exists() || self.root.starts_with(entry.path()) || entry.file_name() == ".git" {
                    continue;
                }
                // Beside the scripts there may be anything: a home, for one.
                let mut some = ENTRIES / 10;
                if entry.path().is_dir() && self.copy(&entry.path(), &to, &mut some).is_ok() {
                    continue;
                }
                let _ = fs::remove_dir_all(&to);
                symlink(entry.path(), to)?;
            }
        }
        replace(&self.root.join(".env"), ENV)?;
        replace(&self.record(), &(record.join("\n") + "\n"))?;
        if !self.common().exists() {
            // A link to a folder without it would be one to the user's own.
            let folder = self.root.join("common");
            if folder.is_symlink() {
                fs::remove_file(&folder)?;
            }
            fs::create_dir_all(&folder)?;
            replace(&self.common(), COMMON)?;
        }
        let executor = self.scripts().join(EXECUTOR_NAME);
        if !executor.exists() {
            replace(&executor, EXECUTOR)?;
        }
        for path in [self.root.join(".env"), self.common(), executor] {
            self.note(&path);
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, to: &Path, left: &mut usize) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (path, name, target) = (entry.path(), entry.file_name(), to.join(entry.file_name()));
            if name == ".git" || name == ".vmdeck" || target.exists() || self.root.starts_with(&path) {
                continue;
            }
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("there are too many files in it"))?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.copy(&path, &target, left)?;
            } else if kind.is_file() && entry.metadata()?.len() <= SMALL && fs::copy(&path, &target).is_ok() {
                self.note(&target);
            } else {
                symlink(&path, target)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, path: &Path) {
        if let Ok(meta) = path.metadata() {
            self.made.insert(path.to_owned(), (meta.len(), meta.modified().ok()));
        }
    }

    /// Moves the files that the scripts have written to where they are kept.
    fn keep(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                self.keep(&path);
            }
            let now = path.metadata().map(|meta| (meta.len(), meta.modified().ok()));
            let is_new = now.is_ok_and(|now| self.made.get(&path) != Some(&now));
            if let (true, true, Ok(name)) = (kind.is_file(), is_new, path.strip_prefix(&self.root)) {
                let to = self.kept.join(name);
                // What cannot be kept is gone with the copy; the case is judged already.
                let _ = to.parent().map(fs::create_dir_all);
                let _ = fs::rename(&path, &to);
            }
        }
    }

    /// Returns the folder `guest-test` of the copy.
    pub(super) fn scripts(&self) -> PathBuf {
        self.root.join("guest-test")
    }

    /// Returns the record of the run's parameters.
    pub(super) fn record(&self) -> PathBuf {
        self.scripts().join("test_params.py")
    }

    /// Returns the framework's `common.sh`.
    pub(super) fn common(&self) -> PathBuf {
        self.root.join("common/common.sh")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.keep(&self.root);
        // It is in the record's folder, where whatever stays is found.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // What is there may be a link to a file of the user's.
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    vmdeck_files::write(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_apart_from_what_it_is_of() {
        let dir = tempfile::tempdir().expect("folder");
        let at = |path: &str| dir.path().join(path);
        for path in ["own/guest-test/sub", "own/demo", "own/tools", "own/.git"] {
            fs::create_dir_all(at(path)).expect("folder");
        }
        for path in [
            "own/guest-test/qemu.config.json",
            "own/guest-test/test_params.py",
            "own/guest-test/sub/a",
            "own/demo/x.sh",
            "own/tools/t",
            "own/.env",
        ] {
            fs::write(at(path), "theirs").expect("file");
        }
        let record = ["PORT=1".to_owned(), "TESTCASE=\"A\"".to_owned()];
        let tree =
            Tree::make(&at("own/demo/copy"), &at("own/guest-test"), Some("demo"), &record, &at("kept")).expect("copy");
        let copied = |path: &str| at("own/demo/copy").join(path);
        assert_eq!(fs::read_to_string(tree.record()).expect("record"), "PORT=1\nTESTCASE=\"A\"\n");
        for path in ["guest-test/sub/a", "guest-test/../demo/x.sh", "demo/../tools/t"] {
            assert_eq!(fs::read_to_string(copied(path)).expect(path), "theirs", "{path}");
            fs::write(copied(path), "changed by a script").expect(path);
        }
        fs::write(copied("demo/new.log"), "a result").expect("file");
        assert!(tree.common().is_file() && tree.scripts().join(EXECUTOR_NAME).is_file());
        assert!(!copied("demo/copy").exists(), "not itself");
        drop(tree);
        assert!(!at("own/demo/copy").exists());
        for path in ["own/guest-test/test_params.py", "own/.env", "own/demo/x.sh", "own/tools/t"] {
            assert_eq!(fs::read_to_string(at(path)).expect(path), "theirs", "{path}");
        }
        for (path, text) in [("kept/demo/new.log", "a result"), ("kept/demo/x.sh", "changed by a script")] {
            assert_eq!(fs::read_to_string(at(path)).expect(path), text);
        }
        assert!(at("kept/guest-test/test_params.py").exists() && !at("kept/.env").exists());
        assert!(!at("own/common").exists());
    }
}
