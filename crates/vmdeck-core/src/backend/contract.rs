//! The seam to every hypervisor: what makes machines, what a machine is, and the powers that some of them have.
//!
//! What every backend can do is a method; what only some can do is an object that the others do not have.

use super::{
    discovery::AddressDiscovery,
    guest_exec::GuestExec,
    proof::Proof,
    record::{AdoptTarget, MachineId, MachineRecord},
    request::CreateRequest,
};
use crate::{assets::seed::MachineLogin, context::CallContext};
use futures_util::future::BoxFuture;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};
use tokio::{
    net::UnixStream,
    sync::{Mutex, watch},
};
use vmdeck_guest::setup::ShareProtocol;
use vmdeck_model::{error::Result, event::Finding, guest::Guest, machine::MachineInfo};

/// Makes machines: what every hypervisor provides.
pub trait Backend: Send + Sync {
    /// Checks whether the host can run this guest, or anything at all. Each finding says what was found and what to do.
    fn check<'a>(&'a self, guest: Option<&'a Guest>, context: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>>;

    /// Lists every machine that the provider shows. A failure to list is an error, never an empty list.
    fn list<'a>(&'a self, context: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>>;

    /// Returns where the machine of a guest is to be looked for later, in the backend's own words; the journal keeps it, since a reaper
    /// has no config. Empty = there is only one such place.
    fn place(&self, _guest: &Guest) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    /// Makes a new machine that is not started. On failure nothing that was begun remains unknown to the journal.
    fn create<'a>(
        &'a self,
        request: CreateRequest<'a>,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>>;

    /// Returns a handle on a machine that a run of ours has made or adopted and that is up: to be reached, and nothing else.
    /// `None` = no such machine is up.
    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>>;

    /// Returns a machine that a run of ours made and kept, under control again as if this process had made it: its console goes on in
    /// the log of the record that the request names. `None` = such machines cannot be used again. An error where this one cannot.
    fn take_over<'a>(
        &'a self,
        _request: CreateRequest<'a>,
        _record: &'a MachineRecord,
        _context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async { Ok(None) })
    }

    /// Destroys what a dead run left, or puts it back, if both proofs hold: the journal's record and the live object's own
    /// name and id.
    fn reap<'a>(&'a self, record: &'a MachineRecord, context: CallContext<'a>) -> BoxFuture<'a, Proof>;

    /// Returns the power to use machines that others made.
    fn adoption(&self) -> Option<&dyn Adoption> {
        None
    }

    /// Returns the power to begin machines from where others were frozen.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Returns the power to remove machines that others made.
    fn removal(&self) -> Option<&dyn Removal> {
        None
    }
}

/// The power to use machines that others made.
pub trait Adoption: Send + Sync {
    /// Returns the machine that this guest adopts; `None` = the guest gets one of its own. Nothing is changed by looking.
    fn find<'a>(&'a self, guest: &'a Guest, context: CallContext<'a>) -> BoxFuture<'a, Result<Option<AdoptTarget>>>;

    /// Returns a handle on the machine to adopt; it is neither started nor changed yet.
    fn adopt<'a>(
        &'a self,
        request: CreateRequest<'a>,
        target: &'a AdoptTarget,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>>;
}

/// The power to remove machines that others made, at a person's explicit request.
pub trait Removal: Send + Sync {
    /// Returns the bytes that a machine takes on the disk; `None` = not known.
    fn size<'a>(&'a self, machine: &'a MachineInfo, context: CallContext<'a>) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Destroys a machine that no run of ours made.
    fn remove<'a>(&'a self, machine: &'a MachineInfo, context: CallContext<'a>) -> BoxFuture<'a, Proof>;
}

/// One machine.
pub trait Machine: Send + Sync {
    /// Returns the generated name.
    fn name(&self) -> &str;

    /// Returns the provider's name for the machine, where that is another one.
    fn provider_name(&self) -> &str {
        self.name()
    }

    /// Returns what is known about the machine for sure.
    fn id(&self) -> MachineId;

    /// Returns whether the machine is somebody else's and only used by us.
    fn is_adopted(&self) -> bool {
        false
    }

