//! What a case may say of itself: its surroundings, its tags, what is run around it.

use std::fs;
use vmdeck_testkit::world::World;

const LOCAL: &str = "[guests.here]\nbackend = \"local\"\n";

/// Returns the lines that commands have left in a file of the world.
fn trace(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("trace")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn world(suites: &str) -> World {
    let world = World::new("");
    let place = world.path("trace").display().to_string();
    let config =
        fs::read_to_string(world.path("vmdeck.toml")).expect("config") + LOCAL + &suites.replace("TRACE", &place);
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world
}

#[test]
fn a_case_has_its_own_environment_and_folder_besides_its_suite_s() {
    let world = world(
        "[suites.s]\nenv = { A = \"suite\", B = \"suite\" }\ndir = \"/usr\"\n\
         [[suites.s.cases]]\nname = \"own\"\nrun = \"echo $A $B $(pwd)\"\nenv = { B = \"case\" }\ndir = \"share/doc\"\n\
         [[suites.s.cases]]\nname = \"far\"\nrun = \"echo $B $(pwd)\"\ndir = \"/etc\"\n\
         [[suites.s.cases]]\nname = \"suite\"\nrun = \"echo $A $B $(pwd)\"\n\
         [[suites.s.cases]]\nname = \"none\"\nrun = \"true\"\ndir = \"nowhere\"\n",
    );
    world.ci(&[]).exits(5);
    for (case, wrote) in [("own", "suite case /usr/share/doc"), ("far", "suite /etc"), ("suite", "suite suite /usr")] {
        assert_eq!(world.record(&format!("guests/here/s/{case}/stdout.log")).trim(), wrote, "{case}");
    }
    assert!(world.of_kind("case_ended")[3]["message"].as_str().expect("text").contains("/usr/nowhere"));
}

#[test]
fn cases_are_selected_by_their_tags() {
    let suites = "[suites.a]\ntags = [\"net\"]\n[[suites.a.cases]]\nname = \"x\"\nrun = \"true\"\ntags = [\"slow\"]\n\
         [[suites.a.cases]]\nname = \"y\"\nrun = \"true\"\n[suites.b]\n[[suites.b.cases]]\nname = \"z\"\nrun = \"true\"\n";
    for (expression, cases) in [
        ("net", &["a/x", "a/y"][..]),
        ("net and not slow", &["a/y"]),
        ("not (net or slow)", &["b/z"]),
        ("slow or not net", &["a/x", "b/z"]),
    ] {
        let world = world(suites);
        world.ci(&["--tag", expression]).exits(0);
        let ran: Vec<String> = world.verdicts().into_iter().map(|(name, _)| name).collect();
        assert_eq!(ran, cases, "{expression}");
    }
    let world = world(suites);
    world.run(&["list", "--cases", "--tag", "net"]).exits(0).says("a/x@here").says("net slow").says("2 cases");
    let listed = world.run(&["list", "--cases", "--json", "a/y"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&listed.out).expect("json");
    assert_eq!(
        (rows[0]["case"].as_str(), rows[0]["tags"][0].as_str(), rows.as_array().map(Vec::len)),
        (Some("y"), Some("net"), Some(1))
    );
    assert!(rows[0]["line"].as_u64().is_some_and(|line| line > 5) && rows[0]["file"] == "vmdeck.toml", "{rows}");
    world.run(&["list", "--tag", "net"]).exits(2);
    world.ci(&["--tag", "nett"]).exits(2).complains("no case has the tag `nett` (known: net, slow)");
    world.ci(&["--tag", "net and"]).exits(2).complains("a tag is missing");
    world.ci(&["--tag", "net and slow", "b"]).exits(2);
}

#[test]
fn a_guest_is_taken_away_from_those_that_a_suite_names() {
    let suites = "[guests.other]\nbackend = \"local\"\n[suites.s]\nguests = [\"*\", \"!oth*\"]\n\
         [[suites.s.cases]]\nname = \"x\"\nrun = \"true\"\n";
    let wanted = world(suites);
    wanted.ci(&[]).exits(0);
    let guests: Vec<_> = wanted.of_kind("case_ended").iter().map(|event| event["guest"].clone()).collect();
    assert_eq!(guests, ["here"]);
    for (bad, says) in [
        ("[\"!other\"]", "nothing yet that a `!` could take away"),
        ("[\"*\", \"!nobody\"]", "`nobody` is not a guest"),
    ] {
        world(&suites.replace("[\"*\", \"!oth*\"]", bad)).ci(&[]).exits(2).complains(says);
    }
}

#[test]
fn what_is_around_a_case_is_run_whatever_becomes_of_it() {
    let world = world(
        "[suites.s]\nbefore_each = \"echo before $VMDECK_CASE >> TRACE\"\nafter_each = \"echo after $VMDECK_CASE $VMDECK_VERDICT >> TRACE\"\n\
         on_failure = \"echo look $VMDECK_CASE >> TRACE; echo a clue\"\n\
         [[suites.s.cases]]\nname = \"good\"\nrun = \"echo good >> TRACE\"\n\
         [[suites.s.cases]]\nname = \"bad\"\nrun = \"echo bad >> TRACE; exit 3\"\nretries = 1\n\
         [[suites.s.cases]]\nname = \"late\"\nrun = \"sleep 60\"\ntimeout = \"1s\"\n\
         [[suites.s.cases]]\nname = \"unready\"\nrun = \"echo never >> TRACE\"\nbefore_each = \"echo no; exit 4\"\n",
    );
    world.ci(&[]).exits(1);
    assert_eq!(
        trace(&world),
        [
            "before good",
            "good",
            "after good passed", //
            "before bad",
            "bad",
            "look bad",
            "after bad failed", //
            "before bad",
            "bad",
            "look bad",
            "after bad failed", //
            "before late",
            "look late",
            "after late failed", //
            "look unready",
            "after unready failed",
        ]
    );
    let unready = &world.of_kind("case_ended")[3];
    assert!(unready["message"].as_str().expect("text").starts_with("before_each failed: exit 4: no"), "{unready}");
    assert_eq!(world.record("guests/here/s/bad/attempt-2/+on_failure/stdout.log"), "a clue\n");
}

#[test]
fn what_lands_in_the_folder_for_artifacts_comes_back_whatever_becomes_of_the_case() {
    let world = world(
        "[suites.s]\nafter_each = \"echo end > $VMDECK_ARTIFACTS/end\"\n[[suites.s.cases]]\nname = \"good\"\n\
         run = \"mkdir $VMDECK_ARTIFACTS/d; echo 1 > $VMDECK_ARTIFACTS/d/a.txt; echo $VMDECK_ARTIFACTS > TRACE\"\n\
         [[suites.s.cases]]\nname = \"bad\"\nrun = \"echo $VMDECK_ATTEMPT > $VMDECK_ARTIFACTS/b; exit 1\"\nretries = 1\n\
         [[suites.s.cases]]\nname = \"late\"\nrun = \"echo x > $VMDECK_ARTIFACTS/c; sleep 60\"\ntimeout = \"1s\"\n",
    );
    world.ci(&[]).exits(1).says("s/good: 2 artifacts, 6B fetched").says("8 artifacts, 24B in the record");
    let read = |name: &str| world.record(&format!("guests/here/s/{name}"));
    assert_eq!((read("good/artifacts/d/a.txt"), read("good/artifacts/end")), ("1\n".into(), "end\n".into()));
    assert_eq!((read("bad/artifacts/b"), read("bad/attempt-2/artifacts/b")), ("1\n".into(), "2\n".into()));
    assert_eq!(read("late/artifacts/c"), "x\n");
    let folder = trace(&world).concat();
    assert!(folder.contains("/s/artifacts/good") && !std::path::Path::new(&folder).exists(), "{folder} is gone");
}

/// A program that asks for the folder by itself is named nowhere in the config.
#[test]
fn what_programs_put_there_by_themselves_comes_back_too() {
    let world = world(
        "[suites.s]\n[[suites.s.cases]]\nname = \"good\"\nrun = \"./leave good\"\n\
         [[suites.s.cases]]\nname = \"tidy\"\nrun = \"./tidy\"\n\
         [[suites.s.cases]]\nname = \"nothing\"\nrun = \"./see\"\n\
         [[suites.s.cases]]\nname = \"bad\"\nrun = \"./leave $VMDECK_ATTEMPT; exit 1\"\nretries = 1\n\
         [[suites.s.cases]]\nname = \"other\"\nsteps = [{ run = \"./leave one\" }, { run = \"./leave two\" }]\n\
         [[suites.s.cases]]\nname = \"found\"\ndiscover = { command = \"echo x/y; echo z\", run = \"./leave {name}\" }\n\
         [suites.t]\n[[suites.t.cases]]\nname = \"good\"\nrun = \"./leave again\"\n",
    );
    let app = world.path("app");
    std::fs::create_dir(&app).expect("mkdir");
    let program = |name: &str, text: &str| {
        let path = app.join(name);
        std::fs::write(&path, format!("#!/bin/sh -eu\n{text}\n")).expect("written");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    };
    program(
        "leave",
        "mkdir -p \"$VMDECK_ARTIFACTS/d\"; echo \"$1\" >> \"$VMDECK_ARTIFACTS/d/a.txt\"; echo x > \"$VMDECK_TMP/t\"",
    );
    program("tidy", "rm -rf \"$VMDECK_ARTIFACTS\" \"$VMDECK_TMP\" \"${VMDECK_ARTIFACTS%/*}/nothing\"");
    program(
        "see",
        "[ -z \"$(ls -A \"$VMDECK_TMP\")$(ls -A \"$VMDECK_ARTIFACTS\")\" ]; echo \"$VMDECK_SOURCE $VMDECK_TIMEOUT_S $VMDECK_ROLE\" | grep '^/.*/in/deep 600 $'",
    );
    let source = format!("guests.here.source={{ path = \"app\", to = \"{}\" }}", world.path("in/deep").display());
    world.ci(&["--repeat", "2", "--set", &source]).exits(1).says("s: 4 artifacts, ");
    let read = |name: &str| world.record(&format!("guests/here/{name}/artifacts/d/a.txt"));
    for (case, text) in [
        ("s/good", "good"),
        ("s/good/round-2", "good"),
        ("s/bad", "1"),
        ("s/bad/attempt-2", "2"),
        ("s/bad/round-2", "1"),
        ("s/other", "one\ntwo"),
        ("s/found,x,y", "x/y"),
        ("s/found,z/round-2", "z"),
        ("t/good", "again"),
    ] {
        assert_eq!(read(case), format!("{text}\n"), "{case}");
    }
    assert_eq!(world.verdict_of("s/nothing"), "passed");
    assert!(!world.path("record/guests/here/s/nothing/artifacts").exists());
}

#[test]
fn a_case_is_skipped_where_one_that_it_needs_did_not_pass_and_is_selected_with_it() {
    let cases = |build: &str| {
        format!(
            "[suites.s]\n[[suites.s.cases]]\nname = \"build\"\nrun = \"echo build >> TRACE; {build}\"\n\
             [[suites.s.cases]]\nname = \"other\"\nrun = \"true\"\n\
             [[suites.s.cases]]\nname = \"unit\"\nrun = \"echo unit >> TRACE\"\nneeds = [\"build\"]\n\
             [[suites.s.cases]]\nname = \"deploy\"\nrun = \"echo deploy >> TRACE\"\nneeds = [\"unit\"]\n"
        )
    };
    let broken = world(&cases("exit 1"));
    broken.ci(&[]).exits(1).says("it needs `build`, which failed");
    broken.assert_verdicts(&[
        ("s/build", "failed"),
        ("s/other", "passed"),
        ("s/unit", "skipped"),
        ("s/deploy", "skipped"),
    ]);
    assert_eq!(trace(&broken), ["build"]);
    let good = world(&cases("true"));
    good.ci(&["s/deploy"]).exits(0);
    assert_eq!(trace(&good), ["build", "unit", "deploy"]);
    let late = cases("true").replace("needs = [\"unit\"]", "needs = [\"later\"]");
    world(&late).ci(&[]).exits(2).complains("case `deploy` needs `later`, which is no case before it");
}

#[test]
fn output_that_must_not_be_and_passes_that_came_late_fail_a_case_that_says_so() {
    let late = "test $VMDECK_ATTEMPT = 2";
    let world = world(&format!(
        "[suites.s]\n\
         [[suites.s.cases]]\nname = \"warns\"\nrun = \"echo fine; echo WARN: x >&2\"\nexpect = {{ not_stderr = \"/^WARN/\" }}\n\
         [[suites.s.cases]]\nname = \"quiet\"\nrun = \"echo fine\"\nexpect = {{ stdout = \"fine\", not_stdout = \"/WARN/\" }}\n\
         [[suites.s.cases]]\nname = \"told\"\nrun = \"{late}\"\nretries = 1\n\
         [[suites.s.cases]]\nname = \"late\"\nrun = \"{late}\"\nretries = 1\nflaky = \"fail\"\n"
    ));
    world
        .ci(&[])
        .exits(1)
        .says("a line of stderr matches `/^WARN/`, and none may")
        .says("passed at attempt 2; before: exit 1");
    world.assert_verdicts(&[("s/warns", "failed"), ("s/quiet", "passed"), ("s/told", "flaky"), ("s/late", "failed")]);
}

#[test]
fn what_is_not_put_back_fails_a_case_that_passed_and_spoils_the_machine() {
    let world = world(
        "[suites.s]\n[[suites.s.cases]]\nname = \"dirty\"\nrun = \"true\"\nafter_each = \"exit 5\"\n\
         [[suites.s.cases]]\nname = \"next\"\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(1).says("after_each failed: exit 5");
    world.assert_verdicts(&[("s/dirty", "failed"), ("s/next", "passed")]);
    let made = world.of_kind("guest_state").into_iter().filter(|event| event["to"] == "Created").count();
    assert_eq!(made, 2, "the next case has a new machine");
}

/// A `local` guest is this very host, whoever asks for its restart.
#[test]
fn the_host_itself_is_never_restarted() {
    for keys in ["steps = [{ run = \"true\" }, { reboot = true }]", "run = \"true\"\nreboot = \"allowed\""] {
        let world = world(&format!("[suites.s]\n[[suites.s.cases]]\nname = \"x\"\n{keys}\n"));
        world.ci(&[]).exits(5).says("cannot let guest `here` restart: its machine is this host");
    }
}

/// The case that runs alone notices one that runs beside it by the file that each has while it runs.
#[test]
fn a_case_that_is_exclusive_has_the_host_to_itself() {
    let beside = |name: &str| {
        format!(
            "[suites.{name}]\nguests = [\"{name}\"]\n[[suites.{name}.cases]]\nname = \"beside\"\n\
             run = \"touch $D/{name}; for n in 1 2 3; do sleep 0.1; done; rm $D/{name}\"\n\
             [[suites.{name}.cases]]\nname = \"alone\"\nexclusive = true\n\
             run = \"touch $D/{name}; for n in 1 2 3; do sleep 0.1; ls $D; done; rm $D/{name}\"\n\
             [[suites.{name}.cases]]\nname = \"later\"\nrun = \"touch $D/{name}; sleep 0.1; rm $D/{name}\"\n"
        )
    };
    let all: String = ["a", "b", "c"].into_iter().map(beside).collect();
    let guests = ["a", "b", "c"].map(|name| format!("[guests.{name}]\nbackend = \"local\"\n")).concat();
    let world = World::new(&format!("slots = 3\n{guests}{all}"));
    let folder = world.path("busy");
    fs::create_dir(&folder).expect("mkdir");
    let env = format!("defaults.case.env={{ D = \"{}\" }}", folder.display());
    let ran = world.ci(&["--set", &env]).exits(0);
    for name in ["a", "b", "c"] {
        let seen = world.record(&format!("guests/{name}/{name}/alone/stdout.log"));
        assert_eq!(seen, format!("{name}\n{name}\n{name}\n"), "{}", ran.out);
    }
    ran.says("it is to run alone");
}

#[test]
fn the_artifacts_of_a_run_have_a_limit_of_their_own() {
    let one = |name: &str| {
        format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = \"head -c 3000 /dev/zero > $VMDECK_ARTIFACTS/zeros\"\n")
    };
    let empty = "[[suites.s.cases]]\nname = \"empty\"\nrun = \": $VMDECK_ARTIFACTS\"\n";
    let world = world(&format!("[suites.s]\n{}{}{}{empty}", one("a"), one("b"), one("c")));
    let ran = world.ci(&["--set", "host.artifacts_size=\"7KiB\""]).exits(0);
    let has = |case: &str| world.path(&format!("record/guests/here/s/{case}/artifacts/zeros")).exists();
    assert_eq!([has("a"), has("b"), has("c")], [true, true, false], "{}", ran.out);
    ran.says("those of a run may have 7KiB in all (`host.artifacts_size`)").says("2 artifacts, 5.8KiB in the record");
    assert_eq!(world.of_kind("warning").len(), 1, "an empty folder is nothing that is missing");
    let summary: serde_json::Value = serde_json::from_str(&world.record("summary.json")).expect("JSON");
    assert_eq!(summary["artifacts"], serde_json::json!({ "files": 2, "bytes": 6000 }));
}

/// The suite does not come to its end, and what those have left that passed is there all the same.
#[test]
fn artifacts_come_where_the_suite_is_left_early() {
    let leave = "D=VMDECK_ARTI; D=${D}FACTS; eval \\\"echo x > \\\\$$D/a\\\"";
    let passes = format!("[[suites.s.cases]]\nname = \"passes\"\nrun = \"{leave}\"\n");
    for (keys, second, args, exit) in [
        ("", format!("{leave}; exit 1"), &["--fail-fast"][..], 1),
        ("after_each = \"exit 1\"", leave.to_owned(), &[], 1),
    ] {
        let bad = format!("[[suites.s.cases]]\nname = \"bad\"\n{keys}\nrun = \"{second}\"\n");
        let world = world(&format!("[suites.s]\n{passes}{bad}[[suites.s.cases]]\nname = \"later\"\nrun = \"true\"\n"));
        let ran = world.ci(args).exits(exit);
        for case in ["passes", "bad"] {
            let path = world.path(&format!("record/guests/here/s/{case}/artifacts/a"));
            assert!(path.exists(), "{case} {keys}: {}", ran.out);
        }
    }
    let world = world(&format!("[suites.s]\n{passes}[[suites.s.cases]]\nname = \"long\"\nrun = \"sleep 60\"\n"));
    let (child, mut stdin) = world.controlled(&[]);
    world.until_event(r#""case":"long""#);
    std::io::Write::write_all(&mut stdin, b"{\"command\":\"cancel\",\"reason\":\"user\"}\n").expect("told");
    assert_eq!(child.wait_with_output().expect("ends").status.code(), Some(130));
    assert!(world.path("record/guests/here/s/passes/artifacts/a").exists());
    world.assert_nothing_left();
}

/// A file that is too large does not cost the others.
#[test]
fn small_artifacts_come_behind_one_that_is_too_large() {
    let run = "cd $VMDECK_ARTIFACTS; head -c 9000 /dev/zero > a; echo b > b; head -c 9000 /dev/zero > c; echo d > d";
    let world =
        world(&format!("[suites.s]\nartifacts_size = \"8KiB\"\n[[suites.s.cases]]\nname = \"x\"\nrun = \"{run}\"\n"));
    let ran = world.ci(&[]).exits(0).says("case `s/x`: some artifacts are missing");
    assert!(ran.out.contains("`a`: there is more") && ran.out.contains("`c`: there is more"), "{}", ran.out);
    for (name, comes) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        assert_eq!(world.path(&format!("record/guests/here/s/x/artifacts/{name}")).exists(), comes, "{name}");
    }
}

#[test]
fn a_machine_of_its_own_has_the_folders_of_the_case_that_is_run_in_it() {
    let world = world(
        "[suites.s]\n[[suites.s.cases]]\nname = \"bad\"\nrun = \"exit 1\"\n\
         [[suites.s.cases]]\nname = \"skipped\"\nneeds = [\"bad\"]\nrun = \"true\"\n\
         [[suites.s.cases]]\nname = \"has\"\nrun = \"env | grep -c -E '^VMDECK_(TMP|ARTI)' | grep 2\"\n",
    );
    world.ci(&["--set", "guests.here.fresh=\"case\""]).exits(1);
    assert_eq!(world.verdict_of("s/has"), "passed");
}
