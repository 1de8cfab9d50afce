//! The cache of images: fetched ones by their digest, built ones by what they were built of. One folder of one user.

use super::{System, content, digest};
use crate::host::{clock, files, info, lockdir};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use vmdeck_model::{
    digest::Digest,
    error::{Fault, Result},
    image::ImageConfig,
};

/// The cache of images.
#[derive(Clone, Debug)]
pub struct ImageStore {
    folder: PathBuf,
    /// Whether nothing may be fetched.
    pub offline: bool,
    /// The bytes that it may take.
    max_size: Option<u64>,
    /// How long an image that nothing uses is kept.
    max_age: Option<Duration>,
}

/// An image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The name: a digest, or the name of a build.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The bytes that it takes on the disk.
    pub size: u64,
    /// When it was last used.
    pub used: SystemTime,
    /// Where it came from, as far as that is known.
    pub origin: String,
}

/// How long ago an image was used that some run may be about to make a machine of.
const JUST_USED: Duration = Duration::from_hours(1);

/// What the folders of the cache are for.
pub(super) const OBJECTS: &str = "by-digest";
pub(super) const UNPACKED: &str = "unpacked";
pub(super) const BUILT: &str = "built";
const FOLDERS: [&str; 6] = [OBJECTS, UNPACKED, BUILT, "names", "parts", "locks"];

impl ImageStore {
    /// Returns the cache that a config wants; its folder is made when something is put into it.
    pub fn new(config: &ImageConfig) -> Self {
        let folder = config.cache.clone().unwrap_or_else(|| info::cache_dir().join("images"));
        Self { folder, offline: config.offline, max_size: config.max_size, max_age: config.max_age }
    }

    /// Returns a cache for whoever makes no machine.
    pub fn unused() -> Self {
        Self { folder: PathBuf::from("/nonexistent"), offline: true, max_size: None, max_age: None }
    }

    /// Returns the folder of the cache.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns a path in the cache.
    pub(super) fn entry(&self, kind: &str, name: &str) -> PathBuf {
        self.folder.join(kind).join(name)
    }

    /// Makes the folders of the cache, closed to others.
    pub(super) fn prepare(&self) -> io::Result<()> {
        files::private_dir(&self.folder)?;
        FOLDERS.iter().try_for_each(|name| files::private_dir(&self.folder.join(name)))
    }

