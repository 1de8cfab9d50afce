//! A machine as a backend sees it, and whose it is.
//!
//! Plain data for `vmdeck list` and the cockpit; making and destroying machines is a backend's work.

use super::ids::short_run;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A machine that a backend sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineInfo {
    /// The provider's name for the machine.
    pub name: String,
    /// The kind of the backend that sees it.
    pub backend: &'static str,
    /// `running`, `stopped`, or the provider's own word.
    pub state: String,
    /// The provider's immutable id, where there are such ids.
    pub id: Option<String>,
    /// The address at which the machine can be reached, once one is known.
    pub address: Option<String>,
}

/// Who owns a machine. Ownership comes from the journals alone; a name proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// A run that is in progress.
    #[serde(rename = "running")]
    Running,
    /// A run that died: `vmdeck cleanup` removes the machine.
    #[serde(rename = "dead")]
    Dead,
    /// A run that has ended and kept the machine on purpose.
    #[serde(rename = "kept")]
    Kept,
    /// Nobody that vmdeck knows of.
    #[serde(rename = "not ours")]
    NotOurs,
}

impl Owner {
    /// Returns the word in tables and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Owner::Running => "running",
            Owner::Dead => "dead",
            Owner::Kept => "kept",
            Owner::NotOurs => "not ours",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A machine with its owner: one line of `vmdeck list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnedMachine {
    /// The machine.
    #[serde(flatten)]
    pub machine: MachineInfo,
    /// The run that made or adopted the machine; `None` where no run of ours did.
    pub run: Option<String>,
    /// The machine's owner.
    pub owner: Owner,
    /// The guest that the machine is for.
    pub guest: Option<String>,
}

impl OwnedMachine {
    /// Returns the first eight characters of the run's id, which is how a run is named to people.
    pub fn short_run(&self) -> Option<&str> {
        self.run.as_deref().map(short_run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_one_flat_object_and_its_owner_a_word() {
        let machine =
            MachineInfo { name: "vmdeck-1".into(), backend: "qemu", state: "running".into(), id: None, address: None };
        let row = OwnedMachine { machine, run: None, owner: Owner::NotOurs, guest: None };
        let json = serde_json::to_string(&row).expect("json");
        assert_eq!(
            json,
            r#"{"name":"vmdeck-1","backend":"qemu","state":"running","id":null,"address":null,"run":null,"owner":"not ours","guest":null}"#
        );
        for owner in [Owner::Running, Owner::Dead, Owner::Kept, Owner::NotOurs] {
            assert_eq!(serde_json::to_value(owner).expect("json"), owner.as_str());
        }
    }
}
