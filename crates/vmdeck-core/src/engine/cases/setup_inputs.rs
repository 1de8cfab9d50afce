//! Whether the setup of a suite has to be run again in a machine that an earlier run kept: by what it depends on.

use super::boot_id;
use crate::{
    engine::{context::RunContext, machine::LeasedMachine, reap},
    transport::source,
};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    guest::Guest,
    suite::Suite,
};

/// What the setup of a suite depends on, as one word, and where the word of the last good one stands: in the machine's own folder, with
/// which it goes.
pub(super) struct SetupInputs {
    file: PathBuf,
    now: String,
}

impl SetupInputs {
    /// Looks at the inputs; `None` = the setup is run in any case.
    pub(super) async fn of(
        context: &RunContext,
        guest: &Guest,
        suite: &Suite,
        machine: &LeasedMachine,
    ) -> Result<Option<Self>> {
        let Some(globs) = suite.setup_inputs.clone() else { return Ok(None) };
        let file = reap::machine_folder(&context.backend.state, &machine.name).join(format!("setup-{}", suite.id));
        let mut hash = Sha256::new();
        let Suite { setup, env, dir, run_as, shell, requires, .. } = suite;
        hash.update(format!("{setup:?} {env:?} {dir:?} {run_as:?} {shell:?} {requires:?}"));
        if let Some(source) = guest.source.clone() {
            let reading = tokio::task::spawn_blocking(move || source::hash_of_contents(&source, &globs)).await;
            hash.update(reading.map_err(|e| Fault::bug("reading the inputs of the setup panicked").because(e))??);
        }
        // What a setup has done may be gone with a restart.
        hash.update(boot_id::ask(machine).await?);
        Ok(Some(Self { file, now: hex(&hash.finalize()) }))
    }

    /// Returns whether the last good setup in this machine depended on the same.
    pub(super) fn are_unchanged(&self) -> bool {
        vmdeck_files::read_text(&self.file, vmdeck_files::SMALL).is_ok_and(|before| before == self.now)
    }

    /// Forgets the last good setup: the next one may stop half-way.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    /// Notes that the setup went well; where that cannot be, it is run again next time.
    pub(super) fn remember(&self) {
        let _ = vmdeck_files::write(&self.file, self.now.as_bytes());
    }
}
