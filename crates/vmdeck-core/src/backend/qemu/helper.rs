//! A process beside QEMU that a machine needs: one that serves a folder, or one that is its TPM. It is there before QEMU looks for it,
//! and ends with its connection to QEMU.

use crate::host::process::Spec;
use std::path::PathBuf;

/// The programs that such processes run.
pub(super) const PROGRAMS: [&str; 2] = ["virtiofsd", "swtpm"];

/// A process beside QEMU.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    /// What it is for, as the end of "cannot ...".
    pub(super) purpose: String,
    /// How it is started.
    pub(super) spec: Spec,
    /// The socket on which it listens, in the machine's private folder.
    pub(super) socket: PathBuf,
    /// The file of the guest's folder in the record that takes what it says.
    pub(super) log: String,
}
