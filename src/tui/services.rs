//! What the cockpit needs from the rest of the program: the engine, the config, the machines, the lock.
//!
//! The composition root provides it; tests provide a fake.

use super::model::{Capacity, LockRow, Usage, Wish};
use crate::{
    engine::inventory::Row,
    error::Result,
    host::process::Spawner,
    model::{event::Finding, exit::Exit, ids::GuestId, plan::Setup},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

/// A boxed future.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An engine that carries a run out, in a process of its own.
pub struct Engine {
    /// The run's record.
    pub dir: PathBuf,
    /// Takes commands, a line of JSON each. Closed = the person is gone, and the run ends, unless the word before was
    /// `detach`.
    pub commands: mpsc::UnboundedSender<String>,
    /// Its exit, and what it said on its standard error.
    pub ended: oneshot::Receiver<(Option<Exit>, String)>,
}

/// What was removed of dead runs.
#[derive(Clone, Debug, Default)]
pub struct Cleaned {
    /// How many things are gone.
    pub gone: usize,
    /// What is not, and why.
    pub left: Vec<String>,
}

/// See the module.
pub trait Services: Send + Sync + 'static {
    /// Reads the config.
    fn setup(&self) -> Result<Setup>;
    /// The config's file, to be edited; it may not exist.
    fn config_file(&self) -> PathBuf;
    /// Writes a config from what this host has.
    fn init(&self) -> Result<PathBuf>;
    /// Makes the demo's guest and config, and uses that; `told` hears what is being done.
    fn demo<'a>(&'a self, told: &'a (dyn Fn(String) + Send + Sync)) -> Fut<'a, Result<()>>;
    /// Starts a run.
    fn start(&self, wish: &Wish) -> Result<Engine>;
    /// Every machine that the backends see.
    fn machines(&self) -> Fut<'_, Result<Vec<Row>>>;
    /// What our machines that run now use, by name; blocking.
    fn usage(&self) -> BTreeMap<String, Usage>;
    /// Checks the host for a run of this config.
    fn findings(&self, setup: Option<Arc<Setup>>) -> Fut<'_, (Vec<Finding>, Capacity)>;
    /// How the lock stands; blocking.
    fn locks(&self) -> Vec<LockRow>;
    /// Where the record of a run that goes on is; blocking.
    fn record_of(&self, run: &str) -> Option<PathBuf>;
    /// Releases the lock at this path; `pid` = that of its holder, who lives. Returns what was done; blocking.
    fn break_lock(&self, path: &Path, pid: Option<u32>) -> Result<String>;
    /// What dead runs left, a line each; blocking.
    fn orphans(&self) -> Vec<String>;
    /// Removes it.
    fn clean_up(&self) -> Fut<'_, Cleaned>;
    /// The socket of the serial console of a machine that runs, and its log; blocking.
    fn console(&self, guest: &GuestId, machine: &str) -> Result<(PathBuf, PathBuf)>;
    /// The command for a shell in a guest, in this machine of it if one is given, on a person's terminal.
    fn shell(&self, guest: &GuestId, machine: Option<&str>) -> Vec<OsString>;
    /// Starts programs.
    fn spawner(&self) -> &Spawner;
}
