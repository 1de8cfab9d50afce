//! What the host tells the guest's init: a file of the initial RAM disk.

use serde::{Deserialize, Serialize};

/// The path of the file in the initial RAM disk.
pub const FILE: &str = "/vmdeck.json";
/// The folder of the modules in the initial RAM disk.
pub const MODULES: &str = "/modules";
/// The name of the serial port over which the host speaks to the agent.
pub const PORT: &str = "vmdeck.agent";

/// What the init has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetup {
    /// The files of the modules in [`MODULES`], in the order in which they are loaded.
    pub modules: Vec<String>,
    /// The share that becomes the root, below an overlay in memory.
    pub root: GuestShare,
    /// The other shares, a folder before those below it.
    pub shares: Vec<GuestShare>,
    /// The host name.
    pub hostname: String,
    /// Whether the first network card gets the address that QEMU's user network expects.
    pub network: bool,
}

/// How folders of the host are shared with a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareProtocol {
    /// The 9P file system, which QEMU serves by itself.
    #[default]
    #[serde(rename = "9p")]
    Plan9,
    /// The virtiofs file system, which a daemon for each share serves.
    #[serde(rename = "virtiofs")]
    Virtiofs,
}

impl ShareProtocol {
    /// Returns the word used in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            ShareProtocol::Plan9 => "9p",
            ShareProtocol::Virtiofs => "virtiofs",
        }
    }
}

/// A folder of the host in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestShare {
    /// The tag of the share.
    pub tag: String,
    /// The protocol of the share.
    pub by: ShareProtocol,
    /// The absolute path in the guest.
    pub to: String,
    /// Whether the host refuses writes.
    pub read_only: bool,
}
