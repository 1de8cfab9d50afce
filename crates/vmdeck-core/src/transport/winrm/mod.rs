//! The `winrm` transport: Windows' own remote management, over HTTP with NTLM's encryption or over HTTPS.
//!
//! Nothing is ever said in the clear: over plain HTTP every message is sealed, and a password itself goes through TLS only.

mod client;
mod connection;
mod error;
mod ntlm;
mod session;
mod soap;
mod tls;

use super::{
    contract::{ConnectError, ConnectTarget, Connector, Endpoint, Needs, Transport, Unusable},
    session::Session,
};
use crate::{
    backend::{
        capabilities::{Capabilities, Reach},
        request::Service,
    },
    host::{self, net::Probe},
};
use client::WinrmClient;
use connection::{Credentials, Scheme, WinrmTarget};
use error::{WinrmError, code};
use futures_util::future::BoxFuture;
use ntlm::Capitals;
pub(super) use session::KIND;
use std::{sync::LazyLock, time::Duration};
use tls::{Tls, Trust};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Network},
    key::{Key, Kind, Options},
};

/// The keys of `[guests.NAME.winrm]`.
pub(super) const KEYS: &[Key] = &[
    Key {
        path: "guests.*.winrm.user",
        kind: Kind::Text,
        default: Some("\"ci\""),
        doc: "user to log on as: name, DOMAIN\\\\name or name@domain",
    },
    Key { path: "guests.*.winrm.password", kind: Kind::Secret, default: None, doc: "password" },
    Key {
        path: "guests.*.winrm.endpoint",
        kind: Kind::Text,
        default: None,
        doc: "address of the service, such as \"http://192.168.64.5:5985/wsman\"; in place of host, port and tls",
    },
    Key {
        path: "guests.*.winrm.host",
        kind: Kind::Text,
        default: None,
        doc: "address of the guest; default: what the backend reports",
    },
    Key {
        path: "guests.*.winrm.port",
        kind: Kind::Int(1, 65535),
        default: None,
        doc: "port in the guest; default: 5985, with tls 5986",
    },
    Key {
        path: "guests.*.winrm.tls",
        kind: Kind::Choice(&["off", "pinned", "ca"]),
        default: None,
        doc: "off = HTTP, each message sealed by NTLM; pinned = HTTPS with the certificate of `cert`; ca = HTTPS with one that an authority \
              vouches for; default: off, and pinned for an endpoint with https",
    },
    Key {
        path: "guests.*.winrm.cert",
        kind: Kind::KeyOrPath,
        default: None,
        doc: "pinned: fingerprint (sha256:...) or file of the guest's certificate; unset: pinned at first contact with a machine that \
              vmdeck made; ca: file of the authorities; unset: this host's",
    },
    Key {
        path: "guests.*.winrm.auth",
        kind: Kind::Choice(&["ntlm", "basic", "kerberos"]),
        default: Some("\"ntlm\""),
        doc: "way to log on: ntlm; basic = the password itself, over HTTPS only; kerberos is not supported yet",
    },
    Key {
        path: "guests.*.winrm.operation_timeout",
        kind: Kind::Duration,
        default: Some("\"20s\""),
        doc: "how long the guest keeps a question for output that does not come; a silent command may take longer",
    },
];

/// The ports that Windows uses, without and with TLS.
const PORTS: (u16, u16) = (5985, 5986);
/// The usual path of the service.
const PATH: &str = "/wsman";
/// How often a refused password is tried in all: accounts get locked, and a first boot may set it late.
const REFUSALS: u32 = 3;
/// Pause after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Pause before another attempt, where the service does not serve yet.
const PAUSE: Duration = Duration::from_millis(500);

/// The `winrm` transport.
pub(super) struct Winrm;

/// How the service of a guest is reached, by its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    host: Option<String>,
    port: u16,
    path: String,
    tls: TlsMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsMode {
    Off,
    Pinned,
    Authority,
}

impl Settings {
    /// Reads the settings; an error is a sentence for a person.
    fn of(options: &Options) -> Result<Self, String> {
        let mode = match options.text("tls") {
            Some("pinned") => Some(TlsMode::Pinned),
            Some("ca") => Some(TlsMode::Authority),
            Some(_) => Some(TlsMode::Off),
            None => None,
        };
        let port = options.int("port").and_then(|port| u16::try_from(port).ok());
        let host = options.text("host").map(str::to_owned);
        let Some(endpoint) = options.text("endpoint") else {
            let tls = mode.unwrap_or(TlsMode::Off);
            let usual = if tls == TlsMode::Off { PORTS.0 } else { PORTS.1 };
            return Ok(Self { host, port: port.unwrap_or(usual), path: PATH.into(), tls });
        };
        if host.is_some() || port.is_some() {
            return Err("`winrm.endpoint` and `winrm.host` or `winrm.port` say two things".into());
        }
        let wrong = || format!("`winrm.endpoint` is `{endpoint}`, and not like http://HOST:5985/wsman");
        let uri: hyper::Uri = endpoint.parse().map_err(|_| wrong())?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match (is_secure, mode) {
            (true, Some(TlsMode::Off)) | (false, Some(TlsMode::Pinned | TlsMode::Authority)) => {
                return Err("`winrm.endpoint` and `winrm.tls` say two things".into());
            }
            (true, mode) => mode.unwrap_or(TlsMode::Pinned),
            (false, _) => TlsMode::Off,
        };
        let usual = if is_secure { PORTS.1 } else { PORTS.0 };
        let path = if uri.path() == "/" { PATH } else { uri.path() };
        Ok(Self { host: Some(host), port: authority.port_u16().unwrap_or(usual), path: path.to_owned(), tls })
    }
}

