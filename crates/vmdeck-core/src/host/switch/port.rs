//! One port of a switch: frames, each after its length as four bytes, the highest first, as QEMU's `-netdev stream` has them.

use super::seat::Seat;
use bytes::Bytes;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixListener,
    sync::mpsc,
};

/// The most bytes of a frame: what QEMU itself takes.
const FRAME: usize = 4096 + 65536;

/// Where frames for a machine are handed in.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) seat: Seat,
    pub(super) queue: mpsc::Sender<Bytes>,
}

impl Port {
    /// Hands in a frame; one for which there is no room is lost.
    pub(super) fn push(&self, frame: Bytes) {
        let _ = self.queue.try_send(frame);
    }
}

/// Serves the port, one machine after the other, until it is closed.
pub(super) async fn serve(listener: &UnixListener, mut frames: mpsc::Receiver<Bytes>, forward: impl Fn(Bytes)) {
    while let Ok((stream, _)) = listener.accept().await {
        let (read, write) = stream.into_split();
        // What came while nobody was there is for nobody.
        while frames.try_recv().is_ok() {}
        tokio::select! {
            _ = read_frames(read, &forward) => {}
            _ = write_frames(write, &mut frames) => {}
        }
        if frames.is_closed() {
            return;
        }
    }
}

async fn read_frames(stream: impl AsyncRead + Unpin, forward: impl Fn(Bytes)) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(FRAME, stream);
    loop {
        let length = stream.read_u32().await? as usize;
        if length > FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).await?;
        forward(frame.into());
    }
}

async fn write_frames(mut stream: impl AsyncWrite + Unpin, frames: &mut mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &frame].concat()).await?;
    }
    Ok(())
}
