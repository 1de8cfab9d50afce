//! The real binary on the `local` and `fake` backends: exit codes, reports, selection, signals, and nothing left behind.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Stdio, time::Duration};
use vmdeck_testkit::world::{World, eventually, finish, read_until, signal, tell};

/// Returns one local guest and these cases: name and command, with further lines.
fn local(cases: &[(&str, &str, &str)]) -> World {
    let mut config = "[guests.here]\nbackend = \"local\"\n[suites.s]\n".to_owned();
    for (name, run, more) in cases {
        config.push_str(&format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = '''{run}'''\n{more}\n"));
    }
    World::new(&config)
}

fn fake(guest: &str, replies: &str) -> World {
    World::new(&format!(
        "[guests.g]\nbackend = \"fake\"\n{guest}\n[guests.g.fake.replies]\n{replies}\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"a\"\n[[suites.s.cases]]\nname = \"b\"\nrun = \"b\"\n"
    ))
}

// --- verdicts and exit codes -----------------------------------------------------------------------------------------

#[test]
fn every_verdict_has_its_place_in_every_report() {
    let world = local(&[
        ("good", "echo fine", ""),
        ("bad", "echo to-out; echo to-err >&2; exit 4", ""),
        ("flaky", "echo x >> ../tries; test $(wc -l < ../tries) -ge 2", "retries = 1"),
        ("skipped", "false", "skip = \"not today\""),
        ("skips-itself", "exit 77", "expect = { skip = 77 }"),
        ("wanted-code", "exit 3", "expect = { exit = 3 }"),
        ("wanted-line", "echo nothing like it", "expect = { stdout = \"/^ok$/\" }"),
        ("slow", "sleep 60", "timeout = \"300ms\""),
        ("signalled", "kill -SEGV $$", ""),
    ]);
    world.ci(&["--junit", "copy.xml"]).exits(1).says("FLAKY s/flaky").says("NOT ISOLATED").says("stderr | to-err");
    let wanted = [
        ("s/skipped", "skipped"),
        ("s/good", "passed"),
        ("s/bad", "failed"),
        ("s/flaky", "flaky"),
        ("s/skips-itself", "skipped"),
        ("s/wanted-code", "passed"),
        ("s/wanted-line", "failed"),
        ("s/slow", "failed"),
        ("s/signalled", "failed"),
    ];
    assert_eq!(world.verdicts(), wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let summary = world.json("summary.json");
    assert_eq!(
        (&summary["tally"]["failed"], &summary["tally"]["flaky"], &summary["exit"]),
        (&4.into(), &1.into(), &1.into())
    );
    let junit = fs::read_to_string(world.path("copy.xml")).expect("junit");
    assert_eq!(junit, world.record("junit.xml"));
    assert!(
        junit.contains("flakyFailure") && junit.contains("tests=\"9\"") && junit.contains("failures=\"4\""),
        "{junit}"
    );
    assert_eq!(world.record("guests/here/s/bad/stdout.log"), "to-out\n");
    assert_eq!(world.record("guests/here/s/bad/stderr.log"), "to-err\n");
    assert_eq!(world.json("receipt.json")["clean"], true);
    world.assert_nothing_left();
}

#[test]
fn retries_and_repeat_come_from_the_command_line_too() {
    let world = local(&[("never", "false", ""), ("always", "true", "")]);
    world.ci(&["--retries", "2", "--repeat", "2"]).exits(1);
    assert_eq!(world.of_kind("case_started").len(), 2 * 3 + 2);
    assert_eq!(world.verdicts().len(), 4);
    assert!(world.path("record/guests/here/s/never/round-2/attempt-3/stdout.log").exists());
}

#[test]
fn fail_fast_ends_the_run_and_names_what_was_not_run() {
    let world = local(&[("bad", "false", ""), ("never-run", "true", "")]);
    world.ci(&["--fail-fast"]).exits(1);
    assert_eq!(world.verdict_of("s/never-run"), "cancelled");
    assert_eq!(world.of_kind("case_started").len(), 1, "the next one does not even begin");
}

#[test]
fn a_missing_folder_is_infra_and_does_not_cost_the_machine() {
    let world = local(&[("a", "true", ""), ("b", "true", "")]);
    world.ci(&["--set", "suites.s.dir=nope"]).exits(5).says("nope");
    let created = world.of_kind("guest_state").into_iter().filter(|e| e["to"] == "Created").count();
    assert_eq!(created, 1);
}

#[test]
fn one_artifact_that_cannot_be_read_does_not_cost_the_others() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\nartifacts = [\"good\", \"/proc/1/mem\", \"none*\"]\n\
         [[suites.s.cases]]\nname = \"a\"\nrun = \"echo kept > good\"\n",
    );
    world.ci(&[]).exits(0).says("some artifacts are missing").says("/proc/1/mem");
    assert_eq!(world.record("artifacts/here/s/good"), "kept\n");
}

#[test]
fn what_is_asked_for_and_cannot_be_written_is_told_before_the_run() {
    let world = local(&[("a", "touch ../../../../../started", "")]);
    world.ci(&["--junit", "/proc/no/x.xml"]).exits(2).complains("cannot write `/proc/no/x.xml`");
    world.ci(&["--events", "/proc/no/x.jsonl"]).exits(2).complains("cannot write `/proc/no/x.jsonl`");
    assert!(!world.path("started").exists());
    world.run(&["--ci", "--run-dir", "again"]).exits(0);
    world.run(&["--ci", "--run-dir", "again"]).exits(2).complains("it holds the record of another run");
}

#[test]
fn selection_and_shards() {
    let world = local(&[("a", "true", ""), ("b", "true", ""), ("c", "true", "")]);
    world.run(&["--ci", "s/b", "s/bb"]).exits(2).complains("`s/bb` matches no case");
    world.ci(&["s/b"]).exits(0);
    assert_eq!(world.verdicts().len(), 1);
    let mut seen = Vec::new();
    for shard in ["1/2", "2/2"] {
        fs::remove_dir_all(world.path("record")).expect("removed");
        world.ci(&["--shard", shard]).exits(0);
        seen.extend(world.verdicts().into_iter().map(|v| v.0));
    }
    seen.sort();
    assert_eq!(seen, ["s/a", "s/b", "s/c"]);
    world.ci(&["nosuch"]).exits(2).complains("`nosuch` matches no case").complains("suites: s");
}

#[test]
fn a_setup_that_fails_is_the_test_author_s_and_touches_no_other_suite() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n\
         [suites.one]\nsetup = \"echo broken >&2; false\"\n[[suites.one.cases]]\nname = \"a\"\nrun = \"true\"\n\
         [suites.two]\nsetup = \"echo yes > made\"\nteardown = \"exit 9\"\nartifacts = [\"*.txt\"]\n\
         [[suites.two.cases]]\nname = \"b\"\nrun = \"cat made && echo kept > out.txt\"\n",
    );
    world.ci(&[]).exits(1).says("setup failed: exit 1: broken").says("stderr | broken").says("teardown failed: exit 9");
    assert_eq!((world.verdict_of("one/a"), world.verdict_of("two/b")), ("failed".into(), "passed".into()));
    assert_eq!(world.record("guests/here/one/+setup/stderr.log"), "broken\n");
    assert!(world.record("junit.xml").contains("type=\"setup failed\""));
    assert_eq!(world.record("artifacts/here/two/out.txt"), "kept\n");
}

