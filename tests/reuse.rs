//! Guests that stay up between runs: kept, used again without a boot, never silently, and gone when a person says so.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Command, time::Duration};
use vmdeck_testkit::{
    micro::Micro,
    world::{Ran, World, eventually, finish, signal},
};

/// What the cases of these tests have: a file of the source, and what the guest remembers.
const SUITE: &str = "[suites.s]\nsetup = \"echo x >> /tmp/setups\"\nsetup_inputs = [\"deps\"]\n\
    [[suites.s.cases]]\nname = \"count\"\nrun = \"cat code; wc -l < /tmp/setups; echo run >> /tmp/runs; wc -l < /tmp/runs\"\n\
    [[suites.s.cases]]\nname = \"panic\"\nrun = \"test ! -e /tmp/fatal || echo c | sudo tee /proc/sysrq-trigger\"\n\
    [[suites.s.cases]]\nname = \"long\"\nrun = \"test ! -e /tmp/long || sleep 60\"\n";

fn micro(suite: &str) -> World {
    let micro = Micro { append: "sysrq_always_enabled", ..Micro::default() }.guest("micro");
    world(&format!("{micro}[guests.micro.source]\npath = \"src\"\nto = \"/tmp/src\"\n{suite}"))
}

fn local() -> World {
    let world = world("");
    let suite = SUITE.replace("/tmp/", "../");
    let to = world.path("box/src").display().to_string();
    let guest = format!("[guests.here]\nbackend = \"local\"\n[guests.here.source]\npath = \"src\"\nto = \"{to}\"\n");
    let config = text(&world, "vmdeck.toml") + &guest + &suite;
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world
}

fn world(config: &str) -> World {
    let world = World::new(config);
    fs::create_dir(world.path("src")).expect("mkdir");
    for (name, text) in [("code", "one\n"), ("deps", "1\n")] {
        fs::write(world.path("src").join(name), text).expect("write");
    }
    world
}

/// Runs the cases again in what was kept, with the record in this folder.
fn again(world: &World, record: &str, args: &[&str]) -> Ran {
    world.run(&[&["--ci", "--reuse", "--run-dir", record], args].concat())
}

