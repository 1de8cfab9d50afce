//! Free disk and memory of this host.
//!
//! Whether it is enough is `engine::preflight`'s decision.

use std::path::Path;

/// Returns the bytes that this user may still write on the file system of `path`, or of its nearest existing parent.
pub fn free_disk(path: &Path) -> std::io::Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let stat = rustix::fs::statvfs(existing)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Returns the bytes of memory that programs can still use without swapping; `None` where the system does not report
/// it.
pub fn available_memory() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let limit = system.cgroup_limits().map(|l| l.free_memory);
    let free = system.available_memory();
    Some(limit.map_or(free, |l| l.min(free)))
}
