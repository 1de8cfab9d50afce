//! What earlier boots of a guest took, phase by phase: the base of "usual" times and of the time left.
//!
//! One small file for each guest in the state folder; a broken one only loses the estimate.

use crate::{
    host::files,
    model::{event::Phase, guest::Guest},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Boots that are remembered.
const KEPT: usize = 9;

/// Milliseconds of the phases of earlier boots, newest last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    boots: Vec<BTreeMap<Phase, u64>>,
}

impl History {
    /// Reads it; empty when there is none.
    pub(super) fn load(state: &Path, guest: &Guest) -> Self {
        fs::read(file(state, guest)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// What a phase usually takes: the median of the boots that had it.
    pub(super) fn usual(&self, phase: Phase) -> Option<u64> {
        let mut all: Vec<u64> = self.boots.iter().filter_map(|b| b.get(&phase).copied()).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }

    /// Adds a boot and writes it down.
    pub(super) fn add(mut self, state: &Path, guest: &Guest, boot: BTreeMap<Phase, u64>) {
        self.boots.push(boot);
        let excess = self.boots.len().saturating_sub(KEPT);
        self.boots.drain(..excess);
        let path = file(state, guest);
        if let (Some(folder), Ok(bytes)) = (path.parent(), serde_json::to_vec(&self)) {
            // Only an estimate is lost if this fails.
            let _ = files::private_dir(folder).and_then(|()| files::write_atomic(&path, &bytes));
        }
    }
}

/// The name holds what makes boots comparable: another image or memory is another guest.
fn file(state: &Path, guest: &Guest) -> PathBuf {
    let what =
        format!("{:?} {:?} {} {}", guest.options.path("image"), guest.options.path("kernel"), guest.memory, guest.cpus);
    state.join("history").join(format!("{}-{}-{:08x}.json", guest.id, guest.backend, crc32fast::hash(what.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_is_the_median_of_the_boots_that_had_the_phase() {
        let boot = |ms| BTreeMap::from([(Phase::Kernel, ms)]);
        let history = History { boots: vec![boot(9000), boot(10), boot(30), BTreeMap::new()] };
        assert_eq!(history.usual(Phase::Kernel), Some(30));
        assert_eq!(history.usual(Phase::Sshd), None);
    }
}
