//! The folders of this host that a guest with a disk can mount: each by every protocol that this host serves, since only the guest knows
//! which of them its kernel has. Facts: Debian's cloud kernel and those of RHEL have no 9P; virtiofs needs Linux 5.4 and a daemon here.

use super::served::{Daemon, Served};
use crate::{
    backend::contract::SharedFolder,
    host::{packages, process::Spawner},
};
use std::path::Path;
use vmdeck_guest::setup::ShareProtocol;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Share, ShareBy},
};

/// The shares of one machine.
#[derive(Debug, Default)]
pub(super) struct OfferedShares {
    /// How they are served.
    pub(super) served: Vec<Served>,
    /// What the guest has to mount.
    pub(super) folders: Vec<SharedFolder>,
}

/// Returns what stands in the way of a guest's shares.
pub(super) async fn findings(guest: &Guest, spawner: &Spawner) -> Vec<Finding> {
    let mut out = Vec::new();
    let wants_daemon = guest.shares.iter().any(|share| share.by == ShareBy::Virtiofs);
    let lacks = if wants_daemon { Daemon::find(spawner).await.err() } else { None };
    for share in &guest.shares {
        let fault = match &lacks {
            _ if !share.path.is_dir() => {
                cannot(guest, share, "it is not a folder").hint("create it, or correct its `path`")
            }
            Some(why) if share.by == ShareBy::Virtiofs => no_daemon(guest, share, why),
            _ => continue,
        };
        out.push(Finding::of_fault("shares", Severity::Fatal, &fault));
    }
    out
}

fn cannot(guest: &Guest, share: &Share, why: &str) -> Fault {
    Fault::host(format!("cannot share `{}` with guest `{}`", share.path.display(), guest.id)).because(why)
}

fn no_daemon(guest: &Guest, share: &Share, why: &str) -> Fault {
    cannot(guest, share, why).remedied(packages::install(&packages::VIRTIOFSD))
}

/// Decides how the shares of a guest are served.
pub(super) async fn offer(guest: &Guest, spawner: &Spawner, dir: &Path) -> Result<OfferedShares> {
    let mut out = OfferedShares::default();
    if guest.shares.is_empty() {
        return Ok(out);
    }
    let daemon = Daemon::find(spawner).await;
    for share in &guest.shares {
        let protocols: &[ShareProtocol] = match (share.by, &daemon) {
            (ShareBy::Virtiofs, Err(why)) => return Err(no_daemon(guest, share, why)),
            (ShareBy::Virtiofs, Ok(_)) => &[ShareProtocol::Virtiofs],
            (ShareBy::Plan9, _) | (ShareBy::Auto, Err(_)) => &[ShareProtocol::Plan9],
            (ShareBy::Auto, Ok(_)) => &[ShareProtocol::Virtiofs, ShareProtocol::Plan9],
        };
        let mut ways = Vec::new();
        for protocol in protocols {
            let tag = format!("vmdeck{}", out.served.len());
            let served = Served::new(&share.path, &tag, share.read_only, *protocol, daemon.as_ref().ok(), dir);
            out.served.push(served.map_err(|why| cannot(guest, share, &why))?);
            ways.push((*protocol, tag));
        }
        out.folders.push(SharedFolder { to: share.to.clone(), read_only: share.read_only, ways });
    }
    Ok(out)
}
