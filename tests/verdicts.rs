//! A verdict is never green by accident: what decides is what was written and how it ended, in every report alike.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Command};
use vmdeck_model::{event::Event, outcome::Verdict, run_view::RunView};
use vmdeck_testkit::world::World;

/// Returns a world with a local guest and these suites.
fn local(suites: &str) -> World {
    World::new(&format!("[guests.here]\nbackend = \"local\"\n{suites}"))
}

/// Returns pseudo-random bytes that hold every value, none of them a newline where it would cut the line that is looked for.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[test]
fn the_record_holds_and_the_pattern_sees_exactly_the_bytes_that_were_written() {
    for (seed, length) in [(1, 0), (2, 1), (3, 70_000), (4, 1 << 20), (5, 10 << 20)] {
        let mut bytes = noise(seed, length);
        // A line of its own in the middle, with what cleaning would change: a tab, a carriage return, a joiner, no UTF-8.
        let marker = b"\nbefore\rmid\tdle \xe2\x80\x8d \xff end of the line\n";
        bytes.splice(length / 2..length / 2, marker.iter().copied());
        let expect = "expect = { stdout = '/(?-u)^before\\rmid\\tdle \\xe2\\x80\\x8d \\xff end of the line$/' }";
        let world =
            local(&format!("[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"cat $OLDPWD/bytes\"\n{expect}\n"));
        fs::write(world.path("bytes"), &bytes).expect("bytes");
        let run = format!("cat {}", world.path("bytes").display());
        let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config").replace("cat $OLDPWD/bytes", &run);
        fs::write(world.path("vmdeck.toml"), config).expect("config");
        world.ci(&[]).exits(0);
        let held = fs::read(world.path("record/guests/here/s/a/stdout.log")).expect("log");
        assert!(held == bytes, "{length}: {} bytes are held of {}", held.len(), bytes.len());
        fs::remove_dir_all(world.path("record")).expect("removed");
        fs::write(world.path("bytes"), &bytes[..length / 2 + 10]).expect("bytes");
        world.ci(&[]).exits(1).says("no line of stdout matches");
    }
}

#[test]
fn a_script_of_several_lines_is_red_where_an_early_line_fails() {
    let case = |name: &str, shell: &str| {
        format!("[[suites.s.cases]]\nname = \"{name}\"\n{shell}\nrun = \"\"\"\nfalse\necho on\n\"\"\"\n")
    };
    let world = local(&format!(
        "[suites.s]\n{}{}{}{}",
        case("usual", ""),
        case("plain", "shell = \"plain\""),
        case("bash", "shell = \"bash\""),
        case("own", "shell = [\"/bin/sh\", \"-c\"]"),
    ));
    world.ci(&[]).exits(1);
    for (name, verdict) in [("s/usual", "failed"), ("s/plain", "passed"), ("s/bash", "failed"), ("s/own", "passed")] {
        assert_eq!(world.verdict_of(name), verdict, "{name}");
    }
    world.run(&["--set", "suites.s.shell=fish", "config", "check"]).exits(2).complains("[\"fish\", \"-c\"]");
}

#[test]
fn a_config_check_tells_of_lines_whose_failure_is_ignored() {
    let world = local(
        "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"\"\"\ntest -e x && echo there\necho end\n\"\"\"\n",
    );
    let ran = world.run(&["config", "check"]).exits(0);
    assert!(ran.err.contains("case `a`: line 1") && ran.err.contains("&&"), "{}{}", ran.out, ran.err);
}

#[test]
fn a_setup_has_its_own_time_and_its_own_words() {
    let world = local(
        "[suites.slow]\nsetup = \"echo waiting; sleep 30\"\nsetup_timeout = \"1s\"\n\
         [[suites.slow.cases]]\nname = \"a\"\nrun = \"true\"\n[[suites.slow.cases]]\nname = \"b\"\nrun = \"true\"\n\
         [suites.torn]\nteardown = \"exit 4\"\nteardown_timeout = \"5s\"\n[[suites.torn.cases]]\nname = \"a\"\nrun = \"true\"\n",
    );
    let ran = world.ci(&[]).exits(1).says("setup failed: it took longer than 1.0s").says("teardown failed: exit 4");
    assert_eq!(ran.out.matches("stdout | waiting").count(), 1, "once for all of its cases: {}", ran.out);
    assert_eq!(world.verdict_of("torn/a"), "passed");
    let junit = world.record("junit.xml");
    let document = roxmltree::Document::parse(&junit).expect("well-formed");
    let root = document.root_element();
    assert_eq!((root.attribute("errors"), root.attribute("failures")), (Some("2"), Some("0")), "{junit}");
}

