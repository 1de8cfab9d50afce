//! Which kernel is meant: a file, a folder in which one was built, a version of /boot, or none in particular.

use crate::host::{info, packages};
use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};
use vmdeck_model::error::{Fault, Result};

/// Where a build leaves the kernel, below its folder.
const BUILT: [&str; 3] = ["arch/x86/boot/bzImage", "arch/arm64/boot/Image", "vmlinux"];
/// Where systems keep their kernels.
const BOOT: &str = "/boot";

/// Returns the file of the kernel that is wanted.
pub(super) fn file(wanted: &Path) -> Result<PathBuf> {
    let cannot = || Fault::host(format!("cannot use the kernel `{}`", wanted.display()));
    if wanted.is_dir() {
        return BUILT.iter().map(|below| wanted.join(below)).find(|path| path.is_file()).ok_or_else(|| {
            cannot()
                .because(format!("this folder holds no built kernel ({})", BUILT.join(", ")))
                .hint("build one with `make`, or name its file")
        });
    }
    // A version looks like a file of the folder that a relative path begins in.
    let version = wanted.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let installed = of_version(version);
    match installed {
        Some(path) if !wanted.exists() => Ok(path),
        _ => Ok(wanted.to_owned()),
    }
}

/// Returns what `open` makes of the kernel that this host runs, else of the newest in /boot that it does not refuse.
pub(super) fn usual<T>(open: &dyn Fn(&Path) -> std::result::Result<T, String>) -> Result<T> {
    let mut unfit = Vec::new();
    for path in candidates() {
        match open(&path) {
            Ok(kernel) => return Ok(kernel),
            Err(why) => unfit.push(why),
        }
    }
    let why = if unfit.is_empty() { format!("there is none in {BOOT}") } else { unfit.join("; ") };
    let mut remedy = packages::install(&packages::KERNEL);
    remedy.hint = format!("name one with `-k` (`guests.NAME.qemu.kernel`), or {}", remedy.hint);
    Err(Fault::host("cannot find a kernel to boot").because(why).remedied(remedy))
}

fn candidates() -> Vec<PathBuf> {
    let running = info::kernel_version();
    let mut out: Vec<PathBuf> = of_version(&running).into_iter().collect();
    let entries = std::fs::read_dir(BOOT).into_iter().flatten().flatten();
    let mut versions: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
        .filter(|version| *version != running)
        .collect();
    versions.sort_by(|a, b| newer_first(a, b));
    out.extend(versions.iter().map(|version| Path::new(BOOT).join(format!("vmlinuz-{version}"))));
    out
}

/// Returns the file of an installed kernel of this version.
fn of_version(version: &str) -> Option<PathBuf> {
    let named = [format!("{BOOT}/vmlinuz-{version}"), format!("/lib/modules/{version}/vmlinuz")];
    let is_name = !version.is_empty() && !version.contains('/');
    named.into_iter().map(PathBuf::from).find(|path| is_name && path.is_file())
}

/// Compares versions by their numbers, the newer first.
fn newer_first(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(b).cmp(&numbers(a)).then_with(|| b.cmp(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let mut all = ["6.1.0-9-amd64", "6.1.0-10-amd64", "5.10.0", "6.12", "6.1.0-10-cloud-amd64"];
        all.sort_by(|a, b| newer_first(a, b));
        assert_eq!(all, ["6.12", "6.1.0-10-cloud-amd64", "6.1.0-10-amd64", "6.1.0-9-amd64", "5.10.0"]);
    }

    #[test]
    fn a_folder_stands_for_the_kernel_that_was_built_in_it() {
        let home = tempfile::tempdir().expect("tempdir");
        let fault = file(home.path()).expect_err("empty");
        assert!(fault.to_string().contains("holds no built kernel"), "{fault}");
        let built = home.path().join("arch/x86/boot");
        std::fs::create_dir_all(&built).expect("folder");
        std::fs::write(built.join("bzImage"), "no kernel").expect("written");
        assert_eq!(file(home.path()).expect("found"), built.join("bzImage"));
    }
}
