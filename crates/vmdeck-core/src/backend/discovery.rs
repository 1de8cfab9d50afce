//! Where a machine can be reached: the ways to find out, and what they lead to.
//!
//! The search through the ways is written once, in `transport/discovery`.

use super::request::Service;
use crate::context::CallContext;
use futures_util::future::BoxFuture;
use std::{fmt, net::SocketAddr};
use vmdeck_model::error::Result;

/// A way to find where a machine can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiscoveryMethod {
    /// The config names the address.
    Config,
    /// The journal of the machine's run names the address.
    Journal,
    /// A port of this host is forwarded to the guest.
    PortForward,
    /// The provider names the address.
    Provider,
    /// The provider's command for addresses names the address.
    IpAddress,
    /// The guest itself names the address, by its agent.
    GuestAgent,
    /// The DHCP leases of this host hold the address, by MAC or host name.
    DhcpLeases,
    /// The ARP table of this host holds the address, by MAC.
    ArpTable,
    /// A scan of subnets finds the address; a host that answers must show the pinned host key.
    SubnetScan,
}

impl DiscoveryMethod {
    /// Returns the word used in events.
    pub fn as_str(self) -> &'static str {
        match self {
            DiscoveryMethod::Config => "config",
            DiscoveryMethod::Journal => "journal",
            DiscoveryMethod::PortForward => "forward",
            DiscoveryMethod::Provider => "info",
            DiscoveryMethod::IpAddress => "ip-address",
            DiscoveryMethod::GuestAgent => "agent",
            DiscoveryMethod::DhcpLeases => "leases",
            DiscoveryMethod::ArpTable => "arp",
            DiscoveryMethod::SubnetScan => "scan",
        }
    }
}

impl fmt::Display for DiscoveryMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An address at which a machine may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressCandidate {
    /// The address and port.
    pub address: SocketAddr,
    /// Whether the address is proven to be this machine's: by the hypervisor itself, its MAC or its host name. One that
    /// is not must show a pinned key before anything is sent to it.
    pub proven: bool,
}

impl AddressCandidate {
    /// Returns a candidate that is proven.
    pub fn proven(address: SocketAddr) -> Self {
        Self { address, proven: true }
    }
}

/// The power to find the address of a machine.
pub trait AddressDiscovery: Send + Sync {
    /// Returns the methods that apply to this machine, the best first.
    fn methods(&self) -> &[DiscoveryMethod];
    /// Returns where `service` may be reached from this host, found by this method; empty = not yet, or not so. An error is
    /// a reason to try the next method.
    fn discover<'a>(
        &'a self,
        method: DiscoveryMethod,
        service: &'a Service,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>>;
}