#[test]
fn a_fresh_guest_for_each_case_shares_nothing() {
    let world = local(&[("first", "echo x > shared", ""), ("second", "test ! -e shared", "")]);
    world.ci(&[]).exits(1);
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&["--set", "guests.here.fresh=case"]).exits(0);
    let created = world.of_kind("guest_state").into_iter().filter(|e| e["to"] == "Created").count();
    assert_eq!(created, 2);
}

#[test]
fn a_lost_connection_is_infra_and_never_a_pass() {
    let world = fake("", "a = \"lost\"");
    world.ci(&[]).exits(5).says("the connection was lost");
    assert_eq!((world.verdict_of("s/a"), world.verdict_of("s/b")), ("infra".into(), "passed".into()));
    world.assert_nothing_left();
}

#[test]
fn a_script_file_is_sent_and_run() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"x\"\nscript = \"it.sh\"\n",
    );
    fs::write(world.path("it.sh"), "#!/bin/sh\necho from the file; exit 5\n").expect("script");
    world.ci(&[]).exits(1);
    assert_eq!(world.record("guests/here/s/x/stdout.log"), "from the file\n");
    assert_eq!(world.of_kind("case_ended")[0]["exit"], 5);
}

#[test]
fn code_is_brought_in_as_git_sees_it() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[guests.here.source]\npath = \"app\"\nto = \"/tmp/vmdeck-test-source/in\"\n\
         [suites.s]\ndir = \"/tmp/vmdeck-test-source/in\"\n[[suites.s.cases]]\nname = \"x\"\nrun = \"cat a.txt && test ! -e ignored\"\n",
    );
    fs::create_dir(world.path("app")).expect("mkdir");
    for (name, text) in [("a.txt", "content"), ("ignored", "x"), (".gitignore", "ignored\n")] {
        fs::write(world.path("app").join(name), text).expect("write");
    }
    world.ci(&[]).exits(0);
    fs::remove_dir_all("/tmp/vmdeck-test-source").expect("the folder was made");
}

// --- machines that fail ----------------------------------------------------------------------------------------------

#[test]
fn launch_failures_are_tried_again_and_then_infra() {
    for (point, tries) in [("create", 3), ("start", 3), ("panic", 1)] {
        let world = fake(&format!("launch_retries = 3\nfake.fail = \"{point}\""), "");
        world.ci(&[]).exits(5);
        assert_eq!(world.of_kind("retrying").len(), tries - 1, "{point}");
        assert_eq!(world.verdict_of("s/a"), "infra");
        world.assert_nothing_left();
    }
}

