//! On which member of a cluster an instance is made.
//!
//! Facts: six launches at once without a target all landed on one of three equal members, since the daemon counts what is there
//! already; so vmdeck chooses, and counts what it is about to make.

use super::{
    answer::{LxdInstance, LxdMember, LxdMemory, OWNER},
    client::LxdClient,
    error::LxdError,
};
use crate::host::clock;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    quantity::show_size,
};

/// How long a member on which something failed is not chosen, where there are others.
const AVOID: Duration = Duration::from_mins(1);

/// What this process knows that the daemons do not know yet, by daemon and member.
static PENDING: LazyLock<Mutex<BTreeMap<(String, String), PlannedLoad>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Copy, Debug, Default)]
struct PlannedLoad {
    /// How many instances are about to be made there.
    instances: u64,
    /// The memory that they will take, in bytes.
    memory: u64,
    /// Until when the member is not chosen.
    avoided_until: Option<clock::Instant>,
}

/// A place on a member, taken until the daemon counts the instance itself.
#[derive(Debug)]
pub(super) struct Placement {
    key: (String, String),
    memory: u64,
}

impl Placement {
    /// Returns the member.
    pub(super) fn member(&self) -> &str {
        &self.key.1
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        if let Some(pending) = PENDING.lock().get_mut(&self.key) {
            pending.instances = pending.instances.saturating_sub(1);
            pending.memory = pending.memory.saturating_sub(self.memory);
        }
    }
}

/// Notes that something failed on a member, so that the next attempt goes elsewhere.
pub(super) fn avoid(client: &LxdClient, member: &str) {
    let key = (client.place.daemon.to_string(), member.to_owned());
    PENDING.lock().entry(key).or_default().avoided_until = Some(clock::now() + AVOID);
}

/// What decides about one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MemberLoad {
    name: String,
    /// Its instances, those that are about to be made among them.
    instances: u64,
    /// Those of them that are vmdeck's.
    ours: u64,
    /// The memory that is free, in bytes; what is about to be made is taken off.
    free: u64,
    is_avoided: bool,
}

/// Returns the member to be used: one with room, with the fewest instances, and the first by name among equals. `Err` = why none is.
fn choose(loads: &[MemberLoad], memory: u64, slots: Option<u64>) -> Result<&MemberLoad, String> {
    let has_slot = |load: &&MemberLoad| slots.is_none_or(|slots| load.ours < slots);
    if loads.iter().filter(has_slot).count() == 0 {
        return Err("all slots of its members are taken".into());
    }
    let fits = loads.iter().filter(has_slot).filter(|load| load.free >= memory);
    fits.min_by_key(|load| (load.is_avoided, load.instances, &load.name)).ok_or_else(|| {
        let most = loads.iter().filter(has_slot).map(|load| load.free).max().unwrap_or_default();
        format!("it wants {}, and no member has more than {} free", show_size(memory), show_size(most))
    })
}

/// Takes a place for a guest. `Ok(None)` = there is no cluster. `Err(Ok(why))` = there is no room now.
pub(super) async fn take(client: &LxdClient, guest: &Guest) -> Result<Option<Placement>, Result<String, Fault>> {
    let failed = |error: LxdError| Err(error.fault(client.flavour, format!("find a member for guest `{}`", guest.id)));
    if !client.server().await.map_err(failed)?.environment.server_clustered {
        return Ok(None);
    }
    let members = client.members().await.map_err(failed)?;
    let wanted = guest.options.text("target");
    let chosen: Vec<&LxdMember> = members.iter().filter(|member| is_wanted(member, wanted)).collect();
    let cannot = || Fault::infra(format!("cannot find a member for guest `{}`", guest.id));
    let key = format!("guests.{}.{}.target", guest.key, client.flavour.kind);
    if chosen.is_empty() {
        let why = no_such(&members, wanted.unwrap_or_default());
        return Err(Err(cannot().because(why).hint(format!("correct `{key}`")).permanent()));
    }
    let online: Vec<&LxdMember> = chosen.iter().copied().filter(|member| member.is_online()).collect();
    if online.is_empty() {
        let words = |member: &&LxdMember| format!("`{}` is {} ({})", member.server_name, member.status, member.message);
        let why: Vec<String> = chosen.iter().map(words).collect();
        return Err(Err(cannot().because(why.join(", "))));
    }
    let instances = client.instances().await.map_err(failed)?;
    let mut loads = Vec::new();
    for member in online {
        // One that has just died is still listed as online; it is left out, and not waited for.
        if let Ok(resources) = client.resources(&member.server_name).await {
            let memory = resources.memory;
            loads.push(load(&member.server_name, &instances, memory));
        }
    }
    if loads.is_empty() {
        return Err(Err(cannot().because("no member says what it has")));
    }
    let slots = guest.options.int("slots").and_then(|slots| u64::try_from(slots).ok());
    let daemon = client.place.daemon.to_string();
    let mut pending = PENDING.lock();
    for load in &mut loads {
        let known = pending.get(&(daemon.clone(), load.name.clone())).copied().unwrap_or_default();
        load.instances += known.instances;
        load.ours += known.instances;
        load.free = load.free.saturating_sub(known.memory);
        load.is_avoided = known.avoided_until.is_some_and(|until| until > clock::now());
    }
    let member = choose(&loads, guest.memory, slots).map_err(Ok)?.name.clone();
    let key = (daemon, member);
    let noted = pending.entry(key.clone()).or_default();
    noted.instances += 1;
    noted.memory += guest.memory;
    Ok(Some(Placement { key, memory: guest.memory }))
}

