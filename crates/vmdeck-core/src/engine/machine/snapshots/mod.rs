//! Machines that begin where another one was frozen: what a snapshot is of, when one is made, and what a guest needs that goes on from it.
//!
//! Where snapshots are kept is `assets::snapshot`; how a machine is frozen is its backend's matter.

mod book;
mod checkpoint;
mod freeze;
mod key;
pub(crate) mod renew;
mod start;

pub(in crate::engine) use book::SnapshotBook;
pub(in crate::engine) use checkpoint::{FailedCase, keep_failure};
pub(super) use freeze::freeze_booted;
pub(in crate::engine) use freeze::freeze_set_up;
pub(in crate::engine) use key::SetupKey;
pub(super) use start::{MachineStart, Renewal, SnapshotPlan};
