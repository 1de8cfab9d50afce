//! The tests that cases run themselves: read, judged, told in every report, and shown while they run.

use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, suite},
};

const LOCAL: &str = "[guests.here]\nbackend = \"local\"\n";

/// Returns the names and statuses of the sub-tests of each case.
fn subtests(world: &World) -> BTreeMap<String, Vec<(String, String)>> {
    let mut out: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let text = |event: &Value, key: &str| event[key].as_str().expect("text").to_owned();
    for event in world.of_kind("subtest_ended") {
        out.entry(text(&event, "case")).or_default().push((text(&event, "name"), text(&event, "status")));
    }
    out
}

#[test]
fn every_output_of_a_real_tool_is_read_and_judged_as_a_person_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/vmdeck-results/tests/fixtures");
    let (mut cases, mut wanted) = (LOCAL.to_owned() + "[suites.s]\n", BTreeMap::new());
    let folders = fs::read_dir(&root).expect("fixtures").flatten().filter(|entry| entry.path().is_dir());
    for file in folders.flat_map(|folder| fs::read_dir(folder.path()).expect("a folder").flatten()) {
        let path = file.path();
        let name = path.strip_prefix(&root).expect("below").display().to_string();
        let Some((stem, ending)) = name.rsplit_once('.').filter(|(stem, _)| stem.strip_suffix(".want").is_none())
        else {
            continue;
        };
        let want = fs::read_to_string(root.join(format!("{stem}.want.json"))).expect("what is wanted");
        let want: Value = serde_json::from_str(&want).expect("json");
        let Some(exit) = want["exit"].as_i64() else { continue };
        let case = name.replace(['/', '.'], "-");
        let run = format!("cp '{}' {case}.{ending}; exit {exit}", path.display());
        cases.push_str(&format!(
            "[[suites.s.cases]]\nname = \"{case}\"\nrun = \"{run}\"\nresults = [\"./{case}.{ending}\"]\n"
        ));
        wanted.insert(case, want);
    }
    assert!(wanted.len() > 80, "{} fixtures", wanted.len());
    let world = World::new(&cases);
    world.ci(&[]).exits(1);
    let seen = subtests(&world);
    for (case, want) in &wanted {
        let verdict = want["verdict"].as_str().expect("verdict");
        assert_eq!(world.verdict_of(&format!("s/{case}")), verdict, "{case}");
        let of = |test: &Value| {
            let text = |key: &str| test[key].as_str().expect("text").to_owned();
            (text("name"), text("status"))
        };
        let tests: Vec<(String, String)> = want["tests"].as_array().expect("tests").iter().map(of).collect();
        let got = seen.get(case).cloned().unwrap_or_default();
        if case.ends_with("-trs") {
            // Their names are those of their files.
            assert_eq!(got.len(), tests.len(), "{case}");
        } else {
            assert_eq!(got, tests, "{case}");
        }
    }
    let summary = world.json("summary.json");
    let told = u64::try_from(seen.values().map(Vec::len).sum::<usize>()).expect("few");
    let counted: u64 = ["passed", "failed", "error", "skipped", "xfail", "xpass"]
        .iter()
        .map(|status| summary["subtests"][status].as_u64().expect("a count"))
        .sum();
    assert_eq!(told, counted);
    let xml = world.record("junit.xml");
    let document = roxmltree::Document::parse(&xml).expect("well-formed");
    let named: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name("testcase"))
        .map(|node| (node.attribute("classname"), node.attribute("name")))
        .collect();
    assert_eq!(named.len(), wanted.len() + usize::try_from(told).expect("few"), "each case, and each test of its own");
    let mut unique = named.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), named.len(), "readers tell them apart by these two");
}

