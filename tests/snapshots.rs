//! Machines that go on from where another one was frozen, on a real kernel: each is its own, nothing that broke off is used, and where it
//! cannot be a machine boots.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use std::{collections::BTreeSet, fs, os::unix::fs::FileExt, path::PathBuf, time::Duration};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, eventually, finish, signal},
};

/// Fails where another case was in the same machine, and leaves what the next one would see.
const ALONE: &str = "cat /tmp/prepared; [ ! -e /tmp/mark ] || exit 9; touch /tmp/mark
! grep -qx sleep /proc/[0-9]*/comm || exit 8
sleep 987 >/dev/null 2>&1 </dev/null &
echo drew $(head -c 16 /dev/urandom | od -An -tx1)
adjtimex | sed -n 's/^ *time.tv_/time /p'";

fn world(keys: &str, cases: usize) -> World {
    let keys = format!("fresh = \"case\"\n{keys}");
    let guest = Micro { keys: &keys, ..Micro::default() }.guest("micro");
    let case = |n| format!("[[suites.s.cases]]\nname = \"c{n}\"\nrun = {}\n", Value::from(ALONE));
    let cases: String = (0..cases).map(case).collect();
    let setup = "setup = \"echo prepared by $VMDECK_SUITE > /tmp/prepared\"";
    World::new(&format!("{guest}[suites.s]\nrun_as = \"root\"\n{setup}\n{cases}"))
}

/// Returns how often a phase ended.
fn count(world: &World, phase: &str) -> usize {
    world.of_kind("phase_ended").iter().filter(|event| event["phase"] == phase).count()
}

fn again(world: &World, args: &[&str]) -> vmdeck_testkit::world::Ran {
    let _ = fs::remove_dir_all(world.path("record"));
    world.ci(args)
}

/// Returns the snapshots that are listed.
fn listed(world: &World) -> Vec<Value> {
    let out = world.run(&["snapshot", "list", "--json"]).exits(0).out;
    serde_json::from_str(&out).expect("json")
}

