//! The files of a seed for cloud-init's source `NoCloud`.
//!
//! Written as JSON, which is YAML: no value can break out of its place. Facts: both `user-data` and `meta-data` must be there;
//! without `manage_etc_hosts` sudo complains; with a locale an image without the package `locales` ends with an error.

use super::keys::KeyPair;
use crate::host::random;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Returns the files by name.
pub(super) fn files(user: &str, name: &str, login: &KeyPair, host: &KeyPair) -> BTreeMap<&'static str, Vec<u8>> {
    let own = json!({
        "name": user,
        "ssh_authorized_keys": [login.public],
        "lock_passwd": true,
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "shell": "/bin/bash",
    });
    let root = json!({ "name": "root", "ssh_authorized_keys": [login.public] });
    let users = if user == "root" { json!([root]) } else { json!([own, root]) };
    let config = json!({
        "users": users,
        "disable_root": false,
        "ssh_pwauth": false,
        // The machine's own host key, so that already the first contact is verified; no other is made.
        "ssh_deletekeys": true,
        "ssh_keys": { "ed25519_private": host.private, "ed25519_public": host.public },
        "package_update": false,
        "package_upgrade": false,
        "manage_etc_hosts": true,
        "locale": false,
        "growpart": { "mode": "auto" },
        "final_message": "vmdeck: cloud-init has ended after $UPTIME s",
    });
    // A new id for each machine: what is done once for each instance is done for each of them.
    let meta = json!({ "instance-id": format!("vmdeck-{:032x}", random::u128()), "local-hostname": name });
    let network = json!({ "version": 2, "ethernets": { "all": { "match": { "name": "e*" }, "dhcp4": true } } });
    let text = |value: &Value| value.to_string();
    BTreeMap::from([
        ("user-data", format!("#cloud-config\n{}\n", text(&config)).into_bytes()),
        ("meta-data", format!("{}\n", text(&meta)).into_bytes()),
        ("network-config", format!("{}\n", text(&network)).into_bytes()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_there_and_no_value_breaks_out() {
        let (login, host) = (KeyPair::generate("a").expect("key"), KeyPair::generate("b").expect("key"));
        let all = files("o'neil: \"x\"\n- y", "h", &login, &host);
        let text = String::from_utf8(all["user-data"].clone()).expect("text");
        let config: Value =
            serde_json::from_str(text.strip_prefix("#cloud-config\n").expect("its first line")).expect("JSON");
        assert_eq!(config["users"][0]["name"], "o'neil: \"x\"\n- y");
        assert_eq!(config["ssh_keys"]["ed25519_public"], host.public);
        let id = |all: &BTreeMap<&str, Vec<u8>>| -> Value { serde_json::from_slice(&all["meta-data"]).expect("JSON") };
        assert_ne!(id(&all)["instance-id"], id(&files("u", "h", &login, &host))["instance-id"]);
    }
}
