//! The way to a guest that is not reached directly: over other hosts, or as the user's own `ssh_config` has it.
//!
//! Every host on the way shows a known key before anything is sent to it, and gets no password: only keys.

use super::{
    auth::{LoginAttempt, LoginError, LoginHistory},
    client_config,
    handshake::{Carried, LinkWishes, handshake},
    hostkey::{self, Checker},
    known_hosts,
};
use crate::{
    host::clock,
    transport::{contract::ConnectError, pin::Pin},
};
use russh::{client, keys::PublicKey};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::TcpStream;
use vmdeck_model::{
    error::Fault,
    guest::Guest,
    key::{Options, Value},
};

/// How long one host on the way may take to be connected to.
const CONNECT: Duration = Duration::from_secs(15);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// Most hosts on a way: settings may lead in a circle.
const MOST: usize = 8;

/// A host, and how it is logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) host: String,
    pub(super) port: u16,
    /// The user; unset: the guest's.
    pub(super) user: Option<String>,
    /// The files of keys; none = the guest's.
    pub(super) keys: Vec<PathBuf>,
    /// The stores that may know its key.
    pub(super) known_hosts: Vec<PathBuf>,
}

/// The hosts on the way to a guest, and the guest itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) hops: Vec<Hop>,
    pub(super) target: Hop,
}

/// Returns whether a guest with these settings is not connected to directly.
pub(super) fn is_indirect(options: &Options) -> bool {
    !options.texts("proxy_jump").is_empty() || options.path("config").is_some()
}

/// Checks the settings of a way on this host; the error is a sentence.
pub(super) fn check(guest: &Guest, options: &Options) -> Result<(), String> {
    let way = Way::of(guest, options)?;
    way.hops.iter().try_for_each(|hop| keys_of(hop, options).map(drop))
}

impl Way {
    /// Finds the way to a guest; the error is a sentence. It may ask the `ssh` program.
    pub(super) fn of(guest: &Guest, options: &Options) -> Result<Self, String> {
        let name = options.text("host").map(str::to_owned).or_else(|| guest.address.clone());
        let name =
            name.ok_or("`ssh.proxy_jump` and `ssh.config` need `ssh.host`: nothing is searched for behind others")?;
        let store: Vec<PathBuf> = options.path("known_hosts").map(Path::to_owned).into_iter().collect();
        let port = options.int("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(22);
        let written = options.texts("proxy_jump");
        let target = Hop { host: name, port, user: None, keys: Vec::new(), known_hosts: store.clone() };
        let Some(file) = options.path("config") else {
            let hops = parse(&written.join(","))?;
            return Ok(Self {
                hops: hops.into_iter().map(|hop| Hop { known_hosts: store.clone(), ..hop }).collect(),
                target,
            });
        };
        let (mut target, jumps) = resolve(file, &target)?;
        if options.text("user").is_some() {
            target.user = None;
        }
        let jumps = if written.is_empty() { jumps.unwrap_or_default() } else { written.join(",") };
        Ok(Self { hops: hops_of(file, &jumps, &store, MOST)?, target })
    }
}

/// Returns hosts as the user's own settings have them, with those that are on the way to the first of them; `most` in all.
fn hops_of(file: &Path, text: &str, store: &[PathBuf], most: usize) -> Result<Vec<Hop>, String> {
    let mut out = Vec::new();
    for (index, hop) in parse(text)?.into_iter().enumerate() {
        let (hop, before) = resolve(file, &Hop { known_hosts: store.to_vec(), ..hop })?;
        // Only the first host is reached from here.
        if let Some(before) = before.filter(|_| index == 0 && most > 0) {
            out.extend(hops_of(file, &before, store, most - 1)?);
        }
        out.push(hop);
    }
    if out.len() > MOST {
        return Err(format!("the way has more than {MOST} hosts"));
    }
    Ok(out)
}

/// Returns a host as the user's own settings have it, and the hosts on the way to it.
fn resolve(file: &Path, hop: &Hop) -> Result<(Hop, Option<String>), String> {
    let found = client_config::of(file, &hop.host)?;
    let port = if hop.port == 22 { found.port } else { hop.port };
    let known_hosts = hop.known_hosts.iter().cloned().chain(found.known_hosts).collect();
    let user = hop.user.clone().or(Some(found.user));
    Ok((Hop { host: found.host, port, user, keys: found.keys, known_hosts }, found.jumps))
}

/// Reads hosts as `ssh -J` takes them: `[user@]host[:port]`, separated by commas.
pub(super) fn parse(text: &str) -> Result<Vec<Hop>, String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(hop).collect()
}

fn hop(text: &str) -> Result<Hop, String> {
    let wrong = || format!("`{text}` is no host to jump over: write [user@]host[:port]");
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, rest),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']').ok_or_else(wrong)?;
            (host, after.strip_prefix(':').or_else(|| after.is_empty().then_some("22")).ok_or_else(wrong)?)
        }
        // An address of IPv6 without brackets has no port.
        None if place.matches(':').count() > 1 => (place, "22"),
        None => place.split_once(':').unwrap_or((place, "22")),
    };
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let is_name = |name: &str| !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if !is_name(host) || user.as_deref().is_some_and(|user| !is_name(user)) || port == 0 {
        return Err(wrong());
    }
    Ok(Hop { host: host.to_owned(), port, user, keys: Vec::new(), known_hosts: Vec::new() })
}

/// A connection to the guest's server, with the logins on the way, which must live as long.
pub(super) struct Arrived {
    pub(super) stream: Box<dyn Carried>,
    pub(super) jumps: Vec<client::Handle<Checker>>,
}