fn options(guest: &Guest) -> &Options {
    static NONE: LazyLock<Options> = LazyLock::new(Options::default);
    guest.transport_options.get(KIND).unwrap_or(&NONE)
}

/// Returns the certificate that is set: its text, or the path of its file.
fn certificate(options: &Options) -> Option<String> {
    let path = options.path("cert").map(|path| path.display().to_string());
    options.text("cert").map(str::to_owned).or(path)
}

/// Returns the settings that cannot work, each as a sentence and a remedy.
fn problems(guest: &Guest) -> Vec<(String, String)> {
    let (options, id, key) = (options(guest), &guest.id, &guest.key);
    let mut out = Vec::new();
    let settings = match Settings::of(options) {
        Ok(settings) => settings,
        Err(why) => {
            let hint = "set the whole address as `endpoint`, or `host`, `port` and `tls`".to_owned();
            return vec![(format!("guest `{id}`: {why}"), hint)];
        }
    };
    if options.secret("password").is_none() {
        out.push((
            format!("guest `{id}` has no way to log on by WinRM"),
            format!("set `guests.{key}.winrm.password = {{ env = \"...\" }}`"),
        ));
    }
    match options.text("auth") {
        Some("kerberos") => out.push((
            format!("guest `{id}`: this version cannot log on by Kerberos"),
            "use `auth = \"ntlm\"` with a local user, or one of a domain that allows NTLM".into(),
        )),
        Some("basic") if settings.tls == TlsMode::Off => out.push((
            format!("guest `{id}`: `auth = \"basic\"` would send the password in the clear"),
            "set `tls = \"pinned\"` or `\"ca\"`, or use `auth = \"ntlm\"`".into(),
        )),
        _ => {}
    }
    let read = match settings.tls {
        TlsMode::Off => Ok(()),
        TlsMode::Pinned => certificate(options).map_or(Ok(()), |text| host::certificate::pinned(&text).map(drop)),
        TlsMode::Authority => tls::authorities(certificate(options).as_deref()).map(drop),
    };
    if let Err(why) = read {
        out.push((format!("guest `{id}`: {why}"), format!("correct `guests.{key}.winrm.cert`")));
    }
    if settings.tls == TlsMode::Off && certificate(options).is_some() {
        out.push((
            format!("guest `{id}`: `winrm.cert` is set, and `winrm.tls` is off"),
            "set `tls = \"pinned\"` or `\"ca\"`".into(),
        ));
    }
    out
}

impl Transport for Winrm {
    fn usable(&self, guest: &Guest, capabilities: &Capabilities) -> Result<(), Unusable> {
        let options = options(guest);
        let has_host = options.text("host").is_some() || options.text("endpoint").is_some() || guest.address.is_some();
        if !has_host && guest.network == Network::None {
            return Err(Unusable::NotSupported(
                "`network = \"none\"` leaves no way in, and `winrm.host` is not set".into(),
            ));
        }
        if !has_host && capabilities.network == Reach::None {
            let reason = format!("the backend `{}` has no network, and `winrm.host` is not set", guest.backend);
            return Err(Unusable::NotSupported(reason));
        }
        match problems(guest).into_iter().next() {
            Some((why, _)) => Err(Unusable::NotSetUp(why)),
            None => Ok(()),
        }
    }

    fn needs(&self, guest: &Guest) -> Needs {
        let settings = Settings::of(options(guest));
        let (port, tls) = settings.map_or((PORTS.0, TlsMode::Off), |settings| (settings.port, settings.tls));
        // Whatever answers is told from WinRM by the logon.
        let probe = if tls == TlsMode::Off { Probe::Http { path: PATH } } else { Probe::Tls };
        Needs::Service(Service { name: KIND, port, probe })
    }

    fn host(&self, guest: &Guest) -> Option<String> {
        Settings::of(options(guest)).ok()?.host
    }

    fn check(&self, guest: &Guest) -> Vec<Finding> {
        let finding =
            |(text, hint)| Finding { check: KIND.into(), severity: Severity::Fatal, text, hint: Some(hint), fix: None };
        problems(guest).into_iter().map(finding).collect()
    }

    fn has_terminal(&self) -> bool {
        false
    }

