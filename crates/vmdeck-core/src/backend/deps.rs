//! What a backend is built with.

use crate::{
    assets::{image::store::ImageStore, snapshot::store::SnapshotStore},
    host::process::Spawner,
};
use std::{collections::BTreeMap, path::PathBuf};

/// The host's tools that are not where they usually are: the name, and the program. Keys of `[host.tools]`.
pub type Tools = BTreeMap<String, String>;

/// What a backend is built with.
#[derive(Clone, Debug)]
pub struct BackendDeps {
    /// Starts processes.
    pub spawner: Spawner,
    /// The folder where vmdeck keeps what must survive it.
    pub state: PathBuf,
    /// The tools that are not where they usually are.
    pub tools: Tools,
    /// The cache of images.
    pub images: ImageStore,
    /// The snapshots of machines.
    pub snapshots: SnapshotStore,
}
