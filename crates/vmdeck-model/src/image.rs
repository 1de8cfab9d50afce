//! What a machine boots, as the config names it.
//!
//! Resolving, fetching and building it is the core's work.

use super::{
    catalogue::{Catalogue, NamedImage},
    digest::Digest,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A system that a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A folder of this host is its root, read-only, below a writable layer in memory.
    Host,
    /// A disk image, which is never written, or a folder that holds one with its kernel.
    File(PathBuf),
    /// A disk image that is fetched.
    Remote(RemoteImage),
    /// A disk image that the catalogue knows by a name, and its lock file by an address and a digest.
    Named(Box<NamedImage>),
    /// A system that is built.
    Built(Box<Recipe>),
}

impl Image {
    /// Returns the file or folder of this host that the image is, if the config names one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Image::File(path) => Some(path),
            Image::Built(recipe) => match &recipe.way {
                BuildWay::Boot(base) => base.file(),
                BuildWay::Packages => None,
            },
            Image::Host | Image::Remote(_) | Image::Named(_) => None,
        }
    }

    /// Returns the name that the catalogue has for the image, or for the one that it is built from.
    pub fn named(&self) -> Option<&NamedImage> {
        match self {
            Image::Named(named) => Some(named),
            Image::Built(recipe) => match &recipe.way {
                BuildWay::Boot(base) => base.named(),
                BuildWay::Packages => None,
            },
            Image::Host | Image::File(_) | Image::Remote(_) => None,
        }
    }
}

/// A disk image to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteImage {
    /// The address, of the kind `https`; with a digest also `http`.
    pub url: String,
    /// The digest that it must have; `None` = the first one that is seen, from then on.
    pub digest: Option<Digest>,
}

/// What a system is built of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The name and version of the system.
    pub system: String,
    /// The packages that it has besides.
    pub packages: Vec<String>,
    /// The script that is run in it as root, at the end.
    pub script: Option<PathBuf>,
    /// Where its packages come from; `None` = the system's own place, or this host's sources.
    pub mirror: Option<String>,
    /// How it is built.
    pub way: BuildWay,
}

/// How a system is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BuildWay {
    /// From packages, without a machine.
    #[default]
    Packages,
    /// In a machine that boots this image: its disk is kept.
    Boot(Image),
}

/// How images are fetched and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The folder of the cache; `None` = in the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Whether no image may be fetched.
    pub offline: bool,
    /// The bytes that the cache may take before images that nothing uses go; `None` = without a limit.
    pub max_size: Option<u64>,
    /// How long an image that nothing uses is kept; `None` = for ever.
    pub max_age: Option<Duration>,
    /// The names that images can have.
    pub catalogue: Catalogue,
}
