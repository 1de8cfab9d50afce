//! A Linux kernel as a file: which one it is, what it has, and whether it can be a guest's.
//!
//! What is asked of it is a list of [`Feature`]s; where the answer comes from is in `config` and `modules`.

mod config;
mod feature;
mod find;
mod image;
mod modules;

pub use feature::{Feature, KernelNeed};
pub(crate) use modules::ModuleFiles;

use config::{KernelConfig, Setting};
use modules::ModuleTree;
use std::path::{Path, PathBuf};
use vmdeck_model::error::{Fault, Result};

/// A kernel with all that is known about it.
#[derive(Debug)]
pub struct Kernel {
    /// The file.
    pub path: PathBuf,
    /// The version, as `uname -r` will say it; `None` = the file does not tell.
    pub version: Option<String>,
    config: Option<KernelConfig>,
    modules: Option<ModuleTree>,
}

/// A feature that a kernel lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The feature.
    pub feature: &'static Feature,
    /// Whether there would be a module, and its folder is not known.
    pub is_module: bool,
}

impl Kernel {
    /// Opens the kernel that is wanted: a file, a folder in which a kernel was built, or the version of one in /boot. `None` = the
    /// one that this host runs, else the newest in /boot that has what is needed. `modules` is a folder with `lib/modules`, or one
    /// kernel's folder in it.
    pub fn find(wanted: Option<&Path>, modules: Option<&Path>, needs: &[KernelNeed]) -> Result<Self> {
        match wanted {
            Some(wanted) => Self::open(&find::file(wanted)?, modules),
            None => find::usual(&|path| {
                let kernel = Self::open(path, modules).map_err(|fault| fault.to_string())?;
                let lacks: Vec<String> =
                    kernel.lacks(needs).iter().map(|missing| format!("CONFIG_{}", missing.feature.option)).collect();
                let why = || format!("`{}` lacks {}", path.display(), lacks.join(", "));
                if lacks.is_empty() { Ok(kernel) } else { Err(why()) }
            }),
        }
    }

    /// Reads what a kernel's file, its configuration and its modules tell.
    pub fn open(path: &Path, modules: Option<&Path>) -> Result<Self> {
        let cannot = || Fault::host(format!("cannot use the kernel `{}`", path.display()));
        if path.to_str().is_none() {
            return Err(cannot().because("its path is not UTF-8").hint("rename the folder or file"));
        }
        let image = image::read(path).map_err(|why| cannot().because(why).hint(
            "give a kernel that QEMU can start: a bzImage (arch/x86/boot/bzImage of a build, /boot/vmlinuz-... of a system) or a vmlinux",
        ))?;
        let modules = match modules {
            Some(folder) => Some(ModuleTree::given(folder, image.version.as_deref()).map_err(|why| {
                cannot()
                    .because(why)
                    .hint("--modules takes a folder that holds `lib/modules/VERSION` of this very kernel")
            })?),
            None => ModuleTree::beside(path, image.version.as_deref()),
        };
        let config = KernelConfig::beside(path, image.version.as_deref()).or_else(|| KernelConfig::inside(path));
        Ok(Self { path: path.to_owned(), version: image.version, config, modules })
    }

    /// Writes the kernel to a file as it is when it is unpacked, where it can be started so: a processor that is emulated takes
    /// seconds to do the same. Returns whether it did.
    pub(crate) fn unpack_to(&self, file: &Path) -> std::io::Result<bool> {
        match image::unpacked_with_entry(&self.path)? {
            Some(kernel) => vmdeck_files::write(file, &kernel).map(|()| true),
            None => Ok(false),
        }
    }

    /// Returns the name by which a person knows the kernel.
    pub fn name(&self) -> String {
        self.version.clone().unwrap_or_else(|| self.path.display().to_string())
    }

    /// Returns where the kernel's configuration was found.
    pub fn config_source(&self) -> Option<&str> {
        self.config.as_ref().map(|config| config.source.as_str())
    }

    /// Returns the folder of the kernel's modules.
    pub fn module_folder(&self) -> Option<&Path> {
        self.modules.as_ref().map(|tree| tree.folder.as_path())
    }

    /// Returns what the kernel lacks for these needs. What nothing tells about is not missing: the guest's console will tell.
    pub fn missing(&self, needs: &[KernelNeed]) -> Vec<Missing> {
        let all = needs.iter().flat_map(|need| need.features());
        all.filter_map(|feature| {
            let missing = |is_module| Some(Missing { feature, is_module });
            match self.has(feature) {
                Has::Yes | Has::Loadable | Has::Unknown => None,
                Has::No => missing(false),
                Has::ModuleElsewhere => missing(true),
            }
        })
        .collect()
    }

    /// Returns what the kernel lacks of that without which the guest is of no use.
    pub fn lacks(&self, needs: &[KernelNeed]) -> Vec<Missing> {
        self.missing(needs).into_iter().filter(|missing| missing.feature.is_required).collect()
    }

    /// Reads the modules for these needs, each after those that it depends on.
    pub(crate) fn module_files(&self, needs: &[KernelNeed]) -> Result<ModuleFiles> {
        let Some(tree) = &self.modules else { return Ok(ModuleFiles::default()) };
        let names = needs.iter().flat_map(|need| need.features()).filter_map(|feature| feature.module);
        tree.load_order(names)
            .map_err(|why| Fault::host(format!("cannot read the modules in `{}`", tree.folder.display())).because(why))
    }

    fn has(&self, feature: &Feature) -> Has {
        let module = feature.module.and_then(|name| self.modules.as_ref().map(|tree| tree.find(name)));
        match (module, self.config.as_ref().map(|config| config.get(feature.option))) {
            (Some(modules::ModulePlace::BuiltIn), _) | (_, Some(Setting::BuiltIn)) => Has::Yes,
            (Some(modules::ModulePlace::File), _) => Has::Loadable,
            (None, Some(Setting::Module)) => Has::ModuleElsewhere,
            (Some(modules::ModulePlace::None), _) | (None, Some(Setting::Off)) => Has::No,
            (None, None) => Has::Unknown,
        }
    }
}

/// Whether a kernel has a feature.
enum Has {
    Yes,
    /// As a module that is at hand.
    Loadable,
    /// As a module that is not at hand.
    ModuleElsewhere,
    No,
    Unknown,
}
