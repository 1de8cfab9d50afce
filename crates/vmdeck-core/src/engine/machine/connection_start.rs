//! In which state a guest is when its machine begins: it boots, is up since an earlier run, or goes on from a snapshot.

use super::snapshots::Renewal;

/// In which state the guest is when the machine begins.
pub(super) enum ConnectionStart {
    /// It boots.
    Boot,
    /// It is up, and nothing has happened to it: an earlier run booted and kept the machine, or we did.
    Up,
    /// It goes on from a snapshot.
    Restored(Renewal),
}

impl ConnectionStart {
    /// Returns whether the guest is up from the first moment on.
    pub(super) fn is_up(&self) -> bool {
        !matches!(self, ConnectionStart::Boot)
    }
}
