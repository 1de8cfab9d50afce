//! Files that are mostly holes, such as the memory of a machine: copied and summed up without what is zero.

use rustix::{
    fs::SeekFrom,
    io::{Errno, pread},
};
use std::{fs::File, io, os::unix::fs::FileExt};

/// How many bytes are looked at together: what is zero as a whole becomes a hole.
const PIECE: u64 = 256 << 10;

/// Copies a file into an empty one that is not open for appending, holes as holes.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    pieces(from, |at, bytes| to.write_all_at(bytes, at))
}

/// Returns a sum over all that is not zero in a file, and where it stands. It finds what is torn or decayed; it is no proof against a
/// person.
pub fn checksum(file: &File) -> io::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    pieces(file, |at, bytes| {
        sum.update(&at.to_le_bytes());
        sum.update(bytes);
        Ok(())
    })?;
    Ok(sum.finalize())
}

/// Hands on each piece of a file that is not zero, from its beginning to its end.
fn pieces(file: &File, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or_default()];
    let mut at = 0;
    while at < length {
        // On the grid, however the file system cuts its holes: the same content has the same sum.
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(next) => (next / PIECE * PIECE).max(at),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => at,
            Err(e) => return Err(e.into()),
        };
        let wanted = usize::try_from(PIECE.min(length - at)).unwrap_or_default();
        let mut filled = 0;
        while filled < wanted {
            match pread(file, &mut buffer[filled..wanted], at + filled as u64)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
                count => filled += count,
            }
        }
        if buffer[..wanted].iter().any(|byte| *byte != 0) {
            take(at, &buffer[..wanted])?;
        }
        at += PIECE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{io::Seek, os::unix::fs::MetadataExt};

    fn file(length: u64, written: &[(u64, u8)]) -> File {
        let file = tempfile::tempfile().expect("file");
        file.set_len(length).expect("length");
        for (at, byte) in written {
            file.write_all_at(&[*byte], at % length).expect("write");
        }
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_copy_is_the_same_and_no_larger(
            length in 1u64..3_000_000,
            written in prop::collection::vec((0u64..3_000_000, any::<u8>()), 0..8),
        ) {
            let (from, to) = (file(length, &written), tempfile::tempfile().expect("file"));
            copy(&from, &to).expect("copied");
            let whole = |mut file: &File| {
                file.rewind().expect("rewound");
                vmdeck_files::read_open(file, u64::MAX >> 1).expect("read")
            };
            prop_assert!(whole(&from) == whole(&to));
            prop_assert_eq!(checksum(&from).expect("sum"), checksum(&to).expect("sum"));
            prop_assert!(to.metadata().expect("about").blocks() * 512 <= (written.len() as u64 + 1) * PIECE);
        }
    }

    #[test]
    fn what_stands_elsewhere_has_another_sum() {
        let sum = |written: &[(u64, u8)]| checksum(&file(4 << 20, written)).expect("sum");
        assert_ne!(sum(&[(5, 1)]), sum(&[(5 + PIECE, 1)]), "moved by a whole piece");
        assert_ne!(sum(&[(5, 1)]), sum(&[(5, 2)]));
        assert_eq!(sum(&[]), sum(&[(5, 0)]), "a written zero is no content");
    }
}
