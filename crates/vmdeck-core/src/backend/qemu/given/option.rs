//! The options of a command line of QEMU, as QEMU tells them apart, and the properties of their values.

/// The options of QEMU that have no value (QEMU 7.2 to 10).
const ALONE: &[&str] = &[
    "S",
    "alt-grab",
    "ctrl-grab",
    "daemonize",
    "curses",
    "enable-kvm",
    "enable-fips",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "async-teardown",
    "audio-help",
    "enable-sync-profile",
    "jitdump",
    "perfmap",
    "sdl",
    "show-cursor",
    "xen-attach",
    "xen-domid-restrict",
];

/// An option with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenOption {
    /// The name without dashes; empty = a word that is no option.
    pub(super) name: String,
    pub(super) value: Option<String>,
    /// What stands for the two on the command line.
    pub(super) flag: String,
}

impl GivenOption {
    /// Returns the value; empty = it has none.
    pub(super) fn text(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }
}

/// Reads a command line.
pub(super) fn read(words: &[String]) -> Vec<GivenOption> {
    let mut out = Vec::new();
    let mut rest = words.iter().peekable();
    while let Some(flag) = rest.next() {
        let name = match flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')) {
            Some(name) => name.to_owned(),
            None => String::new(),
        };
        // One that is not known here may have no value: then an option follows. Only a kernel's words may look like one.
        let has_value = |next: &&String| name == "append" || !next.starts_with('-') || next.len() == 1;
        let takes_value = !name.is_empty() && !ALONE.contains(&&*name) && rest.peek().is_some_and(has_value);
        let value = if takes_value { rest.next().cloned() } else { None };
        out.push(GivenOption { name, value, flag: flag.clone() });
    }
    out
}

/// Returns whether a value is of this kind: its first part.
pub(super) fn is_of(value: &str, kind: &str) -> bool {
    value.split(',').next() == Some(kind)
}

/// Returns what stands behind this name, which ends with `=`, in a value.
pub(super) fn property<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').find_map(|part| part.strip_prefix(name))
}
