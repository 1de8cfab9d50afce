//! The runs of a folder: what is listed, what is run again because it failed, what stays when records are pruned.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Command, time::Duration};
use vmdeck_testkit::world::{World, eventually, finish, signal};

const SUITES: &str = "[guests.a]\nbackend = \"local\"\n[guests.b]\nbackend = \"local\"\n\
    [suites.s]\nsetup = \"true\"\n[[suites.s.cases]]\nname = \"good\"\nrun = \"true\"\n\
    [[suites.s.cases]]\nname = \"bad\"\nrun = \"test $VMDECK_GUEST = b -o -e HOME/mended\"\n\
    [suites.t]\nguests = [\"a\"]\n[[suites.t.cases]]\nname = \"bad\"\nrun = \"test -e HOME/mended\"\n\
    [suites.r]\nroles = { one = \"a\", two = \"b\" }\nnetwork = \"none\"\n\
    [[suites.r.cases]]\nname = \"both\"\non = [\"one\", \"two\"]\nrun = \"test $VMDECK_ROLE = one -o -e HOME/mended\"\n";

fn world() -> World {
    let world = World::new("");
    let home = world.home.path().display().to_string();
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config") + &SUITES.replace("HOME", &home);
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world
}

/// Returns the cases of the last run, with where they ran and how they ended.
fn last(world: &World) -> Vec<String> {
    let listed = world.run(&["runs", "--json", "-n", "1"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&listed.out).expect("json");
    let name = rows[0]["name"].as_str().expect("a run").to_owned();
    let file = world.path(".vmdeck/runs").join(name).join("summary.json");
    let summary: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).expect("read")).expect("json");
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().expect("text").to_owned();
    let of = |case: &serde_json::Value| {
        format!("{}/{}@{} {}", text(case, "suite"), text(case, "case"), text(case, "guest"), text(case, "verdict"))
    };
    let mut all: Vec<String> = summary["cases"].as_array().expect("cases").iter().map(of).collect();
    all.sort();
    all
}

#[test]
fn exactly_what_failed_is_run_again() {
    let world = world();
    world.run(&["--ci"]).exits(1);
    assert_eq!(last(&world).len(), 7);
    // A run that tests nothing does not count.
    world.run(&["keep", "b"]).exits(0);
    let ran = world.run(&["--ci", "--rerun-failed"]).exits(1).complains("3 failed cases of");
    assert!(ran.out.contains("3 cases on"), "{}", ran.out);
    assert_eq!(last(&world), ["r/both@r.two failed", "s/bad@a failed", "t/bad@a failed"]);
    world.run(&["--ci", "s", "--rerun-failed"]).exits(1);
    assert_eq!(last(&world), ["s/bad@a failed"], "of what failed, what is selected");
    world
        .run(&["--ci", "s/good", "--rerun-failed"])
        .exits(2)
        .complains("of `s/good` nothing failed then: only s/bad@a");
    world.run(&["down"]).exits(0);
    fs::write(world.path("mended"), "").expect("write");
    // Of the first run, by its id.
    let all = world.run(&["runs", "--json", "--all"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&all.out).expect("json");
    let first = rows.as_array().expect("runs").last().expect("first")["run"].as_str().expect("id").to_owned();
    world.run(&["--ci", "--rerun-failed", &first[..6]]).exits(0);
    assert_eq!(last(&world), ["r/both@r.two passed", "s/bad@a passed", "t/bad@a passed"]);
    // Now nothing has failed, and that is no pass.
    world.run(&["--ci", "--rerun-failed"]).exits(2).complains("nothing failed in");
    world.run(&["--ci", "--rerun-failed", "s/bad"]).exits(2).complains("vmdeck --ci s/bad --rerun-failed");
    world.run(&["--ci", "--rerun-failed", "ffffffffff"]).exits(2).complains("`vmdeck runs` lists them");
    // What the config has no more.
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let without = config.split("[suites.t]").next().expect("a part").to_owned()
        + "[suites.r]"
        + config.split("[suites.r]").nth(1).expect("rest");
    fs::write(world.path("vmdeck.toml"), without).expect("config");
    let ran = world.run(&["--ci", "--rerun-failed", &first]).exits(0);
    ran.complains("`t/bad@a` failed, and is not in the config any more");
    assert_eq!(last(&world), ["r/both@r.two passed", "s/bad@a passed"]);
    world.assert_nothing_left();
}

/// Jobs of a CI may share the folder of a cache.
#[test]
fn runs_that_end_at_the_same_time_are_all_in_the_history() {
    let world = world();
    let runs: Vec<_> = (0..6).map(|_| world.start(&["--ci", "--no-lock", "s/good@a"])).collect();
    // Whoever lists them meanwhile is in nobody's way.
    world.run(&["runs", "--json"]).exits(0);
    for run in runs {
        finish(run).exits(0);
    }
    let index = fs::read_to_string(world.path(".vmdeck/runs.jsonl")).expect("index");
    let names = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("whole")["name"].to_string())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&index).len(), 6, "{index}");
    let all: serde_json::Value = serde_json::from_str(&world.run(&["runs", "--json"]).exits(0).out).expect("json");
    assert_eq!(all.as_array().expect("runs").len(), 6);
}

