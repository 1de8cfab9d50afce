//! The only home of passwords, and the filter that keeps them out of everything written.
//!
//! Where a secret comes from (environment, file, command) is the config's business.

use secrecy::{ExposeSecret, SecretString};
use std::fmt;

/// A password or passphrase: prints as `***`, cannot be serialised, is wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Makes a secret of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Returns the text itself; only for handing it to the guest over an authenticated channel.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// The shortest secret that is looked for in output, in bytes; a shorter one would blacken half the log.
pub const REDACT_MIN: usize = 6;

/// Replaces secrets in a stream by `***`, also where a chunk border cuts one in two.
///
/// Holds back at most the longest secret less one byte; [`Redactor::finish`] returns the rest.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    secrets: Vec<Secret>,
    longest: usize,
    held: Vec<u8>,
}

impl Redactor {
    /// Returns a filter for these secrets; those under [`REDACT_MIN`] bytes are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut secrets: Vec<Secret> =
            secrets.into_iter().filter(|s| s.expose().len() >= REDACT_MIN).cloned().collect();
        // Longest first: where one secret begins with another, the longer one must win.
        secrets.sort_by_key(|s| std::cmp::Reverse(s.expose().len()));
        let longest = secrets.first().map_or(0, |s| s.expose().len());
        Self { secrets, longest, held: Vec::new() }
    }

    /// Feeds one chunk and returns what can be shown now.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return chunk.to_vec();
        }
        self.held.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        // A place can be judged once the longest secret that might begin there is all in.
        while at + self.longest <= self.held.len() {
            at += self.step(at, &mut out);
        }
        self.held.drain(..at);
        out
    }

    /// Returns the end of the stream: what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            at += self.step(at, &mut out);
        }
        self.held.clear();
        out
    }

    /// Returns a whole text with its secrets replaced.
    pub fn text(&self, text: &str) -> String {
        // Every console line comes through here, and hardly one holds a secret.
        if !self.secrets.iter().any(|secret| text.contains(secret.expose())) {
            return text.to_owned();
        }
        let mut filter = Self { held: Vec::new(), ..self.clone() };
        let mut out = filter.feed(text.as_bytes());
        out.extend(filter.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    fn step(&self, at: usize, out: &mut Vec<u8>) -> usize {
        for secret in &self.secrets {
            let secret = secret.expose().as_bytes();
            if self.held[at..].starts_with(secret) {
                out.extend_from_slice(b"***");
                return secret.len();
            }
        }
        out.push(self.held[at]);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(redactor: &Redactor, parts: &[&[u8]]) -> String {
        let mut filter = redactor.clone();
        let mut out = Vec::new();
        for part in parts {
            out.extend(filter.feed(part));
        }
        out.extend(filter.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter22");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }

    #[test]
    fn a_secret_is_found_wherever_chunks_are_cut() {
        let redactor = Redactor::new(&[Secret::new("hunter22"), Secret::new("hunter22-long")]);
        let text = b"a hunter22 b hunter22-long c hunter2";
        for first in 0..text.len() {
            for second in first..text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(through(&redactor, &parts), "a *** b *** c hunter2");
            }
        }
    }

    #[test]
    fn short_secrets_do_not_blacken_the_log() {
        let redactor = Redactor::new(&[Secret::new("a"), Secret::new("")]);
        assert_eq!(redactor.text("banana"), "banana");
    }
}
