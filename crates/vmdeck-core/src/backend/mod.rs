//! Makes, starts, stops and destroys machines. One file or folder for each backend, plus one row in [`BACKENDS`].
//!
//! How to talk to what runs inside is `transport`'s matter; when to do what is `engine`'s.

mod child;
pub mod fake;
pub mod local;
pub mod multipass;
pub mod qemu;
mod tool;
pub mod utm;

use crate::{
    command::{Exec, Exit, Sink},
    host::process::Spawner,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Finding,
    guest::Guest,
    key::Key,
    machine::MachineInfo,
};

/// A boxed future: what an object-safe trait can return.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What a backend can do. A missing power is `false`, never an error at the time of use.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Guests are apart from this host.
    pub isolated: bool,
    /// Guests can be reached over the network.
    pub network: bool,
    /// Commands can be run in guests without a network.
    pub guest_exec: bool,
    /// There is a serial console to watch.
    pub console: bool,
    /// The guest's kernel can be asked for its stacks.
    pub dump_stacks: bool,
    /// Memory of a running guest can be changed.
    pub live_memory: bool,
    /// Machines that others made are seen, and can be adopted.
    pub adopts: bool,
    /// A new machine gets the processors and the memory that the guest asks for.
    pub sized: bool,
    /// A new machine gets the UUID that it is told; else the provider chooses, if it has such ids at all.
    pub takes_uuid: bool,
}

/// A machine to be made.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The guest that it is for.
    pub guest: &'a Guest,
    /// Its generated name: the nonce that proves it ours.
    pub name: &'a str,
    /// Its generated UUID.
    pub uuid: &'a str,
    /// Its private folder; not made yet.
    pub dir: &'a Path,
    /// The guest's folder in the run's record; exists.
    pub record: &'a Path,
    /// Whether it may have to live on after us; else it is tied to our life.
    pub may_stay: bool,
    /// The machine to take instead of making one: what [`Backend::existing`] found.
    pub adopt: Option<&'a Existing>,
}

/// How far a machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It does not run and holds no memory.
    Off,
    /// It is paused or suspended: its memory is kept.
    Suspended,
    /// It runs, or is about to.
    On,
}

/// A machine that others made and a guest adopts. It is put back to where it was, and never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Existing {
    /// The provider's name for it.
    pub name: String,
    /// The provider's immutable id, where there are such ids.
    #[serde(default)]
    pub id: Option<String>,
    /// How it was found: where it is put back to.
    pub was: Power,
}

/// What makes a machine recognisable for sure: written to the journal, compared before anything is destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's immutable id.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Its process on this host.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When that process started, seconds since 1970.
    #[serde(default)]
    pub started: Option<u64>,
}

/// What a dead run may have left: the journal's side of the two proofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// The generated name.
    pub name: String,
    /// The id that was recorded, or intended.
    pub identity: Identity,
    /// The private folder.
    pub dir: PathBuf,
    /// The machine that was adopted, if none was made.
    pub adopted: Option<Existing>,
}

impl Remnant {
    /// The name that the provider knows.
    pub fn machine(&self) -> &str {
        self.adopted.as_ref().map_or(&self.name, |existing| &existing.name)
    }

    /// As the order that it came from, for a handle on what is there already.
    fn order<'a>(&'a self, guest: &'a Guest) -> Order<'a> {
        let Self { name, dir, adopted, .. } = self;
        Order { guest, name, uuid: "", dir, record: dir, may_stay: true, adopt: adopted.as_ref() }
    }
}

/// A way to find where a machine can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The word in events: `forward`, `ip-address`, `leases`, `arp`, `scan`.
    pub name: &'static str,
}

/// An address at which a machine may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The address.
    pub address: SocketAddr,
    /// Whether it is proven to be this machine's: by the hypervisor's own word, its MAC or its host name. One that is not
    /// must show a pinned key before it is told anything.
    pub proven: bool,
}

/// How a machine ended without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest powered itself off, or was told to.
    Shutdown(String),
    /// The guest's kernel panicked.
    Panicked(String),
    /// The guest asked for a restart, which ends it here.
    Rebooted,
    /// The machine's process is gone without a word.
    Crashed(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Shutdown(why) => write!(f, "the guest shut down ({why})"),
            Ended::Panicked(why) => write!(f, "the guest's kernel panicked ({why})"),
            Ended::Rebooted => f.write_str("the guest rebooted, which ends it here"),
            Ended::Crashed(why) => write!(f, "the machine's process ended: {why}"),
        }
    }
}

