//! The files of a seed for cloud-init's source `NoCloud`.
//!
//! Written as JSON, which is YAML: no value can break out of its place. Facts: both `user-data` and `meta-data` must be there;
//! without `manage_etc_hosts` sudo complains; with a locale an image without the package `locales` ends with an error.

use super::{keys::KeyPair, request::SeedRequest};
use crate::host::random;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a file for cloud-init may begin with, and its kind (cloud-init's documentation: User-data formats).
pub(super) const KINDS: [(&str, &str); 6] = [
    ("#cloud-config", "text/cloud-config"),
    ("#!", "text/x-shellscript"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include", "text/x-include-url"),
    ("#part-handler", "text/part-handler"),
    ("## template: jinja", "text/jinja2"),
];
/// How the user's part is added to ours: lists grow, and what ours says stays (cloud-init's documentation: Merging User-Data Sections).
const MERGE: &str = "list(append)+dict(no_replace,recurse_list)+str()";

/// Returns the kind of a user's own file, by its beginning.
pub(super) fn kind(bytes: &[u8]) -> Option<&'static str> {
    KINDS.iter().find(|(head, _)| bytes.starts_with(head.as_bytes())).map(|(_, kind)| *kind)
}

/// Returns both parts as one text of several parts, which cloud-init merges in their order.
fn merged(ours: &str, own: &[u8]) -> String {
    let boundary = format!("vmdeck-{:032x}", random::u128());
    let part = |kind: &str, more: &str, bytes: &[u8]| {
        format!(
            "--{boundary}\nContent-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n{more}\n{}\n",
            STANDARD.encode(bytes)
        )
    };
    format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n{}{}--{boundary}--\n",
        part("text/cloud-config", "", ours.as_bytes()),
        part(kind(own).unwrap_or("text/plain"), &format!("Merge-Type: {MERGE}\n"), own)
    )
}

/// Returns the files by name; `own` = what the user gives besides.
pub(super) fn files(
    request: &SeedRequest<'_>,
    own: Option<&[u8]>,
    login: &KeyPair,
    host: &KeyPair,
) -> BTreeMap<&'static str, Vec<u8>> {
    let (user, user_data) = (request.user, own);
    let own = json!({
        "name": user,
        "ssh_authorized_keys": [login.public],
        "lock_passwd": true,
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "shell": request.shell,
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
    let meta = json!({ "instance-id": format!("vmdeck-{:032x}", random::u128()), "local-hostname": request.name });
    let network = json!({ "version": 2, "ethernets": { "all": { "match": { "name": "e*" }, "dhcp4": true } } });
    let text = |value: &Value| value.to_string();
    let user_data = match user_data {
        Some(bytes) => merged(&format!("#cloud-config\n{}\n", text(&config)), bytes),
        None => format!("#cloud-config\n{}\n", text(&config)),
    };
    BTreeMap::from([
        ("user-data", user_data.into_bytes()),
        ("meta-data", format!("{}\n", text(&meta)).into_bytes()),
        ("network-config", format!("{}\n", text(&network)).into_bytes()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::guest::Seed;

    #[test]
    fn a_file_of_the_user_s_is_added_to_ours() {
        let (login, host) = (KeyPair::generate("a").expect("key"), KeyPair::generate("b").expect("key"));
        let request = SeedRequest { seed: Seed::CloudInit, user: "ci", shell: "/bin/sh", name: "h", user_data: None };
        for (own, kind_of_it) in [
            ("#cloud-config\npackages: [git]\n", Some("text/cloud-config")),
            ("#!/bin/sh\ntouch /x\n--vmdeck-0\n", Some("text/x-shellscript")),
            ("packages: [git]\n", None),
        ] {
            assert_eq!(kind(own.as_bytes()), kind_of_it);
            let all = files(&request, Some(own.as_bytes()), &login, &host);
            let text = String::from_utf8(all["user-data"].clone()).expect("text");
            let parts: Vec<String> = text
                .split("\n\n")
                .skip(2)
                .map(|part| part.lines().next().expect("base64"))
                .map(|line| String::from_utf8(STANDARD.decode(line).expect("base64")).expect("text"))
                .collect();
            assert!(parts[0].starts_with("#cloud-config\n") && parts[0].contains("ssh_keys"), "{}", parts[0]);
            assert!(parts[1] == own && text.matches("Merge-Type: list(append)").count() == 1, "{text}");
        }
    }

    #[test]
    fn every_file_is_there_and_no_value_breaks_out() {
        let (login, host) = (KeyPair::generate("a").expect("key"), KeyPair::generate("b").expect("key"));
        let request = |user| SeedRequest { seed: Seed::CloudInit, user, shell: "/bin/sh", name: "h", user_data: None };
        let all = files(&request("o'neil: \"x\"\n- y"), None, &login, &host);
        let text = String::from_utf8(all["user-data"].clone()).expect("text");
        let config: Value =
            serde_json::from_str(text.strip_prefix("#cloud-config\n").expect("its first line")).expect("JSON");
        assert_eq!(config["users"][0]["name"], "o'neil: \"x\"\n- y");
        assert_eq!(config["ssh_keys"]["ed25519_public"], host.public);
        let id = |all: &BTreeMap<&str, Vec<u8>>| -> Value { serde_json::from_slice(&all["meta-data"]).expect("JSON") };
        assert_ne!(id(&all)["instance-id"], id(&files(&request("u"), None, &login, &host))["instance-id"]);
    }
}
