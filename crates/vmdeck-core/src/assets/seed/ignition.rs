//! The config for Ignition, by which `Fedora CoreOS` and Flatcar set a system up before its first boot (Ignition's specification 3.3).

use super::{keys::KeyPair, request::SeedRequest};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Returns the config; one of the user's own is merged into it, as Ignition does it.
pub(super) fn config(request: &SeedRequest<'_>, own: Option<&[u8]>, login: &KeyPair, host: &KeyPair) -> String {
    let data = |bytes: &[u8]| format!("data:;base64,{}", STANDARD.encode(bytes));
    let file = |path: &str, mode: u32, text: &str| json!({ "path": path, "mode": mode, "overwrite": true, "contents": { "source": data(text.as_bytes()) } });
    let mut config = json!({
        "ignition": { "version": "3.3.0" },
        "passwd": { "users": [{
            "name": request.user,
            "sshAuthorizedKeys": [login.public],
            // These may become root without a password.
            "groups": ["sudo", "wheel"],
        }] },
        "storage": { "files": [
            file("/etc/hostname", 0o644, &format!("{}\n", request.name)),
            file("/etc/ssh/ssh_host_ed25519_key", 0o600, &host.private),
            file("/etc/ssh/ssh_host_ed25519_key.pub", 0o644, &format!("{}\n", host.public)),
        ] },
    });
    if request.user == "root" {
        config["passwd"]["users"][0]["groups"] = Value::Null;
    }
    if let Some(own) = own {
        config["ignition"]["config"] = json!({ "merge": [{ "source": data(own) }] });
    }
    config.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::guest::Seed;

    #[test]
    fn keys_are_in_it_and_the_user_s_own_config_is_merged() {
        let (login, host) = (KeyPair::generate("a").expect("key"), KeyPair::generate("b").expect("key"));
        let request =
            SeedRequest { seed: Seed::Ignition, user: "core", shell: "/bin/bash", name: "h\"x", user_data: None };
        let own = br#"{"ignition":{"version":"3.3.0"}}"#;
        let config: Value = serde_json::from_str(&config(&request, Some(own), &login, &host)).expect("JSON");
        assert_eq!(config["passwd"]["users"][0]["sshAuthorizedKeys"][0], login.public);
        let source = config["ignition"]["config"]["merge"][0]["source"].as_str().expect("a source");
        assert_eq!(STANDARD.decode(source.trim_start_matches("data:;base64,")).expect("base64"), own);
        let key = &config["storage"]["files"][1];
        assert_eq!((key["mode"].as_u64(), key["path"].as_str()), (Some(384), Some("/etc/ssh/ssh_host_ed25519_key")));
    }
}
