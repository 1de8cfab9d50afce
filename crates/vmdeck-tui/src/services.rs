//! What the cockpit needs from the rest of the program: the engine, the config, the machines, the lock.
//!
//! The composition root provides it; tests provide a fake.

use super::host::BoxFuture;
use super::host_state::{Capacity, LockRow, Usage};
use super::model::RunRequest;
use super::past_runs::{CaseHistory, GreenRun, PastRunRow};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};
use vmdeck_model::{
    error::Result,
    event::{Finding, Holder},
    exit::RunExit,
    ids::GuestId,
    plan::Setup,
};
use vmdeck_model::{machine::OwnedMachine, memory::MemoryStanding};

/// An engine that carries a run out, in a process of its own.
pub struct Engine {
    /// The run's record.
    pub dir: PathBuf,
    /// Takes commands, a line of JSON each. If it closes, the person is gone and the run ends, unless the last line was
    /// `detach`.
    pub commands: mpsc::UnboundedSender<String>,
    /// Gets the exit code, and what the engine wrote to its standard error.
    pub ended: oneshot::Receiver<(Option<RunExit>, String)>,
}

/// A serial console that a person can type into.
#[derive(Clone, Debug)]
pub struct SerialConsole {
    /// The unix socket that carries what is typed and what is written.
    pub socket: PathBuf,
    /// What the console wrote last, at most a few KiB.
    pub before: Vec<u8>,
}

/// The outcome of removing what dead runs left.
#[derive(Clone, Debug, Default)]
pub struct Cleaned {
    /// How many things are gone.
    pub gone: usize,
    /// What could not be removed, and why.
    pub left: Vec<String>,
}

/// The changes of the code, as they come.
pub trait CodeChanges: Send {
    /// Waits until some have come; returns the names of the files.
    fn next(&mut self) -> BoxFuture<'_, Vec<String>>;
}

/// The rest of vmdeck, as the cockpit needs it; see the module.
pub trait Services: Send + Sync + 'static {
    /// Reads the config.
    fn setup(&self) -> Result<Setup>;
    /// Returns the path of the config file, to be edited; it may not exist.
    fn config_file(&self) -> PathBuf;
    /// Writes a config that suits this host.
    fn init(&self) -> Result<PathBuf>;
    /// Makes the demo's guest and config, and uses that config; `told` is called with each step.
    fn demo<'a>(&'a self, told: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<()>>;
    /// Starts a run.
    fn start(&self, request: &RunRequest) -> Result<Engine>;
    /// Joins the run of this record, which another process began; an error where it cannot be steered from here.
    fn join(&self, dir: &Path) -> Result<Engine>;
    /// Returns the runs of this folder, the newest first; blocking.
    fn past_runs(&self) -> Vec<PastRunRow>;
    /// Returns what the last runs of this folder said of each case; blocking.
    fn case_history(&self) -> CaseHistory;
    /// Returns the last run of this folder before that of `record` in which the case that this SELECT word names passed; blocking.
    fn last_passed(&self, word: &str, record: &Path) -> Option<GreenRun>;
    /// Begins to watch the code that the guests of this config get.
    fn watch_code(&self, setup: Arc<Setup>) -> BoxFuture<'_, Result<Box<dyn CodeChanges>>>;
    /// Returns whether somebody carries out the run of this record; blocking.
    fn is_alive(&self, dir: &Path) -> bool;
    /// Returns every machine that the backends see.
    fn machines(&self) -> BoxFuture<'_, Result<Vec<OwnedMachine>>>;
    /// Returns what our machines that run now use, by name; blocking.
    fn usage(&self) -> BTreeMap<String, Usage>;
    /// Returns how the host's memory stands, and whom it was promised to; blocking.
    fn memory(&self) -> MemoryStanding;
    /// Checks the host for a run of this config.
    fn findings(&self, setup: Option<Arc<Setup>>) -> BoxFuture<'_, (Vec<Finding>, Capacity)>;
    /// Returns the state of the lock; blocking.
    fn locks(&self) -> Vec<LockRow>;
    /// Calls `on_change` from another thread when the lock, or the queue for it, has changed, until the returned value is dropped.
    fn watch_lock(&self, on_change: Box<dyn Fn() + Send>) -> Box<dyn Send>;
    /// Returns who waits for the lock, the first first; blocking.
    fn queue(&self) -> Vec<Holder>;
    /// Returns the folder of the record of a run in progress; blocking.
    fn record_of(&self, run: &str) -> Option<PathBuf>;
    /// Releases the lock at this path; `pid` is that of a live holder. Returns what was done; blocking.
    fn break_lock(&self, path: &Path, pid: Option<u32>) -> Result<String>;
    /// Returns what dead runs left, a line each; blocking.
    fn orphans(&self) -> Vec<String>;
    /// Removes what dead runs left.
    fn clean_up(&self) -> BoxFuture<'_, Cleaned>;
    /// Finds the serial console of a machine that runs; blocking.
    fn console(&self, guest: &GuestId, machine: &str) -> Result<SerialConsole>;
    /// Returns the command for a shell in a guest, in this machine of it if one is given, on a person's terminal; with the environment of
    /// this suite.
    fn shell(&self, guest: &GuestId, machine: Option<&str>, suite: Option<&str>) -> Vec<OsString>;
}
