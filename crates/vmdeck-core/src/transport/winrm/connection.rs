//! One connection to WinRM: an HTTP connection with a logon of its own, on which one message goes at a time.
//!
//! Over plain HTTP every message is sealed by NTLM, and nothing is said before that; over HTTPS the encryption is TLS's. Facts: the
//! closing boundary follows the sealed bytes at once (Windows answers a line end between them with 400), and the sealed bytes
//! may hold the boundary, so an answer is cut by its announced length.

use super::{
    error::WinrmError,
    ntlm::{self, Capitals, NtlmLogon},
    tls::Tls,
};
use crate::host::clock;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use vmdeck_model::secret::Secret;

/// The most bytes of one answer that are taken: four times what we ask for.
const ANSWER: usize = 4 * super::soap::ENVELOPE;
/// How long a connection and its logon may take; emulated guests are slow.
const LOGON: Duration = Duration::from_secs(30);
const SOAP: &str = "application/soap+xml;charset=UTF-8";
const SEALED: &str =
    "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";
const BOUNDARY: &str = "--Encrypted Boundary";

/// Where the service is, and who logs on to it.
#[derive(Clone, Debug)]
pub(super) struct WinrmTarget {
    pub(super) address: SocketAddr,
    /// The host as it is called, for the `Host` header and the name of the service.
    pub(super) host: String,
    /// The path of the service, with its leading slash.
    pub(super) path: String,
    pub(super) tls: Option<Tls>,
    pub(super) login: Credentials,
}

/// Who logs on, and how.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) capitals: Capitals,
    pub(super) scheme: Scheme,
}

/// A way to log on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// NTLM, by the header `Negotiate`.
    Ntlm,
    /// The password itself, inside of TLS.
    Basic,
}

impl WinrmTarget {
    /// Returns the address of the service as the messages name it.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        let host = &self.host;
        if host.contains(':') {
            format!("[{host}]:{}", self.address.port())
        } else {
            format!("{host}:{}", self.address.port())
        }
    }
}

/// How the messages of a connection are protected.
enum Protection {
    /// NTLM seals each of them.
    Sealed(Box<ntlm::NtlmSession>),
    /// TLS encrypts all of them, and the connection is logged on.
    Encrypted,
    /// TLS encrypts all of them, and each brings the password along.
    WithPassword(String),
}

/// A connection that is logged on.
pub(super) struct WinrmConnection {
    send: SendRequest<Full<Bytes>>,
    protection: Protection,
    authority: String,
    path: String,
    /// When it was used last.
    used: clock::Instant,
}

/// What an HTTP answer says.
struct HttpAnswer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl WinrmConnection {
    /// Connects and logs on.
    pub(super) async fn open(target: &WinrmTarget) -> Result<Self, WinrmError> {
        let late = WinrmError::Late(LOGON.as_secs());
        clock::within(LOGON, Self::connect(target)).await.unwrap_or(Err(late))
    }