fn warnings(world: &World) -> Vec<String> {
    world.of_kind("warning").iter().map(|event| event["text"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn each_case_has_a_machine_of_its_own_and_only_the_first_one_boots() {
    let world = world("", 3);
    world.ci(&[]).exits(0).says("3 passed").says("goes on from its snapshot after");
    assert_eq!((count(&world, "firmware"), count(&world, "freeze"), count(&world, "restore")), (1, 2, 4));
    // One before the setup, and one for each case.
    assert_eq!(count(&world, "renew"), 4);
    assert!(warnings(&world).iter().all(|text| !text.contains("snapshot")), "{:?}", warnings(&world));
    let mut drawn = BTreeSet::new();
    for case in ["c0", "c1", "c2"] {
        let out = world.record(&format!("guests/micro/s/{case}/stdout.log"));
        assert!(out.starts_with("prepared by s\n"), "{out}");
        let draw = out.lines().find(|line| line.starts_with("drew ")).expect("drew");
        assert!(drawn.insert(draw.to_owned()), "drawn twice: {draw}");
        is_on_time(&world, case, &out);
    }
    world.assert_nothing_left();
    let points: Vec<Value> = listed(&world).iter().map(|snapshot| snapshot["point"].clone()).collect();
    assert_eq!(points, ["after-setup", "after-boot"]);

    // Of the next run nothing boots at all.
    again(&world, &[]).exits(0).says("3 passed");
    assert_eq!((count(&world, "firmware"), count(&world, "freeze"), count(&world, "restore")), (0, 0, 3));

    // Another setup goes on from the boot, another command line begins anew.
    again(&world, &["--set", "suites.s.setup=\"echo prepared by s >/tmp/prepared; : other\""]).exits(0);
    assert_eq!((count(&world, "firmware"), count(&world, "freeze"), count(&world, "restore")), (0, 1, 4));
    again(&world, &["--set", "guests.micro.memory=280MiB"]).exits(0);
    assert_eq!((count(&world, "firmware"), count(&world, "freeze")), (1, 2));
    assert_eq!(listed(&world).len(), 5);

    // Without snapshots each machine boots.
    again(&world, &["--set", "guests.micro.snapshot=off"]).exits(0).says("3 passed");
    assert_eq!((count(&world, "firmware"), count(&world, "freeze"), count(&world, "restore")), (3, 0, 0));
    world.assert_nothing_left();
}

/// The guest's clock, as the case wrote it, is this host's: a time within the case, 50 ms more or less.
fn is_on_time(world: &World, case: &str, out: &str) {
    let word = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(&format!("time {name}:"))).expect("adjtimex");
        line.trim().parse::<i64>().expect("number")
    };
    let guest = DateTime::from_timestamp(word("sec"), u32::try_from(word("usec")).expect("micros") * 1000);
    let guest = guest.expect("time");
    let at = |kind: &str| -> DateTime<Utc> {
        let event = world.of_kind(kind).into_iter().find(|event| event["case"] == case).expect("told");
        event["at"].as_str().expect("time").parse().expect("a time")
    };
    let within = TimeDelta::milliseconds(50);
    let (begun, ended) = (at("case_started") - within, at("case_ended") + within);
    assert!(begun <= guest && guest <= ended, "{case}: {guest} is not from {begun} to {ended}");
}

#[test]
fn what_is_torn_is_removed_and_the_guest_boots() {
    let world = world("", 1);
    world.ci(&[]).exits(0);
    let file = |point: &str, name: &str| {
        let all = listed(&world);
        let snapshot = all.iter().find(|snapshot| snapshot["point"] == point).expect("listed");
        PathBuf::from(snapshot["path"].as_str().expect("path")).join(name)
    };
    // One byte of the memory, within what is no hole.
    let memory = fs::File::options().read(true).write(true).open(file("after-setup", "memory")).expect("open");
    let mut byte = [0];
    let at = (0..1 << 28).step_by(4096).find(|at| memory.read_exact_at(&mut byte, *at).is_ok() && byte[0] != 0);
    memory.write_all_at(&[byte[0] ^ 1], at.expect("something is there")).expect("written");
    again(&world, &[]).exits(0).says("1 passed");
    assert!(warnings(&world).iter().any(|text| text.contains("its checksum is not")), "{:?}", warnings(&world));
    assert_eq!((count(&world, "firmware"), count(&world, "freeze")), (0, 1), "what it stands on is whole");

    for point in ["after-boot", "after-setup"] {
        fs::File::options().write(true).open(file(point, "state")).expect("open").set_len(1000).expect("cut");
    }
    again(&world, &[]).exits(0).says("1 passed");
    assert_eq!((count(&world, "firmware"), count(&world, "freeze")), (1, 2));

    // Whole, and not what this QEMU takes: nothing is made from it, and that is said.
    let recipe = file("after-setup", "machine.json");
    let text = fs::read_to_string(&recipe).expect("recipe").replace("virtio-balloon-pci", "virtio-balloon-pxi");
    let facts = recipe.with_file_name("snapshot.json");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(&facts).expect("facts")).expect("json");
    let files = list["files"].as_object_mut().expect("files");
    files.remove("machine.json").expect("listed");
    fs::write(&recipe, text).expect("write");
    fs::write(&facts, list.to_string()).expect("write");
    again(&world, &[]).exits(0).says("1 passed");
    assert!(warnings(&world).iter().any(|text| text.contains("could not go on from its snapshot, and boots")));
    assert_eq!(count(&world, "firmware"), 1);
    world.assert_nothing_left();
}

#[test]
fn a_full_disk_costs_only_the_snapshot() {
    let world = world("", 2);
    fs::create_dir(world.path("snapshots")).expect("folder");
    let mount = "mount -t tmpfs -o size=30m none snapshots";
    let ran = world.inside(&["-m"], mount, &["--ci", "--run-dir", "record"]).exits(0).says("2 passed");
    assert!(ran.out.contains("could not be frozen, and each of its machines boots"), "{}", ran.out);
    assert!(ran.out.contains("free disk space"), "{}", ran.out);
    assert_eq!((count(&world, "firmware"), count(&world, "restore")), (2, 0));
    world.assert_nothing_left();
}

