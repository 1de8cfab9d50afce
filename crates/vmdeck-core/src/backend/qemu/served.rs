//! The server of one shared folder: QEMU itself, or a daemon of its own.
//!
//! Facts: the daemon in C (with QEMU up to 7.2) has no switch for read-only, so it is shown a read-only view; the one in Rust has
//! `--readonly` in its newer versions, and its help tells.

use super::helper::Helper;
use crate::host::{
    info,
    process::{Spawner, Spec},
    read_only::READ_ONLY,
};
use std::{
    ffi::OsString,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_guest::setup::ShareProtocol;

/// The daemon's name on the search path, and where systems keep it outside of that.
const PLACES: [&str; 5] = [
    "virtiofsd",
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
];
/// How long its help may take.
const HELP: Duration = Duration::from_secs(10);

/// A folder that is shared.
#[derive(Debug)]
pub(super) struct Served {
    /// The folder.
    pub(super) path: PathBuf,
    /// The tag by which the guest finds it.
    pub(super) tag: String,
    /// Whether the server refuses writes.
    pub(super) read_only: bool,
    /// Who serves it.
    pub(super) server: ShareServer,
}

/// Who serves a folder.
#[derive(Debug)]
pub(super) enum ShareServer {
    /// QEMU itself, by 9P.
    Qemu,
    /// A daemon that listens on this socket.
    Daemon(Helper),
}

/// A daemon that serves folders by virtiofs.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    program: PathBuf,
    kind: DaemonKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DaemonKind {
    /// The daemon in C, with its options after `-o`.
    Old,
    /// The daemon in Rust.
    New,
}

impl Daemon {
    /// Finds the daemon on this host; the error says why there is none that can be used.
    pub(super) async fn find(spawner: &Spawner) -> Result<Self, String> {
        let program =
            PLACES.iter().find_map(|name| info::find_program(name)).ok_or("virtiofsd is not installed on this host")?;
        let out = spawner.output(&Spec::new(&program).args(["--help"]), HELP).await;
        let help = out.map(|out| out.stdout + &out.stderr).map_err(|e| format!("`{}`: {e}", program.display()))?;
        let kind = kind_of(&help, rustix::process::geteuid().is_root())
            .map_err(|why| format!("`{}` {why}", program.display()))?;
        Ok(Self { program, kind })
    }

    fn spec(&self, path: &Path, read_only: bool, socket: &Path, view: &Path) -> Result<Spec, String> {
        let socket_word = |text: &str| {
            let mut word = OsString::from(text);
            word.push(socket);
            word
        };
        match self.kind {
            DaemonKind::New => {
                let mut args: Vec<OsString> =
                    vec!["--shared-dir".into(), path.into(), "--socket-path".into(), socket.into()];
                // An overlay cannot stand on folders that are told to be other file systems.
                args.extend(["--cache", "auto", "--sandbox", "none", "--no-announce-submounts"].map(OsString::from));
                args.extend(read_only.then(|| "--readonly".into()));
                Ok(Spec::new(&self.program).args(args))
            }
            DaemonKind::Old => {
                let shown = if read_only { view } else { path };
                // It splits its options at commas and has no way to quote one.
                let text = shown
                    .to_str()
                    .filter(|text| !text.contains(','))
                    .ok_or("its path holds a comma, or is not UTF-8")?;
                let mut daemon: Vec<OsString> =
                    vec![(&self.program).into(), "-f".into(), socket_word("--socket-path=")];
                daemon.extend(
                    ["-o".to_owned(), format!("source={text}"), "-o".to_owned(), "cache=auto".to_owned()]
                        .map(OsString::from),
                );
                if !read_only {
                    return Ok(Spec::new(&self.program).args(&daemon[1..]));
                }
                std::fs::create_dir_all(view).map_err(|e| format!("cannot make `{}`: {e}", view.display()))?;
                let vmdeck = std::env::current_exe().map_err(|e| format!("cannot find vmdeck itself: {e}"))?;
                let words: [OsString; 6] =
                    ["--mount".into(), "--".into(), vmdeck.into(), READ_ONLY.into(), path.into(), view.into()];
                Ok(Spec::new("unshare").args(words.into_iter().chain(daemon)))
            }
        }
    }
}

/// Returns which daemon this help is of; the error says why it cannot be used.
fn kind_of(help: &str, is_root: bool) -> Result<DaemonKind, String> {
    let is_new_enough = ["--readonly", "--no-announce-submounts"].iter().all(|option| help.contains(option));
    match (help.contains("--shared-dir"), is_new_enough) {
        (true, true) => Ok(DaemonKind::New),
        (true, false) => Err("is too old: it lacks `--readonly` or `--no-announce-submounts`".to_owned()),
        (false, _) if help.contains("-o cache=") && is_root => Ok(DaemonKind::Old),
        (false, _) if help.contains("-o cache=") => Err("needs root".to_owned()),
        (false, _) => Err("is not a virtiofsd that vmdeck knows".to_owned()),
    }
}

impl Served {
    /// Returns the process that serves the folder, where QEMU does not: it needs the guest's memory.
    pub(super) fn helper(&self) -> Option<&Helper> {
        match &self.server {
            ShareServer::Daemon(helper) => Some(helper),
            ShareServer::Qemu => None,
        }
    }

    /// Decides how a folder is served; the error says why it cannot be.
    pub(super) fn new(
        path: &Path,
        tag: &str,
        read_only: bool,
        protocol: ShareProtocol,
        daemon: Option<&Daemon>,
        dir: &Path,
    ) -> Result<Self, String> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(meta) if meta.file_type().is_socket() => return Err("it is a socket, not a folder".to_owned()),
            Ok(_) => return Err("it is not a folder".to_owned()),
            Err(e) => return Err(e.to_string()),
        }
        if path.to_str().is_none() {
            return Err("its path is not UTF-8".to_owned());
        }
        let server = match protocol {
            ShareProtocol::Plan9 => ShareServer::Qemu,
            ShareProtocol::Virtiofs => {
                let daemon = daemon.ok_or("there is no virtiofsd that could serve it")?;
                let (socket, view) = (dir.join(format!("{tag}.sock")), dir.join(format!("{tag}.view")));
                ShareServer::Daemon(Helper {
                    purpose: format!("share `{}`", path.display()),
                    spec: daemon.spec(path, read_only, &socket, &view)?,
                    socket,
                    log: format!("virtiofsd-{tag}.log"),
                })
            }
        };
        Ok(Self { path: path.to_owned(), tag: tag.to_owned(), read_only, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_cannot_refuse_writes_is_not_used() {
        let (old, new) =
            ("usage: [options]\n -o cache=<mode>", "--shared-dir <X>\n --readonly\n --no-announce-submounts");
        for (help, is_root, kind) in [
            (old, true, Ok(DaemonKind::Old)),
            (old, false, Err("needs root")),
            (new, false, Ok(DaemonKind::New)),
            ("--shared-dir <X>", true, Err("is too old: it lacks `--readonly` or `--no-announce-submounts`")),
            ("hello", true, Err("is not a virtiofsd that vmdeck knows")),
        ] {
            assert_eq!(kind_of(help, is_root), kind.map_err(str::to_owned), "{help}");
        }
    }

    #[test]
    fn what_cannot_be_shared_says_why() {
        let home = tempfile::tempdir().expect("tempdir");
        std::fs::write(home.path().join("file"), "").expect("written");
        std::fs::create_dir(home.path().join("a,b")).expect("folder");
        let old = Daemon { program: "virtiofsd".into(), kind: DaemonKind::Old };
        let new = |name: &str, protocol, daemon| {
            Served::new(&home.path().join(name), "t", false, protocol, daemon, home.path()).map(drop)
        };
        for (name, protocol, daemon, why) in [
            ("none", ShareProtocol::Plan9, None, "No such file"),
            ("file", ShareProtocol::Plan9, None, "it is not a folder"),
            ("a,b", ShareProtocol::Virtiofs, Some(&old), "its path holds a comma"),
            ("a,b", ShareProtocol::Virtiofs, None, "there is no virtiofsd"),
        ] {
            assert!(new(name, protocol, daemon).is_err_and(|text| text.contains(why)), "{name}");
        }
        assert_eq!(new("a,b", ShareProtocol::Plan9, None), Ok(()));
    }
}
