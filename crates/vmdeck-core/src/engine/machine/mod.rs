//! The supply of machines: makes or adopts one for a guest, boots it or lets it go on from a snapshot, holds it, keeps it or takes it down, and proves the end.
//!
//! What runs in a machine is the business of whoever asks for it: `cases`, or `shell`.

mod baseline;
mod boot_phases;
mod boot_times;
mod connection;
mod connection_start;
mod console_error;
mod console_reader;
pub mod console_scan;
mod console_watch;
pub mod controller;
mod diagnostics;
mod fingerprint;
mod first_boot;
mod hold;
mod intent;
mod launch;
mod lease;
mod machine_lock;
mod permit;
mod preparation;
mod private_network;
mod retry;
mod shares;
mod shutdown;
mod snapshots;
mod take_down;
pub(super) mod takeover;
mod trouble_block;
mod waiting;

pub(super) use console_error::ConsoleError;
pub(super) use console_watch::ConsoleWatch;
pub(super) use diagnostics::{diagnose, save_memory};
pub(super) use hold::{hold, pause};
pub(super) use launch::{LaunchFor, launch};
pub(super) use lease::{LeasedMachine, recv_once};
pub(super) use permit::Permits;
pub(super) use private_network::NetworkPlace;
pub(super) use snapshots::{FailedCase, SetupKey, SnapshotBook, freeze_set_up, keep_failure};
pub(super) use take_down::{keep, take_down};