/// A change to a running machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The processor group that it belongs to.
    CpuGroup(String),
    /// Its share of processors.
    Cpus(u32),
    /// Its memory in bytes.
    Memory(u64),
    /// A fragment of its security policy.
    PolicyFragment(String),
}

/// What a machine uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Resident memory of its process in bytes.
    pub memory: u64,
    /// Processor time so far in milliseconds.
    pub cpu_ms: u64,
}

/// Makes machines.
pub trait Backend: Send + Sync {
    /// Checks that the host can run this guest, or anything at all.
    fn probe<'a>(&'a self, guest: Option<&'a Guest>) -> Fut<'a, Vec<Finding>>;
    /// Every machine that it sees; an error is never an empty list.
    fn list(&self) -> Fut<'_, Vec<MachineInfo>>;
    /// The machine that this guest adopts, if it is to have none of its own. Nothing is changed by looking.
    fn existing<'a>(&'a self, guest: &'a Guest) -> Fut<'a, Option<Existing>> {
        Box::pin(async move {
            match &guest.machine {
                None => Ok(None),
                Some(_) => Err(Fault::user(format!("cannot adopt a machine for guest `{}`", guest.id))
                    .because(format!("the backend `{}` sees no machines of others", guest.backend))
                    .hint(format!("remove `guests.{}.machine`", guest.id))),
            }
        })
    }
    /// Makes a machine that is not started, or takes the one to adopt. On failure nothing that was begun remains unknown to
    /// the journal.
    fn create<'a>(&'a self, order: Order<'a>) -> Fut<'a, Box<dyn Vm>>;
    /// Destroys what a dead run left, if both proofs hold; returns how the absence was proven.
    fn reap<'a>(&'a self, remnant: &'a Remnant) -> Fut<'a, String>;
    /// A machine that a run of ours has made or adopted and that is up: to be reached, and nothing else.
    fn revisit<'a>(&'a self, _guest: &'a Guest, _remnant: &'a Remnant) -> Fut<'a, Option<Box<dyn Vm>>> {
        Box::pin(async { Ok(None) })
    }
    /// Bytes that a machine takes on the disk; `None` = not known.
    fn size<'a>(&'a self, _found: &'a MachineInfo) -> Fut<'a, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
    /// Destroys a machine that no run of ours made, on a person's explicit word; returns how the absence was proven.
    fn remove<'a>(&'a self, found: &'a MachineInfo) -> Fut<'a, String> {
        Box::pin(async move {
            Err(Fault::user(format!("cannot remove `{}`", found.name))
                .because(format!("the backend `{}` removes only what vmdeck made", found.backend)))
        })
    }
}

/// One machine.
pub trait Vm: Send + Sync {
    /// Its generated name.
    fn name(&self) -> &str;
    /// The provider's name for it, where that is another one.
    fn machine(&self) -> &str {
        self.name()
    }
    /// Whether it has been made; some are made only by their start.
    fn exists(&self) -> Fut<'_, bool> {
        Box::pin(async { Ok(true) })
    }
    /// What is known about it for sure.
    fn identity(&self) -> Identity;
    /// The raw console log, written from power-on.
    fn console(&self) -> Option<&Path>;
    /// The socket on which a person can type into the console.
    fn console_socket(&self) -> Option<&Path> {
        None
    }
    /// Powers it on; returns when it executes.
    fn start(&mut self) -> Fut<'_, ()>;
    /// How it ended, once it has, asked or unasked.
    fn ended(&self) -> watch::Receiver<Option<Ended>>;
    /// Whether it is somebody else's machine that we only use.
    fn adopted(&self) -> bool {
        false
    }
    /// The ways to find where it can be reached, the best first.
    fn ways(&self) -> &[Way] {
        &[]
    }
    /// Where a port of the guest may be reached from this host, found in this way; empty = not yet, or not so. An error is
    /// a reason to go on to the next way.
    fn seek<'a>(&'a self, _: &'a Way, _port: u16) -> Fut<'a, Vec<Lead>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Bytes that it takes on this host's disk and gives back when it is closed.
    fn disk_used(&self) -> Fut<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
    /// Takes it down; legal whenever it has been started.
    fn terminate(&mut self) -> Fut<'_, ()>;
    /// Releases everything that it occupies and proves it; can be tried again. Returns the proofs.
    fn close(&mut self) -> Fut<'_, Vec<String>>;
    /// Lets it live on without us: nothing of ours ends it any more.
    fn leave(self: Box<Self>);
    /// A way to run commands in it without a network.
    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        None
    }
    /// What the hypervisor says about it, for a person who looks for a cause.
    fn diagnose(&self) -> Fut<'_, String> {
        Box::pin(async { Ok(String::new()) })
    }
    /// Asks the guest's kernel to write its stacks to the console; `false` = it cannot be asked.
    fn dump_stacks(&self) -> Fut<'_, bool> {
        Box::pin(async { Ok(false) })
    }
    /// What it uses now; `None` = not known.
    fn stats(&self) -> Option<Stats> {
        None
    }
    /// Changes it while it runs.
    fn update<'a>(&'a mut self, update: &'a Update) -> Fut<'a, ()> {
        Box::pin(async move {
            Err(Fault::user(format!("cannot apply {update:?}")).because("this backend has no such power"))
        })
    }
}

