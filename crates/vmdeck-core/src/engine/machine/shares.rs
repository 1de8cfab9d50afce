//! Mounts the folders of this host in a guest that has come up: after every boot, since a restart forgets them.

use crate::{
    backend::contract::SharedFolder,
    command::{Collected, CommandExit, RemoteCommand, Shell, sh_quote},
    transport::session::Session,
};
use std::fmt::Write;
use tokio_util::sync::CancellationToken;
use vmdeck_guest::setup::ShareProtocol;
use vmdeck_model::{
    error::{Fault, Result},
    suite::RunAs,
    text::one_line,
};

/// Mounts all of them, or says why one cannot be.
pub(super) async fn mount(session: &dyn Session, folders: &[SharedFolder]) -> Result<()> {
    for folder in folders {
        let cannot = || Fault::infra(format!("cannot mount a share at `{}` in the guest", folder.to)).permanent();
        if session.shell() != Shell::Posix {
            return Err(cannot().because("only guests with a POSIX shell can mount shares"));
        }
        let command = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(script(folder)) };
        let mut said = Collected::default();
        let exit = session.run(&command, &mut said, &CancellationToken::new()).await;
        if exit.map_err(|fault| cannot().caused_by(fault))? != CommandExit::Code(0) {
            let words = one_line(&String::from_utf8_lossy(&said.stderr));
            let fault = cannot().because(words);
            return Err(fault.hint(
                "the guest's kernel needs virtiofs (CONFIG_VIRTIO_FS) or 9P (CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS); virtiofs needs \
                 `virtiofsd` on this host",
            ));
        }
    }
    Ok(())
}

/// Returns the text that mounts one folder by the first protocol that the guest has; one that is mounted already stays.
fn script(folder: &SharedFolder) -> String {
    let to = sh_quote(&folder.to);
    let mut out = format!("mkdir -p -- {to} || exit\ncd -- {to} || exit\nt=$(pwd -P); cd /\n");
    for (protocol, tag) in &folder.ways {
        let access = if folder.read_only { "ro" } else { "rw" };
        let (module, options) = match protocol {
            ShareProtocol::Virtiofs => ("virtiofs", access.to_owned()),
            // Without a cache: both sides write.
            ShareProtocol::Plan9 => ("9pnet_virtio", format!("{access},trans=virtio,version=9p2000.L,msize=512000")),
        };
        let kind = protocol.as_str();
        let _ = writeln!(out, "grep -q \"^{tag} $t \" /proc/mounts && exit\nmodprobe {module} 2>/dev/null");
        let _ = writeln!(out, "mount -t {kind} -o {options} {tag} \"$t\" && exit");
    }
    out.push_str("exit 1");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_tried_in_its_order() {
        let ways = vec![(ShareProtocol::Virtiofs, "a".to_owned()), (ShareProtocol::Plan9, "b".to_owned())];
        let text = script(&SharedFolder { to: "/it's here".into(), read_only: true, ways });
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        assert!(at(r"mkdir -p -- '/it'\''s here'") < at("mount -t virtiofs -o ro a \"$t\" && exit"));
        assert!(at("mount -t virtiofs") < at("mount -t 9p -o ro,trans=virtio,"));
        assert!(text.ends_with("exit 1"));
    }
}
