//! A plain ISO 9660 volume (ECMA-119) with a few files in its root folder. Linux shows their names in lower case and without a version,
//! so that neither Rock Ridge nor Joliet is needed.

use std::collections::BTreeMap;

const SECTOR: usize = 2048;
/// The sectors of the volume's parts; files follow the folder.
const DESCRIPTOR: usize = 16;
const END: usize = 17;
const PATHS: [usize; 2] = [18, 19];
const FOLDER: usize = 20;
/// A fixed date, 2026-01-01: the same content gives the same bytes.
const DATE: [u8; 7] = [126, 1, 1, 0, 0, 0, 0];

/// Returns a volume with this label and these files.
pub(super) fn volume(label: &str, files: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    let mut at = FOLDER + 1;
    let placed: Vec<(&str, usize, &[u8])> = files
        .iter()
        .map(|(name, content)| {
            let start = at;
            at += content.len().div_ceil(SECTOR).max(1);
            (*name, start, content.as_slice())
        })
        .collect();
    let folder = |name: u8| record(&[name], FOLDER, SECTOR, true);
    let mut listing = [folder(0), folder(1)].concat();
    for (name, start, content) in &placed {
        let name = format!("{}.;1", name.to_ascii_uppercase());
        listing.extend(record(name.as_bytes(), *start, content.len(), false));
    }
    let mut out = vec![0; at * SECTOR];
    let mut put =
        |sector: usize, bytes: &[u8]| out[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
    put(DESCRIPTOR, &descriptor(label, at));
    put(END, b"\xffCD001\x01");
    let four = u32::try_from(FOLDER).unwrap_or(0);
    put(PATHS[0], &[&[1, 0][..], &four.to_le_bytes(), &1u16.to_le_bytes(), &[0, 0]].concat());
    put(PATHS[1], &[&[1, 0][..], &four.to_be_bytes(), &1u16.to_be_bytes(), &[0, 0]].concat());
    put(FOLDER, &listing);
    for (_, start, content) in &placed {
        put(*start, content);
    }
    out
}

/// Returns the volume's descriptor.
fn descriptor(label: &str, sectors: usize) -> Vec<u8> {
    let text = |text: &str, length: usize| {
        let mut out = text.as_bytes().to_vec();
        out.resize(length, b' ');
        out
    };
    let one = both16(1);
    let mut out = b"\x01CD001\x01\0".to_vec();
    out.extend(text("LINUX", 32));
    out.extend(text(label, 32));
    out.extend([0; 8]);
    out.extend(both32(sectors));
    out.extend([0; 32]);
    out.extend([one, one, both16(2048)].concat());
    out.extend(both32(10));
    let place = |sector: usize| u32::try_from(sector).unwrap_or(0);
    out.extend(place(PATHS[0]).to_le_bytes());
    out.extend([0; 4]);
    out.extend(place(PATHS[1]).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], FOLDER, SECTOR, true));
    out.extend(text("", 4 * 128 + 3 * 37));
    for date in ["2026010100000000", "2026010100000000", "0000000000000000", "0000000000000000"] {
        out.extend(date.as_bytes());
        out.push(0);
    }
    out.extend([1, 0]);
    out
}

/// Returns the entry of a file or folder.
fn record(name: &[u8], start: usize, size: usize, is_folder: bool) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(both32(start));
    body.extend(both32(size));
    body.extend(DATE);
    body.extend([if is_folder { 2 } else { 0 }, 0, 0]);
    body.extend(both16(1));
    body.push(u8::try_from(name.len()).unwrap_or(0));
    body.extend(name);
    if name.len().is_multiple_of(2) {
        body.push(0);
    }
    let length = u8::try_from(body.len() + 1).unwrap_or(0);
    body.insert(0, length);
    body
}

/// Returns a number in both orders of its bytes, as the format has it.
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn both32(number: usize) -> [u8; 8] {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let mut out = [0; 8];
    out[..4].copy_from_slice(&number.to_le_bytes());
    out[4..].copy_from_slice(&number.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::Command;

    #[test]
    fn others_read_it_as_a_volume_with_these_files() {
        let files = BTreeMap::from([
            ("meta-data", b"{}\n".to_vec()),
            ("network-config", Vec::new()),
            ("user-data", b"#cloud-config\n".repeat(1000)),
        ]);
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("seed.iso");
        let bytes = volume("cidata", &files);
        std::fs::write(&path, &bytes).expect("written");
        let out = Command::new("/sbin/blkid").arg("-p").arg(&path).output().expect("blkid runs");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("LABEL=\"cidata\"") && said.contains("TYPE=\"iso9660\""), "{said}");
        // Where the folder says that a file is, it is.
        let user = &bytes[(FOLDER + 3) * SECTOR..][..14_000];
        assert_eq!(user, b"#cloud-config\n".repeat(1000));
        assert_eq!(bytes, volume("cidata", &files), "the same content gives the same bytes");
    }
}
