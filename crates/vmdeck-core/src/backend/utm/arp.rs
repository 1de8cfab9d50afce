//! This host's ARP table: which address belongs to which MAC.

use super::bundle;
use std::net::Ipv4Addr;

/// Returns the rows of `arp -an`, such as `? (192.168.64.2) at 52:54:0:2a:12:b6 on bridge100 ifscope [bridge]`. Rows
/// without an address of their own, broadcast and multicast are left out.
pub(super) fn parse(text: &str) -> Vec<(Ipv4Addr, [u8; 6])> {
    let row = |line: &str| {
        let (_, rest) = line.split_once('(')?;
        let (ip, rest) = rest.split_once(')')?;
        let mac = bundle::mac(rest.trim_start().strip_prefix("at ")?.split_whitespace().next()?)?;
        // The lowest bit of the first octet marks a group, broadcast included.
        (mac[0] & 1 == 0).then_some((ip.parse().ok()?, mac))
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_with_an_address_of_their_own_count() {
        let text = "? (192.168.64.1) at 3e:22:fb:0:0:64 on bridge100 ifscope permanent [bridge]\n\
                    ? (192.168.64.2) at 52:54:0:2a:12:b6 on bridge100 ifscope [bridge]\n\
                    ? (192.168.64.9) at (incomplete) on bridge100 ifscope [bridge]\n\
                    ? (192.168.64.255) at ff:ff:ff:ff:ff:ff on bridge100 ifscope [bridge]\n\
                    ? (224.0.0.251) at 1:0:5e:0:0:fb on en0 ifscope permanent [ethernet]\n";
        let ips: Vec<String> = parse(text).iter().map(|(ip, _)| ip.to_string()).collect();
        assert_eq!(ips, ["192.168.64.1", "192.168.64.2"]);
        assert!(parse("nothing\n? (x) at y\n(").is_empty());
    }
}
