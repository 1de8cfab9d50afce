//! The run from lock to release, in order; each step's failure ends it with its own exit code.
//!
//! Signals, commands and numbers are the dispatcher's; a single guest is the worker's.

use super::{
    emit::Emit,
    guardian::Guardian,
    journal::{Journal, Record},
    launch,
    lock::{self, HostLock},
    preflight, reap, shell,
    steer::Steering,
    worker,
};
use crate::backend;
use parking_lot::Mutex;
use std::{path::PathBuf, sync::Arc};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::EventKind,
    guest::Guest,
    outcome::CancelReason,
    plan::Plan,
    secret::Redactor,
};

/// What every worker of a run shares; each has a copy with a token of its own.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) plan: Arc<Plan>,
    pub(super) emit: Emit,
    pub(super) journal: Journal,
    pub(super) backend: backend::Deps,
    pub(super) redactor: Redactor,
    /// Cancelled when no more should be begun; cleanup never listens to it.
    pub(super) cancel: CancellationToken,
    /// The whole run's own.
    run_cancel: CancellationToken,
    pub(super) asks: mpsc::UnboundedSender<CancelReason>,
    pub(super) steering: Arc<Steering>,
    /// Guests that may be up at a time.
    pub(super) places: Arc<Semaphore>,
    pub(super) lock: Arc<Mutex<Option<HostLock>>>,
}

impl Shared {
    /// A guest's folder in the record.
    pub(super) fn guest_dir(&self, guest: &Guest) -> PathBuf {
        launch::guest_dir(&self.plan.dir, guest)
    }

    /// Tells those who wait for the lock what is being done.
    pub(super) fn note(&self, phase: &str) {
        if let Some(lock) = self.lock.lock().as_mut() {
            lock.set_phase(phase);
        }
    }

    /// Why nothing more is begun in this guest.
    pub(super) fn why_stopped(&self) -> &'static str {
        if self.run_cancel.is_cancelled() { "the run was cancelled" } else { "the guest was stopped" }
    }

    /// Ends the whole run, at once.
    pub(super) fn cancel_run(&self) {
        self.run_cancel.cancel();
    }

    /// Asks for the end of the run.
    pub(super) fn ask_cancel(&self, reason: CancelReason) {
        let _ = self.asks.send(reason);
    }
}

/// What the dispatcher hands over.
pub(super) struct Brief {
    pub(super) plan: Arc<Plan>,
    pub(super) emit: Emit,
    pub(super) backend: backend::Deps,
    pub(super) binary: Option<PathBuf>,
    pub(super) cancel: CancellationToken,
    pub(super) asks: mpsc::UnboundedSender<CancelReason>,
    pub(super) steering: Arc<Steering>,
    /// Instead of the cases: one request in the only guest.
    pub(super) shell: Option<shell::Request>,
}

/// Carries the plan out.
pub(super) async fn run(mut brief: Brief) -> Result<()> {
    let request = brief.shell.take();
    let slots = take_slots(&brief).await?;
    let (first, rest) = match slots {
        Some(mut slots) => {
            let first = slots.remove(0);
            (Some(first), slots)
        }
        None => (None, Vec::new()),
    };
    let parallel = if first.is_none() { brief.plan.host.slots as usize } else { rest.len() + 1 };
    let lock = Arc::new(Mutex::new(first));
    let result = with_lock(&brief, &lock, parallel.max(1), request).await;
    rest.into_iter().for_each(HostLock::release);
    if let Some(lock) = lock.lock().take() {
        lock.release();
    }
    result
}

/// The lock, and with `slots` above one as many further slots as are free and can be used.
async fn take_slots(brief: &Brief) -> Result<Option<Vec<HostLock>>> {
    let plan = &brief.plan;
    if plan.options.no_lock {
        return Ok(None);
    }
    let owner = lock::owner(Some(plan.run.as_str()));
    let shown = plan.host.lock.display().to_string();
    let request = |path, timeout| lock::Request { path, shared: plan.host.lock_shared, timeout, owner: owner.clone() };
    let mut held: Vec<HostLock> = Vec::new();
    let count = (plan.host.slots as usize).min(plan.jobs.len()).max(1);
    let start = crate::host::clock::now();
    let told = |holder: &vmdeck_model::event::Holder, waited: std::time::Duration| {
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        brief.emit.fact(EventKind::LockWaiting { path: shown.clone(), holder: holder.clone(), waited_ms });
    };
    if plan.host.slots == 1 {
        held.push(lock::acquire(&request(plan.host.lock.clone(), plan.host.lock_timeout), told, &brief.cancel).await?);
    } else {
        held = lock::acquire_slots(
            &request(plan.host.lock.clone(), plan.host.lock_timeout),
            plan.host.slots,
            count,
            told,
            &brief.cancel,
        )
        .await?;
    }
    brief.emit.fact(EventKind::LockHeld { path: shown, waited_ms: crate::host::clock::ms_since(start) });
    Ok(Some(held))
}

