//! What a machine is made of and that exists before it: kernels, initial RAM disks.
//!
//! Here it is found, checked and made; a backend decides what becomes of it.

pub(crate) mod compressed;
mod elf;
pub(crate) mod firmware;
pub mod image;
pub(crate) mod initrd;
pub mod kernel;
mod own_program;
pub mod seed;
pub mod snapshot;