#[test]
fn a_boot_that_never_ends_is_infra_with_the_reason() {
    let world = fake(
        "boot_timeout = \"300ms\"\nboot.pattern = \"login:\"\nfake.fail = \"boot\"\nfake.console = [\"Linux version 6\"]",
        "",
    );
    world.ci(&[]).exits(5).says("the ready pattern `login:` did not appear").says("Linux version 6");
}

#[test]
fn an_error_on_the_console_ends_the_boot_at_once() {
    let world = fake(
        "fake.boot = \"50ms\"\nfake.fail = \"boot\"\nfake.console = [\"before\", \"Kernel panic - not syncing\"]",
        "",
    );
    world.ci(&[]).exits(5).says("Kernel panic - not syncing");
    assert_eq!(world.of_kind("console_match")[0]["context"][0], "before");
}

#[test]
fn what_cannot_be_proven_gone_is_exit_6_and_a_second_try_may_help() {
    let world = fake("fake.fail = \"close\"", "");
    world.ci(&[]).exits(6).says("NOT CLEANED UP");
    assert_eq!(world.json("receipt.json")["clean"], false);
    let world = fake("fake.fail = \"close-once\"", "");
    world.ci(&[]).exits(0);
    let states: Vec<_> =
        world.of_kind("guest_state").iter().map(|e| e["to"].as_str().expect("state").to_owned()).collect();
    assert_eq!(states, ["Created", "Running", "Invalid", "Terminated"]);
}

// --- signals ---------------------------------------------------------------------------------------------------------

#[test]
fn signals_end_a_run_in_order_at_every_stage() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 143)] {
        let world = local(&[("long", "echo begun; sleep 60", ""), ("next", "true", "")]);
        let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
        read_until(&mut child, "| begun");
        signal(&child, name);
        finish(child).exits(code);
        assert_eq!((world.verdict_of("s/long"), world.verdict_of("s/next")), ("cancelled".into(), "cancelled".into()));
        world.assert_nothing_left();
    }
    // While it boots.
    let world = fake("fake.boot = \"60s\"", "");
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("the start", Duration::from_secs(20), || world.path("record/guests/g").exists());
    signal(&child, "INT");
    finish(child).exits(130);
    world.assert_nothing_left();
}

#[test]
fn kill_9_leaves_nothing_once_the_guardian_is_done() {
    let world = local(&[("long", "echo begun; sleep 61 & sleep 61", "")]);
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    signal(&child, "KILL");
    finish(child).exits(-9);
    world.run(&["cleanup", "--force"]).exits(0);
    world.assert_nothing_left();
    let text = world.record("events.jsonl");
    assert!(text.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "every line is complete");
}

#[test]
fn a_guardian_that_is_killed_is_told_and_replaced() {
    let world = local(&[("long", "echo begun; sleep 61 & sleep 61", "")]);
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    let guardian = || fs::read_to_string(world.path("lock.d/pid")).unwrap_or_default();
    for _ in 0..2 {
        let first = guardian();
        assert!(std::process::Command::new("kill").args(["-9", first.trim()]).status().expect("kill").success());
        read_until(&mut child, "the guardian process was killed; another has taken its place");
        eventually("another one", Duration::from_secs(10), || guardian() != first);
    }
    signal(&child, "KILL");
    finish(child).exits(-9);
    eventually("its clean-up", Duration::from_secs(20), || !world.path("lock.d").exists());
    world.assert_nothing_left();
    // In an ordinary end it is dismissed like the first one.
    fs::remove_dir_all(world.path("record")).expect("removed");
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    assert!(std::process::Command::new("kill").args(["-9", guardian().trim()]).status().expect("kill").success());
    read_until(&mut child, "another has taken its place");
    signal(&child, "TERM");
    finish(child).exits(143);
    world.assert_nothing_left();
}

#[test]
fn with_the_guardian_killed_as_well_the_next_run_cleans_up() {
    let world = local(&[("long", "echo begun; test -e ../../../../../go || sleep 62", "")]);
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    let guardian = fs::read_to_string(world.path("lock.d/pid")).expect("the guardian's pid");
    for pid in [guardian.trim(), &child.id().to_string()] {
        assert!(std::process::Command::new("kill").args(["-9", pid]).status().expect("kill").success());
    }
    finish(child).exits(-9);
    world.run(&["lock", "status"]).exits(0).says("dead: its holder is gone");
    world.run(&["cleanup", "--list-only"]).exits(0).says("vmdeck-").says("of guest `here`");
    fs::write(world.path("go"), "").expect("write");
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&[]).exits(0).says("reaped vmdeck-");
    world.assert_nothing_left();
}

#[test]
fn a_reader_that_closes_the_pipe_does_not_stop_the_run() {
    let world = local(&[("a", "true", ""), ("b", "true", "")]);
    let mut child = world.start(&["--ci", "--run-dir", "record"]);
    drop(child.stdout.take());
    finish(child).exits(0);
    assert_eq!(world.json("summary.json")["tally"]["passed"], 2);
}

