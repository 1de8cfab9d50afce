//! What this host is: its name, its current boot, its command search path.
//!
//! Free disk and memory are in [`super::capacity`].

use std::path::{Path, PathBuf};

/// Returns the host's name; `?` where it has none.
pub fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "?".into())
}

/// Returns an id of the current boot: another one after every restart.
pub fn boot_id() -> String {
    // Linux tells it; elsewhere the time of the boot serves.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
        |_| sysinfo::System::boot_time().map_or_else(|_| "?".into(), |t| t.to_string()),
        |id| id.trim().to_owned(),
    )
}

/// Returns where a program of this name lies on the search path, or the path itself when it is one.
pub fn find_program(name: &str) -> Option<PathBuf> {
    which::which(name).ok()
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
