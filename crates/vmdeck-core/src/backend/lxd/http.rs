//! One call to a daemon, or one stream of it: HTTP over its socket, or over TLS where it is elsewhere.
//!
//! Facts: a call on a new connection takes 1.5 ms over the socket; answers are `{type, status_code, error_code, error, metadata,
//! operation}`. Each call has a connection of its own, so that one that is given up spoils no other.

use super::{error::LxdError, place::DaemonAddress, tls, wire::Wire};
use crate::host::clock;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::WebSocketConfig};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes: thousands of instances.
const ANSWER: usize = 64 << 20;
/// The longest message of a stream, in bytes; the daemon sends pieces of 128 KiB at most.
const MESSAGE: usize = 8 << 20;

/// A stream of messages.
pub(super) type LxdStream = WebSocketStream<Box<dyn Wire>>;

/// What a daemon answered.
#[derive(Clone, Debug, Default)]
pub(super) struct LxdAnswer {
    /// What was asked for.
    pub(super) metadata: Value,
    /// The operation that goes on after the answer, without its query.
    pub(super) operation: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    r#type: String,
    error: String,
    error_code: u16,
    metadata: Value,
    operation: Option<String>,
}

/// Sends one call and reads its answer within the limit.
pub(super) async fn call(
    daemon: &DaemonAddress,
    (method, path): (Method, &str),
    body: Option<&Value>,
    limit: Duration,
) -> Result<LxdAnswer, LxdError> {
    let bytes = Box::pin(raw(daemon, (method, path), body, limit)).await?.1;
    read_answer(&bytes)
}

/// Sends one call whose answer is not JSON where it succeeds, such as a log.
pub(super) async fn text(daemon: &DaemonAddress, path: &str, limit: Duration) -> Result<Bytes, LxdError> {
    match Box::pin(raw(daemon, (Method::GET, path), None, limit)).await? {
        (200, bytes) => Ok(bytes),
        (_, bytes) => read_answer(&bytes).and(Err(LxdError::Lost("it gave no text".into()))),
    }
}

/// Opens a stream.
pub(super) async fn stream(daemon: &DaemonAddress, path: &str) -> Result<LxdStream, LxdError> {
    let opened = async {
        let wire = connect(daemon).await?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
        let url = format!("ws://daemon{path}");
        let opened = tokio_tungstenite::client_async_with_config(url, wire, Some(config)).await;
        opened.map(|(stream, _)| stream).map_err(|e| LxdError::Lost(e.to_string()))
    };
    clock::within(CONNECT, opened).await.unwrap_or(Err(LxdError::Late(CONNECT)))
}

async fn connect(daemon: &DaemonAddress) -> Result<Box<dyn Wire>, LxdError> {
    match daemon {
        DaemonAddress::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| LxdError::unreachable(daemon, &e))?;
            Ok(Box::new(stream))
        }
        DaemonAddress::Network(remote) => {
            let address = (remote.host.as_str(), remote.port);
            let stream = TcpStream::connect(address).await.map_err(|e| LxdError::unreachable(daemon, &e))?;
            let _ = stream.set_nodelay(true);
            tls::connect(remote, stream).await
        }
    }
}

async fn raw(
    daemon: &DaemonAddress,
    (method, path): (Method, &str),
    body: Option<&Value>,
    limit: Duration,
) -> Result<(u16, Bytes), LxdError> {
    let lost = |e: &dyn std::fmt::Display| LxdError::Lost(e.to_string());
    let exchange = async {
        let wire = clock::within(CONNECT, connect(daemon)).await.unwrap_or(Err(LxdError::Late(CONNECT)))?;
        let (mut send, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(|e| lost(&e))?;
        let driver = tokio::spawn(driver);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "daemon")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| lost(&e))?;
        let answer = send.send_request(request).await.map_err(|e| lost(&e))?;
        let status = answer.status().as_u16();
        let bytes =
            Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|e| LxdError::Lost(e.to_string()))?;
        driver.abort();
        Ok((status, bytes.to_bytes()))
    };
    clock::within(limit, exchange).await.unwrap_or(Err(LxdError::Late(limit)))
}

fn read_answer(bytes: &[u8]) -> Result<LxdAnswer, LxdError> {
    let said: Envelope =
        serde_json::from_slice(bytes).map_err(|e| LxdError::Lost(format!("what answers is no such daemon: {e}")))?;
    match (said.r#type.as_str(), said.error_code) {
        ("error", 404) => Err(LxdError::NotFound(said.error)),
        ("error", code) => Err(LxdError::Refused { code, text: said.error }),
        ("sync" | "async", _) => {
            let path = |text: String| text.split('?').next().unwrap_or_default().to_owned();
            let operation = said.operation.filter(|text| !text.is_empty()).map(path);
            Ok(LxdAnswer { metadata: said.metadata, operation })
        }
        (other, _) => Err(LxdError::Lost(format!("what answers is no such daemon: its answer is of type `{other}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_their_type_and_never_taken_for_something_else() {
        let good = read_answer(br#"{"type":"async","metadata":{"a":1},"operation":"/1.0/operations/x?project=p"}"#);
        let good = good.expect("an operation");
        assert_eq!((good.operation.as_deref(), good.metadata["a"].as_u64()), (Some("/1.0/operations/x"), Some(1)));
        let sync = read_answer(br#"{"type":"sync","metadata":[],"operation":""}"#).expect("an answer");
        assert_eq!(sync.operation, None);
        let rows: [(&[u8], LxdError); 2] = [
            (
                br#"{"type":"error","error":"Instance not found","error_code":404}"#,
                LxdError::NotFound("Instance not found".into()),
            ),
            (
                br#"{"type":"error","error":"boom","error_code":500}"#,
                LxdError::Refused { code: 500, text: "boom".into() },
            ),
        ];
        for (bytes, want) in rows {
            assert_eq!(read_answer(bytes).expect_err("an error"), want);
        }
        for bytes in [&b"<html>"[..], b"", b"{}", b"[]", br#"{"type":7}"#, b"\xff\xfe"] {
            assert!(matches!(read_answer(bytes), Err(LxdError::Lost(_))), "{bytes:?}");
        }
    }
}
