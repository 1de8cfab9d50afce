//! What a job must have before a machine of it is started: as many guests as the host may have up at a time, and the memory of each; all of
//! a job's at once or none.

use crate::engine::admission::{Admission, Reservation};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{error::Result, guest::Guest, ids::GuestId};

/// The permits for all machines of one job.
pub(in crate::engine) struct Permits {
    pool: Arc<Semaphore>,
    count: u32,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    /// The memory of each of the machines; it stays while a person inspects one.
    memory: Mutex<BTreeMap<GuestId, Arc<Reservation>>>,
}

impl Permits {
    /// Waits for `count` permits and takes them together; `None` = the run is over.
    pub(in crate::engine) async fn acquire(pool: &Arc<Semaphore>, count: usize) -> Option<Self> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permits = Self { pool: Arc::clone(pool), count, held: Mutex::default(), memory: Mutex::default() };
        permits.reacquire().await.then_some(permits)
    }

    /// Waits for the memory of those of these guests that have none yet, and takes it for all of them together.
    pub(in crate::engine) async fn reserve(
        &self,
        admission: &Admission,
        guests: &[&Guest],
        cancel: &CancellationToken,
    ) -> Result<()> {
        let lacking: Vec<&Guest> = {
            let memory = self.memory.lock();
            guests.iter().copied().filter(|guest| !memory.contains_key(&guest.id)).collect()
        };
        let taken = admission.reserve(&lacking, cancel).await?;
        self.memory.lock().extend(taken);
        Ok(())
    }

    /// Returns the memory of a guest's machine; `None` = it has none, or it is not ours to say.
    pub(super) fn memory_of(&self, guest: &GuestId) -> Option<Arc<Reservation>> {
        self.memory.lock().get(guest).cloned()
    }

    /// Gives the permits back while a person inspects a machine that failed: the other guests continue.
    pub(super) fn give_back(&self) {
        drop(self.held.lock().take());
    }

    /// Waits for the permits again if they were given back; returns whether they are held.
    pub(in crate::engine) async fn reacquire(&self) -> bool {
        if self.held.lock().is_none() {
            let taken = Arc::clone(&self.pool).acquire_many_owned(self.count).await.ok();
            *self.held.lock() = taken;
        }
        self.held.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_permits_of_a_job_come_together_or_not_at_all() {
        let pool = Arc::new(Semaphore::new(2));
        let one = Permits::acquire(&pool, 1).await.expect("free");
        let two = crate::host::clock::within(std::time::Duration::from_secs(1), Permits::acquire(&pool, 2)).await;
        assert!(two.is_none(), "one of the two is taken");
        assert_eq!(pool.available_permits(), 1, "and the other was not held meanwhile");
        one.give_back();
        let two = Permits::acquire(&pool, 2).await.expect("free again");
        assert_eq!(pool.available_permits(), 0);
        drop(two);
        assert!(one.reacquire().await);
    }
}
