//! Decides which transport is used: each in the guest's order, with the reason why the ones before failed.
//!
//! A fallback happens only here, before anything was run: a test that has started is never run again another way.

use super::{
    TransportInfo,
    contract::{ConnectError, ConnectProgress, ConnectTarget, Connector, DiscoveryAttempt, Endpoint, Needs, Unusable},
    discovery::AddressSearch,
    session::Session,
};
use crate::{
    backend::{self, capabilities::Capabilities, discovery::DiscoveryMethod, request::Service},
    host::clock,
};
use parking_lot::Mutex;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// One attempt with a transport, or with one method to find the address for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAttempt {
    /// The word of the transport.
    pub transport: String,
    /// The method to find the address.
    pub method: Option<DiscoveryMethod>,
    /// Whether the attempt led to a session.
    pub ok: bool,
    /// Why it did not lead to a session.
    pub reason: String,
    /// How long it took in milliseconds.
    pub took_ms: u64,
    /// The address where the guest was reached, or searched for.
    pub address: Option<String>,
}

/// Returns the guest's transports in their order, each with the reason if it cannot be used with the guest's backend. An
/// unknown word is an error.
pub fn usable(guest: &Guest) -> Result<Vec<(&'static TransportInfo, Result<(), Unusable>)>> {
    let capabilities = backend::capabilities_of(&guest.backend);
    let row = |kind: &String| {
        let row = super::find(kind)?;
        Ok((row, row.transport.usable(guest, &capabilities)))
    };
    guest.transports.iter().map(row).collect()
}

/// Returns the services that the guest's usable transports will look for.
pub fn services(guest: &Guest, capabilities: &Capabilities) -> Vec<Service> {
    let rows = guest.transports.iter().filter_map(|kind| super::find(kind).ok());
    rows.filter(|row| row.transport.usable(guest, capabilities).is_ok())
        .filter_map(|row| match row.transport.needs(guest) {
            Needs::Service(service) => Some(service),
            Needs::GuestExec | Needs::AgentPort | Needs::OwnWay => None,
        })
        .collect()
}

/// A transport whose turn comes, with all that its attempts have seen.
struct Candidate<'a> {
    kind: &'static str,
    connector: Box<dyn Connector + 'a>,
    place: Place<'a>,
}

