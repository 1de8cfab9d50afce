//! How this host installs what is missing: the names of a package for each package manager, and the command.

use super::info;
use vmdeck_model::error::Remedy;

/// A package, or several, by the names that the package managers have for it; empty where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Debian and Ubuntu.
    pub apt: &'static [&'static str],
    /// Fedora and its relatives.
    pub dnf: &'static [&'static str],
    /// openSUSE.
    pub zypper: &'static [&'static str],
    /// Arch.
    pub pacman: &'static [&'static str],
    /// Alpine.
    pub apk: &'static [&'static str],
    /// macOS.
    pub brew: &'static [&'static str],
}

/// QEMU for this host's processor, with `qemu-img`.
pub const QEMU: Package = Package {
    apt: if cfg!(target_arch = "aarch64") {
        &["qemu-system-arm", "qemu-utils"]
    } else {
        &["qemu-system-x86", "qemu-utils"]
    },
    dnf: &["qemu-kvm", "qemu-img"],
    zypper: &["qemu", "qemu-tools"],
    pacman: &["qemu-base", "qemu-img"],
    apk: if cfg!(target_arch = "aarch64") {
        &["qemu-system-aarch64", "qemu-img"]
    } else {
        &["qemu-system-x86_64", "qemu-img"]
    },
    brew: &["qemu"],
};
/// The UEFI firmware for guests.
pub const UEFI: Package = Package {
    apt: if cfg!(target_arch = "aarch64") { &["qemu-efi-aarch64"] } else { &["ovmf"] },
    dnf: &["edk2-ovmf"],
    zypper: &["qemu-ovmf-x86_64"],
    pacman: &["edk2-ovmf"],
    apk: &["ovmf"],
    brew: &["qemu"],
};
/// The TPM for guests.
pub const SWTPM: Package = Package {
    apt: &["swtpm"],
    dnf: &["swtpm"],
    zypper: &["swtpm"],
    pacman: &["swtpm"],
    apk: &["swtpm"],
    brew: &["swtpm"],
};
/// What builds a system of packages.
pub const MMDEBSTRAP: Package = Package {
    apt: &["mmdebstrap", "uidmap", "e2fsprogs", "qemu-utils"],
    dnf: &["mmdebstrap", "shadow-utils-subid", "e2fsprogs", "qemu-img"],
    zypper: &[],
    pacman: &[],
    apk: &[],
    brew: &[],
};
/// The server of virtiofs.
pub const VIRTIOFSD: Package = Package {
    apt: &["virtiofsd"],
    dnf: &["virtiofsd"],
    zypper: &["virtiofsd"],
    pacman: &["virtiofsd"],
    apk: &["virtiofsd"],
    brew: &[],
};
/// A kernel that boots this host's own root.
pub const KERNEL: Package = Package {
    apt: if cfg!(target_arch = "aarch64") { &["linux-image-arm64"] } else { &["linux-image-amd64"] },
    dnf: &["kernel-core"],
    zypper: &["kernel-default"],
    pacman: &["linux"],
    apk: &["linux-virt"],
    brew: &[],
};

/// A package manager: its program, and the words that install without a question.
type Manager = (&'static str, &'static [&'static str], fn(&Package) -> &'static [&'static str]);

const MANAGERS: [Manager; 6] = [
    ("apt-get", &["install", "--yes"], |package| package.apt),
    ("dnf", &["install", "--assumeyes"], |package| package.dnf),
    ("zypper", &["--non-interactive", "install"], |package| package.zypper),
    ("pacman", &["-S", "--noconfirm"], |package| package.pacman),
    ("apk", &["add"], |package| package.apk),
    ("brew", &["install"], |package| package.brew),
];

/// Returns how this host installs a package.
pub fn install(package: &Package) -> Remedy {
    let is_there = |manager: &&Manager| info::find_program(manager.0).is_some() && !manager.2(package).is_empty();
    if let Some((program, words, names)) = MANAGERS.iter().find(is_there) {
        let command = [&[*program], *words, names(package)].concat();
        let command = if *program == "brew" { owned(&command) } else { as_root(&command) };
        return Remedy { hint: format!("install it: `{}`", command.join(" ")), command: Some(command) };
    }
    let ways = [(&MANAGERS[0], "Debian, Ubuntu"), (&MANAGERS[1], "Fedora"), (&MANAGERS[5], "macOS")];
    let ways: Vec<String> = ways
        .iter()
        .filter(|(manager, _)| !manager.2(package).is_empty())
        .map(|((program, _, names), whose)| format!("`{program} install {}` ({whose})", names(package).join(" ")))
        .collect();
    Remedy { hint: format!("install it: {}", ways.join(", ")), command: None }
}

/// Returns a command of root, by sudo where we are not root.
pub fn as_root(words: &[&str]) -> Vec<String> {
    if rustix::process::geteuid().is_root() { owned(words) } else { owned(&[&["sudo"], words].concat()) }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
