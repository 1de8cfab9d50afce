//! A guest whose root is a folder of this host: which kernel it gets, how its folders are shared, and its initial RAM disk.
//!
//! The root is read-only at its server, below an overlay in the guest's memory: what the guest's root may do in the guest cannot
//! change that. What the guest's part does is in the crate `vmdeck-guest`.

use super::{
    helper::Helper,
    served::{Daemon, Served},
};
use crate::{
    assets::{
        initrd,
        kernel::{Kernel, KernelNeed, Missing},
    },
    host::{info, packages, process::Spawner},
};
use std::path::{Path, PathBuf};
use vmdeck_guest::setup::{GuestSetup, GuestShare, ShareProtocol};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Network, ShareBy},
};

/// What the kernel is always told: where its console is, that a panic is the end, and what it starts first.
const APPEND: &str = "panic=-1 quiet rdinit=/vmdeck-init";

/// What was chosen for a guest: the kernel, and the protocol of its root.
pub(super) struct RootChoice {
    kernel: Kernel,
    protocol: ShareProtocol,
    daemon: Option<Daemon>,
}

/// A guest that is ready to be started.
#[derive(Debug)]
pub(super) struct HostRoot {
    /// The kernel's file.
    pub(super) kernel: PathBuf,
    /// The initial RAM disk.
    pub(super) initrd: PathBuf,
    /// The kernel's command line, without the name of its console.
    pub(super) append: String,
    /// The folders, the root first.
    pub(super) served: Vec<Served>,
}

impl HostRoot {
    /// Returns the processes that serve folders.
    pub(super) fn helpers(&self) -> impl Iterator<Item = &Helper> {
        self.served.iter().filter_map(Served::helper)
    }
}

/// Chooses the kernel and the protocol for a guest; the error says what is missing, and what follows from that.
pub(super) async fn choose(guest: &Guest, spawner: &Spawner) -> Result<RootChoice> {
    if !cfg!(target_os = "linux") {
        return Err(Fault::host(format!("cannot boot this host's root as guest `{}`", guest.id))
            .because("this host does not run Linux")
            .hint("set `image` to a disk image"));
    }
    let root = root_of(guest);
    if !root.is_dir() {
        return Err(Fault::host(format!("cannot use `{}` as the root of guest `{}`", root.display(), guest.id))
            .because("it is not a folder")
            .hint("name a folder that holds a whole Linux system (`--root`, `qemu.root`)"));
    }
    let daemon = Daemon::find(spawner).await;
    let wanted = ShareBy::of_word(guest.options.text("by").unwrap_or_default());
    let (kernel, modules) = (guest.options.path("kernel"), guest.options.path("modules"));
    let protocols: &[ShareProtocol] = match (wanted, &daemon) {
        (ShareBy::Plan9, _) | (ShareBy::Auto, Err(_)) => &[ShareProtocol::Plan9],
        (ShareBy::Virtiofs, _) => &[ShareProtocol::Virtiofs],
        (ShareBy::Auto, Ok(_)) => &[ShareProtocol::Virtiofs, ShareProtocol::Plan9],
    };
    let mut first = None;
    for protocol in protocols {
        match Kernel::find(kernel, modules, &needs(guest, *protocol)).and_then(|found| fit(guest, found, *protocol)) {
            Ok(kernel) if *protocol == ShareProtocol::Virtiofs => {
                let daemon = Some(daemon.map_err(|why| no_daemon(guest, &why))?);
                return Ok(RootChoice { kernel, protocol: *protocol, daemon });
            }
            Ok(kernel) => return Ok(RootChoice { kernel, protocol: *protocol, daemon: daemon.ok() }),
            Err(fault) => first = first.or(Some(fault)),
        }
    }
    let fault = first.unwrap_or_else(|| Fault::bug("no protocol was tried"));
    // A kernel without 9P may have virtiofs, which then is only not served.
    let virtiofs = needs(guest, ShareProtocol::Virtiofs);
    match daemon {
        Err(why)
            if wanted == ShareBy::Auto
                && Kernel::find(kernel, modules, &virtiofs).is_ok_and(|k| k.lacks(&virtiofs).is_empty()) =>
        {
            Err(no_daemon(guest, &why).caused_by(fault))
        }
        _ => Err(fault),
    }
}

fn no_daemon(guest: &Guest, why: &str) -> Fault {
    let mut remedy = packages::install(&packages::VIRTIOFSD);
    remedy.hint.push_str("; or use a kernel with CONFIG_NET_9P_VIRTIO and CONFIG_9P_FS");
    Fault::host(format!("cannot share folders with guest `{}` by virtiofs", guest.id)).because(why).remedied(remedy)
}

/// Returns the folder that becomes the root; the table of keys has its default.
fn root_of(guest: &Guest) -> &Path {
    match guest.options.path("root") {
        Some(path) => path,
        None => Path::new(""),
    }
}

fn needs(guest: &Guest, protocol: ShareProtocol) -> Vec<KernelNeed> {
    let mut out = vec![KernelNeed::Agent, need_of(protocol)];
    if guest.network != Network::None {
        out.push(KernelNeed::Network);
    }
    let other = |share: &vmdeck_model::guest::Share| match share.by {
        ShareBy::Auto => None,
        ShareBy::Plan9 => Some(KernelNeed::Plan9),
        ShareBy::Virtiofs => Some(KernelNeed::Virtiofs),
    };
    for need in guest.shares.iter().filter_map(other) {
        if !out.contains(&need) {
            out.push(need);
        }
    }
    out
}

