//! What a backend is asked for: a machine for a guest, with the services and networks that it must offer.

use crate::host::{
    net::Probe,
    switch::{Seat, Switch},
};
use std::{os::fd::OwnedFd, path::Path};
use vmdeck_model::guest::Guest;

/// A machine to be made. Whether it is made new, adopted or restored is said by the method that gets the request, so that no
/// backend is ever asked for what it cannot do.
#[derive(Clone, Copy, Debug)]
pub struct CreateRequest<'a> {
    /// The guest that the machine is for.
    pub guest: &'a Guest,
    /// The generated name: the nonce that proves the machine ours.
    pub name: &'a str,
    /// The generated UUID.
    pub uuid: &'a str,
    /// The machine's private folder; not made yet.
    pub private_dir: &'a Path,
    /// The guest's folder in the run's record; exists.
    pub record_dir: &'a Path,
    /// How long the machine may live.
    pub lifetime: Lifetime,
    /// The services that transports will look for; a backend that forwards ports forwards theirs.
    pub services: &'a [Service],
    /// The private network that the machine is in besides its usual one; only where the backend joins switches.
    pub network: Option<NetworkPort<'a>>,
    /// Whether the machine may be frozen later.
    pub freezable: bool,
    /// What keeps the machine's memory promised to it while it is open: a machine that is a process of this host holds a copy of it as
    /// long as it lives.
    pub memory: Option<&'a OwnedFd>,
}

/// How long a machine may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The machine ends with us, whatever ends us.
    TiedToUs,
    /// A person may decide to keep the machine.
    MayOutliveUs,
}

/// A service in a guest that a transport talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name of the transport that needs the service.
    pub name: &'static str,
    /// The port in the guest.
    pub port: u16,
    /// The way to find out whether the service is there. An open port is not enough: a port forward accepts before the
    /// guest exists.
    pub probe: Probe,
}

/// Where a machine is plugged in.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPort<'a> {
    /// The network of the machine's job.
    pub switch: &'a Switch,
    /// What the machine has in it.
    pub seat: Seat,
}
