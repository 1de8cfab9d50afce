//! macOS's own DHCP leases: which address a guest of its shared network was given.
//!
//! The file is written by bootpd: blocks of `key=value` lines, the newest first, `lease` the time of expiry in hexadecimal
//! seconds since 1970, octets without leading zeros. `hw_address` is a real MAC only where its type is 1; otherwise it is a
//! copy of the client's identifier (read in Apple's bootp: `NICache.c`, `dhcpd.c`).

use super::bundle;
use std::net::Ipv4Addr;

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) name: Option<String>,
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: Option<[u8; 6]>,
    /// Expiry, seconds since 1970.
    pub(crate) until: u64,
}

/// Returns every lease of the file's text; a block without an address is left out.
pub(crate) fn parse(text: &str) -> Vec<Lease> {
    let block = |block: &str| {
        let value = |key: &str| block.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        let until = value("lease").and_then(|v| u64::from_str_radix(v.trim_start_matches("0x"), 16).ok());
        Some(Lease {
            name: value("name").map(str::to_owned).filter(|n| !n.is_empty()),
            ip: value("ip_address")?.parse().ok()?,
            mac: value("hw_address").and_then(|v| bundle::mac(v.strip_prefix("1,")?)),
            until: until.unwrap_or(0),
        })
    };
    text.split('}').filter_map(block).collect()
}

/// Returns the addresses of one machine, known by its MAC or by its host names: the newest lease of each first. Expired ones count only
/// where there is nothing else: a guest that sleeps keeps its address.
pub(crate) fn of(leases: &[Lease], mac: Option<[u8; 6]>, names: &[String], now: u64) -> Vec<Ipv4Addr> {
    let is_name = |lease: &Lease| lease.name.as_ref().is_some_and(|n| names.iter().any(|m| short(m) == short(n)));
    let fits = |lease: &&Lease| (mac.is_some() && lease.mac == mac) || is_name(lease);
    let mut fitting: Vec<&Lease> = leases.iter().filter(fits).collect();
    fitting.sort_by_key(|lease| std::cmp::Reverse(lease.until));
    let current: Vec<&Lease> = fitting.iter().copied().filter(|lease| lease.until >= now).collect();
    let chosen = if current.is_empty() { fitting } else { current };
    // One machine has one address here; an older lease of it is history.
    chosen.first().map(|lease| lease.ip).into_iter().collect()
}

/// Returns a host name without its domain, in lower case.
fn short(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "{\n\tname=ubuntu\n\tip_address=192.168.64.3\n\thw_address=ff,f1:f5:dd:7f:0:2:0:0:ab:11:cb:fb:30:b0:97:b6:3a:67\n\
                        \tidentifier=ff,f1\n\tlease=0x678e2ce7\n}\n{\n\tname=kubemaster\n\tip_address=192.168.64.22\n\
                        \thw_address=1,52:54:0:eb:c4:7\n\tidentifier=1,52:54:0:eb:c4:7\n\tlease=0x643f6f22\n}\n{\n\tip_address=192.168.64.9\n\
                        \thw_address=1,52:54:0:eb:c4:7\n\tlease=0x643f0000\n}\n";

    #[test]
    fn a_mac_is_one_only_where_its_type_says_so() {
        let all = parse(TEXT);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].mac, all[1].mac), (None, Some([0x52, 0x54, 0, 0xeb, 0xc4, 7])));
        assert_eq!(all[2].name, None);
    }

    #[test]
    fn the_newest_lease_wins_and_an_expired_one_is_the_last_resort() {
        let (all, mac) = (parse(TEXT), Some([0x52, 0x54, 0, 0xeb, 0xc4, 7]));
        let ip = |text: &str| vec![text.parse::<Ipv4Addr>().expect("ip")];
        assert_eq!(of(&all, mac, &[], 0x643f_0001), ip("192.168.64.22"));
        assert_eq!(of(&all, mac, &[], u64::MAX), ip("192.168.64.22"));
        assert_eq!(of(&all, None, &["Ubuntu.local".to_owned()], 0), ip("192.168.64.3"));
        assert!(of(&all, None, &["ubunt".to_owned()], 0).is_empty(), "a name is a whole name");
        assert!(of(&all, None, &[], 0).is_empty(), "no MAC is not everybody's MAC");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in ".{0,200}") {
            let _ = of(&parse(&text), None, &["x".to_owned()], 0);
        }
    }
}
