//! Makes, adopts, starts, stops and destroys machines. One file or folder for each backend, plus one row in [`BACKENDS`].
//!
//! The seam itself is in [`contract`]; what passes over it in [`request`], [`record`], [`discovery`], [`proof`] and
//! [`guest_exec`]. How to talk to what runs inside is `transport`'s matter; when to do what is `engine`'s.

pub mod capabilities;
mod child;
pub mod contract;
mod deps;
pub mod discovery;
pub mod fake;
mod framed;
pub mod guest_exec;
pub mod local;
pub mod lxd;
pub mod multipass;
pub mod proof;
pub mod qemu;
pub mod record;
pub mod remote;
pub mod request;
#[cfg(test)]
pub(crate) mod sample;
mod table;
mod tool;
pub mod utm;

pub(crate) use child::follow as follow_child;
pub use deps::{BackendDeps, Tools};
pub use table::{BACKENDS, BackendInfo, capabilities_of, find};
