//! The `ssh` transport: russh, a host key that was pinned before any credential is sent, and statuses that cannot lie.
//!
//! Facts that shape it (measured with russh 0.65): without `nodelay` a command takes 44 ms instead of 2; a channel that
//! nobody reads stalls the whole connection; dropping a channel sends nothing.

mod auth;
mod client_config;
mod handshake;
mod hostkey;
mod known_hosts;
mod rsa;
mod running;
mod session;
mod way;

use super::{
    contract::{ConnectError, ConnectTarget, Connector, Endpoint, Needs, Transport, Unusable},
    session::Session,
};
use crate::{
    backend::{
        capabilities::{Capabilities, Reach},
        capabilities_of,
        request::Service,
    },
    command::{Collected, RemoteCommand, sh_quote},
    host::{clock, info, net::Probe},
};
use auth::{LoginAttempt, LoginError, LoginHistory};
use futures_util::future::BoxFuture;
use handshake::{Carried, HANDSHAKE, LinkWishes, RESTART_PAUSE, again, handshake};
use hostkey::{Checker, KeyKind, Refused};
use russh::keys::PublicKey;
pub(super) use session::KIND;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_files::Exposure;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Network, Seed},
    key::{Key, Kind, Options, Value},
};
use way::Way;

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
        path: "guests.*.ssh.agent_key",
        kind: Kind::KeyOrPath,
        default: None,
        doc: "the only one of the agent's keys that is offered: the public key, or a file that holds it",
    },
    Key {
        path: "guests.*.ssh.proxy_jump",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "hosts on the way, each [user@]host[:port]; they get the guest's key or the agent's, and never a password",
    },
    Key {
        path: "guests.*.ssh.jump_host_keys",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "host keys of the hosts on the way, or files that hold them",
    },
    Key {
        path: "guests.*.ssh.known_hosts",
        kind: Kind::Path,
        default: None,
        doc: "a store of host keys as OpenSSH has it, for the guest and the hosts on the way; read, never written",
    },
    Key {
        path: "guests.*.ssh.config",
        kind: Kind::Path,
        default: None,
        doc: "an ssh_config in which `host` is looked up, by the program `ssh`: HostName, Port, User, IdentityFile, ProxyJump, UserKnownHostsFile",
    },
    Key {
        path: "guests.*.ssh.compression",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "make what is sent smaller, where the server can read that: for slow lines; on fast ones it only costs time",
    },
    Key {
        path: "guests.*.ssh.keep_alive",
        kind: Kind::Duration,
        default: Some("\"15s\""),
        doc: "how long the guest may be silent before it is asked whether it is there; after the third question it is lost",
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
                    guest.key
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
            format!("set `guests.{0}.ssh.key`, `password` or `agent = true`", guest.key),
            None,
        );
    }
    if way::is_indirect(options)
        && let Err(why) = way::check(guest, options)
    {
        fatal(
            format!("guest `{}`: {why}", guest.id),
            format!("correct `[guests.{}.ssh]`; docs/ssh.md has examples", guest.key),
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
        if way::is_indirect(options(guest)) {
            return Needs::OwnWay;
        }
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
        let mut expected = hostkey::of(&options).transpose().map_err(Fault::user)?.unwrap_or_default();
        let store = options.path("known_hosts").filter(|_| expected.is_empty() && !way::is_indirect(&options));
        if let (Some(store), Some(host)) = (store, self.host(target.guest).or_else(|| target.guest.address.clone())) {
            let known = known_hosts::keys(&[store.to_owned()], &host, port(&options));
            expected = known.map_err(|why| Fault::user(why).permanent())?;
        }
        // Who names a store wants no key that is not in it.
        let created = !target.machine.is_adopted() && options.path("known_hosts").is_none();
        let may_pin = created || !expected.is_empty() || target.pin.known().is_some();
        // Better than a first contact over a network, and all that there is for a machine that we did not make. A forwarded port leads
        // nowhere else.
        let is_routed = capabilities_of(&target.guest.backend).network == Reach::Routed;
        let is_unknown = expected.is_empty() && target.pin.known().is_none();
        let asks_agent = is_unknown && is_routed && target.machine.guest_exec().is_some();
        if !may_pin && !asks_agent && !way::is_indirect(&options) {
            return Err(unknown_key(target));
        }
        Ok(Box::new(Login {
            target,
            keys: own_key(&options),
            finds_keys: false,
            options,
            expected,
            may_pin,
            asks_agent,
            way: None,
            passed_over: Vec::new(),
            history: LoginHistory::default(),
        }))
    }
}

