//! What a guest is given at its first boot: a user, a key to log in with, a host key, a name. Made anew for each machine.
//!
//! Three ways carry it: a disk that cloud-init reads, credentials that systemd (from version 252 on) reads from the firmware, and a
//! config that Ignition reads there. A system that knows none of them is not changed.

mod cloud_init;
mod credentials;
mod ignition;
mod iso;
mod keys;
mod request;

use crate::host::files;
use keys::KeyPair;
pub(crate) use request::SeedRequest;
use std::{
    io,
    path::{Path, PathBuf},
};
use vmdeck_model::guest::Seed;

/// The login that a machine was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineLogin {
    /// The private key.
    pub key: PathBuf,
    /// The file with the host key that the machine has to show.
    pub host_key: PathBuf,
}

impl MachineLogin {
    /// Returns the login that was put into a machine's private folder, if one was.
    pub fn of(dir: &Path) -> Option<Self> {
        let login = Self::at(dir);
        login.key.exists().then_some(login)
    }

    fn at(dir: &Path) -> Self {
        Self { key: dir.join("login_key"), host_key: dir.join("host_key.pub") }
    }
}

/// What carries a seed into a machine: files in its private folder.
#[derive(Debug)]
pub(crate) struct SeedFiles {
    /// The disk for cloud-init.
    pub(crate) disk: Option<PathBuf>,
    /// What the firmware hands over: each name, and the file that holds it.
    pub(crate) entries: Vec<(String, PathBuf)>,
}

/// Returns why a file cannot be what a guest gets besides; `None` where it can.
pub(crate) fn refuse_user_data(seed: Seed, path: &Path) -> Option<String> {
    let bytes = match vmdeck_files::read(path, vmdeck_files::LARGE) {
        Ok(bytes) => bytes,
        Err(e) => return Some(e.to_string()),
    };
    match seed {
        Seed::Ignition => {
            let config: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
            let is_config = config.is_ok_and(|config| config["ignition"]["version"].is_string());
            (!is_config).then(|| "it is no config for Ignition: JSON with `ignition.version`".to_owned())
        }
        _ => cloud_init::kind(&bytes).is_none().then(|| {
            format!(
                "it begins with none of {}, by which cloud-init knows what it is",
                cloud_init::KINDS.map(|(head, _)| head).join(", ")
            )
        }),
    }
}

/// Makes keys for one machine and writes its seed; `None` = it gets none.
pub(crate) fn write(request: &SeedRequest<'_>, dir: &Path) -> io::Result<Option<SeedFiles>> {
    let SeedRequest { seed, user, .. } = *request;
    if seed == Seed::None {
        return Ok(None);
    }
    let own = request.user_data.map(|path| vmdeck_files::read(path, vmdeck_files::LARGE)).transpose()?;
    let (login, host) = (KeyPair::generate("vmdeck")?, KeyPair::generate("host")?);
    let place = MachineLogin::at(dir);
    files::write_atomic(&place.key, login.private.as_bytes())?;
    files::write_atomic(&place.host_key, host.public.as_bytes())?;
    let mut out = SeedFiles { disk: None, entries: Vec::new() };
    if matches!(seed, Seed::Auto | Seed::CloudInit) {
        let path = dir.join("seed.iso");
        // It holds a private key, and ends with the machine.
        let files = cloud_init::files(request, own.as_deref(), &login, &host);
        files::write_atomic(&path, &iso::volume("cidata", &files))?;
        out.disk = Some(path);
    }
    if matches!(seed, Seed::Auto | Seed::Credentials) {
        for (name, content) in credentials::list(user, &login, &host) {
            let path = dir.join(format!("credential-{name}"));
            files::write_atomic(&path, content.as_bytes())?;
            out.entries.push((format!("opt/io.systemd.credentials/{name}"), path));
        }
    }
    if seed == Seed::Ignition {
        let path = dir.join("config.ign");
        files::write_atomic(&path, ignition::config(request, own.as_deref(), &login, &host).as_bytes())?;
        // Fedora CoreOS and Flatcar look in different places.
        for name in ["opt/com.coreos/config", "opt/org.flatcar-linux/config"] {
            out.entries.push((name.to_owned(), path.clone()));
        }
    }
    Ok(Some(out))
}
