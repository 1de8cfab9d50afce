//! The settings that a user's own `ssh_config` has for a host, as the `ssh` program itself reads them (`ssh -G`): only it knows `Match`,
//! `Include` and tokens in full.

use crate::host::process;
use std::path::{Path, PathBuf};

/// What is used of the settings for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostSettings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    /// The files of keys that are there.
    pub(super) keys: Vec<PathBuf>,
    /// The hosts on the way, as they are written; none, where there are none.
    pub(super) jumps: Option<String>,
    /// The stores of host keys that are there.
    pub(super) known_hosts: Vec<PathBuf>,
}

/// Asks for the settings of a host by the name that the user gives it; the error is a sentence.
pub(super) fn of(file: &Path, name: &str) -> Result<HostSettings, String> {
    // `ssh` passes over a file that is not there.
    vmdeck_files::open(file).map_err(|e| format!("cannot read `{}` (`ssh.config`): {e}", file.display()))?;
    let args = ["-G", "-F", &file.display().to_string(), "--", name].map(str::to_owned);
    let (status, said) =
        process::read_output("ssh", &args).map_err(|e| format!("cannot run `ssh`, which reads `ssh.config`: {e}"))?;
    if !status.success() {
        return Err(format!("`ssh -G {name}` ended with {status}: see what it says about `{}`", file.display()));
    }
    Ok(read(&String::from_utf8_lossy(&said)))
}

/// Reads what `ssh -G` prints: a key and its value on each line, every default included.
fn read(said: &str) -> HostSettings {
    let mut out = HostSettings { port: 22, ..HostSettings::default() };
    for (key, value) in said.lines().filter_map(|line| line.split_once(' ')) {
        match key {
            "hostname" => value.clone_into(&mut out.host),
            "port" => out.port = value.parse().unwrap_or(22),
            "user" => value.clone_into(&mut out.user),
            "identityfile" => out.keys.extend(existing(value)),
            "proxyjump" if value != "none" => out.jumps = Some(value.to_owned()),
            "userknownhostsfile" => out.known_hosts = value.split(' ').filter_map(existing).collect(),
            _ => {}
        }
    }
    out
}

/// Returns the path of a file that is there.
fn existing(text: &str) -> Option<PathBuf> {
    let home = || etcetera::home_dir().ok();
    let path = match text.strip_prefix("~/") {
        Some(rest) => home()?.join(rest),
        None => PathBuf::from(text),
    };
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_read() {
        let home = tempfile::tempdir().expect("tempdir");
        let key = home.path().join("id");
        std::fs::write(&key, "x").expect("write");
        let said = format!(
            "host lab\nuser ci\nhostname 10.0.0.7\nport 2222\nidentityfile {}\nidentityfile ~/.ssh/no-such-key\n\
             userknownhostsfile {} /nonexistent\nproxyjump a,b@c:22\nforwardagent no\n",
            key.display(),
            key.display()
        );
        let wanted = HostSettings {
            host: "10.0.0.7".into(),
            port: 2222,
            user: "ci".into(),
            keys: vec![key.clone()],
            jumps: Some("a,b@c:22".into()),
            known_hosts: vec![key],
        };
        assert_eq!(read(&said), wanted);
        assert_eq!(read("proxyjump none\n").jumps, None);
        assert!(of(Path::new("/nonexistent"), "h").expect_err("no file").contains("/nonexistent"));
    }
}
