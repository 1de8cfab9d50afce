//! What this host is: its name, its current boot, its command search path.
//!
//! Free disk and memory are in [`super::capacity`].

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Returns the host's name; `?` where it has none.
pub fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "?".into())
}

/// Returns an id of the current boot, which changes with every restart.
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    // Linux tells it; elsewhere the time of the boot serves.
    let read = || {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
            |_| sysinfo::System::boot_time().map_or_else(|_| "?".into(), |t| t.to_string()),
            |id| id.trim().to_owned(),
        )
    };
    BOOT.get_or_init(read).clone()
}

/// Returns the version of the running kernel.
pub fn kernel_version() -> String {
    sysinfo::System::kernel_version().unwrap_or_else(|_| "?".into())
}

/// Returns the model of this host's processor and what it can do, as far as the system tells.
pub fn processor() -> String {
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = all.split("\n\n").next().unwrap_or_default();
    let names = ["model name", "flags", "Features", "CPU part"];
    first.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
}

/// Returns a file as it is now: its path, its size and the time of its last change.
pub fn version_of(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match path.metadata() {
        Ok(meta) => format!("{} {} {}.{}", path.display(), meta.len(), meta.mtime(), meta.mtime_nsec()),
        Err(_) => format!("{} is not there", path.display()),
    }
}

/// Returns a text that changes when the file at this path is another one, or its owner or rights change; `None` = there is none.
pub fn identity(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    let (owner, changed) = (format!("{}:{}:{:o}", meta.uid(), meta.gid(), meta.mode()), meta.ctime());
    Some(format!("{}:{}:{}:{owner}:{changed}", path.display(), meta.dev(), meta.ino()))
}

/// Returns a text that changes with our user and groups.
pub fn who_we_are() -> String {
    let mut groups: Vec<u32> =
        rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw).collect();
    groups.sort_unstable();
    format!("{}:{}:{groups:?}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Returns the name of a user, where this host knows it; else the number.
pub fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&uid.to_string().as_str()));
    found.map_or_else(|| format!("uid {uid}"), |fields| fields[0].to_owned())
}

/// Returns the name of the group that a file belongs to, where this host knows it.
pub fn group_of(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let gid = std::fs::metadata(path).ok()?.gid().to_string();
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .into_iter()
        .find(|fields| fields.get(2) == Some(&gid.as_str()) && gid != "0")
        .map(|fields| fields[0].to_owned())
}

/// Returns where a program of this name lies on the search path, or the path itself when it is one.
pub fn find_program(name: &str) -> Option<PathBuf> {
    which::which(name).ok()
}

/// Returns the folder where vmdeck keeps what it can get again: `$XDG_CACHE_HOME/vmdeck`, on macOS in Caches.
pub fn cache_dir() -> PathBuf {
    use etcetera::BaseStrategy;
    let Ok(base) = etcetera::base_strategy::choose_native_strategy() else {
        return std::env::temp_dir().join("vmdeck-cache");
    };
    base.cache_dir().join("vmdeck")
}

/// Returns the folder where vmdeck keeps what must survive it: `$XDG_STATE_HOME/vmdeck`, on macOS in Application Support.
pub fn state_dir() -> PathBuf {
    use etcetera::BaseStrategy;
    let Ok(base) = etcetera::base_strategy::choose_native_strategy() else {
        return PathBuf::from("/var/tmp/vmdeck");
    };
    base.state_dir().unwrap_or_else(|| base.data_dir()).join("vmdeck")
}

/// Returns the folder of the user's own config.
pub fn config_dir() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    etcetera::choose_base_strategy().ok().map(|base| base.config_dir().join("vmdeck"))
}

/// Returns whether this user may read and write a device or file.
pub fn may_use(path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new().read(true).write(true).open(path).map(drop)
}