#[test]
fn artifacts_that_must_come_and_do_not_are_red_and_say_why() {
    let suite = "[suites.s]\nartifacts = [\"out/*.xml\", \"none\"]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"mkdir out; echo x > out/a.xml\"\n";
    let world = local(suite);
    world.ci(&[]).exits(0).says("no file matches `none`");
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&["--set", "suites.s.artifacts_required=true"]).exits(1).says("FAIL  s/artifacts");
    assert_eq!(world.json("summary.json")["planned"], 2, "the artifacts are a case of their own");
    assert_eq!(world.verdict_of("s/a"), "passed");
    assert_eq!(world.record("artifacts/here/s/out/a.xml"), "x\n");
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&["--set", "suites.s.artifacts_required=true", "--set", "suites.s.artifacts=out"]).exits(0);
}

#[test]
fn a_link_that_goes_round_costs_no_other_artifact() {
    let world = local(
        "[suites.s]\nartifacts = [\"o\"]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"mkdir o; echo x > o/a; ln -s .. o/up; ln -s a o/b\"\n",
    );
    world.ci(&[]).exits(0).says("o/up: a link to a folder is not followed");
    assert_eq!(world.record("artifacts/here/s/o/a") + &world.record("artifacts/here/s/o/b"), "x\nx\n");
}

#[test]
fn what_left_its_group_and_its_environment_is_ended_with_its_command() {
    let word = format!("306.{}", fastrand::u32(1000..9999));
    let world = local(&format!(
        "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"env -i setsid sleep {word} & while :; do sleep 0.2; done\"\ntimeout = \"1s\"\n"
    ));
    world.ci(&[]).exits(1).says("was ended");
    assert!(vmdeck_core::host::pids::with_arg(&word).is_empty(), "it lives on");
}

#[test]
fn a_config_that_only_looks_like_a_guard_is_refused() {
    for (suite, words) in [
        ("artifacts_required = true\nCASE run = \"true\"", "there are no `artifacts` that it could require"),
        ("CASE run = \"# nothing\"", "which would always pass"),
        ("CASE run = \"true\"\nexpect = { exit = 3, skip = 3 }", "cannot mean both"),
        ("CASE run = \"true\"\nexpect = { exit = 256 }", "is not an exit code"),
        ("CASE script = \"mark\"", "byte order mark"),
        ("CASE script = \"plain\"\nshell = \"bash\"", "it has no effect on a `script`"),
    ] {
        let world = local(&format!("[suites.s]\n{}\n", suite.replace("CASE", "[[suites.s.cases]]\nname = \"a\"\n")));
        fs::write(world.path("mark"), "\u{feff}#!/bin/sh -e\nfalse\ntrue\n").expect("script");
        fs::write(world.path("plain"), "false\ntrue\n").expect("script");
        world.run(&["config", "check"]).exits(2).complains(words);
    }
}

#[test]
fn what_cannot_be_recorded_is_not_green() {
    let world = local("[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"head -c 8000000 /dev/zero\"\n");
    let small = world.path("small");
    fs::create_dir(&small).expect("mkdir");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return;
    }
    let ran = world.run(&["--ci", "--run-dir", "small/record"]);
    let told = ran.out.contains("cannot write stdout.log");
    let code = ran.code;
    let _ = Command::new("umount").arg("-l").arg(&small).status();
    assert!(told && code == 5, "exit {code}\n{}{}", ran.out, ran.err);
}

#[test]
fn without_git_the_files_still_go_in_and_that_is_told() {
    let world = local(
        "source = { path = \"app\", to = \"TO\" }\n[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"test -e a.txt\"\n",
    );
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let to = world.path("in/deep").display().to_string();
    fs::write(world.path("vmdeck.toml"), config.replace("TO", &to)).expect("config");
    fs::create_dir_all(world.path("app/.git")).expect("mkdir");
    fs::write(world.path("app/a.txt"), "x").expect("write");
    fs::create_dir(world.path("bin")).expect("mkdir");
    for name in ["sh", "tar", "rm", "mkdir", "cat"] {
        let from = ["/bin", "/usr/bin"].iter().map(|folder| format!("{folder}/{name}"));
        let from = from.into_iter().find(|path| fs::metadata(path).is_ok()).expect("a usual program");
        std::os::unix::fs::symlink(from, world.path("bin").join(name)).expect("link");
    }
    let out = world.vmdeck(&["--ci", "--run-dir", "record"]).env("PATH", world.path("bin")).output().expect("ran");
    vmdeck_testkit::world::Ran::of(&out).exits(0).says("git is not installed");
}

/// Returns the tally of a JUnit report: passed, failed, errors, skipped.
fn of_junit(text: &str) -> [usize; 4] {
    let document = roxmltree::Document::parse(text).expect("well-formed");
    let has = |case: &roxmltree::Node<'_, '_>, name: &str| case.children().any(|child| child.has_tag_name(name));
    let cases: Vec<_> = document.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    let count = |name: &str| cases.iter().filter(|case| has(case, name)).count();
    let (failed, errors, skipped) = (count("failure"), count("error"), count("skipped"));
    let root = document.root_element();
    for (name, counted) in [("tests", cases.len()), ("failures", failed), ("errors", errors), ("skipped", skipped)] {
        assert_eq!(root.attribute(name), Some(counted.to_string().as_str()), "{name}");
    }
    [cases.len() - failed - errors - skipped, failed, errors, skipped]
}

