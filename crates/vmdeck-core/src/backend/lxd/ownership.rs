//! Which instance is ours, and its end: nothing is destroyed without two proofs.
//!
//! Facts: a copy has all settings of what it is a copy of, our mark among them, and an id of its own; a rename and a move keep the
//! id. The daemon makes the id, so that a process that dies in between has noted the name alone.

use super::{
    answer::{LxdInstance, status},
    client::LxdClient,
    error::LxdError,
};
use crate::backend::record::MachineId;
use std::time::Duration;
use vmdeck_model::error::{Blame, Fault, Result};

/// How long stopping may take, or deleting.
const STEP: Duration = Duration::from_secs(45);
/// How long what goes on already is waited for.
const SETTLE: Duration = Duration::from_mins(1);

/// What a project holds of a machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MachineFound<'a> {
    /// This instance is the machine: mark and id say so.
    Ours(&'a LxdInstance),
    /// The machine is not there; this is what makes that sure.
    Absent(&'static str),
    /// One that may be the machine, but nothing proves it.
    Unproven(String),
}

/// Looks for the machine of this name and id among all instances of its project; `uuid` = `None`: the id was never learned.
pub(super) fn find<'a>(all: &'a [LxdInstance], name: &str, uuid: Option<&str>) -> MachineFound<'a> {
    if let Some(away) = all.iter().find(|instance| instance.name == name && instance.is_unreadable()) {
        let member = &away.location;
        return MachineFound::Unproven(format!("its member `{member}` is away, and nothing says whose it is"));
    }
    let mut marked: Vec<&LxdInstance> = all.iter().filter(|instance| instance.nonce() == Some(name)).collect();
    if let Some(uuid) = uuid {
        let with_id = all.iter().find(|instance| instance.uuid() == Some(uuid));
        return match with_id {
            Some(instance) if instance.nonce() == Some(name) => MachineFound::Ours(instance),
            Some(instance) => {
                MachineFound::Unproven(format!("`{}` has its id, but our mark was taken off", instance.name))
            }
            None if marked.is_empty() => MachineFound::Absent("no instance has its id or our mark"),
            None => MachineFound::Absent("no instance has its id; copies of it are not ours"),
        };
    }
    // The oldest with our mark is what the others are copies of.
    marked.sort_by(|a, b| a.created_at.cmp(&b.created_at));
    match marked.first() {
        None => MachineFound::Absent("no instance has our mark"),
        Some(first) if first.name == name => MachineFound::Ours(first),
        Some(_) if marked.iter().all(|instance| instance.name != name) => {
            MachineFound::Absent("no instance has its name; copies of it are not ours")
        }
        Some(first) => MachineFound::Unproven(format!("`{}` has our mark as well, and is older", first.name)),
    }
}

