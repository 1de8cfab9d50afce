//! `vmdeck init --from FILE`: the config of another tool to one of vmdeck, with a list of what could not be taken over.

mod debian;
mod draft;
mod fmf;
mod framework;
mod github;
mod kitchen;
mod spread;
mod systems;
mod tmt;
mod vagrant;
mod yaml;

use crate::app::settings;
use draft::ConfigDraft;
use std::{ffi::OsString, path::Path};
use vmdeck_model::error::{Fault, Result};

/// A config that was taken over.
#[derive(Debug)]
pub(super) struct Converted {
    pub text: String,
    pub what: String,
    /// What could not be taken over, or needs a person.
    pub notes: Vec<String>,
}

/// The one tool whose config is read with flags.
const FRAMEWORK: &str = "the guest-test framework";

type Converter = fn(&Path, &mut ConfigDraft<'_>) -> Result<()>;

/// Returns the name of the tool whose file this is, and what takes it over.
fn converter(path: &Path) -> Option<(&'static str, Converter)> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let holds = |inner: &str| path.join(inner).exists();
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|own| own == end);
    match name {
        "spread.yaml" | ".spread.yaml" => Some(("spread", spread::convert)),
        "kitchen.yml" | ".kitchen.yml" | "kitchen.yaml" | ".kitchen.yaml" => Some(("Test Kitchen", kitchen::convert)),
        "Vagrantfile" => Some(("Vagrant", vagrant::convert)),
        "control" if path.parent().is_some_and(|folder| folder.ends_with("debian/tests")) => {
            Some(("autopkgtest", debian::convert))
        }
        _ if (ends(path, "yml") || ends(path, "yaml")) && path.parent().is_some_and(|p| p.ends_with("workflows")) => {
            Some(("GitHub Actions", github::convert))
        }
        _ if ends(path, "fmf") || holds(".fmf") => Some(("tmt", tmt::convert)),
        _ if ends(path, "json") => Some((FRAMEWORK, framework::convert)),
        _ => None,
    }
}

/// Takes a config over; of a folder the file in it. `flags` = those of the other tool's program, where its config depends on them.
pub(super) fn convert(path: &Path, flags: &[OsString]) -> Result<Converted> {
    let cannot = || Fault::user(format!("cannot take `{}` over", path.display()));
    if !path.exists() {
        return Err(cannot().because("there is no such file"));
    }
    let inner = [
        "spread.yaml",
        ".spread.yaml",
        "kitchen.yml",
        ".kitchen.yml",
        "Vagrantfile",
        "qemu.config.json",
        "debian/tests/control",
    ];
    let within = inner.iter().map(|name| path.join(name)).find(|file| path.is_dir() && file.exists());
    let path = within.unwrap_or_else(|| path.to_owned());
    let Some((tool, convert)) = converter(&path) else {
        return Err(cannot().because("it is not known what it is of").hint(
            "--from takes a spread.yaml, a tree of tmt (.fmf), a kitchen.yml, a Vagrantfile, debian/tests/control, a file of \
             .github/workflows, or a qemu.config.json",
        ));
    };
    let catalogue = settings::built_in()?.host.images.catalogue;
    let root = if tool == "tmt" { fmf::root(&path) } else { path.parent().unwrap_or(Path::new(".")).to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    let folder = match root.strip_prefix(&here).unwrap_or(&root).to_str() {
        Some("") => ".".to_owned(),
        Some(text) => text.to_owned(),
        None => return Err(cannot().because("its folder's path is not UTF-8")),
    };
    if !flags.is_empty() && tool != FRAMEWORK {
        return Err(cannot().because(format!("a config of {tool} takes no flags")));
    }
    let mut draft = ConfigDraft::new(&catalogue, &folder, flags);
    convert(&path, &mut draft)?;
    if draft.is_empty() {
        return Err(cannot().because(format!("it names no machine, as a config of {tool} does")));
    }
    let from = format!("{} ({tool})", path.display());
    let (text, notes) = draft.finish(&from).map_err(|e| Fault::bug("cannot write the config").because(e))?;
    Ok(Converted { text, what: format!("made from {from}"), notes })
}

#[cfg(test)]
mod tests;
