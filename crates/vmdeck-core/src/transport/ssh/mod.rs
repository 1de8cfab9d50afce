//! The `ssh` transport: russh, a host key that was pinned before any credential is sent, and statuses that cannot lie.
//!
//! Facts that shape it (measured with russh 0.65): without `nodelay` a command takes 44 ms instead of 2; a channel that
//! nobody reads stalls the whole connection; dropping a channel sends nothing.

mod auth;
mod hostkey;
mod rsa;
mod running;
mod session;

use super::{
    contract::{ConnectError, ConnectTarget, Connector, Endpoint, Needs, Transport, Unusable},
    session::Session,
};
use crate::{
    backend::{
        capabilities::{Capabilities, Reach},
        request::Service,
    },
    command::{Collected, RemoteCommand, sh_quote},
    host::{clock, info, net::Probe},
};
use auth::{LoginAttempt, LoginError, LoginHistory};
use futures_util::future::BoxFuture;
use hostkey::{Checker, KeyKind, Refused};
use russh::{client, keys::PublicKey};
pub(super) use session::KIND;
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_files::Exposure;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Network, Seed},
    key::{Key, Kind, Options, Value},
};

/// The keys of `[guests.NAME.ssh]`.
pub const KEYS: &[Key] = &[
    Key { path: "guests.*.ssh.user", kind: Kind::Text, default: Some("\"ci\""), doc: "user to log in as" },
    Key {
        path: "guests.*.ssh.host",
        kind: Kind::Text,
        default: None,
        doc: "address of the guest; default: what the backend reports",
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
/// How long the key exchange may take once the banner was seen; emulated guests are slow.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Pause after a key exchange that broke off: the service restarts during the boot.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// The `ssh` transport.
#[derive(Clone, Copy, Debug)]
pub struct Ssh;

/// Returns the settings that cannot work, before anything is started.
fn check(guest: &Guest) -> Vec<Finding> {
    let options = options(guest);
    let mut out = Vec::new();
    let mut fatal = |text: String, hint: String, fix: Option<&[&str]>| {
        let fix = fix.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        out.push(Finding { check: "ssh key".into(), severity: Severity::Fatal, text, hint: Some(hint), fix });
    };
    if let Some(key) = options.path("key") {
        let shown = key.display();
        let path = shown.to_string();
        match vmdeck_files::exposure(key) {
            Err(e) => fatal(
                format!("guest `{}`: cannot read the key `{shown}`: {e}", guest.id),
                format!(
                    "create it with `ssh-keygen -t ed25519 -f {}`, or correct `guests.{}.ssh.key`",
                    sh_quote(&path),
                    guest.id
                ),
                None,
            ),
            Ok(Some(Exposure::Open)) => fatal(
                format!("guest `{}`: others can read the key `{shown}` or change it", guest.id),
                format!("run `chmod 600 -- {}`", sh_quote(&path)),
                Some(&["chmod", "600", "--", &path]),
            ),
            Ok(Some(Exposure::Foreign(user))) => fatal(
                format!("guest `{}`: the key `{shown}` belongs to user `{}`", guest.id, info::user_name(user)),
                "use a key of your own: whoever owns the file can exchange it".into(),
                None,
            ),
            Ok(None) if !rsa::SUPPORTED && is_rsa_file(key) => fatal(
                format!("guest `{}`: the key `{shown}` is an RSA key, which this vmdeck does not support", guest.id),
                rsa::REMEDY.into(),
                None,
            ),
            Ok(None) => {}
        }
    } else if !has_credential(options) && guest.seed == Seed::None {
        fatal(
            format!("guest `{}` has no way to log in by ssh", guest.id),
            format!("set `guests.{0}.ssh.key`, `password` or `agent = true`", guest.id),
            None,
        );
    }
    match hostkey::of(options) {
        Some(Err(why)) => fatal(
            format!("guest `{}`: {why}", guest.id),
            "give the key as `ssh-ed25519 AAAA...`, or a file that holds it".into(),
            None,
        ),
        Some(Ok(keys)) if !rsa::SUPPORTED && rsa::only(&keys) => fatal(
            format!("guest `{}`: `host_key` is an RSA key, which this vmdeck does not support", guest.id),
            "give the guest's ed25519 or ecdsa host key (in the guest: `cat /etc/ssh/ssh_host_ed25519_key.pub`)".into(),
            None,
        ),
        _ => {}
    }
    out
}

fn is_rsa_file(path: &std::path::Path) -> bool {
    vmdeck_files::read_text(path, vmdeck_files::SMALL).is_ok_and(|text| rsa::is_private_key(&text))
}

/// Returns the settings for one machine: a login that it was given takes the place of what the config says.
fn options_for<'a>(target: &'a ConnectTarget<'a>) -> Cow<'a, Options> {
    let options = options(target.guest);
    let Some(login) = target.machine.login() else { return Cow::Borrowed(options) };
    let mut own = options.clone();
    own.set("key", Value::Path(login.key.clone()));
    own.set("host_key", Value::Path(login.host_key.clone()));
    Cow::Owned(own)
}

fn options(guest: &Guest) -> &Options {
    static NONE: std::sync::LazyLock<Options> = std::sync::LazyLock::new(Options::default);
    guest.transport_options.get(KIND).unwrap_or(&NONE)
}

impl Transport for Ssh {
    fn usable(&self, guest: &Guest, capabilities: &Capabilities) -> Result<(), Unusable> {
        let options = options(guest);
        if options.text("host").is_none() && guest.network == Network::None {
            return Err(Unusable::NotSupported(
                "`network = \"none\"` leaves no way in, and `ssh.host` is not set".into(),
            ));
        }
        if options.text("host").is_none() && capabilities.network == Reach::None {
            let reason = format!("the backend `{}` has no network, and `ssh.host` is not set", guest.backend);
            return Err(Unusable::NotSupported(reason));
        }
        if !has_credential(options) && guest.seed == Seed::None {
            return Err(Unusable::NotSetUp("no key, password or agent is set".into()));
        }
        Ok(())
    }

    fn needs(&self, guest: &Guest) -> Needs {
        Needs::Service(Service { name: KIND, port: port(options(guest)), probe: Probe::Banner(BANNER) })
    }

    fn host(&self, guest: &Guest) -> Option<String> {
        options(guest).text("host").map(str::to_owned)
    }

    fn check(&self, guest: &Guest) -> Vec<Finding> {
        check(guest)
    }

    fn has_terminal(&self) -> bool {
        true
    }

    fn connector<'a>(&'a self, target: &'a ConnectTarget<'a>) -> Result<Box<dyn Connector + 'a>> {
        let options = options_for(target);
        let expected = hostkey::of(&options).transpose().map_err(Fault::user)?.unwrap_or_default();
        let created = !target.machine.is_adopted();
        let may_pin = created || !expected.is_empty() || target.pin.known().is_some();
        // Better than a first contact, and all that there is for a machine that we did not make.
        let asks_agent = expected.is_empty() && target.pin.known().is_none() && target.machine.guest_exec().is_some();
        if !may_pin && !asks_agent {
            return Err(unknown_key(target));
        }
        Ok(Box::new(Login {
            target,
            options,
            expected,
            may_pin,
            asks_agent,
            passed_over: Vec::new(),
            history: LoginHistory::default(),
        }))
    }
}