/// Destroys the machine of this name and id, if it is there and proven ours; returns how its absence was proven. What another daemon says
/// that answers at the same place now proves nothing.
pub(super) async fn destroy(client: &LxdClient, name: &str, id: &MachineId) -> Result<String> {
    let uuid = id.uuid.as_deref();
    let cannot = || Fault::new(Blame::Leftover, format!("cannot remove the instance `{name}`"));
    let left = |fault: Fault| cannot().caused_by(fault);
    let failed = |what: &'static str| move |error: LxdError| left(error.fault(client.flavour, what));
    client.settle(name, SETTLE).await.map_err(failed("see what goes on"))?;
    let all = client.instances().await.map_err(failed("list the instances"))?;
    let ours = match find(&all, name, uuid) {
        MachineFound::Absent(why) => {
            let now = client.fingerprint().await.map_err(failed("ask which daemon it is"))?;
            if let Some(made_by) = id.provider.as_ref().filter(|made_by| **made_by != now) {
                let short = |fingerprint: &str| fingerprint.chars().take(12).collect::<String>();
                let (at, now, made_by) = (&client.place.daemon, short(&now), short(made_by));
                return Err(cannot()
                    .because(format!("the daemon {made_by} made it, and at {at} there is {now} now"))
                    .hint("bring that one back; where it was installed anew, remove the journal of the run from the state folder"));
            }
            return Ok(format!("{}: {why}", client.flavour.name));
        }
        MachineFound::Unproven(why) => {
            let program = client.flavour.program;
            let hint = format!("it is tried again at the next start; `{program} list` shows it");
            return Err(cannot().because(why).hint(hint));
        }
        MachineFound::Ours(instance) => instance,
    };
    let at = ours.name.as_str();
    if ours.status_code != status::STOPPED {
        match client.set_state(at, "stop", STEP).await {
            // One that has ended meanwhile cannot be stopped; whether it has is seen below.
            Ok(()) | Err(LxdError::Refused { .. } | LxdError::NotFound(_)) => {}
            Err(error) => return Err(failed("stop it")(error)),
        }
    }
    let deleted = client.delete(at, STEP).await;
    let all = client.instances().await.map_err(failed("list the instances"))?;
    let known = ours.uuid().or(uuid);
    match (find(&all, name, known), deleted) {
        (MachineFound::Absent(_), _) => Ok(format!("{} no longer has its id", client.flavour.name)),
        (_, Err(error)) => Err(failed("delete it")(error)),
        (MachineFound::Unproven(why), Ok(())) => Err(left(Fault::infra("it may still be there").because(why))),
        (MachineFound::Ours(_), Ok(())) => Err(left(Fault::infra(format!("{} still has it", client.flavour.name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn instance(name: &str, nonce: Option<&str>, uuid: &str, created: &str) -> LxdInstance {
        let mut config = BTreeMap::from([("volatile.uuid".to_owned(), uuid.to_owned())]);
        config.extend(nonce.map(|nonce| ("user.vmdeck.nonce".to_owned(), nonce.to_owned())));
        LxdInstance {
            name: name.into(),
            status_code: 103,
            config,
            created_at: created.into(),
            ..LxdInstance::default()
        }
    }

    fn away(name: &str) -> LxdInstance {
        LxdInstance { name: name.into(), status_code: 112, location: "m2".into(), ..LxdInstance::default() }
    }

    #[test]
    fn only_what_has_mark_and_id_is_ours() {
        let ours = instance("v-1", Some("v-1"), "u1", "2026-01-01");
        let copy = instance("mine", Some("v-1"), "u2", "2026-01-02");
        let stranger = instance("v-1", None, "u3", "2026-01-01");
        let renamed = instance("other", Some("v-1"), "u1", "2026-01-01");
        let unmarked = instance("v-1", None, "u1", "2026-01-01");
        let copy_with_its_name = instance("v-1", Some("v-1"), "u4", "2026-01-03");
        // What is there, whether the id is known, and what is ours.
        let rows: &[(&[&LxdInstance], bool, Option<&str>)] = &[
            (&[&ours, &copy], true, Some("u1")),
            (&[&ours, &copy], false, Some("u1")),
            (&[&copy], true, None),
            (&[&copy], false, None),
            (&[&stranger], true, None),
            (&[&stranger], false, None),
            (&[&renamed, &stranger], true, Some("u1")),
            (&[&copy_with_its_name], true, None),
            (&[], true, None),
        ];
        for (all, known, want) in rows {
            let all: Vec<LxdInstance> = all.iter().map(|&one| one.clone()).collect();
            let got = match find(&all, "v-1", known.then_some("u1")) {
                MachineFound::Ours(instance) => instance.uuid(),
                MachineFound::Absent(_) => None,
                MachineFound::Unproven(why) => panic!("{all:?}: {why}"),
            };
            assert_eq!(&got, want, "{all:?}");
        }
        for (all, known) in [
            (vec![away("v-1")], true),
            (vec![away("v-1"), copy.clone()], false),
            (vec![unmarked], true),
            // Somebody renamed ours, and gave a copy its name.
            (vec![renamed, copy_with_its_name], false),
        ] {
            let found = find(&all, "v-1", known.then_some("u1"));
            assert!(matches!(found, MachineFound::Unproven(_)), "{all:?}: {found:?}");
        }
        assert!(
            matches!(find(&[away("else")], "v-1", Some("u1")), MachineFound::Absent(_)),
            "others that are away are others"
        );
    }

    proptest! {
        #[test]
        fn nothing_of_others_is_ever_ours(rows in proptest::collection::vec(
            (0usize..3, proptest::option::of(0usize..2), 1usize..6, 0u16..2), 0..8), known: bool)
        {
            let (names, nonces) = (["v-1", "v-2", "mine"], ["v-1", "v-2"]);
            let all: Vec<LxdInstance> = rows.iter().enumerate().map(|(at, (name, nonce, uuid, _))| {
                // Copies come after what they are copies of.
                instance(names[*name], nonce.map(|n| nonces[n]), &format!("u{uuid}"), &format!("2026-01-{:02}", at + 2))
            }).collect();
            if let MachineFound::Ours(found) = find(&all, "v-1", known.then_some("u1")) {
                prop_assert_eq!(found.nonce(), Some("v-1"));
                if known {
                    prop_assert_eq!(found.uuid(), Some("u1"));
                } else {
                    prop_assert_eq!(&*found.name, "v-1");
                }
            }
        }
    }
}
