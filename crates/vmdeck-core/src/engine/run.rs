//! The run from lock to release, in order; each step's failure ends it with its own exit code.
//!
//! Signals, commands and numbers are the dispatcher's; machines and cases have rooms of their own.

use super::{
    admission::{self, Admission},
    cases,
    context::RunContext,
    controls::RunControls,
    events::EventSender,
    guardian::Guardian,
    journal::{Journal, Record},
    lock::{self, HostLock},
    machine::{Permits, takeover},
    preflight,
    reap::{self, ReapScope, Reaped},
    revision,
    shell::{self, ShellRequest},
    suspend,
};
use crate::{
    backend::BackendDeps,
    host::{capacity::Meter, clock},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Holder},
    guest::Guest,
    ids::GuestId,
    job::Job,
    outcome::CancelReason,
    plan::Plan,
    quantity::show_count,
    secret::{REDACT_MIN, Redactor},
};

/// How long the end of a run waits for what git says of the code.
const REVISION: Duration = Duration::from_millis(500);

/// What is done in the machines of a run.
pub(super) enum Work {
    /// The plan's cases are run.
    Cases,
    /// One request is served in the plan's only guest.
    Shell(ShellRequest),
}

/// A run that is about to begin.
pub(super) struct Run {
    pub(super) plan: Arc<Plan>,
    pub(super) events: EventSender,
    pub(super) backend: BackendDeps,
    pub(super) binary: Option<PathBuf>,
    pub(super) meter: Arc<dyn Meter>,
    pub(super) cancel: CancellationToken,
    pub(super) cancel_requests: mpsc::UnboundedSender<CancelReason>,
    pub(super) controls: Arc<RunControls>,
}

impl Run {
    /// Carries the plan out.
    pub(super) async fn carry_out(self, work: Work) -> Result<()> {
        let looking = self
            .plan
            .config
            .is_some()
            .then(|| tokio::spawn(revision::tell(Arc::clone(&self.plan), self.events.clone())));
        let result = self.carry_out_locked(work).await;
        if let Some(looking) = looking {
            // Of a large repository that is not known yet, nothing is said.
            let _ = clock::within(REVISION, looking).await;
        }
        result
    }

    async fn carry_out_locked(self, work: Work) -> Result<()> {
        if self.plan.jobs.is_empty() {
            // A shard that has no case: the others have them all.
            return Ok(());
        }
        let slots = self.acquire_slots().await?;
        let parallel = slots.as_ref().map_or(self.plan.host.slots as usize, Vec::len).max(1);
        let mut slots = slots.unwrap_or_default();
        let first = (!slots.is_empty()).then(|| slots.remove(0));
        let lock = Arc::new(Mutex::new(first));
        let result = self.with_lock(&lock, parallel, work).await;
        slots.into_iter().for_each(HostLock::release);
        if let Some(lock) = lock.lock().take() {
            lock.release();
        }
        result
    }

    /// Acquires the lock, and with `slots` above one as many further slots as are free and can be used. `None` = the run
    /// does not take the lock.
    async fn acquire_slots(&self) -> Result<Option<Vec<HostLock>>> {
        let plan = &self.plan;
        if plan.options.no_lock {
            return Ok(None);
        }
        let path = plan.host.lock.display().to_string();
        let request = lock::LockRequest {
            path: plan.host.lock.clone(),
            shared: plan.host.lock_shared,
            timeout: plan.host.lock_timeout,
            owner: lock::owner(Some(plan.run.as_str())),
        };
        let start = clock::now();
        let progress = |holder: &Holder, waited: Duration| {
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            self.events.send(EventKind::LockWaiting { path: path.clone(), holder: holder.clone(), waited_ms });
        };
        let held = if plan.host.slots == 1 {
            vec![lock::acquire(&request, progress, &self.cancel).await?]
        } else {
            let machines = plan.guests().map(cases::wanted_machines).sum();
            let count = (plan.host.slots as usize).min(machines).max(1);
            lock::acquire_slots(&request, plan.host.slots, count, progress, &self.cancel).await?
        };
        self.events.send(EventKind::LockHeld { path, waited_ms: clock::ms_since(start) });
        Ok(Some(held))
    }

