//! A kernel's modules: which there are, what each depends on, and their bytes in the order in which they are loaded.
//!
//! Read from the files themselves: `modules.dep` is made by a tool that may not have run where a package was only unpacked.

use super::super::{compressed, initrd::Module};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Longest list of names, in bytes.
const LIST_MAX: u64 = 4 << 20;
/// Longest module, in bytes, as a file and when it is unpacked.
const MODULE_MAX: usize = 256 << 20;
/// The compressions that a module's file name ends in.
const ENDINGS: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// The modules of one kernel.
#[derive(Debug)]
pub(super) struct ModuleTree {
    /// The folder: `.../lib/modules/VERSION`.
    pub(super) folder: PathBuf,
    built_in: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
}

/// Where a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModulePlace {
    BuiltIn,
    File,
    None,
}

/// Modules in the order in which they are loaded.
#[derive(Default)]
pub(crate) struct ModuleFiles(pub(crate) Vec<Module>);

impl ModuleTree {
    /// Reads the folder that was given: one that holds `lib/modules/VERSION`, or that folder itself.
    pub(super) fn given(folder: &Path, version: Option<&str>) -> Result<Self, String> {
        let all = folder.join("lib/modules");
        let inner = match version {
            Some(version) if all.join(version).is_dir() => all.join(version),
            _ if is_tree(folder) => folder.to_owned(),
            Some(version) => match folders(&all).as_slice() {
                [] => return Err(format!("`{}` holds no modules", folder.display())),
                others => {
                    let others = others.join(", ");
                    return Err(format!(
                        "the modules in `{}` are for {others}, and the kernel is {version}",
                        all.display()
                    ));
                }
            },
            None => match folders(&all).as_slice() {
                [only] => all.join(only),
                [] => return Err(format!("`{}` holds no modules", folder.display())),
                several => {
                    return Err(format!(
                        "the kernel does not tell its version, and `{}` holds modules for {}",
                        all.display(),
                        several.join(", ")
                    ));
                }
            },
        };
        let is_for = inner.file_name().and_then(|name| name.to_str());
        match (version, is_for) {
            (Some(version), Some(is_for)) if version != is_for => {
                Err(format!("the modules in `{}` are for {is_for}, and the kernel is {version}", inner.display()))
            }
            _ => Ok(Self::read(&inner)),
        }
    }

    /// Reads the modules where they usually are: beside an unpacked or installed kernel, or on this host.
    pub(super) fn beside(kernel: &Path, version: Option<&str>) -> Option<Self> {
        let version = version?;
        let own = kernel.parent()?;
        let beside = own.parent().map(|above| above.join("lib/modules").join(version));
        let usual = [Path::new("/lib/modules").join(version), Path::new("/usr/lib/modules").join(version)];
        let own = own.file_name().is_some_and(|name| name == version).then(|| own.to_owned());
        own.into_iter().chain(beside).chain(usual).find(|folder| is_tree(folder)).map(|folder| Self::read(&folder))
    }

    fn read(folder: &Path) -> Self {
        let list = |name: &str| vmdeck_files::read_text(&folder.join(name), LIST_MAX).unwrap_or_default();
        let built_in = list("modules.builtin").lines().filter_map(|line| name_of(Path::new(line))).collect();
        let order = list("modules.order");
        let mut files = BTreeMap::new();
        for path in order.lines().filter_map(|line| existing(folder, line)) {
            files.extend(name_of(&path).map(|name| (name, path)));
        }
        if files.is_empty() {
            walk(&folder.join("kernel"), &mut files);
        }
        Self { folder: folder.to_owned(), built_in, files }
    }

    pub(super) fn find(&self, name: &str) -> ModulePlace {
        match () {
            () if self.built_in.contains(name) => ModulePlace::BuiltIn,
            () if self.files.contains_key(name) => ModulePlace::File,
            () => ModulePlace::None,
        }
    }

    /// Reads these modules, each after those that it depends on. One that is not there is left out.
    pub(super) fn load_order<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<ModuleFiles, String> {
        let (mut out, mut seen) = (ModuleFiles::default(), BTreeSet::new());
        for name in names {
            self.load(name, &mut out, &mut seen)?;
        }
        Ok(out)
    }

