//! What a machine boots, as the config names it.
//!
//! Fetching and building it is the core's work.

use std::path::PathBuf;

/// A system that a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A folder of this host is its root, read-only, below a writable layer in memory.
    Host,
    /// A disk image, which is never written, or a folder that holds one with its kernel.
    File(PathBuf),
    /// A disk image that is fetched from this address.
    Remote {
        /// The address.
        url: String,
        /// The digest that it must have, as hexadecimal digits; `None` = the first one that is seen.
        digest: Option<String>,
    },
    /// A system that is built of packages.
    Built(Recipe),
}

/// What a system is built of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The name and version of the system.
    pub system: String,
    /// The packages that it has besides.
    pub packages: Vec<String>,
    /// The script that is run in it as root, at the end.
    pub script: Option<PathBuf>,
    /// Where its packages come from; `None` = the system's own place, or this host's sources.
    pub mirror: Option<String>,
}
