//! The KVM guest-test framework as input: its config in both forms, its flags, and the machine that they describe.
//!
//! Nothing is started here: `guest_test` runs what it gives, `init --from` and `config show --from` write it down.

mod config;
mod guest;
mod machine;
mod params;
mod words;

pub(super) use config::Config;
pub(super) use machine::{FrameworkMachine, WantedMachine};
pub(super) use params::record;

#[cfg(test)]
mod tests;
