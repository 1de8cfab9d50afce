//! The key of a snapshot: a hash of all that the frozen machine depends on. Where any of it changes, another snapshot is looked for.

use super::super::fingerprint::fingerprint;
use crate::{backend::contract::Snapshots, context::CallContext};
use sha2::{Digest, Sha256};
use vmdeck_model::{digest::hex, error::Result, guest::Guest, ids::SuiteId};

/// Returns the key of a machine that has booted: of the guest's keys and files, and of what the backend names.
pub(super) async fn booted(guest: &Guest, backend: &dyn Snapshots, context: CallContext<'_>) -> Result<String> {
    let basis = backend.basis(guest, context).await?;
    Ok(hash(&[&fingerprint(guest), &basis]))
}

/// What the setup of a suite depends on besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct SetupKey {
    /// The suite.
    pub(in crate::engine) suite: SuiteId,
    /// What its setup depends on: its text, the code, what it requires.
    inputs: String,
}

impl SetupKey {
    /// Returns the key of a suite's setup with these inputs.
    pub(in crate::engine) fn of(suite: &SuiteId, inputs: &[&str]) -> Self {
        Self { suite: suite.clone(), inputs: hash(inputs) }
    }

    /// Returns the key of a machine in which the setup has been run.
    pub(super) fn on(&self, booted: &str) -> String {
        hash(&[booted, self.suite.as_str(), &self.inputs])
    }
}

/// Returns the key of a checkpoint.
pub(super) fn of_checkpoint(of: &[&str]) -> String {
    hash(&[&["checkpoint"], of].concat())
}

/// Returns the hash of texts, in hexadecimal; where one ends and the next begins counts.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts_for_itself() {
        let suite = |name: &str| SuiteId::new(name).expect("suite");
        let key = |name: &str, inputs: &[&str]| SetupKey::of(&suite(name), inputs).on("booted");
        let first = key("s", &["make", "code"]);
        assert_eq!(key("s", &["make", "code"]), first);
        for other in [key("t", &["make", "code"]), key("s", &["makec", "ode"]), key("s", &["make"])] {
            assert_ne!(other, first);
        }
        assert_ne!(SetupKey::of(&suite("s"), &["make", "code"]).on("other"), first);
    }
}
