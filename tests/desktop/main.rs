//! The real binary on the desktop hypervisors: stand-ins for `multipass` and `utmctl` that behave as the tools' sources say.

#[path = "../support/sshd.rs"]
mod sshd;
#[expect(dead_code, reason = "only a part of the helpers is needed here")]
#[path = "../support/mod.rs"]
mod support;

mod address;
mod contract;
mod desk;
mod multipass;
mod standins;
mod strangers;
mod traps;
mod utm;
