//! What the cockpit needs of the rest of vmdeck: config, machines, lock, clean-up, engines, shells.
//!
//! The trait is the cockpit's; the engine and the other subcommands do the work.

use super::engine_process::Engines;
use crate::{
    app::{
        Io,
        control::{self, Control},
        deps::deps_with,
        init, micro, runs, settings, trust, watch,
    },
    cli::{ConfigArgs, InitArgs, RunArgs},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::oneshot;
use vmdeck_core::{
    backend,
    engine::{
        admission, cleanup, inventory,
        lock::{self, Standing},
        preflight, reap, shell,
    },
    history::{self, PassedCase, PastBoot, PastCase, Trends},
    host::{
        capacity::{self, HostMeter},
        files, pids,
        process::Spawner,
    },
    transport::source_watch::SourceWatch,
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Holder, Phase},
    guest::Source,
    ids::GuestId,
    machine::OwnedMachine,
    memory::MemoryStanding,
    plan::Setup,
};
use vmdeck_tui::{
    host::BoxFuture,
    host_state::{Capacity, LockRow, LockState, Usage},
    model::RunRequest,
    past_runs::{BootRow, CaseHistory, GreenRun, PastRunRow},
    services::{Cleaned, CodeChanges, Engine, SerialConsole, Services},
};

/// How many of the last runs are looked at for what they said of each case.
const CASES: usize = 30;
/// How many bytes of a console's log are shown when the console is attached.
const BEFORE: u64 = 8 * 1024;

/// The services over the real engine and host.
pub(super) struct Real {
    config: Mutex<ConfigArgs>,
    args: RunArgs,
    deps: backend::BackendDeps,
    /// The engines of this cockpit's runs.
    pub(super) engines: Engines,
}

/// Loads the config as far as a cockpit may follow it: one that only looks, or whose config has no yes, starts nothing that the
/// config names.
pub(super) fn load(args: &RunArgs, config: &ConfigArgs) -> Result<Setup> {
    let mut setup = settings::load_for_cockpit(config, !args.read_only && trust::is_trusted(config))?;
    settings::retain_tags(&mut setup, args.tag.as_deref())?;
    Ok(setup)
}

impl Real {
    pub(super) fn new(args: &RunArgs, config: &ConfigArgs) -> Result<Self> {
        // A config with a mistake is told elsewhere.
        let known = load(args, config).map(|setup| (setup.host.tools, setup.host.secret_env));
        let (tools, secret_env) = known.unwrap_or_default();
        let config = Mutex::new(config.clone());
        Ok(Self { config, args: args.clone(), deps: deps_with(&tools, &secret_env)?, engines: Engines::default() })
    }

    /// Returns what starts programs, for the cockpit's host.
    pub(super) fn spawner(&self) -> Spawner {
        self.deps.spawner.clone()
    }

    fn config(&self) -> ConfigArgs {
        self.config.lock().clone()
    }

    /// Returns the config as arguments of another process of ours.
    fn config_args(&self) -> Vec<OsString> {
        let config = self.config();
        let mut out: Vec<OsString> = Vec::new();
        if let Some(file) = config.file {
            out.extend(["--config".into(), file.into()]);
        }
        for word in config.set {
            out.extend(["--set".into(), word.into()]);
        }
        out
    }
}

impl Services for Real {
    fn setup(&self) -> Result<Setup> {
        load(&self.args, &self.config())
    }

    fn config_file(&self) -> PathBuf {
        settings::find(&self.config()).unwrap_or_else(|| "vmdeck.toml".into())
    }

    fn init(&self) -> Result<PathBuf> {
        let (mut out, mut err) = (std::io::sink(), std::io::sink());
        // Nobody can be asked below the screen.
        init::make(
            &InitArgs { yes: true, ..InitArgs::default() },
            Path::new("vmdeck.toml"),
            &mut Io { out: &mut out, err: &mut err },
        )?;
        Ok("vmdeck.toml".into())
    }

