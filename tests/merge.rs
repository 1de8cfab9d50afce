//! `vmdeck merge` and `vmdeck times`: real shards of a real run, and records that somebody else has made.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink};
use vmdeck_testkit::world::{Ran, World, suite};

/// A world with two guests and these cases in each of them.
fn world(cases: &[(&str, &str, &str)]) -> World {
    World::new(&format!("[guests.a]\nbackend = \"local\"\n[guests.b]\nbackend = \"local\"\n{}", suite(cases)))
}

fn green() -> World {
    world(&[("one", "echo 1", ""), ("two", "echo 2", ""), ("three", "echo 3", "")])
}

/// Runs a shard; its record is in `s1` for the first.
fn shard(world: &World, index: usize, count: usize, args: &[&str]) -> Ran {
    let (of, dir) = (format!("{index}/{count}"), format!("s{index}"));
    world.run(&[&["--ci", "--shard", &of, "--run-dir", &dir], args].concat())
}

/// Runs a shard with variables that a CI sets.
fn shard_in_ci(world: &World, index: usize, dir: &str, env: &[(&str, &str)]) -> Ran {
    let of = format!("{index}/2");
    let mut command = world.vmdeck(&["--ci", "--shard", &of, "--run-dir", dir]);
    Ran::of(&command.envs(env.iter().copied()).output().expect("vmdeck runs"))
}

fn events(world: &World, dir: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.path(&format!("{dir}/events.jsonl"))).expect("events");
    text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

fn json_of(world: &World, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(world.path(file)).expect(file)).expect("json")
}

/// Changes the lines of the events of a record.
fn rewrite(world: &World, dir: &str, change: impl Fn(&str) -> Option<String>) {
    let file = world.path(&format!("{dir}/events.jsonl"));
    let text = fs::read_to_string(&file).expect("events");
    let lines: String = text.lines().filter_map(change).map(|line| line + "\n").collect();
    fs::write(file, lines).expect("written");
}

#[test]
fn shards_are_one_run_again() {
    let world = world(&[("one", "echo yes", ""), ("two", "echo no >&2; exit 4", ""), ("three", "true", "")]);
    let codes = [1, 2, 3, 4].map(|index| shard(&world, index, 4, &[]).code);
    assert_eq!(codes, [1, 1, 0, 0]);
    let started = &events(&world, "s2")[0];
    assert_eq!(
        (&started["shard"], &started["planned_all"][5]),
        (&json!({ "index": 2, "count": 4, "by": "count" }), &json!("b/s/three"))
    );
    let ran = world.run(&["merge", "s3", "s1", "s4", "s2", "-o", "m", "--junit", "all.xml"]).exits(1);
    let ran = ran.says("shard 1/4").says("6 cases: 4 passed, 2 failed").says("FAIL  s/two@a").says("of machine time");
    assert!(!ran.out.contains("pass  s/one"), "{}", ran.out);
    let all = events(&world, "m");
    assert!(all.iter().enumerate().all(|(at, event)| event["seq"] == at + 1), "numbers without gaps");
    assert!(
        all.windows(2).all(|pair| pair[0]["elapsed_ms"].as_u64() <= pair[1]["elapsed_ms"].as_u64()),
        "time goes on"
    );
    assert!(all.iter().filter(|event| event["kind"] == "case_ended").all(|event| event["origin"].is_string()));
    let origins = json_of(&world, "m/origins.json");
    assert_eq!(origins.as_array().expect("list").len(), 4);
    assert_eq!((&origins[0]["origin"], &origins[0]["exit"]), (&json!("1"), &json!(1)));
    assert_eq!(fs::read(world.path("all.xml")).expect("junit"), fs::read(world.path("m/junit.xml")).expect("junit"));
    let junit = fs::read_to_string(world.path("all.xml")).expect("junit");
    assert!(
        junit.contains("<testsuites name=\"vmdeck\" tests=\"6\" failures=\"2\"")
            && junit.matches("<testsuite ").count() == 2
    );
    assert!(junit.contains("<property name=\"shard\" value=\"1, 2, 3\"/>"), "{junit}");
    assert_eq!(json_of(&world, "m/receipt.json")["clean"], true);
    assert_eq!(fs::read_to_string(world.path("m/guests/a/s/two/stderr.log")).expect("log").trim(), "no");
    assert!(world.path("m/report.html").exists());
    // It is a record like any other.
    world.run(&["report", "m", "--markdown", "-"]).exits(0).says("s/two");
    world.run(&["--dry-run", "--rerun-failed", "m"]).exits(0).says("s/two").says("2 cases in all");
    world.run(&["merge", "s1", "s2", "s3", "s4", "-o", "again"]).exits(1);
    let same = std::process::Command::new("diff")
        .args(["-r", "m", "again"])
        .current_dir(world.path(""))
        .output()
        .expect("diff");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout).chars().take(2000).collect::<String>());
    world.run(&["merge", "s1", "s2", "-o", "m"]).exits(2).complains("it holds the record of another run");
    fs::create_dir(world.path("full")).expect("folder");
    fs::write(world.path("full/notes"), "mine").expect("written");
    world.run(&["merge", "s1", "s2", "-o", "full"]).exits(2).complains("set -o to a folder that is not there yet");
    let hidden = fs::read_dir(world.path("")).expect("folder").flatten();
    assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with(".merge-")).count(), 0);
    // Without a place it is among the others.
    world.run(&["merge", "s1", "s2", "s3", "s4"]).exits(1);
    world.run(&["runs"]).exits(0).says("2 failed").says("(merged from 4 records)");
}

