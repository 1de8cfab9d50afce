//! Cases that go on beside those behind them.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{net::TcpListener, process::Command};
use vmdeck_testkit::world::World;

/// Returns a world with one guest, this host, and these cases.
fn world(cases: &str) -> World {
    World::new(&format!("[guests.here]\nbackend = \"local\"\n[suites.s]\n{cases}"))
}

fn case(name: &str, keys: &str, run: &str) -> String {
    format!("[[suites.s.cases]]\nname = \"{name}\"\n{keys}\nrun = {}\n", serde_json::Value::from(run))
}

fn messages(world: &World) -> Vec<String> {
    let ended = world.of_kind("case_ended");
    ended.iter().map(|event| format!("{} {}", event["case"].as_str().expect("case"), event["message"])).collect()
}

#[test]
fn a_server_goes_on_beside_the_others_to_the_end_of_its_suite() {
    let word = format!("61.{}", fastrand::u32(1000..9999));
    let server = case(
        "serve",
        "background = \"until-end\"\nready = \"/listening/\"\nexpect = { not_stderr = \"/panic/\" }",
        &format!("sleep 0.2; echo up > up; echo now listening >&2; sleep {word}; echo never"),
    );
    let client = case("ask", "needs = [\"serve\"]", "cat up");
    let world = world(&format!("{server}{client}"));
    let ran = world.ci(&["s/ask"]).exits(0);
    world.assert_verdicts(&[("s/ask", "passed"), ("s/serve", "passed")]);
    assert_eq!(world.record("guests/here/s/serve/stderr.log"), "now listening\n");
    let started = world.of_kind("case_started");
    assert_eq!((&started[0]["background"], &started[1]["background"]), (&true.into(), &serde_json::Value::Null));
    let left = Command::new("pgrep").args(["-f", &format!("sleep {word}")]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "{}", ran.out);
    world.assert_nothing_left();
}

#[test]
fn a_port_on_which_it_listens_shows_that_it_is_ready() {
    let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let listen = format!(
        "python3 -c \"import socket,time; time.sleep(0.3); s=socket.socket(); s.bind(('127.0.0.1',{port})); s.listen(); time.sleep(60)\""
    );
    let server = case("serve", &format!("background = \"until-end\"\nready = {{ port = {port} }}"), &listen);
    let ask = format!("python3 -c \"import socket; socket.create_connection(('127.0.0.1',{port}))\"");
    let world = world(&format!("{server}{}", case("ask", "", &ask)));
    world.ci(&[]).exits(0);
    world.assert_verdicts(&[("s/ask", "passed"), ("s/serve", "passed")]);
}

#[test]
fn what_goes_wrong_beside_them_is_never_green() {
    let ready = "background = \"until-end\"\nready = \"ready\"\n";
    for (keys, run, exit, verdicts, says) in [
        // At once, so that its end may come behind that of the suite.
        (
            "background = \"until-end\"",
            "./no-such-server",
            1,
            ["", "", "failed"],
            "it ended before its suite: exit 127",
        ),
        // It ends while another runs: that one is judged by itself, those behind it are not run.
        (
            "background = \"until-end\"",
            "until [ -e begun ]; do sleep 0.05; done",
            1,
            ["passed", "skipped", "failed"],
            "it ended before its suite: exit 0",
        ),
        (
            ready,
            "echo ready; until [ -e begun ]; do sleep 0.05; done; exit 4",
            1,
            ["passed", "skipped", "failed"],
            "it ended before its suite: exit 4",
        ),
        (ready, "exit 5", 1, ["skipped", "skipped", "failed"], "it ended before its suite: exit 5"),
        (
            &format!("{ready}timeout = \"300ms\""),
            "sleep 60",
            1,
            ["skipped", "skipped", "failed"],
            "it was not ready within 0.3s",
        ),
        (
            "background = \"until-end\"\nready = { port = 1 }\ntimeout = \"300ms\"",
            "sleep 60",
            1,
            ["skipped", "skipped", "failed"],
            "it was not ready within",
        ),
        (
            &format!("{ready}expect = {{ stdout = \"/never/\" }}"),
            "echo ready; sleep 60",
            1,
            ["passed", "passed", "failed"],
            "no line of stdout matches",
        ),
        (
            &format!("{ready}expect = {{ not_stderr = \"/WARN/\" }}"),
            "echo WARN >&2; echo ready; sleep 60",
            1,
            ["passed", "passed", "failed"],
            "a line of stderr matches",
        ),
        (&format!("{ready}dir = \"/no/such\""), "true", 5, ["skipped", "skipped", "infra"], "/no/such"),
    ] {
        let first = "touch begun; sleep 0.5";
        let all = [case("bg", keys, run), case("one", "", first), case("two", "", "true")].concat();
        let world = world(&all);
        let ran = world.ci(&[]).exits(exit);
        let told = messages(&world);
        for (name, verdict) in ["one", "two", "bg"].iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_empty()) {
            assert_eq!(world.verdict_of(&format!("s/{name}")), verdict, "{run}: {}", ran.out);
        }
        assert!(told.iter().any(|line| line.starts_with("bg ") && line.contains(says)), "{run}: {told:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn a_cancelled_run_ends_it_too() {
    let all = [case("bg", "background = \"until-end\"", "sleep 60"), case("one", "", "sleep 60")].concat();
    let world = world(&all);
    let (child, mut stdin) = world.controlled(&[]);
    world.until_event(r#""case":"one""#);
    std::io::Write::write_all(&mut stdin, b"{\"command\":\"cancel\",\"reason\":\"user\"}\n").expect("told");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130));
    world.assert_verdicts(&[("s/one", "cancelled"), ("s/bg", "cancelled")]);
    world.assert_nothing_left();
}

