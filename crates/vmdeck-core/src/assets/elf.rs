//! The parts of a program file in the format ELF (elf(5)), of 64 bits and little-endian: enough to tell what is loaded, and by what.

use std::io;

/// A part of a program that is loaded.
pub(super) const LOAD: u32 = 1;
/// The path of the program's loader.
pub(super) const INTERPRETER: u32 = 3;
/// Notes for whoever starts the program.
pub(super) const NOTE: u32 = 4;

/// A part of a program file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramPart {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Returns the parts of a program; `read` fills a buffer from a place of its file.
pub(super) fn segments(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Vec<ProgramPart>> {
    let mut head = [0; 64];
    read(&mut head, 0)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not in the format ELF"));
    }
    let two = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (table, size, count) = (eight(&head, 32), two(54), two(56));
    (0..count)
        .map(|index| {
            let mut entry = [0; 56];
            read(&mut entry, table.saturating_add(index * size))?;
            let kind = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            Ok(ProgramPart { kind, offset: eight(&entry, 8), length: eight(&entry, 32) })
        })
        .collect()
}

fn eight(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns whether a program in memory has the note by which a virtual machine can start a Linux kernel that is not compressed
/// (`XEN_ELFNOTE_PHYS32_ENTRY`, of kernels with `CONFIG_PVH`).
pub(super) fn has_pvh_entry(bytes: &[u8]) -> bool {
    let slice = |offset: u64, length: u64| {
        let start = usize::try_from(offset).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    let read = |buffer: &mut [u8], at| match slice(at, buffer.len() as u64) {
        Some(part) => {
            buffer.copy_from_slice(part);
            Ok(())
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    let notes = segments(read).unwrap_or_default().into_iter().filter(|segment| segment.kind == NOTE);
    notes.filter_map(|segment| slice(segment.offset, segment.length)).any(|notes| {
        // Each: length of the name, length of the content, kind; then both, each up to a multiple of four.
        let mut rest = notes;
        while let Some((head, after)) = rest.split_first_chunk::<12>() {
            let four = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
            let (name, content, kind) = (four(0), four(4), four(8));
            if kind == 18 && after.starts_with(b"Xen\0") {
                return true;
            }
            let Some(next) = name.next_multiple_of(4).checked_add(content.next_multiple_of(4)) else { return false };
            let Some(next) = after.get(next..) else { return false };
            rest = next;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A program with one part of notes.
    fn program(notes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 64 + 56];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[32] = 64;
        out[54] = 56;
        out[56] = 1;
        out[64] = 4;
        out[72] = 120;
        out[96] = u8::try_from(notes.len()).expect("short");
        out.extend(notes);
        out
    }

    fn note(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
        let mut out = vec![length(name), 0, 0, 0, length(content), 0, 0, 0, kind, 0, 0, 0];
        for part in [name, content] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn the_note_is_found_behind_others_and_by_its_name() {
        let check = |notes: &[Vec<u8>], found| assert_eq!(has_pvh_entry(&program(&notes.concat())), found, "{notes:?}");
        check(&[], false);
        check(&[note(b"Xen\0", 6, b"linux\0"), note(b"Xen\0", 18, &[1; 8])], true);
        check(&[note(b"GNU\0", 18, &[1; 8])], false);
        check(&[note(b"Xen\0", 6, &[1; 3])], false);
        assert!(!has_pvh_entry(b"text"));
    }

    proptest! {
        #[test]
        fn notes_that_make_no_sense_are_never_a_panic(notes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = has_pvh_entry(&program(&notes));
        }
    }
}
