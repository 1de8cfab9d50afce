//! The only place of this crate where time is read.
//!
//! Durations come from tokio's clock, which tests can pause; wall-clock time is shown, and decides nothing.

#![expect(clippy::disallowed_methods, reason = "this is the place")]

use std::{future::Future, time::Duration};
pub(crate) use tokio::time::Instant;

/// Returns the time now, on the clock that durations are measured with.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the milliseconds since `start`.
pub(crate) fn ms_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Returns the wall-clock time in milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Waits for `time`.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Ends `work` after `limit`; returns `None` if it did not end in time.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}
