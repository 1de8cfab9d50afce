//! Random numbers that nobody can guess, from the system's own source: names, ids and marks are proofs.
//!
//! What need not be secret, such as the jitter of a pause, may come from anywhere.

fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // Every system that vmdeck runs on has such a source; a program without one must not go on with marks that can be guessed.
    getrandom::fill(&mut out).unwrap_or_else(|e| panic!("the system has no random numbers: {e}"));
    out
}

/// Returns 32 random bits.
pub fn u32() -> u32 {
    u32::from_ne_bytes(bytes())
}

/// Returns 64 random bits.
pub fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// Returns 128 random bits.
pub fn u128() -> u128 {
    u128::from_ne_bytes(bytes())
}

/// Returns a random UUID of version 4.
pub fn uuid() -> String {
    let bits = (u128() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_have_their_form() {
        for _ in 0..100 {
            let uuid = super::uuid();
            let bytes = uuid.as_bytes();
            assert_eq!((uuid.len(), bytes[14]), (36, b'4'));
            assert!(b"89ab".contains(&bytes[19]), "{uuid}");
        }
    }
}
