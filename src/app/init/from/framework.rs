//! The config of the KVM guest-test framework: `qemu.config.json`, with `common.json` beside it in the newer form.
//!
//! What vmdeck does by itself (console, monitor, network, accelerator) is left to it; other options of QEMU are kept.

use super::{
    draft::ConfigDraft,
    yaml::{self, scalar},
};
use serde_json::Value;
use std::path::Path;
use vmdeck_model::error::{Fault, Result};

/// The options of QEMU that vmdeck gives itself, or has keys for.
const OWN: &[&str] = &[
    "-accel",
    "-enable-kvm",
    "-nodefaults",
    "-nographic",
    "-no-reboot",
    "-name",
    "-cpu",
    "-smp",
    "-m",
    "-kernel",
    "-initrd",
    "-netdev",
    "-drive",
    "-append",
    "-bios",
    "-monitor",
    "-mon",
    "-serial",
    "-chardev",
    "-machine",
    "-display",
    "-vga",
    "-daemonize",
    "-pidfile",
    "-object",
    "-D",
];

/// Takes the guest over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let wrong = |why: &str| Fault::user(format!("cannot take `{}` over", path.display())).because(why);
    let text = yaml::text(path)?;
    let config: Value = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
    if !config["vm"].is_object() {
        return Err(wrong("it has no group `vm` as a config of the guest-test framework has"));
    }
    let beside = path.with_file_name("common.json");
    let files: Value = if beside.is_file() {
        serde_json::from_str(&yaml::text(&beside)?).map_err(|e| wrong(&format!("common.json: {e}")))?
    } else {
        Value::Null
    };
    let get = |key: &str| {
        scalar(&config["common"][key]).or_else(|| scalar(&files[key])).filter(|text| !text.trim().is_empty())
    };
    let guest = draft.guest("guest", "./none.qcow2", "");
    match get("guest_img") {
        Some(image) => draft.set(&guest, "qemu.image", image),
        None => draft.note("there is no `guest_img`"),
    }
    draft.unset(&guest, "image");
    if get("guest_img_format").as_deref() == Some("raw") {
        draft.set(&guest, "qemu.image_format", "raw");
    }
    for (from, to) in [
        ("kernel_img", "qemu.kernel"),
        ("initrd_img", "qemu.initrd"),
        ("bios_img", "qemu.firmware"),
        ("qemu_img", "qemu.binary"),
    ] {
        if let Some(value) = get(from) {
            draft.set(&guest, to, value);
        }
    }
    if let Some(cpus) = get("cpus").and_then(|text| text.parse::<i64>().ok()) {
        draft.set(&guest, "cpus", cpus);
    }
    if let Some(sockets) = get("sockets").and_then(|text| text.parse::<i64>().ok()) {
        draft.set(&guest, "qemu.sockets", sockets);
    }
    if let Some(memory) = get("mem").and_then(|text| text.trim_end_matches('G').parse::<u64>().ok()) {
        draft.set(&guest, "memory", format!("{memory}GiB"));
    }
    if let Some(pmu) = get("pmu").filter(|word| word == "on" || word == "off") {
        draft.set(&guest, "qemu.pmu", pmu);
    }
    match get("vm_type").as_deref() {
        None | Some("legacy") => {}
        Some(kind @ ("tdx" | "tdxio")) => draft.set(&guest, "qemu.vm_type", kind),
        Some(other) => draft.note(format!("`vm_type` = `{other}`")),
    }
    if let Some(pattern) = get("boot_pattern") {
        draft.set(&guest, "boot.pattern", pattern.trim_matches('*').to_owned());
    }
    draft.set(&guest, "ssh.user", "root");
    if get("guest_root_passwd").is_some() {
        let mut secret = toml::Table::new();
        secret.insert("env".into(), "GUEST_ROOT_PASSWORD".into());
        draft.set(&guest, "ssh.password", secret);
        draft.note("the password of root stays out of the config: put `guest_root_passwd` into the variable GUEST_ROOT_PASSWORD");
    }
    let mut extra = Vec::new();
    for group in ["vm", "tdx", "tdxio"] {
        for (key, value) in yaml::entries(&config[group]) {
            let Some(words) = scalar(value).and_then(|text| shlex::split(&text)) else {
                draft.note(format!("`{group}.{key}` is no list of words"));
                continue;
            };
            options(group, key, &words, &get, &guest, &mut extra, draft);
        }
    }
    if !extra.is_empty() {
        draft.set(&guest, "qemu.extra_args", toml::Value::Array(extra.into_iter().map(Into::into).collect()));
    }
    draft.note(
        "the executor's scripts: write a case for each TESTCASE; commands of the guest only, vmdeck does the rest",
    );
    Ok(())
}

/// Takes the options of one key over.
fn options(
    group: &str,
    key: &str,
    words: &[String],
    get: &dyn Fn(&str) -> Option<String>,
    guest: &str,
    extra: &mut Vec<String>,
    draft: &mut ConfigDraft<'_>,
) {
    let mut words = words.iter().peekable();
    while let Some(option) = words.next() {
        let value = words.next_if(|word| !word.starts_with('-'));
        let is_own = OWN.contains(&option.as_str())
            || (option == "-device"
                && value.is_some_and(|v| {
                    ["virtio-net", "virtio-serial", "virtconsole", "pvpanic"].iter().any(|own| v.starts_with(own))
                }));
        match (option.as_str(), value) {
            ("-append", Some(text)) => {
                let cmdline = get("cmdline").unwrap_or_default();
                let text = text.replace("$CMDLINE", cmdline.trim());
                draft.set(guest, "qemu.append", text.trim().to_owned());
            }
            _ if group != "vm" || is_own => {
                if group == "tdxio" {
                    draft.note(format!("`{group}.{key}`: `{option} {}`", value.map_or("", String::as_str)));
                }
            }
            (_, value) if value.is_some_and(|text| text.contains('$')) => {
                draft.note(format!(
                    "`{group}.{key}`: `{option} {}` has variables in it",
                    value.map_or("", String::as_str)
                ));
            }
            (option, value) => {
                extra.push(option.to_owned());
                extra.extend(value.cloned());
            }
        }
    }
}
