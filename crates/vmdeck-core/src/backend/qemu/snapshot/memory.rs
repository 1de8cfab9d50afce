//! The memory of a guest as a file without a name: QEMU maps it, and it goes with whoever has it open. Nothing is left of it.

use crate::assets::snapshot::sparse;
use std::{fs::File, io, os::fd::AsRawFd, path::Path};

/// The memory of a guest that may be frozen.
#[derive(Debug)]
pub(in super::super) struct GuestMemory {
    file: File,
    size: u64,
}

impl GuestMemory {
    /// Returns empty memory of this size in bytes.
    pub(in super::super) fn empty(size: u64) -> io::Result<Self> {
        let file = unnamed()?;
        file.set_len(size)?;
        Ok(Self { file, size })
    }

    /// Returns a copy of the memory in a snapshot.
    pub(in super::super) fn of_snapshot(folder: &Path) -> io::Result<Self> {
        let from = vmdeck_files::open(&folder.join(super::MEMORY))?;
        let file = unnamed()?;
        sparse::copy(&from, &file)?;
        Ok(Self { size: from.metadata()?.len(), file })
    }

    /// Returns the object for QEMU's command line. The file is reached by way of this process, which is there as long as QEMU starts.
    pub(in super::super) fn object(&self) -> String {
        let (process, file) = (std::process::id(), self.file.as_raw_fd());
        format!("memory-backend-file,id=ram1,size={},mem-path=/proc/{process}/fd/{file},share=on", self.size)
    }

    /// Writes the memory of a guest that has stopped into a file of a folder.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        let to = vmdeck_files::create(&folder.join(super::MEMORY))?;
        sparse::copy(&self.file, &to)
    }
}

#[cfg(target_os = "linux")]
fn unnamed() -> io::Result<File> {
    let made = rustix::fs::memfd_create("vmdeck-guest-memory", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(made.into())
}

#[cfg(not(target_os = "linux"))]
fn unnamed() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}
