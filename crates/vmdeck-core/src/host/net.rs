//! Reaching a service: a connection on which the other side has spoken.
//!
//! An open port is not readiness: QEMU's port forward accepts before the guest exists (facts of QEMU 7.2).

use super::clock;
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

/// How long a fresh connection may stay silent before another one is tried beside it.
const SILENCE: Duration = Duration::from_millis(400);
/// Pause after a refusal or a reset: the guest's kernel answers, its service does not yet.
const PAUSE: Duration = Duration::from_millis(40);

/// What kept a service from speaking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silent {
    /// Nothing listens.
    #[error("connection refused")]
    Refused,
    /// Accepted, then closed without a word.
    #[error("connected, then closed without a banner")]
    Closed,
    /// Accepted, then nothing.
    #[error("connected, but no banner came")]
    NoBanner,
    /// Another service speaks there.
    #[error("something else answers there: `{0}`")]
    Other(String),
    /// The system refused.
    #[error("{0}")]
    Io(String),
}

/// Whether this address is one of this host's own, apart from its loopback: no other machine answers there.
pub fn is_own(ip: std::net::IpAddr) -> bool {
    // Only an own address can be bound.
    !ip.is_loopback() && std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether something accepts a connection there.
pub async fn accepts(addr: SocketAddr, patience: Duration) -> bool {
    matches!(clock::within(patience, TcpStream::connect(addr)).await, Some(Ok(_)))
}

/// One try: connects and waits until the first bytes can be read, without taking them.
pub async fn spoken(addr: SocketAddr, prefix: &[u8], patience: Duration) -> Result<TcpStream, Silent> {
    let attempt = async {
        let stream = TcpStream::connect(addr).await.map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused => Silent::Refused,
            _ => Silent::Io(e.to_string()),
        })?;
        let mut seen = [0u8; 64];
        loop {
            stream.readable().await.map_err(|e| Silent::Io(e.to_string()))?;
            match stream.peek(&mut seen).await {
                Ok(0) => return Err(Silent::Closed),
                Ok(n) if n >= prefix.len() && seen.starts_with(prefix) => return Ok(stream),
                Ok(n) if prefix.starts_with(&seen[..n]) => clock::sleep(Duration::from_millis(2)).await,
                Ok(n) => return Err(Silent::Other(String::from_utf8_lossy(&seen[..n]).trim().to_owned())),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Silent::Closed),
                Err(e) => return Err(Silent::Io(e.to_string())),
            }
        }
    };
    clock::within(patience, attempt).await.unwrap_or(Err(Silent::NoBanner))
}

/// Tries until the service speaks; the caller limits the time. `told` gets each new reason why it does not.
///
/// Tries overlap: a connection that was made before the guest had an address hangs in the forwarder's retransmissions
/// for seconds, while a new one is answered at once.
pub async fn until_spoken(addr: SocketAddr, prefix: &'static [u8], mut told: impl FnMut(&Silent)) -> TcpStream {
    let mut tries = tokio::task::JoinSet::new();
    let mut last = None;
    loop {
        tries.spawn(spoken(addr, prefix, Duration::from_secs(5)));
        let ended = tokio::select! {
            ended = tries.join_next() => ended,
            () = clock::sleep(SILENCE) => None,
        };
        match ended {
            Some(Ok(Ok(stream))) => return stream,
            Some(Ok(Err(why))) => {
                if last.as_ref() != Some(&why) {
                    told(&why);
                    last = Some(why);
                }
                clock::sleep(PAUSE).await;
            }
            Some(Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn an_address_of_this_host_is_known_from_others() {
        assert!(!is_own("192.0.2.250".parse().expect("ip")), "an address for documentation");
        assert!(!is_own("127.0.0.1".parse().expect("ip")), "loopback is left to its users");
        // Where there is a way out, the address that leads there is ours.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("socket");
        if socket.connect("198.51.100.1:9").is_ok() {
            assert!(is_own(socket.local_addr().expect("address").ip()));
        }
    }

    async fn server() -> (tokio::net::TcpListener, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr");
        (listener, addr)
    }

    #[tokio::test]
    async fn an_open_port_is_not_readiness() {
        let (_listener, addr) = server().await;
        let got = spoken(addr, b"SSH-", Duration::from_millis(50)).await;
        assert_eq!(got.expect_err("silent"), Silent::NoBanner);
    }

    #[tokio::test]
    async fn another_service_is_told() {
        let (listener, addr) = server().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"HTTP/1.0 400\r\n").await.expect("write");
            std::future::pending::<()>().await;
        });
        let got = spoken(addr, b"SSH-", Duration::from_secs(5)).await;
        assert_eq!(got.expect_err("other"), Silent::Other("HTTP/1.0 400".into()));
    }

    #[tokio::test]
    async fn a_banner_in_pieces_is_waited_for_and_left_to_be_read() {
        let (listener, addr) = server().await;
        tokio::spawn(async move {
            drop(listener.accept().await.expect("first try is closed"));
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"SS").await.expect("write");
            tokio::task::yield_now().await;
            stream.write_all(b"H-2.0-x\r\n").await.expect("write");
            std::future::pending::<()>().await;
        });
        let mut told = Vec::new();
        let stream = until_spoken(addr, b"SSH-", |why| told.push(why.clone())).await;
        let mut buffer = [0; 8];
        assert!(stream.peek(&mut buffer).await.expect("peek") >= 4);
        assert!(buffer.starts_with(b"SSH-"));
        assert_eq!(told, [Silent::Closed]);
    }
}
