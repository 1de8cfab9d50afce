//! The five states of a machine and the one table of transitions between them.
//!
//! *State is what cleanup must know.* Booting, connecting and testing are phases, not states: see
//! [`crate::event::Phase`]. The guards around the table are the VM controller's (`engine::controller`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a machine stands, for whoever has to clean it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Nothing exists.
    NotCreated,
    /// Resources exist, the machine has not been started.
    Created,
    /// The machine runs and is connected.
    Running,
    /// The machine is down and its resources are released.
    Terminated,
    /// Half started, or its release failed: only terminate is legal.
    Invalid,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] = [State::NotCreated, State::Created, State::Running, State::Terminated, State::Invalid];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::NotCreated => "NotCreated",
            State::Created => "Created",
            State::Running => "Running",
            State::Terminated => "Terminated",
            State::Invalid => "Invalid",
        })
    }
}

/// What moves a machine from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// The backend made the machine.
    CreateOk,
    /// The machine started and the guest answered.
    StartOk,
    /// Anything on the way to `Running` failed.
    StartFailed,
    /// Everything is down and released.
    TerminateOk,
    /// A resource could not be released.
    TerminateFailed,
    /// The guest ended by itself and its resources are released.
    Exited,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Trigger; 6] = [
        Trigger::CreateOk,
        Trigger::StartOk,
        Trigger::StartFailed,
        Trigger::TerminateOk,
        Trigger::TerminateFailed,
        Trigger::Exited,
    ];
}

/// The whole table. What is not in it does not happen.
///
/// `Invalid` has no `Exited` row: a guest that goes down by itself in `Invalid` has not released anything, and calling it
/// `Terminated` would mean that a failed close is never tried again.
pub const TRANSITIONS: &[(State, Trigger, State)] = &[
    (State::NotCreated, Trigger::CreateOk, State::Created),
    (State::Created, Trigger::StartOk, State::Running),
    (State::Created, Trigger::StartFailed, State::Invalid),
    (State::Created, Trigger::TerminateOk, State::Terminated),
    (State::Created, Trigger::TerminateFailed, State::Invalid),
    (State::Running, Trigger::Exited, State::Terminated),
    (State::Running, Trigger::TerminateOk, State::Terminated),
    (State::Running, Trigger::TerminateFailed, State::Invalid),
    (State::Invalid, Trigger::TerminateOk, State::Terminated),
    (State::Invalid, Trigger::TerminateFailed, State::Invalid),
];

impl State {
    /// The state after `trigger`, or `None` where the table has no such row.
    pub fn next(self, trigger: Trigger) -> Option<State> {
        TRANSITIONS.iter().find(|(from, by, _)| *from == self && *by == trigger).map(|row| row.2)
    }
}

/// The table as a Mermaid state diagram; ARCHITECTURE.md holds exactly this.
pub fn mermaid() -> String {
    let rows: String = TRANSITIONS.iter().map(|(from, by, to)| format!("    {from} --> {to}: {by:?}\n")).collect();
    format!("stateDiagram-v2\n    [*] --> NotCreated\n{rows}    Terminated --> [*]\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_triggers_never_leave_the_table_and_every_state_reaches_terminated(
            triggers in proptest::collection::vec(0usize..6, 0..40)
        ) {
            let mut state = State::NotCreated;
            for trigger in triggers.into_iter().map(|i| Trigger::ALL[i]) {
                if let Some(next) = state.next(trigger) {
                    prop_assert!(TRANSITIONS.contains(&(state, trigger, next)));
                    state = next;
                }
            }
            if state == State::NotCreated {
                state = state.next(Trigger::CreateOk).expect("a machine can be made");
            }
            if state != State::Terminated {
                state = state.next(Trigger::TerminateOk).expect("terminate is legal in every other state");
            }
            prop_assert_eq!(state, State::Terminated);
        }
    }

    #[test]
    fn invalid_is_left_by_a_successful_terminate_alone() {
        let out: Vec<_> = TRANSITIONS.iter().filter(|r| r.0 == State::Invalid && r.2 != State::Invalid).collect();
        assert_eq!(out, [&(State::Invalid, Trigger::TerminateOk, State::Terminated)]);
    }

    #[test]
    fn every_state_has_its_name() {
        let names: Vec<String> = State::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["NotCreated", "Created", "Running", "Terminated", "Invalid"]);
    }
}
