//! A network for the machines of one job: an Ethernet switch in this process. Each machine has a port of its own, a Unix socket in its
//! private folder, so no other user and no other run reaches it, no name or number of this host is used up, and nothing is left of it
//! once we are gone.
//!
//! What is read on a port comes from a guest and is hostile: a port holds a bounded number of frames, and one that nobody fetches is lost,
//! as on any switch.

mod dhcp;
mod port;
mod seat;

use bytes::Bytes;
use parking_lot::Mutex;
use port::Port;
pub use seat::{PREFIX, Seat};
use std::{io, path::Path, sync::Arc};
use tokio::{net::UnixListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The frames that wait at a port for its machine.
const QUEUE: usize = 256;
/// The switch; its ports are closed with it.
#[derive(Debug)]
pub struct Switch {
    ports: Arc<Mutex<Vec<Port>>>,
    end: CancellationToken,
    _closed: DropGuard,
}

impl Switch {
    /// Makes a switch without a port.
    #[expect(clippy::new_without_default, reason = "it is an object that lives, no value")]
    pub fn new() -> Self {
        let end = CancellationToken::new();
        Self { ports: Arc::default(), _closed: end.clone().drop_guard(), end }
    }

    /// Opens the port of a machine at this path, in a folder that is private. A machine that was made again has a new one.
    pub fn open_port(&self, seat: Seat, socket: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        let (queue, frames) = mpsc::channel(QUEUE);
        {
            let mut ports = self.ports.lock();
            ports.retain(|port| port.seat != seat);
            ports.push(Port { seat, queue });
        }
        let (ports, end) = (Arc::clone(&self.ports), self.end.clone());
        tokio::spawn(async move {
            let forward = |frame: Bytes| forward(&ports, seat, frame);
            tokio::select! {
                () = port::serve(&listener, frames, forward) => {}
                () = end.cancelled() => {}
            }
        });
        Ok(())
    }
}

/// Hands a frame to those whom it is for.
fn forward(ports: &Mutex<Vec<Port>>, from: Seat, frame: Bytes) {
    let ports = ports.lock();
    if let Some(answer) = dhcp::answer(from, &frame) {
        if let Some(port) = ports.iter().find(|port| port.seat == from) {
            port.push(answer.into());
        }
        return;
    }
    let Some(to) = frame.get(..6) else { return };
    let known = ports.iter().find(|port| port.seat.mac.as_bytes() == to);
    match known {
        Some(port) => port.push(frame),
        // To all, or to what a guest holds within itself.
        None => ports.iter().filter(|port| port.seat != from).for_each(|port| port.push(frame.clone())),
    }
}

#[cfg(test)]
mod tests;
