//! The variables of the systems that vmdeck replaces, and what each means here. docs/migrating.md says the same for
//! people.

use vmdeck_core::config::old_name::{OldName, To};

/// A family of old names, as in `[compat] env`.
const TRUSTINSTALL: &str = "trustinstall";
const VM_TESTS: &str = "vm-tests";

const fn old(family: &'static str, name: &'static str, to: To) -> OldName {
    OldName { family, name, to, note: None }
}

const fn noted(family: &'static str, name: &'static str, to: To, note: &'static str) -> OldName {
    OldName { family, name, to, note: Some(note) }
}

const fn of_utm(name: &'static str, os: Option<&'static str>, key: &'static str) -> OldName {
    old(TRUSTINSTALL, name, To::Guests { backend: "utm", os, key, with: None })
}

const fn repo(name: &'static str, os: &'static str) -> OldName {
    let to = To::Guests { backend: "utm", os: Some(os), key: "source.to", with: Some(("source.path", ".")) };
    noted(TRUSTINSTALL, name, to, "the folder in the guest is always replaced with the contents of `source.path`")
}

const fn gone(name: &'static str, note: &'static str) -> OldName {
    noted(TRUSTINSTALL, name, To::Nothing, note)
}

const NO_DOCKER: &str =
    "vmdeck starts no containers; `backend = \"remote\"` uses the system in one, by its published ports";
const NO_HOST_IP: &str = "code goes over the session itself, so no address of this host is needed";
const CHOSEN: &str = "choose what runs on the command line, by suite and guest: `vmdeck --ci '@linux'`";
const NO_SSH: &str =
    "vmdeck speaks SSH itself and has no arguments for a program `ssh`; see the keys of `[guests.NAME.ssh]`";
const LINUX: Option<&str> = Some("linux");
const WINDOWS: Option<&str> = Some("windows");
const DARWIN: Option<&str> = Some("macos");

