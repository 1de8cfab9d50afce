//! The virtio-serial port over which the host speaks to the agent.

use super::{clock, setup::PORT};
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::Duration,
};

/// How long the port may take to appear: the kernel finds it after its driver is loaded, and nothing tells when.
const APPEARS: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Returns whether the port appears.
pub(super) fn is_there() -> bool {
    let start = clock::now();
    while find().is_none() {
        if start.elapsed() > APPEARS {
            return false;
        }
        clock::sleep(LOOK);
    }
    true
}

/// Opens the port. Until its host listens, reading finds an end.
pub(super) fn open() -> io::Result<File> {
    let path = find().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no port"))?;
    File::options().read(true).write(true).open(path)
}

/// Returns the device of the port. There is no udev that would name it.
fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let is_ours =
        |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == PORT);
    let port = ports.filter_map(Result::ok).find(is_ours)?;
    let device = PathBuf::from("/dev").join(port.file_name());
    device.exists().then_some(device)
}