impl Way {
    /// Connects to the guest's server.
    pub(super) async fn connect(&self, guest: &Guest, options: &Options) -> Result<Arrived, ConnectError> {
        let mut jumps: Vec<client::Handle<Checker>> = Vec::new();
        for hop in &self.hops {
            let stream = reach(jumps.last(), hop).await?;
            jumps.push(log_in(hop, stream, guest, options).await?);
        }
        let stream = reach(jumps.last(), &self.target).await?;
        Ok(Arrived { stream, jumps })
    }
}

/// Connects to a host, over the last one that was logged in to if there is one.
async fn reach(over: Option<&client::Handle<Checker>>, hop: &Hop) -> Result<Box<dyn Carried>, ConnectError> {
    let not_yet = |why: &dyn std::fmt::Display| ConnectError::NotYet {
        reason: format!("`{}` port {}: {why}", hop.host, hop.port),
        pause: PAUSE,
    };
    let connecting = async {
        match over {
            None => {
                let stream = TcpStream::connect((hop.host.as_str(), hop.port)).await.map_err(|e| not_yet(&e))?;
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream) as Box<dyn Carried>)
            }
            Some(handle) => {
                let opened = handle.channel_open_direct_tcpip(hop.host.as_str(), hop.port.into(), "127.0.0.1", 0).await;
                let channel = opened.map_err(|e| not_yet(&format!("the host before it cannot reach it: {e}")))?;
                Ok(Box::new(channel.into_stream()) as Box<dyn Carried>)
            }
        }
    };
    clock::within(CONNECT, connecting).await.unwrap_or_else(|| Err(not_yet(&"no answer")))
}

/// Logs in to a host on the way.
async fn log_in(
    hop: &Hop,
    stream: Box<dyn Carried>,
    guest: &Guest,
    options: &Options,
) -> Result<client::Handle<Checker>, ConnectError> {
    let cannot =
        || Fault::infra(format!("cannot log in to `{}`, which is on the way to guest `{}`", hop.host, guest.id));
    let known = keys_of(hop, options).map_err(|why| Fault::user(why).permanent())?;
    let is_known = !known.is_empty();
    let checker = if is_known { Checker::new(known, Pin::default()) } else { Checker::none() };
    let mut handle = match handshake(stream, &checker, LinkWishes::of(options)).await {
        Ok(handle) => handle,
        Err(ConnectError::WrongMachine(fault)) => {
            let Some(refused) = checker.refusal() else { return Err(fault.into()) };
            if is_known {
                let why = format!("its host key is {}, expected {}", refused.shown, refused.expected);
                let hint = format!(
                    "no login was tried; another machine may have this address, or `ssh.jump_host_keys` or `ssh.known_hosts` of guest `{}` are wrong",
                    guest.id
                );
                return Err(cannot().because(why).hint(hint).permanent().into());
            }
            let hint = format!(
                "name its key in `ssh.jump_host_keys`, or a store that has it in `ssh.known_hosts`, in `[guests.{}.ssh]`",
                guest.key
            );
            return Err(cannot()
                .because(format!("its host key is unknown; it shows {}", refused.shown))
                .hint(hint)
                .permanent()
                .into());
        }
        Err(other) => return Err(other),
    };
    let mut own = options.without("password");
    if !hop.keys.is_empty() && std::env::var_os("SSH_AUTH_SOCK").is_some() {
        own.set("agent", Value::Bool(true));
    }
    if let Some(user) = &hop.user {
        own.set("user", Value::Text(user.clone()));
    }
    let mut history = LoginHistory::default();
    let keys: Vec<PathBuf> =
        if hop.keys.is_empty() { own.path("key").map(Path::to_owned).into_iter().collect() } else { hop.keys.clone() };
    let mut login = LoginAttempt {
        handle: &mut handle,
        options: &own,
        keys: &keys,
        finds_keys: !hop.keys.is_empty(),
        guest,
        words: &checker.words,
        history: &mut history,
    };
    match login.run().await {
        Ok(()) => Ok(handle),
        Err(LoginError::NotYet { fault, pause }) => {
            Err(ConnectError::NotYet { reason: format!("`{}`: {fault}", hop.host), pause })
        }
        Err(LoginError::Again(fault) | LoginError::Never(fault)) => Err(cannot().caused_by(fault).into()),
    }
}

/// Returns the keys that a host on the way may show; the error is a sentence.
fn keys_of(hop: &Hop, options: &Options) -> Result<Vec<PublicKey>, String> {
    let mut all = Vec::new();
    for text in options.texts("jump_host_keys") {
        all.extend(hostkey::read(text)?);
    }
    all.extend(known_hosts::keys(&hop.known_hosts, &hop.host, hop.port)?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(host: &str, port: u16, user: Option<&str>) -> Hop {
        Hop { host: host.into(), port, user: user.map(str::to_owned), keys: Vec::new(), known_hosts: Vec::new() }
    }

    #[test]
    fn hosts_are_read_as_ssh_reads_them() {
        let all = parse("a, ci@b:2222 ,ssh://c,[::1]:22,[fe80::1],::2,u@d@e").expect("good");
        let wanted = [
            plain("a", 22, None),
            plain("b", 2222, Some("ci")),
            plain("c", 22, None),
            plain("::1", 22, None),
            plain("fe80::1", 22, None),
            plain("::2", 22, None),
            plain("e", 22, Some("u@d")),
        ];
        assert_eq!(all, wanted);
        for bad in ["-oProxyCommand=x", "a:b", "@a", "a:0", "a b", "[::1", "-x@a", "a:99999"] {
            assert!(parse(bad).expect_err(bad).contains("no host to jump over"), "{bad}");
        }
    }
}