    /// Returns whether other hosts may use the machine as well, so that it has to be locked where all of them can see it.
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns whether the machine has been made; some are made only by their start.
    fn exists(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(true) })
    }

    /// Powers the machine on; returns when it runs.
    fn start<'a>(&'a mut self, context: CallContext<'a>) -> BoxFuture<'a, Result<()>>;

    /// Returns how the machine ended, once it has, asked or unasked.
    fn exit(&self) -> watch::Receiver<Option<MachineExit>>;

    /// Returns how often the guest has restarted by itself, where the hypervisor tells; counted up as it happens.
    fn restarts(&self) -> Option<watch::Receiver<u32>> {
        None
    }

    /// Returns whether programs run in the guest, where the hypervisor can tell without a word on its console: one that is quiet
    /// boots all the same.
    fn userspace(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Stops the machine; legal whenever it has been started.
    fn stop(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Releases everything that the machine occupies and proves it. A failed release can be tried again.
    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>>;

    /// Lets the machine live on without us: nothing of ours ends it any more.
    fn detach(self: Box<Self>);

    /// Returns what the hypervisor says about the machine, for a person who looks for a cause.
    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async { Ok(String::new()) })
    }

    /// Returns the bytes that the machine takes on this host's disk and gives back when it is released; `None` = not known.
    fn disk_used(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(async { Ok(None) })
    }

    /// Returns the machine's console, if there is one.
    fn console(&self) -> Option<Console<'_>> {
        None
    }

    /// Returns the member of a cluster that the machine is on, where it is in one.
    fn member(&self) -> Option<&str> {
        None
    }

    /// Returns the power to find the machine's address.
    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        None
    }

    /// Returns the power to run commands without a network.
    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        None
    }

    /// Returns the socket that leads to our agent in the guest, where it has one (see the crate `vmdeck-guest`).
    fn agent_port(&self) -> Option<&Path> {
        None
    }

    /// Returns the folders of this host that the guest has to mount, a folder before those below it.
    fn shared_folders(&self) -> &[SharedFolder] {
        &[]
    }

    /// Returns the login that the machine was given when it was made, if it was.
    fn login(&self) -> Option<&MachineLogin> {
        None
    }

    /// Returns the power to ask the guest's kernel for its stacks.
    fn stacks(&self) -> Option<&dyn DumpStacks> {
        None
    }

    /// Returns the power to reach the guest's kernel past everything that may hang; only while the machine runs.
    fn kernel_keys(&self) -> Option<Arc<dyn KernelKeys>> {
        None
    }

    /// Returns the power to press the machine's power button.
    fn power_button(&self) -> Option<&dyn PowerButton> {
        None
    }

    /// Returns whether a restart of the guest ends the machine, because it knows no power-off.
    fn ends_by_restart(&self) -> bool {
        false
    }

    /// Returns the power to save the guest's memory, where the config wants that.
    fn memory(&self) -> Option<&dyn SaveMemory> {
        None
    }

    /// Returns the power to copy the disk of a machine that has ended.
    fn disk(&self) -> Option<&dyn CopyDisk> {
        None
    }

    /// Returns the power to freeze the machine, while it runs, where it was made for that.
    fn freezer(&self) -> Option<Box<dyn Freeze>> {
        None
    }

    /// Returns the power to keep the state of the machine, while it runs.
    fn checkpoint(&self) -> Option<Box<dyn KeepState>> {
        None
    }

    /// Returns the port that leads to the program which renews a guest that was frozen, where the machine has one; it stays open.
    fn renewal_port(&self) -> BoxFuture<'_, Option<GuestPort>> {
        Box::pin(async { None })
    }

    /// Returns what the machine uses now; `None` = not known.
    fn stats(&self) -> Option<Stats> {
        None
    }
}

/// A folder of this host that a guest can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedFolder {
    /// The absolute path in the guest.
    pub to: String,
    /// Whether this host refuses writes.
    pub read_only: bool,
    /// The protocols that this host serves, each with its tag, in the order in which they are to be tried.
    pub ways: Vec<(ShareProtocol, String)>,
}

/// The console of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Console<'a> {
    /// The raw log on this host, written from power-on.
    pub log: &'a Path,
    /// The socket on which a person can type.
    pub socket: Option<&'a Path>,
}

/// The power to ask a guest's kernel for its stacks.
pub trait DumpStacks: Send + Sync {
    /// Asks the guest's kernel to write its stacks to the console; returns whether it answered.
    fn dump(&self) -> BoxFuture<'_, Result<bool>>;
}

/// The power to reach a guest's kernel past everything that may hang.
pub trait KernelKeys: Send + Sync {
    /// Presses `SysRq` with this letter or digit; returns whether the guest wrote something to its console then.
    fn sysrq(&self, key: char) -> BoxFuture<'_, Result<bool>>;

    /// Sends a non-maskable interrupt to every processor of the guest.
    fn nmi(&self) -> BoxFuture<'_, Result<()>>;
}

/// The power to press a machine's power button.
pub trait PowerButton: Send + Sync {
    /// Presses the button; what the guest makes of it is its own matter.
    fn press(&self) -> BoxFuture<'_, Result<()>>;
}

/// The power to save a guest's memory.
pub trait SaveMemory: Send + Sync {
    /// Writes the memory of the guest, which has stopped or goes on, to a file of this host that tools for crash dumps read.
    fn save<'a>(&'a self, to: &'a Path) -> BoxFuture<'a, Result<()>>;
}