    async fn with_lock(&self, lock: &Arc<Mutex<Option<HostLock>>>, parallel: usize, work: Work) -> Result<()> {
        self.check_host(parallel).await?;
        self.reap_dead_runs().await;
        self.tell_short_secrets();
        let journal = self.begin_journal(lock)?;
        let guardian = self.start_guardian(lock, &journal);
        // A job that needs more machines than may be up would wait for ever.
        let permits = self.plan.jobs.iter().map(|job| job.guests().count()).max().unwrap_or(1).max(parallel);
        let context = Arc::new(RunContext {
            plan: Arc::clone(&self.plan),
            events: self.events.clone(),
            journal,
            backend: self.backend.clone(),
            redactor: Redactor::new(&self.plan.secrets()),
            cancel: self.cancel.clone(),
            run_cancel: self.cancel.clone(),
            cancel_requests: self.cancel_requests.clone(),
            controls: Arc::clone(&self.controls),
            permits: Arc::new(Semaphore::new(permits)),
            lock: Arc::clone(lock),
            coverage: Arc::default(),
            floor: Arc::default(),
            admission: Arc::new(self.admission()),
            artifacts_room: Arc::new(self.plan.host.artifacts_size.into()),
            snapshots: Arc::default(),
        });
        let watch = tokio::spawn(watch_lock(Arc::clone(&context)));
        let sleep = tokio::spawn(suspend::watch(self.events.clone()));
        let places = vec![self.backend.state.clone(), self.plan.dir.clone()];
        let (controls, events) = (Arc::clone(&self.controls), self.events.clone());
        let pressure =
            tokio::spawn(admission::watch(self.plan.host.clone(), places, controls, events, Arc::clone(&self.meter)));
        match work {
            Work::Shell(request) => shell::run(&context, request).await,
            Work::Cases => run_jobs(&context).await,
        }
        watch.abort();
        sleep.abort();
        pressure.abort();
        let store = self.backend.snapshots.clone();
        context.snapshots.let_all_go();
        // It may look at many files.
        for gone in tokio::task::spawn_blocking(move || store.trim(None)).await.unwrap_or_default() {
            let (guest, point) = (&gone.facts.guest, gone.facts.point);
            let text = format!("removed a snapshot of `{guest}` ({point}): `snapshots.max_size` leaves no room for it");
            self.events.send(EventKind::Progress { guest: None, text });
        }
        let lost = context.lock.lock().as_ref().filter(|l| !l.is_ours()).map(|l| l.path().to_owned());
        if let Some(path) = lost.filter(|_| !context.cancel.is_cancelled()) {
            // Within the last second, before the watch has seen it.
            let why = "it was no longer ours at the end".into();
            context.events.send(EventKind::LockLost { path: path.display().to_string(), why });
            context.request_cancel(CancelReason::LockLost);
        }
        context.set_lock_phase("ending");
        if let Err(fault) = context.journal.end() {
            self.events.warn(None, fault.to_string(), fault.remedy().map(str::to_owned));
        }
        if let Some(guardian) = guardian {
            guardian.dismiss().await;
        }
        Ok(())
    }

    fn admission(&self) -> Admission {
        Admission::new(&self.plan, self.backend.state.clone(), Arc::clone(&self.meter), self.events.clone())
    }

    async fn check_host(&self, parallel: usize) -> Result<()> {
        let mut report = |finding| self.events.send(EventKind::PreflightFinding(finding));
        let machines = self.plan.jobs.iter().flat_map(|job| cases::machines_at_once(&self.plan, job).0);
        let request = preflight::Request {
            further: machines.filter(|guest| guest.one_more_of.is_some()).collect(),
            host: &self.plan.host,
            record: &self.plan.dir,
            // One whose machine is up already needs neither memory nor an image.
            guests: self.plan.guests().filter(|guest| !self.has_kept(guest)).collect(),
            parallel,
            together: self.plan.jobs.iter().map(admission::memory_of_job).max().unwrap_or(0),
        };
        let ready = tokio::select! {
            ready = preflight::run(&request, &self.backend, &mut report) => ready,
            () = self.cancel.cancelled() => {
                return Err(Fault::cancelled("cannot start the run").because("it was cancelled"));
            }
        };
        if ready {
            return Ok(());
        }
        Err(Fault::host("cannot start the run")
            .because("the host is not ready; see the findings above")
            .hint("`vmdeck doctor` checks again"))
    }

