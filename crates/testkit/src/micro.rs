//! The micro guest of `guests/micro`, which `make guest` builds, as a piece of config.

use std::path::{Path, PathBuf};

/// Returns the path of a part of the built guest: `vmlinux`, `initrd.cpio`, `id_ed25519`, `host_key`.
///
/// # Panics
/// Where the guest has not been built.
pub fn part(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/micro/out").join(name);
    assert!(path.exists(), "{} is missing: run `make guest`", path.display());
    path.canonicalize().expect("a path without links")
}

/// What differs from one use of the guest to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Micro<'a> {
    /// Lines of the guest's own table.
    pub keys: &'a str,
    /// Lines of its `qemu` table.
    pub qemu: &'a str,
    /// Words at the end of the kernel's command line.
    pub append: &'a str,
}

impl Micro<'_> {
    /// Returns the tables of a guest of this name.
    pub fn guest(&self, name: &str) -> String {
        format!("[guests.{name}]\n{}", self.tables(name))
    }

    /// Returns the same without the header of the first table, for a config that has begun it.
    pub fn tables(&self, name: &str) -> String {
        let path = |part_name: &str| part(part_name).display().to_string();
        format!(
            "backend = \"qemu\"\ncpus = 1\nmemory = \"256MiB\"\n{}\n[guests.{name}.boot]\npattern = \"login:\"\n\
             [guests.{name}.ssh]\nkey = \"{}\"\nhost_key = \"{}\"\n\
             [guests.{name}.qemu]\nkernel = \"{}\"\ninitrd = \"{}\"\nappend = \"console=ttyS0 panic=-1 {}\"\n{}\n",
            self.keys,
            path("id_ed25519"),
            path("host_key"),
            path("vmlinux"),
            path("initrd.cpio"),
            self.append,
            self.qemu,
        )
    }
}
