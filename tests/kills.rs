//! The promise that nothing stays, at every step of a run: the run, its guardian or both are killed there, the disk is full there, and the
//! reaper itself is killed. What others have is never touched.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, eventually},
};

/// Every step of a run, in its order.
const STEPS: [&str; 26] = [
    "lock-begin",
    "lock-held",
    "run-begin",
    "run-written",
    "guardian-begin",
    "guardian-there",
    "memory-begin",
    "memory-taken",
    "intent-begin",
    "intent-written",
    "create-begin",
    "create-done",
    "known-begin",
    "known-written",
    "start-begin",
    "start-done",
    "reached-begin",
    "reached-written",
    "stop-begin",
    "release-begin",
    "release-done",
    "gone-begin",
    "gone-written",
    "end-begin",
    "end-written",
    "lock-release-begin",
];

/// Whether a guardian is there at a step: it has gone before the lock is released, of which a dead one is nobody's.
fn is_guarded(step: &str) -> bool {
    let at = |step: &str| STEPS.iter().position(|other| *other == step).expect("a step");
    at(step) >= at("guardian-there") && step != "lock-release-begin"
}

/// A run with a machine that is a process of this host.
fn local() -> World {
    World::new("[guests.g]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"sleep 0.01\"\n")
}

/// A run with a machine whose memory is promised.
fn scripted() -> World {
    World::new(
        "[guests.g]\nbackend = \"fake\"\nmemory = \"64MiB\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n",
    )
}

fn micro() -> World {
    let guest = Micro::default().guest("g");
    World::new(&format!("{guest}[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"))
}

/// Things of a person that look like ours: a process with the mark of a machine, and a file beside the lock.
struct Others {
    process: Child,
    file: std::path::PathBuf,
}

impl Others {
    fn new(world: &World) -> Self {
        let file = world.path("vmdeck-00000000-abcdefgh.qcow2");
        fs::write(&file, "mine").expect("file");
        let mut command = Command::new("sleep");
        command.arg("1000").env("VMDECK_MACHINE", "vmdeck-00000000-abcdefgh").stdin(Stdio::null());
        Self { process: command.spawn().expect("sleep"), file }
    }

