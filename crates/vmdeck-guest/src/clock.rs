//! The guest's clock: the only place of this crate where time is read.

#![expect(clippy::disallowed_methods, reason = "this is the place")]

use std::time::{Duration, Instant};

/// Returns the time now, of a clock that only goes forward.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Does nothing for a while, in this thread alone.
pub(super) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