#[test]
fn a_kill_anywhere_leaves_nothing_that_is_used() {
    let world = world("", 2);
    let moments = [
        ("freeze", 60),
        ("freeze", 700),
        ("restore", 0),
        ("freeze", 0),
        ("freeze", 300),
        ("restore", 40),
        ("renew", 0),
    ];
    let is_slow = std::env::var_os("VMDECK_TEST_SLOW").is_some();
    for (phase, after) in moments.into_iter().take(if is_slow { 7 } else { 3 }) {
        let _ = fs::remove_dir_all(world.path("record"));
        let child = world.start(&["--ci", "--run-dir", "record"]);
        let begun = format!("\"kind\":\"phase_started\",\"guest\":\"micro\",\"phase\":\"{phase}\"");
        world.until_event(&begun);
        std::thread::sleep(Duration::from_millis(after));
        signal(&child, "KILL");
        finish(child);
        // What is listed is whole, and what was being made goes with the next start.
        again(&world, &[]).exits(0).says("2 passed");
        assert!(
            warnings(&world).iter().all(|text| !text.contains("snapshot")),
            "{phase} {after}: {:?}",
            warnings(&world)
        );
        world.assert_nothing_left();
        let left = || fs::read_dir(world.path("snapshots")).expect("list").flatten().map(|entry| entry.file_name());
        eventually("the rest of a snapshot goes", Duration::from_secs(5), || {
            left().all(|name| !name.to_string_lossy().starts_with('.'))
        });
        world.run(&["snapshot", "prune"]).exits(0);
    }
}

#[test]
fn code_of_other_modes_is_other_code() {
    use std::os::unix::fs::PermissionsExt;
    let world = world("[guests.micro.source]\npath = \"code\"\nto = \"/tmp/code\"\n", 1);
    fs::create_dir(world.path("code")).expect("folder");
    fs::write(world.path("code/tool"), "#!/bin/sh\nexit 0\n").expect("write");
    let mode = |mode| fs::set_permissions(world.path("code/tool"), fs::Permissions::from_mode(mode)).expect("mode");
    let run = |world: &World| again(world, &["--set", "suites.s.dir=/tmp/code", "--set", "suites.s.after_each=./tool"]);
    mode(0o755);
    run(&world).exits(0);
    mode(0o644);
    run(&world).exits(1);
    assert_eq!(count(&world, "firmware"), 0, "from the boot");
    mode(0o755);
    run(&world).exits(0);
    assert_eq!(count(&world, "freeze"), 0, "that is known");
}

#[test]
fn a_setup_that_fails_is_not_frozen() {
    let world = world("", 1);
    again(&world, &["--set", "suites.s.setup=exit 3"]).exits(1);
    world.assert_verdicts(&[("s/c0", "failed")]);
    assert_eq!(listed(&world).iter().map(|s| s["point"].clone()).collect::<Vec<_>>(), ["after-boot"]);
    world.assert_nothing_left();
}

#[test]
fn a_secret_is_never_frozen() {
    let mut world = world("", 1);
    let canary = "canary-7f3b9a";
    world.env.push(("SECRET_OF_TEST".into(), canary.into()));
    let set = [
        "--set",
        "guests.micro.ssh.password={ env = \"SECRET_OF_TEST\" }",
        "--set",
        "suites.s.setup=\"echo canary-7f3b9a > /tmp/token; echo prepared by s > /tmp/prepared\"",
    ];
    again(&world, &set).exits(0).says("1 passed");
    let all = listed(&world);
    assert_eq!(all.iter().map(|s| s["point"].clone()).collect::<Vec<_>>(), ["after-boot"]);
    for snapshot in all {
        for entry in fs::read_dir(snapshot["path"].as_str().expect("path")).expect("list").flatten() {
            let bytes = fs::read(entry.path()).expect("read");
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{}", entry.path().display());
        }
    }
}

