//! The host key check: nothing is sent to a machine that does not show the expected key.
//!
//! The user's own `known_hosts` is neither read nor written: throw-away machines have no place in it.

use crate::transport::pin::Pin;
use parking_lot::Mutex;
use russh::{
    client,
    keys::{Algorithm, PublicKey, PublicKeyOrCertificate},
};
use std::sync::Arc;
use vmdeck_model::key::Options;

/// Returns the key or file of `host_key`; the error is a sentence.
pub(super) fn read(text: &str) -> Result<PublicKey, String> {
    let parse = |text: &str| {
        let mut words = text.split_whitespace().skip_while(|w| !w.starts_with("ssh-") && !w.starts_with("ecdsa-"));
        let line = [words.next()?, words.next()?].join(" ");
        PublicKey::from_openssh(&line).ok()
    };
    if let Some(key) = parse(text) {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text)
        .map_err(|e| format!("`{text}` is neither a host key nor a readable file: {e}"))?;
    parse(&content).ok_or_else(|| format!("the file `{text}` holds no host key"))
}

/// Returns every key in a text of one key a line.
pub(super) fn all(text: &str) -> Vec<PublicKey> {
    text.lines().filter_map(|line| PublicKey::from_openssh(line.trim()).ok()).collect()
}

/// Returns the expected key of these options, if one is set.
pub(super) fn of(options: &Options) -> Option<Result<PublicKey, String>> {
    let path = options.path("host_key").map(|p| p.to_string_lossy().into_owned());
    options.text("host_key").map(str::to_owned).or(path).map(|text| read(&text))
}

/// Why a key was refused, as fingerprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) expected: String,
    pub(super) shown: String,
}

/// russh's handler: compares the key and remembers a refusal.
#[derive(Clone)]
pub(super) struct Checker {
    /// Any of these; none = the key of the first contact.
    expected: Vec<PublicKey>,
    pin: Pin,
    refused: Arc<Mutex<Option<Refused>>>,
}

impl Checker {
    pub(super) fn new(expected: Vec<PublicKey>, pin: Pin) -> Self {
        Self { expected, pin, refused: Arc::default() }
    }

    pub(super) fn refusal(&self) -> Option<Refused> {
        self.refused.lock().clone()
    }

    pub(super) fn expected_algorithms(&self) -> Vec<Algorithm> {
        self.expected.iter().map(PublicKey::algorithm).collect()
    }

    fn accepts(&self, key: &PublicKey) -> bool {
        let shown = print(key);
        let (good, expected) = if self.expected.is_empty() {
            (self.pin.first_contact(&shown), "the key of the first contact".to_owned())
        } else {
            let good = self.expected.iter().any(|expected| expected.key_data() == key.key_data());
            (good, self.expected.iter().map(print).collect::<Vec<_>>().join(" or "))
        };
        if !good {
            *self.refused.lock() = Some(Refused { expected, shown });
        }
        good
    }
}

fn print(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(russh::keys::HashAlg::Sha256))
}

impl client::Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(self.accepts(&key.public_key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    #[test]
    fn a_key_comes_as_text_as_known_hosts_line_or_in_a_file() {
        let file = tempfile::NamedTempFile::new().expect("temp");
        std::fs::write(file.path(), format!("guest,10.0.2.15 {A} a comment\n")).expect("write");
        let from_file = read(&file.path().to_string_lossy()).expect("file");
        assert_eq!(read(A).expect("text").key_data(), from_file.key_data());
        assert!(read("ssh-ed25519 nonsense").expect_err("bad").contains("neither"));
    }

    #[test]
    fn only_the_expected_key_is_taken() {
        let (a, b) = (read(A).expect("key"), read(B).expect("key"));
        let strict = Checker::new(vec![a.clone()], Pin::default());
        assert!(strict.accepts(&a) && strict.refusal().is_none());
        assert!(!strict.accepts(&b) && strict.refusal().is_some());
    }

    #[test]
    fn the_first_contact_pins_for_every_later_one() {
        let (a, b) = (read(A).expect("key"), read(B).expect("key"));
        let pin = Pin::default();
        assert!(Checker::new(Vec::new(), pin.clone()).accepts(&a));
        assert!(!Checker::new(Vec::new(), pin.clone()).accepts(&b));
        assert!(Checker::new(Vec::new(), pin).accepts(&a));
    }
}
