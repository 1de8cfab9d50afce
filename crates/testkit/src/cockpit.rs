//! What the cockpit needs of vmdeck, faked: services whose answers a test sets, and the usual way to put a cockpit together.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Holder},
    ids::GuestId,
    key::Options,
    machine::OwnedMachine,
    memory::MemoryStanding,
    plan::{HostConfig, Setup},
};
use vmdeck_tui::{
    host::BoxFuture,
    host_state::{Capacity, LockRow, Usage},
    keymap::Keymap,
    look::KeptLook,
    model::{Appearance, RunRequest},
    past_runs::{CaseHistory, GreenRun, PastRunRow},
    services::{Cleaned, CodeChanges, Engine, SerialConsole, Services},
    theme::{Depth, Theme},
};

/// Starts an engine for a request.
pub type StartEngine = Box<dyn Fn(&RunRequest) -> Result<Engine> + Send + Sync>;

/// Services whose answers are set by the test.
pub struct FakeServices {
    /// The folder in which everything lies.
    pub home: PathBuf,
    /// The config; `None` = there is none.
    pub setup: Mutex<Option<Setup>>,
    /// How the lock's slots stand.
    pub locks: Mutex<Vec<LockRow>>,
    /// The record of another run.
    pub record: Mutex<Option<PathBuf>>,
    /// The guests whose shells were asked for.
    pub shells: Mutex<Vec<String>>,
    start: StartEngine,
}

impl FakeServices {
    /// Returns services without a config whose engines are started by `start`.
    pub fn new(home: &Path, start: StartEngine) -> Self {
        Self {
            home: home.to_owned(),
            setup: Mutex::default(),
            locks: Mutex::default(),
            record: Mutex::default(),
            shells: Mutex::default(),
            start,
        }
    }
}

fn locked<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Services for FakeServices {
    fn setup(&self) -> Result<Setup> {
        let setup = locked(&self.setup).clone();
        setup.ok_or_else(|| Fault::user("cannot find a config").hint("`vmdeck init` writes one"))
    }

    fn config_file(&self) -> PathBuf {
        self.home.join("vmdeck.toml")
    }

    fn init(&self) -> Result<PathBuf> {
        *locked(&self.setup) = Some(empty_setup());
        Ok(self.config_file())
    }

    fn demo<'a>(&'a self, told: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<()>> {
        told("building".into());
        Box::pin(async { Ok(()) })
    }

    fn start(&self, request: &RunRequest) -> Result<Engine> {
        (self.start)(request)
    }

    fn join(&self, _: &Path) -> Result<Engine> {
        Err(Fault::user("cannot steer a run").because("it is only to be watched"))
    }

    fn past_runs(&self) -> Vec<PastRunRow> {
        Vec::new()
    }

    fn case_history(&self) -> CaseHistory {
        CaseHistory::default()
    }

    fn last_passed(&self, _: &str, _: &Path) -> Option<GreenRun> {
        None
    }

    fn watch_code(&self, _: Arc<Setup>) -> BoxFuture<'_, Result<Box<dyn CodeChanges>>> {
        Box::pin(async { Err(Fault::user("cannot watch anything").because("the guests have no `source`")) })
    }

    fn is_alive(&self, _: &Path) -> bool {
        false
    }

    fn machines(&self) -> BoxFuture<'_, Result<Vec<OwnedMachine>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn usage(&self) -> BTreeMap<String, Usage> {
        BTreeMap::new()
    }

    fn memory(&self) -> MemoryStanding {
        MemoryStanding::default()
    }

    fn findings(&self, _: Option<Arc<Setup>>) -> BoxFuture<'_, (Vec<Finding>, Capacity)> {
        Box::pin(async { (Vec::new(), Capacity::default()) })
    }

    fn locks(&self) -> Vec<LockRow> {
        locked(&self.locks).clone()
    }

    fn watch_lock(&self, _: Box<dyn Fn() + Send>) -> Box<dyn Send> {
        Box::new(())
    }

    fn queue(&self) -> Vec<Holder> {
        Vec::new()
    }

    fn record_of(&self, _: &str) -> Option<PathBuf> {
        locked(&self.record).clone()
    }

    fn break_lock(&self, _: &Path, _: Option<u32>) -> Result<String> {
        Ok("removed".into())
    }

    fn orphans(&self) -> Vec<String> {
        vec!["vmdeck-1 of guest deb".into()]
    }

    fn clean_up(&self) -> BoxFuture<'_, Cleaned> {
        Box::pin(async { Cleaned { gone: 1, left: Vec::new() } })
    }

    fn console(&self, _: &GuestId, _: &str) -> Result<SerialConsole> {
        let log = self.home.join("run-1/guests/deb/console.log");
        Ok(SerialConsole { socket: self.home.join("console.sock"), before: std::fs::read(log).unwrap_or_default() })
    }

    fn shell(&self, guest: &GuestId, _: Option<&str>, _: Option<&str>) -> Vec<OsString> {
        locked(&self.shells).push(guest.to_string());
        vec!["true".into()]
    }
}

/// Returns a config without guests and suites, whose host has no limits.
pub fn empty_setup() -> Setup {
    let host = HostConfig {
        log_size: 1 << 20,
        artifacts_size: 1 << 30,
        events_size: 1 << 20,
        records: vmdeck_model::plan::RecordBudget::default(),
        images: vmdeck_model::image::ImageConfig::default(),
        snapshots: vmdeck_model::snapshot::SnapshotConfig::default(),
        secret_env: Vec::new(),
        lock: "/l".into(),
        lock_shared: false,
        lock_timeout: Duration::ZERO,
        min_free_disk: 0,
        warn_free_disk: 0,
        min_free_memory: 0,
        slots: 1,
        memory: None,
        test_prefixes: Vec::new(),
        tools: BTreeMap::new(),
    };
    let (cockpit, keys) = (Options::default(), Options::default());
    Setup {
        file: None,
        folder: "/c".into(),
        host,
        guests: Vec::new(),
        suites: Vec::new(),
        cockpit,
        keys,
        troubles: Vec::new(),
        notes: Vec::new(),
        digest: String::new(),
        left_out: Vec::new(),
        quarantine: vmdeck_model::quarantine::Quarantine::default(),
    }
}

/// Returns how a cockpit looks without a config: the dark theme in true colours.
pub fn plain_look() -> Appearance {
    let theme = Theme::load("dark", None, Depth::True).expect("the built-in theme");
    Appearance {
        keymap: Keymap::new(&Options::default()).0,
        theme,
        theme_folder: None,
        ascii: false,
        ascii_only: false,
        fitting_theme: "dark",
        look: KeptLook::default(),
        mouse: false,
    }
}
