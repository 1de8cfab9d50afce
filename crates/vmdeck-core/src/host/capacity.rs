//! Free disk and memory of this host.
//!
//! Whether it is enough is for `engine::preflight` and `engine::admission` to say.

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
    let system = memory()?;
    let limit = system.cgroup_limits().map(|l| l.free_memory);
    let free = system.available_memory();
    Some(limit.map_or(free, |l| l.min(free)))
}

/// Returns the system with its memory measured; `None` = it cannot be, such as without `/proc`.
fn memory() -> Option<sysinfo::System> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    (system.total_memory() > 0).then_some(system)
}

/// Returns the bytes of memory that this host has, or that we may have of it; `None` where the system does not report it.
pub fn total_memory() -> Option<u64> {
    let system = memory()?;
    let limit = system.cgroup_limits().map(|l| l.total_memory);
    let total = system.total_memory();
    Some(limit.map_or(total, |l| l.min(total)))
}

/// Returns how many files this process may have open at a time; `None` = there is no limit.
pub fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Returns the share of the last ten seconds, in per cent, in which no program could go on for want of memory; `None` where the system does
/// not tell (Linux does, by PSI).
pub fn memory_stall() -> Option<f32> {
    let text = vmdeck_files::read_text(Path::new("/proc/pressure/memory"), vmdeck_files::SMALL).ok()?;
    let full = text.lines().find_map(|line| line.strip_prefix("full "))?;
    full.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// Measures what this host has left.
pub trait Meter: Send + Sync {
    /// Returns the bytes of memory that there are; `None` = nobody knows.
    fn total_memory(&self) -> Option<u64>;
    /// Returns the bytes of memory that programs can still use; `None` = nobody knows.
    fn free_memory(&self) -> Option<u64>;
    /// Returns the bytes that may still be written at a path; `None` = nobody knows.
    fn free_disk(&self, path: &Path) -> Option<u64>;
    /// Returns the share of the last ten seconds, in per cent, in which no program could go on for want of memory; `None` = nobody knows.
    fn memory_stall(&self) -> Option<f32>;
}

/// The meter of the real host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostMeter;

impl Meter for HostMeter {
    fn total_memory(&self) -> Option<u64> {
        total_memory()
    }

    fn free_memory(&self) -> Option<u64> {
        available_memory()
    }

    fn free_disk(&self, path: &Path) -> Option<u64> {
        free_disk(path).ok()
    }

    fn memory_stall(&self) -> Option<f32> {
        memory_stall()
    }
}