    fn connector<'a>(&'a self, target: &'a ConnectTarget<'a>) -> Result<Box<dyn Connector + 'a>> {
        let options = options(target.guest);
        let settings = Settings::of(options).map_err(Fault::user)?;
        let password = options.secret("password").cloned();
        let password = password.ok_or_else(|| Fault::user("cannot log on by WinRM").because("no password is set"))?;
        let login = Credentials {
            user: options.text("user").unwrap_or_default().to_owned(),
            password,
            capitals: Capitals::Simple,
            scheme: if options.text("auth") == Some("basic") { Scheme::Basic } else { Scheme::Ntlm },
        };
        let trust = trust(target, options, settings.tls)?;
        let operation_timeout = options.duration("operation_timeout").unwrap_or_default();
        Ok(Box::new(WinrmLogon { target, settings, login, trust, operation_timeout, refusals: 0 }))
    }
}

/// Returns which certificate is believed; `None` = there is no TLS.
fn trust(target: &ConnectTarget<'_>, options: &Options, mode: TlsMode) -> Result<Option<Trust>> {
    let given = certificate(options);
    Ok(Some(match (mode, given) {
        (TlsMode::Off, _) => return Ok(None),
        (TlsMode::Authority, given) => Trust::Authorities(tls::authorities(given.as_deref()).map_err(Fault::user)?),
        (TlsMode::Pinned, Some(text)) => Trust::Fingerprint(host::certificate::pinned(&text).map_err(Fault::user)?),
        (TlsMode::Pinned, None) if !target.machine.is_adopted() || target.pin.known().is_some() => {
            Trust::FirstContact(target.pin.clone())
        }
        // It is asked for, to say what may be pinned.
        (TlsMode::Pinned, None) => Trust::Nobody,
    }))
}

/// The attempts to log on to one machine.
struct WinrmLogon<'a> {
    target: &'a ConnectTarget<'a>,
    settings: Settings,
    login: Credentials,
    trust: Option<Trust>,
    operation_timeout: Duration,
    refusals: u32,
}

impl Connector for WinrmLogon<'_> {
    fn proves_identity(&self) -> bool {
        matches!(self.trust, Some(Trust::Fingerprint(_) | Trust::Authorities(_)))
    }

    fn connect(&mut self, endpoint: Endpoint) -> BoxFuture<'_, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            let Endpoint::Service { address, .. } = endpoint else {
                return Err(Fault::bug("the transport `winrm` got no connection").into());
            };
            let host = self.settings.host.clone().or_else(|| self.target.guest.address.clone());
            let host = host.unwrap_or_else(|| address.ip().to_string());
            let tls = self.trust.clone().map(|trust| Tls::new(&host, trust)).transpose().map_err(Fault::user)?;
            let (path, login) = (self.settings.path.clone(), self.login.clone());
            let client =
                WinrmClient::new(WinrmTarget { address, host, path, tls: tls.clone(), login }, self.operation_timeout);
            let opened = match client.log_on().await {
                Ok(()) => session::open(client, address).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(session) => {
                    if matches!(self.trust, Some(Trust::FirstContact(_))) {
                        self.target.pin.confirm();
                    }
                    Ok(Box::new(session) as Box<dyn Session>)
                }
                Err(error) => Err(self.explain(error)),
            }
        })
    }
}

impl WinrmLogon<'_> {
    /// Returns what follows from an attempt that failed.
    fn explain(&mut self, error: WinrmError) -> ConnectError {
        let (guest, key) = (&self.target.guest.id, &self.target.guest.key);
        let user = &self.login.user;
        let cannot = || Fault::infra(format!("cannot log on to guest `{guest}` as `{user}` by WinRM"));
        match error {
            WinrmError::Refused => {
                self.refusals += 1;
                // The other side may be no Windows; for most names it is the same.
                self.login.capitals = Capitals::Full;
                let fault = cannot()
                    .because(&error)
                    .hint(format!("check `guests.{key}.winrm.user` and `password`; a local user may need `.\\{user}`"));
                if self.refusals >= REFUSALS {
                    return fault.permanent().into();
                }
                ConnectError::NotYet { reason: fault.to_string(), pause: REFUSED_PAUSE }
            }
            WinrmError::NotOffered { .. } => cannot()
                .because(&error)
                .hint("allow NTLM in the guest: `Set-Item WSMan:\\localhost\\Service\\Auth\\Negotiate $true`")
                .permanent()
                .into(),
            WinrmError::Certificate(why) => {
                let fault = Fault::infra("cannot trust the certificate of the guest's WinRM").because(&why);
                let hint = match self.trust {
                    Some(Trust::Nobody | Trust::Authorities(_)) => {
                        format!(
                            "if it is the right one, set `tls = \"pinned\"` and `cert` to that fingerprint in `[guests.{key}.winrm]`"
                        )
                    }
                    _ => "no password was sent; another machine may have this address, or `winrm.cert` is wrong".into(),
                };
                ConnectError::WrongMachine(fault.hint(hint).permanent())
            }
            error if error.is(code::ACCESS_DENIED) => {
                let fault = cannot().because(&error);
                match error.remedy() {
                    Some(hint) => fault.hint(hint).permanent().into(),
                    None => fault.permanent().into(),
                }
            }
            // A service that starts answers with statuses that mean nothing, or closes.
            error => ConnectError::NotYet { reason: error.to_string(), pause: PAUSE },
        }
    }
}

#[cfg(test)]
mod tests;
