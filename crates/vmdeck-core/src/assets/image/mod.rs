//! Systems to boot: a disk image of this host, one that is fetched and kept by its digest, or one that is built here.

pub mod build;
mod content;
pub mod customise;
mod digest;
pub mod fetch;
mod lock;
mod lock_file;
mod obtain;
mod resolve;
pub mod store;
mod sums;
mod unpack;

pub use obtain::{ImagePlace, hindrance, obtain, place, renew};

use std::path::{Path, PathBuf};
use vmdeck_model::error::{Fault, Result};

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The disk; it is never written.
    pub disk: PathBuf,
    /// The format of the disk, as QEMU calls it.
    pub format: &'static str,
    /// The kernel to start instead of what is on the disk, where one came with it.
    pub direct: Option<DirectBoot>,
}

/// A kernel beside a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
}

impl System {
    /// Opens a system of this host: a disk image, or a folder as `vmdeck image build` makes it (`root.qcow2`, with `vmlinuz`,
    /// `initrd.img` and `cmdline` for a start without firmware).
    pub fn open(path: &Path) -> Result<Self> {
        let (disk, direct) = if path.is_dir() { folder(path)? } else { (path.to_owned(), None) };
        let format = content::format(&disk).map_err(|why| {
            Fault::host(format!("cannot use the image `{}`", disk.display()))
                .because(why)
                .hint("`image` names a disk image (qcow2 or raw)")
        })?;
        Ok(Self { disk, format, direct })
    }
}

fn folder(path: &Path) -> Result<(PathBuf, Option<DirectBoot>)> {
    let file = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
    let disk = file("root.qcow2").or_else(|| file("disk.qcow2")).ok_or_else(|| {
        Fault::host(format!("cannot use the image `{}`", path.display()))
            .because("this folder holds no `root.qcow2`")
            .hint("name a disk image, or a folder that `vmdeck image build` has made")
    })?;
    let append = vmdeck_files::read_text(&path.join("cmdline"), vmdeck_files::SMALL).unwrap_or_default();
    let direct = file("vmlinuz").filter(|_| !append.trim().is_empty()).map(|kernel| DirectBoot {
        kernel,
        initrd: file("initrd.img"),
        append: append.trim().to_owned(),
    });
    Ok((disk, direct))
}
