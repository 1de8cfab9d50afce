//! The real binary on the desktop hypervisors: stand-ins for `multipass` and `utmctl` that behave as the tools' sources say.

mod address;
mod contract;
mod multipass;
mod standins;
mod strangers;
mod traps;
mod utm;
