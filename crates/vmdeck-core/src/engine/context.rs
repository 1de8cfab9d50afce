//! What the parts of one run share: the plan, the way events go out, the journal, and what ends the run.
//!
//! Every job has a copy with a token of its own. The machines and cases themselves belong to the parts that use this.

use super::{
    admission::Admission, controls::RunControls, events::EventSender, journal::Journal, lock::HostLock,
    machine::SnapshotBook,
};
use crate::{backend::BackendDeps, coverage::CoverageMap};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::sync::{RwLock, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{guest::Guest, outcome::CancelReason, plan::Plan, secret::Redactor};

/// What the parts of one run share.
#[derive(Clone)]
pub(super) struct RunContext {
    pub(super) plan: Arc<Plan>,
    pub(super) events: EventSender,
    pub(super) journal: Journal,
    pub(super) backend: BackendDeps,
    pub(super) redactor: Redactor,
    /// Cancelled when no more should be begun; clean-up never listens to it.
    pub(super) cancel: CancellationToken,
    /// The token of the whole run.
    pub(super) run_cancel: CancellationToken,
    pub(super) cancel_requests: mpsc::UnboundedSender<CancelReason>,
    pub(super) controls: Arc<RunControls>,
    /// One permit for each guest that may be up at a time.
    pub(super) permits: Arc<Semaphore>,
    pub(super) lock: Arc<Mutex<Option<HostLock>>>,
    /// Which lines of the user's programs were run so far.
    pub(super) coverage: Arc<Mutex<CoverageMap>>,
    /// Held by each case that runs: together with others, or alone.
    pub(super) floor: Arc<RwLock<()>>,
    /// What gives machines the memory of this host.
    pub(super) admission: Arc<Admission>,
    /// How many bytes of artifacts may still come.
    pub(super) artifacts_room: Arc<AtomicU64>,
    /// What is known of snapshots.
    pub(super) snapshots: Arc<SnapshotBook>,
}

impl RunContext {
    /// Returns a guest's folder in the run's record.
    pub(super) fn guest_dir(&self, guest: &Guest) -> PathBuf {
        guest_dir(&self.plan.dir, guest)
    }

    /// Shows those who wait for the lock what is being done.
    pub(super) fn set_lock_phase(&self, phase: &str) {
        if let Some(lock) = self.lock.lock().as_mut() {
            lock.set_phase(phase);
        }
    }

    /// Returns why nothing more is begun in this guest.
    pub(super) fn stop_reason(&self) -> &'static str {
        if self.run_cancel.is_cancelled() { "the run was cancelled" } else { "the guest was stopped" }
    }

    /// Ends the whole run at once, before the dispatcher has heard the reason.
    pub(super) fn cancel_run(&self, reason: CancelReason) {
        self.run_cancel.cancel();
        self.request_cancel(reason);
    }

    /// Asks the dispatcher to end the run.
    pub(super) fn request_cancel(&self, reason: CancelReason) {
        let _ = self.cancel_requests.send(reason);
    }

    /// Returns whether nothing more is to begin in this guest.
    pub(super) fn is_stopped(&self, guest: &Guest) -> bool {
        let stopped = self.controls.of(&guest.id).is_some_and(|control| control.stop.is_cancelled());
        stopped || self.cancel.is_cancelled()
    }
}

/// Returns the folder of a guest in a run's record.
pub(super) fn guest_dir(run: &Path, guest: &Guest) -> PathBuf {
    run.join("guests").join(guest.id.as_str())
}
