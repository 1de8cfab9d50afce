//! What an image is, by its bytes: a name or an address proves nothing.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

/// The first bytes of a qcow2 image.
const QCOW2: &[u8] = b"QFI\xfb";

/// Returns the format of a disk image, as QEMU calls it; the error is a sentence.
pub(super) fn format(path: &Path) -> Result<&'static str, String> {
    let file = open(path).map_err(|e| e.to_string())?;
    let mut head = [0; 4];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) if head == QCOW2 => Ok("qcow2"),
        Ok(()) => Ok("raw"),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err("it is empty, or nearly".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// Opens an image, which may be a disk of this host.
fn open(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path)?.file_type().is_block_device() {
        return std::fs::OpenOptions::new().read(true).open(path);
    }
    vmdeck_files::open(path)
}

/// Checks an image that came over a network; the error is a sentence. A qcow2 may name other files of this host, whose content the
/// guest would then see; and what is no disk at all is told now, and not by a boot that fails.
pub(super) fn check_foreign(path: &Path) -> Result<(), String> {
    let file = open(path).map_err(|e| e.to_string())?;
    let mut head = vec![0; 2048];
    let length = read_up_to(&file, &mut head).map_err(|e| e.to_string())?;
    head.truncate(length);
    if head.starts_with(QCOW2) {
        return check_qcow2(&head);
    }
    let start = String::from_utf8_lossy(&head[..head.len().min(256)]).trim_start().to_ascii_lowercase();
    if start.starts_with('<') {
        return Err("it is a web page, not an image".to_owned());
    }
    let has = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    // A boot sector, a GPT, ext4, XFS; btrfs begins at 64 KiB.
    let mut btrfs = [0; 8];
    let is_btrfs = file.read_exact_at(&mut btrfs, 0x1_0040).is_ok() && &btrfs == b"_BHRfS_M";
    if has(510, &[0x55, 0xaa]) || has(512, b"EFI PART") || has(0x438, &[0x53, 0xef]) || has(0, b"XFSB") || is_btrfs {
        return Ok(());
    }
    Err("it is not a disk image: neither a qcow2 nor a disk with a boot sector, partitions or a file system".to_owned())
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], done as u64)? {
            0 => break,
            length => done += length,
        }
    }
    Ok(done)
}

/// The header of a qcow2 (QEMU: docs/interop/qcow2.txt): the place of a backing file's name at 8, the features that a reader must
/// know at 72, of which bit 2 is a data file of its own.
fn check_qcow2(head: &[u8]) -> Result<(), String> {
    let eight = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let version = head.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    match (version, eight(8), eight(72)) {
        (Some(2 | 3), Some(1..), _) => Err("it is a qcow2 that names another file of this host as its base".to_owned()),
        (Some(3), Some(0), Some(features)) if features & 4 != 0 => {
            Err("it is a qcow2 that keeps its data in another file of this host".to_owned())
        }
        (Some(2), Some(0), _) | (Some(3), Some(0), Some(_)) => Ok(()),
        _ => Err("it is a qcow2 of an unknown version, or cut off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut out = vec![0; 1024];
        out[..4].copy_from_slice(QCOW2);
        out[4..8].copy_from_slice(&version.to_be_bytes());
        out[8..16].copy_from_slice(&backing.to_be_bytes());
        out[72..80].copy_from_slice(&features.to_be_bytes());
        out
    }

    #[test]
    fn what_is_no_image_or_names_files_of_this_host_is_refused() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("image");
        let mut sector = vec![0; 1024];
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (bytes, why) in [
            (qcow2(3, 0, 0), None),
            (qcow2(2, 0, 0), None),
            (sector, None),
            (qcow2(3, 104, 0), Some("names another file")),
            (qcow2(2, 72, 0), Some("names another file")),
            (qcow2(3, 0, 4), Some("keeps its data in another file")),
            (qcow2(9, 0, 0), Some("unknown version")),
            (b"QFI\xfb\0\0".to_vec(), Some("cut off")),
            (b"\n <!DOCTYPE html>".to_vec(), Some("a web page")),
            (vec![0; 4096], Some("not a disk image")),
            (b"#!/bin/sh\n".to_vec(), Some("not a disk image")),
            (Vec::new(), Some("not a disk image")),
        ] {
            std::fs::write(&path, &bytes).expect("written");
            match (check_foreign(&path), why) {
                (Ok(()), None) => {}
                (Err(text), Some(why)) => assert!(text.contains(why), "{text}"),
                (result, why) => panic!("{result:?}, {why:?} for {:?}", &bytes[..bytes.len().min(20)]),
            }
        }
    }
}