#[test]
fn neither_the_status_nor_the_results_are_believed_alone() {
    let tap = |lines: &str| format!("printf '{}'", lines.replace('\n', "\\n"));
    let rows: &[(&str, String, &str, &str, &str)] = &[
        ("green", tap("1..2\nok 1 - a\nok 2 - b\n"), "results = [\"tap\"]", "passed", ""),
        (
            "red-exit0",
            tap("1..2\nok 1\nnot ok 2\n"),
            "results = [\"tap\"]",
            "failed",
            "exit 0, but 1 of 2 tests failed",
        ),
        (
            "green-exit1",
            tap("1..1\nok 1\n") + "; exit 1",
            "results = [\"tap\"]",
            "failed",
            "exit 1, although no test failed",
        ),
        ("short", tap("1..3\nok 1\n"), "results = [\"tap\"]", "failed", "results: plan 3, 1 results"),
        ("none", "true".into(), "results = [\"tap\"]", "failed", "exit 0, but no test ran"),
        ("allowed", tap("1..0\n"), "results = [\"tap\"]\nallow_empty = true", "passed", ""),
        ("skipped", tap("1..0 # SKIP no root\n"), "results = [\"tap\"]", "skipped", "every test was skipped"),
        ("auto-none", "echo hello".into(), "results = [\"auto\"]", "passed", ""),
        (
            "auto-red",
            tap("TAP version 13\n1..1\nnot ok 1\n"),
            "results = [\"auto\"]",
            "failed",
            "exit 0, but 1 of 1 test failed",
        ),
        ("no-junit", "echo hello".into(), "results = [\"junit\"]", "failed", "standard output holds no junit"),
        ("no-file", "true".into(), "results = [\"out/*.xml\"]", "failed", "there is no file `out/*.xml`"),
        ("old-file", "true".into(), "results = [\"old.tap\"]", "failed", "`old.tap` is stale"),
        ("new-file", "cat old.tap >x && mv x old.tap".into(), "results = [\"old.tap\"]", "passed", ""),
        ("expected", tap("1..1\nok 1\n") + "; exit 5", "results = [\"tap\"]\nexpect = { exit = 5 }", "passed", ""),
        (
            "status-77",
            "exit 77".into(),
            "results = [\"tap\"]\nexpect = { skip = 77 }",
            "skipped",
            "exit 77 means skipped",
        ),
        (
            "killed",
            tap("1..2\nok 1\n") + "; kill -9 $$",
            "results = [\"tap\"]",
            "failed",
            "killed by SIGKILL; results: plan 2",
        ),
        (
            "hangs",
            tap("1..2\nok 1\n# Subtest: slow\n") + "; sleep 60",
            "results = [\"tap\"]\ntimeout = \"2s\"",
            "failed",
            ", in slow (tests: 1 passed, 1 error)",
        ),
        ("either", tap("1..1\nok 1\n"), "results = [\"tap\", \"pytest\"]", "passed", ""),
        (
            "neither",
            "echo hello".into(),
            "results = [\"tap\", \"pytest\"]",
            "failed",
            "standard output holds none of tap, pytest",
        ),
    ];
    let cases: Vec<(&str, &str, &str)> =
        rows.iter().map(|(name, run, more, ..)| (*name, run.as_str(), *more)).collect();
    let world = World::new(&format!(
        "{LOCAL}{}",
        suite(&cases).replace("[suites.s]", "[suites.s]\nsetup = \"echo '1..1' >old.tap; echo 'ok 1' >>old.tap\"")
    ));
    world.ci(&[]).exits(1);
    let ended = world.of_kind("case_ended");
    for (name, _, _, verdict, message) in rows {
        let event = ended.iter().find(|event| event["case"] == *name).expect("ended");
        assert_eq!(event["verdict"], *verdict, "{name}: {event}");
        assert!(event["message"].as_str().expect("text").contains(message), "{name}: {event}");
    }
}

