//! The backends `lxd` and `incus`: containers and virtual machines of a daemon on this host or elsewhere, or of a cluster of them.
//!
//! Everything goes through the daemon's own interface, since its command line program mixes its failures with those of what it runs.
//! What was seen of the daemons is written where it is met.

mod answer;
mod client;
mod console;
mod error;
mod exec;
mod findings;
mod flavour;
mod http;
mod instance;
mod ownership;
mod place;
mod placement;
mod tls;
mod watch;
mod wire;

use super::{
    capabilities::{Capabilities, ConsoleKind, Reach},
    contract::{Backend, Machine},
    proof::Proof,
    record::MachineRecord,
    request::CreateRequest,
};
use crate::context::CallContext;
use answer::status;
use client::LxdClient;
use flavour::Flavour;
use futures_util::future::BoxFuture;
use instance::LxdMachine;
use ownership::MachineFound;
use place::LxdPlace;
use std::collections::BTreeMap;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Finding,
    guest::Guest,
    key::Key,
    machine::MachineInfo,
};

/// The config keys of `lxd`.
pub const LXD_KEYS: &[Key] = flavour::LXD_KEYS;
/// The config keys of `incus`.
pub const INCUS_KEYS: &[Key] = flavour::INCUS_KEYS;

/// What the backends can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    isolated: true,
    network: Reach::Routed,
    guest_exec: true,
    console: ConsoleKind::Userspace,
    sized: true,
    ..Capabilities::NONE
};

/// The backend; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Lxd {
    flavour: &'static Flavour,
}

impl Lxd {
    /// Returns the backend `lxd`.
    pub fn canonical() -> Self {
        Self { flavour: &flavour::LXD }
    }

    /// Returns the backend `incus`.
    pub fn incus() -> Self {
        Self { flavour: &flavour::INCUS }
    }

    fn client_of(self, guest: &Guest) -> Result<LxdClient> {
        Ok(LxdClient::new(self.flavour, LxdPlace::of_guest(self.flavour, guest)?))
    }

    /// Returns what asks about a machine that a run of ours has made.
    fn client_of_record(self, record: &MachineRecord) -> Result<LxdClient> {
        let place = LxdPlace::of_record(&record.place).ok_or_else(|| {
            Fault::new(Blame::Leftover, format!("cannot look for `{}`", record.name))
                .because("its journal does not say at which daemon it was made")
        })?;
        Ok(LxdClient::new(self.flavour, place))
    }

    /// Returns the instance of a record that is up.
    async fn running(self, record: &MachineRecord) -> Result<Option<(LxdClient, answer::LxdInstance)>> {
        let client = self.client_of_record(record)?;
        let failed = |error: error::LxdError| error.fault(self.flavour, format!("look for `{}`", record.name));
        let all = client.instances().await.map_err(failed)?;
        Ok(match ownership::find(&all, &record.name, record.id.uuid.as_deref()) {
            MachineFound::Ours(instance) if instance.status_code == status::RUNNING => Some((client, instance.clone())),
            _ => None,
        })
    }
}

impl Backend for Lxd {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move { Ok(findings::findings(self.flavour, guest).await) })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        Box::pin(async {
            // Where it is not installed it has no machines; daemons elsewhere are not listed, whoever's machines they have.
            let Some(place) = LxdPlace::of_host(self.flavour) else { return Ok(Vec::new()) };
            let client = LxdClient::new(self.flavour, place);
            let all = client.instances().await.map_err(|error| error.fault(self.flavour, "list the instances"))?;
            let info = |instance: answer::LxdInstance| MachineInfo {
                id: instance.uuid().map(str::to_owned),
                name: instance.name,
                backend: self.flavour.kind,
                state: instance.status.to_lowercase(),
                address: None,
            };
            Ok(all.into_iter().map(info).collect())
        })
    }

    fn place(&self, guest: &Guest) -> Result<BTreeMap<String, String>> {
        Ok(LxdPlace::of_guest(self.flavour, guest)?.to_record())
    }

    fn create<'a>(
        &'a self,
        request: CreateRequest<'a>,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let mut machine = LxdMachine::new(self.client_of(request.guest)?, &request);
            machine.make(request.guest, context).await?;
            Ok(Box::new(machine) as Box<dyn Machine>)
        })
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let running = self.running(record).await?;
            Ok(running.map(|(client, made)| {
                Box::new(LxdMachine::of_made(client, &record.request(guest), &made, &record.id)) as Box<dyn Machine>
            }))
        })
    }

    fn take_over<'a>(
        &'a self,
        request: CreateRequest<'a>,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let cannot = || Fault::infra(format!("cannot use `{}` again", record.name));
            let (client, made) =
                self.running(record).await?.ok_or_else(|| cannot().because("it does not run any more"))?;
            Ok(Some(Box::new(LxdMachine::of_made(client, &request, &made, &record.id)) as Box<dyn Machine>))
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            match self.client_of_record(record) {
                Ok(client) => Proof::gone(ownership::destroy(&client, &record.name, &record.id).await),
                Err(fault) => Proof::Unknown(fault),
            }
        })
    }
}
