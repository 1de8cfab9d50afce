//! Computes digests, of bytes that come and of files.

use crate::host::files;
use sha2::{Digest as _, Sha256, Sha512};
use std::{fs::File, io, path::Path};
use vmdeck_model::digest::Digest;

/// Computes a digest of the same kind as the one that is expected; SHA-256 where none is.
pub(super) enum Hasher {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(super) fn like(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::kind) {
            Some("sha512") => Hasher::Sha512(Box::default()),
            _ => Hasher::Sha256(Box::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::of_bytes(&hasher.finalize()),
            Hasher::Sha512(hasher) => Digest::of_bytes(&hasher.finalize()),
        }
    }
}

/// Returns the digest of a file.
pub(super) fn of_file(path: &Path, like: Option<&Digest>) -> io::Result<Digest> {
    let mut file: File = vmdeck_files::open(path)?;
    let mut hasher = Hasher::like(like);
    files::read_pieces(&mut file, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}
