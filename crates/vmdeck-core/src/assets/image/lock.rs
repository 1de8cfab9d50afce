//! One writer for each image at a time, among all processes: a file that is locked by the kernel, so that a dead one holds nothing.

use crate::host::{clock, files, lockdir};
use std::{fs::File, io, path::Path, time::Duration};

/// Pause between two attempts: waiting for another's download costs nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes the lock in this file; `waits` is called once, if it is another's now. The caller limits the time.
pub(super) async fn take(path: &Path, waits: impl FnOnce()) -> io::Result<File> {
    let file = files::open_private(path)?;
    let mut waits = Some(waits);
    while !lockdir::try_flock(&file)? {
        if let Some(waits) = waits.take() {
            waits();
        }
        clock::sleep(PAUSE).await;
    }
    Ok(file)
}
