//! What is known about a machine: its ids, whose it is, and what the journal keeps of it.
//!
//! These are the journal's own forms: a field that is added has a default, so that journals of earlier versions are read.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use vmdeck_model::{guest::Guest, ids::GuestId};

use super::request::{CreateRequest, Lifetime};

/// How far a machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// The machine does not run and holds no memory.
    Off,
    /// The machine is paused or suspended: its memory is kept.
    Suspended,
    /// The machine runs, or is about to.
    On,
}

/// A machine that others made and a guest adopts. It is put back to how it was found, and never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptTarget {
    /// The provider's name for the machine.
    pub name: String,
    /// The provider's immutable id, where there are such ids.
    #[serde(default)]
    pub id: Option<String>,
    /// How the machine was found: what it is put back to.
    pub was: PowerState,
}

/// What makes a machine recognisable for sure: written to the journal, compared before anything is destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineId {
    /// The provider's immutable id.
    #[serde(default)]
    pub uuid: Option<String>,
    /// What the provider itself is known by: another one at the same place knows nothing of the machine.
    #[serde(default)]
    pub provider: Option<String>,
    /// The machine's process on this host.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When that process started, in seconds since 1970.
    #[serde(default)]
    pub started: Option<u64>,
}

/// What the journal knows about a machine that was made or adopted, or was about to be: one side of the two proofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineRecord {
    /// The generated name: the nonce that proves the machine ours.
    pub name: String,
    /// The ids that were recorded, or intended.
    pub id: MachineId,
    /// Where the backend looks for it, in its own words.
    pub place: BTreeMap<String, String>,
    /// The machine's private folder.
    pub dir: PathBuf,
    /// The machine that was adopted, if none was made.
    pub adopted: Option<AdoptTarget>,
    /// The kind of the backend.
    pub backend: String,
    /// The guest that the machine is for.
    pub guest: GuestId,
    /// Where the login service is, once it was reached.
    pub address: Option<SocketAddr>,
    /// The host key that the machine showed.
    pub host_key: Option<String>,
    /// The socket of the serial console.
    pub console: Option<PathBuf>,
    /// What is known of it besides, where it was kept.
    pub kept: Option<KeptMachine>,
}

/// What is known of a machine that was kept, for whoever wants to use it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMachine {
    /// What it was made from: the same words make the same machine.
    pub fingerprint: String,
    /// How many runs have used it.
    pub uses: u32,
}

impl MachineRecord {
    /// Returns the name that the provider knows the machine by.
    pub fn provider_name(&self) -> &str {
        self.adopted.as_ref().map_or(&self.name, |target| &target.name)
    }

    /// Returns the request that the machine came from, for a handle on what is there already.
    pub(super) fn request<'a>(&'a self, guest: &'a Guest) -> CreateRequest<'a> {
        let dir: &Path = &self.dir;
        CreateRequest {
            guest,
            name: &self.name,
            uuid: "",
            private_dir: dir,
            record_dir: dir,
            lifetime: Lifetime::MayOutliveUs,
            services: &[],
            network: None,
            freezable: false,
            memory: None,
        }
    }
}