/// The power to copy the disk of a machine.
pub trait CopyDisk: Send + Sync {
    /// Moves what the machine wrote to a disk image of this host, which stands on the base that the machine had. The machine has ended,
    /// and is of no use afterwards.
    fn hand_over(&self, to: &Path) -> Result<()>;
}

/// The name, in a guest, of the port to the program that renews it after it was frozen.
pub const RENEWAL_PORT: &str = "vmdeck.renewal";

/// A port of a machine that is open on this side.
pub type GuestPort = Arc<Mutex<UnixStream>>;

/// The power to freeze a machine.
pub trait Freeze: Send + Sync {
    /// Stops the guest and writes all of it into an empty folder, which will stand at `place` later. The machine is to be ended then;
    /// after an error it goes on. Returns whether it needs the disk that the machine began with: the snapshot below it.
    fn freeze<'a>(&'a self, to: &'a Path, place: &'a Path) -> BoxFuture<'a, Result<bool>>;
}

/// The power to keep the state of a machine.
pub trait KeepState: Send + Sync {
    /// Writes all of the machine into an empty folder, as it is at this moment; the guest stands still meanwhile, and goes on.
    /// Returns whether it needs the disk that the machine began with.
    fn keep_state<'a>(&'a self, to: &'a Path, place: &'a Path) -> BoxFuture<'a, Result<bool>>;
}

/// The power to begin machines from where others were frozen.
pub trait Snapshots: Send + Sync {
    /// Returns why the machine of a guest cannot be frozen; `None` where it can.
    fn refusal(&self, guest: &Guest) -> Option<&'static str>;

    /// Returns what a frozen machine of a guest depends on besides the guest's own keys, as a text: programs, the image, the host's
    /// processor.
    fn basis<'a>(&'a self, guest: &'a Guest, context: CallContext<'a>) -> BoxFuture<'a, Result<String>>;

    /// Makes a machine that goes on from the snapshot in this folder; it is not started.
    fn restore<'a>(
        &'a self,
        request: CreateRequest<'a>,
        from: &'a Path,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>>;
}

/// What a machine uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The resident memory of the machine's process in bytes.
    pub memory: u64,
    /// The processor time so far in milliseconds.
    pub cpu_ms: u64,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineExit {
    /// The guest powered itself off, or was asked to.
    Shutdown(String),
    /// The guest's kernel panicked.
    Panicked(String),
    /// The guest asked for a restart, which its hypervisor made an end.
    Rebooted,
    /// The machine's process ended and gave no reason.
    Crashed(String),
    /// Others ended the machine, started it again or moved it, or the host that it was on is gone.
    TakenAway(String),
}

impl MachineExit {
    /// Returns whether the system in the machine brought it about, and not its hypervisor or this host.
    pub fn is_by_guest(&self) -> bool {
        match self {
            // QEMU's own words: `guest-shutdown`, `guest-reset`, `guest-panic`; the others begin with `host-`.
            MachineExit::Shutdown(reason) => reason.starts_with("guest-"),
            MachineExit::Panicked(_) | MachineExit::Rebooted => true,
            MachineExit::Crashed(_) | MachineExit::TakenAway(_) => false,
        }
    }
}

impl MachineExit {
    /// Returns whether the guest ended by its own will: a power-off, or a restart that its hypervisor made an end.
    pub fn is_orderly(&self) -> bool {
        self.is_by_guest() && !matches!(self, MachineExit::Panicked(_))
    }
}

impl fmt::Display for MachineExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MachineExit::Shutdown(why) => write!(f, "the guest shut down ({why})"),
            MachineExit::Panicked(why) => write!(f, "the guest's kernel panicked ({why})"),
            MachineExit::Rebooted => f.write_str("the guest restarted, and its hypervisor ended it"),
            MachineExit::Crashed(why) => write!(f, "the machine's process ended: {why}"),
            MachineExit::TakenAway(why) => write!(f, "the machine was taken away: {why}"),
        }
    }
}

/// Notes how a machine ended; the first cause wins.
pub(super) fn note_exit(exit: &watch::Sender<Option<MachineExit>>, how: MachineExit) {
    exit.send_if_modified(|now| {
        let first = now.is_none();
        now.get_or_insert(how);
        first
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seams_are_objects_and_the_first_cause_wins() {
        fn _is_object(_: &dyn Backend, _: &dyn Machine, _: &dyn Adoption, _: &dyn Removal) {}
        let (exit, now) = watch::channel(None);
        note_exit(&exit, MachineExit::Panicked("a".into()));
        note_exit(&exit, MachineExit::Shutdown("host-qmp-quit".into()));
        assert_eq!(*now.borrow(), Some(MachineExit::Panicked("a".into())));
    }
}
