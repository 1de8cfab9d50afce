//! A guest: the record in the config that says which machine is wanted and how to talk to it.
//!
//! The machine itself is a backend's `Machine`.

use super::{
    ids::GuestId,
    image::Image,
    key::Options,
    outcome::Verdict,
    pattern::Pattern,
    secret::Secret,
    snapshot::{Checkpoint, SnapshotPoint},
    suite::ScriptShell,
    trouble::TroubleKind,
    workers::Workers,
};
use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

/// A guest of the config, fully resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// The name of the guest in a run.
    pub id: GuestId,
    /// Its name in the config, under which its keys stand. It is another one where the guest fills a role of a suite.
    pub key: GuestId,
    /// The backend's kind: a row of the backend table.
    pub backend: String,
    /// The operating system in the guest.
    pub os: Os,
    /// Its processor, as the kernel of Linux names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// The number of virtual processors.
    pub cpus: u32,
    /// The memory in bytes.
    pub memory: u64,
    /// The size of the disk in bytes.
    pub disk: u64,
    /// The system that the machine boots; `None` = what the backend's own keys say.
    pub image: Option<Image>,
    /// The folders of this host that the guest sees.
    pub shares: Vec<Share>,
    /// What the guest is given at its first boot.
    pub seed: Seed,
    /// The ELF file of the guest's kernel with debug information, by which traces are told with file and line.
    pub vmlinux: Option<PathBuf>,
    /// The firmware of the machine.
    pub firmware: Firmware,
    /// Whether the machine has a TPM.
    pub tpm: bool,
    /// The kinds of trouble that are looked for on its console.
    pub trouble: Vec<TroubleKind>,
    /// The file with what it gets at its first boot besides.
    pub user_data: Option<PathBuf>,
    /// Where its disk is copied to once it has shut down: for whoever builds an image of it. No key of the config.
    pub save_disk: Option<PathBuf>,
    /// The existing machine to adopt; it is stopped at most, never deleted.
    pub machine: Option<String>,
    /// The address of a machine that no backend makes: a name or an IP address.
    pub address: Option<String>,
    /// How such a machine is switched on and off.
    pub power: PowerHooks,
    /// The transports, tried in this order.
    pub transports: Vec<String>,
    /// How long to wait for each of several transports before trying the next.
    pub transport_turn: Duration,
    /// How often a fresh machine is made.
    pub fresh: Fresh,
    /// When its machine is frozen, as the config has it.
    pub snapshot: Option<SnapshotPoint>,
    /// When the state of its machine is kept.
    pub checkpoint: Checkpoint,
    /// How many machines it has at once for its cases.
    pub workers: Workers,
    /// The guest of which this is a further machine, where it has several at once.
    pub one_more_of: Option<GuestId>,
    /// How many times a launch is tried.
    pub launch_retries: u32,
    /// How long the time from power-on to the first command may be.
    pub boot_timeout: Duration,
    /// How long a case that sets no limit of its own may take.
    pub case_timeout: Duration,
    /// The shell of its commands, where a suite or case names none.
    pub shell: ScriptShell,
    /// What a crash of the system during a case says.
    pub crash: CrashPolicy,
    /// What is done where a command that was ended may still run.
    pub survivors: SurvivorPolicy,
    /// How the machine is ended.
    pub shutdown: Shutdown,
    /// How long the guest may take to shut down.
    pub shutdown_timeout: Duration,
    /// What the guest can reach.
    pub network: Network,
    /// What is done about the guest's own first set-up.
    pub first_boot: FirstBoot,
    /// What the console tells.
    pub boot: ConsolePatterns,
    /// The password for `sudo -S`.
    pub sudo: Option<Secret>,
    /// The code to copy into the guest.
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

    /// Returns the guest of a further machine, the `number`th one; `None` = its name would be too long.
    pub fn one_more(&self, number: usize) -> Option<Self> {
        let id = GuestId::new(&format!("{}.{number}", self.id)).ok()?;
        Some(Self { id, one_more_of: Some(self.id.clone()), ..self.clone() })
    }

    /// Returns the name by which its cases are told.
    pub fn told_as(&self) -> &GuestId {
        self.one_more_of.as_ref().unwrap_or(&self.id)
    }

    /// Returns when its machine is frozen: where it gets more than one and the config says nothing, once a suite's setup has been run.
    pub fn snapshot_point(&self) -> SnapshotPoint {
        let usual = if self.fresh == Fresh::Run { SnapshotPoint::Off } else { SnapshotPoint::AfterSetup };
        self.snapshot.unwrap_or(usual)
    }
}

