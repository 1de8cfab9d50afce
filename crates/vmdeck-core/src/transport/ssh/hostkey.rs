//! The host key check: nothing is sent to a machine that does not show the expected key.
//!
//! The user's own `known_hosts` is read only where the config asks for that, and never written: throw-away machines have no place in
//! it.

use crate::transport::pin::Pin;
use parking_lot::Mutex;
use russh::{
    client::{self, DisconnectReason},
    keys::{Algorithm, PublicKey, PublicKeyOrCertificate},
};
use std::sync::Arc;
use vmdeck_model::{key::Options, text::Clean};

/// Returns the keys of `host_key`, a text or a file that holds one or several; the error is a sentence.
pub(super) fn read(text: &str) -> Result<Vec<PublicKey>, String> {
    let keys = all(text);
    if !keys.is_empty() {
        return Ok(keys);
    }
    let content = vmdeck_files::read_text(std::path::Path::new(text), vmdeck_files::SMALL)
        .map_err(|e| format!("`{text}` is neither a host key nor a readable file: {e}"))?;
    match all(&content) {
        keys if keys.is_empty() => Err(format!("the file `{text}` holds no host key")),
        keys => Ok(keys),
    }
}

/// Returns every key in a text of one key a line, as `known_hosts` or a `.pub` file has it; names before a key are passed over.
pub(super) fn all(text: &str) -> Vec<PublicKey> {
    // Marked lines are no keys of a machine: one is of an authority, the other is withdrawn.
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '@']));
    let key = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|w| !w.starts_with("ssh-") && !w.starts_with("ecdsa-"));
        PublicKey::from_openssh(&[words.next()?, words.next()?].join(" ")).ok()
    };
    lines.filter_map(key).collect()
}

/// Returns the expected keys of these options, if any are set.
pub(super) fn of(options: &Options) -> Option<Result<Vec<PublicKey>, String>> {
    let path = options.path("host_key").map(|p| p.to_string_lossy().into_owned());
    options.text("host_key").map(str::to_owned).or(path).map(|text| read(&text))
}

/// What a server says besides its answers: its banner, and why it ends a connection.
#[derive(Clone, Default)]
pub(super) struct ServerWords(Arc<Mutex<(Vec<String>, bool)>>);

/// Most words of a server that a message repeats.
const WORDS: usize = 4;

impl ServerWords {
    /// Keeps a text, clean and once.
    pub(super) fn add(&self, text: &str) {
        let text = Clean::from_text(text.trim()).into_string();
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        let mut kept = self.0.lock();
        if !text.is_empty() && kept.0.len() < WORDS && !kept.0.contains(&text) {
            kept.0.push(text);
        }
    }

    /// Returns whether the server has ended the connection with a reason.
    pub(super) fn is_disconnected(&self) -> bool {
        self.0.lock().1
    }

    /// Returns the words as the end of a sentence.
    pub(super) fn as_clause(&self) -> String {
        let kept = &self.0.lock().0;
        if kept.is_empty() { String::new() } else { format!("; it says: {}", kept.join("; ")) }
    }
}

/// Why a key was refused, as fingerprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) expected: String,
    pub(super) shown: String,
    /// The kind of the key that was shown.
    pub(super) kind: KeyKind,
}

/// A kind of host key: a server has one of each at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyKind(Algorithm);

impl KeyKind {
    pub(super) fn of(algorithm: &Algorithm) -> Self {
        // The hash belongs to a signature, not to the key.
        Self(if matches!(algorithm, Algorithm::Rsa { .. }) { Algorithm::Rsa { hash: None } } else { algorithm.clone() })
    }
}

/// russh's handler: compares the key and remembers a refusal.
#[derive(Clone)]
pub(super) struct Checker {
    /// The keys of which any is accepted; none = the key of the first contact.
    expected: Vec<PublicKey>,
    pin: Pin,
    refused: Arc<Mutex<Option<Refused>>>,
    pub(super) words: ServerWords,
    /// Whether the server is asked for keys of the expected kinds only.
    pub(super) strict: bool,
}

impl Checker {
    pub(super) fn new(expected: Vec<PublicKey>, pin: Pin) -> Self {
        Self { expected, pin, refused: Arc::default(), words: ServerWords::default(), strict: false }
    }

    /// Returns a checker that takes no key: it asks for the key only to name it.
    pub(super) fn none() -> Self {
        Self::new(Vec::new(), Pin::of(Some(String::new())))
    }

    pub(super) fn refusal(&self) -> Option<Refused> {
        self.refused.lock().clone()
    }

    /// Returns whether a key of this algorithm is expected. An RSA key goes with each of its hashes.
    pub(super) fn expects(&self, algorithm: &Algorithm) -> bool {
        self.expected.iter().any(|key| KeyKind::of(&key.algorithm()) == KeyKind::of(algorithm))
    }

