//! A guest: the record in the config that says which machine is wanted and how to talk to it.
//!
//! The machine itself is a backend's `Machine`.

use super::{ids::GuestId, key::Options, pattern::Pattern, secret::Secret, suite::ScriptShell};
use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

/// A guest of the config, fully resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// The name.
    pub id: GuestId,
    /// The backend's kind: a row of the backend table.
    pub backend: String,
    /// What runs in it.
    pub os: Os,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Size of the disk in bytes.
    pub disk: u64,
    /// An existing machine to adopt; it is stopped at most, never deleted.
    pub machine: Option<String>,
    /// Transports, tried in this order.
    pub transports: Vec<String>,
    /// How long each of several transports is waited for before the next one gets its turn.
    pub transport_turn: Duration,
    /// How often a fresh one is made.
    pub fresh: Fresh,
    /// How many times a launch is tried.
    pub launch_retries: u32,
    /// How long from start to the first command.
    pub boot_timeout: Duration,
    /// How long a case may take that sets no limit of its own.
    pub case_timeout: Duration,
    /// The shell of its commands, where a suite or case names none.
    pub shell: ScriptShell,
    /// What a crash of the system during a case says.
    pub crash: CrashPolicy,
    /// What is done where a command that was ended may still run.
    pub survivors: SurvivorPolicy,
    /// What the console tells.
    pub boot: ConsolePatterns,
    /// Password for `sudo -S`.
    pub sudo: Option<Secret>,
    /// Code to bring in.
    pub source: Option<Source>,
    /// The backend's own keys.
    pub options: Options,
    /// Each transport's own keys.
    pub transport_options: BTreeMap<String, Options>,
}

impl Guest {
    /// Returns every secret of this guest, for the redactor.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let tables = self.transport_options.values().chain([&self.options]);
        tables.flat_map(Options::secrets).chain(&self.sudo)
    }
}

/// A guest's operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Os {
    /// Any Linux.
    Linux,
    /// Windows.
    Windows,
    /// macOS.
    Macos,
}

impl Os {
    /// Returns the word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Os::Linux => "linux",
            Os::Windows => "windows",
            Os::Macos => "macos",
        }
    }

    /// Returns the transports that are tried when the config names none.
    pub fn transports(self) -> &'static [&'static str] {
        match self {
            Os::Linux | Os::Macos => &["ssh", "exec"],
            Os::Windows => &["ssh", "winrm", "exec"],
        }
    }
}

impl fmt::Display for Os {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a fresh machine is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// One machine for the whole run.
    Run,
    /// One machine for each suite; it is gone before the next one is made.
    Suite,
    /// One machine for each case.
    Case,
}

/// What it says when the system panics, restarts or powers off during a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPolicy {
    /// The case failed: the system is what is tested.
    Failed,
    /// Nothing about the case: the system only carries it.
    Infra,
}

/// What is done where a command that was ended for its time may still run in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurvivorPolicy {
    /// The machine is replaced before the next case.
    Replace,
    /// The next case runs beside it.
    Keep,
}

/// What to look for on the console.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsolePatterns {
    /// The guest is ready to be contacted.
    pub pattern: Option<Pattern>,
    /// A match fails the boot, and later the case that runs.
    pub errors: Vec<Pattern>,
    /// A match is reported.
    pub warnings: Vec<Pattern>,
    /// How often the guest may restart by itself before it is up; unset: until `boot_timeout`.
    pub restarts: Option<u32>,
}

/// Code of this host to bring into the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Folder on this host.
    pub path: PathBuf,
    /// Absolute folder in the guest; replaced as a whole.
    pub to: String,
    /// Globs that stay behind, besides what git ignores.
    pub exclude: Vec<String>,
}
