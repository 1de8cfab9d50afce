//! What earlier boots of a guest took, phase by phase: the base of "usual" times and of the time left.
//!
//! One small file for each guest in the state folder; a broken one only loses the estimate.

use crate::host::files;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use vmdeck_model::{event::Phase, guest::Guest, times::median};

/// Boots that are remembered.
const KEPT: usize = 9;

/// Milliseconds of the phases of earlier boots, newest last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct BootTimes {
    boots: Vec<BTreeMap<Phase, u64>>,
    /// The longest time without a console line in each phase.
    #[serde(default)]
    quiets: Vec<BTreeMap<Phase, u64>>,
}

impl BootTimes {
    /// Reads it; empty when there is none.
    pub(super) fn load(state: &Path, guest: &Guest) -> Self {
        vmdeck_files::read(&file(state, guest), vmdeck_files::SMALL)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Returns where the console lines of the last good boot are.
    pub(super) fn lines(state: &Path, guest: &Guest) -> PathBuf {
        file(state, guest).with_extension("lines")
    }

    /// Returns what a phase usually takes: the median of the boots that had it.
    pub(super) fn usual(&self, phase: Phase) -> Option<u64> {
        median(self.boots.iter().filter_map(|b| b.get(&phase).copied()).collect())
    }

    /// Returns what the boot usually takes after a phase.
    pub(super) fn rest(&self, phase: Phase) -> Option<u64> {
        let with = self.boots.iter().filter(|b| b.contains_key(&phase));
        median(with.map(|b| b.iter().filter(|(p, _)| **p > phase).map(|(_, ms)| ms).sum()).collect())
    }

    /// Returns the longest time without a console line that a phase usually has.
    pub(super) fn quiet(&self, phase: Phase) -> Option<u64> {
        median(self.quiets.iter().filter_map(|b| b.get(&phase).copied()).collect())
    }

    /// Adds a boot and writes it down.
    pub(super) fn add(mut self, state: &Path, guest: &Guest, boot: BTreeMap<Phase, u64>, quiet: BTreeMap<Phase, u64>) {
        for (list, one) in [(&mut self.boots, boot), (&mut self.quiets, quiet)] {
            list.push(one);
            let excess = list.len().saturating_sub(KEPT);
            list.drain(..excess);
        }
        let path = file(state, guest);
        if let (Some(folder), Ok(bytes)) = (path.parent(), serde_json::to_vec(&self)) {
            // Only an estimate is lost if this fails.
            let _ = files::private_dir(folder).and_then(|()| files::write_atomic(&path, &bytes));
        }
    }
}

/// Returns the file of a guest. Its name holds what makes boots comparable: another image or memory is another guest.
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
        let boots = vec![boot(9000), boot(10), boot(30), BTreeMap::new()];
        let history = BootTimes { boots, ..BootTimes::default() };
        assert_eq!(history.usual(Phase::Kernel), Some(30));
        assert_eq!(history.usual(Phase::Service), None);
    }
}
