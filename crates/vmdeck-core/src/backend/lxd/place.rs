//! Where a daemon is asked, and in which project: from a guest's keys, or from the journal of the run that made a machine.

use super::flavour::Flavour;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// Where instances are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LxdPlace {
    /// Where the daemon is.
    pub(super) daemon: DaemonAddress,
    /// The project.
    pub(super) project: String,
}

/// Where a daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DaemonAddress {
    /// At a socket of this host.
    Socket(PathBuf),
    /// At the end of a network.
    Network(RemoteDaemon),
}

/// A daemon at the end of a network, and who is to be believed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteDaemon {
    /// The name or address of its host.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// Its certificate as a file, or the fingerprint of it.
    pub(super) server: String,
    /// The file of our certificate.
    pub(super) certificate: PathBuf,
    /// The file of the key of our certificate.
    pub(super) key: PathBuf,
}

/// The port of a daemon whose address names none.
const PORT: u16 = 8443;

impl LxdPlace {
    /// Returns the default project of this host's own daemon; `None` = there is no such daemon.
    pub(super) fn of_host(flavour: &Flavour) -> Option<Self> {
        let socket = flavour.socket();
        socket.exists().then(|| Self { daemon: DaemonAddress::Socket(socket), project: "default".into() })
    }

    /// Returns where the instance of a guest is to be.
    pub(super) fn of_guest(flavour: &Flavour, guest: &Guest) -> Result<Self> {
        let options = &guest.options;
        let project = options.text("project").unwrap_or_default().to_owned();
        let Some(url) = options.text("url") else {
            let socket = options.path("socket").map_or_else(|| flavour.socket(), Path::to_owned);
            return Ok(Self { daemon: DaemonAddress::Socket(socket), project });
        };
        let key = |name: &str| format!("guests.{}.{}.{name}", guest.key, flavour.kind);
        let cannot = || Fault::user(format!("cannot use the {} daemon at `{url}`", flavour.name)).permanent();
        let (host, port) = host_and_port(url).ok_or_else(|| {
            cannot().because("it is no address").hint(format!("write `{} = \"https://HOST:8443\"`", key("url")))
        })?;
        let file = options.path("server_certificate").map(|path| path.to_string_lossy().into_owned());
        let Some(server) = options.text("server_certificate").map(str::to_owned).or(file) else {
            return Err(cannot()
                .because("nothing says which certificate is the daemon's")
                .hint(format!("set `{}` to its fingerprint or file", key("server_certificate"))));
        };
        let own = |name: &str, file: &str| match options.path(name) {
            Some(path) => Ok(path.to_owned()),
            None => std::env::home_dir()
                .map(|home| home.join(flavour.client_folder).join(file))
                .ok_or_else(|| cannot().because("there is no home folder").hint(format!("set `{}`", key(name)))),
        };
        let (certificate, key) = (own("certificate", "client.crt")?, own("key", "client.key")?);
        let remote = RemoteDaemon { host, port, server, certificate, key };
        Ok(Self { daemon: DaemonAddress::Network(remote), project })
    }

    /// Returns the same as the journal keeps it.
    pub(super) fn to_record(&self) -> BTreeMap<String, String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut out = BTreeMap::from([("project".to_owned(), self.project.clone())]);
        match &self.daemon {
            DaemonAddress::Socket(socket) => drop(out.insert("socket".into(), path(socket))),
            DaemonAddress::Network(remote) => out.extend([
                ("host".to_owned(), remote.host.clone()),
                ("port".to_owned(), remote.port.to_string()),
                ("server_certificate".to_owned(), remote.server.clone()),
                ("certificate".to_owned(), path(&remote.certificate)),
                ("key".to_owned(), path(&remote.key)),
            ]),
        }
        out
    }

    /// Returns the place that a journal names; `None` = it names none.
    pub(super) fn of_record(said: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| said.get(name).cloned();
        let daemon = match text("socket") {
            Some(socket) => DaemonAddress::Socket(socket.into()),
            None => DaemonAddress::Network(RemoteDaemon {
                host: text("host")?,
                port: text("port")?.parse().ok()?,
                server: text("server_certificate")?,
                certificate: text("certificate")?.into(),
                key: text("key")?.into(),
            }),
        };
        Some(Self { daemon, project: text("project")? })
    }
}

impl fmt::Display for DaemonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonAddress::Socket(socket) => write!(f, "{}", socket.display()),
            DaemonAddress::Network(remote) => write!(f, "https://{}:{}", remote.host, remote.port),
        }
    }
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    // `https` has a port of its own, which is never meant.
    Some((host, url.port().unwrap_or(PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        let rows = [
            ("https://10.0.0.5:8443", Some(("10.0.0.5", 8443))),
            ("https://lab.example", Some(("lab.example", 8443))),
            ("https://[fd00::1]:9443/", Some(("fd00::1", 9443))),
            ("http://10.0.0.5:8443", None),
            ("10.0.0.5:8443", None),
            ("", None),
        ];
        for (url, want) in rows {
            let got = host_and_port(url);
            assert_eq!(got.as_ref().map(|(host, port)| (host.as_str(), *port)), want, "{url}");
        }
    }

    #[test]
    fn what_the_journal_keeps_leads_to_the_same_daemon() {
        let remote = RemoteDaemon {
            host: "10.0.0.5".into(),
            port: 8443,
            server: "sha256:00".into(),
            certificate: "/c".into(),
            key: "/k".into(),
        };
        for daemon in [DaemonAddress::Socket("/run/s".into()), DaemonAddress::Network(remote)] {
            let place = LxdPlace { daemon, project: "ci".into() };
            assert_eq!(LxdPlace::of_record(&place.to_record()), Some(place));
        }
        assert_eq!(LxdPlace::of_record(&BTreeMap::new()), None, "a journal of an earlier version");
    }
}
