//! What each machine has in a network: its hardware address and its address, by its place among the others.

use smoltcp::wire::EthernetAddress;
use std::net::Ipv4Addr;

/// The first three numbers of each address. Private, and hardly ever anybody's.
pub(super) const NETWORK: [u8; 3] = [10, 213, 77];
/// The length of that prefix with its mask.
pub const PREFIX: u8 = 24;
/// The last number of the first machine's address; what gives the addresses has the one.
const FIRST: u8 = 11;
/// What one machine has in a network: always the same, since nobody else is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The hardware address of its interface.
    pub(super) mac: EthernetAddress,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Seat {
    /// Returns the seat of the machine with this index, below the most that a suite may have.
    pub fn of(index: usize) -> Self {
        let number = FIRST.saturating_add(u8::try_from(index).unwrap_or(u8::MAX));
        let [a, b, c] = NETWORK;
        // QEMU's own prefix; the rest is as good as any other.
        Self { mac: EthernetAddress([0x52, 0x54, 0x00, 0xd3, 0x4d, number]), address: Ipv4Addr::new(a, b, c, number) }
    }

    /// Returns the hardware address as text: six hexadecimal numbers, with this between them.
    pub fn mac(&self, between: &str) -> String {
        self.mac.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
    }
}
