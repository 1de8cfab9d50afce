//! Several machines of one guest that run its cases at once: the report is the one of a run with one machine.

use serde_json::Value;
use vmdeck_testkit::world::{World, eventually, finish, signal};

/// A world with a guest that has so many machines and these cases: name, command, further lines.
fn world(keys: &str, slots: u32, cases: &[(&str, &str, &str)]) -> World {
    let guest = format!("[guests.here]\nbackend = \"local\"\nfresh = \"case\"\n{keys}\n");
    let case = |(name, run, lines): &(&str, &str, &str)| {
        let run = if run.is_empty() { String::new() } else { format!("run = '''{run}'''\n") };
        format!("[[suites.s.cases]]\nname = \"{name}\"\n{run}{lines}\n")
    };
    let cases: String = cases.iter().map(case).collect();
    World::new(&format!("slots = {slots}\n{guest}[suites.s]\n{cases}"))
}

/// Waits until so many others of its kind have come, which one after the other never could.
fn meet(world: &std::path::Path, count: usize) -> String {
    let place = world.display();
    format!(
        "touch {place}/came-$VMDECK_CASE; n=0; while [ $(ls {place}/came-* | wc -l) -lt {count} ]; do n=$((n+1)); [ $n -lt 500 ] || exit 5; sleep 0.02; done"
    )
}

#[test]
fn cases_meet_and_the_report_is_in_the_order_of_the_plan() {
    let place = tempfile::tempdir().expect("tempdir");
    let meets = meet(place.path(), 3);
    let slow = format!("{meets}; sleep 0.3");
    let cases = [
        ("first", "true", ""),
        ("a", slow.as_str(), ""),
        ("b", meets.as_str(), ""),
        ("c", meets.as_str(), ""),
        ("bad", "exit 3", "needs = [\"a\"]"),
        ("after", "true", "needs = [\"bad\"]"),
        ("alone", "true", "exclusive = true"),
    ];
    let world = world("workers = 3", 3, &cases);
    world.ci(&[]).exits(1).says("here (local, 3 machines)").says("3 machines run its cases at once").says("pass  s/a ");
    let ended: Vec<(String, String)> =
        world.json("summary.json")["cases"].as_array().expect("cases").iter().map(pair).collect();
    let wanted = ["first", "a", "b", "c", "bad", "after", "alone"];
    assert_eq!(ended.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), wanted);
    let verdicts: Vec<&str> = ended.iter().map(|(_, verdict)| verdict.as_str()).collect();
    assert_eq!(verdicts, ["passed", "passed", "passed", "passed", "failed", "skipped", "passed"]);
    let junit = world.record("junit.xml");
    let names: Vec<&str> =
        junit.split("<testcase name=\"").skip(1).map(|rest| rest.split('"').next().expect("name")).collect();
    assert_eq!(names, wanted);
    assert_eq!(junit.matches("<testsuite ").count(), 1, "{junit}");
    // What needs `a` began when that had ended; what is alone, when nothing else was run.
    let at = |kind: &str, case: &str| {
        let event = world.of_kind(kind).into_iter().find(|event| event["case"] == case).expect("told");
        event["seq"].as_u64().expect("number")
    };
    assert!(at("case_started", "bad") > at("case_ended", "a"));
    let alone = at("case_started", "alone")..at("case_ended", "alone");
    let begun = world.of_kind("case_started");
    assert!(
        begun.iter().all(|event| event["case"] == "alone" || !alone.contains(&event["seq"].as_u64().expect("seq")))
    );
    world.assert_nothing_left();
}

fn pair(case: &Value) -> (String, String) {
    let text = |key: &str| case[key].as_str().expect("text").to_owned();
    (text("case"), text("verdict"))
}

