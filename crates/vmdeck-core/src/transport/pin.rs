//! The host key of one machine, as it was seen at first contact.

use parking_lot::Mutex;
use std::sync::Arc;

/// The pinned host key of one machine; copies share it.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<Mutex<Option<String>>>);

impl Pin {
    /// Returns a pin of the key that was shown before, if it is known.
    pub fn of(key: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(key)))
    }

    /// Returns the key that was shown at first contact.
    pub fn known(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Remembers `key` if none is known yet; returns whether `key` is the known one.
    pub fn first_contact(&self, key: &str) -> bool {
        let mut known = self.0.lock();
        known.get_or_insert_with(|| key.to_owned()) == key
    }
}
