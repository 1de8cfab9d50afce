//! The seam to every way of talking into a machine: when it can be used, what it needs, and how it logs in.
//!
//! Finding the machine's address, waiting for its service and taking turns are not a transport's work: they are written once,
//! in `discovery` and [`super::route`].

use super::{pin::Pin, session::Session};
use crate::backend::{
    capabilities::Capabilities, contract::Machine, discovery::DiscoveryMethod, guest_exec::GuestExec, request::Service,
};
use futures_util::future::BoxFuture;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use vmdeck_model::{
    error::{Fault, Result},
    event::Finding,
    guest::Guest,
};

/// Opens sessions of one kind.
pub trait Transport: Send + Sync {
    /// Returns why this transport cannot be used for a guest on a backend with these capabilities, if it cannot.
    fn usable(&self, guest: &Guest, capabilities: &Capabilities) -> Result<(), Unusable>;

    /// Returns what a session with this guest goes over.
    fn needs(&self, guest: &Guest) -> Needs;

    /// Returns the host that the guest's settings for this transport give; `None` = the machine is searched for.
    fn host(&self, _: &Guest) -> Option<String> {
        None
    }

    /// Checks the guest's settings on this host, before anything is started.
    fn check(&self, _: &Guest) -> Vec<Finding> {
        Vec::new()
    }

    /// Returns whether a session can be a person's terminal.
    fn has_terminal(&self) -> bool;

    /// Begins the attempts to connect to one machine. An error means that waiting cannot help.
    fn connector<'a>(&'a self, target: &'a ConnectTarget<'a>) -> Result<Box<dyn Connector + 'a>>;
}

/// The attempts to connect to one machine: what they have seen so far is kept between them.
pub trait Connector: Send {
    /// Returns whether a connection proves which machine is at the other end, so that an address that nothing else proves may
    /// be tried.
    fn proves_identity(&self) -> bool;

    /// Makes one attempt at this endpoint, where the service has answered.
    fn connect(&mut self, endpoint: Endpoint) -> BoxFuture<'_, Result<Box<dyn Session>, ConnectError>>;
}

/// Why a transport cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The transport and the guest's system or backend do not work together.
    NotSupported(String),
    /// The guest's settings lack something.
    NotSetUp(String),
}

impl Unusable {
    /// Returns the reason, for a person.
    pub fn reason(&self) -> &str {
        match self {
            Unusable::NotSupported(reason) | Unusable::NotSetUp(reason) => reason,
        }
    }
}

/// What a session goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A service in the guest, over the network.
    Service(Service),
    /// The backend's own power to run commands.
    GuestExec,
    /// The port of our agent in the guest.
    AgentPort,
    /// Nothing that anybody could look for: the transport finds its own way.
    OwnWay,
}

/// The other end of a connection that is about to be made.
pub enum Endpoint {
    /// A connection to the service, and where it leads.
    Service {
        /// The connection; nothing has been read from it.
        stream: TcpStream,
        /// The address of the service.
        address: SocketAddr,
    },
    /// The backend's own power to run commands.
    GuestExec(Arc<dyn GuestExec>),
    /// The socket that leads to our agent in the guest.
    AgentPort(PathBuf),
    /// Nothing: the transport connects by itself.
    OwnWay,
}

/// Why an attempt to connect failed.
#[derive(Debug)]
pub enum ConnectError {
    /// The guest is not ready; another attempt after a pause may help.
    NotYet {
        /// What is missing.
        reason: String,
        /// The pause before the next attempt.
        pause: Duration,
    },
    /// Another machine answers there.
    WrongMachine(Fault),
    /// Another attempt cannot help.
    Final(Fault),
}

impl From<Fault> for ConnectError {
    fn from(fault: Fault) -> Self {
        ConnectError::Final(fault)
    }
}

/// A machine to be connected to.
#[derive(Clone, Copy)]
pub struct ConnectTarget<'a> {
    /// The guest's settings.
    pub guest: &'a Guest,
    /// The machine. A host key may be trusted on first contact only if the machine is not adopted.
    pub machine: &'a dyn Machine,
    /// The key that the machine showed at first contact, for every later one.
    pub pin: &'a Pin,
    /// Is called with how far the connection has got.
    pub progress: &'a (dyn Fn(ConnectProgress) + Send + Sync),
}

/// How far a connection has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectProgress {
    /// The service does not answer yet, for this reason.
    Waiting(String),
    /// The service has answered, and there is no session yet, for this reason.
    NotYet(String),
    /// The guest's own agent does not answer yet, for this reason: no service is waited for.
    NoAgent(String),
    /// A method to find the machine's address was tried.
    DiscoveryAttempt(DiscoveryAttempt),
    /// The service has answered.
    ServiceAnswers,
}

/// The outcome of a method to find an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryAttempt {
    /// The method.
    pub method: DiscoveryMethod,
    /// The addresses that were found; empty = none.
    pub found: Vec<SocketAddr>,
    /// Whether the service answered at one of them.
    pub ok: bool,
    /// Why it did not answer.
    pub reason: String,
    /// How long the attempt took in milliseconds.
    pub took_ms: u64,
}