#[test]
fn what_had_failed_can_be_looked_at_later() {
    let run = "echo here >/tmp/state; sleep 777 >/dev/null 2>&1 & sleep 0.1; echo told; exit 3";
    let case =
        format!("[[suites.s.cases]]\nname = \"bad\"\nrun = {}\nafter_each = \"rm /tmp/state\"\n", Value::from(run));
    let keys = "fresh = \"case\"\ncheckpoint = \"on-failure\"\n";
    let guest = Micro { keys, ..Micro::default() }.guest("micro");
    let env = "run_as = \"root\"\nenv = { WHERE = \"there\" }";
    let world =
        World::new(&format!("{guest}[suites.s]\n{env}\n{case}[[suites.s.cases]]\nname = \"good\"\nrun = \"true\"\n"));
    for snapshot in ["after-boot", "off"] {
        let _ = fs::remove_dir_all(world.path(".vmdeck"));
        let set = format!("guests.micro.snapshot={snapshot}");
        let ran = world.run(&["--ci", "--set", &set]).exits(1).says("its state at the failure of `s/bad` is kept");
        let word = ran.out.split("`vmdeck shell ").nth(1).and_then(|rest| rest.split('`').next()).expect("the word");
        world.assert_nothing_left();
        // It is as it was before anything was put back, and can be looked at as often as one likes.
        // Also where the record is gone.
        fs::remove_dir_all(world.path(".vmdeck")).expect("gone");
        for _ in 0..2 {
            let look = "cat /tmp/state; grep -lx sleep /proc/[0-9]*/comm | wc -l; echo $WHERE $VMDECK_CASE; [ ! -e /tmp/seen ] && touch /tmp/seen";
            let seen = world.run(&["shell", word, "--", look]).exits(0).complains("goes with the shell");
            assert_eq!(seen.out, "here\n1\nthere bad\n", "{snapshot}");
        }
        world.assert_nothing_left();
        world.run(&["snapshot", "list"]).exits(0).says("micro at-failure of `");
        world.run(&["snapshot", "prune"]).exits(0);
        world.run(&["shell", word, "--", "true"]).exits(2).complains("cannot find the run");
    }
    // Where it cannot be, that is said, and the case is judged as it is.
    let ran = world.run(&["--ci", "--set", "guests.micro.qemu.extra_args=[\"-no-fd-bootchk\"]"]).exits(1);
    assert!(ran.out.contains("could not be kept"), "{}", ran.out);
    assert!(ran.out.contains("1 failed") && ran.out.contains("1 passed"), "{}", ran.out);
}

#[test]
fn they_are_listed_removed_and_trimmed() {
    let world = world("", 1);
    world.run(&["snapshot", "list"]).exits(0).says("no snapshot in");
    world.ci(&[]).exits(0);
    world.run(&["snapshot", "list"]).exits(0).says("micro after-boot").says("micro after-setup of `s`");
    world.run(&["snapshot", "rm", "nope"]).exits(2).complains("no snapshot with a key that begins so");
    let boot = listed(&world).into_iter().find(|snapshot| snapshot["point"] == "after-boot").expect("listed");
    // A guest without a disk leaves nothing that the other one would stand on.
    world.run(&["snapshot", "rm", &boot["key"].as_str().expect("key")[..8]]).exits(0).says("removed");
    assert_eq!(listed(&world).len(), 1);
    let small = again(&world, &["--set", "snapshots.max_size=1MiB"]).exits(0).says("1 passed");
    assert!(
        small.out.contains("removed a snapshot of `micro` (after-setup): `snapshots.max_size` leaves no room"),
        "{}",
        small.out
    );
    assert!(listed(&world).is_empty());
    again(&world, &[]).exits(0);
    world.run(&["snapshot", "prune", "--size", "1GiB"]).exits(0).says("0 snapshots");
    world.run(&["snapshot", "prune"]).exits(0).says("2 snapshots");
}

#[test]
fn where_no_machine_can_be_frozen_that_is_said_once() {
    let text = "[guests.here]\nbackend = \"local\"\nsnapshot = \"after-boot\"\nfresh = \"case\"\n[suites.s]\n\
                [[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n[[suites.s.cases]]\nname = \"b\"\nrun = \"true\"\n";
    let world = World::new(text);
    let ran = world.ci(&[]).exits(0).says("2 passed");
    assert_eq!(ran.out.matches("guest `here` is not frozen").count(), 1, "{}", ran.out);
    world.run(&["config", "check", "--set", "guests.here.snapshot=sometimes"]).exits(2).complains("after-setup");
}
