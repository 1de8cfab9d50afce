//! Talks into a machine that is up. One file or folder for each transport, plus one row in [`TRANSPORTS`].
//!
//! Making the machine is `backend`'s work; the order in which transports are tried is in [`route`].

pub mod artifacts;
mod exec;
mod reach;
pub mod route;
pub mod source;
pub mod ssh;

use crate::{
    backend::{Fut, GuestExec, Vm},
    command::{Exec, Exit, Sink},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Finding,
    guest::Guest,
    key::Key,
};

/// A machine to be reached.
pub struct Target<'a> {
    /// The guest's record.
    pub guest: &'a Guest,
    /// The machine.
    pub vm: &'a dyn Vm,
    /// Whether we made it: only then a host key may be trusted on first contact.
    pub created: bool,
    /// The key that the machine showed at first contact, for every later one.
    pub pin: &'a Pin,
    /// Told each new reason why it does not answer yet.
    pub progress: &'a (dyn Fn(Step) + Send + Sync),
}

/// How far a connection attempt has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not there yet, because of this.
    Waiting(String),
    /// A way to find its address was tried.
    Sought(Sought),
    /// The service has spoken.
    Spoken,
}

/// What a way to find an address gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The way.
    pub way: &'static str,
    /// What it found; empty = nothing.
    pub found: Vec<SocketAddr>,
    /// Whether the service answered at one of these.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// The host key of one machine, as seen at first contact.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<Mutex<Option<String>>>);

impl Pin {
    /// The key that was shown before, if it is known.
    pub fn of(key: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(key)))
    }

    /// The key that was shown at first contact.
    pub fn known(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Remembers `key` if none is known yet; whether `key` is the known one.
    pub fn first_contact(&self, key: &str) -> bool {
        let mut known = self.0.lock();
        known.get_or_insert_with(|| key.to_owned()) == key
    }
}

/// A person's terminal, as streams.
pub struct Terminal {
    /// What the person types.
    pub input: mpsc::Receiver<Bytes>,
    /// What the person sees.
    pub output: mpsc::Sender<Bytes>,
    /// Columns and rows, as they change.
    pub size: watch::Receiver<(u16, u16)>,
    /// `TERM`.
    pub kind: String,
    /// A command instead of the login shell.
    pub command: Option<String>,
}

/// Opens sessions.
pub trait Transport: Send + Sync {
    /// Whether it can work with this machine at all; the reason if not.
    fn suits(&self, target: &Target<'_>) -> Result<(), String>;
    /// Waits for the service and logs in; the caller limits the time. An error means that waiting longer cannot help.
    fn connect<'a>(&'a self, target: &'a Target<'a>) -> Fut<'a, Box<dyn Session>>;
}

/// An open way into a machine.
pub trait Session: Send + Sync {
    /// Which transport it is.
    fn kind(&self) -> &'static str;
    /// Runs a command to its end. A lost connection or a missing status is a fault, never an exit. Cancelling ends the
    /// command in the guest.
    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit>;
    /// Gives a person a terminal in the guest.
    fn attach(&self, _: Terminal) -> Fut<'_, Exit> {
        let kind = self.kind();
        Box::pin(async move {
            Err(Fault::user("cannot open a shell")
                .because(format!("the transport `{kind}` has no terminal"))
                .hint("give a command: `vmdeck shell GUEST -- COMMAND`"))
        })
    }
    /// Where output of any length does not come through [`Session::exec`]: what copies a file out instead.
    fn puller(&self) -> Option<&dyn GuestExec> {
        None
    }
    /// Where the guest is, if there is such a place.
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
    /// Ends it in order.
    fn close(&self) -> Fut<'_, ()>;
}

/// A row of the transport table.
pub struct TransportDef {
    /// The word in the config.
    pub kind: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// The keys of `[guests.NAME.<kind>]`.
    pub keys: &'static [Key],
    /// What of the guest's settings cannot work on this host, before anything is started.
    pub check: fn(&Guest) -> Vec<Finding>,
    /// Makes the transport.
    pub build: fn() -> Box<dyn Transport>,
}

/// Every transport.
pub static TRANSPORTS: &[TransportDef] = &[
    TransportDef {
        kind: "ssh",
        summary: "SSH with a pinned host key",
        keys: ssh::KEYS,
        check: ssh::check,
        build: || Box::new(ssh::Ssh),
    },
    TransportDef {
        kind: "exec",
        summary: "the backend's own way to run commands, without a network",
        keys: &[],
        check: |_| Vec::new(),
        build: || Box::new(exec::ByBackend),
    },
];

/// The row of a kind.
pub fn find(kind: &str) -> Result<&'static TransportDef> {
    TRANSPORTS.iter().find(|row| row.kind == kind).ok_or_else(|| {
        let known: Vec<_> = TRANSPORTS.iter().map(|row| row.kind).collect();
        Fault::user(format!("unknown transport `{kind}` (known: {})", known.join(", ")))
    })
}
