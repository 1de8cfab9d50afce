//! What a front end may ask of a running engine.
//!
//! A command that is not legal now is answered by a `warning` event, never ignored.

use super::{ids::GuestId, outcome::CancelReason};
use serde::{Deserialize, Serialize};

/// A request to the engine: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Stop taking cases, end the current one, collect, destroy.
    Cancel {
        /// Why.
        reason: CancelReason,
    },
    /// Kill the guests now and destroy them; collect nothing.
    Kill,
    /// Leave this guest in place at the end.
    Keep {
        /// Which.
        guest: GuestId,
    },
}
