//! The folder of all snapshots of one user: found by what they are of, the one used longest ago removed first.

use super::{SnapshotDraft, SnapshotFacts};
use crate::host::{clock, files, info, lockdir, random};
use rustix::fs::FlockOperation;
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::SystemTime,
};
use vmdeck_model::{
    error::{Fault, Result},
    snapshot::SnapshotConfig,
};

/// The folder of all snapshots.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    folder: PathBuf,
    max_size: u64,
}

/// A snapshot that is there.
#[derive(Clone, Debug)]
pub struct StoredSnapshot {
    /// Its key: what it is of, in hexadecimal.
    pub key: String,
    /// Where it is.
    pub folder: PathBuf,
    /// What is written down of it.
    pub facts: SnapshotFacts,
    /// The bytes that it takes on the disk.
    pub size: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// A snapshot that is in use: nobody removes it meanwhile.
#[derive(Debug)]
pub struct UsedSnapshot {
    /// Where it is.
    pub folder: PathBuf,
    /// What is written down of it.
    pub facts: SnapshotFacts,
    _lock: OwnedFd,
}

impl SnapshotStore {
    /// Returns the store that a config wants; its folder is made when something is put into it.
    pub fn new(config: &SnapshotConfig) -> Self {
        let folder = config.cache.clone().unwrap_or_else(|| info::cache_dir().join("snapshots"));
        Self { folder, max_size: config.max_size }
    }

    /// Returns a store for whoever makes no machine.
    pub fn unused() -> Self {
        Self { folder: PathBuf::from("/nonexistent"), max_size: 0 }
    }

    /// Returns the folder of all snapshots.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the snapshot of this key for use, if there is one. `check` = whether all of its files are read and compared, which takes
    /// a moment; what is broken is removed, and an error says what was wrong.
    pub fn find(&self, key: &str, check: bool) -> Result<Option<UsedSnapshot>> {
        let folder = self.folder.join(key);
        let Ok(lock) = lockdir::open(&folder) else { return Ok(None) };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err() || !folder.exists() {
            // Somebody is removing it.
            return Ok(None);
        }
        let found = SnapshotFacts::read(&folder).and_then(|facts| {
            if check {
                facts.verify(&folder)?;
            }
            Ok(facts)
        });
        match found {
            Ok(facts) => {
                for key in facts.parent.iter().map(String::as_str).chain([key]) {
                    touch(&self.folder.join(key));
                }
                Ok(Some(UsedSnapshot { folder, facts, _lock: lock }))
            }
            Err(fault) => {
                drop(lock);
                // What cannot be removed is found broken again.
                let _ = self.remove(key);
                Err(fault)
            }
        }
    }

    /// Begins a snapshot of this key.
    pub fn begin(&self, key: &str) -> io::Result<SnapshotDraft> {
        files::private_dir(&self.folder)?;
        self.sweep();
        SnapshotDraft::begin(self.folder.join(format!(".{key}-{:08x}", random::u32())), self.folder.join(key))
    }

    /// Removes what was being made by somebody who is gone.
    pub fn sweep(&self) {
        for (name, path) in self.entries().filter(|(name, _)| name.starts_with('.')) {
            let is_dead = lockdir::open(&path).is_ok_and(|lock| lockdir::try_flock(&lock).unwrap_or(false));
            if is_dead {
                let _ = files::remove_dir(&self.folder.join(name));
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let all = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        all.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
    }

    /// Returns each snapshot's key and what is written down of it. What cannot be read is left out.
    fn facts(&self) -> impl Iterator<Item = (String, SnapshotFacts)> {
        let named = self.entries().filter(|(name, _)| !name.starts_with('.'));
        named.filter_map(|(key, folder)| Some((key, SnapshotFacts::read(&folder).ok()?)))
    }

    /// Returns a snapshot with its size, for which all of its files are looked at.
    fn measured(&self, key: String, facts: SnapshotFacts) -> StoredSnapshot {
        let folder = self.folder.join(&key);
        let used = fs::metadata(&folder).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        StoredSnapshot { size: files::disk_usage(&folder), key, folder, facts, used }
    }

    /// Lists every snapshot, the one that was used last first. What cannot be read is left out.
    pub fn list(&self) -> Vec<StoredSnapshot> {
        let mut all: Vec<StoredSnapshot> = self.facts().map(|(key, facts)| self.measured(key, facts)).collect();
        all.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.used));
        all
    }

