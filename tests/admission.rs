//! Memory that is promised between processes: the real binary, many at once, with machines that are kept, killed and waited for.

use chrono::DateTime;
use serde_json::Value;
use std::{fs, process::Child, time::Duration};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, eventually, finish, signal},
};

/// A guest that is only a script, of this size; its one case takes this long.
fn scripted(memory: &str, limit: &str, takes: &str) -> World {
    World::new(&format!(
        "memory = \"{limit}\"\n[guests.g]\nbackend = \"fake\"\nmemory = \"{memory}\"\n[guests.g.fake.replies]\n\"work\" = \"0@{takes}\"\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"work\"\n"
    ))
}

fn events(world: &World, record: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.path(record).join("events.jsonl")).expect("record");
    text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

fn millis(event: &Value) -> i64 {
    DateTime::parse_from_rfc3339(event["at"].as_str().expect("at")).expect("a time").timestamp_millis()
}

fn status(world: &World) -> Value {
    let out = world.vmdeck(&["lock", "status", "--json"]).output().expect("vmdeck runs");
    serde_json::from_slice::<Value>(&out.stdout).expect("json")[0]["memory"].clone()
}

fn promised(world: &World) -> Vec<u64> {
    let standing = status(world);
    let all = standing["promised"].as_array().expect("a list").iter();
    all.map(|one| one["memory"].as_u64().expect("bytes") >> 20).collect()
}

#[test]
fn runs_that_want_five_times_what_there_is_all_pass_and_never_have_more() {
    let world = scripted("512MiB", "1GiB", "300ms");
    let names: Vec<String> = (0..10).map(|number| format!("record-{number}")).collect();
    let start = |name: &String| world.start(&["--ci", "--no-lock", "--run-dir", name]);
    let runs: Vec<Child> = names.iter().map(start).collect();
    for run in runs {
        finish(run).exits(0);
    }
    // A machine has its memory from before it is made until it is proven gone.
    let mut edges: Vec<(i64, i64)> = Vec::new();
    let mut waited = 0;
    for name in &names {
        let events = events(&world, name);
        let made = events.iter().find(|e| e["kind"] == "phase_started" && e["phase"] == "create").expect("made");
        let gone = events.iter().find(|e| e["kind"] == "cleanup_ended").expect("gone");
        edges.extend([(millis(made), 1), (millis(gone), -1)]);
        waited += usize::from(events.iter().any(|e| e["kind"] == "memory_waiting"));
    }
    // At one time an end counts before a beginning.
    edges.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, step) in edges {
        now += step;
        most = most.max(now);
    }
    assert!(most <= 2, "{most} machines of 512MiB at a time, with 1GiB");
    assert!(waited >= 5, "only {waited} had to wait: the test proves nothing");
    assert_eq!(promised(&world), [0_u64; 0]);
    assert!(!world.path("lock.d.memory").exists(), "the book goes with its last ticket");
    world.assert_nothing_left();
}

#[test]
fn a_guest_that_waits_says_for_whom_and_the_run_ends_in_time_where_nothing_comes() {
    let world = scripted("600MiB", "1GiB", "20s");
    let mut first = world.start(&["--ci", "--no-lock", "--run-dir", "first"]);
    eventually("the first run has memory", Duration::from_secs(20), || promised(&world) == [600]);
    let late = world.run(&["--ci", "--no-lock", "--run-dir", "second", "--lock-timeout", "2s"]).exits(5);
    let late = late.says("guest `g` waits for 600MiB of memory, 424MiB can be had: `g` of run");
    late.says("after 2.0s (`host.lock_timeout`) 424MiB can be had; `g` of run");
    let waits = events(&world, "second").into_iter().find(|e| e["kind"] == "memory_waiting").expect("told");
    assert_eq!((&waits["place"], &waits["promised"][0]["guests"][0]), (&1.into(), &"g".into()));
    // One that is interrupted while it waits goes at once.
    let third = world.start(&["--ci", "--no-lock", "--run-dir", "third"]);
    eventually("it waits", Duration::from_secs(20), || {
        status(&world)["waiting"].as_array().is_some_and(|w| w.len() == 1)
    });
    world
        .run(&["lock", "status"])
        .exits(0)
        .says("`g` of run")
        .says("waiting, 1st in the queue: 600MiB of memory for `g` of run");
    signal(&third, "INT");
    finish(third).exits(130);
    // What a killed run had is free at once.
    first.kill().expect("killed");
    first.wait().expect("collected");
    assert_eq!(promised(&world), [0_u64; 0]);
    world.run(&["--ci", "--no-lock", "--run-dir", "fourth", "--set", "guests.g.fake.replies.work=\"0\""]).exits(0);
    world.run(&["cleanup", "--force"]).exits(0);
    assert!(!world.path("lock.d.memory").exists());
}

#[test]
fn what_can_never_be_had_is_said_before_the_run() {
    let world = scripted("2GiB", "1GiB", "0s");
    world.ci(&[]).exits(3).says("2GiB needed for g").says("`host.memory` is 1GiB");
    let huge = scripted("900TiB", "1000TiB", "0s");
    huge.ci(&[]).exits(3).says("900TiB needed for g");
}

#[test]
fn guests_of_one_run_take_turns_where_they_do_not_fit_together() {
    let world = World::new(
        "memory = \"1GiB\"\nslots = 4\n[guests.a]\nbackend = \"fake\"\nmemory = \"700MiB\"\n[guests.b]\nbackend = \"fake\"\n\
         memory = \"600MiB\"\n[suites.s]\nguests = [\"a\", \"b\"]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n",
    );
    let ran = world.ci(&[]).exits(0);
    ran.says("1.2GiB needed for a, b; 1MiB must stay free, `host.memory` is 1GiB")
        .says("guests wait until there is memory for them");
    world.assert_verdicts(&[("s/c", "passed"), ("s/c", "passed")]);
}

#[test]
fn a_machine_that_is_kept_has_its_memory_until_it_is_down() {
    let guest = Micro { keys: "", ..Micro::default() }.guest("micro");
    let world = World::new(&format!(
        "memory = \"400MiB\"\n{guest}[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
    ));
    world.run(&["keep", "micro"]).exits(0);
    assert_eq!(promised(&world), [256]);
    let used = status(&world)["promised"][0]["used"].as_u64().expect("bytes") >> 20;
    assert!((20..=256).contains(&used), "{used} MiB of a machine that is up");
    let late = world.ci(&["--lock-timeout", "2s"]).exits(5);
    late.says("`micro` of run").says("`vmdeck down GUEST` ends a guest that was kept");
    // The machine itself is used again without asking for its memory once more.
    world.run(&["--ci", "--reuse", "--run-dir", "again"]).exits(0);
    assert_eq!(promised(&world), [256]);
    // Its process decides: a machine that dies has nothing.
    world.run(&["down", "micro"]).exits(0);
    assert_eq!(promised(&world), [0_u64; 0]);
    world.run(&["--ci", "--run-dir", "after"]).exits(0);
    world.assert_nothing_left();
}
