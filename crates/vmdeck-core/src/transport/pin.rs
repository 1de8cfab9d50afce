//! The key that a machine showed when somebody first logged in to it: every later connection must show the same one.
//!
//! Which kind of key it is, and how it is compared, is its transport's business.

use parking_lot::Mutex;
use std::sync::Arc;

/// A remembered key, shared by all connections to one machine.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<Mutex<Option<PinnedKey>>>);

#[derive(Clone, Debug)]
struct PinnedKey {
    key: String,
    /// Whether a login has succeeded with it: until then a first boot may make new keys.
    confirmed: bool,
}

impl Pin {
    /// Returns a pin of the key that was shown before, if it is known.
    pub fn of(key: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(key.map(|key| PinnedKey { key, confirmed: true }))))
    }

    /// Returns the key that was shown.
    pub fn known(&self) -> Option<String> {
        self.0.lock().as_ref().map(|pinned| pinned.key.clone())
    }

    /// Remembers `key` where no login has succeeded with another one; returns whether `key` is the remembered one.
    pub fn first_contact(&self, key: &str) -> bool {
        let mut known = self.0.lock();
        match known.as_ref() {
            Some(pinned) if pinned.confirmed => pinned.key == key,
            _ => {
                *known = Some(PinnedKey { key: key.to_owned(), confirmed: false });
                true
            }
        }
    }

    /// Notes that a login has succeeded: from now on the key stands.
    pub fn confirm(&self) {
        if let Some(pinned) = self.0.lock().as_mut() {
            pinned.confirmed = true;
        }
    }
}
