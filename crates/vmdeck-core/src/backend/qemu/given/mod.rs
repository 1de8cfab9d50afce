//! A command line of QEMU that the config gives whole, made fit for vmdeck: only what would let the machine escape its run, harm its
//! image, or keep its console from being read is changed, and each change is said.

mod fitting;
mod option;
#[cfg(test)]
mod tests;

use super::argv::{Files, escape, path};
use crate::backend::request::Service;
use fitting::Fitting;
use option::{GivenOption, is_of, property, read};
use std::path::PathBuf;

/// The options that make a disk to which `-snapshot` applies.
const DISKS: &[&str] = &["drive", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash"];

/// What this host and this QEMU say about a command line.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostFacts {
    /// Whether the processor is emulated.
    pub(super) emulated: bool,
    /// Whether QEMU does not know `-no-hpet` any more (from 9.0 on).
    pub(super) lacks_no_hpet: bool,
    /// Whether QEMU's tdx-guest has no property `debug`.
    pub(super) lacks_tdx_debug: bool,
    /// Whether the guest shall reach nothing, by the config's word.
    pub(super) restricted: bool,
}

/// A command line that is fit, and what was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) arguments: Vec<String>,
    /// What was changed, a line each.
    pub(super) changes: Vec<String>,
    /// What stays although it opens the machine to others, a line each.
    pub(super) warnings: Vec<String>,
}

/// Returns why a command line cannot be used at all.
pub(super) fn refuse(given: &[String]) -> Option<String> {
    read(given).into_iter().find_map(|GivenOption { name, value, flag }| {
        let value = value.unwrap_or_default();
        let writes = || {
            let parts: Vec<&str> = value.split(',').collect();
            !(parts.contains(&"read-only=on") || value.replace(' ', "").contains("\"read-only\":true"))
        };
        match name.as_str() {
            // `-snapshot` does not reach it.
            "blockdev" if writes() => {
                Some(format!("`{flag} {value}` would be written to; use -drive, or read-only=on"))
            }
            "netdev" | "nic" | "chardev" if value.starts_with('{') => {
                Some(format!("`{flag} {value}` is JSON, in which nothing can be changed; write it as options"))
            }
            _ => None,
        }
    })
}

/// Returns the command line as it can be started.
pub(super) fn fit(
    given: &[String],
    host: HostFacts,
    name: &str,
    uuid: &str,
    files: &Files,
    services: &[Service],
) -> Fit {
    let mut fitting = Fitting { words: read(given), changes: Vec::new(), host };
    fitting.processor();
    fitting.old_options();
    fitting.debug();
    fitting.disks();
    fitting.monitors(files);
    fitting.console(files);
    fitting.forwards(services);
    let warnings = fitting.open_doors();
    let has_disk = fitting.words.iter().any(|word| DISKS.contains(&&*word.name));
    let has_snapshot = fitting.words.iter().any(|word| word.name == "snapshot");
    let mut own = vec!["-name".to_owned(), escape(name), "-uuid".to_owned(), uuid.to_owned()];
    own.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", path(&files.qmp))]);
    if has_disk && !has_snapshot {
        own.push("-snapshot".to_owned());
        fitting.changes.push("added `-snapshot`: what the guest writes goes with the machine".into());
    }
    let Fitting { words, changes, .. } = fitting;
    for word in words {
        own.push(word.flag);
        own.extend(word.value);
    }
    // The last word about it counts.
    own.extend(["-action", "panic=pause", "-S"].map(str::to_owned));
    Fit { arguments: own, changes, warnings }
}

/// Returns the files that a command line names, each with what it is.
pub(super) fn files(given: &[String]) -> Vec<(&'static str, PathBuf)> {
    let mut out = Vec::new();
    for GivenOption { name, value, .. } in read(given) {
        let Some(value) = value else { continue };
        match name.as_str() {
            "kernel" => out.push(("kernel", value.into())),
            "initrd" => out.push(("initrd", value.into())),
            "bios" => out.push(("firmware", value.into())),
            "drive" => {
                let file = property(&value, "file=");
                // One of another protocol, such as `nbd:`, is no file of this host; a doubled comma is a comma.
                let is_plain = |file: &&str| !file.contains(':') && !value.contains(",,");
                out.extend(file.filter(is_plain).map(|file| ("image", file.into())));
            }
            _ => {}
        }
    }
    out
}

/// Returns the PCI devices that a command line passes through.
pub(super) fn passed_through(given: &[String]) -> Vec<String> {
    let devices = read(given).into_iter().filter(|word| word.name == "device").filter_map(|word| word.value);
    let host = |value: String| property(&value, "host=").map(str::to_owned);
    devices.filter(|value| is_of(value, "vfio-pci")).filter_map(host).collect()
}
