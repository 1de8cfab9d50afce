//! The commands that switch a remote machine on and off: how they are run, and where a reaper finds them.

use crate::host::{
    clock, files,
    process::{Spawner, Spec},
};
use serde::{Deserialize, Serialize};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    error::{Fault, Result},
    guest::{Guest, PowerHooks},
};

/// How long one command may take.
const LIMIT: Duration = Duration::from_mins(2);
/// How long a machine that was switched off may still say that it is on.
const OFF: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });
/// Pause between two questions whether it is off.
const PAUSE: Duration = Duration::from_millis(500);
/// The file in a machine's private folder that holds them.
const FILE: &str = "power.json";
/// Most characters of a command's complaint that a message repeats.
const WORDS: usize = 300;

/// The commands of one machine, and what they are told of it.
#[derive(Clone, Debug)]
pub(super) struct Power {
    spawner: Spawner,
    stored: Stored,
}

/// What a reaper needs: the journal has no place for it, and no config is at hand.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    guest: String,
    address: String,
    on: Option<String>,
    off: Option<String>,
    status: Option<String>,
}

impl Power {
    /// Returns the commands of a guest's machine.
    pub(super) fn of(spawner: &Spawner, guest: &Guest) -> Self {
        let PowerHooks { on, off, status } = guest.power.clone();
        let address = guest.address.clone().unwrap_or_default();
        Self { spawner: spawner.clone(), stored: Stored { guest: guest.id.to_string(), address, on, off, status } }
    }

    /// Returns the commands that were written to a machine's private folder; none, where there are none.
    pub(super) fn of_folder(spawner: &Spawner, folder: &Path) -> Self {
        let read = vmdeck_files::read(&folder.join(FILE), vmdeck_files::SMALL);
        let stored = read.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { spawner: spawner.clone(), stored }
    }

    /// Writes the commands to a machine's private folder, which it makes.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(&self.stored).map_err(|e| Fault::bug("cannot write JSON").because(e))?;
        files::private_dir(folder)
            .and_then(|()| files::write_atomic(&folder.join(FILE), &bytes))
            .map_err(|e| Fault::host(format!("cannot write to `{}`", folder.display())).because(e))
    }

    /// Returns whether the machine is on; `None` = there is no command that tells.
    pub(super) async fn is_on(&self) -> Result<Option<bool>> {
        let Some(command) = &self.stored.status else { return Ok(None) };
        let (code, said) = self.run(command, "power.status").await?;
        match code {
            Some(0) => Ok(Some(true)),
            Some(1) => Ok(Some(false)),
            _ => Err(self
                .failed("power.status", code, &said)
                .hint("it exits with 0 where the machine is on, and 1 where it is off")),
        }
    }

    /// Waits until the machine is off, which takes a system a while; returns whether it is on.
    pub(super) async fn once_off(&self) -> Result<Option<bool>> {
        let start = clock::now();
        loop {
            let is_on = self.is_on().await?;
            if is_on != Some(true) || start.elapsed() > OFF {
                return Ok(is_on);
            }
            clock::sleep(PAUSE).await;
        }
    }

    /// Switches the machine on.
    pub(super) async fn switch_on(&self) -> Result<()> {
        self.switch(self.stored.on.as_deref(), "power.on").await
    }

    /// Switches the machine off, where there is a command for that.
    pub(super) async fn switch_off(&self) -> Result<()> {
        self.switch(self.stored.off.as_deref(), "power.off").await
    }

    /// Returns whether there is a command that switches the machine off.
    pub(super) fn has_off(&self) -> bool {
        self.stored.off.is_some()
    }

    async fn switch(&self, command: Option<&str>, key: &str) -> Result<()> {
        let Some(command) = command else { return Ok(()) };
        match self.run(command, key).await? {
            (Some(0), _) => Ok(()),
            (code, said) => Err(self.failed(key, code, &said)),
        }
    }

    async fn run(&self, command: &str, key: &str) -> Result<(Option<i32>, String)> {
        let spec = Spec::new("/bin/sh").args(["-c", command]);
        let spec = spec.env("VMDECK_GUEST", &self.stored.guest).env("VMDECK_ADDRESS", &self.stored.address);
        let output = self.spawner.output(&spec, LIMIT).await;
        let output = output
            .map_err(|e| Fault::infra(format!("cannot run `{key}` of guest `{}`", self.stored.guest)).because(e))?;
        let said = if output.stderr.trim().is_empty() { output.stdout } else { output.stderr };
        Ok((output.status.code(), vmdeck_model::text::one_line(&said).chars().take(WORDS).collect()))
    }

    fn failed(&self, key: &str, code: Option<i32>, said: &str) -> Fault {
        let how = code.map_or_else(|| "it was killed".to_owned(), |code| format!("exit {code}"));
        Fault::infra(format!("cannot switch the machine of guest `{}`: `{key}` failed", self.stored.guest))
            .because(how)
            .because(said)
    }
}
