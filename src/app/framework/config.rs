//! The framework's files: `qemu.config.json`, and in the newer form `common.json` beside it.
//!
//! The form of 2023 has everything in `qemu.config.json`; the newer one has the files, the boot pattern and the password in
//! `common.json`. The order of keys in a group counts: it is that of QEMU's arguments.

use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use vmdeck_model::error::{Fault, Result};

/// The keys that moved to `common.json`.
const FILES: [&str; 8] = [
    "kernel_img",
    "initrd_img",
    "bios_img",
    "qemu_img",
    "guest_img",
    "guest_img_format",
    "boot_pattern",
    "guest_root_passwd",
];
/// The keys that flags replace.
const DEFAULTS: [&str; 7] = ["vm_type", "pmu", "cpus", "sockets", "mem", "cmdline", "debug"];
/// Those of them that may be numbers.
const NUMBERS: [&str; 3] = ["cpus", "sockets", "mem"];
/// The groups of QEMU's arguments.
const GROUPS: [&str; 3] = ["vm", "tdx", "tdxio"];

/// Which of its two forms a config has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::app) enum Form {
    /// All in one file.
    Old,
    /// With a `common.json`.
    New,
}

/// A config of the framework.
#[derive(Clone, Debug)]
pub(in crate::app) struct Config {
    pub(in crate::app) form: Form,
    /// The file with the groups, for messages.
    pub(in crate::app) path: PathBuf,
    values: BTreeMap<&'static str, String>,
    groups: BTreeMap<&'static str, Vec<(String, String)>>,
}

impl Config {
    /// Reads `qemu.config.json` and, where there is one, `common.json`.
    pub(in crate::app) fn read(qemu: &Path, common: Option<&Path>) -> Result<Self> {
        let main = object(qemu)?;
        let Some(defaults) = main.get("common").and_then(Value::as_object) else {
            return Err(cannot(qemu).because("it has no group `common`, as a config of the guest-test framework has"));
        };
        let is_old = defaults.contains_key("qemu_img");
        let common = match common {
            Some(path) => Some((path, object(path)?)),
            None => None,
        };
        let form = if is_old && common.as_ref().is_none_or(|(_, own)| !own.contains_key("qemu_img")) {
            Form::Old
        } else {
            Form::New
        };
        let (files_path, files) = match (&form, &common) {
            (Form::New, Some((path, own))) => (*path, own),
            _ => (qemu, defaults),
        };
        let mut values = BTreeMap::new();
        for (path, table, keys) in [(files_path, files, &FILES[..]), (qemu, defaults, &DEFAULTS[..])] {
            for key in keys {
                if let Some(value) = table.get(*key) {
                    values.insert(*key, text(path, key, value)?);
                }
            }
        }
        let mut groups = BTreeMap::new();
        for group in GROUPS {
            let Some(value) = main.get(group) else { continue };
            let table =
                value.as_object().ok_or_else(|| cannot(qemu).because(format!("`{group}` is no group of keys")))?;
            let mut rows = Vec::new();
            for (key, value) in table {
                let Some(text) = value.as_str() else {
                    return Err(cannot(qemu).because(format!("`{group}.{key}` is no text")));
                };
                rows.push((key.clone(), text.to_owned()));
            }
            groups.insert(group, rows);
        }
        Ok(Self { form, path: qemu.to_owned(), values, groups })
    }

    /// Returns a value of either file.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Returns the rows of a group in the order of the file; `None` = there is no such group.
    pub(super) fn group(&self, group: &str) -> Option<&[(String, String)]> {
        self.groups.get(group).map(Vec::as_slice)
    }
}

/// Returns the fault of a file that cannot be used.
pub(super) fn cannot(path: &Path) -> Fault {
    Fault::user(format!("cannot use `{}`", path.display()))
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = vmdeck_files::read_text(path, vmdeck_files::LARGE).map_err(|e| cannot(path).because(e))?;
    // Editors of some systems begin a file with a mark.
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(table)) => Ok(table),
        Ok(_) => Err(cannot(path).because("it holds no keys")),
        Err(e) => Err(cannot(path).because(e)),
    }
}

fn text(path: &Path, key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) if text.contains('\0') => {
            Err(cannot(path).because(format!("`{key}` has a character that no argument can have")))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if NUMBERS.contains(&key) => Ok(number.to_string()),
        other => {
            // A password is shown nowhere.
            let shown = if key == "guest_root_passwd" { String::new() } else { format!(" = {other}") };
            let hint = match key {
                "pmu" | "debug" => "write \"on\" or \"off\"",
                _ => "write it in double quotes",
            };
            Err(cannot(path).because(format!("`{key}`{shown} is no text")).hint(hint))
        }
    }
}
