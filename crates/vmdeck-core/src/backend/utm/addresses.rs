//! Where a machine of UTM can be reached: the ways in their request, from the hypervisor's own word down to a scan.

use super::{
    arp,
    bundle::{self, Bundle},
    leases, scan,
    utmctl::{FailureKind, Utmctl},
};
use crate::{
    backend::{
        deps::BackendDeps,
        discovery::{AddressCandidate, AddressDiscovery, DiscoveryMethod},
        guest_exec::GuestExec,
        request::Service,
        tool::Tool,
    },
    command::{Collected, RemoteCommand},
    context::CallContext,
    host::clock,
};
use futures_util::future::BoxFuture;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// Why a machine of Apple's virtualization is not asked twice.
const NO_AGENT: &str = "the backend of this machine has no guest agent";
/// How long `arp -an` may take.
const ARP_LIMIT: Duration = Duration::from_secs(5);
/// How long the guest's agent may take.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// Candidates of a scan that are asked for their key.
const CANDIDATES: usize = 16;

/// What is known about one machine, by which it is found.
pub(super) struct AddressFinder {
    methods: Vec<DiscoveryMethod>,
    utmctl: Utmctl,
    arp: Option<Tool>,
    uuid: String,
    agent: Arc<dyn GuestExec>,
    bundle: Option<Bundle>,
    /// The MAC, if no other machine has it: a copy keeps the MAC of its original.
    mac: Option<[u8; 6]>,
    /// Whether what UTM finds by its MAC may be another machine.
    has_twin: bool,
    names: Vec<String>,
    leases: PathBuf,
    networks: Vec<String>,
    /// Set once UTM said that this machine can never answer.
    no_agent: AtomicBool,
}

impl AddressFinder {
    pub(super) fn new(
        deps: &BackendDeps,
        utmctl: &Utmctl,
        guest: &Guest,
        (uuid, name): (&str, &str),
        agent: Arc<dyn GuestExec>,
    ) -> Self {
        let options = &guest.options;
        let all = bundle::seen(options.path("documents"));
        let is_it = |b: &&Bundle| {
            b.uuid.as_ref().is_some_and(|u| u.eq_ignore_ascii_case(uuid)) || (b.uuid.is_none() && b.name == name)
        };
        let bundle = all.iter().find(is_it).cloned();
        let mac = bundle.as_ref().and_then(|b| b.mac);
        let apple = bundle.as_ref().is_some_and(|b| b.apple);
        let twins = all.iter().filter(|b| mac.is_some() && b.mac == mac).count();
        // A copy answers to its template's host name as well as the template does.
        let mut names = if options.text("clone").is_some() { Vec::new() } else { options.texts("dhcp_names").to_vec() };
        names.push(name.to_owned());
        let networks = options.texts("networks").to_vec();
        let mut methods = Vec::new();
        let emulated = bundle.as_ref().is_some_and(|b| b.emulated);
        if emulated {
            // Its own address is behind an address translation: nothing else can lead there.
            methods.push(DiscoveryMethod::PortForward);
        } else {
            methods.extend([
                DiscoveryMethod::IpAddress,
                DiscoveryMethod::GuestAgent,
                DiscoveryMethod::DhcpLeases,
                DiscoveryMethod::ArpTable,
            ]);
            if !networks.is_empty() {
                methods.push(DiscoveryMethod::SubnetScan);
            }
        }
        Self {
            methods,
            utmctl: utmctl.clone(),
            arp: Tool::find(deps, "arp", &["/usr/sbin/arp"]).ok(),
            uuid: uuid.to_owned(),
            agent,
            bundle,
            has_twin: twins > 1 && apple,
            mac: mac.filter(|_| twins == 1),
            names,
            leases: options.path("leases").map_or_else(|| "/var/db/dhcpd_leases".into(), PathBuf::from),
            networks,
            no_agent: AtomicBool::new(false),
        }
    }

