//! The digest by which an image is known: SHA-256 or SHA-512.

use std::fmt;

/// Returns bytes as hexadecimal digits in lower case, two for each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest, as hexadecimal digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Reads a digest; its length tells its kind. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let text = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha512:")).unwrap_or(&text);
        if !matches!(text.len(), 64 | 128) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a digest has 64 (SHA-256) or 128 (SHA-512) hexadecimal digits".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the digest whose bytes these are: 32 or 64.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(hex(bytes))
    }

    /// Returns the name of the file that is known by this digest.
    pub fn file_name(&self) -> String {
        format!("{}-{}", self.kind(), self.0)
    }

    /// Reads the name of a file that is known by its digest.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (kind, hex) = name.split_once('-')?;
        Self::parse(hex).ok().filter(|digest| digest.kind() == kind)
    }

    /// Returns the word for the function that made it.
    pub fn kind(&self) -> &'static str {
        if self.0.len() == 64 { "sha256" } else { "sha512" }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_tells_the_kind_and_anything_else_is_refused() {
        let (short, long) = ("AB".repeat(32), "cd".repeat(64));
        assert_eq!(Digest::parse(&short).expect("sha256").to_string(), format!("sha256:{}", "ab".repeat(32)));
        let digest = Digest::parse(&format!(" sha512:{long}\n")).expect("sha512");
        assert_eq!(Digest::of_file_name(&digest.file_name()), Some(digest));
        for text in ["", "ab", &"zz".repeat(32), &"ab".repeat(33), "<html>"] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
        assert_eq!(Digest::of_file_name(&format!("sha512-{}", "ab".repeat(32))), None);
    }
}