#[test]
fn it_says_why_there_are_fewer() {
    let cases = [("a", "true", ""), ("b", "true", "")];
    for (keys, slots, args, why) in [
        ("workers = 2", 1, &[][..], "guest `here` has 1 machine at once: `host.slots` is 1"),
        ("workers = 2", 2, &["--set", "guests.here.fresh=run"], "its cases share machines"),
        ("workers = 2", 2, &["--keep", "failed"], "machines may be kept"),
    ] {
        let world = world(keys, slots, &cases);
        world.ci(args).exits(0).says("2 passed").says(why);
        world.assert_nothing_left();
    }
    let world = world("workers = 0", 1, &cases);
    world.run(&["config", "check"]).exits(2).complains("expected a number from 1 to 1024, or \"auto\"");
    world.run(&["config", "show", "--set", "guests.here.workers=auto"]).exits(0).says("guests.here.workers = \"auto\"");
}

#[test]
fn what_is_found_and_repeated_is_run_as_with_one() {
    let cases = [
        ("all", "", "discover = { command = \"printf 'x\\\\ny\\\\nz\\\\n'\", run = \"test {name} != y\" }"),
        ("last", "true", ""),
    ];
    let text = |world: &World| -> Vec<(String, String)> {
        world.json("summary.json")["cases"].as_array().expect("cases").iter().map(pair).collect()
    };
    let one = world("", 1, &cases);
    one.ci(&["--repeat", "2"]).exits(1);
    let three = world("workers = 3", 3, &cases);
    three.ci(&["--repeat", "2"]).exits(1);
    assert_eq!(text(&one), text(&three));
}

#[test]
fn the_end_of_the_run_ends_all_of_them() {
    let cases = [("a", "true", ""), ("b", "sleep 60", ""), ("c", "sleep 60", ""), ("d", "true", "")];
    let world = world("workers = 2", 2, &cases);
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("both are run", std::time::Duration::from_secs(20), || {
        let read = std::fs::read_to_string(world.path("record/events.jsonl")).unwrap_or_default();
        read.lines().filter(|line| line.contains("\"case_started\"")).count() == 3
    });
    signal(&child, "INT");
    let ran = finish(child).exits(130);
    assert!(ran.out.contains("1 passed") && ran.out.contains("3 cancelled"), "{}", ran.out);
    world.assert_nothing_left();

    // The first failure ends the others, too.
    let cases = [("a", "true", ""), ("b", "exit 1", ""), ("c", "sleep 60", ""), ("d", "true", "")];
    let world = self::world("workers = 2", 2, &cases);
    let ran = world.ci(&["--fail-fast"]).exits(1);
    assert!(ran.out.contains("1 failed"), "{}", ran.out);
    world.assert_nothing_left();
}

#[test]
fn stress_tells_how_often_and_in_which_ways() {
    let count = tempfile::NamedTempFile::new().expect("file");
    // One of four fails; the text differs by a number each time.
    let text = format!(
        "f={}; n=$(($(cat $f || echo 0) + 1)); echo $n >$f; [ $((n % 4)) -ne 0 ] || {{ echo \"assertion failed: took $n ms\"; exit 1; }}",
        count.path().display()
    );
    let world = world("", 1, &[("flaky", text.as_str(), ""), ("other", "true", "")]);
    let ran = world.run(&["stress", "s/flaky", "--runs", "20"]).exits(1);
    assert!(
        ran.out.contains("s/flaky@here: failed 5 of 20 runs (25.0 %; with 95 % confidence 11.2 % to 46.9 %)"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("  5 x  exit 1: assertion failed: took 4 ms  (first in round 4)"), "{}", ran.out);
    assert!(!ran.out.contains("s/other"), "{}", ran.out);
    std::fs::write(count.path(), "0").expect("again");
    let ran = world.run(&["stress", "s/flaky", "--runs", "20", "--until-failure"]).exits(1);
    assert!(ran.out.contains("s/flaky@here: failed 1 of 4 runs"), "{}", ran.out);
    world
        .run(&["stress", "s/other", "--runs", "3", "--workers", "2"])
        .exits(0)
        .says("failed 0 of 3 runs (0.0 %; with 95 % confidence 0.0 % to");
    world.run(&["stress", "s/other", "--workers", "none"]).exits(2).complains("a number from 1 to 1024, or auto");
    world.run(&["stress"]).exits(2);
    world.assert_nothing_left();
}
