//! Compressed bytes, told apart by their first ones: gzip, xz, zstd, and LZ4 as the Linux kernel writes it.
//!
//! What comes out has a limit: a few bytes may stand for very many.

use std::{
    borrow::Cow,
    io::{self, Read},
};

/// The first bytes of each format.
const GZIP: &[u8] = b"\x1f\x8b";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const LZ4_LEGACY: &[u8] = b"\x02\x21\x4c\x18";
/// The most bytes that one block of legacy LZ4 stands for.
const LZ4_BLOCK: usize = 8 << 20;

/// Returns the bytes as they were before they were compressed; other bytes are returned as they are. What follows the end of the
/// compressed ones is passed over.
pub(crate) fn decode(bytes: &[u8], limit: usize) -> io::Result<Cow<'_, [u8]>> {
    let decoded = if bytes.starts_with(GZIP) {
        read_up_to(flate2::read::GzDecoder::new(bytes), limit)
    } else if bytes.starts_with(XZ) {
        read_up_to(liblzma::read::XzDecoder::new(bytes), limit)
    } else if bytes.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(io::Error::other)?;
        read_up_to(decoder, limit)
    } else if bytes.starts_with(LZ4_LEGACY) {
        lz4_legacy(&bytes[LZ4_LEGACY.len()..], limit)
    } else {
        return Ok(Cow::Borrowed(bytes));
    };
    decoded.map(Cow::Owned)
}

fn read_up_to(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out) }
}

fn too_large(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB when unpacked", limit >> 20))
}

/// Blocks, each after its length in four bytes; a length that cannot be one ends them.
fn lz4_legacy(mut rest: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some(block) = after.get(..length).filter(|block| !block.is_empty()) else { break };
        out.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(io::Error::other)?);
        if out.len() > limit {
            return Err(too_large(limit));
        }
        rest = &after[length..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).expect("memory");
        out.finish().expect("memory")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
        out.write_all(bytes).expect("memory");
        out.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_vec();
        for block in bytes.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            out.extend(u32::try_from(block.len()).expect("short").to_le_bytes());
            out.extend(block);
        }
        out
    }

    #[test]
    fn each_format_comes_out_as_it_went_in_and_has_a_limit() {
        let text = b"CONFIG_OVERLAY_FS=m\n".repeat(1000);
        for (name, packed) in [("gzip", gzip(&text)), ("xz", xz(&text)), ("zstd", zstd(&text)), ("lz4", lz4(&text))] {
            assert_eq!(decode(&packed, 1 << 20).expect(name), text, "{name}");
            // As the kernel's build leaves it: with the size behind it.
            let padded = [&packed[..], &[0x20, 0x4e, 0, 0]].concat();
            assert_eq!(decode(&padded, 1 << 20).expect(name), text, "{name} with a tail");
            let why = decode(&packed, 1000).expect_err(name).to_string();
            assert!(why.contains("larger than"), "{name}: {why}");
        }
        assert_eq!(decode(b"plain", 1000).expect("plain"), &b"plain"[..]);
    }

    proptest! {
        #[test]
        fn noise_behind_the_first_bytes_is_an_error_and_never_a_panic(
            kind in 0usize..4,
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let head = [GZIP, XZ, ZSTD, LZ4_LEGACY][kind];
            let _ = decode(&[head, &noise].concat(), 1 << 16);
        }
    }
}
