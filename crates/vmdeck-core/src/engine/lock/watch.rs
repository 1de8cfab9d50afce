//! Tells when a lock, one of its slots or the queue for it has changed.

use notify::{RecursiveMode, Watcher};
use std::path::Path;

/// Reports changes of a lock until it is dropped.
pub struct LockWatch {
    _watcher: Option<notify::RecommendedWatcher>,
}

impl LockWatch {
    /// Calls `told` from another thread, perhaps several times for one change. Where the system has no watches left, nothing is
    /// called; a holder that is killed changes no file.
    pub fn new(lock: &Path, told: impl Fn() + Send + 'static) -> Self {
        let folder = lock.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = lock.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The slots and the queue have its name with something behind it.
        let is_it = move |path: &Path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
        let tell = move |event: notify::Result<notify::Event>| {
            let is_change = |event: &notify::Event| !matches!(event.kind, notify::EventKind::Access(_));
            if event.is_ok_and(|event| is_change(&event) && event.paths.iter().any(|path| is_it(path))) {
                told();
            }
        };
        let watcher = notify::recommended_watcher(tell)
            .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher));
        Self { _watcher: watcher.ok() }
    }
}