// --- the lock --------------------------------------------------------------------------------------------------------

#[test]
fn two_runs_at_once_take_turns() {
    let world = local(&[("hold", "echo begun; while [ ! -e ../../../../../go ]; do sleep 0.05; done", "")]);
    let mut first = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut first, "| begun");
    let mut second = world.start(&["--ci", "--run-dir", "second"]);
    let waiting = read_until(&mut second, "testing in here\n");
    assert!(waiting.contains("waiting for the host lock") && waiting.contains("run "), "{waiting}");
    world.run(&["lock", "status"]).exits(0).says("held by process").says("testing in here");
    world.run(&["lock", "break", "--force"]).exits(4).complains("its holder is alive");
    world.run(&["--ci", "--lock-timeout", "0s", "--run-dir", "third"]).exits(4).says("cannot acquire the lock");
    world.run(&["--ci", "--no-lock", "--dry-run"]).exits(0);
    fs::write(world.path("go"), "").expect("write");
    finish(first).exits(0);
    finish(second).exits(0);
    world.assert_nothing_left();
}

#[test]
fn losing_the_lock_ends_the_run_as_infra() {
    let world = local(&[("long", "echo begun; sleep 63", "")]);
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    fs::remove_dir_all(world.path("lock.d")).expect("a person follows bad advice");
    finish(child).exits(5).says("LOCK LOST");
    assert_eq!(world.verdict_of("s/long"), "cancelled");
}

