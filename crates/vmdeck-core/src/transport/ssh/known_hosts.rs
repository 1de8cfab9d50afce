//! The user's own stores of host keys, read where the config asks for that; never written.
//!
//! The format is OpenSSH's (its manual page sshd(8) describes it): patterns, hashed names, ports in brackets, withdrawn keys.
//! Keys of authorities are passed over.

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::{
    PublicKey,
    ssh_key::known_hosts::{Entry, HostPatterns, KnownHosts, Marker},
};
use sha1::Sha1;
use std::path::PathBuf;

/// Returns the keys that stores have for a host, without those that any of them withdraws. A line that cannot be read is passed over,
/// as OpenSSH does; the error is a sentence.
pub(super) fn keys(stores: &[PathBuf], host: &str, port: u16) -> Result<Vec<PublicKey>, String> {
    let mut text = String::new();
    for store in stores {
        text += &vmdeck_files::read_text(store, vmdeck_files::LARGE)
            .map_err(|e| format!("cannot read the known hosts in `{}`: {e}", store.display()))?;
        text.push('\n');
    }
    Ok(keys_in(&text, host, port))
}

/// Returns those of a host in the text of stores.
fn keys_in(text: &str, host: &str, port: u16) -> Vec<PublicKey> {
    let name = name_of(host, port);
    // Each line by itself: one that is broken ends the whole reader.
    let entries = text.lines().filter_map(|line| KnownHosts::new(line).next()?.ok());
    let all: Vec<Entry> = entries.filter(|entry| is_for(entry.host_patterns(), &name)).collect();
    let withdrawn: Vec<&PublicKey> =
        all.iter().filter(|entry| entry.marker() == Some(&Marker::Revoked)).map(Entry::public_key).collect();
    let good = |entry: &&Entry| {
        entry.marker().is_none() && !withdrawn.iter().any(|key| key.key_data() == entry.public_key().key_data())
    };
    all.iter().filter(good).map(|entry| entry.public_key().clone()).collect()
}

/// Returns a host as the store names it.
fn name_of(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn is_for(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::Patterns(all) => {
            let fits = |pattern: &str| is_match(pattern.to_lowercase().as_bytes(), name.as_bytes());
            // One that is excluded is excluded, whatever else fits.
            let is_excluded = all.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(fits);
            !is_excluded && all.iter().filter(|pattern| !pattern.starts_with('!')).any(|pattern| fits(pattern))
        }
        HostPatterns::HashedName { salt, hash } => match Hmac::<Sha1>::new_from_slice(salt) {
            Ok(mac) => mac.chain_update(name).verify_slice(hash).is_ok(),
            Err(_) => false,
        },
    }
}

/// Returns whether a name fits a pattern of `*` and `?`.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    #[test]
    fn a_host_is_found_as_openssh_finds_it() {
        // `ssh-keygen -H` made this of `lab.example`.
        let hashed = hashed("lab.example");
        for (lines, host, port, count) in [
            (format!("lab.example {A}"), "lab.example", 22, 1),
            (format!("lab.example {A}"), "LAB.example", 22, 1),
            (format!("lab.example {A}"), "lab.example", 2222, 0),
            (format!("[lab.example]:2222 {A}"), "lab.example", 2222, 1),
            (format!("a,lab.*,10.0.0.1 {A}"), "lab.example", 22, 1),
            (format!("*.example,!lab.example {A}"), "lab.example", 22, 0),
            (format!("la?.example {A}\nother {B}"), "lab.example", 22, 1),
            (format!("lab.example {A}\nlab.example {B}"), "lab.example", 22, 2),
            (format!("lab.example {A}\n@revoked * {A}\nlab.example {B}"), "lab.example", 22, 1),
            (format!("@cert-authority * {A}"), "lab.example", 22, 0),
            (format!("{hashed} {A}"), "lab.example", 22, 1),
            (format!("{hashed} {A}"), "lab.example.org", 22, 0),
            (format!("broken\n# {A}\n\nlab.example {A} comment"), "lab.example", 22, 1),
        ] {
            assert_eq!(keys_in(&lines, host, port).len(), count, "{lines}: {host}:{port}");
        }
        assert!(keys(&["/nonexistent".into()], "h", 22).expect_err("no store").contains("/nonexistent"));
    }

    /// Returns a name as OpenSSH hashes it, with a fixed salt.
    fn hashed(name: &str) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let salt = [7u8; 20];
        let hash = Hmac::<Sha1>::new_from_slice(&salt).expect("key").chain_update(name).finalize().into_bytes();
        format!("|1|{}|{}", BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(hash))
    }
}