/// The attempts to log in to one machine.
struct Login<'a> {
    target: &'a ConnectTarget<'a>,
    options: Cow<'a, Options>,
    /// The host keys that the config gives.
    expected: Vec<PublicKey>,
    /// Whether the key of the first contact may be trusted.
    may_pin: bool,
    /// Whether the guest's agent is asked for the machine's keys.
    asks_agent: bool,
    /// Kinds of keys of which the server has another one than the expected.
    passed_over: Vec<KeyKind>,
    history: LoginHistory,
}

impl Connector for Login<'_> {
    fn proves_identity(&self) -> bool {
        !self.expected.is_empty()
    }

    fn connect(&mut self, endpoint: Endpoint) -> BoxFuture<'_, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            let Endpoint::Service { stream, address } = endpoint else {
                return Err(Fault::bug("the transport `ssh` got no connection").into());
            };
            let mut expected = self.expected_keys().await?;
            let all = expected.len();
            expected.retain(|key| !self.passed_over.contains(&KeyKind::of(&key.algorithm())));
            let mut checker = Checker::new(expected, self.target.pin.clone());
            checker.strict = checker.count() < all;
            let mut handle = match handshake(stream, &checker).await {
                Err(ConnectError::WrongMachine(fault)) => return Err(self.wrong_key(&checker, fault)),
                handle => handle?,
            };
            let mut login = LoginAttempt {
                handle: &mut handle,
                options: &self.options,
                guest: &self.target.guest.id,
                words: &checker.words,
                history: &mut self.history,
            };
            match login.run().await {
                Ok(()) => self.target.pin.confirm(),
                Err(LoginError::NotYet { fault, pause }) => {
                    return Err(ConnectError::NotYet { reason: fault.to_string(), pause });
                }
                Err(LoginError::Again(fault)) => {
                    return Err(ConnectError::NotYet { reason: fault.to_string(), pause: RESTART_PAUSE });
                }
                Err(LoginError::Never(fault)) => return Err(fault.into()),
            }
            let guest = self.target.guest;
            match session::open(handle, guest.os, guest.sudo.clone(), address).await {
                Ok(session) => Ok(Box::new(session) as Box<dyn Session>),
                // The connection broke: the guest may be restarting its services.
                Err(fault) if fault.is_worth_a_retry() => {
                    Err(ConnectError::NotYet { reason: fault.to_string(), pause: AUTH_PAUSE })
                }
                Err(fault) => Err(self.no_commands(fault).into()),
            }
        })
    }
}

