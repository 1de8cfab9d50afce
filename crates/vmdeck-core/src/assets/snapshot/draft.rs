//! A snapshot that is being made. It is nobody's until it is whole: what breaks off is removed, by us or by whoever looks next.

use super::facts::{FILE, SnapshotFacts};
use crate::host::{clock, failpoint, files, lockdir};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// A snapshot that is being made.
#[derive(Debug)]
pub struct SnapshotDraft {
    folder: PathBuf,
    place: PathBuf,
    /// Its lock, by which others see that somebody is at work here.
    lock: OwnedFd,
    is_whole: bool,
}

impl SnapshotDraft {
    /// Makes an empty folder beside the place of the snapshot.
    pub(super) fn begin(folder: PathBuf, place: PathBuf) -> io::Result<Self> {
        files::private_dir(&folder)?;
        let lock = lockdir::open(&folder)?;
        lockdir::try_flock(&lock)?;
        Ok(Self { folder, place, lock, is_whole: false })
    }

    /// Returns the folder to write into.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder in which all of it will stand.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Makes the snapshot known. Each file is on the disk before the list of them is, and the list before the folder has its name.
    pub fn commit(mut self, mut facts: SnapshotFacts) -> io::Result<()> {
        failpoint::reach("snapshot-begin")?;
        facts.take_in(&self.folder)?;
        failpoint::reach("snapshot-files")?;
        let list = serde_json::to_vec_pretty(&facts)?;
        files::write_atomic(&self.folder.join(FILE), &list)?;
        rustix::fs::fsync(&self.lock)?;
        failpoint::reach("snapshot-list")?;
        // One that is there already is of the same things: which of two stays is all the same.
        self.is_whole = lockdir::publish(&self.folder, &self.place)?;
        failpoint::pass("snapshot-known");
        if let Some(parent) = self.place.parent() {
            if let Some(Ok(below)) = facts.parent.as_ref().map(|key| lockdir::open(&parent.join(key))) {
                // It goes with the one on whose disk it stands, which is as new as it is.
                let _ = std::fs::File::from(below).set_modified(clock::system());
            }
            rustix::fs::fsync(lockdir::open(parent)?)?;
        }
        Ok(())
    }
}

impl Drop for SnapshotDraft {
    fn drop(&mut self) {
        if !self.is_whole {
            // What stays is removed by the next one that looks.
            let _ = files::remove_dir(&self.folder);
        }
    }
}
