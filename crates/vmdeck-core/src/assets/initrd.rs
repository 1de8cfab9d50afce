//! The initial RAM disk of a guest that boots from a folder of this host: our own program as its init, the libraries that it
//! needs, the modules, and what the init has to do.
//!
//! The form is cpio's "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), not compressed: reading it costs
//! less than unpacking it.

use super::own_program;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    path::Path,
};
use vmdeck_guest::{
    PROGRAM,
    setup::{FILE, GuestSetup, MODULES},
};

/// A module: its file name without a compression's, and its bytes.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Writes the initial RAM disk to a file. `before` is one of the user's that comes first: what is in ours replaces what is in it.
pub(crate) fn write(to: &Path, before: Option<&Path>, setup: &GuestSetup, modules: &[Module]) -> io::Result<()> {
    let mut out = io::BufWriter::new(vmdeck_files::create(to)?);
    if let Some(before) = before {
        let length = io::copy(&mut vmdeck_files::open(before)?, &mut out)?;
        pad(&mut out, length)?;
    }
    let mut archive = Archive { out, folders: BTreeSet::new(), next: 1 };
    archive.device("dev/console", 5, 1)?;
    archive.device("dev/null", 1, 3)?;
    for (path, bytes) in own_program::files(PROGRAM)? {
        archive.file(&path, 0o755, &bytes)?;
    }
    for module in modules {
        archive.file(&format!("{MODULES}/{}", module.name), 0o644, &module.bytes)?;
    }
    let json = serde_json::to_vec(setup).map_err(io::Error::other)?;
    archive.file(FILE, 0o644, &json)?;
    archive.end()
}

fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let rest = (4 - length % 4) % 4;
    out.write_all(&[0; 4][..usize::try_from(rest).unwrap_or(0)])
}

/// An archive that is being written.
struct Archive<W> {
    out: W,
    folders: BTreeSet<String>,
    next: u32,
}

/// What a member is, as the high bits of its mode.
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.folders_of(path)?;
        self.member(path, REGULAR | mode, (0, 0), bytes)
    }

    fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.folders_of(path)?;
        self.member(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    fn folders_of(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            if self.folders.insert(path[..end].to_owned()) {
                self.member(&path[..end], FOLDER | 0o755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        // Number, mode, user, group, links, time, size, device of the file, device that it is, length of the name, no checksum.
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.next, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0];
        self.next += 1;
        let mut head = String::from("070701");
        head.extend(fields.iter().map(|field| format!("{field:08x}")));
        self.out.write_all(head.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        pad(&mut self.out, (head.len() + path.len() + 1) as u64)?;
        self.out.write_all(bytes)?;
        pad(&mut self.out, bytes.len() as u64)
    }
}

impl Archive<io::BufWriter<File>> {
    fn end(mut self) -> io::Result<()> {
        self.member("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_what_is_written() {
        let home = tempfile::tempdir().expect("tempdir");
        let (file, before) = (home.path().join("initrd"), home.path().join("before"));
        std::fs::write(&before, "12345").expect("written");
        let modules = [Module { name: "virtio.ko".into(), bytes: b"odd".to_vec() }];
        write(&file, None, &GuestSetup { hostname: "h".into(), ..GuestSetup::default() }, &modules).expect("written");
        let mut list = Command::new("cpio");
        list.args(["-itv", "--quiet"]).stdin(File::open(&file).expect("open")).stderr(Stdio::inherit());
        let out = list.output().expect("cpio is there");
        assert!(out.status.success());
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        for part in ["dev/console", "modules/virtio.ko", "vmdeck.json", PROGRAM] {
            assert!(text.lines().any(|line| line.ends_with(part)), "{part} in {text}");
        }
        assert!(text.lines().any(|line| line.starts_with("crw-") && line.contains("5,   1")), "{text}");
        // What comes before ours begins at a multiple of four, as a second archive has to.
        write(&file, Some(&before), &GuestSetup::default(), &[]).expect("written");
        assert_eq!(&std::fs::read(&file).expect("read")[..14], b"12345\0\0\x00070701");
    }
}