    /// Returns the key of the checkpoint of a case, `suite/case`, that failed in a run.
    pub fn checkpoint(&self, run: &str, guest: &str, case: &str) -> Option<String> {
        let is_it = |(_, facts): &(String, SnapshotFacts)| {
            facts.guest == guest && facts.failed.as_ref().is_some_and(|(of, name)| of == run && name == case)
        };
        self.facts().find(is_it).map(|(key, _)| key)
    }

    /// Removes a snapshot and those that stand on its disk; machines that go on from them have what they need. Returns what went, or an
    /// error where one is in use just now.
    pub fn remove(&self, key: &str) -> Result<Vec<StoredSnapshot>> {
        let folder = self.folder.join(key);
        let cannot = || Fault::host(format!("cannot remove the snapshot `{}`", folder.display()));
        let mut gone = Vec::new();
        for (child, _) in self.facts().filter(|(_, other)| other.parent.as_deref() == Some(key)) {
            gone.extend(self.remove(&child)?);
        }
        // What cannot be read is removed as well, and there is nothing to be told of it.
        let own = SnapshotFacts::read(&folder).ok().map(|facts| self.measured(key.to_owned(), facts));
        match lockdir::open(&folder) {
            Ok(lock) if lockdir::try_flock(&lock).unwrap_or(false) => {
                files::remove_dir(&folder).map_err(|e| cannot().because(e))?;
            }
            Ok(_) => return Err(cannot().because("a run uses it").hint("try again when that has ended")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot().because(e)),
        }
        gone.extend(own);
        Ok(gone)
    }