    async fn connect(target: &WinrmTarget) -> Result<Self, WinrmError> {
        let stream = TcpStream::connect(target.address).await.map_err(|e| WinrmError::Lost(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        match &target.tls {
            None => Self::log_on(target, stream, None).await,
            Some(tls) => {
                let (stream, certificate) = tls.connect(stream).await?;
                Self::log_on(target, stream, Some(certificate)).await
            }
        }
    }

    async fn log_on(
        target: &WinrmTarget,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificate: Option<Vec<u8>>,
    ) -> Result<Self, WinrmError> {
        let (send, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        tokio::spawn(driver);
        let mut connection = Self {
            send,
            protection: Protection::Encrypted,
            authority: target.authority(),
            path: target.path.clone(),
            used: clock::now(),
        };
        let login = &target.login;
        connection.protection = match login.scheme {
            Scheme::Basic if certificate.is_none() => {
                return Err(WinrmError::Nonsense("a password is never sent without encryption".into()));
            }
            Scheme::Basic => {
                let pair = format!("{}:{}", login.user, login.password.expose());
                Protection::WithPassword(format!("Basic {}", BASE64_STANDARD.encode(pair)))
            }
            Scheme::Ntlm => {
                let session = connection.by_ntlm(login, &target.host, certificate.as_deref()).await?;
                if certificate.is_some() { Protection::Encrypted } else { Protection::Sealed(Box::new(session)) }
            }
        };
        Ok(connection)
    }

    /// Logs on by two messages without a body.
    async fn by_ntlm(
        &mut self,
        login: &Credentials,
        host: &str,
        certificate: Option<&[u8]>,
    ) -> Result<ntlm::NtlmSession, WinrmError> {
        let hello = self.post(Some(&negotiate(&ntlm::negotiate())), SOAP, Vec::new()).await?;
        let offers = || hello.headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenge =
            offers().find_map(|offer| BASE64_STANDARD.decode(offer.strip_prefix("Negotiate ")?.trim()).ok());
        let Some(challenge) = challenge.filter(|_| hello.status == 401) else {
            if hello.status != 401 {
                return Err(WinrmError::Status(hello.status));
            }
            let offered: Vec<&str> = offers().filter_map(|offer| offer.split(' ').next()).collect();
            let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
            return Err(WinrmError::NotOffered { wanted: "Negotiate", offered });
        };
        let target = format!("HTTP/{host}");
        let logon = NtlmLogon {
            user: &login.user,
            password: login.password.expose(),
            capitals: login.capitals,
            target: &target,
            certificate,
        };
        let (token, session) = ntlm::authenticate(logon, &challenge)?;
        match self.post(Some(&negotiate(&token)), SOAP, Vec::new()).await?.status {
            200 => Ok(session),
            401 => Err(WinrmError::Refused),
            status => Err(WinrmError::Status(status)),
        }
    }

    /// Sends a message and returns its answer: the HTTP status and the text.
    pub(super) async fn exchange(&mut self, xml: &str) -> Result<(u16, String), WinrmError> {
        let answer = match &mut self.protection {
            Protection::Sealed(session) => {
                let body = seal(session, xml);
                self.post(None, SEALED, body).await?
            }
            Protection::Encrypted => self.post(None, SOAP, xml.as_bytes().to_vec()).await?,
            Protection::WithPassword(header) => {
                let header = header.clone();
                self.post(Some(&header), SOAP, xml.as_bytes().to_vec()).await?
            }
        };
        self.used = clock::now();
        let is_sealed = content_type(&answer.headers).starts_with("multipart/encrypted");
        let text = match (&mut self.protection, answer.status) {
            (Protection::Sealed(session), _) if is_sealed => unseal(session, &answer.body)?,
            (Protection::WithPassword(_), 401) => return Err(WinrmError::Refused),
            // Whatever is not sealed may come from anybody: it says at most that there was no answer.
            (_, 401) => return Err(WinrmError::LogonEnded),
            (_, 413) => return Err(WinrmError::TooLarge),
            (Protection::Sealed(_), status) => return Err(WinrmError::Status(status)),
            (_, 200 | 500) if content_type(&answer.headers).starts_with("application/soap+xml") => {
                String::from_utf8(answer.body.to_vec()).map_err(|e| WinrmError::Nonsense(e.to_string()))?
            }
            (_, status) => return Err(WinrmError::Status(status)),
        };
        Ok((answer.status, text))
    }

    /// Returns whether it can be used for another message, as far as is known here.
    pub(super) fn is_usable(&self, idle: Duration) -> bool {
        !self.send.is_closed() && self.used.elapsed() < idle
    }

    async fn post(&mut self, authorization: Option<&str>, kind: &str, body: Vec<u8>) -> Result<HttpAnswer, WinrmError> {
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, kind)
            .header(header::USER_AGENT, "vmdeck");
        if let Some(value) = authorization {
            let mut value = header::HeaderValue::from_str(value).map_err(|e| WinrmError::Nonsense(e.to_string()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body.into())).map_err(|e| WinrmError::Nonsense(e.to_string()))?;
        // The connection's own task may not have seen the end of the last answer yet.
        self.send.ready().await.map_err(|e| lost(&e))?;
        let (head, body) = self.send.send_request(request).await.map_err(|e| lost(&e))?.into_parts();
        let body = Limited::new(body, ANSWER).collect().await.map_err(|e| WinrmError::Lost(e.to_string()))?.to_bytes();
        Ok(HttpAnswer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

fn lost(error: &hyper::Error) -> WinrmError {
    let text = if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "the connection was closed by the guest".to_owned()
    } else {
        error.to_string()
    };
    WinrmError::Lost(text)
}

fn negotiate(token: &[u8]) -> String {
    format!("Negotiate {}", BASE64_STANDARD.encode(token))
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns the body that holds a sealed message (MS-WSMV 2.2.9.1).
fn seal(session: &mut ntlm::NtlmSession, xml: &str) -> Vec<u8> {
    let mut data = xml.as_bytes().to_vec();
    let signature = session.seal(&mut data);
    let head = format!(
        "{BOUNDARY}\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: \
         type={SOAP};Length={}\r\n{BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n",
        xml.len()
    );
    let length = u32::try_from(signature.len()).unwrap_or_default().to_le_bytes();
    [head.as_bytes(), &length, &signature, &data, BOUNDARY.as_bytes(), b"--\r\n"].concat()
}

fn unseal(session: &mut ntlm::NtlmSession, body: &[u8]) -> Result<String, WinrmError> {
    let (signature, sealed) = parts(body).ok_or_else(|| WinrmError::Nonsense("a sealed answer is cut short".into()))?;
    let mut data = sealed.to_vec();
    session.unseal(signature, &mut data)?;
    String::from_utf8(data).map_err(|e| WinrmError::Nonsense(e.to_string()))
}

/// Returns the signature and the sealed bytes of a body.
fn parts(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = |what: &[u8], bytes: &[u8]| memmem::find(bytes, what).map(|at| at + what.len());
    let rest = &body[after(b"Length=", body)?..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let rest = &rest[after(b"application/octet-stream\r\n", rest)?..];
    let size = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
    let (signature, rest) = rest[4..].split_at_checked(usize::try_from(size).ok()?)?;
    Some((signature, rest.get(..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_body_is_cut_by_its_length_and_not_by_its_boundary() {
        let sealed = b"x--Encrypted Boundary\r\ny";
        let head = format!("{BOUNDARY}\r\n\tOriginalContent: type=x;Length={}\r\n", sealed.len());
        let head = format!("{head}{BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n");
        let body = [head.as_bytes(), &3u32.to_le_bytes(), b"sig", sealed, b"--Encrypted Boundary--\r\n"].concat();
        assert_eq!(parts(&body), Some((&b"sig"[..], &sealed[..])));
        for cut in 0..body.len() - 26 {
            assert_eq!(parts(&body[..cut]), None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(length in any::<u64>(), size in any::<u32>(), rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let head = format!("Length={length}\r\napplication/octet-stream\r\n");
            let _ = parts(&[head.as_bytes(), &size.to_le_bytes(), &rest].concat());
            let _ = parts(&rest);
        }
    }
}
