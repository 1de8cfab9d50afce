//! Whether RSA keys can be used, and which keys are RSA keys.
//!
//! The only crate that does RSA has an advisory without a fix (RUSTSEC-2023-0071), so it is a feature that is off by default.

use russh::keys::{PublicKey, ssh_key};

/// Whether this program was built with RSA.
pub(super) const SUPPORTED: bool = cfg!(feature = "rsa");

/// What to do about an RSA key.
pub(super) const REMEDY: &str = "use an ed25519 key (`ssh-keygen -t ed25519`), or build vmdeck with `--features rsa`: it is off because \
                                 its crate has an advisory without a fix, RUSTSEC-2023-0071";

/// Returns whether this is the text of a private RSA key, also where it is encrypted.
pub(super) fn is_private_key(text: &str) -> bool {
    let old = text.lines().any(|line| line.trim() == "-----BEGIN RSA PRIVATE KEY-----");
    old || ssh_key::PrivateKey::from_openssh(text).is_ok_and(|key| key.algorithm().is_rsa())
}

/// Returns whether all of these keys are RSA keys.
pub(super) fn only(keys: &[PublicKey]) -> bool {
    !keys.is_empty() && keys.iter().all(|key| key.algorithm().is_rsa())
}
