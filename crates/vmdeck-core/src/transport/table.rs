//! Every transport, a row each: the only place that names them all.

use super::{contract::Transport, exec, serial, ssh, winrm};
use vmdeck_model::{
    error::{Fault, Result},
    key::Key,
};

/// A row of the transport table.
pub struct TransportInfo {
    /// The word used in the config.
    pub kind: &'static str,
    /// A summary in one line.
    pub summary: &'static str,
    /// The keys of `[guests.NAME.<kind>]`.
    pub keys: &'static [Key],
    /// The transport.
    pub transport: &'static dyn Transport,
}

/// Every transport.
pub static TRANSPORTS: &[TransportInfo] = &[
    TransportInfo { kind: ssh::KIND, summary: "SSH with a pinned host key", keys: ssh::KEYS, transport: &ssh::Ssh },
    TransportInfo {
        kind: winrm::KIND,
        summary: "Windows' remote management, encrypted by NTLM or TLS",
        keys: winrm::KEYS,
        transport: &winrm::Winrm,
    },
    TransportInfo {
        kind: exec::KIND,
        summary: "the backend's own way to run commands, without a network",
        keys: &[],
        transport: &exec::ByBackend,
    },
    TransportInfo {
        kind: serial::KIND,
        summary: "vmdeck's own agent, over a virtio-serial port",
        keys: serial::KEYS,
        transport: &serial::Serial,
    },
];

/// Returns the row of a kind; the fault of an unknown kind lists the known ones.
pub fn find(kind: &str) -> Result<&'static TransportInfo> {
    TRANSPORTS.iter().find(|row| row.kind == kind).ok_or_else(|| {
        let known: Vec<_> = TRANSPORTS.iter().map(|row| row.kind).collect();
        Fault::user(format!("unknown transport `{kind}` (known: {})", known.join(", ")))
    })
}
