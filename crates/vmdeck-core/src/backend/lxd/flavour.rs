//! LXD and Incus: what is not the same in the two.
//!
//! Facts: both answer `/1.0` with the same paths and tell themselves apart by `environment.server`.

use std::path::PathBuf;
use vmdeck_model::key::{Key, Kind};

/// One of the two.
#[derive(Debug)]
pub(super) struct Flavour {
    /// The word in the config, and the daemon's own word for itself.
    pub(super) kind: &'static str,
    /// The name for people.
    pub(super) name: &'static str,
    /// The program of its users.
    pub(super) program: &'static str,
    /// The group whose members may use the socket.
    pub(super) group: &'static str,
    /// The variables that move the socket: the socket itself, and the folder that it is in.
    variables: [&'static str; 2],
    /// Where packages put the socket.
    sockets: &'static [&'static str],
    /// The folder with a user's certificate, below the home folder.
    pub(super) client_folder: &'static str,
}

/// Canonical's LXD.
pub(super) static LXD: Flavour = Flavour {
    kind: "lxd",
    name: "LXD",
    program: "lxc",
    group: "lxd",
    variables: ["LXD_SOCKET", "LXD_DIR"],
    sockets: &["/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"],
    client_folder: ".config/lxc",
};

/// The community's Incus.
pub(super) static INCUS: Flavour = Flavour {
    kind: "incus",
    name: "Incus",
    program: "incus",
    group: "incus-admin",
    variables: ["INCUS_SOCKET", "INCUS_DIR"],
    sockets: &["/var/lib/incus/unix.socket", "/run/incus/unix.socket"],
    client_folder: ".config/incus",
};

impl Flavour {
    /// Returns where the daemon's socket is: what the environment says, else the first of the usual places that exists, else the
    /// first of them.
    pub(super) fn socket(&self) -> PathBuf {
        let [socket, folder] = self.variables.map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
        let said = socket.map(PathBuf::from).or_else(|| folder.map(|folder| PathBuf::from(folder).join("unix.socket")));
        said.unwrap_or_else(|| {
            let usual = self.sockets.iter().map(PathBuf::from);
            usual.clone().find(|path| path.exists()).or_else(|| usual.clone().next()).unwrap_or_default()
        })
    }
}

/// The keys of a flavour; the word comes first, since a key's path is one constant text.
macro_rules! keys {
    ($kind:literal) => {
        &[
            Key {
                path: concat!("guests.*.", $kind, ".image"),
                kind: Kind::Text,
                default: Some("\"ubuntu:24.04\""),
                doc: "an alias or fingerprint of an image that the daemon has; or `ubuntu:24.04`, `images:debian/12`, fetched by it",
            },
            Key {
                path: concat!("guests.*.", $kind, ".type"),
                kind: Kind::Choice(&["container", "vm"]),
                default: Some("\"container\""),
                doc: "what is made: a container, or a virtual machine with the agent in its image",
            },
            Key {
                path: concat!("guests.*.", $kind, ".socket"),
                kind: Kind::Path,
                default: None,
                doc: "the daemon's socket; default: what the environment says, then the usual places",
            },
            Key {
                path: concat!("guests.*.", $kind, ".url"),
                kind: Kind::Text,
                default: None,
                doc: "a daemon elsewhere, such as `https://10.0.0.5:8443`, instead of the socket",
            },
            Key {
                path: concat!("guests.*.", $kind, ".server_certificate"),
                kind: Kind::KeyOrPath,
                default: None,
                doc: "the certificate of that daemon, or its fingerprint; required with `url`",
            },
            Key {
                path: concat!("guests.*.", $kind, ".certificate"),
                kind: Kind::Path,
                default: None,
                doc: "the certificate that it knows us by; default: the one of your command line client",
            },
            Key {
                path: concat!("guests.*.", $kind, ".key"),
                kind: Kind::Path,
                default: None,
                doc: "the key of that certificate; default: the one of your command line client",
            },
            Key {
                path: concat!("guests.*.", $kind, ".project"),
                kind: Kind::Text,
                default: Some("\"default\""),
                doc: "the project that the instance is made in; it must exist",
            },
            Key {
                path: concat!("guests.*.", $kind, ".target"),
                kind: Kind::Text,
                default: None,
                doc: "the member of a cluster that it is made on, or `@GROUP`; default: the one with the fewest instances",
            },
            Key {
                path: concat!("guests.*.", $kind, ".slots"),
                kind: Kind::Int(1, 10_000),
                default: None,
                doc: "the most instances of vmdeck on one member; who finds all full waits",
            },
            Key {
                path: concat!("guests.*.", $kind, ".profiles"),
                kind: Kind::Texts,
                default: Some("[\"default\"]"),
                doc: "the profiles of the instance, the last one wins",
            },
            Key {
                path: concat!("guests.*.", $kind, ".config"),
                kind: Kind::Map,
                default: Some("{}"),
                doc: "further settings of the instance: `{ \"security.nesting\" = \"true\" }`",
            },
            Key {
                path: concat!("guests.*.", $kind, ".devices"),
                kind: Kind::Map,
                default: Some("{}"),
                doc: "further devices: `{ data = \"type=disk,source=/srv,path=/data\" }`",
            },
            Key {
                path: concat!("guests.*.", $kind, ".user"),
                kind: Kind::Text,
                default: None,
                doc: "the user in the guest whose commands are run by `exec`; default: root",
            },
            Key {
                path: concat!("guests.*.", $kind, ".launch_timeout"),
                kind: Kind::Duration,
                default: None,
                doc: "how long making the instance may take, with the image and a place for it; default: boot_timeout",
            },
        ]
    };
}

/// The config keys of LXD.
pub(super) const LXD_KEYS: &[Key] = keys!("lxd");
/// The config keys of Incus.
pub(super) const INCUS_KEYS: &[Key] = keys!("incus");
