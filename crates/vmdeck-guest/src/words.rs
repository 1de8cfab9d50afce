//! The words by which the guest's program and its lines on the console are known.

/// The name of the program in the initial RAM disk; whoever is called so is the guest's init, or a part of it.
pub const PROGRAM: &str = "vmdeck-init";

/// The word with which every line of ours on the guest's console begins.
pub const CONSOLE_PREFIX: &str = "vmdeck-init:";

/// The word that comes after it on a line that says why the guest cannot come up.
pub const CONSOLE_FAILED: &str = "FAILED:";