fn need_of(protocol: ShareProtocol) -> KernelNeed {
    match protocol {
        ShareProtocol::Plan9 => KernelNeed::Plan9,
        ShareProtocol::Virtiofs => KernelNeed::Virtiofs,
    }
}

/// Returns the kernel if it has what the guest needs; else what it lacks, each with its consequence.
fn fit(guest: &Guest, kernel: Kernel, protocol: ShareProtocol) -> Result<Kernel> {
    let required = kernel.lacks(&needs(guest, protocol));
    if required.is_empty() {
        return Ok(kernel);
    }
    let lines: String = required.iter().map(|missing| format!("\n  {}", line(missing))).collect();
    let source = kernel.config_source().map_or_else(String::new, |source| format!(" (configuration: {source})"));
    let hint = if required.iter().all(|missing| missing.is_module) {
        "it has them as modules: name their folder with --modules (`qemu.modules`), for a build after `make modules_install \
         INSTALL_MOD_PATH=DIR`"
    } else {
        "switch these options on (`=y`, or `=m` and --modules) and build the kernel again, or use another kernel"
    };
    Err(Fault::host(format!("cannot boot the kernel {} as guest `{}`", kernel.name(), guest.id))
        .because(format!("it lacks what a guest by {} needs{source}:{lines}", protocol.as_str()))
        .hint(hint))
}

fn line(missing: &Missing) -> String {
    let module = if missing.is_module { "=m, and its modules were not found" } else { "" };
    format!("CONFIG_{}{module}: {}", missing.feature.option, missing.feature.consequence)
}

impl RootChoice {
    /// Returns what was chosen, and what the kernel lacks that is only good to have.
    pub(super) fn findings(&self, guest: &Guest) -> Vec<Finding> {
        let check = "kernel".to_owned();
        let text = format!(
            "guest `{}` boots `{}` ({}), its folders by {}",
            guest.id,
            root_of(guest).display(),
            self.kernel.name(),
            self.protocol.as_str()
        );
        let mut out = vec![Finding { check: check.clone(), severity: Severity::Ok, text, hint: None, fix: None }];
        out.extend(self.kernel.missing(&needs(guest, self.protocol)).iter().map(|missing| Finding {
            check: check.clone(),
            severity: Severity::Warn,
            text: format!("the kernel {} lacks {}", self.kernel.name(), line(missing)),
            hint: None,
            fix: None,
        }));
        out
    }

    /// Makes everything that the guest needs in its private folder.
    pub(super) fn prepare(self, guest: &Guest, is_emulated: bool, dir: &Path) -> Result<HostRoot> {
        let needs = needs(guest, self.protocol);
        let modules = self.kernel.module_files(&needs)?;
        let mut served = Vec::new();
        let mut add = |path: &Path, to: &str, read_only: bool, by: ShareBy| -> Result<GuestShare> {
            let protocol = match by {
                ShareBy::Auto => self.protocol,
                ShareBy::Plan9 => ShareProtocol::Plan9,
                ShareBy::Virtiofs => ShareProtocol::Virtiofs,
            };
            let tag = format!("vmdeck{}", served.len());
            let one = Served::new(path, &tag, read_only, protocol, self.daemon.as_ref(), dir).map_err(|why| {
                Fault::host(format!("cannot share `{}` with guest `{}`", path.display(), guest.id)).because(why)
            })?;
            served.push(one);
            Ok(GuestShare { tag, by: protocol, to: to.to_owned(), read_only })
        };
        let root = add(root_of(guest), "the root", true, ShareBy::Auto)?;
        let mut shares = Vec::new();
        // The guest's own programs may load further modules; under its root are those of other kernels.
        if let (Some(folder), Some(version)) = (self.kernel.module_folder(), &self.kernel.version) {
            let to = format!("/lib/modules/{version}");
            if root_of(guest).join(&to[1..]) != folder {
                shares.push(add(folder, &to, true, ShareBy::Auto)?);
            }
        }
        for share in &guest.shares {
            shares.push(add(&share.path, &share.to, share.read_only, share.by)?);
        }
        let setup = GuestSetup {
            modules: modules.0.iter().map(|module| module.name.clone()).collect(),
            root,
            shares,
            hostname: info::host_name(),
            network: guest.network != Network::None,
        };
        let initrd = dir.join("initrd");
        initrd::write(&initrd, guest.options.path("initrd"), &setup, &modules.0).map_err(|e| {
            Fault::host(format!("cannot make the initial RAM disk of guest `{}`", guest.id))
                .because(e)
                .hint("free disk space in the state folder, or set XDG_STATE_HOME")
        })?;
        let append = match guest.options.text("append") {
            Some(more) => format!("{APPEND} {more}"),
            None => APPEND.to_owned(),
        };
        // Emulated, a kernel takes longer to unpack itself than to boot. What cannot be unpacked here is left to itself.
        let unpacked = dir.join("vmlinux");
        let unpacks = is_emulated && guest.options.text("unpack") != Some("never");
        let kernel =
            if unpacks && self.kernel.unpack_to(&unpacked).unwrap_or(false) { unpacked } else { self.kernel.path };
        Ok(HostRoot { kernel, initrd, append, served })
    }
}
