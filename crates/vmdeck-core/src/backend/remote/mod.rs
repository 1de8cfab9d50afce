//! The `remote` backend: a machine that is there already, at an address that the config gives. It is neither made nor destroyed.
//!
//! What can be done to such a machine are the commands of `power`, if there are any; where there are none, nothing is.

mod machine;
mod power;

use super::{
    capabilities::{Capabilities, ConsoleKind, Reach},
    contract::{Adoption, Backend, Machine},
    deps::BackendDeps,
    proof::Proof,
    record::{AdoptTarget, MachineRecord, PowerState},
    request::CreateRequest,
};
use crate::{context::CallContext, host::process::Spawner};
use futures_util::future::BoxFuture;
use machine::RemoteMachine;
use power::Power;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Fresh, Guest},
    key::{Key, Kind},
    machine::MachineInfo,
};

/// The config keys of the backend.
pub const KEYS: &[Key] = &[Key {
    path: "guests.*.remote.lock",
    kind: Kind::Bool,
    default: Some("true"),
    doc: "lock the machine itself while a run uses it, so that runs of other hosts wait: /var/tmp/vmdeck.lock in it",
}];

/// What the backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    isolated: true,
    network: Reach::Routed,
    console: ConsoleKind::None,
    adopts: true,
    ..Capabilities::NONE
};

/// The backend; see the module.
#[derive(Debug)]
pub struct Remote {
    spawner: Spawner,
}

impl Remote {
    /// Makes the backend; it needs nothing of the host.
    pub fn new(deps: &BackendDeps) -> Self {
        Self { spawner: deps.spawner.clone() }
    }

    async fn target(&self, guest: &Guest) -> Result<AdoptTarget> {
        let power = Power::of(&self.spawner, guest);
        let was = match power.is_on().await? {
            Some(false) => PowerState::Off,
            // Without a command that tells, it is as it is.
            Some(true) | None => PowerState::On,
        };
        if was == PowerState::Off && guest.power.on.is_none() {
            return Err(Fault::infra(format!("cannot use the machine of guest `{}`", guest.id))
                .because("`power.status` says that it is off, and there is no `power.on`")
                .hint("switch it on, or set `power.on`")
                .permanent());
        }
        Ok(AdoptTarget { name: name_of(guest), id: None, was })
    }

    fn handle(&self, request: &CreateRequest<'_>, target: &AdoptTarget, is_used: bool) -> Box<dyn Machine> {
        Box::new(RemoteMachine::new(Power::of(&self.spawner, request.guest), request, target, is_used))
    }
}

/// Returns the address that the config gives the machine of a guest: its own, or the first that a transport has.
fn address_of(guest: &Guest) -> Option<&str> {
    let of_transport = |kind: &String| {
        let options = guest.transport_options.get(kind)?;
        options.text("host").or_else(|| options.text("endpoint"))
    };
    guest.address.as_deref().or_else(|| guest.transports.iter().find_map(of_transport))
}

/// Returns what the machine of a guest is called: by its address, so that two guests are seen to mean the same machine.
fn name_of(guest: &Guest) -> String {
    address_of(guest).map_or_else(|| guest.id.to_string(), str::to_owned)
}

/// Returns the settings that cannot work.
fn problems(guest: &Guest) -> Vec<(Severity, String, String)> {
    let (id, key) = (&guest.id, &guest.key);
    let mut out = Vec::new();
    if address_of(guest).is_none() {
        out.push((
            Severity::Fatal,
            format!("guest `{id}` has no address"),
            format!("set `guests.{key}.address` to its name or IP address"),
        ));
    }
    if guest.fresh != Fresh::Run {
        out.push((
            Severity::Warn,
            format!("guest `{id}` is a remote machine: the same one each time, whatever `fresh` says"),
            "remove `fresh`, or use a backend that makes machines".into(),
        ));
    }
    if guest.power.on.is_some() && guest.power.status.is_none() {
        out.push((
            Severity::Warn,
            format!("guest `{id}`: `power.on` is never run: nothing tells whether the machine is off"),
            "set `power.status` to a command that exits with 0 where it is on, and 1 where it is off".into(),
        ));
    }
    if guest.power.on.is_some() && guest.power.off.is_none() {
        out.push((
            Severity::Warn,
            format!("guest `{id}`: a machine that `power.on` has switched on stays on: there is no `power.off`"),
            "set `power.off`".into(),
        ));
    }
    out
}

impl Backend for Remote {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move {
            let Some(guest) = guest else { return Ok(Vec::new()) };
            let finding = |(severity, text, hint)| Finding {
                check: "remote".into(),
                severity,
                text,
                hint: Some(hint),
                fix: None,
            };
            let mut out: Vec<Finding> = problems(guest).into_iter().map(finding).collect();
            if let Err(fault) = self.target(guest).await {
                out.push(Finding::of_fault("remote", Severity::Fatal, &fault));
            }
            Ok(out)
        })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        // Nobody has a list of all machines that can be reached.
        Box::pin(async { Ok(Vec::new()) })
    }

    fn create<'a>(&'a self, request: CreateRequest<'a>, _: CallContext<'a>) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(
            async move { Err(Fault::bug(format!("a remote machine was to be made for guest `{}`", request.guest.id))) },
        )
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let is_on = Power::of(&self.spawner, guest).is_on().await?;
            let target = record.adopted.as_ref().filter(|_| is_on != Some(false));
            Ok(target.map(|target| self.handle(&record.request(guest), target, false)))
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            let Some(target) = &record.adopted else {
                return Proof::Gone("no remote machine is ever made".into());
            };
            machine::put_back(&Power::of_folder(&self.spawner, &record.dir), target, &record.dir).await
        })
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        Some(self)
    }
}

impl Adoption for Remote {
    fn find<'a>(&'a self, guest: &'a Guest, _: CallContext<'a>) -> BoxFuture<'a, Result<Option<AdoptTarget>>> {
        Box::pin(async move { self.target(guest).await.map(Some) })
    }

    fn adopt<'a>(
        &'a self,
        request: CreateRequest<'a>,
        target: &'a AdoptTarget,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            // A reaper has no config: it finds there how the machine is switched off.
            Power::of(&self.spawner, request.guest).write(request.private_dir)?;
            Ok(self.handle(&request, target, request.guest.options.flag("lock")))
        })
    }
}

#[cfg(test)]
mod tests;
