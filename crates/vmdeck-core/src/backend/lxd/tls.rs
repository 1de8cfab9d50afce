//! TLS to a daemon elsewhere: it shows the certificate that the config names, and knows us by ours.

use super::{error::LxdError, place::RemoteDaemon, wire::Wire};
use crate::host::certificate::{self, Fingerprint};
use std::{path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

/// Encrypts a connection.
pub(super) async fn connect(remote: &RemoteDaemon, stream: TcpStream) -> Result<Box<dyn Wire>, LxdError> {
    let denied = |why: String| LxdError::NoDaemon { why, is_denied: false };
    let config = config(remote).map_err(denied)?;
    let name = ServerName::try_from(remote.host.clone()).map_err(|e| denied(e.to_string()))?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => Err(denied(format!("no encrypted connection: {e}"))),
    }
}

fn config(remote: &RemoteDaemon) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let judge = OnlyThisCertificate { wanted: certificate::pinned(&remote.server)?, provider: Arc::clone(&provider) };
    let ours = certificate::read(&remote.certificate)?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_client_auth_cert(ours, read_key(&remote.key)?)
        .map_err(|e| format!("our certificate and its key do not fit: {e}"))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let bytes =
        vmdeck_files::read(path, vmdeck_files::LARGE).map_err(|e| format!("cannot read the key `{shown}`: {e}"))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| format!("`{shown}` holds no key (PEM): {e:?}"))
}

/// Believes one certificate: such daemons make theirs themselves.
#[derive(Debug)]
struct OnlyThisCertificate {
    wanted: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThisCertificate {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(shown);
        if shown == self.wanted {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("its certificate is {shown}, expected {}", self.wanted)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
