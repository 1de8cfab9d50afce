//! Machines that are frozen, and machines that go on from where a frozen one was.
//!
//! Facts (QEMU 7.2, measured): where the guest's memory is a shared file, the state that migration writes without it
//! (`x-ignore-shared`) has less than 1 MiB, and takes 10 ms. Any number of machines may map that file privately later on, each with an
//! overlay of its own on the disk; it must not change meanwhile. The state goes over a Unix socket, whose other end is ours: QEMU needs
//! no shell for it (`exec:`) and no descriptor, and a full disk is our own error.

mod freeze;
mod memory;
mod recipe;
mod restore;
mod resume;

pub(super) use freeze::Freezer;
pub(super) use memory::GuestMemory;
pub(super) use recipe::ResumeRecipe;
pub(super) use resume::take_in;

use super::{argv::path, confidential, tdx};
use std::path::Path;
use vmdeck_model::{guest::Guest, image::Image};

/// The file of a snapshot with the state of all devices.
const STATE: &str = "state";
/// The file of a snapshot with the guest's memory.
const MEMORY: &str = "memory";
/// The file of a snapshot with what the machine wrote to its disk.
const DISK: &str = "disk.qcow2";
/// The file of a snapshot that is the empty overlay of a machine on that disk.
const EMPTY_DISK: &str = "overlay.qcow2";
/// The file of a snapshot that tells how to start a machine from it.
const RECIPE: &str = "machine.json";

/// Returns why the machine of a guest cannot be frozen; `None` where it can.
pub(super) fn refusal(guest: &Guest) -> Option<&'static str> {
    let options = &guest.options;
    let reasons = [
        (!cfg!(target_os = "linux"), "this host is no Linux, whose files in memory it takes"),
        (!options.texts("arguments").is_empty(), "its whole command line is given by `qemu.arguments`"),
        (guest.image == Some(Image::Host) || !guest.shares.is_empty(), "it mounts folders of this host"),
        (tdx::is_wanted(guest), "its memory is encrypted"),
        (!confidential::devices(guest).is_empty(), "it has a device of this host"),
        (guest.tpm, "its TPM is another process"),
        (options.flag("gdb"), "it waits for a debugger"),
        (!options.texts("extra_args").is_empty(), "`qemu.extra_args` may give it anything"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

/// Returns whether a snapshot has the guest's memory in a file of its own; else it is a part of the state.
fn has_memory(from: &Path) -> bool {
    from.join(MEMORY).exists()
}

/// Returns the guest's memory as an object that is filled from the state.
fn plain_memory(size: u64) -> String {
    format!("memory-backend-ram,id=ram1,size={size}")
}

/// Returns the guest's memory as an object: the file of a snapshot, of which the machine writes to a copy of its own.
pub(super) fn private_memory(from: &Path, size: u64) -> String {
    format!("memory-backend-file,id=ram1,size={size},mem-path={},share=off", path(&from.join(MEMORY)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sample;
    use vmdeck_model::key::Value;

    #[test]
    fn what_cannot_be_frozen_says_why() {
        let plain = sample::guest(&[]);
        assert_eq!(refusal(&plain), None);
        for (guest, word) in [
            (Guest { tpm: true, ..plain.clone() }, "TPM"),
            (Guest { image: Some(Image::Host), ..plain.clone() }, "folders"),
            (sample::guest(&[("gdb", Value::Bool(true))]), "debugger"),
            (sample::guest(&[("extra_args", Value::Texts(vec!["-s".into()]))]), "extra_args"),
            (sample::guest(&[("arguments", Value::Texts(vec!["-m".into()]))]), "arguments"),
            (sample::guest(&[("vm_type", Value::Text("tdx".into()))]), "encrypted"),
        ] {
            assert!(refusal(&guest).is_some_and(|why| why.contains(word)), "{word}: {:?}", refusal(&guest));
        }
    }
}