    /// Returns whether a key of a kind other than this one is expected.
    pub(super) fn expects_another_kind(&self, than: &KeyKind) -> bool {
        self.expected.iter().any(|key| KeyKind::of(&key.algorithm()) != *than)
    }

    /// Returns how many keys are expected.
    pub(super) fn count(&self) -> usize {
        self.expected.len()
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
            *self.refused.lock() = Some(Refused { expected, shown, kind: KeyKind::of(&key.algorithm()) });
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

    async fn auth_banner(&mut self, banner: &str, _: &mut client::Session) -> Result<(), Self::Error> {
        self.words.add(banner);
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.words.0.lock().1 = true;
                self.words.add(&info.message);
                Ok(())
            }
            DisconnectReason::Error(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    #[test]
    fn keys_come_as_text_as_known_hosts_lines_or_in_a_file_and_all_of_them_count() {
        let file = tempfile::NamedTempFile::new().expect("temp");
        let text = format!("# a comment\nguest,10.0.2.15 {A} a comment\n@revoked guest {B}\n[::1]:2222 {B}\n");
        std::fs::write(file.path(), text).expect("write");
        let from_file = read(&file.path().to_string_lossy()).expect("file");
        assert_eq!(from_file.len(), 2);
        assert_eq!(one(A).key_data(), from_file[0].key_data());
        assert_eq!(one(B).key_data(), from_file[1].key_data());
        assert!(read("ssh-ed25519 nonsense").expect_err("bad").contains("neither"));
    }

    fn one(text: &str) -> PublicKey {
        read(text).expect("key").remove(0)
    }

    #[test]
    fn only_the_expected_keys_are_taken() {
        let (a, b) = (one(A), one(B));
        let strict = Checker::new(vec![a.clone()], Pin::default());
        assert!(strict.accepts(&a) && strict.refusal().is_none());
        assert!(!strict.accepts(&b) && strict.refusal().is_some());
        let both = Checker::new(vec![a.clone(), b.clone()], Pin::default());
        assert!(both.accepts(&a) && both.accepts(&b));
    }

    #[test]
    fn a_key_of_another_kind_may_still_be_the_right_one() {
        const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL8blUVq0XwvmecbKmB2vYDX2oJhfVAjdRHZvO81R99wlmGDzna7nc59q3CGrfmoglAzpZpqcsYDXwsCIZ4pQgw=";
        let kind = KeyKind::of(&one(A).algorithm());
        assert!(!Checker::new(vec![one(A), one(B)], Pin::default()).expects_another_kind(&kind));
        let several = Checker::new(vec![one(A), one(ECDSA)], Pin::default());
        assert!(several.expects_another_kind(&kind) && several.count() == 2);
        assert!(!several.accepts(&one(B)));
        assert_eq!(several.refusal().map(|refused| refused.kind), Some(kind));
    }

    #[test]
    fn an_rsa_key_is_expected_with_every_hash() {
        const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCu5xIsjM5tOvGnsIudsvYKl4r4aeYw7DEeDrp2TTVOPqYyvOgqv4dHTPq6NTD/+JrdUtTKmXt01UjWBeOfAvChT4ABGDnYSmIIva8bMdaCadDcZVOsBdETfOyl+Jtdr/FJbQadTxkMRj9a6vdZcUTF4CHUAdgy1B4wiTvfYlQHDr0ZAp87xkvpr8mYteSxCBFrJo7o9JquF6mXV2SLTyuvntAnxo5glQQIp5ljYg+n2KsyeAp/QmhZ8lP5CZRmdYAm2U8sqhkUYh8ILDvdlyZnyXCyXZAroiLdV8guBdIVaOe/Cj/6WGs8xy1stw8ETEIrpqCNZy8+GWC+LJ0okA83";
        let sha512 = Algorithm::Rsa { hash: Some(russh::keys::HashAlg::Sha512) };
        assert!(!Checker::new(vec![one(A)], Pin::default()).expects(&sha512));
        assert!(Checker::new(vec![one(RSA)], Pin::default()).expects(&sha512));
    }

    #[test]
    fn the_first_login_pins_for_every_later_one() {
        let (a, b) = (one(A), one(B));
        let pin = Pin::default();
        assert!(Checker::new(Vec::new(), pin.clone()).accepts(&a));
        assert!(
            Checker::new(Vec::new(), pin.clone()).accepts(&b),
            "a first boot may make new keys until somebody is in"
        );
        pin.confirm();
        assert!(!Checker::new(Vec::new(), pin.clone()).accepts(&a));
        assert!(Checker::new(Vec::new(), pin).accepts(&b));
    }

    #[test]
    fn words_are_clean_and_few() {
        let words = ServerWords::default();
        assert_eq!(words.as_clause(), "");
        for text in ["System is \x1b[31mbooting\x1b[0m up.\r\n", "System is booting up.", "a", "b", "c", "d", "e"] {
            words.add(text);
        }
        assert_eq!(words.as_clause(), "; it says: System is booting up.; a; b; c");
    }
}