/// Runs commands in a machine without a network.
pub trait GuestExec: Send + Sync {
    /// Runs one command to its end; cancelling ends it in the guest.
    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit>;
    /// Whether output of any length comes through; if not, files are fetched by [`GuestExec::pull`].
    fn takes_all(&self) -> bool {
        true
    }
    /// Copies a file of the guest to one of this host, proven to be whole.
    fn pull<'a>(&'a self, path: &'a str, _to: &'a Path, _cancel: &'a CancellationToken) -> Fut<'a, ()> {
        Box::pin(async move { Err(Fault::bug(format!("cannot copy `{path}`")).because("this way needs no copies")) })
    }
    /// What a person types on this host for a shell in the guest, if its hypervisor has one.
    fn shell_hint(&self) -> Option<String> {
        None
    }
}

/// The host's tools that are not where they usually are: the name, and the program. Keys of `[host.tools]`.
pub type Tools = BTreeMap<String, String>;

/// What a backend is built with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Starts processes.
    pub spawner: Spawner,
    /// Where vmdeck keeps what must survive it.
    pub state: PathBuf,
    /// See [`Tools`].
    pub tools: Tools,
}

/// A row of the backend table.
pub struct BackendDef {
    /// The word in the config.
    pub kind: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// What it can do.
    pub caps: Caps,
    /// The keys of `[guests.NAME.<kind>]`.
    pub keys: &'static [Key],
    /// Makes the backend.
    pub build: fn(&Deps) -> Box<dyn Backend>,
}

/// Every backend.
pub static BACKENDS: &[BackendDef] = &[
    BackendDef {
        kind: "qemu",
        summary: "QEMU with KVM, HVF or emulation",
        caps: qemu::CAPS,
        keys: qemu::KEYS,
        build: |deps| Box::new(qemu::Qemu::new(deps)),
    },
    BackendDef {
        kind: "multipass",
        summary: "Ubuntu machines of Canonical's Multipass",
        caps: multipass::CAPS,
        keys: multipass::KEYS,
        build: |deps| Box::new(multipass::Multipass::new(deps)),
    },
    BackendDef {
        kind: "utm",
        summary: "machines of UTM on macOS",
        caps: utm::CAPS,
        keys: utm::KEYS,
        build: |deps| Box::new(utm::Utm::new(deps)),
    },
    BackendDef {
        kind: "local",
        summary: "a private folder and process group on this host; NOT isolated",
        caps: local::CAPS,
        keys: local::KEYS,
        build: |deps| Box::new(local::Local::new(deps)),
    },
    BackendDef {
        kind: "fake",
        summary: "scripted, no machine at all; for trying things out",
        caps: fake::CAPS,
        keys: fake::KEYS,
        build: |_| Box::new(fake::Fake),
    },
];

/// The row of a kind.
pub fn find(kind: &str) -> Result<&'static BackendDef> {
    BACKENDS.iter().find(|row| row.kind == kind).ok_or_else(|| {
        let known: Vec<_> = BACKENDS.iter().map(|row| row.kind).collect();
        Fault::user(format!("unknown backend `{kind}` (known: {})", known.join(", ")))
    })
}
