//! What a front end may ask of a running engine.
//!
//! A command that is not legal now is answered by a `warning` event. A front end in another process sends each as one line of
//! JSON; a line that is no command is dropped.

use super::{ids::GuestId, outcome::CancelReason};
use serde::{Deserialize, Serialize};

/// The line that ends the commands of another process and lets the run continue without it.
pub const DETACH: &str = "detach";

/// A request to the engine: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Ends the current cases, begins no further ones, and takes every guest down; nothing is fetched.
    Cancel {
        /// Why the run is cancelled.
        reason: CancelReason,
    },
    /// Begins no further case in this guest: the current one is finished, artifacts are fetched, then it is taken down.
    Stop {
        /// The guest that the command is for.
        guest: GuestId,
    },
    /// Ends the current case of this guest now and takes it down; nothing is fetched.
    Kill {
        /// The guest that the command is for.
        guest: GuestId,
    },
    /// Keeps this guest after the run, or not.
    Keep {
        /// The guest that the command is for.
        guest: GuestId,
        /// Whether the guest is kept.
        on: bool,
    },
    /// Keeps every guest that has a failed case, or not.
    KeepFailed {
        /// Whether the guests are kept.
        on: bool,
    },
    /// Presses a key of this guest's kernel.
    Press {
        /// The guest that the command is for.
        guest: GuestId,
        /// The key.
        key: KernelKey,
    },
    /// A person is in this guest, by a shell or its console, or has left: meanwhile its pause does not run out.
    InUse {
        /// The guest that the command is for.
        guest: GuestId,
        /// Whether somebody is in it.
        on: bool,
    },
    /// Answers the question that the current case of this guest is.
    Answer {
        /// The guest that the command is for.
        guest: GuestId,
        /// Whether the case has passed.
        passed: bool,
    },
    /// Ends the pause in which this guest is held for inspection.
    Proceed {
        /// The guest that the command is for.
        guest: GuestId,
    },
}

/// A key that a kernel hears when nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KernelKey {
    /// `SysRq` with this letter or digit.
    SysRq {
        /// The letter or digit.
        key: char,
    },
    /// A non-maskable interrupt.
    Nmi,
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
