//! `config.example.toml`: every key with its default and its meaning, made from the key tables.
//!
//! A test compares the file in the repository with this, and parses it.

use std::collections::BTreeMap;
use vmdeck_model::key::Key;

/// Returns the whole file; keys without a default are commented out.
pub fn render(keys: &[Key]) -> String {
    let mut sections: Vec<(String, Vec<&Key>)> = Vec::new();
    let mut place = BTreeMap::new();
    for key in keys {
        let section = section(key.path);
        let at = *place.entry(section.clone()).or_insert_with(|| {
            sections.push((section, Vec::new()));
            sections.len() - 1
        });
        sections[at].1.push(key);
    }
    sections.sort_by_key(|(name, _)| (order(name), name.matches('.').count()));
    let mut out = String::from(
        "# Every key of vmdeck.toml with its built-in default. A key after `#` has none; its value shows the form.\n\
         # Any key of a guest may also be set in [defaults], for all guests. Those of a case that do not say what it is (timeout, retries, env,\n\
         # before_each, ..) may be set in [defaults.case], for the cases of all suites.\n",
    );
    for (name, keys) in sections {
        // A table whose name alone would mean something.
        let lead =
            if ["[images.catalogue", "[trouble"].iter().any(|table| name.starts_with(table)) { "# " } else { "" };
        out.push_str(&format!("\n{lead}{name}\n"));
        for key in keys {
            let last = key.path.rsplit('.').next().unwrap_or_default();
            let (lead, value) = match key.default {
                Some(value) => ("", value),
                None => forms(key.path),
            };
            out.push_str(&format!("{:<42} # {}\n", format!("{lead}{last} = {value}"), key.doc));
        }
    }
    out
}

/// Returns the table header of a key.
fn section(path: &str) -> String {
    let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
    let named = match parent.split('.').next() {
        Some("guests") => parent.replacen('*', "debian", 1),
        Some("images") => parent.replacen('*', "own", 1),
        Some("trouble") => parent.replacen('*', "firmware-bug", 1),
        _ => parent.replacen('*', "smoke", 1),
    };
    match named.strip_suffix(".[]") {
        Some(list) => format!("[[{list}]]"),
        None => format!("[{named}]"),
    }
}

fn order(section: &str) -> usize {
    ["[host", "[images", "[snapshots", "[compat", "[guests", "[suites", "[[suites"]
        .iter()
        .position(|p| section.starts_with(p))
        .unwrap_or(9)
}

/// Returns a value that shows a key without a default; the required ones are not commented out.
fn forms(path: &str) -> (&'static str, &'static str) {
    match path {
        "guests.*.backend" => ("", "\"qemu\""),
        "suites.*.cases.[].name" => ("", "\"install\""),
        "suites.*.cases.[].run" => ("", "\"./install.sh && ./check.sh\""),
        "images.catalogue.*.versions" => ("# ", "{ 1 = \"one\" }"),
        "images.catalogue.*.arch" => ("# ", "{ x86_64 = \"amd64\" }"),
        "images.catalogue.*.image" => ("# ", "\"https://own.example/{release}/{stamp}/own-{arch}.qcow2\""),
        "images.catalogue.*.index" => ("# ", "\"https://own.example/{release}/\""),
        "images.catalogue.*.listed" => ("# ", "\"{stamp}/\""),
        "images.catalogue.*.stamp" => ("# ", "'\\d{8}'"),
        "images.catalogue.*.sums" => ("# ", "\"SHA256SUMS\""),
        "images.catalogue.*.moving" => ("# ", "\"https://own.example/{release}/latest/own-{arch}.qcow2\""),
        "images.catalogue.*.seed" => ("# ", "\"cloud-init\""),
        "images.catalogue.*.firmware" => ("# ", "\"uefi\""),
        "images.catalogue.*.mirror" | "images.mirror" => ("# ", "\"https://mirror.example/images\""),
        "host.keep_records" | "host.keep_days" => ("# ", "50"),
        "host.keep_size" => ("# ", "\"10GiB\""),
        "suites.*.cases.[].background" => ("# ", "\"until-end\""),
        "suites.*.cases.[].ready" => ("# ", "\"/listening on/\""),
        "images.max_size" => ("# ", "\"40GiB\""),
        "guests.*.snapshot" => ("# ", "\"after-boot\""),
        "images.max_age" => ("# ", "\"30d\""),
        "guests.*.user_data" => ("# ", "\"user-data.yaml\""),
        "images.catalogue.*.shell" => ("# ", "\"/bin/sh\""),
        "trouble.*.pattern" => ("# ", "'\\[Firmware Bug\\]'"),
        "trouble.*.category" => ("# ", "\"own\""),
        "trouble.*.severity" => ("# ", "\"warn\""),
        "trouble.*.ends" => ("# ", "\"nothing\""),
        "guests.*.image" => ("# ", "\"debian:12\""),
        "host.lock_shared" | "guests.*.ssh.agent" => ("# ", "true"),
        "guests.*.shares.[].read_only" => ("# ", "false"),
        "guests.*.shares.[].path" => ("# ", "\"code\""),
        "guests.*.shares.[].to" => ("# ", "\"/opt/code\""),
        "guests.*.shares.[].by" => ("# ", "\"9p\""),
        "guests.*.boot.pattern" => ("# ", "\"login:\""),
        "guests.*.transports" => ("# ", "[\"ssh\", \"exec\"]"),
        "guests.*.source.path" => ("# ", "\".\""),
        "guests.*.source.to" => ("# ", "\"/home/ci/src/app\""),
        "guests.*.ssh.host_key" => ("# ", "\"ssh-ed25519 AAAA...\""),
        "guests.*.qemu.pmu" => ("# ", "\"off\""),
        "guests.*.fake.fail" => ("# ", "\"boot\""),
        "suites.*.cases.[].retries" | "guests.*.qemu.sockets" => ("# ", "1"),
        p if p.ends_with("timeout") => ("# ", "\"2m\""),
        p if p.ends_with("password") || p.ends_with("passphrase") => ("# ", "{ env = \"CI_PASSWORD\" }"),
        _ => ("# ", "\"...\""),
    }
}
