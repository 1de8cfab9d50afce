//! What is told to a guest that is renewed, and what it answers.

use crate::host::random;
use chrono::{DateTime, TimeDelta, Utc};

/// How far the guest's clock may be from this host's.
pub(super) const EXACT: TimeDelta = TimeDelta::milliseconds(40);
/// How often the clock is set until it is exact.
pub(super) const TRIES: u32 = 3;
/// How far a clock may go on without timers being held: less has passed while the guest stood still than in any slow test.
pub(super) const JUMP: TimeDelta = TimeDelta::minutes(10);

/// What a guest said last, beside this host's clock.
pub(super) struct Renewed {
    pub(super) answer: GuestAnswer,
    /// How far its clock still has to go.
    pub(super) error: TimeDelta,
}

/// What the program in the guest wrote: its time, and random bytes as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestAnswer {
    pub(super) time: DateTime<Utc>,
    pub(super) drawn: String,
}

impl GuestAnswer {
    /// Reads the line of our own program: seconds and nanoseconds with the lowest byte first, then 16 random bytes, all as hexadecimal
    /// digits.
    pub(super) fn of_helper(line: &str) -> Option<Self> {
        if line.len() != 64 || !line.is_ascii() {
            return None;
        }
        let number = |at: usize| {
            let bytes = u64::from_str_radix(&line[at..at + 16], 16).ok()?.to_be_bytes();
            Some(i64::from_le_bytes(bytes))
        };
        let nanos = u32::try_from(number(16)?).ok()?;
        Some(Self { time: DateTime::from_timestamp(number(0)?, nanos)?, drawn: line[32..].to_owned() })
    }

    /// Reads what a shell wrote: seconds with a fraction where its `date` knows one, a blank, and random bytes.
    pub(super) fn of_shell(line: &str) -> Option<Self> {
        let (time, drawn) = line.trim().split_once(' ')?;
        let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
        let digits: String = fraction.chars().take_while(char::is_ascii_digit).collect();
        let nanos = if digits.len() == 9 { digits.parse().ok()? } else { 0 };
        let drawn: String = drawn.chars().filter(char::is_ascii_hexdigit).collect();
        Some(Self { time: DateTime::from_timestamp(seconds.parse().ok()?, nanos)?, drawn })
    }
}

/// Returns what our program reads: how far the clock is to go, and entropy; `None` = it is to end.
pub(super) fn block(by: Option<TimeDelta>) -> Vec<u8> {
    let (seconds, nanos) = by.map_or((0, -1), parts);
    [&seconds.to_le_bytes()[..], &nanos.to_le_bytes(), &entropy()].concat()
}

/// Returns 32 random bytes.
pub(super) fn entropy() -> Vec<u8> {
    [random::u128().to_le_bytes(), random::u128().to_le_bytes()].concat()
}

/// Returns a span of time as seconds and nanoseconds, of which the latter are never negative.
fn parts(by: TimeDelta) -> (i64, i64) {
    let (seconds, nanos) = (by.num_seconds(), i64::from(by.subsec_nanos()));
    if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_answers_are_read() {
        // Written by the program itself.
        let line = "8d680e6b00000000602e502900000000c08043c7cf0105c4d3286019aa358a02";
        let answer = GuestAnswer::of_helper(line).expect("read");
        assert_eq!(answer.time.to_rfc3339(), "2026-12-01T06:26:21.693120608+00:00");
        assert_eq!(answer.drawn, "c08043c7cf0105c4d3286019aa358a02");
        let shell = |line| GuestAnswer::of_shell(line).map(|answer| (answer.time.timestamp_millis(), answer.drawn));
        assert_eq!(shell("1700000000.250000000  ab cd\n"), Some((1_700_000_000_250, "abcd".to_owned())));
        assert_eq!(
            shell("1700000000.%N ab"),
            Some((1_700_000_000_000, "ab".to_owned())),
            "of a `date` without fractions"
        );
        for bad in ["", "x y", "1700000000"] {
            assert_eq!(shell(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in ".{0,80}") {
            let _ = (GuestAnswer::of_helper(&line), GuestAnswer::of_shell(&line));
        }

        #[test]
        fn the_parts_are_the_whole(nanos in -9_000_000_000_000i64..9_000_000_000_000) {
            let (seconds, rest) = parts(TimeDelta::nanoseconds(nanos));
            prop_assert!((0..1_000_000_000).contains(&rest));
            prop_assert_eq!(seconds * 1_000_000_000 + rest, nanos);
        }
    }
}
