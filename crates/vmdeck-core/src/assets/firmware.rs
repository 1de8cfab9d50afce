//! Firmware of this host for virtual machines, found by the descriptions that its packages bring (QEMU: docs/interop/firmware.json).

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where descriptions are; a file in a later folder takes the place of one of the same name in an earlier.
const FOLDERS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

/// A UEFI firmware in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uefi {
    /// The program; never written.
    pub(crate) code: PathBuf,
    /// The variables as they begin; each machine writes to a copy.
    pub(crate) variables: PathBuf,
    /// Whether the machine must have the system management mode.
    pub(crate) needs_smm: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<FirmwareFile>,
    nvram_template: Option<FirmwareFile>,
}

#[derive(Deserialize)]
struct FirmwareFile {
    filename: PathBuf,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
}

/// Finds a UEFI firmware for a processor (`x86_64`, `aarch64`), with keys that Secure Boot asks for or without Secure Boot.
pub(crate) fn find_uefi(processor: &str, secure: bool) -> Option<Uefi> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        files.extend(entries.filter_map(|path| Some((path.file_name()?.to_owned(), path))));
    }
    files.values().find_map(|path| {
        let text = vmdeck_files::read(path, vmdeck_files::SMALL).ok()?;
        fitting(&text, processor, secure).filter(|uefi| [&uefi.code, &uefi.variables].iter().all(|file| file.is_file()))
    })
}

/// Returns the firmware of a description, if it is one that fits.
fn fitting(text: &[u8], processor: &str, secure: bool) -> Option<Uefi> {
    let description: Description = serde_json::from_slice(text).ok()?;
    let has = |feature: &str| description.features.iter().any(|known| known == feature);
    let fits = description.interface_types.iter().any(|kind| kind == "uefi")
        && description.mapping.device == "flash"
        && description.targets.iter().any(|target| target.architecture == processor)
        && !has("amd-sev-es")
        && if secure { has("secure-boot") && has("enrolled-keys") } else { !has("secure-boot") };
    let place = |place: Option<FirmwareFile>| place.map(|place| place.filename).filter(|path| path.is_absolute());
    let needs_smm = has("requires-smm");
    let (code, variables) = (place(description.mapping.executable), place(description.mapping.nvram_template));
    code.zip(variables).filter(|_| fits).map(|(code, variables)| Uefi { code, variables, needs_smm })
}

/// Returns the folders where descriptions are looked for, for a message.
pub(crate) fn folders() -> impl Iterator<Item = &'static Path> {
    FOLDERS.iter().map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(features: &str, device: &str) -> String {
        format!(
            r#"{{"description":"x","interface-types":["uefi"],"mapping":{{"device":"{device}","executable":{{"filename":"/c","format":"raw"}},
            "nvram-template":{{"filename":"/v","format":"raw"}}}},"targets":[{{"architecture":"x86_64","machines":["pc-q35-*"]}}],
            "features":[{features}],"tags":[]}}"#
        )
    }

    #[test]
    fn a_description_is_chosen_by_its_features() {
        let plain = description("\"acpi-s3\"", "flash");
        let secure = description("\"secure-boot\",\"enrolled-keys\",\"requires-smm\"", "flash");
        let test = description("\"secure-boot\",\"requires-smm\"", "flash");
        let uefi = |needs_smm| Some(Uefi { code: "/c".into(), variables: "/v".into(), needs_smm });
        for (text, processor, wants_secure, wanted) in [
            (&plain, "x86_64", false, uefi(false)),
            (&plain, "x86_64", true, None),
            (&plain, "aarch64", false, None),
            (&secure, "x86_64", true, uefi(true)),
            (&secure, "x86_64", false, None),
            (&test, "x86_64", true, None),
            (&description("", "memory"), "x86_64", false, None),
            (&"no description".to_owned(), "x86_64", false, None),
        ] {
            assert_eq!(fitting(text.as_bytes(), processor, wants_secure), wanted, "{processor} {wants_secure} {text}");
        }
    }
}