#[test]
fn a_shard_that_is_missing_twice_or_of_another_run_is_named() {
    let world = green();
    (1..=3).for_each(|index| drop(shard(&world, index, 3, &[]).exits(0)));
    world.run(&["merge", "s1", "s2", "s3", "-o", "m"]).exits(0);
    let ran = world.run(&["merge", "s1", "s3", "-o", "gap"]).exits(5);
    ran.says("no record of shard 2/3 was given").says("INFRA").says("no shard reported it").says("4 passed, 2 infra");
    assert!(fs::read_to_string(world.path("gap/junit.xml")).expect("junit").contains("errors=\"2\""));
    // The half is made whole later.
    world.run(&["merge", "gap", "s2", "-o", "whole"]).exits(0).says("6 cases: 6 passed");
    world
        .run(&["merge", "s1", "s2", "s3", "--expect", "4", "-o", "few"])
        .exits(5)
        .says("4 records are expected, 3 given");
    world
        .run(&["merge", "s1", "s2", "s1", "-o", "x"])
        .exits(2)
        .complains("both are of run")
        .complains("`s1` (shard 1/3)");
    let again = |dir: &str, args: &[&str]| {
        world.run(&[&["--ci", "--shard", "2/3", "--run-dir", dir], args].concat()).exits(0);
    };
    again("twice", &[]);
    world.run(&["merge", "s1", "s2", "s3", "twice", "-o", "x"]).exits(2).complains("shard 2/3 is there twice");
    world.run(&["merge", "s1", "s2", "s3", "twice", "-o", "forced", "--force"]).exits(0).says("shard 2/3, earlier");
    again("other", &["--set", "suites.s.cases.0.run=echo other"]);
    let ran = world.run(&["merge", "s1", "s3", "other", "-o", "x"]).exits(2);
    ran.complains("`other` (shard 2/3)")
        .complains("the config of their guests and suites differs")
        .complains("--force");
    again("more", &["--repeat", "2"]);
    world.run(&["merge", "s1", "s3", "more", "-o", "x"]).exits(2).complains("not parts of one plan");
    again("named", &["--group", "nightly"]);
    world.run(&["merge", "s1", "s3", "named", "-o", "x"]).exits(2).complains("different runs of CI: none and nightly");
    world.run(&["--ci", "--run-dir", "one", "s/one"]).exits(0);
    world.run(&["merge", "s1", "one", "-o", "x"]).exits(2).complains("s/three@").complains("in one of them only");
    world.run(&["merge", "s1", "one", "-o", "x", "--force"]).exits(2).complains("is in both");
    world.run(&["merge", "s1", "nowhere"]).exits(2).complains("`nowhere`");
    assert!(!world.path("x").exists(), "what is refused leaves nothing");
    // Of hosts that each had a part of their own, nobody expects more than they have.
    world.run(&["--ci", "--run-dir", "of_a", "@a"]).exits(0);
    world.run(&["--ci", "--run-dir", "of_b", "@b"]).exits(0);
    world.run(&["merge", "of_a", "of_b", "-o", "hosts", "--force"]).exits(0).says("6 cases: 6 passed");
}