fn text(world: &World, file: &str) -> String {
    fs::read_to_string(world.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Returns what the case `count` wrote: the code, how many setups there were, how many runs.
fn counted(world: &World, record: &str, guest: &str) -> Vec<String> {
    let text = text(world, &format!("{record}/guests/{guest}/s/count/stdout.log"));
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn put(world: &World, file: &str, text: &str) {
    fs::write(world.path("src").join(file), text).expect("write");
}

#[test]
fn a_machine_that_was_kept_is_used_again_and_every_report_says_so() {
    let world = micro(SUITE);
    world.run(&["keep", "micro"]).exits(0).says("micro is ready after").says("vmdeck down micro");
    again(&world, "r1", &[]).exits(0).says("micro is reused ×1  kept by run");
    assert_eq!(counted(&world, "r1", "micro"), ["one", "1", "1"]);
    put(&world, "code", "two\n");
    let ran = again(&world, "r2", &["s/count"]).exits(0).says("reused ×2").says("the setup is not run again");
    assert!(!ran.out.contains("was kept as"), "that is no news: {}", ran.out);
    assert_eq!(counted(&world, "r2", "micro"), ["two", "1", "2"], "new code, no new setup, no new machine");
    put(&world, "deps", "2\n");
    again(&world, "r3", &["s/count"]).exits(0);
    assert_eq!(counted(&world, "r3", "micro"), ["two", "2", "3"], "what the setup depends on has changed");

    // A restart takes away what the setup has done, here with everything else.
    world
        .run(&["shell", "micro", "--", "sudo setsid sh -c 'sleep 1; reboot -f' >/dev/null 2>&1 </dev/null &"])
        .exits(0);
    let back = || text(&world, "r3/guests/micro/console.log").matches("login:").count() == 2;
    eventually("it is up again", Duration::from_mins(1), back);
    again(&world, "r4", &["s/count"]).exits(0).says("reused ×4");
    assert_eq!(counted(&world, "r4", "micro"), ["two", "1", "1"]);

    assert!(text(&world, "r3/junit.xml").contains("<property name=\"reused\" value=\"3\"/>"));
    let summary: serde_json::Value = serde_json::from_str(&text(&world, "r3/summary.json")).expect("json");
    assert_eq!(summary["guests"][0]["reused"], 3);
    let console = text(&world, "r3/guests/micro/console.log");
    assert!(console.contains("login:"), "the boot of the machine is in each record that used it: {console}");

    world.run(&["list"]).exits(0).says(" micro          run ").says("(kept)");
    let boots = world.run(&["shell", "micro", "--", "wc -l < /tmp/runs"]).exits(0);
    assert_eq!(boots.out.trim(), "1", "a shell is in the same machine");
    world.run(&["down", "micro"]).exits(0).says("removed vmdeck-");
    world.run(&["down"]).exits(0).says("no machine of these guests is kept");
    world.assert_nothing_left();
}

#[test]
fn what_crashes_is_no_pass_and_is_not_used_once_more() {
    let world = micro(SUITE);
    world.run(&["keep"]).exits(0);
    world.run(&["shell", "micro", "--", "touch /tmp/fatal"]).exits(0);
    let ran = again(&world, "r1", &[]);
    let ran = ran.exits(1).says("FAIL  s/panic").says("the guest's system crashed during the case");
    assert!(ran.out.contains("removed micro (verified"), "{}", ran.out);
    assert!(text(&world, "r1/guests/micro/console-1.log").contains("Kernel panic"));
    again(&world, "r2", &[]).exits(0).says("micro is ready after").says("removed micro (verified");
    world.assert_nothing_left();
}

#[test]
fn a_machine_of_another_shape_or_one_that_ended_is_not_used_and_that_is_said() {
    let world = micro(SUITE);
    world.run(&["keep"]).exits(0);
    let other = ["--set", "guests.micro.memory=300MiB", "s/count"];
    let ran = again(&world, "r1", &other).exits(0).says("it was made from another config of the guest");
    assert!(
        ran.out.contains("micro is ready after") && ran.out.contains("`vmdeck down micro` removes it"),
        "{}",
        ran.out
    );
    // What is only done with it is no other shape.
    let same = ["--set", "guests.micro.case_timeout=99s", "s/count"];
    again(&world, "r2", &same).exits(0).says("reused ×1");
    let home = world.home.path().display().to_string();
    let killed = Command::new("pkill").args(["-KILL", "-f", &format!("qemu-system.*{home}")]).status().expect("pkill");
    assert!(killed.success());
    again(&world, "r3", &["s/count"]).exits(0).says("its process is gone").says("micro is ready after");
    world.run(&["down"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn a_run_that_is_killed_leaves_what_was_kept() {
    let world = local();
    world.run(&["keep"]).exits(0);
    // Somebody sleeps in it, and their run dies.
    fs::write(world.path("box/long"), "").expect("write");
    let child = world.start(&["--ci", "--reuse", "--run-dir", "r1", "s/long"]);
    let started = || fs::read_to_string(world.path("r1/events.jsonl")).unwrap_or_default().contains("case_started");
    eventually("the case has begun", Duration::from_secs(20), started);
    // Nobody else gets it meanwhile.
    world.run(&["down"]).exits(6).complains("its machine is in use by run");
    let other = again(&world, "r2", &["--no-lock", "s/count"]).exits(0).says("uses the one that is kept");
    assert!(other.out.contains("here is ready after"), "{}", other.out);
    signal(&child, "KILL");
    finish(child);
    let is_free = || again_free(&world);
    eventually("the guardian has seen the end", Duration::from_secs(20), is_free);
    again(&world, "r3", &["s/count"]).exits(0).says("reused ×2");
    // One that a person stops keeps what was kept as well.
    let child = world.start(&["--ci", "--reuse", "--run-dir", "r4", "s/long"]);
    let started = || fs::read_to_string(world.path("r4/events.jsonl")).unwrap_or_default().contains("case_started");
    eventually("the case has begun", Duration::from_secs(20), started);
    signal(&child, "INT");
    finish(child).exits(130);
    again(&world, "r5", &["s/count"]).exits(0).says("reused ×4");
    world.run(&["down", "here"]).exits(0);
    world.assert_nothing_left();
}

/// Returns whether the lock of the run that was killed is free.
fn again_free(world: &World) -> bool {
    world.run(&["lock", "status"]).out.contains("free")
}

#[test]
fn machines_belong_to_the_config_and_fresh_wins() {
    let world = local();
    world.run(&["keep"]).exits(0);
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).expect("mkdir");
    fs::copy(world.path("vmdeck.toml"), elsewhere.join("vmdeck.toml")).expect("copy");
    fs::create_dir(elsewhere.join("src")).expect("mkdir");
    fs::write(elsewhere.join("src/code"), "other\n").expect("write");
    // However its config is named, it is the same one.
    let mut from_below = world.vmdeck(&["-f", "../vmdeck.toml", "--ci", "--reuse", "--run-dir", "r0", "s/count"]);
    Ran::of(&from_below.current_dir(&elsewhere).output().expect("runs")).exits(0).says("reused ×1");
    let config = elsewhere.join("vmdeck.toml").display().to_string();
    again(&world, "r1", &["-f", &config, "s/count"]).exits(0).says("here is ready after");
    world.run(&["-f", &config, "down"]).exits(0).says("no machine of these guests is kept");
    let fresh = again(&world, "r2", &["--set", "guests.here.fresh=case", "s/count"]).exits(0);
    let fresh = fresh.complains("guest `here` gets new machines, as its `fresh` wants");
    assert!(fresh.out.contains("here is ready after"), "{}", fresh.out);
    again(&world, "r3", &["s/count"]).exits(0).says("reused ×2");
    world.run(&["down", "nobody"]).exits(2).complains("unknown guest `nobody` (known: here)");
    world.run(&["keep", "nobody"]).exits(2).complains("unknown guest `nobody` (known: here)");
    let renamed = text(&world, "vmdeck.toml").replace("guests.here", "guests.there");
    fs::write(world.path("vmdeck.toml"), renamed).expect("config");
    world.run(&["down"]).exits(0).complains("a machine is kept for `here`, which the config does not have");
    world.run(&["cleanup", "--force"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn a_setup_that_failed_is_run_again_and_inputs_are_checked() {
    let world = local();
    world.run(&["keep"]).exits(0);
    again(&world, "r1", &["s/count"]).exits(0);
    put(&world, "deps", "2\n");
    let broken = ["--set", "suites.s.setup=exit 1", "s/count"];
    again(&world, "r2", &broken).exits(1).says("setup");
    again(&world, "r3", &["s/count"]).exits(0);
    assert_eq!(
        counted(&world, "r3", "here"),
        ["one", "2", "2"],
        "after a setup that failed it is run, whatever was before"
    );
    world.run(&["down"]).exits(0);
    for (set, why) in [
        ("suites.s.teardown=rm x", "what the `teardown` undoes the setup has to do again each time"),
        ("suites.s.setup_inputs=[", "cannot read `[`"),
    ] {
        world.run(&["--ci", "--set", set]).exits(2).complains(why);
    }
    world.assert_nothing_left();
}

#[test]
fn a_shell_is_opened_at_a_case_of_a_run_as_that_case_had_it() {
    let world = local();
    let config = text(&world, "vmdeck.toml").replace("[suites.s]", "[suites.s]\nenv = { WHO = \"it's me\" }");
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world.run(&["--ci", "--keep", "always"]).exits(0);
    let command = ["--", "echo $WHO in ${PWD##*/} $VMDECK_SUITE/$VMDECK_CASE of $VMDECK_RUN"];
    let records = fs::read_dir(world.path(".vmdeck/runs")).expect("records").flatten();
    let mut names =
        records.filter_map(|record| record.file_name().into_string().ok()).filter(|name| name.contains('T'));
    let run = names.next().expect("a record").rsplit('-').next().expect("id").to_owned();
    let place = |case: &str| world.run(&[&["shell", &format!("{run}/{case}")], &command[..]].concat());
    let there = place("s/count@here").exits(0);
    assert!(there.out.starts_with(&format!("it's me in src s/count of {run}")), "{}", there.out);
    place("count").exits(0).says("it's me in src s/count");
    place("nothing").exits(2).complains("no such case");
    let suite = |name: &str| world.run(&[&["shell", "here", "--suite", name], &command[..]].concat());
    suite("s").exits(0).says("it's me in src s/ of");
    suite("other").exits(2).complains("it does not run on `here`").complains("these do: s");
    let plain = world.run(&["shell", "here", "--", "echo who=$WHO"]).exits(0);
    assert_eq!(plain.out.trim(), "who=", "a command says itself what it wants");
    world.run(&["down"]).exits(0);
    place("s/count@here").complains("is gone");
    world.assert_nothing_left();
}
