//! What each signal does to a run, one by one: the second and the third, a state that is asked for, a stop in the foreground, a CI system that
//! loses its patience, a reader that goes.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use vmdeck_testkit::world::{World, eventually, finish, read_until, signal};

/// A run whose case does not end when it is asked to, so that cleaning up takes a while.
fn stubborn() -> World {
    world("trap '' TERM INT HUP; echo begun; while :; do sleep 0.2; done")
}

fn world(run: &str) -> World {
    World::new(&format!(
        "[guests.g]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = '''{run}'''\n"
    ))
}

/// Starts a run, and returns when its case has begun.
fn begun(world: &World) -> Child {
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    child
}

#[test]
fn a_second_signal_changes_nothing_and_a_third_leaves_it_to_the_guardian() {
    for name in ["INT", "TERM"] {
        let world = stubborn();
        let mut child = begun(&world);
        signal(&child, name);
        read_until(&mut child, "cleaning up");
        signal(&child, name);
        read_until(&mut child, "a second signal: still cleaning up; a third leaves that to the guardian");
        assert!(child.try_wait().expect("asked").is_none(), "it goes on");
        let third = Instant::now();
        signal(&child, name);
        finish(child).exits(if name == "INT" { 130 } else { 143 });
        assert!(third.elapsed() < Duration::from_secs(5), "it leaves at once");
        let last = world.events().pop().expect("events");
        assert_eq!(last["kind"], "run_ended", "its record is complete");
        eventually("the guardian has finished", Duration::from_secs(30), || !world.path("lock.d").exists());
        world.assert_nothing_left();
    }
}

#[test]
fn sigquit_tells_the_state_of_the_run_and_ends_it() {
    let world = world("echo begun; sleep 60");
    let child = begun(&world);
    signal(&child, "QUIT");
    let ran = finish(child).exits(130);
    let ran = ran.says("state after ").says("has the lock; 0 of 1 case ended; ");
    ran.says("g: its machine is up, called vmdeck-").says("tests since ").says("case s/c since ");
    world.assert_nothing_left();
    assert!(!world.path("core").exists());
}

#[test]
fn a_stop_and_a_continue_change_nothing() {
    let world = world("echo begun; while [ ! -e ../../../../../go ]; do sleep 0.05; done");
    let child = begun(&world);
    signal(&child, "TSTP");
    let state = || {
        let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        text.rsplit(')').next().and_then(|rest| rest.split_whitespace().next().map(str::to_owned)).unwrap_or_default()
    };
    eventually("it has stopped", Duration::from_secs(10), || state() == "T");
    // Others wait for its lock as long as it is stopped.
    world.run(&["--ci", "--run-dir", "other", "--lock-timeout", "1s"]).exits(4);
    fs::write(world.path("go"), "").expect("go");
    signal(&child, "CONT");
    finish(child).exits(0);
    world.assert_nothing_left();
}

/// A CI system: SIGINT, then SIGTERM, then every process is killed that has its mark in the environment.
#[test]
fn a_ci_system_that_kills_everything_it_started_leaves_nothing() {
    let world = stubborn();
    let mark = format!("RUNNER_TRACKING_ID=vmdeck-test-{}", std::process::id());
    let (name, value) = mark.split_once('=').expect("a variable");
    let mut command = world.vmdeck(&["--ci", "--verbose", "--run-dir", "record"]);
    command.env(name, value).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("vmdeck");
    read_until(&mut child, "| begun");
    for name in ["INT", "TERM"] {
        signal(&child, name);
    }
    read_until(&mut child, "a second signal");
    let marked = || -> Vec<String> {
        let all = fs::read_dir("/proc").expect("proc").flatten();
        let has_mark = |pid: &String| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
        };
        all.map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|pid| pid.parse::<u32>().is_ok())
            .filter(has_mark)
            .collect()
    };
    for pid in marked() {
        let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
    }
    finish(child).exits(-9);
    eventually("the guardian has finished", Duration::from_secs(30), || !world.path("lock.d").exists());
    assert_eq!(marked(), [""; 0]);
    world.assert_nothing_left();
}

#[test]
fn a_reader_that_goes_at_any_byte_neither_stops_the_run_nor_its_clean_up() {
    let world = world("echo begun; echo more");
    for bytes in [1, 40, 200, 500, 700] {
        let mut child = world.start(&["--ci", "--run-dir", &format!("record-{bytes}")]);
        let mut reader = Command::new("head")
            .args(["-c", &bytes.to_string()])
            .stdin(child.stdout.take().expect("piped"))
            .stdout(Stdio::null())
            .spawn()
            .expect("head");
        reader.wait().expect("ended");
        assert!(child.wait().expect("ended").success(), "{bytes} bytes were read");
        let report = fs::read_to_string(world.path(&format!("record-{bytes}/junit.xml"))).expect("report");
        assert!(report.contains("name=\"c\""), "{report}");
        world.assert_nothing_left();
    }
}

#[test]
fn a_lock_that_is_lost_in_the_last_moment_makes_the_run_infra() {
    let world = world("rm -rf ../../../../../lock.d");
    let ran = world.ci(&[]).exits(5);
    ran.says("LOCK LOST");
    assert_eq!(world.verdict_of("s/c"), "passed", "the case itself ended well");
}

#[test]
fn the_end_of_the_terminal_s_input_means_nothing_to_a_run() {
    let world = world("read x; test -z \"$x\"");
    world.ci(&[]).exits(0);
    world.assert_nothing_left();
}
