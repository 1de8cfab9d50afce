//! HTTPS to WinRM: which certificate is believed, and what of it goes into the logon.
//!
//! A certificate is pinned by its fingerprint, as Windows makes them itself and nobody vouches for them, or checked against
//! authorities.

use super::error::WinrmError;
use crate::{
    host::certificate::{self, Fingerprint},
    transport::pin::Pin,
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::{fmt, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

/// Which certificate of the guest is believed.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// The one with this fingerprint.
    Fingerprint(Fingerprint),
    /// The one that it shows at first contact.
    FirstContact(Pin),
    /// One that an authority vouches for, or that is given as one itself.
    Authorities(Arc<Authorities>),
    /// None: it is asked for its certificate, to say which one it has.
    Nobody,
}

/// Who may vouch for a certificate.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    /// The certificates that the config gives: a guest's own that was made by itself may be among them.
    given: Vec<Fingerprint>,
}

/// Returns the authorities of a file (PEM), or of this host where none is given.
pub(super) fn authorities(file: Option<&str>) -> Result<Arc<Authorities>, String> {
    let mut roots = RootCertStore::empty();
    let mut given = Vec::new();
    match file {
        Some(file) => {
            for certificate in certificate::read(Path::new(file))? {
                given.push(Fingerprint::of(&certificate));
                roots.add(certificate).map_err(|e| format!("`{file}` holds a certificate that is none: {e}"))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("this host has no certificates of authorities".into());
    }
    Ok(Arc::new(Authorities { roots: Arc::new(roots), given }))
}

/// Makes connections that are encrypted by TLS.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    seen: Arc<Mutex<Option<Fingerprint>>>,
    trust: Trust,
}

impl Tls {
    /// Returns what connects to this host and believes this.
    pub(super) fn new(host: &str, trust: Trust) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let seen = Arc::default();
        let vouched = match &trust {
            Trust::Authorities(all) => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&all.roots), Arc::clone(&provider));
                Some(builder.build().map_err(|e| e.to_string())?)
            }
            _ => None,
        };
        let judge = CertificateJudge {
            trust: trust.clone(),
            vouched,
            seen: Arc::clone(&seen),
            provider: Arc::clone(&provider),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is no name of a host"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name, seen, trust })
    }

    /// Encrypts a connection; returns it with the hash of the certificate that goes into a logon.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Vec<u8>), WinrmError> {
        match self.connector.connect(self.name.clone(), stream).await {
            Ok(stream) => {
                let hash = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|c| end_point(c));
                Ok((stream, hash.unwrap_or_default()))
            }
            Err(e) => {
                let tls = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                Err(match tls {
                    Some(rustls::Error::InvalidCertificate(why)) => WinrmError::Certificate(self.explain(why)),
                    _ => WinrmError::Lost(e.to_string()),
                })
            }
        }
    }

    fn explain(&self, why: &rustls::CertificateError) -> String {
        let Some(shown) = *self.seen.lock() else { return format!("its certificate is not believed: {why}") };
        match &self.trust {
            Trust::Fingerprint(expected) => format!("its certificate is {shown}, expected {expected}"),
            Trust::Nobody => format!("its certificate is {shown}, and nothing says whether it is the right one"),
            Trust::FirstContact(_) => {
                format!("its certificate is {shown}, which is not the one of the first contact")
            }
            Trust::Authorities(_) => format!("its certificate is {shown}, for which no authority vouches: {why}"),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// Decides whether a certificate is believed. That the other end has its key is checked in any case.
#[derive(Debug)]
struct CertificateJudge {
    trust: Trust,
    /// Checks who vouches for it.
    vouched: Option<Arc<WebPkiServerVerifier>>,
    seen: Arc<Mutex<Option<Fingerprint>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CertificateJudge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate);
        *self.seen.lock() = Some(shown);
        let good = match &self.trust {
            Trust::Fingerprint(expected) => shown == *expected,
            Trust::FirstContact(pin) => pin.first_contact(&shown.to_string()),
            Trust::Authorities(all) => all.given.contains(&shown),
            Trust::Nobody => false,
        };
        if good {
            return Ok(ServerCertVerified::assertion());
        }
        if let Some(vouched) = &self.vouched {
            return vouched.verify_server_cert(certificate, between, name, ocsp, now);
        }
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The ends of the object identifiers of signatures with SHA-384 and SHA-512: of RSA (1.2.840.113549.1.1) and of ECDSA
/// (1.2.840.10045.4.3).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// Returns the hash of a certificate by the hash function of its own signature, but never a weaker one than SHA-256 (RFC 5929,
/// section 4.1).
fn end_point(certificate: &[u8]) -> Vec<u8> {
    let algorithm = signature_algorithm(certificate).unwrap_or_default();
    let last = |base: &[u8]| algorithm.strip_prefix(base).and_then(|rest| rest.first()).copied();
    match (last(RSA), last(ECDSA)) {
        (Some(12), _) | (_, Some(3)) => Sha384::digest(certificate).to_vec(),
        (Some(13), _) | (_, Some(4)) => Sha512::digest(certificate).to_vec(),
        _ => Sha256::digest(certificate).to_vec(),
    }
}

/// Returns the object identifier of a certificate's signature algorithm: the second part of the outer sequence (RFC 5280).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (outer, _) = element(certificate)?;
    let (_, after) = element(outer)?;
    let (algorithm, _) = element(after)?;
    Some(element(algorithm)?.0)
}

/// Returns the content of a DER element, and what comes after it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, header) = match *bytes.get(1)? {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let digits = bytes.get(2..2 + count).filter(|_| count <= 4)?;
            (digits.iter().fold(0, |all, byte| (all << 8) | usize::from(*byte)), 2 + count)
        }
    };
    let rest = bytes.get(header..)?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the beginning of a certificate that says it is signed so.
    fn certificate(algorithm: &[u8], last: u8) -> Vec<u8> {
        let oid = [&[6, u8::try_from(algorithm.len() + 1).expect("short")][..], algorithm, &[last]].concat();
        let inner = [&[0x30, 3, 2, 1, 7][..], &[0x30, u8::try_from(oid.len()).expect("short")], &oid].concat();
        [&[0x30, 0x82, 0, u8::try_from(inner.len()).expect("short")][..], &inner].concat()
    }

    #[test]
    fn the_hash_is_the_one_of_the_certificates_own_signature() {
        for (algorithm, last, bytes) in
            [(RSA, 4, 32), (RSA, 11, 32), (RSA, 12, 48), (RSA, 13, 64), (ECDSA, 2, 32), (ECDSA, 3, 48), (ECDSA, 4, 64)]
        {
            assert_eq!(end_point(&certificate(algorithm, last)).len(), bytes, "{algorithm:?} {last}");
        }
        assert_eq!(end_point(b"no certificate").len(), 32);
    }

    proptest! {
        #[test]
        fn no_certificate_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = end_point(&bytes);
        }
    }
}
