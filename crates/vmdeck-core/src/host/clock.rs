//! The only place where time is read.
//!
//! Durations come from tokio's clock, which tests can pause; wall-clock time is for records, never for decisions.

#![expect(clippy::disallowed_methods, reason = "this is the place")]

use chrono::{DateTime, Utc};
use std::time::Duration;
pub use tokio::time::Instant;

/// Returns the time now, on the clock that durations are measured with.
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time, for a record.
pub fn utc() -> DateTime<Utc> {
    Utc::now()
}

/// Returns the wall-clock time for comparing with times of files.
pub fn system() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Returns the time since this host was started, which all its processes share.
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Returns milliseconds since `start`.
pub fn ms_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Waits until this moment.
pub async fn sleep_until(moment: Instant) {
    tokio::time::sleep_until(moment).await;
}

/// Waits.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits by blocking this thread: only where no runtime is, and for milliseconds.
pub fn block(time: Duration) {
    std::thread::sleep(time);
}

/// Ends `work` after `limit`; `None` = it did not end in time.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}
