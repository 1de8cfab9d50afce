use super::*;
use crate::{
    assets::{image::store::ImageStore, snapshot::store::SnapshotStore},
    backend::{request::Lifetime, sample},
};
use std::path::Path;
use tokio_util::sync::CancellationToken;

fn remote(home: &Path) -> Remote {
    Remote::new(&BackendDeps {
        spawner: Spawner::new(None).expect("spawner"),
        state: home.to_owned(),
        tools: super::super::Tools::new(),
        images: ImageStore::unused(),
        snapshots: SnapshotStore::unused(),
    })
}

/// Returns a guest whose machine is "on" while a file is there.
fn guest(home: &Path) -> Guest {
    let mut guest = sample::guest(&[]);
    guest.backend = "remote".into();
    guest.address = Some("127.0.0.1".into());
    let file = home.join("on").display().to_string();
    guest.power.status = Some(format!("test -e {file}"));
    guest.power.on = Some(format!("echo \"$VMDECK_GUEST $VMDECK_ADDRESS\" > {file}"));
    guest.power.off = Some(format!("rm {file}"));
    guest
}

fn request<'a>(guest: &'a Guest, dir: &'a Path) -> CreateRequest<'a> {
    CreateRequest {
        guest,
        name: "vmdeck-x",
        uuid: "",
        private_dir: dir,
        record_dir: dir,
        lifetime: Lifetime::TiedToUs,
        services: &[],
        network: None,
        freezable: false,
        memory: None,
    }
}

fn record(target: &AdoptTarget, guest: &Guest, dir: &Path) -> MachineRecord {
    MachineRecord {
        name: "vmdeck-x".into(),
        place: std::collections::BTreeMap::new(),
        id: super::super::record::MachineId::default(),
        dir: dir.to_owned(),
        adopted: Some(target.clone()),
        backend: "remote".into(),
        guest: guest.id.clone(),
        address: None,
        host_key: None,
        console: None,
        kept: None,
    }
}

#[tokio::test]
async fn what_was_off_is_switched_on_and_off_again() {
    let home = tempfile::tempdir().expect("tempdir");
    let (remote, guest, dir) = (remote(home.path()), guest(home.path()), home.path().join("machine"));
    let never = CancellationToken::new();
    let call = CallContext::new(std::time::Duration::from_secs(10), &never);
    let target = remote.find(&guest, call).await.expect("found").expect("a machine");
    assert_eq!((target.was, target.name.as_str()), (PowerState::Off, "127.0.0.1"));
    let mut machine = remote.adopt(request(&guest, &dir), &target, call).await.expect("adopted");
    assert!(!home.path().join("on").exists(), "looking changes nothing");
    machine.start(call).await.expect("switched on");
    let told = std::fs::read_to_string(home.path().join("on")).expect("on");
    assert_eq!(told, "deb 127.0.0.1\n");
    machine.stop().await.expect("switched off");
    let proofs = machine.release().await.expect("released");
    assert!(matches!(&proofs[..], [Proof::PutBack(how)] if how.contains("off again")), "{proofs:?}");
    assert!(!home.path().join("on").exists() && !dir.exists());
}

#[tokio::test]
async fn a_reaper_switches_off_what_a_dead_run_has_switched_on() {
    let home = tempfile::tempdir().expect("tempdir");
    let (remote, guest, dir) = (remote(home.path()), guest(home.path()), home.path().join("machine"));
    let never = CancellationToken::new();
    let call = CallContext::new(std::time::Duration::from_secs(10), &never);
    let target = remote.find(&guest, call).await.expect("found").expect("a machine");
    let mut machine = remote.adopt(request(&guest, &dir), &target, call).await.expect("adopted");
    machine.start(call).await.expect("switched on");
    drop(machine);
    let proof = remote.reap(&record(&target, &guest, &dir), call).await;
    assert!(matches!(&proof, Proof::PutBack(how) if how.contains("off again")), "{proof}");
    assert!(!home.path().join("on").exists() && !dir.exists());
}

#[tokio::test]
async fn what_was_on_is_left_alone() {
    let home = tempfile::tempdir().expect("tempdir");
    std::fs::write(home.path().join("on"), "mine").expect("write");
    let (remote, guest, dir) = (remote(home.path()), guest(home.path()), home.path().join("machine"));
    let never = CancellationToken::new();
    let call = CallContext::new(std::time::Duration::from_secs(10), &never);
    let target = remote.find(&guest, call).await.expect("found").expect("a machine");
    let mut machine = remote.adopt(request(&guest, &dir), &target, call).await.expect("adopted");
    machine.start(call).await.expect("nothing to do");
    machine.stop().await.expect("nothing to do");
    let proofs = machine.release().await.expect("released");
    assert!(matches!(&proofs[..], [Proof::PutBack(how)] if how.contains("nothing about its power")), "{proofs:?}");
    assert_eq!(std::fs::read_to_string(home.path().join("on")).expect("there"), "mine");
}

#[tokio::test]
async fn hooks_that_fail_say_why() {
    let home = tempfile::tempdir().expect("tempdir");
    let (remote, mut guest) = (remote(home.path()), guest(home.path()));
    let never = CancellationToken::new();
    let call = CallContext::new(std::time::Duration::from_secs(10), &never);
    let rows = [
        ("echo 'no such board' >&2; exit 9", Some("on"), "exit 9: no such board"),
        ("kill -9 $$", Some("on"), "it was killed"),
        ("exit 1", None, "there is no `power.on`"),
    ];
    for (status, on, wanted) in rows {
        guest.power.status = Some(status.into());
        guest.power.on = on.map(str::to_owned);
        let fault = remote.find(&guest, call).await.expect_err(wanted);
        assert!(fault.to_string().contains(wanted), "{fault}");
    }
    // A machine that stays on although it was to be switched off is left over, and said so.
    let mut guest = self::guest(home.path());
    guest.power.off = Some("true".into());
    let dir = home.path().join("machine");
    let target = remote.find(&guest, call).await.expect("found").expect("a machine");
    let mut machine = remote.adopt(request(&guest, &dir), &target, call).await.expect("adopted");
    machine.start(call).await.expect("on");
    machine.stop().await.expect("it says so");
    let fault = machine.release().await.expect_err("still on");
    assert!(fault.to_string().contains("cannot switch `127.0.0.1` off again"), "{fault}");
}

#[test]
fn settings_that_cannot_work_are_told() {
    let home = tempfile::tempdir().expect("tempdir");
    let whole = guest(home.path());
    assert!(problems(&whole).is_empty());
    let check = |change: fn(&mut Guest), wanted: &str| {
        let mut guest = whole.clone();
        change(&mut guest);
        let found: Vec<String> = problems(&guest).into_iter().map(|row| row.1).collect();
        assert!(found.iter().any(|text| text.contains(wanted)), "{wanted}: {found:?}");
    };
    check(|guest| guest.address = None, "has no address");
    check(|guest| guest.fresh = Fresh::Case, "the same one each time");
    check(|guest| guest.power.status = None, "`power.on` is never run");
    check(|guest| guest.power.off = None, "there is no `power.off`");
}