#[test]
fn one_alone_that_has_ended_is_not_taken_for_one_that_goes_on() {
    for run in ["exit 3", "echo up; exit 7", "true"] {
        let world = world(&case("bg", "background = \"until-end\"", run));
        world.ci(&[]).exits(1).says("it ended before its suite");
    }
}

#[test]
fn a_port_that_somebody_else_has_shows_nothing() {
    let other = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = other.local_addr().expect("address").port();
    let keys = format!("background = \"until-end\"\nready = {{ port = {port} }}");
    let world = world(&[case("bg", &keys, "sleep 60"), case("one", "", "true")].concat());
    world.ci(&[]).exits(1).says("something listens on port");
    world.assert_verdicts(&[("s/bg", "failed"), ("s/one", "skipped")]);
}

/// What goes on is judged by those beside it, so whoever asks for it has them as well, and they have it.
#[test]
fn it_is_selected_with_those_beside_which_it_goes_on() {
    let all = [
        case("first", "", "true"),
        case("bg", "background = \"until-end\"", "until [ -e go ] && [ ! -e well ]; do sleep 0.05; done; exit 1"),
        case("one", "", "touch go; sleep 0.5"),
        case("two", "", "true"),
    ];
    let world = world(&all.concat());
    let ids = |args: &[&str]| -> Vec<String> {
        let ran = world.run(&[&["list", "--cases"], args].concat()).exits(0);
        let has = |name: &&str| ran.out.contains(&format!("s/{name}"));
        ["first", "bg", "one", "two"].iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect()
    };
    assert_eq!(ids(&["s/two"]), ["bg", "two"]);
    assert_eq!(ids(&["s/bg"]), ["bg", "one", "two"]);
    assert_eq!(ids(&["s/first"]), ["first"]);
    for (shard, dir, exit) in [("1/3", "one", 0), ("2/3", "two", 1), ("3/3", "three", 0)] {
        world.run(&["--ci", "--run-dir", dir, "--shard", shard]).exits(exit);
    }
    let of = |shard: &str| {
        let events = std::fs::read_to_string(world.path(&format!("{shard}/events.jsonl"))).expect("events");
        events.lines().filter(|line| line.contains("\"kind\":\"case_ended\"")).count()
    };
    assert_eq!([of("one"), of("two"), of("three")], [1, 3, 0], "those behind it are where it is");
    // What failed is run again beside those that could not be run.
    world.run(&["--ci"]).exits(1);
    let again = world.run(&["--ci", "--rerun-failed"]).exits(1);
    assert!(again.out.contains("s/one") && again.out.contains("s/two"), "{}", again.out);
}

#[test]
fn a_machine_that_is_given_up_is_no_loss_of_what_went_on_in_it() {
    let all = [
        case("bg", "background = \"until-end\"", "sleep 60"),
        case("one", "after_each = \"exit 1\"", "true"),
        case("two", "", "true"),
    ];
    let world = world(&all.concat());
    world.ci(&[]).exits(1);
    for (name, verdict) in [("bg", "passed"), ("one", "failed"), ("two", "skipped")] {
        assert_eq!(world.verdict_of(&format!("s/{name}")), verdict);
    }
}

#[test]
fn what_it_cannot_be_is_a_mistake() {
    for (keys, says) in [
        ("ready = \"x\"", "only a case that goes on is waited for"),
        ("background = \"for-ever\"", "is not one of until-end"),
        ("background = \"until-end\"\nretries = 2", "has no `retries`"),
        ("background = \"until-end\"\nreboot = \"allowed\"", "has no `reboot`"),
        ("background = \"until-end\"\nexpect = { exit = 3 }", "does not exit"),
        ("background = \"until-end\"\nexpect = { files = [\"a\"] }", "has no files that could be looked for"),
        ("background = \"until-end\"\nready = { port = 0 }", "a port is a number from 1 to 65535"),
        ("background = \"until-end\"\nready = { ports = 1 }", "write a glob or /regex/"),
        ("background = \"until-end\"\nready = \"/(/\"", "ready"),
    ] {
        world(&case("x", keys, "true")).run(&["config", "check"]).exits(2).complains(says);
    }
    let fresh = [case("bg", "background = \"until-end\"", "sleep 9"), case("one", "fresh = true", "true")].concat();
    world(&fresh).run(&["config", "check"]).exits(2).complains("in which `bg` does not go on");
}
