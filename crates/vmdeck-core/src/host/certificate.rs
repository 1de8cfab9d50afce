//! Certificates that are believed because the config names them: a fingerprint, or the file of one.

use sha2::{Digest, Sha256};
use std::{fmt, path::Path};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint of a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Reads a fingerprint as hexadecimal digits, with or without `sha256:` before and `:` between them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().strip_prefix("sha256:").unwrap_or(text.trim()).replace(':', "");
        if digits.len() != 64 || !digits.is_ascii() {
            return None;
        }
        let mut out = [0; 32];
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Reads what a config gives as a certificate: a fingerprint, or the file (PEM) of one.
pub(crate) fn pinned(text: &str) -> Result<Fingerprint, String> {
    if let Some(fingerprint) = Fingerprint::parse(text) {
        return Ok(fingerprint);
    }
    let certificates = read(Path::new(text))?;
    Ok(Fingerprint::of(&certificates[0]))
}

/// Reads the certificates of a file (PEM), of which there is at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let bytes = vmdeck_files::read(path, vmdeck_files::LARGE)
        .map_err(|e| format!("`{shown}` is neither a fingerprint (sha256:...) nor a file that can be read: {e}"))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("`{shown}` holds no certificate (PEM)")),
        Err(e) => Err(format!("`{shown}` holds no certificate (PEM): {e:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_in_every_form() {
        let plain = "0123456789abcdef".repeat(4);
        let colons: Vec<&str> = (0..32).map(|at| &plain[2 * at..2 * at + 2]).collect();
        for text in [plain.clone(), format!("sha256:{plain}"), plain.to_uppercase(), colons.join(":")] {
            let read = Fingerprint::parse(&text).expect("a fingerprint");
            assert_eq!(read.to_string(), format!("sha256:{plain}"));
        }
        for text in ["", "sha256:", "0123", &format!("{plain}0"), &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(Fingerprint::parse(text), None, "{text}");
        }
        assert!(pinned("/nonexistent").expect_err("nothing").contains("neither a fingerprint"));
    }
}