impl Login<'_> {
    /// Returns what follows from a key that is not the expected one: where keys of other kinds are expected too, the server is
    /// asked for one of those, since every one of them counts.
    fn wrong_key(&mut self, checker: &Checker, fault: Fault) -> ConnectError {
        let Some(Refused { kind, .. }) = checker.refusal() else { return ConnectError::WrongMachine(fault) };
        if !checker.expects_another_kind(&kind) {
            return ConnectError::WrongMachine(fault);
        }
        self.passed_over.push(kind);
        again(fault.to_string())
    }

    /// Returns why no command runs although the login succeeded.
    fn no_commands(&self, fault: Fault) -> Fault {
        let guest = &self.target.guest.id;
        Fault::user(format!("cannot run commands in guest `{guest}` over ssh")).caused_by(fault).hint(format!(
            "the account's shell, or a command that its authorized_keys forces, answers instead; set `guests.{guest}.ssh.user`"
        ))
    }

    /// Returns the keys that the machine may show; none = whatever it shows at first contact. The service answers, so the
    /// guest's agent can be asked for the keys of the machine that the hypervisor means.
    async fn expected_keys(&self) -> Result<Vec<PublicKey>, ConnectError> {
        if !self.asks_agent {
            return Ok(self.expected.clone());
        }
        match learn_keys(self.target).await {
            Ok(keys) => Ok(keys),
            // The agent comes later than sshd in many guests.
            Err(fault) if fault.is_worth_a_retry() => {
                Err(ConnectError::NotYet { reason: fault.to_string(), pause: AUTH_PAUSE })
            }
            Err(_) if self.may_pin => Ok(Vec::new()),
            Err(fault) => Err(fault.into()),
        }
    }
}

fn has_credential(options: &Options) -> bool {
    options.path("key").is_some() || options.secret("password").is_some() || options.flag("agent")
}

fn port(options: &Options) -> u16 {
    options.int("port").and_then(|p| u16::try_from(p).ok()).unwrap_or_default()
}

fn unknown_key(target: &ConnectTarget<'_>) -> Fault {
    Fault::user(format!("cannot log in to guest `{}`", target.guest.id))
        .because("its host key is unknown, and vmdeck did not make this machine")
        .hint(format!("set `guests.{}.ssh.host_key`; `ssh-keyscan` on a trusted network shows it", target.guest.id))
}

/// Returns the host keys of a machine that we did not make, by the hypervisor's own way into it: no network can lie here.
async fn learn_keys(target: &ConnectTarget<'_>) -> Result<Vec<PublicKey>> {
    let Some(agent) = target.machine.guest_exec() else { return Err(unknown_key(target)) };
    let mut out = Collected::default();
    let ask = RemoteCommand::new("cat /etc/ssh/ssh_host_*_key.pub");
    let asked = clock::within(HANDSHAKE, agent.run(&ask, &mut out, &CancellationToken::new())).await;
    let keys = hostkey::all(&String::from_utf8_lossy(&out.stdout));
    match asked {
        Some(Ok(_)) if !keys.is_empty() => Ok(keys),
        Some(Err(fault)) if fault.is_worth_a_retry() => Err(fault),
        Some(Err(fault)) => Err(unknown_key(target).caused_by(fault)),
        None => Err(Fault::infra("cannot learn the guest's host key").because("its agent does not answer")),
        Some(Ok(_)) => Err(unknown_key(target)),
    }
}

fn again(reason: String) -> ConnectError {
    ConnectError::NotYet { reason, pause: RESTART_PAUSE }
}

async fn handshake(stream: tokio::net::TcpStream, checker: &Checker) -> Result<client::Handle<Checker>, ConnectError> {
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
        None => Err(again(format!("no key exchange within {} s", HANDSHAKE.as_secs()))),
        Some(Ok(handle)) => Ok(handle),
        Some(Err(error)) => Err(match checker.refusal() {
            Some(Refused { expected, shown, .. }) => ConnectError::WrongMachine(
                Fault::infra("cannot trust the guest's host key")
                    .because(format!("it shows {shown}, expected {expected}"))
                    .hint("no credential was sent; another machine may have this address, or `ssh.host_key` is wrong")
                    .permanent(),
            ),
            None => again(error.to_string()),
        }),
    }
}

/// Returns the order of algorithms: a cipher that hardware helps with first, and the pinned keys' kinds first.
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
    let mut order = preferred.key.to_vec();
    order.sort_by_key(|kind| !checker.expects(kind));
    if checker.strict {
        order.retain(|kind| checker.expects(kind));
    }
    preferred.key = Cow::Owned(order);
    preferred
}

#[cfg(test)]
mod tests;