    /// Removes what is beyond the size that all may have, the one that was used longest ago first; returns what went.
    pub fn trim(&self, max_size: Option<u64>) -> Vec<StoredSnapshot> {
        self.sweep();
        let most = max_size.unwrap_or(self.max_size);
        let (mut all, mut gone) = (self.list(), Vec::new());
        let mut total: u64 = all.iter().map(|snapshot| snapshot.size).sum();
        while total > most {
            // What others stand on goes after them.
            let is_below = |key: &str| all.iter().any(|other| other.facts.parent.as_deref() == Some(key));
            let Some(at) = all.iter().rposition(|snapshot| !is_below(&snapshot.key)) else { break };
            let snapshot = all.remove(at);
            if self.remove(&snapshot.key).is_ok() {
                total -= snapshot.size;
                gone.push(snapshot);
            }
        }
        gone
    }
}

/// Notes that a snapshot was used now; that it fails only makes it look older.
fn touch(folder: &Path) {
    if let Ok(folder) = lockdir::open(folder) {
        let _ = fs::File::from(folder).set_modified(clock::system());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    fn store(max_size: u64) -> (tempfile::TempDir, SnapshotStore) {
        let home = tempfile::tempdir().expect("tempdir");
        let config = SnapshotConfig { cache: Some(home.path().join("s")), max_size };
        let store = SnapshotStore::new(&config);
        (home, store)
    }

    fn make(store: &SnapshotStore, key: &str, parent: Option<&str>) {
        let draft = store.begin(key).expect("begun");
        vmdeck_files::write(&draft.folder().join("ram"), &vec![7; 100_000]).expect("write");
        let mut facts = SnapshotFacts::new("deb", "qemu", Path::new("/c"), clock::utc());
        facts.parent = parent.map(str::to_owned);
        draft.commit(facts).expect("committed");
    }

    #[test]
    fn what_is_whole_is_found_and_what_is_not_is_removed() {
        let (_home, store) = store(u64::MAX);
        assert!(store.find("a", true).expect("none").is_none(), "nothing is there");
        make(&store, "a", None);
        let found = store.find("a", true).expect("whole").expect("there");
        assert_eq!(found.facts.guest, "deb");
        let ram = found.folder.join("ram");
        drop(found);
        for spoil in [
            &(|| vmdeck_files::write(&ram, &vec![7; 99_999])) as &dyn Fn() -> io::Result<()>,
            &|| vmdeck_files::write(&ram, &[&vec![7; 99_999][..], &[8]].concat()),
            &|| fs::remove_file(&ram),
            &|| vmdeck_files::write(&ram.with_file_name("snapshot.json"), b"{\"version\": 1"),
            &|| vmdeck_files::write(&ram.with_file_name("snapshot.json"), b"{\"version\": 0}"),
        ] {
            make(&store, "a", None);
            spoil().expect("spoiled");
            assert!(store.find("a", true).is_err());
            assert!(store.find("a", true).expect("gone").is_none(), "it was removed");
        }
    }

    #[test]
    fn what_breaks_off_leaves_nothing() {
        let (home, store) = store(u64::MAX);
        let draft = store.begin("a").expect("begun");
        store.sweep();
        assert!(draft.folder().exists(), "somebody is at work there");
        drop(draft);
        let left = home.path().join("s/.a-00000001");
        files::private_dir(&left).expect("of one that was killed");
        assert!(store.list().is_empty());
        store.sweep();
        assert!(!left.exists());
        assert_eq!(fs::read_dir(home.path().join("s")).expect("list").count(), 0);
    }

    #[test]
    fn two_that_make_the_same_leave_one() {
        let (home, store) = store(u64::MAX);
        let (one, two) = (store.begin("a").expect("begun"), store.begin("a").expect("begun"));
        for draft in [one, two] {
            draft.commit(SnapshotFacts::new("deb", "qemu", Path::new("/c"), clock::utc())).expect("committed");
        }
        assert_eq!(store.list().len(), 1);
        assert_eq!(fs::read_dir(home.path().join("s")).expect("list").count(), 1);
    }

    #[test]
    fn the_one_used_longest_ago_goes_first_and_takes_what_stands_on_it() {
        let (_home, store) = store(u64::MAX);
        make(&store, "old", None);
        make(&store, "child", Some("old"));
        make(&store, "new", None);
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for (key, time) in [("old", 1), ("child", 2), ("new", 3)] {
            let folder = lockdir::open(&store.folder.join(key)).expect("open");
            fs::File::from(folder).set_modified(at(time)).expect("set");
        }
        let keys = || {
            let mut keys: Vec<String> = store.list().into_iter().map(|snapshot| snapshot.key).collect();
            keys.sort();
            keys
        };
        let used = store.find("old", false).expect("whole").expect("there");
        assert!(store.remove("old").is_err(), "in use");
        drop(used);
        make(&store, "child", Some("old"));
        // Its use has made the old one the newest, and what stands on it goes before it all the same.
        let gone: Vec<String> = store.trim(Some(250_000)).into_iter().map(|snapshot| snapshot.key).collect();
        assert_eq!((gone, keys()), (vec!["new".to_owned()], vec!["child".to_owned(), "old".to_owned()]));
        let gone: Vec<String> = store.trim(Some(150_000)).into_iter().map(|snapshot| snapshot.key).collect();
        assert_eq!(gone, ["child"]);
        make(&store, "child", Some("old"));
        let gone: Vec<String> = store.remove("old").expect("gone").into_iter().map(|snapshot| snapshot.key).collect();
        assert_eq!(gone, ["child", "old"]);
        make(&store, "old", None);
        store.trim(Some(0));
        assert!(keys().is_empty());
    }
}
