//! A kernel's file: whether it is one that QEMU can start, and its version.
//!
//! The forms: Linux's x86 boot protocol (Documentation/arch/x86/boot.rst), arm64's Image, and ELF.

use super::super::{compressed, elf};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// Piece of a file that is looked through at a time, in bytes.
const PIECE: usize = 1 << 20;
/// Longest text that is looked for, in bytes: pieces overlap by it.
const OVERLAP: usize = 256;
/// Longest compressed kernel, in bytes.
const PAYLOAD_MAX: u64 = 256 << 20;
/// Longest kernel, in bytes, when it is unpacked.
pub(super) const KERNEL_MAX: usize = 1 << 30;

/// What a kernel's file tells.
pub(super) struct KernelImage {
    /// The version, as `uname -r` says it.
    pub(super) version: Option<String>,
}

/// Reads what a kernel's file tells; the error says why it is none.
pub(super) fn read(path: &Path) -> Result<KernelImage, String> {
    let file = vmdeck_files::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let mut head = [0; 0x250];
    file.read_exact_at(&mut head, 0).map_err(|_| "it is too short to be a kernel".to_owned())?;
    if is_bzimage(&head) {
        let end = payload_place(&head).1;
        if end > size {
            return Err(format!("it is cut off: {size} bytes of at least {end}"));
        }
        return Ok(KernelImage { version: bzimage_version(&file, &head) });
    }
    if head.starts_with(b"\x7fELF") || head[0x38..].starts_with(b"ARM\x64") {
        let version = search(&file, b"Linux version ").map_err(|e| e.to_string())?.and_then(|text| first_word(&text));
        return Ok(KernelImage { version });
    }
    Err("it is not a kernel: neither a bzImage nor a vmlinux".to_owned())
}

fn is_bzimage(head: &[u8]) -> bool {
    head[0x202..].starts_with(b"HdrS")
}

/// Returns the version that a bzImage's header leads to: a place after the first sector, a text up to a NUL.
fn bzimage_version(file: &File, head: &[u8]) -> Option<String> {
    let at = u64::from(u16::from_le_bytes([head[0x20e], head[0x20f]])) + 0x200;
    let mut text = [0; 128];
    file.read_exact_at(&mut text, at).ok()?;
    first_word(&text)
}

/// Returns where the compressed kernel of a bzImage begins and ends.
fn payload_place(head: &[u8]) -> (u64, u64) {
    let four = |at: usize| u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    // 0 setup sectors mean 4.
    let setup = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let start = (setup + 1) * 512 + four(0x248);
    (start, start + four(0x24c))
}

fn first_word(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|byte| *byte == 0 || byte.is_ascii_whitespace())?;
    let word = std::str::from_utf8(&text[..end]).ok()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
    (!word.is_empty() && word.chars().all(is_plain)).then(|| word.to_owned())
}

/// Returns what follows the first place of these bytes in a kernel: in the file itself, or in what is compressed in it. At most
/// [`OVERLAP`] bytes of it for a file that is not compressed.
pub(super) fn find_inside(path: &Path, wanted: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let file = vmdeck_files::open(path)?;
    let mut head = [0; 0x250];
    file.read_exact_at(&mut head, 0)?;
    if !is_bzimage(&head) {
        return tail_of(&file, wanted);
    }
    let kernel = unpacked(&file, &head)?;
    Ok(memchr::memmem::find(&kernel, wanted).map(|at| kernel[at + wanted.len()..].to_vec()))
}

fn unpacked(file: &File, head: &[u8]) -> io::Result<Vec<u8>> {
    let (start, end) = payload_place(head);
    let length = end.saturating_sub(start).min(PAYLOAD_MAX);
    let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut payload, start)?;
    compressed::decode(&payload, KERNEL_MAX).map(Cow::into_owned)
}

/// Returns the kernel that is compressed in a bzImage, if it can be started without being unpacked by itself first.
pub(super) fn unpacked_with_entry(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = vmdeck_files::open(path)?;
    let mut head = [0; 0x250];
    file.read_exact_at(&mut head, 0)?;
    if !is_bzimage(&head) {
        return Ok(None);
    }
    unpacked(&file, &head).map(|kernel| Some(kernel).filter(|kernel| elf::has_pvh_entry(kernel)))
}

/// Returns up to 16 MiB of what follows the first place of these bytes in a file.
fn tail_of(file: &File, wanted: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some(at) = place_of(file, wanted)? else { return Ok(None) };
    let mut out = Vec::new();
    let mut rest = At { file, at: at + wanted.len() as u64 };
    rest.by_ref().take(16 << 20).read_to_end(&mut out)?;
    Ok(Some(out))
}

/// Returns what follows the first place of these bytes in a file, [`OVERLAP`] bytes or less.
fn search(file: &File, wanted: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some(at) = place_of(file, wanted)? else { return Ok(None) };
    let mut out = Vec::new();
    At { file, at: at + wanted.len() as u64 }.take(OVERLAP as u64).read_to_end(&mut out)?;
    Ok(Some(out))
}

/// Returns the first place of these bytes in a file, which may be too large for the memory.
fn place_of(file: &File, wanted: &[u8]) -> io::Result<Option<u64>> {
    let mut from = At { file, at: 0 };
    let (mut piece, mut start) = (Vec::new(), 0);
    loop {
        let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if let Some(at) = memchr::memmem::find(&piece, wanted) {
            return Ok(Some(start + at as u64));
        }
        if read == 0 {
            return Ok(None);
        }
        let passed = piece.len().saturating_sub(wanted.len());
        piece.drain(..passed);
        start += passed as u64;
    }
}

/// Reads a file from a place on.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