#[test]
fn what_a_shard_says_against_itself_is_never_green() {
    let world = green();
    (1..=2).for_each(|index| drop(shard(&world, index, 2, &[]).exits(0)));
    for code in [1, 130, 143, 5, 6, 70] {
        rewrite(&world, "s2", |line| {
            let is_end = line.contains("\"run_ended\"");
            let exit = line.find("\"exit\":").filter(|_| is_end).map(|at| at + 7);
            Some(exit.map_or_else(
                || line.to_owned(),
                |at| format!("{}{code}{}", &line[..at], line[at..].trim_start_matches(|c: char| c.is_ascii_digit())),
            ))
        });
        let dir = format!("m{code}");
        let ran = world.run(&["merge", "s1", "s2", "-o", &dir]);
        assert_eq!(ran.code, if code == 6 || code == 70 { code } else { 5 }, "{}{}", ran.out, ran.err);
        let why = format!("shard 2/2 ended with exit code {code}, and none of its cases says why");
        assert!(ran.out.contains(&why), "{}", ran.out);
        let junit = fs::read_to_string(world.path(&format!("{dir}/junit.xml"))).expect("junit");
        assert!(junit.contains("errors=\"1\"") && junit.contains(&why), "{junit}");
    }
    let secret = shard(&world, 1, 2, &["--run-dir", "other", "--group", "x\n::error::y"]);
    assert_eq!(secret.code, 2);
    rewrite(&world, "s1", |line| Some(line.replacen("\"host\":\"", "\"host\":\"x\\n::error::boo", 1)));
    let ran = world.run(&["merge", "s1", "s2", "-o", "host"]);
    assert!(!ran.out.lines().any(|line| line.starts_with("::")), "{}", ran.out);
}

#[test]
fn a_quarantine_and_a_case_that_may_not_be_flaky_are_of_the_plan() {
    let world = world(&[
        ("one", "true", ""),
        ("two", "[ -e $PLACE/mended ] || exit 3", "flaky = \"fail\"\nenv = { PLACE = \"HERE\" }"),
    ]);
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), config.replace("HERE", &world.path("").display().to_string()))
        .expect("written");
    let attempt = |at| [("GITHUB_RUN_ID", "7"), ("GITHUB_RUN_ATTEMPT", at)];
    shard_in_ci(&world, 1, "s1", &attempt("1")).exits(0);
    shard_in_ci(&world, 2, "s2", &attempt("1")).exits(1);
    fs::write(world.path("mended"), "").expect("written");
    shard_in_ci(&world, 2, "s2b", &attempt("2")).exits(0);
    let ran = world.run(&["merge", "s1", "s2", "s2b", "-o", "m"]).exits(1).says("2 passed, 2 failed");
    ran.says("passed only in a later attempt of CI; before: exit 3");
    world.run(&["quarantine", "add", "s/two", "--issue", "https://example.org/1", "--days", "5"]).exits(0);
    shard_in_ci(&world, 2, "s2c", &attempt("3")).exits(0);
    world.run(&["merge", "s1", "s2c", "-o", "x"]).exits(2).complains("not parts of one plan");
    // With the same list they are.
    shard_in_ci(&world, 1, "s1c", &attempt("3")).exits(0);
    world.run(&["merge", "s1c", "s2c", "-o", "same"]).exits(0);
}