/// Returns the count of a verdict in the last line of the text report.
fn of_text(out: &str, verdict: Verdict) -> u32 {
    let last = out.lines().rfind(|line| line.contains(" (exit ")).expect("the end");
    let words: Vec<&str> = last.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == verdict.as_str()).map_or(0, |pair| pair[0].parse().expect("a number"))
}

#[test]
fn every_report_counts_alike_whatever_happens() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut cases, mut replies) = (String::new(), String::new());
        for number in 0..25 {
            let (reply, more) = match random.u8(0..8) {
                0 => ("1 no", ""),
                1 => ("1 no | 0 yes", "retries = 1\n"),
                2 => ("77 skip", "expect = { skip = 77 }\n"),
                3 => ("0 yes", "skip = \"not today\"\n"),
                4 => ("lost", ""),
                _ => ("0 yes", ""),
            };
            let suite = if random.bool() { "s" } else { "t" };
            cases.push_str(&format!("[[suites.{suite}.cases]]\nname = \"c{number}\"\nrun = \"c{number}\"\n{more}"));
            replies.push_str(&format!("c{number} = \"{reply}\"\n"));
        }
        let setup = if random.bool() { "setup = \"bad\"\n" } else { "" };
        let config = format!(
            "[guests.g]\nbackend = \"fake\"\n[guests.g.fake.replies]\nbad = \"3 broken\"\n{replies}\
             [suites.s]\n[suites.t]\n{setup}[suites.u]\n[[suites.u.cases]]\nname = \"a\"\nrun = \"a\"\n{cases}"
        );
        let world = World::new(&config.replace("[suites.s]\n", "[suites.s]\nteardown = \"bad\"\n"));
        // A suite may have got no case at all.
        let args = ["--fail-fast"];
        let args = if random.u8(0..4) == 0 { &args[..] } else { &[] };
        let ran = world.ci(args);
        if ran.code == 2 {
            continue;
        }
        let mut view = RunView::default();
        for event in world.events() {
            let event: Event = serde_json::from_value(event).expect("event");
            view.apply(&event);
        }
        let summary = world.json("summary.json");
        for verdict in Verdict::ALL {
            let counted = view.tally.of(verdict);
            assert_eq!(summary["tally"][verdict.as_str()], counted, "seed {seed} {verdict}: summary.json");
            assert_eq!(of_text(&ran.out, verdict), counted, "seed {seed} {verdict}: {}", ran.out);
        }
        let [passed, failed, errors, skipped] = of_junit(&world.record("junit.xml"));
        let tally = view.tally;
        // JUnit has fewer words: a pass at a later attempt is a pass, and a case whose setup failed is an error.
        assert_eq!(passed, (tally.passed + tally.flaky) as usize, "seed {seed}");
        assert_eq!(failed + errors, (tally.failed + tally.infra) as usize, "seed {seed}");
        assert_eq!(skipped, (tally.skipped + tally.cancelled) as usize, "seed {seed}");
        assert_eq!(tally.total() as usize, view.planned, "seed {seed}: every planned case has a verdict");
    }
}

/// What a suite requires is asked for, installed where the config says how, and asked for again.
#[test]
fn what_a_suite_requires_is_there_before_its_setup() {
    let check = |requires: &str, exit: i32, says: &str| {
        let world = World::new(&format!(
            "[guests.g]\nbackend = \"local\"\n[suites.s]\nrequires = [{requires}]\nsetup = \"test -e $HOME/tool && echo set up\"\n\
             [[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n"
        ));
        let ran = world.ci(&[]).exits(exit);
        assert!(format!("{}{}", ran.out, ran.err).contains(says), "{requires}: {}{}", ran.out, ran.err);
        world.assert_nothing_left();
    };
    let tool = |version: &str| format!("echo 'echo tool {version}' > $HOME/tool; chmod 755 $HOME/tool");
    let asks = "cmd = \"sh $HOME/tool\"";
    check(&format!("{{ {asks}, at_least = \"1.25\", install = {{ linux = \"{}\" }} }}", tool("1.26.1")), 0, "1 passed");
    check(
        &format!("{{ {asks}, at_least = \"1.25\", install = {{ linux = \"{}\" }} }}", tool("1.9")),
        1,
        "also after its `install`",
    );
    check(&format!("{{ {asks}, install = {{ windows = \"x\" }} }}"), 1, "`install.linux` of it would say how");
    check(&format!("{{ {asks}, install = {{ linux = \"exit 4\" }} }}"), 1, "install failed: exit 4");
    check("{ cmd = \"echo none\", at_least = \"1\" }", 1, "tells no version");
    check("{ cmd = \"echo 1\", at_least = \"one\" }", 2, "is no version");
    check("{ at_least = \"1\" }", 2, "`cmd` is missing");
    check("{ cmd = \"true\", instal = { linux = \"x\" } }", 2, "unknown key");
    check("{ cmd = \"true\", install = { linuks = \"x\" } }", 2, "is no system");
}
