//! What a front end may ask of a running engine.
//!
//! A command that is not legal now is answered by a `warning` event, never ignored. A front end in another process sends
//! each as one line of JSON.

use super::{ids::GuestId, outcome::CancelReason};
use serde::{Deserialize, Serialize};

/// The line that ends the commands of another process and lets the run continue without it.
pub const DETACH: &str = "detach";

/// A request to the engine: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Stop taking cases, end the current one, collect, destroy.
    Cancel {
        /// Why.
        reason: CancelReason,
    },
    /// No further case in this guest: the current one is finished, artifacts are fetched, then it is taken down.
    Stop {
        /// Which.
        guest: GuestId,
    },
    /// End the current case of this guest now and take it down; nothing is collected.
    Kill {
        /// Which.
        guest: GuestId,
    },
    /// Leave this guest in place at the end, or not.
    Keep {
        /// Which.
        guest: GuestId,
        /// Whether it stays.
        on: bool,
    },
    /// Leave every guest in place that has a failed case, or not.
    KeepFailed {
        /// Whether they stay.
        on: bool,
    },
    /// Do not wait any longer before this guest is taken down.
    Proceed {
        /// Which.
        guest: GuestId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_json_each() {
        let stop = Command::Stop { guest: GuestId::new("deb").expect("name") };
        let line = serde_json::to_string(&stop).expect("json");
        assert_eq!(line, r#"{"command":"stop","guest":"deb"}"#);
        assert_eq!(serde_json::from_str::<Command>(&line).expect("back"), stop);
    }
}
