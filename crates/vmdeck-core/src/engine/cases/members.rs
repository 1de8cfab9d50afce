//! The guests of a job and their machines: all are up, with the code in them, or none is.

use super::{case_folders::SuiteFolders, code};
use crate::{
    engine::{
        context::RunContext,
        machine::{self, LaunchFor, LeasedMachine, NetworkPlace, Permits, SetupKey},
    },
    transport::session::Session,
};
use futures_util::future::join_all;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};
use vmdeck_model::{
    error::{Blame, Fault},
    guest::Guest,
    ids::RoleId,
    job::Job,
    suite::{Case, SuiteNetwork},
};

/// A guest of a job.
pub(super) struct Member {
    pub(super) guest: Arc<Guest>,
    /// The guest as its machine is called: another name where it has several machines at once.
    pub(super) machine: Arc<Guest>,
    role: Option<RoleId>,
    /// What its commands are told, as variables: its role, and the addresses of all of them.
    pub(super) told: BTreeMap<String, String>,
    /// The folders of the cases of the suite that its machine is in.
    pub(super) folders: Option<SuiteFolders>,
}

/// Why there are no machines.
pub(super) struct NoMachines {
    /// The guest at fault.
    pub(super) guest: Arc<Guest>,
    pub(super) fault: Fault,
}

impl Member {
    /// Returns the guests of a job.
    pub(super) fn all(job: &Job) -> Vec<Self> {
        let member = |member: &vmdeck_model::job::JobGuest| {
            let guest = Arc::new(member.guest.clone());
            Self { machine: Arc::clone(&guest), guest, role: member.role.clone(), told: BTreeMap::new(), folders: None }
        };
        job.members().iter().map(member).collect()
    }

    /// Returns a guest with a machine that is called otherwise.
    pub(super) fn with_machine(guest: &Arc<Guest>, machine: &Arc<Guest>) -> Self {
        let (guest, machine) = (Arc::clone(guest), Arc::clone(machine));
        Self { guest, machine, role: None, told: BTreeMap::new(), folders: None }
    }

    /// Returns whether a case is run in this guest.
    pub(super) fn takes(&self, case: &Case) -> bool {
        case.runs_on(self.role.as_ref())
    }
}

/// Launches the machines of all of them at once, and brings the code in. `setup` = what the setup depends on that is run first in the machine
/// of one alone: it may be in there already.
pub(super) async fn lease(
    context: &RunContext,
    members: &mut [Member],
    network: SuiteNetwork,
    setup: Option<&SetupKey>,
    permits: &Permits,
) -> Result<Vec<LeasedMachine>, NoMachines> {
    let places: Vec<Option<NetworkPlace>> = match network {
        SuiteNetwork::Own => members.iter().map(|_| None).collect(),
        SuiteNetwork::Private => {
            let names: Vec<&str> = members.iter().filter_map(|m| m.role.as_ref().map(RoleId::as_str)).collect();
            NetworkPlace::make(&names).into_iter().map(Some).collect()
        }
    };
    let (folder, state) = (&context.plan.folder, &context.backend.state);
    let is_there = |guest: &Guest| context.plan.options.reuse && machine::takeover::is_there(state, folder, guest);
    // Of one alone, its launch does it.
    let all: Vec<&Guest> = members.iter().map(|m| m.machine.as_ref()).filter(|guest| !is_there(guest)).collect();
    if let Some(first) = members.first().filter(|_| members.len() > 1) {
        let reserved = permits.reserve(&context.admission, &all, &context.cancel).await;
        reserved.map_err(|fault| NoMachines { guest: Arc::clone(&first.guest), fault })?;
    }
    let together = RunContext { cancel: context.cancel.child_token(), ..context.clone() };
    let launches = members.iter().zip(&places).map(|(member, place)| {
        let context = &together;
        async move {
            let leased =
                launch(context, &member.machine, LaunchFor { place: place.as_ref(), setup, checkpoint: None }, permits)
                    .await;
            if leased.is_err() {
                // Without it the others are of no use.
                context.cancel.cancel();
            }
            leased
        }
    });
    let (mut machines, mut faults) = (Vec::new(), Vec::new());
    for (member, leased) in members.iter().zip(join_all(launches).await) {
        match leased {
            Ok(machine) => machines.push((member, machine)),
            Err(fault) => faults.push(NoMachines { guest: Arc::clone(&member.guest), fault }),
        }
    }
    // Those that were cancelled were so for the sake of another.
    faults.sort_by_key(|no| no.fault.blame() == Blame::Cancelled);
    if let Some(no) = faults.into_iter().next() {
        let ends = machines.into_iter().map(|(member, machine)| machine::take_down(context, &member.machine, machine));
        join_all(ends).await;
        return Err(no);
    }
    let machines: Vec<LeasedMachine> = machines.into_iter().map(|(_, machine)| machine).collect();
    tell(members, &machines, &places);
    Ok(machines)
}

/// Launches one machine and brings the code in.
async fn launch(
    context: &RunContext,
    guest: &Arc<Guest>,
    wanted: LaunchFor<'_>,
    permits: &Permits,
) -> vmdeck_model::error::Result<LeasedMachine> {
    let machine = machine::launch(context, guest, wanted, permits).await?;
    if machine.is_set_up() {
        return Ok(machine);
    }
    match code::bring(context, guest, &machine).await {
        Ok(()) => Ok(machine),
        Err(fault) => {
            machine::take_down(context, guest, machine).await;
            Err(fault)
        }
    }
}

/// Notes what the commands of each guest are told.
fn tell(members: &mut [Member], machines: &[LeasedMachine], places: &[Option<NetworkPlace>]) {
    let mut addresses = BTreeMap::new();
    for ((member, machine), place) in members.iter().zip(machines).zip(places) {
        let own = || machine.controller.session().and_then(Session::peer).map(|peer| peer.ip());
        // By this host's own address nobody else gets there.
        let address =
            place.as_ref().map(|place| IpAddr::V4(place.address())).or_else(own).filter(|ip| !ip.is_loopback());
        if let Some((role, address)) = member.role.as_ref().zip(address) {
            addresses.insert(format!("VMDECK_{}_ADDR", role.as_variable()), address.to_string());
        }
    }
    for member in members {
        member.told = addresses.clone();
        if let Some(role) = &member.role {
            member.told.insert("VMDECK_ROLE".to_owned(), role.to_string());
        }
    }
}