/// Every old name. A general one comes before the particular ones, which win over it.
pub(super) const OLD_NAMES: &[OldName] = &[
    old("", "VMDECK_UTMCTL", To::Key("host.tools.utmctl")),
    old(TRUSTINSTALL, "TRUSTINSTALL_UTMCTL", To::Key("host.tools.utmctl")),
    of_utm("TRUSTINSTALL_UTM_VM", None, "machine"),
    of_utm("TRUSTINSTALL_UTM_LINUX_VM", LINUX, "machine"),
    of_utm("TRUSTINSTALL_UTM_WINDOWS_VM", WINDOWS, "machine"),
    of_utm("TRUSTINSTALL_UTM_DARWIN_VM", DARWIN, "machine"),
    of_utm("TRUSTINSTALL_LINUX_SSH_HOST", LINUX, "ssh.host"),
    of_utm("TRUSTINSTALL_WINDOWS_SSH_HOST", WINDOWS, "ssh.host"),
    of_utm("TRUSTINSTALL_DARWIN_SSH_HOST", DARWIN, "ssh.host"),
    of_utm("TRUSTINSTALL_LINUX_SSH_PORT", LINUX, "ssh.port"),
    of_utm("TRUSTINSTALL_WINDOWS_SSH_PORT", WINDOWS, "ssh.port"),
    of_utm("TRUSTINSTALL_DARWIN_SSH_PORT", DARWIN, "ssh.port"),
    of_utm("TRUSTINSTALL_LINUX_SSH_USER", LINUX, "ssh.user"),
    of_utm("TRUSTINSTALL_WINDOWS_SSH_USER", WINDOWS, "ssh.user"),
    of_utm("TRUSTINSTALL_DARWIN_SSH_USER", DARWIN, "ssh.user"),
    of_utm("TRUSTINSTALL_LINUX_SSH_KEY", LINUX, "ssh.key"),
    of_utm("TRUSTINSTALL_WINDOWS_SSH_KEY", WINDOWS, "ssh.key"),
    of_utm("TRUSTINSTALL_DARWIN_SSH_KEY", DARWIN, "ssh.key"),
    of_utm("TRUSTINSTALL_LINUX_SSH_KEY_PASSPHRASE", LINUX, "ssh.key_passphrase"),
    of_utm("TRUSTINSTALL_LINUX_SSH_PASSWORD", LINUX, "ssh.password"),
    of_utm("TRUSTINSTALL_DARWIN_SSH_PASSWORD", DARWIN, "ssh.password"),
    of_utm("TRUSTINSTALL_LINUX_SUDO_PASSWORD", LINUX, "sudo.password"),
    of_utm("TRUSTINSTALL_LINUX_DISCOVERY_CIDRS", LINUX, "utm.networks"),
    of_utm("TRUSTINSTALL_WINDOWS_DISCOVERY_CIDRS", WINDOWS, "utm.networks"),
    of_utm("TRUSTINSTALL_DARWIN_DISCOVERY_CIDRS", DARWIN, "utm.networks"),
    of_utm("TRUSTINSTALL_DARWIN_DHCP_NAMES", DARWIN, "utm.dhcp_names"),
    of_utm("TRUSTINSTALL_DARWIN_DHCPD_LEASES", DARWIN, "utm.leases"),
    repo("TRUSTINSTALL_LINUX_REPO_DIR", "linux"),
    repo("TRUSTINSTALL_DARWIN_REPO_DIR", "macos"),
    repo("TRUSTINSTALL_WINDOWS_REPO_DIR", "windows"),
    gone("TRUSTINSTALL_LINUX_SSH_EXTRA_ARGS", NO_SSH),
    gone("TRUSTINSTALL_WINDOWS_SSH_EXTRA_ARGS", NO_SSH),
    gone("TRUSTINSTALL_LINUX_INTEGRATION", CHOSEN),
    gone("TRUSTINSTALL_WINDOWS_SSH_INTEGRATION", CHOSEN),
    gone("TRUSTINSTALL_WINDOWS_WINRM_INTEGRATION", CHOSEN),
    of_utm("TRUSTINSTALL_WINDOWS_WINRM_USER", WINDOWS, "winrm.user"),
    of_utm("TRUSTINSTALL_WINDOWS_WINRM_PASSWORD", WINDOWS, "winrm.password"),
    of_utm("TRUSTINSTALL_WINDOWS_WINRM_ENDPOINT", WINDOWS, "winrm.endpoint"),
    gone("TRUSTINSTALL_WINDOWS_HOST_IP", NO_HOST_IP),
    gone("TRUSTINSTALL_LINUX_DOCKER_INTEGRATION", NO_DOCKER),
    gone("TRUSTINSTALL_DOCKER_IMAGE", NO_DOCKER),
    gone("TRUSTINSTALL_DOCKUR_WINDOWS_IMAGE", NO_DOCKER),
    gone("TRUSTINSTALL_DOCKUR_WINDOWS_VERSION", NO_DOCKER),
    gone("TRUSTINSTALL_DOCKUR_WINDOWS_RAM", NO_DOCKER),
    gone("TRUSTINSTALL_DOCKUR_WINDOWS_CPU", NO_DOCKER),
    // The first of these two is what the old documentation says, the second what the old scripts read: it wins.
    noted(
        VM_TESTS,
        "VM_LOCK_FILE",
        To::Key("host.lock"),
        "the old scripts documented it but never read it (they read VM_LOCK_DIR); vmdeck reads it",
    ),
    old(VM_TESTS, "VM_LOCK_DIR", To::Key("host.lock")),
    noted(
        VM_TESTS,
        "VM_LOCK_TIMEOUT",
        To::Key("host.lock_timeout"),
        "the old scripts documented it but never read it; vmdeck reads it, in seconds",
    ),
];

