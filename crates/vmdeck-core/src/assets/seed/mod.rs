//! What a guest is given at its first boot: a user, a key to log in with, a host key, a name. Made anew for each machine.
//!
//! Two ways carry it: a disk that cloud-init reads, and credentials that systemd (from version 252 on) reads from the firmware.
//! A system that knows neither is not changed.

mod cloud_init;
mod credentials;
mod iso;
mod keys;

use crate::host::files;
use keys::KeyPair;
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
    /// The credentials for systemd: each name, and the file that holds it.
    pub(crate) credentials: Vec<(&'static str, PathBuf)>,
}

/// Makes keys for one machine and writes its seed; `None` = it gets none.
pub(crate) fn write(seed: Seed, user: &str, name: &str, dir: &Path) -> io::Result<Option<SeedFiles>> {
    if seed == Seed::None {
        return Ok(None);
    }
    let (login, host) = (KeyPair::generate("vmdeck")?, KeyPair::generate("host")?);
    let place = MachineLogin::at(dir);
    files::write_atomic(&place.key, login.private.as_bytes())?;
    files::write_atomic(&place.host_key, host.public.as_bytes())?;
    let mut out = SeedFiles { disk: None, credentials: Vec::new() };
    if matches!(seed, Seed::Auto | Seed::CloudInit) {
        let path = dir.join("seed.iso");
        // It holds a private key, and ends with the machine.
        files::write_atomic(&path, &iso::volume("cidata", &cloud_init::files(user, name, &login, &host)))?;
        out.disk = Some(path);
    }
    if matches!(seed, Seed::Auto | Seed::Credentials) {
        for (name, content) in credentials::list(user, &login, &host) {
            let path = dir.join(format!("credential-{name}"));
            files::write_atomic(&path, content.as_bytes())?;
            out.credentials.push((name, path));
        }
    }
    Ok(Some(out))
}