/// The commands of this host that switch a machine on and off, each a text for `sh`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerHooks {
    /// Switches the machine on.
    pub on: Option<String>,
    /// Switches the machine off.
    pub off: Option<String>,
    /// Tells whether the machine is on, by its exit status: 0 = on, 1 = off.
    pub status: Option<String>,
}

/// How a guest gets a user, a key and a host key at its first boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seed {
    /// It gets none: the config says how to log in.
    #[default]
    None,
    /// It gets them in every way that there is.
    Auto,
    /// It gets them by a disk for cloud-init.
    CloudInit,
    /// It gets them by credentials for systemd.
    Credentials,
    /// It gets them by a config for Ignition.
    Ignition,
}

/// The firmware of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// What the image needs, as far as that can be told; with a kernel of its own, what the machine brings.
    #[default]
    Auto,
    /// What the machine brings: a BIOS, where its processor has such a thing.
    Bios,
    /// A UEFI of this host.
    Uefi,
    /// A UEFI of this host that starts only what is signed.
    UefiSecure,
    /// The firmware in this file.
    File(PathBuf),
}

/// A folder of this host in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The folder on this host.
    pub path: PathBuf,
    /// The absolute path in the guest.
    pub to: String,
    /// Whether writes are refused, by this host.
    pub read_only: bool,
    /// The protocol of the share.
    pub by: ShareBy,
}

/// How a folder is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareBy {
    /// The share goes by what the host and the kernel have.
    #[default]
    Auto,
    /// The share goes by the 9P file system, which QEMU serves.
    Plan9,
    /// The share goes by virtiofs, which a daemon serves.
    Virtiofs,
}

impl ShareBy {
    /// The words used in the config.
    pub const WORDS: &[&str] = &["auto", "9p", "virtiofs"];

    /// Returns the protocol of a word of the config; anything unknown is `Auto`.
    pub fn of_word(word: &str) -> Self {
        match word {
            "9p" => ShareBy::Plan9,
            "virtiofs" => ShareBy::Virtiofs,
            _ => ShareBy::Auto,
        }
    }
}

/// What is done about a guest's own first set-up (cloud-init), where it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstBoot {
    /// Its end is waited for, and it must not fail.
    #[default]
    Required,
    /// Its end is waited for, and its errors are warnings.
    Warned,
    /// It is not looked at.
    Ignored,
}

/// What a guest can reach over its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Everything that its host can reach, and the host's own services.
    #[default]
    User,
    /// Nothing but what connects to it: the host's transports.
    Restricted,
    /// Nothing: it has no network device.
    None,
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
    /// Returns the word used in the config.
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
    /// The same, and another one for each case that asks for it. No word of a guest's key: its cases have it.
    Marked,
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

impl CrashPolicy {
    /// Returns the verdict on what ran when the system crashed.
    pub fn verdict(self) -> Verdict {
        match self {
            CrashPolicy::Failed => Verdict::Failed,
            CrashPolicy::Infra => Verdict::Infra,
        }
    }
}

/// How a machine is ended once the run is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shutdown {
    /// At once, by its hypervisor: its disk goes with it.
    #[default]
    Quit,
    /// By its power button.
    Powerdown,
    /// By a command in it.
    Command,
}

impl Shutdown {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["quit", "powerdown", "command"];

    /// Reads a word; anything unknown is `quit`.
    pub fn of_word(word: &str) -> Self {
        match word {
            "powerdown" => Shutdown::Powerdown,
            "command" => Shutdown::Command,
            _ => Shutdown::Quit,
        }
    }
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
    /// The pattern that shows that the guest is ready.
    pub pattern: Option<Pattern>,
    /// The patterns of which a match fails the boot, or later the running case.
    pub errors: Vec<Pattern>,
    /// The patterns of which a match is reported as a warning.
    pub warnings: Vec<Pattern>,
    /// How often the guest may restart by itself before it is up; unset: until `boot_timeout`.
    pub restarts: Option<u32>,
    /// How many times the usual silence of its console a boot may take; 0 = any.
    pub watchdog: u32,
}

/// Code of this host to copy into the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The folder on this host.
    pub path: PathBuf,
    /// The absolute folder in the guest; it is replaced as a whole.
    pub to: String,
    /// The globs of files to leave out, besides those that git ignores.
    pub exclude: Vec<String>,
}
