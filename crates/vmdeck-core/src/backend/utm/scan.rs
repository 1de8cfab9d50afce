//! A scan of a subnet, as the last way to find a machine.

use crate::host::{clock, net};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::task::JoinSet;

/// Hosts that are asked at the same time.
const PARALLEL: usize = 64;
/// How long one of them may take to accept: they are on this very machine.
const DIAL: Duration = Duration::from_millis(200);
/// How long the whole scan may take.
const TOTAL: Duration = Duration::from_secs(15);
/// Most hosts that are asked.
const HOSTS_MAX: usize = 1024;

/// Returns a subnet as in `192.168.64.0/24`; the error is a sentence.
pub(super) fn hosts(cidr: &str) -> Result<Vec<Ipv4Addr>, String> {
    let wrong = || format!("`{cidr}` is not a subnet; write it like 192.168.64.0/24");
    let (ip, bits) = cidr.split_once('/').unwrap_or((cidr, "32"));
    let ip: Ipv4Addr = ip.trim().parse().map_err(|_| wrong())?;
    let bits: u32 = bits.trim().parse().ok().filter(|bits| *bits <= 32).ok_or_else(wrong)?;
    let count = 1u64 << (32 - bits);
    if count > HOSTS_MAX as u64 {
        return Err(format!("`{cidr}` has more than {HOSTS_MAX} hosts"));
    }
    let first = u32::from(ip) & u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    // Neither the subnet's own address nor its broadcast.
    let inner = if count > 2 { 1..count - 1 } else { 0..count };
    Ok(inner.map(|n| Ipv4Addr::from(first + u32::try_from(n).unwrap_or(0))).collect())
}

/// Returns those of the hosts that accept a connection on this port.
pub(super) async fn scan(hosts: Vec<Ipv4Addr>, port: u16) -> Vec<SocketAddr> {
    let mut waiting = hosts.into_iter().take(HOSTS_MAX);
    let (mut running, mut found) = (JoinSet::new(), Vec::new());
    let work = async {
        loop {
            while running.len() < PARALLEL {
                let Some(ip) = waiting.next() else { break };
                let address = SocketAddr::new(IpAddr::V4(ip), port);
                running.spawn(async move { net::accepts(address, DIAL).await.then_some(address) });
            }
            match running.join_next().await {
                Some(answer) => found.extend(answer.ok().flatten()),
                None => break,
            }
        }
    };
    let _ = clock::within(TOTAL, work).await;
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_bounded() {
        assert_eq!(hosts("192.168.64.0/24").expect("subnet").len(), 254);
        assert_eq!(
            hosts("192.168.64.77/30").expect("subnet"),
            [Ipv4Addr::new(192, 168, 64, 77), Ipv4Addr::new(192, 168, 64, 78)]
        );
        assert_eq!(hosts("10.0.0.5").expect("one host"), [Ipv4Addr::new(10, 0, 0, 5)]);
        assert_eq!(hosts("192.168.64.0/22").expect("subnet").len(), 1022);
        for bad in ["10.0.0.0/8", "0.0.0.0/0", "x/24", "1.2.3.4/33", "1.2.3/24", ""] {
            assert!(hosts(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_scan_finds_who_accepts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.7:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        assert_eq!(scan(hosts("127.0.0.0/28").expect("subnet"), address.port()).await, [address]);
    }
}
