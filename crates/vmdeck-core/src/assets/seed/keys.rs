//! An ed25519 key pair in OpenSSH's own form.

use crate::host::random;
use russh::keys::ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use std::io;

/// A key pair.
pub(super) struct KeyPair {
    /// The private key, as a file of OpenSSH holds it.
    pub(super) private: String,
    /// The public key in one line.
    pub(super) public: String,
}

impl KeyPair {
    /// Makes a pair that nobody else has, with a comment.
    pub(super) fn generate(comment: &str) -> io::Result<Self> {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&random::u128().to_le_bytes());
        seed[16..].copy_from_slice(&random::u128().to_le_bytes());
        let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        key.set_comment(comment);
        let private = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
        let public = key.public_key().to_openssh().map_err(io::Error::other)?;
        Ok(Self { private: private.to_string(), public })
    }
}