    /// Warns of secrets that are too short to be masked.
    fn tell_short_secrets(&self) {
        let short = self.plan.secrets().iter().filter(|secret| secret.expose().len() < REDACT_MIN).count();
        if short > 0 {
            let text = format!(
                "{} of fewer than {REDACT_MIN} characters: not masked in logs, since that would hide half of them",
                show_count(short, "secret")
            );
            self.events.warn(None, text, Some("use a longer one".into()));
        }
    }

    /// Returns whether a guest gets a machine that was kept for it.
    fn has_kept(&self, guest: &Guest) -> bool {
        let plan = &self.plan;
        plan.options.reuse && takeover::is_there(&self.backend.state, &plan.folder, guest)
    }

    async fn reap_dead_runs(&self) {
        let mut report = |reaped| match reaped {
            Reaped::Gone { run, what, how, .. } => self.events.send(EventKind::Reaped { run, what, how }),
            Reaped::Left { what, fault } => {
                self.events.warn(None, format!("{what}: {fault}"), Some("`vmdeck cleanup` tries again".into()));
            }
        };
        reap::dead_runs(&self.backend, ReapScope::Dead, &mut report).await;
        admission::sweep(&self.plan.host.lock);
    }

    fn begin_journal(&self, lock: &Mutex<Option<HostLock>>) -> Result<Journal> {
        let lock_path = lock.lock().as_ref().map(|l| l.path().to_owned());
        let plan = &self.plan;
        let journal =
            Journal::begin(&self.backend.state, plan.run.as_str(), lock_path.as_deref(), &plan.dir, &plan.folder)?;
        if !self.backend.tools.is_empty() {
            journal.append(&Record::Tools { tools: self.backend.tools.clone() })?;
        }
        Ok(journal)
    }

    fn start_guardian(&self, lock: &Arc<Mutex<Option<HostLock>>>, journal: &Journal) -> Option<Guardian> {
        let binary = self.binary.clone()?;
        match Guardian::start(
            binary,
            journal.clone(),
            (Arc::clone(lock), self.plan.host.lock.clone()),
            self.events.clone(),
        ) {
            Ok(guardian) => Some(guardian),
            Err(e) => {
                let text = format!("the guardian did not start: {e}; after a crash the next run cleans up");
                self.events.warn(None, text, None);
                None
            }
        }
    }
}

/// Runs every job, as many at a time as there are permits. A job that panics is a bug, and its machine is the reaper's.
///
/// Two jobs of one guest of the config never run at a time: it may name a machine that there is only once.
async fn run_jobs(context: &Arc<RunContext>) {
    let mut waiting: VecDeque<Job> = context.plan.jobs.iter().cloned().collect();
    let mut busy: HashMap<Id, Vec<GuestId>> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let is_free =
            |job: &Job| !job.members().iter().any(|member| busy.values().flatten().any(|id| *id == member.guest.key));
        let next = waiting.iter().position(is_free);
        let count = next.map_or(1, |next| waiting[next].members().len());
        tokio::select! {
            Some(permits) = Permits::acquire(&context.permits, count), if next.is_some() => {
                let Some(job) = next.and_then(|next| waiting.remove(next)) else { continue };
                let mut own = RunContext::clone(context);
                if let Some(control) = context.controls.of(&job.guest().id) {
                    own.cancel = control.cancel.clone();
                }
                let guests = job.members().iter().map(|member| member.guest.key.clone()).collect();
                busy.insert(running.spawn(cases::run(Arc::new(own), job, permits)).id(), guests);
            }
            Some(done) = running.join_next_with_id() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(e) => {
                        context.events.warn(
                            None,
                            format!("a worker panicked: {e}"),
                            Some("this is a bug in vmdeck; `vmdeck cleanup` removes what it left".into()),
                        );
                        context.events.bug();
                        e.id()
                    }
                };
                busy.remove(&id);
            }
            else => break,
        }
    }
}

async fn watch_lock(context: Arc<RunContext>) {
    // Looked at by path and inode, so that the lock itself stays where it can be released.
    let watched = context.lock.lock().as_ref().map(HostLock::watcher);
    let Some(watcher) = watched else { return };
    let why = watcher.until_lost().await;
    context.events.send(EventKind::LockLost { path: watcher.path().display().to_string(), why });
    context.request_cancel(CancelReason::LockLost);
}