#[test]
fn with_two_slots_two_guests_run_at_the_same_time() {
    let meet = |mine: &str, other: &str| {
        format!("touch ../../../../../{mine}; while [ ! -e ../../../../../{other} ]; do sleep 0.05; done")
    };
    let world = World::new(&format!(
        "slots = 2\n[guests.a]\nbackend = \"local\"\n[guests.b]\nbackend = \"local\"\n\
         [suites.a]\nguests = [\"a\"]\ntimeout = \"20s\"\n[[suites.a.cases]]\nname = \"x\"\nrun = \"{}\"\n\
         [suites.b]\nguests = [\"b\"]\ntimeout = \"20s\"\n[[suites.b.cases]]\nname = \"x\"\nrun = \"{}\"\n",
        meet("one", "two"),
        meet("two", "one"),
    ));
    world.ci(&[]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn lock_exec_holds_it_for_another_program() {
    let world = local(&[("a", "true", "")]);
    let script = "test -e lock.d/owner.json && test \"$VM_LOCK_DIR\" != \"$PWD/lock.d\" && exit 7";
    world.run(&["lock", "exec", "--", "sh", "-c", script]).exits(7);
    world.run(&["lock", "exec", "--", "/no/such/program"]).exits(127).complains("cannot run /no/such/program");
    world.run(&["lock", "status"]).exits(0).says("free");
    world.assert_nothing_left();
}

// --- commands from another process -----------------------------------------------------------------------------------

fn two_guests(run: &str) -> World {
    World::new(&format!(
        "slots = 1\n[guests.a]\nbackend = \"local\"\n[guests.b]\nbackend = \"local\"\n[suites.s]\n\
         [[suites.s.cases]]\nname = \"one\"\nrun = \"{run}\"\n[[suites.s.cases]]\nname = \"two\"\nrun = \"true\"\n"
    ))
}

#[test]
fn a_guest_that_failed_stands_while_the_others_go_on() {
    let world = two_guests("exit 3");
    let (child, mut stdin) = world.controlled(&["--pause", "5m"]);
    world.until_event(r#""kind":"case_ended","guest":"b","suite":"s","case":"two""#);
    let paused = |guest: &str| {
        let is_it = |e: &&serde_json::Value| e["guest"] == guest && e["phase"] == "pause";
        world.of_kind("phase_started").iter().filter(is_it).count()
    };
    assert_eq!(paused("a"), 1, "with one slot the second ran while the first was looked at");
    world.until_event(r#""kind":"phase_started","guest":"b","phase":"pause""#);
    tell(&mut stdin, r#"{"command":"proceed","guest":"a"}"#);
    world.until_event(r#""kind":"cleanup_ended","guest":"a""#);
    assert!(world.of_kind("cleanup_ended").iter().all(|e| e["guest"] != "b"), "the other one still stands");
    tell(&mut stdin, r#"{"command":"stop","guest":"b"}"#);
    finish(child).exits(1);
    world.assert_nothing_left();
}

#[test]
fn a_pause_does_not_run_out_while_somebody_is_in_the_guest() {
    let world = two_guests("false");
    let (child, mut stdin) = world.controlled(&["--pause", "20s", "s/one@a"]);
    world.until_event(r#""kind":"phase_started","guest":"a","phase":"pause","usual_ms":20000"#);
    tell(&mut stdin, r#"{"command":"in_use","guest":"a","on":true}"#);
    world.until_event(r#""kind":"phase_started","guest":"a","phase":"hold""#);
    tell(&mut stdin, r#"{"command":"in_use","guest":"a","on":false}"#);
    // Whoever leaves has a moment, however little was left.
    world.until_event(r#""kind":"phase_started","guest":"a","phase":"pause","usual_ms":30000"#);
    tell(&mut stdin, r#"{"command":"proceed","guest":"a"}"#);
    finish(child).exits(1);
    let begun = world.of_kind("phase_started").len();
    assert_eq!(world.of_kind("phase_ended").len(), begun, "each phase has its end");
    world.assert_nothing_left();
}

#[test]
fn a_pause_ends_by_itself_and_a_green_guest_has_none() {
    let world = local(&[("bad", "false", "")]);
    world.ci(&["--pause", "50ms"]).exits(1);
    assert!(world.of_kind("phase_ended").iter().any(|e| e["phase"] == "pause"));
    let world = local(&[("good", "true", "")]);
    world.ci(&["--pause", "1h"]).exits(0);
    assert!(world.of_kind("phase_started").iter().all(|e| e["phase"] != "pause"));
    world.assert_nothing_left();
}

#[test]
fn a_stop_lets_the_case_end_and_a_kill_does_not_and_neither_is_green() {
    let world = local(&[("first", "echo begun; sleep 0.3", ""), ("second", "true", "")]);
    let (child, mut stdin) = world.controlled(&[]);
    world.until_event(r#""line":"begun""#);
    tell(&mut stdin, r#"{"command":"stop","guest":"here"}"#);
    finish(child).exits(130);
    assert_eq!((world.verdict_of("s/first").as_str(), world.verdict_of("s/second").as_str()), ("passed", "cancelled"));
    world.assert_nothing_left();
    let world = local(&[("first", "echo begun; sleep 300", ""), ("second", "true", "")]);
    let (child, mut stdin) = world.controlled(&[]);
    world.until_event(r#""line":"begun""#);
    tell(&mut stdin, r#"{"command":"kill","guest":"here"}"#);
    finish(child).exits(130);
    assert_eq!(
        (world.verdict_of("s/first").as_str(), world.verdict_of("s/second").as_str()),
        ("cancelled", "cancelled")
    );
    world.assert_nothing_left();
}

#[test]
fn guests_that_are_held_stay_up_until_they_are_stopped() {
    let world = two_guests("false");
    let (child, mut stdin) = world.controlled(&["--hold", "@a"]);
    world.until_event(r#""phase":"hold""#);
    assert!(world.verdicts().is_empty(), "no case is run");
    tell(&mut stdin, r#"{"command":"stop","guest":"nobody"}"#);
    world.until_event("guest `nobody` is not in this run");
    tell(&mut stdin, r#"{"command":"stop","guest":"a"}"#);
    finish(child).exits(0);
    world.assert_nothing_left();
    world.run(&["--ci", "--hold", "@nobody"]).exits(2);
}

#[test]
fn a_guest_that_cannot_be_held_is_not_green() {
    let world = fake("boot_timeout = \"300ms\"\nlaunch_retries = 1\nfake.fail = \"boot\"", "a = \"0\"");
    world.ci(&["--hold"]).exits(5);
    fs::remove_dir_all(world.path("record")).expect("removed");
    // The end of the commands ends a hold as it ends a run.
    let world = fake("launch_retries = 1", "a = \"0\"");
    let (child, stdin) = world.controlled(&["--hold"]);
    world.until_event(r#""phase":"hold""#);
    drop(stdin);
    finish(child).exits(143);
    world.assert_nothing_left();
}

#[test]
fn a_boot_that_fails_is_compared_with_the_last_good_one() {
    let guest = "boot_timeout = \"2s\"\nlaunch_retries = 1\n[guests.g.fake]\nboot = \"100ms\"\n\
                 console = [\"[ 0.1] Linux version 6\", \"[ 0.7] eth0: link up\", \"login:\"]";
    let world = fake(guest, "a = \"0\"\nb = \"0\"");
    world.ci(&[]).exits(0);
    let times = world.record("guests/g/console.times");
    assert!(times.starts_with(|c: char| c.is_ascii_digit()), "{times}");
    fs::remove_dir_all(world.path("record")).expect("removed");
    let bad = "guests.g.fake.console=[\"[ 0.2] Linux version 6\", \"[ 9.9] eth0: no carrier\", \"login:\"]";
    world.ci(&["--set", bad, "--set", "guests.g.fake.fail=boot"]).exits(5).says("eth0: no carrier");
    let warnings = world.of_kind("warning");
    let wanted = "first console line not seen in the last good boot: [ 9.9] eth0: no carrier";
    assert!(warnings.iter().any(|w| w["text"] == wanted), "{warnings:?}");
    world.assert_nothing_left();
}

#[test]
fn a_run_whose_cockpit_is_gone_ends_and_one_that_was_let_go_does_not() {
    let world = local(&[("long", "echo begun; sleep 300", "")]);
    let (child, stdin) = world.controlled(&[]);
    world.until_event(r#""line":"begun""#);
    drop(stdin);
    finish(child).exits(143);
    world.assert_nothing_left();
    let world = local(&[("long", "echo begun; sleep 0.5", "")]);
    let (child, mut stdin) = world.controlled(&[]);
    world.until_event(r#""line":"begun""#);
    tell(&mut stdin, "detach");
    drop(stdin);
    finish(child).exits(0);
    world.assert_nothing_left();
}

// --- the rest of the command line ------------------------------------------------------------------------------------

#[test]
fn bad_configs_say_what_where_and_what_to_do() {
    let world = World::new("slts = 3\n[guests.g]\nbackend = \"local\"\nmemroy = \"1GiB\"\n");
    world
        .ci(&[])
        .exits(2)
        .complains("vmdeck.toml:6: `host.slts`: unknown key (did you mean `slots`?)")
        .complains("vmdeck.toml:9: `guests.g.memroy`: unknown key (did you mean `memory`?)");
    world.run(&["--ci", "-f", "none.toml"]).exits(2).complains("cannot read the config `none.toml`");
    world.run(&["--ci", "--shard", "9/2"]).exits(2).complains("not a shard");
    world.run(&["--nonsense"]).exits(2);
    world.run(&["frob"]).exits(2).complains("is not a subcommand");
    let bad = ["guests.g.memory=256", "guests.g.boot_timeout=0s"];
    let ran = world.ci(&["--set", bad[0], "--set", bad[1]]).exits(2);
    ran.complains("a bare number is bytes").complains("it must be longer than 0");
    fs::remove_file(world.path("vmdeck.toml")).expect("removed");
    world.ci(&[]).exits(2).complains("`vmdeck init` writes one");
    world.run(&["doctor"]).says("state folder");
}

#[test]
fn options_may_stand_before_and_after_a_subcommand() {
    let world = local(&[("a", "true", "")]);
    fs::rename(world.path("vmdeck.toml"), world.path("other.toml")).expect("renamed");
    world.run(&["-f", "other.toml", "config", "check"]).exits(0).says("1 guest, 1 suite, 1 case");
    world.run(&["config", "check", "-f", "other.toml"]).exits(0);
    world.run(&["-f", "other.toml", "config", "show"]).exits(0).says("guests.here.cpus = 2");
}

#[test]
fn init_writes_a_config_that_checks_and_never_overwrites() {
    let world = World::new("");
    world.run(&["init"]).exits(2).complains("--force");
    fs::remove_file(world.path("vmdeck.toml")).expect("removed");
    world.run(&["init"]).exits(0).says("wrote vmdeck.toml");
    world.run(&["config", "check"]).exits(0);
}

/// What a shell asks when somebody presses Tab.
#[test]
fn guests_cases_and_images_are_completed_and_nothing_is_started_for_that() {
    let mut world = World::new(
        "[guests.here]\nbackend = \"local\"\n[guests.deb]\nbackend = \"qemu\"\n[guests.deb.ssh]\npassword = { command = [\"touch\", \"ran\"] }\n\
         [suites.smoke]\n[[suites.smoke.cases]]\nname = \"install\"\nrun = \"true\"\n\
         [suites.net]\nroles = { a = \"deb\" }\n[[suites.net.cases]]\nname = \"ask\"\non = \"a\"\nrun = \"true\"\n",
    );
    let cache = world.path("cache").display().to_string();
    world.env.extend([
        ("XDG_CACHE_HOME".into(), cache),
        ("VMDECK_COMPLETE".into(), "bash".into()),
        ("_CLAP_IFS".into(), "\n".into()),
    ]);
    let base = world.env.clone();
    for (words, wanted) in [
        (&["vmdeck", "shell", ""][..], &["here", "deb", "net.a"][..]),
        (&["vmdeck", "shell", "de"], &["deb"]),
        (&["vmdeck", "--ci", "sm"], &["smoke", "smoke/install"]),
        (&["vmdeck", "--ci", "@"], &["@here", "@deb", "@net.a"]),
        (&["vmdeck", "image", "pull", "debian:1"], &["debian:11", "debian:12", "debian:13"]),
        (&["vmdeck", "image", "rm", ""], &[]),
        (&["vmdeck", "doct"], &["doctor"]),
        (&["vmdeck", "init", "--template", "ru"], &["rust"]),
    ] {
        world.env.clone_from(&base);
        world.env.push(("_CLAP_COMPLETE_INDEX".into(), (words.len() - 1).to_string()));
        let out = world.run(&[&["--"], words].concat()).exits(0).out;
        let found: Vec<&str> = out.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(wanted.iter().all(|word| found.contains(word)), "{words:?}: {found:?}");
        assert_eq!(found.len(), wanted.len(), "{words:?}: {found:?}");
    }
    assert!(!world.path("ran").exists());
    // A config that is broken completes nothing, and says nothing.
    fs::write(world.path("vmdeck.toml"), "[").expect("written");
    world.env.clone_from(&base);
    world.env.push(("_CLAP_COMPLETE_INDEX".into(), "2".into()));
    let ran = world.run(&["--", "vmdeck", "shell", "d"]).exits(0);
    assert_eq!((ran.out.trim(), ran.err.trim()), ("", ""));
}

#[test]
fn generated_texts_are_there() {
    let world = World::new("");
    for (shell, said) in [
        ("bash", "complete "),
        ("zsh", "compdef "),
        ("fish", "complete "),
        ("powershell", "Register"),
        ("elvish", "edit:"),
    ] {
        world.run(&["completions", shell]).exits(0).says(said);
    }
    world.run(&["man"]).exits(0).says(".TH vmdeck");
    world.run(&["man", "image", "pull"]).exits(0).says(".TH vmdeck-image-pull").says("sha256");
    world.run(&["man", "nosuch"]).exits(2).complains("there is no such subcommand");
    world.run(&["man", "--dir", "pages"]).exits(0);
    let pages: Vec<String> = fs::read_dir(world.path("pages"))
        .expect("folder")
        .map(|page| page.expect("entry").file_name().into_string().expect("text"))
        .collect();
    assert!(pages.len() > 25 && !pages.iter().any(|page| page.contains("help")), "{pages:?}");
    for page in ["vmdeck.1", "vmdeck-boot.1", "vmdeck-image-pull.1", "vmdeck-lock-exec.1"] {
        assert!(pages.iter().any(|name| name == page), "{page}");
    }
    let short = world.run(&["--version"]).exits(0).out;
    assert_eq!(short, concat!("vmdeck ", env!("CARGO_PKG_VERSION"), "\n"));
    world
        .run(&["--version", "--verbose"])
        .exits(0)
        .says(&short)
        .says("target:")
        .says("backends:   qemu, ")
        .says("vmdeck.toml");
    let schema = world.run(&["config", "schema"]).exits(0).out;
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("json");
    assert!(
        schema["properties"]["guests"]["additionalProperties"]["properties"]["qemu"]["properties"]["accel"]["enum"]
            .is_array()
    );
    assert!(schema["properties"]["defaults"]["properties"]["cpus"].is_object());
    assert!(
        schema["properties"]["suites"]["additionalProperties"]["properties"]["cases"]["items"]["properties"]["run"]
            .is_object()
    );
}

#[test]
fn the_example_file_is_the_program_s_own_and_holds_the_defaults() {
    let world = World::new("");
    let printed = world.run(&["config", "example"]).exits(0).out;
    let file = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).expect("file");
    assert_eq!(file, printed, "`make docs` writes it");
    // With every default written out, every value is what it is without the file.
    fs::write(world.path("example.toml"), &printed).expect("write");
    let bare = "[guests.debian]\nbackend = \"qemu\"\n[suites.smoke]\n[[suites.smoke.cases]]\nname = \"install\"\nrun = \"./install.sh && ./check.sh\"\n";
    fs::write(world.path("bare.toml"), bare).expect("write");
    let values = |file: &str| -> Vec<String> {
        let shown = world.run(&["-f", file, "config", "show"]).exits(0).out;
        shown.lines().map(|l| l.split("  # ").next().expect("value").trim_end().to_owned()).collect()
    };
    assert_eq!(values("example.toml"), values("bare.toml"));
}

#[test]
fn dry_run_starts_nothing() {
    let world = local(&[("a", "touch ../../../../../started", "")]);
    world.run(&["--ci", "--dry-run"]).exits(0).says("s/a").says("1 case in all");
    assert!(!world.path("started").exists() && !world.path(".vmdeck").exists() && !world.path("state").exists());
}

#[test]
fn the_demo_works_without_qemu_and_names_the_next_commands() {
    let world = World::new("");
    let ran = world.run(&["demo", "--local"]).exits(0).says("1 flaky, 1 skipped").says("try next:");
    let next = ran.out.lines().find(|l| l.contains("shell here")).expect("a next command").to_owned();
    let config = next.split_whitespace().nth(2).expect("file").to_owned();
    world.run(&["-f", &config, "shell", "here", "--", "echo", "a b"]).exits(0).says("a b\n");
    world.run(&["-f", &config, "--ci", "basics/*"]).exits(0);
    world.run(&["demo", "--guest", "no/such/folder"]).exits(2).complains("it must hold a built micro guest");
    assert!(!world.path("no").exists());
    world.assert_nothing_left();
}

#[test]
fn shell_forwards_the_exit_code_and_both_streams() {
    let world = local(&[("a", "true", "")]);
    world.run(&["shell", "here", "--", "echo out; echo err >&2; exit 9"]).exits(9).says("out\n").complains("err\n");
    let mut piped = world.vmdeck(&["shell", "here", "--", "cat"]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    std::io::Write::write_all(&mut piped.stdin.take().expect("pipe"), b"piped in").expect("written");
    finish(piped).exits(0).says("piped in");
    assert_eq!(
        fs::read_dir(world.state().join("shells")).expect("folder").count(),
        0,
        "no record of a shell that went well"
    );
    world.run(&["shell", "nosuch"]).exits(2).complains("(known: here)");
    world.run(&["shell", "here"]).exits(2).complains("give a command");
    world.assert_nothing_left();
}

// --- what others read ------------------------------------------------------------------------------------------------

#[test]
fn events_on_stdout_are_nothing_but_events() {
    let world = local(&[("a", "echo '{\"kind\":\"run_ended\",\"exit\":0}'; false", "")]);
    let ran = world.ci(&["--events", "-"]).exits(1).complains("FAIL");
    let events: Vec<serde_json::Value> = ran.out.lines().map(|l| serde_json::from_str(l).expect("event")).collect();
    assert_eq!(events, world.events());
    assert_eq!((&events[0]["kind"], &events[0]["seq"]), (&"run_started".into(), &1.into()));
    let last = events.last().expect("last");
    assert_eq!((&last["kind"], &last["exit"], &last["tally"]["failed"]), (&"run_ended".into(), &1.into(), &1.into()));
}

#[test]
fn github_gets_annotations_and_guest_text_issues_no_command() {
    let world = local(&[("bad", "printf '::set-env name=X::1\\n##[error]x\\n\\033]0;title\\007'; exit 1", "")]);
    let output = world
        .vmdeck(&["--ci", "--run-dir", "record", "--verbose"])
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", world.path("summary.md"))
        .output();
    let ran = vmdeck_testkit::world::Ran::of(&output.expect("ran"))
        .exits(1)
        .says("::error file=vmdeck.toml,line=9,title=s/bad@here%3A failed::exit 1")
        .says("::group::here");
    let commands: Vec<&str> =
        ran.out.lines().filter(|l| l.trim_start().starts_with("::") || l.contains("##[")).collect();
    assert_eq!(commands.len(), 3, "one annotation within one group: {commands:?}");
    assert!(!ran.out.contains('\u{1b}'));
    assert!(
        fs::read_to_string(world.path("summary.md"))
            .expect("summary")
            .contains("| here | s/bad (vmdeck.toml:9) | failed |")
    );
}

#[test]
fn a_secret_is_in_nothing_that_is_written() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\nssh.password = { env = \"CANARY\" }\nsudo.password = { file = \"canary.txt\" }\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"leak\"\nrun = 'echo \"$CANARY\"; echo \"one $(cat ../../../../../said) two\"; base64 ../../../../../said; \
         od -An -tx1 ../../../../../said | tr -d \" \\n\"; echo canary-in-a-file >&2; false'\n",
    );
    fs::write(world.path("canary.txt"), "canary-in-a-file\n").expect("write");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(world.path("canary.txt"), private).expect("chmod");
    // The variable itself does not reach the commands; the guest knows the secret from elsewhere.
    fs::write(world.path("said"), "canary-in-the-environment").expect("write");
    let command = ["--ci", "--run-dir", "record", "--verbose"];
    let output = world.vmdeck(&command).env("CANARY", "canary-in-the-environment").output().expect("ran");
    let ran = vmdeck_testkit::world::Ran::of(&output).exits(1).says("one *** two").says("| ***");
    let mut all = ran.out + &ran.err;
    let mut folders = vec![world.path("record"), world.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                all.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).expect("file")));
            }
        }
    }
    assert!(!all.contains("canary-in"), "a secret got out");
}

#[test]
fn the_state_folder_must_be_writable() {
    let world = local(&[("a", "true", "")]);
    let output = world
        .vmdeck(&["--ci", "--run-dir", "record"])
        .env("XDG_STATE_HOME", "/proc/no")
        .stdout(Stdio::piped())
        .output();
    vmdeck_testkit::world::Ran::of(&output.expect("ran"))
        .exits(3)
        .says("cannot write the state folder")
        .says("XDG_STATE_HOME");
}

#[test]
fn a_script_that_cannot_be_read_never_passes() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"x\"\nscript = \"it\"\n",
    );
    fs::create_dir(world.path("it")).expect("folder");
    world.ci(&[]).exits(2).complains("is empty or not a file");
    fs::remove_dir(world.path("it")).expect("removed");
    fs::write(world.path("it"), "").expect("empty");
    world.ci(&[]).exits(2).complains("is empty or not a file");
}

#[test]
fn each_round_has_its_own_artifacts() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\nartifacts = [\"n\"]\n\
         [[suites.s.cases]]\nname = \"a\"\nrun = \"echo x >> n\"\n",
    );
    world.ci(&["--repeat", "2"]).exits(0);
    assert_eq!(
        (world.record("artifacts/here/s/n").lines().count(), world.record("artifacts/here/s-2/n").lines().count()),
        (1, 2)
    );
}