    /// Removes what builds left that were killed: nobody holds their lock any more.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(self.folder.join(BUILT)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
            let Ok(lock) = files::open_private(&self.entry("locks", name)) else { continue };
            if lockdir::try_flock(&lock).unwrap_or(false) {
                // What belongs to other users stays until the same system is built again.
                let _ = files::remove_dir(&entry.path());
            }
            // Held until here: nobody begins to build in a folder that is about to go.
            drop(lock);
        }
    }

    /// Returns the image of this digest, if it is here, and notes that it was used.
    pub fn find(&self, digest: &Digest) -> Option<System> {
        let name = digest.file_name();
        let object = self.entry(OBJECTS, &name);
        // Without an end of its own the unpacked one is not there yet.
        let disk = Some(self.entry(UNPACKED, &name)).filter(|path| path.is_file()).or_else(|| {
            let is_disk = content::check_foreign(&object).is_ok();
            Some(object.clone()).filter(|_| is_disk)
        })?;
        touch(&object);
        let format = content::format(&disk).ok()?;
        Some(System { disk, format, direct: None })
    }

    /// Lists every image, the one that was used last first.
    pub fn list(&self) -> Vec<StoredImage> {
        let mut out = Vec::new();
        for kind in [OBJECTS, BUILT] {
            for entry in fs::read_dir(self.folder.join(kind)).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(name) = entry.file_name().into_string() else { continue };
                // What is being made has a name that begins so.
                if name.starts_with('.') {
                    continue;
                }
                let unpacked = if kind == OBJECTS { files::disk_usage(&self.entry(UNPACKED, &name)) } else { 0 };
                let used = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                let origin = self.origin(kind, &name);
                out.push(StoredImage { size: files::disk_usage(&path) + unpacked, name, path, used, origin });
            }
        }
        out.sort_by_key(|image| std::cmp::Reverse(image.used));
        out
    }

    fn origin(&self, kind: &str, name: &str) -> String {
        let file = if kind == BUILT {
            self.entry(BUILT, name).join("recipe.json")
        } else {
            self.entry("names", &format!("{name}.json"))
        };
        let text = vmdeck_files::read_text(&file, vmdeck_files::SMALL).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        ["url", "build"].iter().find_map(|key| json[*key].as_str()).unwrap_or("?").to_owned()
    }

    /// Compares every fetched image with its digest; returns the names of those that are others now. They are removed.
    pub fn verify(&self, progress: &mut dyn FnMut(&str)) -> Vec<String> {
        let mut bad = Vec::new();
        for image in self.list() {
            let Some(wanted) = Digest::of_file_name(&image.name) else { continue };
            progress(&image.name);
            if digest::of_file(&image.path, Some(&wanted)).is_ok_and(|found| found == wanted) {
                continue;
            }
            let _ = self.remove(&image);
            bad.push(image.name);
        }
        bad
    }

    /// Removes an image; one that a machine stands on is refused. `state` = where machines are.
    pub fn remove_unused(&self, image: &StoredImage, state: &Path) -> Result<()> {
        let below = |base: &PathBuf| base.starts_with(&image.path) || *base == self.entry(UNPACKED, &image.name);
        if bases_in_use(state).iter().any(below) {
            return Err(Fault::user(format!("cannot remove the image {}", image.name))
                .because("a machine that was kept, or is in use now, stands on it")
                .hint("`vmdeck cleanup` removes machines that were kept"));
        }
        self.remove(image).map_err(|e| Fault::host(format!("cannot remove `{}`", image.path.display())).because(e))
    }

    /// Removes what is beyond the limits of the cache, the oldest first; `removed` is called with the name of each. What a machine
    /// stands on stays, and what was used a moment ago: its machine may be on the way.
    pub fn trim(&self, removed: &mut dyn FnMut(&str)) {
        let mut kept = 0;
        for image in self.list() {
            let age = clock::system().duration_since(image.used).unwrap_or_default();
            kept += image.size;
            let is_over = self.max_size.is_some_and(|most| kept > most) || self.max_age.is_some_and(|most| age > most);
            if is_over && age > JUST_USED && self.remove_unused(&image, &info::state_dir()).is_ok() {
                kept -= image.size;
                removed(&image.origin);
            }
        }
    }

    fn remove(&self, image: &StoredImage) -> io::Result<()> {
        for path in [
            self.entry(UNPACKED, &image.name),
            self.entry("names", &format!("{}.json", image.name)),
            image.path.clone(),
        ] {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

/// Notes that a file was used now; that it fails only makes it look older.
pub(super) fn touch(path: &Path) {
    if let Ok(file) = vmdeck_files::open(path) {
        let _ = file.set_modified(clock::utc().into());
    }
}

/// Returns the images that overlays of machines stand on, as the overlays themselves name them.
fn bases_in_use(state: &Path) -> BTreeSet<PathBuf> {
    let machines = fs::read_dir(state.join("machines")).into_iter().flatten().flatten();
    machines.filter_map(|machine| base_of(&machine.path().join("overlay.qcow2"))).collect()
}

/// Returns the base that a qcow2 names: its place at 8, its length at 16 (QEMU: docs/interop/qcow2.txt).
fn base_of(overlay: &Path) -> Option<PathBuf> {
    let file = vmdeck_files::open(overlay).ok()?;
    let mut head = [0; 20];
    file.read_exact_at(&mut head, 0).ok()?;
    let place = u64::from_be_bytes(head[8..16].try_into().ok()?);
    let length = u32::from_be_bytes(head[16..20].try_into().ok()?).min(4096);
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, place).ok()?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(&name)))
}