/// Opens a session by the first transport that works; `report` is called with every attempt. The caller limits the
/// time.
///
/// Where several could work they take turns: none of them may keep a guest that another one can reach waiting for ever.
pub async fn open(target: &ConnectTarget<'_>, report: impl Fn(RouteAttempt) + Send + Sync) -> Result<Box<dyn Session>> {
    let Some(first) = target.guest.transports.first() else {
        return Err(
            Fault::user(format!("guest `{}` has no transports", target.guest.id)).hint("set `transports = [\"ssh\"]`")
        );
    };
    // What is being waited for, by the transport whose turn it is.
    let current = Mutex::new((first.as_str(), String::new()));
    let progress = |step: ConnectProgress| {
        match &step {
            ConnectProgress::Waiting(reason) | ConnectProgress::NotYet(reason) | ConnectProgress::NoAgent(reason) => {
                reason.clone_into(&mut current.lock().1);
            }
            ConnectProgress::DiscoveryAttempt(attempt) => report(of_discovery(current.lock().0, attempt)),
            ConnectProgress::ServiceAnswers => {}
        }
        (target.progress)(step);
    };
    let target = ConnectTarget { progress: &progress, ..*target };
    let mut last = None;
    let mut candidates = Vec::new();
    for (row, usable) in usable(target.guest)? {
        let start = clock::now();
        let (reason, failed) = match usable.map(|()| candidate(row, &target)) {
            Ok(Ok(candidate)) => {
                candidates.push(candidate);
                continue;
            }
            Ok(Err(fault)) => (fault.to_string(), fault),
            Err(unusable) => {
                let reason = unusable.reason().to_owned();
                (reason.clone(), Fault::infra(format!("cannot use `{}`", row.kind)).because(reason))
            }
        };
        report(attempt(row.kind, false, reason, start));
        last = last.or(Some(failed));
    }
    while !candidates.is_empty() {
        let alone = candidates.len() == 1;
        let mut index = 0;
        while let Some(candidate) = candidates.get_mut(index) {
            let (kind, start) = (candidate.kind, clock::now());
            *current.lock() = (kind, "no answer yet".to_owned());
            let connecting = candidate.connect(&target);
            let connected = if alone {
                Some(connecting.await)
            } else {
                clock::within(target.guest.transport_turn, connecting).await
            };
            match connected {
                Some(Ok(session)) => {
                    let address = session.peer().map(|a| a.to_string());
                    report(RouteAttempt { address, ..attempt(kind, true, String::new(), start) });
                    return Ok(session);
                }
                Some(Err(fault)) => {
                    report(attempt(kind, false, fault.to_string(), start));
                    last = Some(fault);
                    candidates.remove(index);
                }
                None => {
                    report(attempt(kind, false, current.lock().1.clone(), start));
                    index += 1;
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Fault::bug("no transport was tried")))
}

/// Where a transport connects to.
enum Place<'a> {
    /// The service that this search finds.
    Service(AddressSearch<'a>),
    /// The backend's own power.
    GuestExec,
    /// The port of our agent.
    AgentPort,
    /// Where the transport gets to by itself.
    OwnWay,
}

fn candidate<'a>(row: &TransportInfo, target: &'a ConnectTarget<'a>) -> Result<Candidate<'a>> {
    let transport = row.transport;
    let connector = transport.connector(target)?;
    let place = match transport.needs(target.guest) {
        Needs::Service(service) => {
            let fixed = transport.host(target.guest).or_else(|| target.guest.address.clone());
            Place::Service(AddressSearch::new(target, service, fixed, connector.proves_identity()))
        }
        Needs::GuestExec => Place::GuestExec,
        Needs::AgentPort => Place::AgentPort,
        Needs::OwnWay => Place::OwnWay,
    };
    Ok(Candidate { kind: row.kind, connector, place })
}

impl Candidate<'_> {
    /// Connects, however long it takes; an error means that waiting longer cannot help.
    async fn connect(&mut self, target: &ConnectTarget<'_>) -> Result<Box<dyn Session>> {
        loop {
            let (endpoint, address, only) = match &mut self.place {
                Place::Service(search) => {
                    let reached = search.next().await?;
                    (target.progress)(ConnectProgress::ServiceAnswers);
                    let address = reached.address;
                    (Endpoint::Service { stream: reached.stream, address }, Some(address), reached.only)
                }
                Place::OwnWay => (Endpoint::OwnWay, None, true),
                Place::GuestExec => match target.machine.guest_exec() {
                    Some(power) => (Endpoint::GuestExec(power), None, true),
                    None => return Err(Fault::infra("cannot run commands by the backend")),
                },
                Place::AgentPort => match target.machine.agent_port() {
                    Some(socket) => (Endpoint::AgentPort(socket.to_owned()), None, true),
                    None => return Err(Fault::infra("cannot reach an agent: the machine has no port for one")),
                },
            };
            match self.connector.connect(endpoint).await {
                Ok(session) => {
                    if !matches!(self.place, Place::Service(_)) {
                        (target.progress)(ConnectProgress::ServiceAnswers);
                    }
                    return Ok(session);
                }
                Err(ConnectError::NotYet { reason, pause }) => {
                    let is_agent = matches!(self.place, Place::GuestExec);
                    (target.progress)(if is_agent {
                        ConnectProgress::NoAgent(reason)
                    } else {
                        ConnectProgress::NotYet(reason)
                    });
                    clock::sleep(pause).await;
                }
                // Another machine at an address that was only one of several: the search goes on without it.
                Err(ConnectError::WrongMachine(fault)) if !only => {
                    (target.progress)(ConnectProgress::Waiting(fault.to_string()));
                    if let (Place::Service(search), Some(address)) = (&mut self.place, address) {
                        search.exclude(address);
                    }
                }
                Err(ConnectError::WrongMachine(fault) | ConnectError::Final(fault)) => return Err(fault),
            }
        }
    }
}

fn attempt(kind: &str, ok: bool, reason: String, start: clock::Instant) -> RouteAttempt {
    let (transport, took_ms) = (kind.to_owned(), clock::ms_since(start));
    RouteAttempt { transport, method: None, ok, reason, took_ms, address: None }
}

fn of_discovery(kind: &str, attempt: &DiscoveryAttempt) -> RouteAttempt {
    let addresses: Vec<String> = attempt.found.iter().map(ToString::to_string).collect();
    RouteAttempt {
        transport: kind.to_owned(),
        method: Some(attempt.method),
        ok: attempt.ok,
        reason: attempt.reason.clone(),
        took_ms: attempt.took_ms,
        address: (!addresses.is_empty()).then(|| addresses.join(", ")),
    }
}
