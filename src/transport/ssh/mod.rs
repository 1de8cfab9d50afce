//! The `ssh` transport: russh, a host key that was pinned before any credential is sent, and statuses that cannot lie.
//!
//! Facts that shape it (measured with russh 0.65): without `nodelay` a command takes 44 ms instead of 2; a channel that
//! nobody reads stalls the whole connection; dropping a channel sends nothing.

mod auth;
mod hostkey;
mod session;
mod wrap;

use super::{Session, Step, Target, Transport};
use crate::{
    backend::Fut,
    error::{Fault, Result},
    host::{clock, files, net},
    model::{
        event::{Finding, Severity},
        exec::{Collected, Exec, Exit},
        guest::{Guest, Os},
        key::{Key, Kind, Options},
    },
};
use hostkey::{Checker, Refused};
use russh::client;
use std::{
    borrow::Cow,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Its keys.
pub const KEYS: &[Key] = &[
    Key { path: "guests.*.ssh.user", kind: Kind::Text, default: Some("\"ci\""), doc: "who logs in" },
    Key {
        path: "guests.*.ssh.host",
        kind: Kind::Text,
        default: None,
        doc: "address; default: what the backend reports",
    },
    Key { path: "guests.*.ssh.port", kind: Kind::Int(1, 65535), default: Some("22"), doc: "port in the guest" },
    Key {
        path: "guests.*.ssh.key",
        kind: Kind::Path,
        default: None,
        doc: "private key file; must not be readable by others",
    },
    Key { path: "guests.*.ssh.key_passphrase", kind: Kind::Secret, default: None, doc: "passphrase of that key" },
    Key { path: "guests.*.ssh.password", kind: Kind::Secret, default: None, doc: "password" },
    Key {
        path: "guests.*.ssh.agent",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "offer the keys of the running ssh-agent",
    },
    Key {
        path: "guests.*.ssh.host_key",
        kind: Kind::KeyOrPath,
        default: None,
        doc: "the guest's host key, or a file that holds it; unset: pinned at first contact with a machine that vmdeck made",
    },
];

/// Pause between two logins that the guest refused.
const AUTH_PAUSE: Duration = Duration::from_secs(1);
/// How long a refused login is tried again: keys may be written by the guest's first-boot setup after sshd is up.
const AUTH_GRACE: Duration = Duration::from_secs(8);
/// How long the key exchange may take once the banner was seen; emulated guests are slow.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Ssh;

/// Settings that cannot work, before anything is started.
pub fn check(guest: &Guest) -> Vec<Finding> {
    let none = Options::default();
    let options = guest.transport_options.get("ssh").unwrap_or(&none);
    let mut out = Vec::new();
    let mut fatal = |text: String, hint: String| {
        out.push(Finding { check: "ssh key".into(), severity: Severity::Fatal, text, hint: Some(hint) });
    };
    if let Some(key) = options.path("key") {
        let shown = key.display();
        match files::is_exposed(key) {
            Err(e) => fatal(
                format!("guest `{}`: cannot read the key `{shown}`: {e}", guest.id),
                format!("make it with `ssh-keygen -t ed25519 -f {shown}`, or correct `guests.{}.ssh.key`", guest.id),
            ),
            Ok(true) => fatal(
                format!("guest `{}`: others can read the key `{shown}`", guest.id),
                format!("run `chmod 600 {shown}`"),
            ),
            Ok(false) => {}
        }
    } else if options.secret("password").is_none() && !options.flag("agent") {
        fatal(
            format!("guest `{}` has no way to log in by ssh", guest.id),
            format!("set `guests.{0}.ssh.key`, `password` or `agent = true`", guest.id),
        );
    }
    if let Some(Err(why)) = hostkey::of(options) {
        fatal(
            format!("guest `{}`: {why}", guest.id),
            "give the key as `ssh-ed25519 AAAA...`, or a file that holds it".into(),
        );
    }
    out
}

impl Transport for Ssh {
    fn suits(&self, target: &Target<'_>) -> Result<(), String> {
        if target.guest.os == Os::Windows {
            return Err("this version runs no PowerShell over ssh".into());
        }
        let given = target.guest.transport_options.get("ssh").and_then(|o| o.text("host")).is_some();
        if given || crate::backend::find(&target.guest.backend).is_ok_and(|row| row.caps.network) {
            return Ok(());
        }
        Err(format!("the backend `{}` has no network, and `ssh.host` is not set", target.guest.backend))
    }

    fn connect<'a>(&'a self, target: &'a Target<'a>) -> Fut<'a, Box<dyn Session>> {
        Box::pin(async move {
            let none = Options::default();
            let options = target.guest.transport_options.get("ssh").unwrap_or(&none);
            let expected = hostkey::of(options).transpose().map_err(Fault::user)?;
            if expected.is_none() && !target.created {
                return Err(Fault::user(format!("cannot log in to guest `{}`", target.guest.id))
                    .because("its host key is not known and vmdeck did not make this machine")
                    .hint(format!(
                        "set `guests.{}.ssh.host_key`; `ssh-keyscan` on a trusted network shows it",
                        target.guest.id
                    )));
            }
            let mut refused_since = None;
            loop {
                let address = address(target, options).await?;
                let stream =
                    net::until_spoken(address, b"SSH-", |why| (target.progress)(Step::Waiting(why.to_string()))).await;
                (target.progress)(Step::Spoken);
                let checker = Checker::new(expected.clone(), target.pin.clone());
                let mut handle = match handshake(stream, &checker).await {
                    Ok(handle) => handle,
                    Err(Handshake::Final(fault)) => return Err(fault),
                    // The service died under our hands: a restart during the boot.
                    Err(Handshake::Again(why)) => {
                        (target.progress)(Step::Waiting(why));
                        clock::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                };
                match auth::log_in(&mut handle, options, &target.guest.id).await {
                    Ok(()) => {
                        return session::open(handle, target.guest).await.map(|s| Box::new(s) as Box<dyn Session>);
                    }
                    Err(fault) => {
                        let since = *refused_since.get_or_insert_with(clock::now);
                        if since.elapsed() > AUTH_GRACE || fault.blame() == crate::error::Blame::User {
                            return Err(fault);
                        }
                        (target.progress)(Step::Waiting(fault.to_string()));
                        clock::sleep(AUTH_PAUSE).await;
                    }
                }
            }
        })
    }
}

