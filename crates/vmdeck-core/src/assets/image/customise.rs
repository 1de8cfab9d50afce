//! Systems that are built on another image: a machine boots it, installs packages, runs a script and shuts down, and its disk is kept.
//!
//! What a machine does is a run's work; here is what the cache knows of it.

use super::{
    System,
    build::is_package,
    digest::Hasher,
    lock, resolve,
    store::{BUILT, ImageStore, touch},
};
use crate::{
    context::CallContext,
    host::{
        files,
        process::{Spawner, Spec},
    },
};
use serde::Serialize;
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    digest::Digest,
    error::{Fault, Result},
    image::{Image, Recipe},
};

/// How long making the disk small may take.
const COMPRESS: Duration = Duration::from_mins(30);
/// The files of a base that starts without firmware, besides its disk.
const KERNEL_FILES: [&str; 3] = ["vmlinuz", "initrd.img", "cmdline"];
/// The name of the disk that a machine leaves.
const LEFT: &str = "left.qcow2";

/// What is known of such a build: the base of its name, and what the cache shows of it.
#[derive(Serialize)]
struct CustomInputs<'a> {
    build: &'a str,
    /// What the base is now.
    base: String,
    packages: &'a [String],
    script: Option<String>,
    form: u32,
}

/// Returns the system in the cache, if it was built from the base as it is now.
pub fn find(store: &ImageStore, recipe: &Recipe, base: &Image, arch: &str) -> Result<Option<System>> {
    let Some(inputs) = inputs(recipe, base, arch)? else { return Ok(None) };
    let folder = store.entry(BUILT, &name_of(recipe, &inputs));
    if !folder.is_dir() {
        return Ok(None);
    }
    touch(&folder.join("recipe.json"));
    System::open(&folder).map(Some)
}

/// Returns the fault of a system that was not built yet.
pub(super) fn unbuilt(recipe: &Recipe) -> Fault {
    Fault::host(format!("`{}` with its own packages and script is not built yet", recipe.system))
        .because("a machine has to be booted for that")
        .hint("`vmdeck image build` builds it; so does `vmdeck --ci`, before its run")
}

/// Returns what the result depends on; `None` = it is not known which image the base's name stands for.
fn inputs<'a>(recipe: &'a Recipe, base: &Image, arch: &str) -> Result<Option<CustomInputs<'a>>> {
    let cannot = |why: String| Fault::user(format!("cannot build `{}`", recipe.system)).because(why);
    if let Some(bad) = recipe.packages.iter().find(|name| !is_package(name)) {
        return Err(cannot(format!("`{bad}` is no name of a package")));
    }
    let read = |path: &PathBuf| {
        vmdeck_files::read_text(path, vmdeck_files::LARGE)
            .map_err(|e| cannot(format!("its script `{}`: {e}", path.display())))
    };
    let base = match base {
        Image::Named(named) => match resolve::locked(named, arch)? {
            Some(found) => found.digest.map_or(found.url, |digest| digest.file_name()),
            None => return Ok(None),
        },
        Image::Remote(remote) => remote.digest.as_ref().map_or_else(|| remote.url.clone(), Digest::file_name),
        Image::File(path) => {
            let disk = System::open(path)?.disk;
            let meta = fs::metadata(&disk).map_err(|e| cannot(format!("`{}`: {e}", disk.display())))?;
            format!("{} {} {}.{}", disk.display(), meta.size(), meta.mtime(), meta.mtime_nsec())
        }
        Image::Host | Image::Built(_) => return Err(cannot("it cannot be built on".into())),
    };
    let script = recipe.script.as_ref().map(read).transpose()?;
    Ok(Some(CustomInputs { build: &recipe.system, base, packages: &recipe.packages, script, form: 1 }))
}

fn name_of(recipe: &Recipe, inputs: &CustomInputs<'_>) -> String {
    let mut hasher = Hasher::like(None);
    // A structure of texts always has a form.
    hasher.update(&serde_json::to_vec(inputs).unwrap_or_default());
    let hex = hasher.finish().file_name();
    let key = hex.rsplit('-').next().unwrap_or_default();
    // Of a path or an address, its end.
    let word: String = recipe.system.rsplit('/').next().unwrap_or_default().chars().take(40).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("{}-{}", word.chars().map(plain).collect::<String>(), &key[..16])
}

/// A build that has begun, alone among all processes.
pub struct CustomBuild {
    _alone: File,
    /// The base, fetched.
    pub base: System,
    work: PathBuf,
    result: PathBuf,
    recipe: Vec<u8>,
    system: String,
}

