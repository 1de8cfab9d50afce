use super::*;
use crate::host::clock;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    },
};
use std::{net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// How long a frame that must not come is waited for, on a clock that stands still.
const NEVER: Duration = Duration::from_secs(5);

struct Desk {
    dir: tempfile::TempDir,
    switch: Switch,
    machines: Vec<UnixStream>,
}

async fn desk(count: usize) -> Desk {
    let dir = tempfile::tempdir().expect("folder");
    let switch = Switch::new();
    let mut machines = Vec::new();
    for index in 0..count {
        let path = dir.path().join(format!("{index}.sock"));
        switch.open_port(Seat::of(index), &path).expect("port");
        machines.push(UnixStream::connect(&path).await.expect("connected"));
    }
    let mut desk = Desk { dir, switch, machines };
    // Each is served once it has an answer.
    for index in 0..count {
        desk.send(index, &discover(Seat::of(index), DhcpMessageType::Discover, None)).await;
        desk.read(index).await.expect("an answer");
    }
    desk
}

impl Desk {
    async fn send(&mut self, from: usize, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
        self.machines[from].write_all(&[&length[..], frame].concat()).await.expect("written");
    }

    async fn read(&mut self, at: usize) -> Option<Vec<u8>> {
        let read = async {
            let length = self.machines[at].read_u32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.machines[at].read_exact(&mut frame).await.ok()?;
            Some(frame)
        };
        clock::within(NEVER, read).await.flatten()
    }
}

fn frame(to: EthernetAddress, from: Seat, text: &[u8]) -> Vec<u8> {
    [to.as_bytes(), from.mac.as_bytes(), &[0x88, 0xb5], text].concat()
}

fn discover(from: Seat, message_type: DhcpMessageType, requested_ip: Option<Ipv4Addr>) -> Vec<u8> {
    let dhcp = DhcpRepr {
        message_type,
        transaction_id: 7,
        secs: 0,
        client_hardware_address: from.mac,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    dhcp::frame(&dhcp, from.mac, Ipv4Addr::UNSPECIFIED, (68, 67))
}

/// Returns what a frame with an answer says: its kind, the address, and how long that is good for.
fn answer(frame: &[u8]) -> (DhcpMessageType, Ipv4Addr, Option<u32>) {
    let sums = ChecksumCapabilities::default();
    let frame = EthernetFrame::new_checked(frame).expect("frame");
    let packet = Ipv4Packet::new_checked(frame.payload()).expect("packet");
    let ip = Ipv4Repr::parse(&packet, &sums).expect("header");
    let datagram = UdpPacket::new_checked(packet.payload()).expect("datagram");
    UdpRepr::parse(&datagram, &ip.src_addr.into(), &ip.dst_addr.into(), &sums).expect("sums");
    let dhcp = DhcpPacket::new_checked(datagram.payload()).expect("message");
    let dhcp = DhcpRepr::parse(&dhcp).expect("message");
    assert_eq!((dhcp.transaction_id, dhcp.router), (7, None));
    (dhcp.message_type, dhcp.your_ip, dhcp.lease_duration)
}

#[tokio::test(start_paused = true)]
async fn a_frame_reaches_whom_it_is_for_and_nobody_else() {
    let mut desk = desk(3).await;
    desk.send(0, &frame(Seat::of(1).mac, Seat::of(0), b"for one")).await;
    desk.send(0, &frame(EthernetAddress::BROADCAST, Seat::of(0), b"for all")).await;
    let text = |frame: Option<Vec<u8>>| String::from_utf8_lossy(&frame.unwrap_or_default()[14..]).into_owned();
    assert_eq!(text(desk.read(1).await), "for one");
    assert_eq!(text(desk.read(1).await), "for all");
    assert_eq!(text(desk.read(2).await), "for all", "it is the first that the third sees");
    assert_eq!(desk.read(0).await, None, "nobody hears himself");
}

#[tokio::test(start_paused = true)]
async fn each_machine_has_its_own_address_for_ever() {
    let mut desk = desk(2).await;
    for (index, seat) in [Seat::of(0), Seat::of(1)].into_iter().enumerate() {
        for (question, wanted, kind) in [
            (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
            (DhcpMessageType::Request, Some(seat.address), DhcpMessageType::Ack),
            (DhcpMessageType::Request, Some(Ipv4Addr::new(192, 168, 1, 5)), DhcpMessageType::Nak),
        ] {
            desk.send(index, &discover(seat, question, wanted)).await;
            let said = answer(&desk.read(index).await.expect("an answer"));
            let gives = kind != DhcpMessageType::Nak;
            let address = if gives { seat.address } else { Ipv4Addr::UNSPECIFIED };
            assert_eq!(said, (kind, address, gives.then_some(u32::MAX)));
        }
    }
    let of_another = discover(Seat::of(1), DhcpMessageType::Discover, None);
    desk.send(0, &of_another).await;
    assert!(desk.read(1).await.is_some(), "what a guest within the guest asks is a frame like others");
}

#[tokio::test(start_paused = true)]
async fn what_is_broken_hurts_only_its_own_port() {
    for bytes in [&[0xff_u8; 4][..], &[0, 0, 0, 3, 1, 2], &0x0001_1001_u32.to_be_bytes()] {
        let mut desk = desk(3).await;
        desk.machines[0].write_all(bytes).await.expect("written");
        desk.machines[0].shutdown().await.expect("closed");
        desk.send(1, &frame(Seat::of(2).mac, Seat::of(1), b"x")).await;
        assert!(desk.read(2).await.is_some(), "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_fetches_nothing_costs_a_bounded_number_of_frames() {
    let mut desk = desk(2).await;
    let large = frame(Seat::of(1).mac, Seat::of(0), &vec![b'x'; 60_000]);
    for _ in 0..QUEUE * 3 {
        desk.send(0, &large).await;
    }
    let mut count = 0;
    while desk.read(1).await.is_some() {
        count += 1;
    }
    assert!((1..QUEUE * 2).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_made_again_takes_the_place_of_the_first() {
    let mut desk = desk(2).await;
    let path = desk.dir.path().join("again.sock");
    desk.switch.open_port(Seat::of(1), &path).expect("port");
    let again = UnixStream::connect(&path).await.expect("connected");
    let old = std::mem::replace(&mut desk.machines[1], again);
    desk.send(1, &discover(Seat::of(1), DhcpMessageType::Discover, None)).await;
    assert!(desk.read(1).await.is_some());
    desk.send(0, &frame(Seat::of(1).mac, Seat::of(0), b"x")).await;
    assert!(desk.read(1).await.is_some());
    drop(old);
}

proptest::proptest! {
    #[test]
    fn no_frame_breaks_the_answers(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), cut in 0_usize..400, at in 0_usize..400) {
        let _ = dhcp::answer(Seat::of(0), &bytes);
        let mut known = discover(Seat::of(0), DhcpMessageType::Discover, None);
        let at = at % known.len();
        known[at] ^= bytes.first().copied().unwrap_or(0xff);
        known.truncate(known.len().saturating_sub(cut));
        let _ = dhcp::answer(Seat::of(0), &known);
    }
}
