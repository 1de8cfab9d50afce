//! Tests whose failure is known: reported as what they are, and not red for a time.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use chrono::{Days, NaiveDate, Utc};
use std::fs;
use vmdeck_testkit::world::World;

const ISSUE: &str = "https://example.org/issues/12";

fn day(ahead: i64) -> NaiveDate {
    let today = Utc::now().date_naive();
    if ahead < 0 { today - Days::new(ahead.unsigned_abs()) } else { today + Days::new(ahead.unsigned_abs()) }
}

/// A world with these suites, and a list with these tests: name, guest, days until the end.
fn world(suites: &str, tests: &[(&str, Option<&str>, i64)]) -> World {
    let world = World::new("");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), config + "[guests.here]\nbackend = \"local\"\n" + suites).expect("config");
    let list: String = tests
        .iter()
        .map(|(name, on, ahead)| {
            let on = on.map(|on| format!("on = \"{on}\"\n")).unwrap_or_default();
            format!("[[test]]\nname = \"{name}\"\n{on}issue = \"{ISSUE}\"\nuntil = {}\n\n", day(*ahead))
        })
        .collect();
    fs::write(world.path("vmdeck.quarantine.toml"), list).expect("list");
    world
}

const CASES: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"bad\"\nrun = \"exit 3\"\n\
    [[suites.s.cases]]\nname = \"good\"\nrun = \"true\"\n";
const TAP: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"tap\"\nresults = [\"tap\"]\n\
    run = \"echo 1..3; echo ok 1 - a; echo not ok 2 - b; echo not ok 3 - c; exit 1\"\n";

#[test]
fn a_known_failure_is_told_and_is_not_red() {
    let world = world(CASES, &[("s/bad", None, 30)]);
    let done = world.ci(&["--fail-fast"]).exits(0);
    done.says("FAIL").says("(quarantined: https://example.org/issues/12)").says("1 passed, 1 failed (1 in quarantine)");
    let ended = world.of_kind("case_ended");
    assert_eq!((ended[0]["verdict"].as_str(), ended[0]["quarantined"].as_str()), (Some("failed"), Some(ISSUE)));
    assert_eq!(ended.len(), 2, "the run goes on");
    let junit = world.record("junit.xml");
    assert!(
        junit.contains("failures=\"0\"") && junit.contains("failed, in quarantine (https://example.org/issues/12)"),
        "{junit}"
    );
    let summary: serde_json::Value = serde_json::from_str(&world.record("summary.json")).expect("json");
    assert_eq!((&summary["tally"]["failed"], &summary["tally"]["quarantined"]), (&1.into(), &1.into()));
    assert_eq!(summary["cases"][0]["quarantined"], ISSUE);
}

#[test]
fn only_what_is_listed_is_excused_and_only_where_and_as_long() {
    for (tests, exit, says) in [
        (&[("s/ba*", Some("here"), 0)][..], 0, "in quarantine"),
        (&[("s/bad", Some("there"), 30)], 1, "1 failed in"),
        (&[("s/good", None, 30)], 1, "1 failed in"),
        (&[("s/bad", None, -1)], 1, "1 failed in"),
        (&[], 1, "1 failed in"),
    ] {
        world(CASES, tests).ci(&[]).exits(exit).says(says);
    }
    world(CASES, &[("s/bad", None, -1)]).ci(&[]).complains("`s/bad` is not excused any more: its time ended on");
    world(CASES, &[("s/bad", None, 3)]).ci(&[]).exits(0).complains("is excused until").complains("only");
    world(CASES, &[("s/old", None, 30)]).ci(&[]).exits(1).complains("`s/old` is no case that runs in a guest");
}

#[test]
fn a_sub_test_is_excused_where_nothing_else_is_wrong() {
    let both = [("s/tap > b", None, 30), ("s/tap > c", None, 30)];
    let excused = world(TAP, &both);
    excused.ci(&[]).exits(0).says("in quarantine");
    let junit = excused.record("junit.xml");
    assert!(junit.matches("failed, in quarantine").count() >= 2 && !junit.contains("<failure"), "{junit}");
    world(TAP, &both[..1]).ci(&[]).exits(1);
    world(TAP, &[("s/tap > *", None, 30)]).ci(&[]).exits(0);
    // What is not a failure of theirs stays one.
    for (from, to) in [
        ("exit 1", "sleep 60"),
        ("1..3", "1..4"),
        ("results = [\"tap\"]", "results = [\"nowhere/*.xml\"]"),
        ("exit 1", "kill -9 $$"),
        ("exit 1", "exit 139"),
        ("exit 1", "exit 1\"\nexpect = { stdout = \"/never/\" }\nenv = { X = \""),
        ("exit 1", "exit 1\"\nexpect = { files = [\"/nowhere\"] }\nenv = { X = \""),
        ("exit 1", "exit 1\"\nexpect = { exit = 1, stdout = \"/never/\" }\nenv = { X = \""),
    ] {
        let suites = TAP.replace(from, to).replace("env = { X = \"\"", "env = { X = \"\" }") + "timeout = \"3s\"\n";
        world(&suites, &both).ci(&[]).exits(1);
    }
}