/// The attempts to log in to one machine.
struct Login<'a> {
    target: &'a ConnectTarget<'a>,
    options: Cow<'a, Options>,
    /// The files of keys.
    keys: Vec<PathBuf>,
    /// Whether they were only found, so that one that cannot be used is passed over.
    finds_keys: bool,
    /// The way to the guest, once it was looked up.
    way: Option<Way>,
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
            let (stream, jumps, address): (Box<dyn Carried>, _, _) = match endpoint {
                Endpoint::Service { stream, address } => {
                    // Small requests go out at once; russh cannot set this on a stream that it did not open.
                    let _ = stream.set_nodelay(true);
                    (Box::new(stream), Vec::new(), Some(address))
                }
                Endpoint::OwnWay => {
                    let way = self.find_way().await?;
                    let arrived = way.connect(self.target.guest, &self.options).await?;
                    (arrived.stream, arrived.jumps, None)
                }
                _ => return Err(Fault::bug("the transport `ssh` got no connection").into()),
            };
            let mut expected = self.expected_keys().await?;
            let all = expected.len();
            expected.retain(|key| !self.passed_over.contains(&KeyKind::of(&key.algorithm())));
            let mut checker = Checker::new(expected, self.target.pin.clone());
            checker.strict = checker.count() < all;
            let mut handle = match handshake(stream, &checker, LinkWishes::of(&self.options)).await {
                Err(ConnectError::WrongMachine(fault)) => return Err(self.wrong_key(&checker, fault)),
                handle => handle?,
            };
            let mut login = LoginAttempt {
                handle: &mut handle,
                options: &self.options,
                keys: &self.keys,
                finds_keys: self.finds_keys,
                guest: self.target.guest,
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
            match session::open(handle, jumps, guest.os, guest.sudo.clone(), address).await {
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
    /// Returns the way to the guest, and takes over what the user's own settings say about the login.
    async fn find_way(&mut self) -> Result<Way, ConnectError> {
        if let Some(way) = &self.way {
            return Ok(way.clone());
        }
        let (guest, options) = (self.target.guest.clone(), self.options.clone().into_owned());
        let found = tokio::task::spawn_blocking(move || Way::of(&guest, &options)).await;
        let cannot = || Fault::user(format!("cannot find the way to guest `{}`", self.target.guest.id)).permanent();
        let way = found
            .map_err(|e| Fault::bug("looking up a way panicked").because(e))?
            .map_err(|why| cannot().because(why))?;
        if let Some(user) = &way.target.user {
            self.options.to_mut().set("user", Value::Text(user.clone()));
        }
        if self.keys.is_empty() && self.options.secret("password").is_none() && !self.options.flag("agent") {
            self.keys.clone_from(&way.target.keys);
            // As the program itself does, where there is one.
            let has_agent = std::env::var_os("SSH_AUTH_SOCK").is_some();
            self.options.to_mut().set("agent", Value::Bool(has_agent));
            self.finds_keys = true;
        }
        if self.expected.is_empty() {
            let known = known_hosts::keys(&way.target.known_hosts, &way.target.host, way.target.port);
            self.expected = known.map_err(|why| cannot().because(why))?;
        }
        if self.expected.is_empty() && !self.may_pin {
            return Err(unknown_key(self.target).into());
        }
        self.way = Some(way.clone());
        Ok(way)
    }

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
        let (guest, key) = (&self.target.guest.id, &self.target.guest.key);
        Fault::user(format!("cannot run commands in guest `{guest}` over ssh")).caused_by(fault).hint(format!(
            "the account's shell, or a command that its authorized_keys forces, answers instead; set `guests.{key}.ssh.user`"
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

/// Returns the file of the key that is set.
fn own_key(options: &Options) -> Vec<PathBuf> {
    options.path("key").map(Path::to_owned).into_iter().collect()
}

fn has_credential(options: &Options) -> bool {
    options.path("config").is_some()
        || options.path("key").is_some()
        || options.secret("password").is_some()
        || options.flag("agent")
}

fn port(options: &Options) -> u16 {
    options.int("port").and_then(|p| u16::try_from(p).ok()).unwrap_or_default()
}

fn unknown_key(target: &ConnectTarget<'_>) -> Fault {
    Fault::user(format!("cannot log in to guest `{}`", target.guest.id))
        .because("its host key is unknown, and vmdeck did not make this machine")
        .hint(format!("set `guests.{}.ssh.host_key`; `ssh-keyscan` on a trusted network shows it", target.guest.key))
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

#[cfg(test)]
mod tests;
