//! The processor that a machine is for.

use vmdeck_model::guest::Guest;

/// The processor that the guest is for; decides machine type and console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    X86,
    Arm,
}

impl Arch {
    /// Returns the processor by the name of the QEMU binary; anything unknown is treated as the common one.
    pub(super) fn of(binary: &str) -> Self {
        if binary.contains("aarch64") { Arch::Arm } else { Arch::X86 }
    }

    /// Returns the processor's name as firmware descriptions have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Arch::X86 => "x86_64",
            Arch::Arm => "aarch64",
        }
    }

    /// Returns the binary for this host's own processor.
    pub(super) fn default_binary() -> &'static str {
        if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" }
    }
}

/// Returns the QEMU binary of a guest; without one, the one for this host's processor.
pub(super) fn binary(guest: Option<&Guest>) -> String {
    let chosen = guest.and_then(|g| g.options.text("binary"));
    chosen.unwrap_or(Arch::default_binary()).to_owned()
}

/// Returns the processor whose image a guest boots; without a guest this host's own.
pub fn image_arch(guest: Option<&Guest>) -> &'static str {
    Arch::of(&binary(guest)).name()
}
