//! The guest's network, by the kernel's own interface (netlink): the loopback always, and the address of QEMU's user network.
//!
//! The messages are those of linux/rtnetlink.h; QEMU's user network has fixed addresses (10.0.2.0/24, the guest is .15, the host .2).

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
use std::{fs, io, net::Ipv4Addr, os::fd::OwnedFd};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const LOOPBACK: i32 = 1;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// It is a request, it makes what is not there, and an answer is wanted.
const FLAGS: u16 = 0x1 | 0x4 | 0x400;
const FAMILY: u8 = 2;
const UP: u32 = 1;

/// Switches the loopback on; with `card`, the first other card as well, with its address and route.
pub(super) fn bring_up(card: bool) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    switch_on(&socket, LOOPBACK)?;
    if !card {
        return Ok(());
    }
    let index = first_card()?;
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut address = vec![FAMILY, 24, 0, 0];
    address.extend(index.to_le_bytes());
    attribute(&mut address, 1, GUEST.octets());
    attribute(&mut address, 2, GUEST.octets());
    ask(&socket, NEW_ADDRESS, &address)?;
    switch_on(&socket, index)?;
    // struct rtmsg: family, lengths, tos, table (main), protocol (boot), scope, type (unicast), flags.
    let mut route = vec![FAMILY, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    attribute(&mut route, 5, GATEWAY.octets());
    ask(&socket, NEW_ROUTE, &route)
}

fn first_card() -> io::Result<i32> {
    let cards = fs::read_dir("/sys/class/net")?.filter_map(Result::ok);
    let index = |card: fs::DirEntry| fs::read_to_string(card.path().join("ifindex")).ok()?.trim().parse::<i32>().ok();
    let first = cards.filter_map(index).filter(|index| *index != LOOPBACK).min();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no network card (CONFIG_VIRTIO_NET)"))
}

fn switch_on(socket: &OwnedFd, index: i32) -> io::Result<()> {
    // struct ifinfomsg: family, type, index, flags, which of them change.
    let mut link = vec![0; 4];
    link.extend(index.to_le_bytes());
    link.extend(UP.to_le_bytes());
    link.extend(UP.to_le_bytes());
    ask(socket, NEW_LINK, &link)
}

/// Appends an attribute: its length, its kind, and its content, which has four bytes here.
fn attribute(message: &mut Vec<u8>, kind: u16, content: [u8; 4]) {
    message.extend(8u16.to_le_bytes());
    message.extend(kind.to_le_bytes());
    message.extend(content);
}

/// Sends a request and reads whether it was carried out.
fn ask(socket: &OwnedFd, kind: u16, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_le_bytes().to_vec();
    message.extend(kind.to_le_bytes());
    message.extend(FLAGS.to_le_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(socket, &message, SendFlags::empty())?;
    let mut answer = [0u8; 4096];
    let (_, length) = recv(socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr follows the header: the error, negative, or 0.
    match answer[..length].get(16..20).and_then(|four| four.try_into().ok()).map(i32::from_le_bytes) {
        Some(0) => Ok(()),
        Some(error) => match io::Error::from_raw_os_error(-error) {
            e if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            e => Err(e),
        },
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short")),
    }
}
