//! Shows a folder read-only to one program, in mounts of its own: for a server that has no such switch itself.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
};

/// The hidden subcommand of the vmdeck binary that does it; see [`exec_read_only`]. It needs mounts of its own around it.
pub const READ_ONLY: &str = "__read-only";

/// Mounts the folder `from`, with everything that is mounted in it, read-only at `to`, and becomes the program. Returns only on
/// failure.
#[cfg(target_os = "linux")]
pub fn exec_read_only(from: &Path, to: &Path, program: &OsStr, args: &[OsString]) -> io::Error {
    match mount_read_only(from, to) {
        Ok(()) => super::process::exec(program, args),
        Err(e) => io::Error::new(e.kind(), format!("cannot mount `{}` read-only: {e}", from.display())),
    }
}

/// Fails: only Linux has mounts of one program's own.
#[cfg(not(target_os = "linux"))]
pub fn exec_read_only(_: &Path, _: &Path, _: &OsStr, _: &[OsString]) -> io::Error {
    io::ErrorKind::Unsupported.into()
}

#[cfg(target_os = "linux")]
fn mount_read_only(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind_recursive, mount_change, mount_remount};
    // Nothing of this is seen by anybody else.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind_recursive(from, to)?;
    // A read-only mount says nothing about those in it: each of them is changed.
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for (point, flags) in mounts_below(&table, to) {
        let mut keep = MountFlags::BIND | MountFlags::RDONLY;
        for (word, flag) in
            [("nosuid", MountFlags::NOSUID), ("nodev", MountFlags::NODEV), ("noexec", MountFlags::NOEXEC)]
        {
            // Who may not take such a flag away must name it.
            keep.set(flag, flags.split(',').any(|given| given == word));
        }
        mount_remount(&point, keep, "")?;
    }
    Ok(())
}

/// Returns the places of the mounts at and below a folder, and their flags, from a table as proc(5) describes it.
#[cfg(target_os = "linux")]
fn mounts_below<'a>(table: &'a str, folder: &Path) -> Vec<(std::path::PathBuf, &'a str)> {
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let point = unescaped(fields.nth(4)?);
            point.starts_with(folder).then_some((point, fields.next()?))
        })
        .collect()
}

/// Returns a path as it is: the table has blanks, tabs, line ends and backslashes as three octal digits.
#[cfg(target_os = "linux")]
fn unescaped(field: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut out, mut rest) = (Vec::new(), field.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| *byte == b'\\');
        let code = digits.and_then(|three| u8::from_str_radix(std::str::from_utf8(three).ok()?, 8).ok());
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(out).into()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_with_their_flags_and_blanks() {
        let table = "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                     30 22 0:21 / /m/ro rw - ext4 /dev/vda rw\n\
                     31 30 0:22 / /m/ro/a\\040b rw,nosuid,nodev - tmpfs x rw\n\
                     32 22 0:23 / /m/rover rw - tmpfs x rw\n";
        let found = mounts_below(table, Path::new("/m/ro"));
        let found: Vec<(&str, &str)> =
            found.iter().map(|(path, flags)| (path.to_str().expect("text"), *flags)).collect();
        assert_eq!(found, [("/m/ro", "rw"), ("/m/ro/a b", "rw,nosuid,nodev")]);
    }
}
