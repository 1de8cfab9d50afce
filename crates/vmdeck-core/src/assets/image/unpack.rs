//! Compressed images: unpacked as a stream, with holes where there are only zeros, up to a limit.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// Piece that is looked at for zeros, in bytes.
const BLOCK: usize = 64 * 1024;

/// Unpacks a file, if it is compressed, to another one; returns whether it was. `limit` bytes are the most that may come out.
pub(super) fn unpack(from: &Path, to: &Path, limit: u64) -> io::Result<bool> {
    let mut head = [0; 6];
    let mut file = vmdeck_files::open(from)?;
    let length = file.read(&mut head)?;
    file.rewind()?;
    let reader = BufReader::with_capacity(1 << 20, file);
    let mut stream: Box<dyn Read> = match &head[..length] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        b"\xfd7zXZ\0" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(reader).map_err(io::Error::other)?)
        }
        _ => return Ok(false),
    };
    write_sparse(&mut *stream, &vmdeck_files::create(to)?, limit)?;
    Ok(true)
}

fn write_sparse(stream: &mut dyn Read, mut to: &File, limit: u64) -> io::Result<()> {
    let (mut block, mut size) = (vec![0; BLOCK], 0u64);
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match stream.read(&mut block[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        if filled == 0 {
            break;
        }
        size += filled as u64;
        if size > limit {
            let why = format!("it is larger than {} when unpacked, which is more than there is room for", limit >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why + " MiB"));
        }
        if block[..filled].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(filled).unwrap_or(0)))?;
        } else {
            to.write_all(&block[..filled])?;
        }
    }
    to.set_len(size)?;
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_whole_sparse_and_limited() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().expect("tempdir");
        let (packed, out) = (home.path().join("a.gz"), home.path().join("a"));
        let mut content = vec![0; 8 << 20];
        content[5 << 20..][..4].copy_from_slice(b"data");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).expect("memory");
        std::fs::write(&packed, gzip.finish().expect("memory")).expect("written");
        assert!(unpack(&packed, &out, 8 << 20).expect("unpacked"));
        assert!(std::fs::read(&out).expect("read") == content);
        assert!(std::fs::metadata(&out).expect("meta").blocks() * 512 < 1 << 20, "zeros are holes");
        let bomb = unpack(&packed, &out, 1 << 20).expect_err("too large");
        assert!(bomb.to_string().contains("larger than"), "{bomb}");
        std::fs::write(&packed, b"plain").expect("written");
        assert!(!unpack(&packed, &out, 1 << 20).expect("it is not compressed"));
        std::fs::write(&packed, b"\x1f\x8bnoise").expect("written");
        assert!(unpack(&packed, &out, 1 << 20).is_err());
    }
}