#[test]
fn code_of_another_revision_is_another_run() {
    let world = green();
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(args).current_dir(world.path(""));
        assert!(command.output().expect("git").status.success(), "{args:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "vmdeck.toml"]);
    git(&["commit", "-qm", "one"]);
    shard(&world, 1, 2, &[]).exits(0);
    git(&["commit", "-qm", "two", "--allow-empty"]);
    shard(&world, 2, 2, &[]).exits(0);
    world.run(&["merge", "s1", "s2", "-o", "m"]).exits(2).complains("they test different revisions of the code");
}

#[test]
fn a_shard_that_died_is_infra_and_nobody_says_that_its_machines_are_gone() {
    let world = green();
    (1..=2).for_each(|index| drop(shard(&world, index, 2, &[]).exits(0)));
    let whole = fs::read_to_string(world.path("s2/events.jsonl")).expect("events");
    // It ended, and only its last word is lost.
    rewrite(&world, "s2", |line| (!line.contains("\"run_ended\"")).then(|| line.to_owned()));
    world.run(&["merge", "s1", "s2", "-o", "late"]).exits(5).says("the record of shard 2/2 ends without a word");
    // It died while a machine was up, in the middle of a line.
    let at = whole.find("\"case_ended\"").expect("a case");
    fs::write(world.path("s2/events.jsonl"), &whole[..at]).expect("written");
    let ran = world.run(&["merge", "s1", "s2", "-o", "dead"]).exits(6);
    ran.says("3 passed, 3 infra").says("the shard ended without a word");
    let receipt = json_of(&world, "dead/receipt.json");
    assert_eq!(receipt["clean"], false);
    assert!(receipt["resources"].to_string().contains("its run ended without a word"), "{receipt:#}");
    // It died before it had a machine.
    let begun = whole.lines().next().expect("a line").to_owned() + "\n";
    fs::write(world.path("s2/events.jsonl"), begun).expect("written");
    world.run(&["merge", "s1", "s2", "-o", "early"]).exits(5).says("3 passed, 3 infra");
    for (text, why) in
        [("", "has no event"), ("{\"kind\":1}\n", "line 1"), ("noise\n", "no event"), (&whole[20..], "line 1")]
    {
        fs::write(world.path("s2/events.jsonl"), text).expect("written");
        world.run(&["merge", "s1", "s2", "-o", "x"]).exits(2).complains(why).complains("s2/events.jsonl");
    }
    let strange = whole.replace("\"passed\"", "\"perhaps\"");
    fs::write(world.path("s2/events.jsonl"), strange).expect("written");
    world.run(&["merge", "s1", "s2", "-o", "x"]).exits(2).complains("perhaps").complains("newer vmdeck");
}

#[test]
fn a_later_attempt_of_ci_takes_the_place_of_an_earlier_one_and_is_flaky() {
    let world =
        world(&[("one", "echo 1", ""), ("two", "[ -e $PLACE/mended ] || exit 3", "env = { PLACE = \"HERE\" }")]);
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), config.replace("HERE", &world.path("").display().to_string()))
        .expect("written");
    let first = [("GITHUB_RUN_ID", "77"), ("GITHUB_RUN_ATTEMPT", "1")];
    shard_in_ci(&world, 1, "s1", &first).exits(0);
    shard_in_ci(&world, 2, "s2", &first).exits(1);
    fs::write(world.path("mended"), "").expect("written");
    shard_in_ci(&world, 2, "s2b", &[("GITHUB_RUN_ID", "77"), ("GITHUB_RUN_ATTEMPT", "2")]).exits(0);
    let ran = world.run(&["merge", "s1", "s2", "s2b", "-o", "m"]).exits(0).says("2 passed, 2 flaky");
    assert!(ran.out.contains("shard 2/2, attempt 1"), "{}", ran.out);
    assert!(fs::read_to_string(world.path("m/junit.xml")).expect("junit").contains("flakyFailure"));
    let ended = events(&world, "m").into_iter().find(|event| event["kind"] == "case_ended" && event["case"] == "two");
    assert_eq!(ended.expect("told")["earlier"][0]["message"], "exit 3");
    shard_in_ci(&world, 2, "other", &[("GITHUB_RUN_ID", "78")]).exits(0);
    world.run(&["merge", "s1", "other", "-o", "x"]).exits(2).complains("different runs of CI: 77 and 78");
}

