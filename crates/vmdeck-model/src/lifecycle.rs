//! The five states of a machine and the one table of transitions between them.
//!
//! *The state is what clean-up must know.* Booting, connecting and testing are phases, not states: see
//! [`crate::event::Phase`]. The guards around the table are in the engine's `machine/controller`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a machine, for whoever has to clean it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MachineState {
    /// Nothing exists.
    NotCreated,
    /// Resources exist; the machine has not been started.
    Created,
    /// The machine runs and is connected.
    Running,
    /// The machine is down and its resources are released.
    Terminated,
    /// The machine is half started, or its release failed: only terminate is legal.
    Invalid,
}

impl MachineState {
    /// Every state.
    pub const ALL: [MachineState; 5] = [
        MachineState::NotCreated,
        MachineState::Created,
        MachineState::Running,
        MachineState::Terminated,
        MachineState::Invalid,
    ];
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MachineState::NotCreated => "NotCreated",
            MachineState::Created => "Created",
            MachineState::Running => "Running",
            MachineState::Terminated => "Terminated",
            MachineState::Invalid => "Invalid",
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
pub const TRANSITIONS: &[(MachineState, Trigger, MachineState)] = &[
    (MachineState::NotCreated, Trigger::CreateOk, MachineState::Created),
    (MachineState::Created, Trigger::StartOk, MachineState::Running),
    (MachineState::Created, Trigger::StartFailed, MachineState::Invalid),
    (MachineState::Created, Trigger::TerminateOk, MachineState::Terminated),
    (MachineState::Created, Trigger::TerminateFailed, MachineState::Invalid),
    (MachineState::Running, Trigger::Exited, MachineState::Terminated),
    (MachineState::Running, Trigger::TerminateOk, MachineState::Terminated),
    (MachineState::Running, Trigger::TerminateFailed, MachineState::Invalid),
    (MachineState::Invalid, Trigger::TerminateOk, MachineState::Terminated),
    (MachineState::Invalid, Trigger::TerminateFailed, MachineState::Invalid),
];

impl MachineState {
    /// Returns the state after `trigger`, or `None` where the table has no such row.
    pub fn next(self, trigger: Trigger) -> Option<MachineState> {
        TRANSITIONS.iter().find(|(from, by, _)| *from == self && *by == trigger).map(|row| row.2)
    }
}

/// Returns the table as a Mermaid state diagram; ARCHITECTURE.md holds exactly this.
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
            let mut state = MachineState::NotCreated;
            for trigger in triggers.into_iter().map(|i| Trigger::ALL[i]) {
                if let Some(next) = state.next(trigger) {
                    prop_assert!(TRANSITIONS.contains(&(state, trigger, next)));
                    state = next;
                }
            }
            if state == MachineState::NotCreated {
                state = state.next(Trigger::CreateOk).expect("a machine can be made");
            }
            if state != MachineState::Terminated {
                state = state.next(Trigger::TerminateOk).expect("terminate is legal in every other state");
            }
            prop_assert_eq!(state, MachineState::Terminated);
        }
    }

    #[test]
    fn invalid_is_left_by_a_successful_terminate_alone() {
        let out: Vec<_> =
            TRANSITIONS.iter().filter(|r| r.0 == MachineState::Invalid && r.2 != MachineState::Invalid).collect();
        assert_eq!(out, [&(MachineState::Invalid, Trigger::TerminateOk, MachineState::Terminated)]);
    }

    #[test]
    fn every_state_has_its_name() {
        let names: Vec<String> = MachineState::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["NotCreated", "Created", "Running", "Terminated", "Invalid"]);
    }
}
