//! A kernel's configuration: the file beside the kernel, the one of the folder in which it was built, or the one inside of it.

use super::image;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What stands before a configuration inside of a kernel (`CONFIG_IKCONFIG`); a gzip file follows.
const IKCONFIG: &[u8] = b"IKCFG_ST";
/// Longest configuration, in bytes.
const CONFIG_MAX: usize = 16 << 20;

/// A kernel's configuration.
#[derive(Debug)]
pub(super) struct KernelConfig {
    /// Where it was found.
    pub(super) source: String,
    set: BTreeMap<String, Setting>,
}

/// What a configuration says of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    BuiltIn,
    Module,
    Off,
}

impl KernelConfig {
    /// Reads `config-VERSION` or `config` beside the kernel, or `.config` of the folder that it was built in.
    pub(super) fn beside(kernel: &Path, version: Option<&str>) -> Option<Self> {
        let folder = kernel.parent()?;
        let named = version.map(|version| folder.join(format!("config-{version}")));
        // A build leaves the kernel in arch/NAME/boot below the folder with its configuration, or in that folder itself.
        let built_in = if folder.ends_with("boot") { kernel.ancestors().nth(4) } else { None };
        let build = built_in.into_iter().chain([folder]).map(|above| above.join(".config"));
        let candidates: Vec<PathBuf> = named.into_iter().chain([folder.join("config")]).chain(build).collect();
        candidates.iter().find_map(|path| {
            let text = vmdeck_files::read_text(path, CONFIG_MAX as u64).ok()?;
            Self::parse(path.display().to_string(), &text)
        })
    }

    /// Reads the configuration inside of the kernel.
    pub(super) fn inside(kernel: &Path) -> Option<Self> {
        let packed = image::find_inside(kernel, IKCONFIG).ok()??;
        let text = super::super::compressed::decode(&packed, CONFIG_MAX).ok()?;
        Self::parse("inside of the kernel".to_owned(), &String::from_utf8_lossy(&text))
    }

    /// Reads `CONFIG_X=y` lines; `None` = there are none, so this is something else.
    fn parse(source: String, text: &str) -> Option<Self> {
        let set: BTreeMap<String, Setting> = text
            .lines()
            .filter_map(|line| {
                let (option, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
                let setting = match value {
                    "m" => Setting::Module,
                    "n" => Setting::Off,
                    _ => Setting::BuiltIn,
                };
                Some((option.to_owned(), setting))
            })
            .collect();
        (!set.is_empty()).then_some(Self { source, set })
    }

    pub(super) fn get(&self, option: &str) -> Setting {
        self.set.get(option).copied().unwrap_or(Setting::Off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_comments_are_not() {
        let text = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\r\nCONFIG_D=\"text\"\n#CONFIG_E=y\nCONFIG_F=n\n";
        let config = KernelConfig::parse("x".into(), text).expect("a configuration");
        for (option, setting) in [
            ("A", Setting::Off),
            ("B", Setting::BuiltIn),
            ("C", Setting::Module),
            ("D", Setting::BuiltIn),
            ("E", Setting::Off),
            ("F", Setting::Off),
            ("G", Setting::Off),
        ] {
            assert_eq!(config.get(option), setting, "{option}");
        }
        assert!(KernelConfig::parse("x".into(), "<html>\n").is_none());
    }
}