#[test]
fn a_record_of_a_stranger_gives_no_file_of_this_host_and_no_escape() {
    let world = green();
    (1..=2).for_each(|index| drop(shard(&world, index, 2, &[]).exits(0)));
    fs::write(world.path("secret"), "tell-no-one").expect("written");
    symlink(world.path("secret"), world.path("s2/guests/a/console.log")).expect("link");
    fs::create_dir_all(world.path("s2/artifacts")).expect("folder");
    symlink(world.path(""), world.path("s2/artifacts/b")).expect("link");
    fs::create_dir_all(world.path("s2/guests/..x")).expect("folder");
    rewrite(&world, "s2", |line| {
        let sly =
            |line: &str| line.replace("\"message\":\"\"", "\"message\":\"\\u001b]0;owned\\u0007\\u001b[2Jhi\\nthere\"");
        Some(sly(line).replace("\"kind\":\"progress\"", "\"kind\":\"teleported\""))
    });
    let extra = "{\"seq\":90,\"at\":\"2026-11-21T08:00:00Z\",\"elapsed_ms\":1,\"kind\":\"teleported\",\"guest\":\"a\",\"to\":{\"x\":[\"mars\"]}}\n";
    let events_file = world.path("s2/events.jsonl");
    let text = fs::read_to_string(&events_file).expect("events");
    let (head, tail) = text.split_at(text.find("{\"seq\":2,").expect("second"));
    fs::write(&events_file, format!("{head}{extra}{tail}")).expect("written");
    let ran =
        world.run(&["merge", "s1", "s2", "-o", "m"]).exits(0).complains("left out: only folders and regular files");
    assert!(!ran.out.contains('\u{1b}'));
    let merged = fs::read_to_string(world.path("m/events.jsonl")).expect("events");
    assert!(!merged.contains("\\u001b") && merged.contains("\"message\":\"hi\\nthere\""), "{merged}");
    let strange: Vec<Value> = events(&world, "m").into_iter().filter(|event| event["kind"] == "teleported").collect();
    assert_eq!(
        (&strange[0]["to"]["x"][0], &strange[0]["guest"], &strange[0]["origin"]),
        (&json!("mars"), &json!("a@2"), &json!("2"))
    );
    let out = std::process::Command::new("grep").args(["-r", "tell-no-one", "m"]).current_dir(world.path("")).output();
    let found = String::from_utf8(out.expect("grep").stdout).expect("text");
    assert_eq!(found, "");
    // A version that may mean something else.
    rewrite(&world, "s2", |line| Some(line.replacen("\"version\":\"0.", "\"version\":\"1.", 1)));
    world.run(&["merge", "s1", "s2", "-o", "x"]).exits(2).complains("written by vmdeck");
}

#[test]
fn machines_of_several_shards_keep_their_logs_apart() {
    let fake = "[guests.g]\nbackend = \"fake\"\n[guests.g.fake]\nconsole = [\"Linux version 6\", \"login:\"]\n";
    let cases =
        suite(&[("one", "one", ""), ("two", "two", "")]).replace("[suites.s]", "[suites.s]\nsetup = \"prepare\"");
    let world = World::new(&format!("{fake}{cases}"));
    (1..=2).for_each(|index| drop(shard(&world, index, 2, &[]).exits(0)));
    world.run(&["merge", "s1", "s2", "-o", "m", "--link"]).exits(0);
    for index in [1, 2] {
        let console = format!("guests/g@{index}/console.log");
        let own = fs::read(world.path(&format!("s{index}/guests/g/console.log"))).expect("log");
        assert_eq!(fs::read(world.path(&format!("m/{console}"))).expect("log"), own, "{console}");
    }
    assert!(!world.path("m/guests/g/console.log").exists());
    let setups = ["g@1", "g@2"].map(|guest| world.path(&format!("m/guests/{guest}/s/+setup")).is_dir());
    assert_eq!(setups, [true, true], "the setup of each");
    let broken = World::new(&format!("{fake}{}", cases.replace("setup = \"prepare\"", "setup = \"fail 3\"")));
    drop((shard(&broken, 1, 2, &[]), shard(&broken, 2, 2, &[])));
    broken.run(&["merge", "s1", "s2", "-o", "m"]);
    for ended in events(&broken, "m").iter().filter(|event| event["cause"] == "setup") {
        let message = ended["message"].as_str().expect("text");
        if let Some(path) = message.split("see ").nth(1) {
            let path = path.trim_end_matches(')');
            assert!(broken.path(&format!("m/{path}")).is_dir(), "{message}");
        }
    }
    let boots: Vec<Value> = events(&world, "m").into_iter().filter(|event| event["kind"] == "guest_state").collect();
    assert!(boots.iter().all(|event| event["guest"] == "g@1" || event["guest"] == "g@2"), "{boots:?}");
    let summary = json_of(&world, "m/summary.json");
    assert_eq!(summary["guests"].as_array().expect("guests").len(), 3);
}