    fn demo<'a>(&'a self, told: &'a (dyn Fn(String) + Send + Sync)) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let file = micro::make(told).await?;
            self.config.lock().file = Some(file);
            Ok(())
        })
    }

    fn start(&self, request: &RunRequest) -> Result<Engine> {
        self.engines.start(request, &self.args, self.config_args())
    }

    fn join(&self, dir: &Path) -> Result<Engine> {
        if self.args.read_only {
            return Err(Fault::user("cannot steer a run").because("this cockpit only looks"));
        }
        let Control { lines, mut ended } = control::join(dir, self.args.allow_control)?;
        let (done, told) = oneshot::channel();
        let record = dir.to_owned();
        tokio::spawn(async move {
            let _ = ended.recv().await;
            // What it came to is in the record.
            let exit =
                tokio::task::spawn_blocking(move || history::view(&record).ok().and_then(|view| view.exit)).await;
            let _ = done.send((exit.ok().flatten(), String::new()));
        });
        Ok(Engine { dir: dir.to_owned(), commands: lines, ended: told })
    }

    fn past_runs(&self) -> Vec<PastRunRow> {
        runs::past_runs(self.records())
    }

    fn case_history(&self) -> CaseHistory {
        let Trends { cases, boots } = history::trends(self.records(), CASES);
        let case = |(word, all): (String, Vec<PastCase>)| (word, all.iter().map(|c| (c.verdict, c.took_ms)).collect());
        let boot = |(id, all): (GuestId, Vec<PastBoot>)| (id, all.into_iter().map(boot_row).collect());
        CaseHistory { cases: cases.into_iter().map(case).collect(), boots: boots.into_iter().map(boot).collect() }
    }

    fn last_passed(&self, word: &str, record: &Path) -> Option<GreenRun> {
        let PassedCase { record, run, took_ms, boot_ms } = history::last_passed(self.records(), word, record)?;
        Some(GreenRun { dir: record, line: runs::which(&run), took_ms, boot_ms })
    }

    fn watch_code(&self, setup: Arc<Setup>) -> BoxFuture<'_, Result<Box<dyn CodeChanges>>> {
        Box::pin(async move {
            let file = setup.file.as_deref().and_then(|file| std::path::absolute(file).ok());
            let apart = vec![setup.host.lock.clone(), self.deps.state.clone()];
            let sources: Vec<Source> = setup.guests.iter().filter_map(|guest| guest.source.clone()).collect();
            if sources.is_empty() {
                return Err(watch::nothing_to_watch());
            }
            let watch = SourceWatch::begin(sources, file.into_iter().collect(), apart).await?;
            Ok(Box::new(Changes(watch)) as Box<dyn CodeChanges>)
        })
    }

    fn is_alive(&self, dir: &Path) -> bool {
        control::answers(dir)
    }

    fn machines(&self) -> BoxFuture<'_, Result<Vec<OwnedMachine>>> {
        Box::pin(async {
            let mut seen = inventory::list(&self.deps).await;
            // What can be seen is worth more than the reason why the rest cannot.
            match seen.unseen.pop().filter(|_| seen.rows.is_empty()) {
                Some(fault) => Err(fault),
                None => Ok(seen.rows),
            }
        })
    }

    fn usage(&self) -> BTreeMap<String, Usage> {
        reap::journal_states(&self.deps.state)
            .flat_map(|h| h.open)
            .filter_map(|(name, made)| {
                let (memory, cpu_ms) = pids::usage(made.id.pid?)?;
                let disk = files::disk_usage(&made.dir);
                Some((name, Usage { memory, cpu_ms, cpu_percent: 0, disk }))
            })
            .collect()
    }

    fn memory(&self) -> MemoryStanding {
        settings::load_host(&self.config()).map(|(host, _)| admission::look(&host, &HostMeter)).unwrap_or_default()
    }

    fn findings(&self, setup: Option<Arc<Setup>>) -> BoxFuture<'_, (Vec<Finding>, Capacity)> {
        Box::pin(async move {
            let Some(setup) = setup else {
                let host = settings::load_host(&ConfigArgs::default());
                let findings = match &host {
                    Ok((host, _)) => preflight::bare(host, &self.deps).await,
                    Err(_) => Vec::new(),
                };
                return (findings, Capacity::default());
            };
            let findings = preflight::of_setup(&setup, &self.deps).await;
            (findings, self.capacity(&setup))
        })
    }

    fn locks(&self) -> Vec<LockRow> {
        let Ok((host, _)) = settings::load_host(&self.config()) else { return Vec::new() };
        let row = |path: PathBuf| {
            let (state, holder) = match lock::look(&path).ok()? {
                Standing::Free => (LockState::Free, None),
                Standing::Live(holder) => (LockState::Held, Some(holder)),
                Standing::Dead { .. } => (LockState::Stale, None),
            };
            Some(LockRow { path: path.display().to_string(), state, holder })
        };
        lock::slot_paths(&host.lock, host.slots).filter_map(row).collect()
    }

    fn watch_lock(&self, on_change: Box<dyn Fn() + Send>) -> Box<dyn Send> {
        match settings::load_host(&self.config()) {
            Ok((host, _)) => Box::new(lock::LockWatch::new(&host.lock, on_change)),
            Err(_) => Box::new(()),
        }
    }

    fn queue(&self) -> Vec<Holder> {
        settings::load_host(&self.config()).map(|(host, _)| lock::waiting(&host.lock)).unwrap_or_default()
    }

    fn record_of(&self, run: &str) -> Option<PathBuf> {
        inventory::record_of(&self.deps, run)
    }

    fn break_lock(&self, path: &Path, pid: Option<u32>) -> Result<String> {
        if let Some(pid) = pid {
            return lock::take_away(path, pid).map(|holder| format!("took the lock from {holder}"));
        }
        Ok(match lock::break_dead(path, false)? {
            Some(holder) => format!("removed the lock of {holder}"),
            None => "the lock is free".into(),
        })
    }

    fn orphans(&self) -> Vec<String> {
        cleanup::preview(&self.deps).iter().map(ToString::to_string).collect()
    }

    fn clean_up(&self) -> BoxFuture<'_, Cleaned> {
        Box::pin(async {
            let mut cleaned = Cleaned::default();
            let Ok((host, _)) = settings::load_host(&self.config()) else { return cleaned };
            cleanup::run(&self.deps, &host.lock, &mut |reaped| match reaped {
                reap::Reaped::Gone { .. } => cleaned.gone += 1,
                reap::Reaped::Left { what, fault } => cleaned.left.push(format!("{what}: {}", fault.render())),
            })
            .await;
            cleaned
        })
    }

    fn console(&self, guest: &GuestId, machine: &str) -> Result<SerialConsole> {
        let cannot = || Fault::user(format!("cannot attach the console of `{guest}`"));
        let Some((made, dir)) = shell::open_machine(&self.deps.state, machine) else {
            return Err(cannot().because(format!("its machine `{machine}` is gone")));
        };
        let log = dir.join("guests").join(guest.as_str()).join("console.log");
        match made.console {
            Some(socket) => Ok(SerialConsole { socket, before: vmdeck_files::read_tail(&log, BEFORE) }),
            None if backend::capabilities_of(&made.backend).console.shows_boot() => {
                Err(cannot().because("it has not been powered on yet, or takes no input"))
            }
            None => Err(cannot().because(format!("the backend `{}` has no serial console", made.backend))),
        }
    }

    fn shell(&self, guest: &GuestId, machine: Option<&str>, suite: Option<&str>) -> Vec<OsString> {
        let binary = std::env::current_exe().unwrap_or_else(|_| "vmdeck".into());
        let mut out: Vec<OsString> = vec![binary.into(), "shell".into(), guest.as_str().into()];
        if let Some(machine) = machine {
            out.extend(["--machine".into(), machine.into()]);
        }
        if let Some(suite) = suite {
            out.extend(["--suite".into(), suite.into()]);
        }
        out.extend(self.config_args());
        out
    }
}

