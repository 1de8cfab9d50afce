//! What a backend is asked for: a machine for a guest, with the services and networks that it must offer.

use crate::host::net::Probe;
use std::path::Path;
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
    /// Private networks that the machine is attached to, besides its usual one.
    pub networks: &'a [NetworkId],
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

/// A private network between machines of one job, by the provider's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkId(pub String);
