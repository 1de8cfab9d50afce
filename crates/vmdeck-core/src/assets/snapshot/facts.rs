//! What is written down of a snapshot, and by which it is known to be whole.

use super::sparse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};
use vmdeck_model::{
    error::{Fault, Result},
    snapshot::SnapshotPoint,
};

/// The file of a snapshot that holds this; it is written last.
pub(super) const FILE: &str = "snapshot.json";
/// The version of the form; what another one wrote is not used.
const VERSION: u32 = 1;

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    version: u32,
    /// The guest that it is of.
    pub guest: String,
    /// The backend that wrote it.
    pub backend: String,
    /// The folder of the config.
    pub config: String,
    /// When the machine was frozen.
    pub point: SnapshotPoint,
    /// The suite whose setup had been run.
    pub suite: Option<String>,
    /// Of a checkpoint: the run, and the case that had failed, `suite/case`.
    pub failed: Option<(String, String)>,
    /// The time at which it was made.
    pub created: DateTime<Utc>,
    /// The snapshot on whose disk it stands.
    pub parent: Option<String>,
    /// The key that the machine's login service shows.
    pub host_key: Option<String>,
    /// Whether a program waits in the guest that renews it.
    pub renews_by_port: bool,
    /// Its files, each with its size and its checksum.
    files: BTreeMap<String, FileSum>,
}

/// What a file of a snapshot has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileSum {
    size: u64,
    crc32: u32,
}

impl SnapshotFacts {
    /// Returns what is known of a snapshot before it has files.
    pub fn new(guest: &str, backend: &str, config: &Path, created: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            guest: guest.to_owned(),
            backend: backend.to_owned(),
            config: config.display().to_string(),
            point: SnapshotPoint::AfterBoot,
            suite: None,
            failed: None,
            created,
            parent: None,
            host_key: None,
            renews_by_port: false,
            files: BTreeMap::new(),
        }
    }

    /// Reads what is written down of the snapshot in a folder; nothing of its files is looked at.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let cannot = || Fault::infra(format!("cannot use the snapshot `{}`", folder.display()));
        let text = vmdeck_files::read_text(&folder.join(FILE), vmdeck_files::SMALL).map_err(|e| cannot().because(e))?;
        let facts: Self = serde_json::from_str(&text).map_err(|e| cannot().because(e))?;
        if facts.version != VERSION {
            return Err(cannot().because("another version of vmdeck made it"));
        }
        Ok(facts)
    }

    /// Notes the files of a folder, and sees to it that they are on the disk.
    pub(super) fn take_in(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let file = vmdeck_files::open(&entry.path())?;
            file.sync_all()?;
            let sum = FileSum { size: file.metadata()?.len(), crc32: sparse::checksum(&file)? };
            self.files.insert(name, sum);
        }
        Ok(())
    }

    /// Compares the files of a folder with what they have to be.
    pub(super) fn verify(&self, folder: &Path) -> Result<()> {
        for (name, wanted) in &self.files {
            let broken = || Fault::infra(format!("cannot use `{}`", folder.join(name).display()));
            let file = vmdeck_files::open(&folder.join(name)).map_err(|e| broken().because(e))?;
            let size = file.metadata().map_err(|e| broken().because(e))?.len();
            if size != wanted.size {
                return Err(broken().because(format!("it has {size} bytes, and not {}", wanted.size)));
            }
            if sparse::checksum(&file).map_err(|e| broken().because(e))? != wanted.crc32 {
                return Err(broken().because("its checksum is not the one that was written down"));
            }
        }
        Ok(())
    }
}
