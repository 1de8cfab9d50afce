//! Every backend, a row each: the only place that names them all.

use super::{
    capabilities::Capabilities, contract::Backend, deps::BackendDeps, fake, local, lxd, multipass, qemu, remote, utm,
};
use vmdeck_model::{
    error::{Fault, Result},
    key::Key,
};

/// A row of the backend table.
pub struct BackendInfo {
    /// The word used in the config.
    pub kind: &'static str,
    /// A summary in one line.
    pub summary: &'static str,
    /// What the backend can do.
    pub capabilities: Capabilities,
    /// The keys of `[guests.NAME.<kind>]`.
    pub keys: &'static [Key],
    /// Makes the backend.
    pub build: fn(&BackendDeps) -> Box<dyn Backend>,
}

/// Every backend.
pub static BACKENDS: &[BackendInfo] = &[
    BackendInfo {
        kind: "qemu",
        summary: "QEMU with KVM, HVF or emulation",
        capabilities: qemu::CAPABILITIES,
        keys: qemu::KEYS,
        build: |deps| Box::new(qemu::Qemu::new(deps)),
    },
    BackendInfo {
        kind: "multipass",
        summary: "Ubuntu machines of Canonical's Multipass",
        capabilities: multipass::CAPABILITIES,
        keys: multipass::KEYS,
        build: |deps| Box::new(multipass::Multipass::new(deps)),
    },
    BackendInfo {
        kind: "utm",
        summary: "machines of UTM on macOS",
        capabilities: utm::CAPABILITIES,
        keys: utm::KEYS,
        build: |deps| Box::new(utm::Utm::new(deps)),
    },
    BackendInfo {
        kind: "lxd",
        summary: "containers and machines of LXD, on this host or in a cluster",
        capabilities: lxd::CAPABILITIES,
        keys: lxd::LXD_KEYS,
        build: |_| Box::new(lxd::Lxd::canonical()),
    },
    BackendInfo {
        kind: "incus",
        summary: "containers and machines of Incus, on this host or in a cluster",
        capabilities: lxd::CAPABILITIES,
        keys: lxd::INCUS_KEYS,
        build: |_| Box::new(lxd::Lxd::incus()),
    },
    BackendInfo {
        kind: "remote",
        summary: "a machine that is there already: bare metal, a cloud's, another hypervisor's",
        capabilities: remote::CAPABILITIES,
        keys: remote::KEYS,
        build: |deps| Box::new(remote::Remote::new(deps)),
    },
    BackendInfo {
        kind: "local",
        summary: "a private folder and process group on this host; NOT isolated",
        capabilities: local::CAPABILITIES,
        keys: local::KEYS,
        build: |deps| Box::new(local::Local::new(deps)),
    },
    BackendInfo {
        kind: "fake",
        summary: "scripted, no machine at all; for trying things out",
        capabilities: fake::CAPABILITIES,
        keys: fake::KEYS,
        build: |_| Box::new(fake::Fake),
    },
];

/// Returns the row of a kind; the fault of an unknown kind lists the known ones.
pub fn find(kind: &str) -> Result<&'static BackendInfo> {
    BACKENDS.iter().find(|row| row.kind == kind).ok_or_else(|| {
        let known: Vec<_> = BACKENDS.iter().map(|row| row.kind).collect();
        Fault::user(format!("unknown backend `{kind}` (known: {})", known.join(", ")))
    })
}

/// Returns what a kind of backend can do; an unknown kind can do nothing.
pub fn capabilities_of(kind: &str) -> Capabilities {
    find(kind).map_or(Capabilities::NONE, |row| row.capabilities)
}