#[test]
fn a_test_that_fails_first_and_passes_then_is_flaky_in_every_report() {
    let run = "if [ $VMDECK_ATTEMPT = 1 ]; then printf '1..2\\nok 1 - a\\nnot ok 2 - b\\n# too early\\n'; exit 1; fi\nprintf '1..2\\nok 1 - a\\nok 2 - b\\n'";
    let world = World::new(&format!("{LOCAL}{}", suite(&[("wobbles", run, "results = [\"tap\"]\nretries = 1")])));
    world.ci(&[]).exits(0).says("failed s/wobbles: b: too early").says("(1 flaky)");
    assert_eq!(world.verdict_of("s/wobbles"), "flaky");
    let attempts: Vec<_> = world.of_kind("subtest_ended").iter().map(|event| event["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 1, 2, 2]);
    assert!(world.record("junit.xml").contains("<flakyFailure message=\"too early\""), "{}", world.record("junit.xml"));
    assert_eq!(world.json("summary.json")["subtests"]["flaky"], 1);
    let file = world.record("guests/here/s/wobbles/attempt-2/results.jsonl");
    assert_eq!(file.lines().count(), 2, "{file}");
}

#[test]
fn github_shows_a_test_that_failed_at_its_place_in_the_repository() {
    let world = World::new("");
    let to = world.path("box/src").display().to_string();
    let guest = format!("{LOCAL}[guests.here.source]\npath = \"app\"\nto = \"{to}\"\n");
    let run = format!(
        "printf '1..1\\nnot ok 1 - adds\\n  ---\\n  message: 4, not::5\\n  file: {to}/tests/a.js\\n  line: 7\\n  ...\\n'; exit 1"
    );
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let config = config + &guest + &suite(&[("unit", &run, "results = [\"tap\"]")]);
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    fs::create_dir_all(world.path("app/tests")).expect("mkdir");
    fs::write(world.path("app/tests/a.js"), "x").expect("written");
    let output = world.vmdeck(&["--ci", "--run-dir", "record"]).env("GITHUB_ACTIONS", "true").output().expect("ran");
    vmdeck_testkit::world::Ran::of(&output)
        .exits(1)
        .says("::error file=app/tests/a.js,line=7,title=s/unit@here%3A adds failed::4, not::5");
    assert!(world.record("junit.xml").contains("file=\"app/tests/a.js\" line=\"7\""), "{}", world.record("junit.xml"));
}

#[test]
fn a_word_that_is_no_format_is_refused_with_those_that_there_are() {
    let world = World::new(&format!("{LOCAL}{}", suite(&[("x", "true", "results = [\"tapp\"]")])));
    world.ci(&[]).exits(2).complains("`tapp` is no format of results (known: auto, tap,").complains("vmdeck.toml:");
}

/// In a real guest: its own shell and files, and a kernel that panics in the thirty-seventh test.
#[test]
fn a_real_guest_that_panics_within_a_test_has_that_test_named_in_every_report() {
    let upto = "echo 1..40; i=1; while [ $i -lt 37 ]; do echo ok $i - t$i; i=$((i+1)); done";
    let panics = format!("{upto}; echo '# Subtest: t37'; sleep 1; echo c | sudo tee /proc/sysrq-trigger");
    let file = "mkdir -p out; printf '<testsuite name=\"s\" tests=\"2\"><testcase classname=\"a.b\" name=\"x\" time=\"0.5\"/><testcase name=\"y\"><failure message=\"no\"/></testcase></testsuite>' > out/r.xml; exit 1";
    let cases = suite(&[
        ("file", file, "results = [\"out/*.xml\"]"),
        ("stale", "true", "results = [\"out/*.xml\"]"),
        ("keeps", "echo kept > $VMDECK_ARTIFACTS/a.txt; exit 1", ""),
        ("panics", &panics, "results = [\"tap\"]"),
    ]);
    let guest = Micro { append: "sysrq_always_enabled", ..Micro::default() }.guest("micro");
    let world = World::new(&format!("{guest}{cases}"));
    let summary = world.path("step.md");
    let mut command = world.vmdeck(&["--ci", "--run-dir", "record"]);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    let out = command.output().expect("vmdeck runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    world.assert_verdicts(&[
        ("s/file", "failed"),
        ("s/stale", "failed"),
        ("s/keeps", "failed"),
        ("s/panics", "failed"),
    ]);
    let seen = subtests(&world);
    let pair = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    assert_eq!(seen["file"], [pair("a.b::x", "passed"), pair("y", "failed")]);
    assert_eq!(seen["panics"].len(), 37);
    assert_eq!(seen["panics"][36], pair("t37", "error"));
    assert_eq!(world.record("guests/micro/s/keeps/artifacts/a.txt"), "kept\n");
    let stale = &world.of_kind("case_ended")[1]["message"];
    assert!(stale.as_str().expect("text").contains("is stale"), "{stale}");
    for (report, says) in [
        (text, "in t37 (tests: 36 passed, 1 error)"),
        (world.record("junit.xml"), "in t37 (tests: 36 passed, 1 error)"),
        (world.record("junit.xml"), "<testcase name=\"t37\" classname=\"micro.s.panics\""),
        (world.record("summary.json"), "in t37"),
        (fs::read_to_string(summary).expect("summary"), "in t37"),
    ] {
        assert!(
            report.contains(says) && report.contains("Kernel panic") || report.contains("classname"),
            "{says}: {report}"
        );
    }
    world.assert_nothing_left();
}

/// What runs all of its tests, or those that it is asked for, and knows which are broken by files.
const TOOL: &str = "#!/bin/sh\n[ $# -gt 0 ] || set -- 'a one' 'it'\"'\"'s $(two)' three\necho 1..$#; s=0\nfor t; do\n  echo \"$t\" >> ../ran\n  if [ -e \"broken/$t\" ]; then echo \"not ok - $t\"; s=1; else echo \"ok - $t\"; fi\ndone\nexit $s\n";

#[test]
fn only_the_tests_that_failed_are_run_again_by_their_names() {
    let to = |world: &World| world.path("box/src").display().to_string();
    let world = World::new("");
    let guest = format!("{LOCAL}[guests.here.source]\npath = \"src\"\nto = \"{}\"\n", to(&world));
    let cases = suite(&[
        ("unit", "sh tool.sh", "results = [\"tap\"]\nrerun = \"sh tool.sh {names}\""),
        ("whole", "sh tool.sh", "results = [\"tap\"]"),
        ("fine", "true", ""),
    ]);
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config") + &guest + &cases;
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    fs::create_dir_all(world.path("src/broken")).expect("mkdir");
    fs::write(world.path("src/tool.sh"), TOOL).expect("tool");
    fs::write(world.path("src/broken/it's $(two)"), "").expect("broken");
    let ran =
        || fs::read_to_string(world.path("box/ran")).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let forget = || drop(fs::remove_file(world.path("box/ran")));
    world.ci(&[]).exits(1);
    assert_eq!(ran().len(), 6);
    forget();
    // Still broken: once more, and only that.
    world.run(&["--ci", "--rerun-failed=record", "--run-dir", "again", "s/unit"]).exits(1).says("1 of 1 test failed");
    assert_eq!(ran(), ["it's $(two)"]);
    forget();
    fs::remove_file(world.path("src/broken/it's $(two)")).expect("mended");
    world
        .run(&["--ci", "--rerun-failed=record", "--run-dir", "third"])
        .exits(0)
        .says("only what had failed was run again: 1 test of its own");
    assert_eq!(ran().len(), 4, "one by its name, and the whole of what has no `rerun`: {:?}", ran());
    assert!(fs::read_to_string(world.path("third/events.jsonl")).expect("events").contains("\"only\":1"));
    // What is not there any more is no success.
    forget();
    fs::write(world.path("src/tool.sh"), "echo 1..1; echo ok 1 - other\n").expect("tool");
    world
        .run(&["--ci", "--rerun-failed=record", "--run-dir", "fourth", "s/unit"])
        .exits(1)
        .says("none of the 1 tests that were to be run again ran");
}

#[test]
fn a_retry_runs_only_what_failed_and_what_passed_before_stays() {
    let tool = "if [ $# = 0 ]; then printf '1..3\\nok - a\\nnot ok - b\\nok - c\\n'; exit 1; fi; echo 1..$#; for t; do echo \"ok - $t\"; done";
    let case = ("unit", "sh ../tool.sh", "results = [\"tap\"]\nrerun = \"sh ../tool.sh {names}\"\nretries = 1");
    let world = World::new(&format!("{LOCAL}{}", suite(&[case])));
    fs::write(world.path("tool.sh"), tool).expect("tool");
    let place = world.path("tool.sh").display().to_string();
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config").replace("../tool.sh", &place);
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world.ci(&[]).exits(0).says("FLAKY s/unit").says("3 sub-tests: 3 passed (1 flaky)");
    let xml = world.record("junit.xml");
    assert!(xml.contains("tests=\"3\"") && xml.matches("<flakyFailure").count() == 2, "{xml}");
    assert_eq!(world.json("summary.json")["cases"][0]["subtests"]["passed"], 3);
}