/// Returns the families of the old names that are set here and now.
pub(super) fn families_set() -> Vec<&'static str> {
    let mut out: Vec<&str> = Vec::new();
    for old in OLD_NAMES.iter().filter(|old| !old.family.is_empty() && std::env::var_os(old.name).is_some()) {
        if !out.contains(&old.family) {
            out.push(old.family);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;
    use clap::Parser;
    use std::{collections::BTreeMap, path::Path};
    use vmdeck_core::config;
    use vmdeck_model::{plan::Setup, secret::Secret};

    const CONFIG: &str = "[guests.linux]\nbackend = \"utm\"\n[guests.mac]\nbackend = \"utm\"\nos = \"macos\"\n\
                          [guests.win]\nbackend = \"utm\"\nos = \"windows\"\n[guests.other]\nbackend = \"local\"\n";

    fn load(config: &str, env: &[(&str, &str)], set: &[&str]) -> vmdeck_model::error::Result<Setup> {
        let env: BTreeMap<String, String> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let set: Vec<String> = set.iter().map(|word| (*word).to_owned()).collect();
        let sources = config::Sources {
            file: Some((Path::new("/p/vmdeck.toml"), config)),
            base: Path::new("/p"),
            env: &env,
            set: &set,
            keys: &settings::all_keys(),
            old_names: OLD_NAMES,
            backends: &["utm", "local"],
            private_networks: &[],
            transports: &["ssh", "winrm", "exec"],
            secret_command: Some(&|_: &[String]| Err("none".into())),
            secrets_of: None,
            trusts_file: true,
        };
        config::load(&sources).map(|(setup, _)| setup)
    }

    fn with(env: &[(&str, &str)]) -> Setup {
        load(CONFIG, env, &["compat.env=[\"trustinstall\", \"vm-tests\"]"]).expect("good")
    }

    #[test]
    fn every_old_name_sets_something_or_says_why_not() {
        let plain = with(&[]);
        for old in OLD_NAMES {
            let value = match old.name {
                name if name.ends_with("PORT") || name.ends_with("TIMEOUT") => "2200",
                "TRUSTINSTALL_WINDOWS_REPO_DIR" => r"C:\src\trustinstall",
                _ => "/some/value",
            };
            let setup = with(&[(old.name, value)]);
            let told = setup.notes.iter().any(|note| note.starts_with(&format!("{}: ", old.name)));
            let does = Setup { notes: plain.notes.clone(), ..setup.clone() } != plain;
            assert_eq!(does, old.to != To::Nothing, "{}", old.name);
            assert_eq!(told, old.note.is_some(), "{}: {:?}", old.name, setup.notes);
            assert!(old.to != To::Nothing || told, "{}: neither does nor says anything", old.name);
        }
    }

    #[test]
    fn each_sets_what_it_says_and_only_where_it_belongs() {
        let setup = with(&[
            ("TRUSTINSTALL_UTMCTL", "/u/utmctl"),
            ("TRUSTINSTALL_UTM_VM", "any"),
            ("TRUSTINSTALL_UTM_DARWIN_VM", "ci-mac"),
            ("TRUSTINSTALL_LINUX_SSH_HOST", "10.0.0.7"),
            ("TRUSTINSTALL_LINUX_SSH_PORT", "2222"),
            ("TRUSTINSTALL_LINUX_SSH_PASSWORD", "cipass"),
            ("TRUSTINSTALL_LINUX_SUDO_PASSWORD", "sudopass"),
            ("TRUSTINSTALL_LINUX_REPO_DIR", "/home/ci/src/trustinstall"),
            ("TRUSTINSTALL_LINUX_DISCOVERY_CIDRS", "192.168.64.0/24,192.168.65.0/24"),
            ("TRUSTINSTALL_DARWIN_DHCP_NAMES", "cidexuniji,ci-macOS"),
            ("VM_LOCK_DIR", "/tmp/read"),
            ("VM_LOCK_FILE", "/tmp/documented"),
            ("VM_LOCK_TIMEOUT", "600"),
        ]);
        let [linux, mac, win, other] = &setup.guests[..] else { panic!("guests") };
        assert_eq!(setup.host.tools["utmctl"], "/u/utmctl");
        assert_eq!((setup.host.lock.to_str(), setup.host.lock_timeout.as_secs()), (Some("/tmp/read"), 600));
        assert_eq!(
            [linux, mac, win, other].map(|g| g.machine.as_deref()),
            [Some("any"), Some("ci-mac"), Some("any"), None]
        );
        let ssh = &linux.transport_options["ssh"];
        assert_eq!(
            (ssh.text("host"), ssh.int("port"), ssh.secret("password").map(Secret::expose)),
            (Some("10.0.0.7"), Some(2222), Some("cipass"))
        );
        assert_eq!(linux.sudo.as_ref().map(Secret::expose), Some("sudopass"));
        let source = linux.source.as_ref().expect("source");
        assert_eq!((source.to.as_str(), source.path.to_str()), ("/home/ci/src/trustinstall", Some("/p/.")));
        assert_eq!(linux.options.texts("networks"), ["192.168.64.0/24", "192.168.65.0/24"]);
        assert_eq!(mac.options.texts("dhcp_names"), ["cidexuniji", "ci-macOS"]);
        assert_eq!(mac.transport_options["ssh"].text("host"), None);
        // A password in a variable is where it belongs.
        assert!(!setup.notes.iter().any(|note| note.contains("plain text")), "{:?}", setup.notes);
    }

    #[test]
    fn they_are_read_only_where_that_is_said_and_new_names_win() {
        let old = [
            ("TRUSTINSTALL_LINUX_SSH_HOST", "10.0.0.7"),
            ("TRUSTINSTALL_LINUX_SSH_PORT", "22"),
            ("VMDECK_UTMCTL", "/v/utmctl"),
        ];
        let setup = load(CONFIG, &old, &[]).expect("good");
        assert_eq!(setup.guests[0].transport_options["ssh"].text("host"), None);
        assert_eq!(setup.host.tools["utmctl"], "/v/utmctl", "this one is always read");
        let hints = setup.notes.iter().filter(|note| note.contains("`[compat] env = [\"trustinstall\"]`")).count();
        assert_eq!(hints, 1, "once for the family: {:?}", setup.notes);
        let config = format!("[compat]\nenv = [\"trustinstall\"]\n{CONFIG}");
        let new = [("TRUSTINSTALL_LINUX_SSH_HOST", "old"), ("VMDECK_GUESTS_LINUX_SSH_HOST", "new")];
        assert_eq!(
            load(&config, &new, &[]).expect("good").guests[0].transport_options["ssh"].text("host"),
            Some("new")
        );
        let none = load("[compat]\nenv = [\"trustinstall\"]\n", &old, &[]).expect("good");
        assert!(none.notes.iter().any(|note| note.contains("no `utm` guest with os = \"linux\"")), "{:?}", none.notes);
        let wrong = load(CONFIG, &[], &["compat.env=[\"trustinstal\"]"]).expect_err("wrong");
        assert!(wrong.to_string().contains("(known: trustinstall, vm-tests)"), "{wrong}");
    }

    #[test]
    fn the_page_for_those_who_come_has_every_variable_and_only_real_commands() {
        let page = include_str!("../../docs/migrating.md");
        for old in OLD_NAMES {
            assert!(page.contains(&format!("`{}`", old.name)), "{} is not in docs/migrating.md", old.name);
        }
        let words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let variables = words
            .filter(|w| (w.starts_with("TRUSTINSTALL_") && w.len() > 13) || (w.starts_with("VM_LOCK_") && w.len() > 8));
        for name in variables {
            assert!(OLD_NAMES.iter().any(|old| old.name == name), "{name} is in the page and not in the table");
        }
        let commands: Vec<&str> = page.split('`').filter(|code| code.starts_with("vmdeck ")).collect();
        assert!(commands.len() > 15);
        for line in commands {
            let words = line.split(' ').map(|word| word.trim_matches('\''));
            assert!(crate::cli::Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