async fn address(target: &Target<'_>, options: &Options) -> Result<SocketAddr> {
    let port = options.int("port").and_then(|p| u16::try_from(p).ok()).unwrap_or(22);
    if let Some(host) = options.text("host") {
        let found = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
        return found.ok_or_else(|| Fault::user(format!("cannot resolve `{host}`")).hint("correct `ssh.host`"));
    }
    loop {
        if let Some(address) = target.vm.address(port).await? {
            return Ok(address);
        }
        // The backend learns it from the guest; the caller limits the time.
        clock::sleep(Duration::from_millis(250)).await;
    }
}

enum Handshake {
    Final(Fault),
    Again(String),
}

async fn handshake(stream: tokio::net::TcpStream, checker: &Checker) -> Result<client::Handle<Checker>, Handshake> {
    // Small requests go out at once; russh cannot set this on a stream that it did not open.
    let _ = stream.set_nodelay(true);
    let config = client::Config {
        nodelay: true,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 3,
        preferred: preferred(checker),
        ..client::Config::default()
    };
    match clock::within(HANDSHAKE, client::connect_stream(Arc::new(config), stream, checker.clone())).await {
        None => Err(Handshake::Again(format!("no key exchange within {} s", HANDSHAKE.as_secs()))),
        Some(Ok(handle)) => Ok(handle),
        Some(Err(error)) => Err(match checker.refusal() {
            Some(Refused { expected, shown }) => Handshake::Final(
                Fault::infra("cannot trust the guest's host key")
                    .because(format!("it shows {shown}, expected is {expected}"))
                    .hint(
                        "no credential was sent; another machine may answer at this address, or correct `ssh.host_key`",
                    )
                    .lasting(),
            ),
            None => Handshake::Again(error.to_string()),
        }),
    }
}

/// The order of algorithms: a cipher that hardware helps with first, and the pinned key's kind first.
fn preferred(checker: &Checker) -> russh::Preferred {
    let mut preferred = russh::Preferred {
        cipher: Cow::Borrowed(&[
            russh::cipher::AES_256_GCM,
            russh::cipher::CHACHA20_POLY1305,
            russh::cipher::AES_256_CTR,
            russh::cipher::AES_192_CTR,
            russh::cipher::AES_128_CTR,
        ]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..russh::Preferred::default()
    };
    if let Some(kind) = checker.expected_algorithm() {
        let mut order = preferred.key.to_vec();
        order.sort_by_key(|k| *k != kind);
        preferred.key = Cow::Owned(order);
    }
    preferred
}

/// Runs a command that must succeed and returns what it printed.
async fn ask(session: &session::SshSession, script: &str) -> Result<String> {
    let mut out = Collected::default();
    match session.exec(&Exec::new(script), &mut out, &CancellationToken::new()).await? {
        Exit::Code(0) => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        exit => Err(Fault::infra(format!("cannot run `{script}`")).because(exit)),
    }
}