    /// Returns where the machine is on disk.
    pub(super) fn folder(&self) -> Option<&std::path::Path> {
        self.bundle.as_ref().map(|bundle| bundle.path.as_path())
    }

    async fn find(&self, method: DiscoveryMethod, port: u16) -> Result<Vec<AddressCandidate>> {
        let proven = |ip: IpAddr| AddressCandidate::proven(SocketAddr::new(ip, port));
        let all = |found: Vec<IpAddr>| found.into_iter().map(proven).collect();
        Ok(match method {
            DiscoveryMethod::PortForward => self.forwarded(port)?,
            // For a machine of Apple's virtualization UTM itself looks for the MAC.
            DiscoveryMethod::IpAddress => {
                let found = self.by_utm().await?.into_iter();
                found.map(|ip| AddressCandidate { proven: !self.has_twin, ..proven(ip) }).collect()
            }
            DiscoveryMethod::GuestAgent => all(self.by_agent().await?),
            DiscoveryMethod::DhcpLeases => all(self.by_lease()?),
            DiscoveryMethod::ArpTable => all(self.by_arp().await?),
            DiscoveryMethod::SubnetScan => self.by_scan(port).await?,
            DiscoveryMethod::Config | DiscoveryMethod::Journal | DiscoveryMethod::Provider => Vec::new(),
        })
    }

    fn forwarded(&self, port: u16) -> Result<Vec<AddressCandidate>> {
        let forwards = self.bundle.iter().flat_map(|b| &b.forwards);
        let found: Vec<AddressCandidate> =
            forwards.filter(|f| f.0 == port).map(|f| AddressCandidate::proven(f.1)).collect();
        if found.is_empty() {
            return Err(cannot("its network is emulated and UTM forwards no port to it")
                .hint(format!("forward a port of this host to the guest's port {port} in its network settings")));
        }
        Ok(found)
    }

    /// `utmctl ip-address`; a machine of Apple's virtualization is asked only once.
    async fn by_utm(&self) -> Result<Vec<IpAddr>> {
        if self.no_agent.load(Ordering::Relaxed) {
            return Err(cannot(NO_AGENT));
        }
        match self.utmctl.addresses(&self.uuid).await {
            Ok(text) => Ok(addresses(&text)),
            Err(failure) => {
                if failure.kind == FailureKind::NotSupported {
                    self.no_agent.store(true, Ordering::Relaxed);
                }
                Err(failure.into())
            }
        }
    }

    async fn by_agent(&self) -> Result<Vec<IpAddr>> {
        if self.no_agent.load(Ordering::Relaxed) {
            return Err(cannot(NO_AGENT));
        }
        let mut out = Collected::default();
        // `hostname -I` is not everywhere; `ip` is in every Linux, busybox's included.
        let ask = RemoteCommand::new(
            "if command -v ip >/dev/null; then ip -o addr show scope global | awk '{print $4}'; else hostname -I | tr ' ' '\\n'; fi",
        );
        let token = CancellationToken::new();
        match clock::within(AGENT_LIMIT, self.agent.run(&ask, &mut out, &token)).await {
            Some(Ok(_)) => Ok(addresses(&String::from_utf8_lossy(&out.stdout))),
            Some(Err(fault)) => Err(fault),
            None => Err(cannot("the guest agent did not answer within 10 s")),
        }
    }

    fn by_lease(&self) -> Result<Vec<IpAddr>> {
        let shown = self.leases.display();
        let text = vmdeck_files::read_text(&self.leases, vmdeck_files::LARGE)
            .map_err(|e| cannot(&format!("`{shown}`: {e}")))?;
        let all = leases::parse(&text);
        let now = u64::try_from(clock::utc().timestamp()).unwrap_or_default();
        let found = leases::of(&all, self.mac, &self.names, now);
        if found.is_empty() {
            return Err(cannot(&format!("none of the {} leases is for {}", all.len(), self.known_by())));
        }
        Ok(found.into_iter().map(IpAddr::V4).collect())
    }