    fn assert_untouched(&mut self, when: &str) {
        assert!(self.process.try_wait().expect("asked").is_none(), "{when}: a process of others was killed");
        assert_eq!(fs::read_to_string(&self.file).expect("file"), "mine", "{when}");
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run_until(world: &World, record: &str, failpoint: &str) -> Output {
    let mut command = world.vmdeck(&["--ci", "--run-dir", record]);
    command.env("FAILPOINT", failpoint).output().expect("vmdeck runs")
}

fn is_clean(world: &World) -> bool {
    let is_empty = |name: &str| fs::read_dir(world.state().join(name)).map_or(true, |mut dir| dir.next().is_none());
    let lock = fs::read_dir(world.home.path()).expect("home").flatten();
    let no_lock = !lock.map(|e| e.file_name().to_string_lossy().into_owned()).any(|name| name.starts_with("lock.d"));
    is_empty("machines") && is_empty("runs") && no_lock && world.processes().is_empty()
}

/// Kills at each of these steps; afterwards nothing is left, with the guardian alone where there is one, and a run is as usual.
fn kill_at(world: &World, steps: &[&str], deed: &str) {
    let mut others = Others::new(world);
    let mut reached = 0;
    for step in steps {
        let when = format!("{deed} at {step}");
        let ended = run_until(world, &format!("record-{step}"), &format!("{step}:{deed}"));
        if deed == "kill-guardian" {
            assert_eq!(ended.status.code(), Some(0), "{when}: {}", String::from_utf8_lossy(&ended.stdout));
        } else if ended.status.signal() == Some(9) {
            reached += 1;
            if deed == "kill" && is_guarded(step) {
                eventually(&format!("{when}: the guardian has finished"), Duration::from_secs(20), || is_clean(world));
            }
        } else {
            assert_eq!(ended.status.code(), Some(0), "{when}: {}", String::from_utf8_lossy(&ended.stdout));
        }
        for _ in 0..2 {
            world.run(&["cleanup", "--force"]).exits(0);
        }
        eventually(&format!("{when}: nothing is left"), Duration::from_secs(10), || is_clean(world));
        others.assert_untouched(&when);
    }
    world.run(&["--ci", "--run-dir", "after"]).exits(0);
    world.assert_nothing_left();
    if deed != "kill-guardian" {
        // Each backend has most of the steps.
        assert!(reached * 10 >= steps.len() * 8, "{deed}: only {reached} of {} steps were reached", steps.len());
    }
}

#[test]
fn a_run_that_is_killed_at_any_step_leaves_nothing() {
    kill_at(&local(), &STEPS, "kill");
}

#[test]
fn a_guardian_that_is_killed_at_any_step_changes_nothing() {
    kill_at(&local(), &STEPS, "kill-guardian");
}

#[test]
fn with_run_and_guardian_killed_at_any_step_the_next_start_takes_what_is_left() {
    kill_at(&local(), &STEPS, "kill-both");
}

#[test]
fn memory_that_was_promised_is_free_after_a_kill_at_any_step() {
    kill_at(&scripted(), &["ticket-begin", "memory-begin", "memory-taken", "create-done", "gone-written"], "kill-both");
}

#[test]
fn a_real_machine_is_gone_after_a_kill_of_run_and_guardian() {
    let steps = ["memory-taken", "create-done", "start-done", "release-begin", "gone-begin"];
    kill_at(&micro(), if slow() { &STEPS } else { &steps }, "kill-both");
}

#[test]
fn a_reaper_that_is_killed_is_followed_by_one_that_finishes() {
    let world = local();
    let mut others = Others::new(&world);
    assert_eq!(run_until(&world, "record", "reached-written:kill-both").status.signal(), Some(9));
    for step in ["reap-begin", "reap-done", "reap-written"] {
        let mut command = world.vmdeck(&["cleanup", "--force"]);
        let ended = command.env("FAILPOINT", format!("{step}:kill")).output().expect("vmdeck runs");
        let is_last = step == "reap-written" || ended.status.signal() == Some(9);
        assert!(is_last, "{step}: {}", String::from_utf8_lossy(&ended.stdout));
        others.assert_untouched(step);
    }
    for _ in 0..2 {
        world.run(&["cleanup", "--force"]).exits(0);
    }
    others.assert_untouched("at the end");
    world.assert_nothing_left();
}

/// A full disk at each write of the journal: what was not durable is not made, the verdict is red where a case did not run, and the record
/// can be read.
#[test]
fn a_full_disk_at_any_write_of_the_journal_is_told_and_leaves_nothing() {
    let world = local();
    let wanted = [
        ("lock-begin", 3),
        ("run-begin", 3),
        ("intent-begin", 5),
        ("known-begin", 5),
        ("reached-begin", 5),
        ("gone-begin", 0),
        ("end-begin", 0),
    ];
    for (step, code) in wanted {
        let record = format!("record-{step}");
        let ended = run_until(&world, &record, &format!("{step}:full"));
        let text = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{step}: {text}");
        assert!(text.contains("No space left on device"), "{step}: {text}");
        let events = fs::read_to_string(world.path(&record).join("events.jsonl")).expect("record");
        let last: serde_json::Value = serde_json::from_str(events.lines().last().expect("events")).expect("an event");
        assert_eq!((&last["kind"], &last["exit"]), (&"run_ended".into(), &code.into()), "{step}");
        world.run(&["cleanup", "--force"]).exits(0);
        assert!(is_clean(&world), "{step}: {text}");
    }
    world.run(&["--ci", "--run-dir", "after"]).exits(0);
    world.assert_nothing_left();
}

/// A machine that is frozen: a kill, or a full disk, at each step of making its snapshot known costs at most the snapshot.
#[test]
fn a_snapshot_is_whole_or_nobody_s_whoever_is_killed_while_it_is_made() {
    let guest = Micro { keys: "fresh = \"case\"", ..Micro::default() }.guest("g");
    let cases = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n[[suites.s.cases]]\nname = \"b\"\nrun = \"true\"\n";
    let world = World::new(&format!("{guest}{cases}"));
    let all = ["snapshot-begin", "snapshot-files", "snapshot-list", "snapshot-known"];
    for step in if slow() { &all[..] } else { &all[1..3] } {
        let ended = run_until(&world, &format!("killed-{step}"), &format!("{step}:kill-both"));
        assert_eq!(ended.status.signal(), Some(9), "{step} was reached");
        world.run(&["--ci", "--run-dir", &format!("after-{step}")]).exits(0);
        world.assert_nothing_left();
        // None of it is used by the next one.
        fs::remove_dir_all(world.path("snapshots")).expect("snapshots");
    }
    let full = run_until(&world, "full", "snapshot-files:full");
    let text = String::from_utf8_lossy(&full.stdout).into_owned();
    assert_eq!(full.status.code(), Some(0), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    world.assert_nothing_left();
}

#[test]
fn a_panic_in_the_middle_of_a_job_is_a_bug_and_its_machine_is_taken_by_the_next_start() {
    let world = local();
    for step in ["create-begin", "start-done", "reached-written", "release-begin", "gone-written"] {
        let record = format!("record-{step}");
        let ended = run_until(&world, &record, &format!("{step}:panic"));
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.code(), Some(70), "{step}: {text}");
        assert!(text.contains("a worker panicked"), "{step}: {text}");
        let events = fs::read_to_string(world.path(&record).join("events.jsonl")).expect("record");
        let last: serde_json::Value = serde_json::from_str(events.lines().last().expect("events")).expect("an event");
        assert_eq!(last["kind"], "run_ended", "{step}");
        world.run(&["cleanup", "--force"]).exits(0);
        assert!(is_clean(&world), "{step}: {text}");
    }
}

#[test]
fn few_open_files_are_told_and_leave_nothing() {
    let world = local();
    let mut codes = Vec::new();
    for limit in [64, 40, 32, 28, 24, 20, 16, 12] {
        let record = format!("record-{limit}");
        let run = format!("ulimit -n {limit}; exec \"$0\" --ci --run-dir {record}");
        let mut command = Command::new("sh");
        command.args(["-c", &run]).arg(vmdeck_testkit::world::binary()).current_dir(world.home.path());
        let ended = command.env("XDG_STATE_HOME", world.path("state")).stdin(Stdio::null()).output().expect("sh");
        let text = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        let code = ended.status.code().expect("an exit code");
        codes.push(code);
        if code == 0 {
            assert!(text.contains("1 passed"), "{limit}: {text}");
        } else {
            assert!([3, 5, 70].contains(&code) && text.contains("Too many open files"), "{limit}: {code}: {text}");
        }
        world.run(&["cleanup", "--force"]).exits(0);
        eventually(&format!("nothing is left with {limit}"), Duration::from_secs(10), || is_clean(&world));
    }
    assert!(codes.first() == Some(&0) && codes.last() != Some(&0), "{codes:?}: it proves something");
}

#[test]
fn without_proc_a_run_ends_with_a_verdict_and_leaves_nothing() {
    let world = local();
    if Command::new("unshare").args(["-m", "true"]).output().map_or(true, |out| !out.status.success()) {
        return;
    }
    let ran = world.inside(&["-m"], "mount -t tmpfs none /proc", &["--ci", "--run-dir", "record"]);
    assert!(ran.out.contains("1 passed") || ran.out.contains("1 infra") || ran.out.contains("1 failed"), "{}", ran.out);
    assert!(!ran.out.contains("0B available"), "{}", ran.out);
    world.run(&["cleanup", "--force"]).exits(0);
    eventually("nothing is left", Duration::from_secs(10), || is_clean(&world));
}

/// Whether the slow half of the tests is wanted.
fn slow() -> bool {
    std::env::var_os("VMDECK_TEST_SLOW").is_some()
}