#[test]
fn runs_are_listed_with_what_was_tested_and_how_they_ended() {
    let world = world();
    world.run(&["runs"]).exits(0).says("no runs in `.vmdeck/runs`");
    world.run(&["replay"]).exits(2).complains("there is no record in `.vmdeck/runs`");
    fs::write(world.path(".gitignore"), "state\nconfig\nlock.d*\n").expect("write");
    for words in
        [&["init", "-q"][..], &["add", "."], &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]]
    {
        assert!(Command::new("git").args(words).current_dir(world.home.path()).status().expect("git").success());
    }
    world.run(&["--ci", "s/good@a"]).exits(0);
    let child = world.start(&["--ci", "--set", "suites.s.setup=sleep 60", "s/good@b"]);
    let running = || world.run(&["runs"]).out.lines().nth(1).is_some_and(|line| line.contains("running: "));
    eventually("the run is listed", Duration::from_secs(20), running);
    signal(&child, "KILL");
    finish(child);
    eventually("its guardian is done", Duration::from_secs(20), || world.run(&["runs"]).out.contains("died: "));
    let listed = world.run(&["runs"]).exits(0);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert!(lines[1].contains("died: no tests run") && lines[1].ends_with("s/good@b"), "{}", listed.out);
    assert!(lines[2].contains("exit 0: 1 passed") && lines[2].ends_with("s/good@a"), "{}", listed.out);
    let json = world.run(&["runs", "--json"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&json.out).expect("json");
    assert_eq!(rows[1]["revision"]["commit"].as_str().map(str::len), Some(40));
    assert_eq!(rows[1]["revision"]["dirty"], false, "the records are no code");
    assert_eq!(rows[1]["config"], world.path("vmdeck.toml").display().to_string());
    world.assert_nothing_left();
}

#[test]
fn a_pinned_run_stays_whatever_is_pruned() {
    let world = world();
    for _ in 0..3 {
        world.run(&["--ci", "s/good@a"]).exits(0);
    }
    let rows: serde_json::Value = serde_json::from_str(&world.run(&["runs", "--json"]).out).expect("json");
    let oldest = rows[2]["run"].as_str().expect("id");
    world.run(&["runs", "--pin", oldest]).exits(0).says("stays whatever is pruned");
    world.run(&["prune", "--keep", "1", "--force"]).exits(0).says("removed 1 record");
    let left = world.run(&["runs"]).exits(0);
    assert!(
        left.out.contains(&oldest[..8]) && left.out.contains("(pinned)") && left.out.lines().count() == 3,
        "{}",
        left.out
    );
    world.run(&["runs", "--unpin", oldest]).exits(0);
    world.run(&["prune", "--keep", "1", "--force"]).exits(0).says("removed 1 record");
    world.run(&["runs", "--pin", "zz"]).exits(2).complains("is neither the folder of a record");
}

#[test]
fn what_failed_last_is_run_first_and_what_it_needs_before_it() {
    let world = World::new("");
    let suites = "[guests.a]\nbackend = \"local\"\n\
        [suites.one]\n[[suites.one.cases]]\nname = \"good\"\nrun = \"true\"\n\
        [suites.two]\n[[suites.two.cases]]\nname = \"first\"\nrun = \"true\"\n\
        [[suites.two.cases]]\nname = \"base\"\nrun = \"true\"\n\
        [[suites.two.cases]]\nname = \"bad\"\nneeds = [\"base\"]\nrun = \"false\"\n\
        [[suites.two.cases]]\nname = \"found\"\ndiscover = { command = \"echo x; echo y\", run = \"test {name} = x\" }\n";
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), config + suites).expect("config");
    world.run(&["--ci", "--failed-first"]).exits(1).complains("note: 0 failed cases of the last run first");
    let ran = world.run(&["--ci", "--failed-first"]).exits(1).complains("note: 2 failed cases of the last run first");
    let at = |name: &str| ran.out.find(&format!(" {name} ")).unwrap_or_else(|| panic!("{name} in {}", ran.out));
    let order = ["two/base", "two/bad", "two/found/x", "two/first", "one/good"].map(at);
    assert!(order.is_sorted(), "{}", ran.out);
}