    fn known_by(&self) -> String {
        let names = self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        if self.mac.is_some() { format!("its MAC or {names}") } else { names }
    }

    async fn arp_table(&self) -> Result<Vec<(Ipv4Addr, [u8; 6])>> {
        let tool = self.arp.as_ref().ok_or_else(|| cannot("the program `arp` was not found"))?;
        Ok(arp::parse(&tool.run(["-an"], ARP_LIMIT).await?.stdout))
    }

    async fn by_arp(&self) -> Result<Vec<IpAddr>> {
        let mac = self.mac.ok_or_else(|| cannot("its MAC is not known, or another machine has the same one"))?;
        let rows = self.arp_table().await?;
        Ok(rows.into_iter().filter(|row| row.1 == mac).map(|row| IpAddr::V4(row.0)).collect())
    }

    /// Scans the subnets. A host that answers is unproven, unless the ARP table, which has them all now, holds the MAC.
    async fn by_scan(&self, port: u16) -> Result<Vec<AddressCandidate>> {
        let mut hosts = Vec::new();
        for cidr in &self.networks {
            hosts.extend(scan::hosts(cidr).map_err(Fault::user)?);
        }
        let found = scan::scan(hosts, port).await;
        let table = if self.mac.is_some() { self.arp_table().await.unwrap_or_default() } else { Vec::new() };
        let is_ours = |address: &SocketAddr| {
            table.iter().any(|(ip, mac)| IpAddr::V4(*ip) == address.ip() && Some(*mac) == self.mac)
        };
        let candidate = |address: SocketAddr| AddressCandidate { address, proven: is_ours(&address) };
        let mut candidates: Vec<AddressCandidate> = found.into_iter().map(candidate).collect();
        candidates.sort_by_key(|candidate| !candidate.proven);
        candidates.truncate(CANDIDATES);
        Ok(candidates)
    }
}

impl AddressDiscovery for AddressFinder {
    fn methods(&self) -> &[DiscoveryMethod] {
        &self.methods
    }

    fn discover<'a>(
        &'a self,
        method: DiscoveryMethod,
        service: &'a Service,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>> {
        Box::pin(self.find(method, service.port))
    }
}

fn cannot(why: &str) -> Fault {
    Fault::infra("cannot find the address this way").because(why)
}

/// Returns the addresses in the output of `ip-address` and the like: one a line, perhaps as `IP address: 192.168.64.10/24` or with
/// a zone; IPv4 first. What no other host can use is left out.
pub(super) fn addresses(text: &str) -> Vec<IpAddr> {
    let one = |line: &str| {
        let word = line.rsplit([' ', '\t']).next()?;
        let word = word.split(['/', '%']).next()?.trim_matches(['[', ']', ',']);
        word.parse::<IpAddr>().ok()
    };
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => {
            *ip != Ipv4Addr::LOCALHOST && !ip.is_link_local() && !ip.is_unspecified() && !ip.is_multicast()
        }
        IpAddr::V6(ip) => {
            !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified() && !ip.is_multicast()
        }
    };
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in text.lines().map(str::trim).filter_map(one).filter(usable) {
        if !out.contains(&ip) {
            out.push(ip);
        }
    }
    out.sort_by_key(IpAddr::is_ipv6);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_read_and_none_is_taken_blindly() {
        let check = |text: &str, is: &[&str]| {
            let found: Vec<String> = addresses(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, is, "{text:?}");
        };
        check("fd94::7\n192.168.64.4\n172.16.0.3\nfe80::1\n", &["192.168.64.4", "172.16.0.3", "fd94::7"]);
        check("IP address: 192.168.64.10/24\n", &["192.168.64.10"]);
        check("fd94::7%en0\n127.0.0.1\n::1\n169.254.3.3\n", &["fd94::7"]);
        check("", &[]);
        check("Operation not supported by the backend.\n192.168.64.4\n192.168.64.4\n", &["192.168.64.4"]);
    }
}
