//! The `ssh` transport: russh, a host key that was pinned before any credential is sent, and statuses that cannot lie.
//!
//! Facts that shape it (measured with russh 0.65): without `nodelay` a command takes 44 ms instead of 2; a channel that
//! nobody reads stalls the whole connection; dropping a channel sends nothing.

mod auth;
mod hostkey;
mod session;

use super::{
    Session, Step, Target, Transport,
    reach::{Reached, Search},
};
use crate::{
    backend::Fut,
    command::{Collected, Exec, Exit},
    host::{clock, files, net},
};
use hostkey::{Checker, Refused};
use russh::{client, keys::PublicKey};
use std::{borrow::Cow, net::ToSocketAddrs, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Os},
    key::{Key, Kind, Options},
};

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

/// How an SSH server begins.
const BANNER: &[u8] = b"SSH-";
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
    } else if !has_credential(options) {
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
        let none = Options::default();
        let options = target.guest.transport_options.get("ssh").unwrap_or(&none);
        if options.text("host").is_none() && target.vm.ways().is_empty() {
            return Err(format!("the backend `{}` has no network, and `ssh.host` is not set", target.guest.backend));
        }
        if !has_credential(options) {
            return Err("no key, password or agent is set".into());
        }
        Ok(())
    }

    fn connect<'a>(&'a self, target: &'a Target<'a>) -> Fut<'a, Box<dyn Session>> {
        Box::pin(async move {
            let none = Options::default();
            let options = target.guest.transport_options.get("ssh").unwrap_or(&none);
            let expected: Vec<_> = hostkey::of(options).transpose().map_err(Fault::user)?.into_iter().collect();
            let may_pin = target.created || !expected.is_empty() || target.pin.known().is_some();
            // Better than a first contact, and all that there is for a machine that we did not make.
            let asks_agent = expected.is_empty() && target.pin.known().is_none() && target.vm.guest_exec().is_some();
            if !may_pin && !asks_agent {
                return Err(unknown_key(target));
            }
            let mut search = Search::new(target, port(options), BANNER, !expected.is_empty());
            let mut refused_since = None;
            loop {
                let Reached { stream, address, only } = reach(options, &mut search, target).await?;
                (target.progress)(Step::Spoken);
                // It answers, so its agent can be asked for the keys of the machine that the hypervisor means.
                let learned = if asks_agent { learn_keys(target).await } else { Ok(expected.clone()) };
                let expected = match learned {
                    Ok(keys) => keys,
                    // The agent comes later than sshd in many guests.
                    Err(fault) if fault.is_worth_a_retry() => {
                        (target.progress)(Step::Waiting(fault.to_string()));
                        clock::sleep(AUTH_PAUSE).await;
                        continue;
                    }
                    Err(_) if may_pin => Vec::new(),
                    Err(fault) => return Err(fault),
                };
                let checker = Checker::new(expected, target.pin.clone());
                let mut handle = match handshake(stream, &checker).await {
                    Ok(handle) => handle,
                    // Another machine at an address that was only one of several: the search goes on without it.
                    Err(Handshake::Final(fault)) if !only => {
                        (target.progress)(Step::Waiting(fault.to_string()));
                        search.exclude(address);
                        continue;
                    }
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
                        let session = session::open(handle, target.guest, address).await;
                        return session.map(|s| Box::new(s) as Box<dyn Session>);
                    }
                    Err(fault) => {
                        let since = *refused_since.get_or_insert_with(clock::now);
                        if since.elapsed() > AUTH_GRACE || fault.blame() == vmdeck_model::error::Blame::User {
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

/// Whether this guest's settings name a way to log in.
pub fn has_credential_of(guest: &Guest) -> bool {
    guest.transport_options.get("ssh").is_some_and(has_credential)
}

fn has_credential(options: &Options) -> bool {
    options.path("key").is_some() || options.secret("password").is_some() || options.flag("agent")
}

fn port(options: &Options) -> u16 {
    options.int("port").and_then(|p| u16::try_from(p).ok()).unwrap_or(22)
}

fn unknown_key(target: &Target<'_>) -> Fault {
    Fault::user(format!("cannot log in to guest `{}`", target.guest.id))
        .because("its host key is not known and vmdeck did not make this machine")
        .hint(format!("set `guests.{}.ssh.host_key`; `ssh-keyscan` on a trusted network shows it", target.guest.id))
}

/// The host keys of a machine that we did not make, by the hypervisor's own way into it: no network can lie here.
async fn learn_keys(target: &Target<'_>) -> Result<Vec<PublicKey>> {
    let Some(agent) = target.vm.guest_exec() else { return Err(unknown_key(target)) };
    let mut out = Collected::default();
    let ask = Exec::new("cat /etc/ssh/ssh_host_*_key.pub");
    let asked = clock::within(HANDSHAKE, agent.exec(&ask, &mut out, &CancellationToken::new())).await;
    let keys = hostkey::all(&String::from_utf8_lossy(&out.stdout));
    match asked {
        Some(Ok(_)) if !keys.is_empty() => Ok(keys),
        Some(Err(fault)) if fault.is_worth_a_retry() => Err(fault),
        Some(Err(fault)) => Err(unknown_key(target).caused_by(fault)),
        None => Err(Fault::infra("cannot learn the guest's host key").because("its agent does not answer")),
        Some(Ok(_)) => Err(unknown_key(target)),
    }
}

/// Where the service answers: at the address that the config gives, or where the search leads to.
async fn reach(options: &Options, search: &mut Search<'_>, target: &Target<'_>) -> Result<Reached> {
    let Some(host) = options.text("host") else { return Ok(search.next().await) };
    let found = (host, port(options)).to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = found.ok_or_else(|| Fault::user(format!("cannot resolve `{host}`")).hint("correct `ssh.host`"))?;
    let stream = net::until_spoken(address, BANNER, |why| (target.progress)(Step::Waiting(why.to_string()))).await;
    Ok(Reached { stream, address, only: true })
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
    let kinds = checker.expected_algorithms();
    if !kinds.is_empty() {
        let mut order = preferred.key.to_vec();
        order.sort_by_key(|k| !kinds.contains(k));
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