#[test]
fn setup_and_infra_are_never_excused() {
    let setup = CASES.replace("[suites.s]\n", "[suites.s]\nsetup = \"exit 4\"\n");
    world(&setup, &[("s/*", None, 30)]).ci(&[]).exits(1).says("setup failed");
    let lost = CASES.replace("name = \"bad\"\n", "name = \"bad\"\ndir = \"/nowhere\"\n");
    world(&lost, &[("s/*", None, 30)]).ci(&[]).exits(5);
    let keys = "name = \"bad\"\nartifacts = [\"/nowhere/*.xml\"]\n";
    let artifacts = CASES.replace("name = \"bad\"\n", keys).replace("exit 3", "true");
    let artifacts = artifacts.replace("[suites.s]\n", "[suites.s]\nartifacts_required = true\n");
    world(&artifacts, &[("s/bad", None, 30)]).ci(&[]).exits(1).says("/nowhere/*.xml");
    let after = CASES.replace("name = \"bad\"\n", "name = \"bad\"\nafter_each = \"exit 9\"\n");
    world(&after, &[("s/bad", None, 30)]).ci(&[]).exits(1).says("after_each failed");
    for (from, to) in [
        ("1..3", "1..4"),
        ("echo 1..3; echo ok 1 - a; echo not ok 2 - b; echo not ok 3 - c", "echo nothing"),
        ("echo 1..3; echo ok 1 - a; echo not ok 2 - b; echo not ok 3 - c; exit 1", "echo 1..0"),
    ] {
        world(&TAP.replace(from, to), &[("s/tap", None, 30)]).ci(&[]).exits(1);
    }
}

#[test]
fn only_what_is_listed_is_tried_again_where_the_suite_says_so() {
    let flaky = "[suites.s]\nflaky = \"quarantine\"\nretries = 2\n[[suites.s.cases]]\nname = \"x\"\n\
        run = \"test -e FILE || { touch FILE; exit 1; }\"\n";
    let folder = tempfile::tempdir().expect("folder");
    let suites = |name: &str| flaky.replace("FILE", &folder.path().join(name).display().to_string());
    let listed = world(&suites("a"), &[("s/x", None, 30)]);
    listed.ci(&[]).exits(0).says("flaky");
    let other = world(&suites("b"), &[]);
    other.ci(&["--retries", "5"]).exits(1);
    assert_eq!(other.of_kind("case_started").len(), 1, "it is not tried again");
}

#[test]
fn the_list_is_kept_by_commands_and_by_hand() {
    let world = world(CASES, &[("s/bad", Some("here"), -3), ("s/go*", None, 5)]);
    world.run(&["quarantine", "add", "s/bad", "--issue", ISSUE, "--days", "10"]).exits(0).says(&day(10).to_string());
    world.run(&["quarantine", "list"]).exits(0).says("expired").says("s/go*").says("no record of it");
    world.run(&["quarantine", "add", "s/bad", "--issue", ISSUE]).exits(2).complains("is there already");
    world.run(&["quarantine", "add", "s/none", "--issue", ISSUE]).exits(2).complains("is no case that runs");
    world.run(&["quarantine", "add", "bad", "--issue", ISSUE]).exits(2).complains("write SUITE/CASE");
    world
        .run(&["quarantine", "add", "s/good > x", "--issue", ISSUE, "--until", "tomorrow"])
        .exits(2)
        .complains("is no day");
    world.run(&["quarantine", "extend", "s/go*", "--until", &day(91).to_string()]).exits(2).complains("90 days ahead");
    world.run(&["quarantine", "extend", "s/go*", "--until", &day(80).to_string()]).exits(0);
    world.run(&["quarantine", "extend", "s/nope"]).exits(2).complains("is not in vmdeck.quarantine.toml");
    world.run(&["quarantine", "expire"]).exits(0).says("1 test taken out, 2 left");
    let text = fs::read_to_string(world.path("vmdeck.quarantine.toml")).expect("list");
    assert!(!text.contains("on = \"here\"") && text.contains(&format!("until = {}", day(80))), "{text}");
    world.run(&["--ci"]).exits(0);
    let listed = world.run(&["quarantine", "list", "--json"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&listed.out).expect("json");
    assert_eq!(rows[0]["detail"], "passed the last 1 of 1 run", "{rows}");
    for (text, says) in [
        ("[[test]]\nname = \"s/bad\"\nuntil = 2026-01-01\n", "missing field `issue`"),
        ("[[test]]\nname = \"s/bad\"\nissue = \"x\"\nuntil = 3\n", "line 2: `3` is no day"),
        ("[[test]]\nname = \"s/bad\"\nissue = \"\"\nuntil = 2026-01-01\n", "has no `issue`"),
        ("[[test]]\nname = \"s/bad\"\nissue = \"x\"\nuntil = 2026-01-01\nwhy = 1\n", "line 5: unknown field `why`"),
        ("[[test]]\nname = \"s/bad\"\nissue = \"x\"\nuntil = 2999-01-01\n", "more than 90 days ahead"),
    ] {
        fs::write(world.path("vmdeck.quarantine.toml"), text).expect("list");
        world.run(&["config", "check"]).exits(2).complains(says).complains("vmdeck.quarantine.toml");
    }
}