/// Returns a boot with its phases in their order; those that are none of a boot are left out.
fn boot_row(boot: PastBoot) -> BootRow {
    let phases = Phase::BOOT
        .into_iter()
        .filter_map(|phase| Some((phase, *boot.phases_ms.get(&phase.as_str().replace(' ', "_"))?)));
    BootRow { phases: phases.collect(), run: boot.run, boot_ms: boot.boot_ms }
}

/// The changes of the code of all guests.
struct Changes(SourceWatch);

impl CodeChanges for Changes {
    fn next(&mut self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(self.0.changed())
    }
}

impl Real {
    /// Returns the folder of the records.
    fn records(&self) -> &Path {
        self.args.report.run_dir.as_deref().unwrap_or(Path::new(runs::RECORDS))
    }

    fn capacity(&self, setup: &Setup) -> Capacity {
        let guests = preflight::largest(setup.guests.iter(), setup.host.slots as usize);
        Capacity {
            disk_free: capacity::free_disk(&self.deps.state).unwrap_or(0),
            disk_min: setup.host.min_free_disk,
            disk_warn: setup.host.warn_free_disk,
            disk_need: guests.iter().filter(|g| g.options.path("image").is_some()).map(|g| g.disk).sum(),
            memory_need: guests.iter().map(|g| g.memory).sum(),
        }
    }
}