async fn with_lock(
    brief: &Brief,
    lock: &Arc<Mutex<Option<HostLock>>>,
    parallel: usize,
    request: Option<shell::Request>,
) -> Result<()> {
    let plan = &brief.plan;
    let mut told = |finding| brief.emit.fact(EventKind::PreflightFinding(finding));
    let fit = tokio::select! {
        fit = preflight::run(plan, &brief.backend, parallel, &mut told) => fit,
        () = brief.cancel.cancelled() => return Err(cancelled()),
    };
    if !fit {
        return Err(Fault::host("cannot start the run")
            .because("the host is not ready; see the findings above")
            .hint("`vmdeck doctor` checks again"));
    }
    reap::dead_runs(&brief.backend, reap::Scope::Dead, &mut |reaped| match reaped {
        reap::Reaped::Gone { run, what, how, .. } => brief.emit.fact(EventKind::Reaped { run, what, how }),
        reap::Reaped::Left { what, fault } => {
            brief.emit.warn(None, format!("{what}: {fault}"), Some("`vmdeck cleanup` tries again".into()));
        }
    })
    .await;
    let lock_path = lock.lock().as_ref().map(|l| l.path().to_owned());
    let journal = Journal::begin(&brief.backend.state, plan.run.as_str(), lock_path.as_deref(), &plan.dir)?;
    if !brief.backend.tools.is_empty() {
        journal.append(&Record::Tools { tools: brief.backend.tools.clone() })?;
    }
    let guardian = start_guardian(brief, lock, &journal);
    let shared = Arc::new(Shared {
        plan: Arc::clone(plan),
        emit: brief.emit.clone(),
        journal,
        backend: brief.backend.clone(),
        redactor: Redactor::new(&plan.secrets()),
        cancel: brief.cancel.clone(),
        run_cancel: brief.cancel.clone(),
        asks: brief.asks.clone(),
        steering: Arc::clone(&brief.steering),
        places: Arc::new(Semaphore::new(parallel)),
        lock: Arc::clone(lock),
    });
    let watch = tokio::spawn(watch_lock(Arc::clone(&shared)));
    match request {
        Some(request) => shell::run(&shared, request).await,
        None => run_jobs(&shared).await,
    }
    watch.abort();
    let lost = shared.lock.lock().as_ref().filter(|l| !l.is_ours()).map(|l| l.path().to_owned());
    if let Some(path) = lost.filter(|_| !shared.cancel.is_cancelled()) {
        // Within the last second, before the watch has seen it.
        let why = "at the end it was not ours any more".into();
        shared.emit.fact(EventKind::LockLost { path: path.display().to_string(), why });
        shared.ask_cancel(CancelReason::LockLost);
    }
    shared.note("ending");
    if let Err(fault) = shared.journal.end() {
        brief.emit.warn(None, fault.to_string(), fault.remedy().map(str::to_owned));
    }
    if let Some(guardian) = guardian {
        guardian.dismiss().await;
    }
    Ok(())
}

fn cancelled() -> Fault {
    Fault::new(Blame::Cancelled, "cannot start the run").because("it was cancelled")
}

fn start_guardian(brief: &Brief, lock: &Arc<Mutex<Option<HostLock>>>, journal: &Journal) -> Option<Guardian> {
    let binary = brief.binary.as_ref()?;
    let mut lock = lock.lock();
    match Guardian::start(binary, journal, lock.as_ref()) {
        Ok(guardian) => {
            if let Some(lock) = lock.as_mut() {
                // The guardian is the last to need the lock.
                lock.set_pid(guardian.pid());
            }
            Some(guardian)
        }
        Err(e) => {
            brief.emit.warn(
                None,
                format!("the guardian did not start: {e}; after a crash the next run cleans up"),
                None,
            );
            None
        }
    }
}

/// Runs every job, as many at a time as there are places. A worker that panics is a bug, and its machine is the reaper's.
async fn run_jobs(shared: &Arc<Shared>) {
    let mut waiting: Vec<_> = shared.plan.jobs.iter().rev().cloned().collect();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Ok(place) = Arc::clone(&shared.places).acquire_owned(), if !waiting.is_empty() => {
                let Some(job) = waiting.pop() else { continue };
                let mut own = Shared::clone(shared);
                if let Some(wheel) = shared.steering.of(&job.guest.id) {
                    own.cancel = wheel.cancel.clone();
                }
                running.spawn(worker::run(Arc::new(own), job, place));
            }
            Some(done) = running.join_next() => if let Err(e) = done {
                shared.emit.warn(
                    None,
                    format!("a worker panicked: {e}"),
                    Some("this is a bug in vmdeck; `vmdeck cleanup` removes what it left".into()),
                );
                shared.emit.bug();
            },
            else => break,
        }
    }
}

async fn watch_lock(shared: Arc<Shared>) {
    // Looked at by path and inode, so that the lock itself stays where it can be released.
    let watched = shared.lock.lock().as_ref().map(HostLock::watcher);
    let Some(watcher) = watched else { return };
    let why = watcher.until_lost().await;
    shared.emit.fact(EventKind::LockLost { path: watcher.path().display().to_string(), why });
    shared.ask_cancel(CancelReason::LockLost);
}
