//! The folders in which the framework's scripts run: a copy made of links, with files of this run in it.
//!
//! Folders are real ones, because `..` through a link would lead out; so that two calls never write into the same files, and the
//! user's tree is not written to.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use vmdeck_model::error::{Fault, Result};

/// Most files and folders that are linked.
const ENTRIES: usize = 100_000;
const ENV: &str = include_str!("files/env.sh");
const COMMON: &str = include_str!("files/common.sh");
const EXECUTOR: &str = include_str!("files/guest.test_executor.sh");

/// The name of the script that the framework runs.
pub(super) const EXECUTOR_NAME: &str = "guest.test_executor.sh";

/// The copy; it is removed when this is dropped.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes a copy of the scripts in `folder` at `root`, which does not exist yet. `feature` = the folder of a feature, from
    /// `folder`'s own parent; `record` = the lines of `test_params.py`.
    pub(super) fn make(root: &Path, folder: &Path, feature: Option<&str>, record: &[String]) -> Result<Self> {
        let tree = Self { root: root.to_owned() };
        let cannot = |e: io::Error| {
            Fault::host(format!("cannot copy the scripts of `{}` to `{}`", folder.display(), root.display())).because(e)
        };
        tree.fill(folder, feature, record).map_err(cannot)?;
        Ok(tree)
    }

    fn fill(&self, folder: &Path, feature: Option<&str>, record: &[String]) -> io::Result<()> {
        vmdeck_files::make_folders(&self.root)?;
        let mut entries = 0;
        mirror(folder, &self.scripts(), &mut entries)?;
        if let Some(parent) = folder.parent() {
            let real = feature.map(|name| parent.join(name));
            if let (Some(real), Some(name)) = (real.filter(|path| path.is_dir()), feature) {
                mirror(&real, &self.root.join(name), &mut entries)?;
            }
            for entry in fs::read_dir(parent)?.filter_map(io::Result::ok) {
                let to = self.root.join(entry.file_name());
                // Not what is in this run's own files.
                if !to.exists() && !self.root.starts_with(entry.path()) {
                    symlink(entry.path(), to)?;
                }
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
        if executor.exists() { Ok(()) } else { replace(&executor, EXECUTOR) }
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

fn mirror(from: &Path, to: &Path, entries: &mut usize) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        *entries += 1;
        if *entries > ENTRIES {
            return Err(io::Error::other(format!("there are more than {ENTRIES} files in it")));
        }
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        if name == ".git" || name == ".vmdeck" || target.exists() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            mirror(&entry.path(), &target, entries)?;
        } else {
            symlink(entry.path(), target)?;
        }
    }
    Ok(())
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
        let tree = Tree::make(&at("copy"), &at("own/guest-test"), Some("demo"), &record).expect("copy");
        assert_eq!(fs::read_to_string(tree.record()).expect("record"), "PORT=1\nTESTCASE=\"A\"\n");
        for path in ["guest-test/sub/a", "guest-test/../demo/x.sh", "demo/../tools/t"] {
            assert_eq!(fs::read_to_string(at("copy").join(path)).expect(path), "theirs", "{path}");
        }
        assert!(tree.common().is_file() && tree.scripts().join(EXECUTOR_NAME).is_file());
        drop(tree);
        assert!(!at("copy").exists());
        for path in ["own/guest-test/test_params.py", "own/.env", "own/demo/x.sh"] {
            assert_eq!(fs::read_to_string(at(path)).expect(path), "theirs", "{path}");
        }
        assert!(!at("own/common").exists());
    }
}
