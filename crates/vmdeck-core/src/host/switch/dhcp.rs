//! Gives the machines of a switch their addresses by DHCP: most systems ask for one on every interface that they find, wait for it in
//! their boot, and take away what was set by hand. There is no gateway and no name server: the way to other networks stays another one.
//!
//! Facts: RFC 2131; a lease without an end is never renewed.

use super::seat::{NETWORK, PREFIX, Seat};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
        IpProtocol, Ipv4Cidr, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    },
};
use std::net::Ipv4Addr;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// A lease without an end.
const FOR_EVER: u32 = u32::MAX;
/// The hardware address of what answers.
const SERVER_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0x00, 0xd3, 0x4d, 0x01]);

/// Returns the frame that answers a question for an address; `None` = the frame is no such question.
pub(super) fn answer(from: Seat, frame: &[u8]) -> Option<Vec<u8>> {
    let sums = ChecksumCapabilities::default();
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let ip = Ipv4Repr::parse(&packet, &sums).ok()?;
    // A part of a packet begins with no header of what it carries.
    if ip.next_header != IpProtocol::Udp || packet.frag_offset() != 0 || packet.more_frags() {
        return None;
    }
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let udp = UdpRepr::parse(&datagram, &ip.src_addr.into(), &ip.dst_addr.into(), &sums).ok()?;
    if (udp.src_port, udp.dst_port) != (CLIENT_PORT, SERVER_PORT) {
        return None;
    }
    let question = DhcpPacket::new_checked(datagram.payload()).ok()?;
    let question = DhcpRepr::parse(&question).ok()?;
    let kind = kind_of_answer(&question, from)?;
    Some(make(&question, kind, from.address))
}

/// Returns how a question is answered; `None` = not at all: it is another client's, or nothing that needs an answer.
fn kind_of_answer(question: &DhcpRepr<'_>, from: Seat) -> Option<DhcpMessageType> {
    if question.client_hardware_address != from.mac {
        return None;
    }
    match question.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request => {
            let wanted = question.requested_ip.unwrap_or(question.client_ip);
            // From an earlier network: the client then asks anew at once.
            Some(if wanted == from.address { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        _ => None,
    }
}

fn make(question: &DhcpRepr<'_>, kind: DhcpMessageType, address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c] = NETWORK;
    let server = Ipv4Addr::new(a, b, c, 1);
    let gives = kind != DhcpMessageType::Nak;
    let dhcp = DhcpRepr {
        message_type: kind,
        transaction_id: question.transaction_id,
        secs: 0,
        client_hardware_address: question.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: if gives { address } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: gives.then(|| Ipv4Cidr::new(address, PREFIX).netmask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: question.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(server),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: gives.then_some(FOR_EVER),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    // A client without an address hears what is for all.
    frame(&dhcp, SERVER_MAC, server, (SERVER_PORT, CLIENT_PORT))
}

/// Returns the frame of a message from this address to all; the ports are those of who sends it and of who reads it.
pub(super) fn frame(dhcp: &DhcpRepr<'_>, from: EthernetAddress, src_addr: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let (udp, sums) = (UdpRepr { src_port: ports.0, dst_port: ports.1 }, ChecksumCapabilities::default());
    let dst_addr = Ipv4Addr::BROADCAST;
    let payload_len = udp.header_len() + dhcp.buffer_len();
    let ip = Ipv4Repr { src_addr, dst_addr, next_header: IpProtocol::Udp, payload_len, hop_limit: 64 };
    let ethernet =
        EthernetRepr { src_addr: from, dst_addr: EthernetAddress::BROADCAST, ethertype: EthernetProtocol::Ipv4 };
    let mut out = vec![0; ethernet.buffer_len() + ip.buffer_len() + payload_len];
    let mut frame = EthernetFrame::new_unchecked(&mut out);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &sums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let write = |payload: &mut [u8]| {
        // The room is measured above.
        let _ = dhcp.emit(&mut DhcpPacket::new_unchecked(payload));
    };
    udp.emit(&mut datagram, &src_addr.into(), &dst_addr.into(), dhcp.buffer_len(), write, &sums);
    out
}