#[test]
fn times_divide_the_next_run_and_a_file_that_is_no_good_is_told() {
    let world = world(&[("slow", "sleep 0.4", ""), ("a", "true", ""), ("b", "true", "")]);
    world.run(&["--ci", "--run-dir", "whole"]).exits(0);
    world.run(&["times", "whole"]).exits(0).complains("`vmdeck-times.json` knows 6 cases");
    let times = json_of(&world, "vmdeck-times.json");
    assert!(times["cases"]["a/local s/slow"]["ms"][0].as_u64().expect("time") >= 400, "{times:#}");
    let by_time = ["--shard-by", "time"];
    (1..=2).for_each(|index| drop(shard(&world, index, 2, &by_time).exits(0)));
    for dir in ["s1", "s2"] {
        let ended = events(&world, dir).into_iter().filter(|event| event["kind"] == "case_ended");
        assert_eq!(ended.filter(|event| event["case"] == "slow").count(), 1, "one of the slow ones each");
    }
    assert_eq!(events(&world, "s1")[0]["shard"]["by"], "time");
    let ran = world.run(&["merge", "s1", "s2", "-o", "m", "--times", "ci/times.json"]).exits(0);
    ran.complains("--shard-by time:ci/times.json");
    let four =
        world.run(&["--dry-run", "--shard", "1/4", "--shard-by", "time"]).exits(0).complains("alone takes about");
    assert!(four.err.contains("more shards do not help"), "{}", four.err);
    // A run counts once, also where it is a part of a merged record.
    let before = fs::read(world.path("vmdeck-times.json")).expect("times");
    symlink("vmdeck-times.json", world.path("link.json")).expect("link");
    world.run(&["times", "whole", "whole", "-o", "link.json"]).exits(0);
    assert_eq!(fs::read(world.path("vmdeck-times.json")).expect("times"), before);
    let ci = fs::read(world.path("ci/times.json")).expect("times");
    world.run(&["times", "m", "s1", "-o", "ci/times.json"]).exits(0);
    assert_eq!(fs::read(world.path("ci/times.json")).expect("times"), ci);
    // The verdict is not that of the times.
    fs::write(world.path("broken.json"), "{").expect("written");
    let ran = world.run(&["merge", "s1", "s2", "-o", "m2", "--times", "broken.json"]).exits(0);
    ran.complains("cannot add times to `broken.json`");
    // Another file, and none, are not the same division.
    fs::write(world.path("bad.json"), "{}").expect("written");
    let ran = world.run(&["--ci", "--shard", "2/2", "--shard-by", "time:bad.json", "--run-dir", "bad"]).exits(0);
    ran.complains("cannot use the times in `bad.json`").complains("divided by count");
    let ran = world.run(&["merge", "s1", "bad", "-o", "x"]);
    assert_eq!(ran.code, 2);
    world.run(&["--ci", "--shard", "2/2", "--shard-by", "time:ci/times.json", "--run-dir", "other"]).exits(0);
    let ran = world.run(&["merge", "s1", "other", "-o", "x"]).exits(2);
    ran.complains("divided by different times");
    world.run(&["times", "whole", "-o", "bad.json"]).exits(2).complains("cannot add times to `bad.json`");
    for bad in ["by-night", "time:", "hash"] {
        world.run(&["--ci", "--shard", "1/2", "--shard-by", bad]).exits(2).complains("count, time, or time:FILE");
    }
    world.run(&["--ci", "--shard-by", "time"]).exits(2).complains("--shard");
}

#[test]
fn a_shard_without_a_case_is_green_and_waits_for_nobody() {
    let world = world(&[("one", "true", "")]);
    let holder = world.start(&["lock", "exec", "--", "sleep", "60"]);
    vmdeck_testkit::world::eventually("the lock is held", std::time::Duration::from_secs(10), || {
        world.path("lock.d").exists()
    });
    shard(&world, 5, 5, &["--lock-timeout", "1s"]).exits(0).says("no tests run").complains("shard 5/5 has no case");
    vmdeck_testkit::world::signal(&holder, "TERM");
    vmdeck_testkit::world::finish(holder);
    (1..=4).for_each(|index| drop(shard(&world, index, 5, &[]).exits(0)));
    world.run(&["merge", "s1", "s2", "s3", "s4", "s5", "-o", "m"]).exits(0).says("2 cases: 2 passed");
    world.run(&["merge", "s1", "s2", "-o", "gap"]).exits(5).says("no record of shard 3/5, 4/5, 5/5 was given");
}