/// Returns the words for a target that is no member, or a group that no member is in.
pub(super) fn no_such(members: &[LxdMember], target: &str) -> String {
    if let Some(group) = target.strip_prefix('@') {
        let groups: BTreeSet<&str> = members.iter().flat_map(|member| &member.groups).map(String::as_str).collect();
        let groups: Vec<&str> = groups.into_iter().collect();
        return format!("no member is in the group `{group}`: there are the groups {}", groups.join(", "));
    }
    let names: Vec<&str> = members.iter().map(|member| member.server_name.as_str()).collect();
    format!("no member is `{target}`: there are {}", names.join(", "))
}

/// Returns whether a target names a member, or a group that it is in.
pub(super) fn is_wanted(member: &LxdMember, target: Option<&str>) -> bool {
    match target.map(|target| target.strip_prefix('@').ok_or(target)) {
        None => true,
        Some(Ok(group)) => member.groups.iter().any(|of| of == group),
        Some(Err(name)) => member.server_name == name,
    }
}

fn load(name: &str, instances: &[LxdInstance], memory: LxdMemory) -> MemberLoad {
    let here = instances.iter().filter(|instance| instance.location == name);
    let ours = here.clone().filter(|instance| instance.config.contains_key(OWNER));
    // What vmdeck has given away counts in full, used or not yet.
    let limits = ours.clone().filter_map(|instance| instance.config.get("limits.memory")?.parse::<u64>().ok());
    let free = memory.total.saturating_sub(limits.sum::<u64>().max(memory.used));
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    MemberLoad {
        name: name.to_owned(),
        instances: count(here.count()),
        ours: count(ours.count()),
        free,
        is_avoided: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(rows: &[(&str, u64, u64, u64, bool)]) -> Vec<MemberLoad> {
        let row = |&(name, instances, ours, free, is_avoided): &(&str, u64, u64, u64, bool)| MemberLoad {
            name: name.into(),
            instances,
            ours,
            free,
            is_avoided,
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_emptiest_member_with_room_is_chosen() {
        let rows = [
            (vec![("m1", 2, 0, 9, false), ("m2", 1, 1, 9, false), ("m3", 1, 0, 9, false)], None, "m2"),
            (vec![("m1", 2, 0, 9, false), ("m2", 1, 1, 3, false)], None, "m1"),
            (vec![("m1", 5, 0, 9, false), ("m2", 1, 1, 9, true)], None, "m1"),
            (vec![("m1", 5, 5, 9, false), ("m2", 9, 4, 9, false)], Some(5), "m2"),
            // Rather one that failed than none.
            (vec![("m2", 1, 1, 9, true)], None, "m2"),
        ];
        for (rows, slots, want) in rows {
            let loads = loads(&rows);
            assert_eq!(choose(&loads, 5, slots).map(|load| load.name.as_str()), Ok(want), "{rows:?}");
        }
        let full = loads(&[("m1", 5, 5, 9, false), ("m2", 9, 5, 9, false)]);
        assert!(choose(&full, 5, Some(5)).expect_err("full").contains("slots"));
        assert!(choose(&full, 10, None).expect_err("full").contains("free"));
    }

    #[test]
    fn what_was_given_away_counts_in_full() {
        let instance = |location: &str, limit: &str, owner: Option<&str>| {
            let limit = ("limits.memory".to_owned(), limit.to_owned());
            let owner = owner.map(|owner| (OWNER.to_owned(), owner.to_owned()));
            let config = std::iter::once(limit).chain(owner).collect();
            LxdInstance { location: location.into(), config, ..LxdInstance::default() }
        };
        let ours = Some("vmdeck");
        let all = [
            instance("m1", "6", ours),
            instance("m1", "lots", ours),
            instance("m1", "9", None),
            instance("m2", "7", ours),
        ];
        let of = |used| load("m1", &all, LxdMemory { used, total: 20 });
        assert_eq!((of(2).free, of(15).free), (14, 5));
        assert_eq!((of(2).instances, of(2).ours), (3, 2));
    }

    #[test]
    fn a_target_is_a_member_or_a_group() {
        let member = LxdMember {
            server_name: "m1".into(),
            groups: vec!["default".into(), "gpu".into()],
            ..LxdMember::default()
        };
        for (target, want) in
            [(None, true), (Some("m1"), true), (Some("m2"), false), (Some("@gpu"), true), (Some("@m1"), false)]
        {
            assert_eq!(is_wanted(&member, target), want, "{target:?}");
        }
    }
}
