//! When a guest's machine is frozen, so that others can begin where it was.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// The point at which a machine is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotPoint {
    /// It is not: each machine boots.
    Off,
    /// Once it is up, before anything is brought in.
    AfterBoot,
    /// Besides, once the code is in and the setup of a suite has been run.
    AfterSetup,
    /// When a case had failed: a checkpoint. No word of this key.
    AtFailure,
}

impl SnapshotPoint {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["off", "after-boot", "after-setup"];

    /// Returns the point of a word of the config.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Off, Self::AfterBoot, Self::AfterSetup].into_iter().find(|point| point.as_str() == word)
    }

    /// Returns the word of the config.
    pub fn as_str(self) -> &'static str {
        match self {
            SnapshotPoint::Off => "off",
            SnapshotPoint::AfterBoot => "after-boot",
            SnapshotPoint::AfterSetup => "after-setup",
            SnapshotPoint::AtFailure => "at-failure",
        }
    }
}

impl fmt::Display for SnapshotPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When the state of a machine is kept for whoever looks for the cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Never.
    Never,
    /// When a case has failed.
    OnFailure,
}

impl Checkpoint {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["never", "on-failure"];

    /// Reads a word; anything unknown is `never`.
    pub fn of_word(word: &str) -> Self {
        if word == "on-failure" { Checkpoint::OnFailure } else { Checkpoint::Never }
    }
}

/// How snapshots are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// The folder of the snapshots; `None` = in the user's cache folder.
    pub cache: Option<PathBuf>,
    /// The bytes that they may take before those that nothing uses go.
    pub max_size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_means_its_point() {
        for word in SnapshotPoint::WORDS {
            assert_eq!(SnapshotPoint::of_word(word).map(SnapshotPoint::as_str), Some(*word));
        }
        assert_eq!(SnapshotPoint::of_word("after"), None);
    }
}
