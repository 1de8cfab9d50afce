//! Notices that the host was suspended: what a guest missed meanwhile is no fault of the code that is tested.
//!
//! Limits count the time in which the host was awake: their clock stands still with it (on Linux and macOS).

use super::events::EventSender;
use crate::host::clock;
use std::time::Duration;
use vmdeck_model::quantity::show_duration;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(5);
/// The shortest sleep that is told: clocks are not read at once.
const SHORTEST: Duration = Duration::from_secs(5);

/// Two clocks, of which one stands still while the host sleeps.
struct Clocks {
    since_boot: Duration,
    awake: Duration,
}

impl Clocks {
    /// Compares with what they show now; returns how long the host slept since the last look.
    fn slept(&mut self, since_boot: Duration, awake: Duration) -> Option<Duration> {
        let (all, ours) = (since_boot.saturating_sub(self.since_boot), awake.saturating_sub(self.awake));
        *self = Self { since_boot, awake };
        Some(all.saturating_sub(ours)).filter(|slept| *slept >= SHORTEST)
    }
}

/// Warns each time the host has slept, for ever.
pub(super) async fn watch(events: EventSender) {
    let start = clock::now();
    let mut clocks = Clocks { since_boot: clock::since_boot(), awake: Duration::ZERO };
    loop {
        clock::sleep(LOOK).await;
        if let Some(slept) = clocks.slept(clock::since_boot(), start.elapsed()) {
            let text = format!("the host was suspended for {}", show_duration(slept));
            let hint = "connections may be lost and guests' clocks wrong; the time does not count for any limit";
            events.warn(None, text, Some(hint.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_stood_still_is_a_sleep() {
        let s = Duration::from_secs;
        let mut clocks = Clocks { since_boot: s(100), awake: s(0) };
        assert_eq!(clocks.slept(s(105), s(5)), None);
        assert_eq!(clocks.slept(s(725), s(25)), Some(s(600)));
        assert_eq!(clocks.slept(s(730), s(30)), None, "told once");
        assert_eq!(clocks.slept(s(738), s(34)), None, "too short to be one");
    }
}