/// Begins a build on a base that is here, as `system`: waits for others who build the same. `None` = it is built already.
pub async fn begin(
    store: &ImageStore,
    recipe: &Recipe,
    base: (&Image, System),
    arch: &str,
    context: CallContext<'_>,
) -> Result<Option<CustomBuild>> {
    let cannot = || Fault::infra(format!("cannot build `{}`", recipe.system));
    store.prepare().map_err(|e| cannot().because(e))?;
    store.sweep();
    let (base, fetched) = base;
    // Its digest is known now, whatever its name stood for before.
    let inputs = inputs(recipe, base, arch)?.ok_or_else(|| cannot().because("its base is not in the lock file"))?;
    let name = name_of(recipe, &inputs);
    let waits = || (context.progress)(&format!("another vmdeck builds {}; waiting for it", recipe.system));
    let alone = lock::take(&store.entry("locks", &name), waits).await.map_err(|e| cannot().because(e))?;
    if find(store, recipe, base, arch)?.is_some() {
        return Ok(None);
    }
    let work = store.entry(BUILT, &format!(".{name}"));
    // Of a build that was killed.
    let _ = files::remove_dir(&work);
    files::private_dir(&work).map_err(|e| cannot().because(e))?;
    let recipe_json = serde_json::to_vec_pretty(&inputs).unwrap_or_default();
    let (system, result) = (recipe.system.clone(), store.entry(BUILT, &name));
    Ok(Some(CustomBuild { _alone: alone, base: fetched, work, result, recipe: recipe_json, system }))
}

impl CustomBuild {
    /// Returns where the machine leaves its disk.
    pub fn disk(&self) -> PathBuf {
        self.work.join(LEFT)
    }

    /// Puts the disk that the machine has left into the cache.
    pub async fn keep(&self, spawner: &Spawner) -> Result<System> {
        let cannot = || Fault::infra(format!("cannot build `{}`", self.system));
        let room = |e: std::io::Error| cannot().because(e).hint("free disk space in the cache folder");
        let made = self.work.join("result");
        fs::create_dir_all(&made).map_err(room)?;
        let disk = made.join("root.qcow2");
        // Without the base below it: an image that names another one is not portable, and is refused.
        let words = ["convert", "-q", "-f", "qcow2", "-O", "qcow2", "-c"];
        let convert = Spec::new("qemu-img").args(words).args([&self.disk(), &disk]);
        let out = spawner.output(&convert, COMPRESS).await.map_err(|e| cannot().because(e))?;
        if !out.status.success() {
            return Err(cannot().because(out.stderr.trim()));
        }
        let mut names = vec!["root.qcow2", "recipe.json"];
        if let (Some(_), Some(folder)) = (&self.base.direct, self.base.disk.parent()) {
            for name in KERNEL_FILES.iter().filter(|name| folder.join(name).is_file()) {
                copy(&folder.join(name), &made.join(name)).map_err(room)?;
                names.push(name);
            }
        }
        fs::write(made.join("recipe.json"), &self.recipe).map_err(room)?;
        for name in names {
            vmdeck_files::open(&made.join(name)).and_then(|file| file.sync_all()).map_err(room)?;
        }
        fs::rename(&made, &self.result).map_err(room)?;
        System::open(&self.result)
    }
}

impl Drop for CustomBuild {
    fn drop(&mut self) {
        let _ = files::remove_dir(&self.work);
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = vmdeck_files::read(from, vmdeck_files::LARGE)?;
    fs::write(to, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::image::{BuildWay, RemoteImage};

    fn recipe(base: &Image) -> Recipe {
        Recipe { system: "x:1".into(), way: BuildWay::Boot(base.clone()), ..Recipe::default() }
    }

    #[test]
    fn a_build_has_another_name_whenever_something_of_it_is_another() {
        let home = tempfile::tempdir().expect("tempdir");
        let (disk, script) = (home.path().join("a.qcow2"), home.path().join("s.sh"));
        fs::write(&disk, [&b"QFI\xfb\0\0\0\x03"[..], &[0; 600]].concat()).expect("written");
        fs::write(&script, "true").expect("written");
        let file = Image::File(disk.clone());
        let remote = |url: &str| Image::Remote(RemoteImage { url: url.into(), digest: None });
        let name = |recipe: &Recipe, base: &Image| {
            name_of(recipe, &inputs(recipe, base, "x86_64").expect("known").expect("known"))
        };
        let plain = recipe(&file);
        let first = name(&plain, &file);
        assert_eq!(first, name(&plain, &file));
        let scripted = Recipe { script: Some(script.clone()), ..plain.clone() };
        let with_script = name(&scripted, &file);
        fs::write(&script, "false").expect("written");
        let packed = Recipe { packages: vec!["git".into()], ..plain.clone() };
        let all = [
            name(&packed, &file),
            with_script,
            name(&scripted, &file),
            name(&plain, &remote("https://a/x")),
            name(&plain, &remote("https://b/x")),
        ];
        fs::write(&disk, [&b"QFI\xfb\0\0\0\x03"[..], &[0; 700]].concat()).expect("written");
        let all: std::collections::BTreeSet<String> = all.into_iter().chain([first, name(&plain, &file)]).collect();
        assert_eq!(all.len(), 7, "{all:?}");
        let wrong = Recipe { packages: vec!["-o evil".into()], ..plain };
        assert!(inputs(&wrong, &file, "x86_64").is_err());
    }
}
