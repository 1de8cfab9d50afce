//! What a run knows of snapshots: which it made and uses, whose machines boot all the same, which random numbers were drawn.

use super::SetupKey;
use crate::assets::snapshot::store::UsedSnapshot;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use vmdeck_model::ids::{GuestId, SuiteId};

/// What a run knows of snapshots.
#[derive(Debug, Default)]
pub(in crate::engine) struct SnapshotBook {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// The guests whose machines boot, whatever the config says.
    off: BTreeSet<GuestId>,
    /// What the machines of each guest depend on; it is asked once.
    keys: BTreeMap<GuestId, String>,
    /// What the setup of each suite in each guest depends on; the code is read once.
    setups: BTreeMap<(GuestId, SuiteId), SetupKey>,
    /// The snapshots that this run has made: their files need not be compared.
    made: BTreeSet<String>,
    /// Those that this run goes on from: nobody removes them meanwhile.
    used: BTreeMap<String, Arc<UsedSnapshot>>,
    /// What restored guests have drawn.
    drawn: BTreeSet<String>,
}

impl SnapshotBook {
    /// Notes that the machines of a guest boot from now on; returns whether that is news.
    pub(super) fn give_up(&self, guest: &GuestId) -> bool {
        self.entries.lock().off.insert(guest.clone())
    }

    pub(super) fn has_given_up(&self, guest: &GuestId) -> bool {
        self.entries.lock().off.contains(guest)
    }

    pub(super) fn key(&self, guest: &GuestId) -> Option<String> {
        self.entries.lock().keys.get(guest).cloned()
    }

    pub(super) fn set_key(&self, guest: &GuestId, key: &str) {
        self.entries.lock().keys.insert(guest.clone(), key.to_owned());
    }

    /// Returns what the setup of a suite in a guest depends on, once that is known.
    pub(in crate::engine) fn setup(&self, guest: &GuestId, suite: &SuiteId) -> Option<SetupKey> {
        self.entries.lock().setups.get(&(guest.clone(), suite.clone())).cloned()
    }

    /// Notes what the setup of a suite in a guest depends on.
    pub(in crate::engine) fn set_setup(&self, guest: &GuestId, key: &SetupKey) {
        self.entries.lock().setups.insert((guest.clone(), key.suite.clone()), key.clone());
    }

    pub(super) fn is_made(&self, key: &str) -> bool {
        self.entries.lock().made.contains(key)
    }

    pub(super) fn set_made(&self, key: &str) {
        self.entries.lock().made.insert(key.to_owned());
    }

    /// Returns a snapshot that this run uses.
    pub(super) fn used(&self, key: &str) -> Option<Arc<UsedSnapshot>> {
        self.entries.lock().used.get(key).cloned()
    }

    /// Notes that this run uses a snapshot.
    pub(super) fn set_used(&self, key: &str, snapshot: &Arc<UsedSnapshot>) {
        self.entries.lock().used.insert(key.to_owned(), Arc::clone(snapshot));
    }

    /// Lets a snapshot go.
    pub(super) fn let_go(&self, key: &str) {
        self.entries.lock().used.remove(key);
    }

    /// Lets all snapshots go.
    pub(in crate::engine) fn let_all_go(&self) {
        self.entries.lock().used.clear();
    }

    /// Notes what a restored guest has drawn; returns whether no other one of this run has drawn the same.
    pub(super) fn is_new_draw(&self, drawn: &str) -> bool {
        self.entries.lock().drawn.insert(drawn.to_owned())
    }
}