    fn load(&self, name: &str, out: &mut ModuleFiles, seen: &mut BTreeSet<String>) -> Result<(), String> {
        // A circle ends where it began; the kernel would refuse one.
        let Some(path) = self.files.get(name).filter(|_| seen.insert(name.to_owned())) else { return Ok(()) };
        let cannot = |e: std::io::Error| format!("{}: {e}", path.display());
        let packed = vmdeck_files::read(path, MODULE_MAX as u64).map_err(cannot)?;
        let bytes = compressed::decode(&packed, MODULE_MAX).map_err(cannot)?.into_owned();
        for other in depends(&bytes) {
            self.load(&other, out, seen)?;
        }
        out.0.push(Module { name: format!("{name}.ko"), bytes });
        Ok(())
    }
}

/// Returns the modules that a module names in its section `.modinfo`: `depends=a,b`, ended by a NUL.
fn depends(module: &[u8]) -> Vec<String> {
    let Some(at) = memchr::memmem::find(module, b"\0depends=") else { return Vec::new() };
    let list = module[at + 9..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

/// Returns a module's name as the kernel knows it: file names may have dashes.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)?.strip_suffix(".ko"))?;
    Some(normal(name))
}

/// Returns the file of a line of `modules.order`, whatever it is compressed by. One that leads out of the folder is none.
fn existing(folder: &Path, line: &str) -> Option<PathBuf> {
    let inner = Path::new(line);
    let stays = inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let mut candidates = ENDINGS.iter().map(|ending| folder.join(format!("{line}{ending}")));
    if stays { candidates.find(|path| path.is_file()) } else { None }
}

fn walk(folder: &Path, out: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, out),
            Ok(kind) if kind.is_file() => out.extend(name_of(&path).map(|name| (name, path))),
            _ => {}
        }
    }
}

fn is_tree(folder: &Path) -> bool {
    ["modules.order", "modules.builtin", "kernel"].iter().any(|name| folder.join(name).exists())
}

fn folders(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, ModuleTree) {
        let home = tempfile::tempdir().expect("tempdir");
        for (name, text) in files {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("folder");
            fs::write(path, text).expect("written");
        }
        let tree = ModuleTree::read(home.path());
        (home, tree)
    }

    fn names(tree: &ModuleTree, wanted: &[&str]) -> Vec<String> {
        let files = tree.load_order(wanted.iter().copied()).unwrap_or_else(|why| panic!("{why}"));
        files.0.into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn modules_come_after_those_that_they_depend_on_and_once() {
        let (_home, tree) = tree(&[
            ("modules.builtin", "kernel/drivers/virtio/virtio.ko\n"),
            ("modules.order", "kernel/a.ko\nkernel/b-b.ko\nkernel/c.ko\n../out.ko\nkernel/gone.ko\n"),
            ("kernel/a.ko", "x\0depends=b-b,virtio\0"),
            ("kernel/b-b.ko", "x\0depends=c\0y"),
            ("kernel/c.ko", "x\0depends=\0y"),
            ("../out.ko", "x"),
        ]);
        assert_eq!(names(&tree, &["a", "c", "virtio", "none"]), ["c.ko", "b_b.ko", "a.ko"]);
        for (name, found) in [
            ("virtio", ModulePlace::BuiltIn),
            ("b_b", ModulePlace::File),
            ("out", ModulePlace::None),
            ("gone", ModulePlace::None),
        ] {
            assert_eq!(tree.find(name), found, "{name}");
        }
    }

    #[test]
    fn a_circle_of_modules_ends() {
        let (_home, tree) = tree(&[("kernel/a.ko", "\0depends=b\0"), ("kernel/x/b.ko", "\0depends=a\0")]);
        assert_eq!(names(&tree, &["a"]), ["b.ko", "a.ko"]);
    }

    #[test]
    fn the_modules_of_another_kernel_are_refused_by_name() {
        let home = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(home.path().join("lib/modules/6.1/kernel")).expect("folder");
        let given =
            |folder: &str, version| ModuleTree::given(&home.path().join(folder), version).map(|tree| tree.folder);
        let inner = home.path().join("lib/modules/6.1");
        for (folder, version) in [("", Some("6.1")), ("", None), ("lib/modules/6.1", Some("6.1"))] {
            assert_eq!(given(folder, version), Ok(inner.clone()), "{folder} {version:?}");
        }
        for (folder, version, why) in [
            ("", Some("6.2"), "are for 6.1, and the kernel is 6.2"),
            ("lib/modules/6.1", Some("6.2"), "are for 6.1, and the kernel is 6.2"),
            ("none", Some("6.1"), "holds no modules"),
            ("none", None, "holds no modules"),
        ] {
            assert!(given(folder, version).is_err_and(|text| text.contains(why)), "{folder} {version:?}");
        }
    }
}
