//! Pauses between tries: longer each time, never all at the same moment.
//!
//! What is tried again is the caller's decision.

use std::time::Duration;

/// Returns the pause before try `attempt` (from 2): 1 s, 2 s, 4 s ... up to 15 s, each with up to a quarter more.
pub(super) fn pause(attempt: u32) -> Duration {
    let base = Duration::from_secs(1 << attempt.saturating_sub(2).min(4)).min(Duration::from_secs(15));
    base + base.mul_f64(fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for (attempt, low) in [(2, 1), (3, 2), (4, 4), (6, 15), (60, 15)] {
            let pause = pause(attempt);
            assert!(
                pause >= Duration::from_secs(low) && pause <= Duration::from_secs(low) * 5 / 4,
                "{attempt}: {pause:?}"
            );
        }
    }
}
