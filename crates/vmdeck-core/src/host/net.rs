//! Reaching a service: a connection behind which the service has proven that it is there.
//!
//! An open port is not readiness: QEMU's port forward accepts before the guest exists (facts of QEMU 7.2).

use super::clock;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a fresh connection may stay silent before another one is tried beside it.
const SILENCE: Duration = Duration::from_millis(400);
/// Pause after a refusal or a reset: the guest's kernel answers, its service does not yet.
const PAUSE: Duration = Duration::from_millis(40);

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);

/// The way to find out whether a service is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The service speaks first, and begins with these bytes.
    Banner(&'static [u8]),
    /// The service speaks HTTP: it answers a request for this path, in whatever way.
    Http {
        /// The path, with its leading slash.
        path: &'static str,
    },
    /// The service speaks TLS: it answers a greeting, with one of its own or an alert.
    Tls,
}

/// Returns the greeting of a TLS client, version 1.2, with three usual ciphers and no extensions (RFC 5246, section 7.4.1.2). The
/// handshake that it begins is never carried further, so its random number is none.
fn tls_greeting() -> Vec<u8> {
    let (record, greeting) = ([0x16, 3, 1, 0, 51], [1, 0, 0, 47, 3, 3]);
    let (session, ciphers) = ([0], [0, 6, 0xc0, 0x2f, 0xc0, 0x30, 0, 0x2f]);
    let (compression, extensions) = ([1, 0], [0, 0]);
    [&record[..], &greeting, &[0; 32], &session, &ciphers, &compression, &extensions].concat()
}

/// The reason why a service did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silent {
    /// Nothing listens at the port.
    #[error("connection refused")]
    Refused,
    /// The connection was accepted, then closed without a byte.
    #[error("connected, then closed before an answer came")]
    Closed,
    /// The connection was accepted, then nothing came.
    #[error("connected, but no banner came")]
    NoBanner,
    /// The connection was accepted, and a question was not answered.
    #[error("connected, but no answer came")]
    NoAnswer,
    /// Another service answers there.
    #[error("something else answers there: `{0}`")]
    Other(String),
    /// The system reported an error.
    #[error("{0}")]
    Io(String),
}

/// Returns whether this address is one of this host's own, apart from its loopback: no other machine answers there.
pub fn is_own(ip: std::net::IpAddr) -> bool {
    // Only an own address can be bound.
    !ip.is_loopback() && std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Returns whether something accepts a connection there.
pub async fn accepts(addr: SocketAddr, patience: Duration) -> bool {
    matches!(clock::within(patience, TcpStream::connect(addr)).await, Some(Ok(_)))
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, Silent> {
    TcpStream::connect(addr).await.map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => Silent::Refused,
        _ => Silent::Io(e.to_string()),
    })
}

/// Makes one try for a service that speaks first: connects and waits until the first bytes can be read, without taking them.
pub async fn banner(addr: SocketAddr, prefix: &[u8], patience: Duration) -> Result<TcpStream, Silent> {
    let attempt = async {
        let stream = connect(addr).await?;
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

/// Makes one try for a service that speaks when it is spoken to: sends a question and waits for the beginning of an answer, which
/// must be good. The connection that is returned is a fresh one.
async fn ask(
    addr: SocketAddr,
    question: &[u8],
    is_good: fn(&[u8; 5]) -> bool,
    patience: Duration,
) -> Result<TcpStream, Silent> {
    let attempt = async {
        let mut stream = connect(addr).await?;
        stream.write_all(question).await.map_err(|e| Silent::Io(e.to_string()))?;
        let mut seen = [0u8; 5];
        match stream.read_exact(&mut seen).await {
            Ok(_) if is_good(&seen) => connect(addr).await,
            Ok(_) => Err(Silent::Other(String::from_utf8_lossy(&seen).trim().to_owned())),
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                Err(Silent::Closed)
            }
            Err(e) => Err(Silent::Io(e.to_string())),
        }
    };
    clock::within(patience, attempt).await.unwrap_or(Err(Silent::NoAnswer))
}

async fn probe(addr: SocketAddr, probe: Probe) -> Result<TcpStream, Silent> {
    match probe {
        Probe::Banner(prefix) => banner(addr, prefix, TRY).await,
        Probe::Http { path } => {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            ask(addr, request.as_bytes(), |seen| seen == b"HTTP/", TRY).await
        }
        // A record of a handshake or an alert.
        Probe::Tls => ask(addr, &tls_greeting(), |seen| matches!(seen, [0x15 | 0x16, 3, ..]), TRY).await,
    }
}

/// Tries until the service answers; the caller limits the time. `progress` gets each new reason why it does not.
///
/// Tries overlap: a connection that was made before the guest had an address hangs in the forwarder's retransmissions
/// for seconds, while a new one is answered at once.
pub async fn until_answers(addr: SocketAddr, service: Probe, mut progress: impl FnMut(&Silent)) -> TcpStream {
    let mut tries = tokio::task::JoinSet::new();
    let mut last = None;
    loop {
        tries.spawn(probe(addr, service));
        let ended = tokio::select! {
            ended = tries.join_next() => ended,
            () = clock::sleep(SILENCE) => None,
        };
        match ended {
            Some(Ok(Ok(stream))) => return stream,
            Some(Ok(Err(why))) => {
                if last.as_ref() != Some(&why) {
                    progress(&why);
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
        let got = banner(addr, b"SSH-", Duration::from_millis(50)).await;
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
        let got = banner(addr, b"SSH-", Duration::from_secs(5)).await;
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
        let stream = until_answers(addr, Probe::Banner(b"SSH-"), |why| told.push(why.clone())).await;
        let mut buffer = [0; 8];
        assert!(stream.peek(&mut buffer).await.expect("peek") >= 4);
        assert!(buffer.starts_with(b"SSH-"));
        assert_eq!(told, [Silent::Closed]);
    }

    #[tokio::test]
    async fn a_service_that_does_not_speak_first_is_found_by_its_answer() {
        let (listener, addr) = server().await;
        tokio::spawn(async move {
            drop(listener.accept().await.expect("first try is closed"));
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = [0; 11];
            stream.read_exact(&mut request).await.expect("request");
            assert_eq!(&request, b"GET /wsman ");
            stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await.expect("write");
            let (mut fresh, _) = listener.accept().await.expect("the connection that is handed on");
            fresh.write_all(b"fresh").await.expect("write");
            std::future::pending::<()>().await;
        });
        let mut reasons = Vec::new();
        let mut stream = until_answers(addr, Probe::Http { path: "/wsman" }, |why| reasons.push(why.clone())).await;
        let mut seen = [0; 5];
        stream.read_exact(&mut seen).await.expect("read");
        assert_eq!((&seen, reasons), (b"fresh", vec![Silent::Closed]));
    }
}
