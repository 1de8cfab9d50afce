//! Suites whose guests belong together, on real kernels: all machines or none, a network of their own, and a lost one is nobody's verdict.

use std::time::Duration;
use vmdeck_testkit::{
    micro::Micro,
    world::{Ran, World, eventually, finish, signal},
};

/// A world with a suite `net` of these roles, each with a machine of its own, and these cases: name, where, further keys, command.
fn world(roles: &[&str], keys: &str, cases: &[(&str, &str, &str, &str)]) -> World {
    let guest = Micro::default().guest("micro");
    let roles: Vec<String> = roles.iter().map(|role| format!("{role} = \"micro\"")).collect();
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let case = |(name, on, keys, run): &(&str, &str, &str, &str)| {
        format!("[[suites.net.cases]]\nname = \"{name}\"\non = {on}\n{keys}\nrun = {}\n", text(run))
    };
    let cases: String = cases.iter().map(case).collect();
    World::new(&format!("{guest}[suites.net]\nroles = {{ {} }}\n{keys}\n{cases}", roles.join(", ")))
}

/// Returns each case with where it ran and its verdict, in the order of the names.
fn verdicts(world: &World) -> Vec<String> {
    let text = |event: &serde_json::Value, key: &str| event[key].as_str().expect("text").to_owned();
    let of = |e: &serde_json::Value| format!("{}@{} {}", text(e, "case"), text(e, "guest"), text(e, "verdict"));
    let mut all: Vec<String> = world.of_kind("case_ended").iter().map(of).collect();
    all.sort();
    all
}

/// Returns what a case says of itself in the report.
fn message(world: &World, case: &str) -> String {
    let ended = world.of_kind("case_ended");
    let event = ended.iter().find(|event| event["case"] == case).expect("ended");
    event["message"].as_str().expect("text").to_owned()
}

/// Answers every connection with the run's id, from when the case has ended.
const SERVE: &str = "nc -ll -p 7000 -e sh -c 'echo \"$VMDECK_RUN\"' >/dev/null 2>&1 </dev/null &\n\
                     until netstat -ltn | grep -q :7000; do :; done";

#[test]
fn machines_talk_by_the_names_of_their_roles_in_a_network_of_their_own() {
    let world = world(
        &["server", "client", "by-stander"],
        "setup = \"echo $VMDECK_ROLE of $VMDECK_SUITE > role\"",
        &[
            (
                "serve",
                "\"server\"",
                "background = \"until-end\"\nready = { port = 7000 }",
                "nc -ll -p 7000 -e sh -c 'echo \"$VMDECK_RUN\"'",
            ),
            ("ask", "\"client\"", "needs = [\"serve\"]", "test \"$(nc server 7000)\" = \"$VMDECK_RUN\""),
            (
                "all",
                "[\"server\", \"client\", \"by-stander\"]",
                "",
                "cat role\ntest \"$VMDECK_GUEST\" = \"net.$VMDECK_ROLE\"\ntest \"$VMDECK_CASE/$VMDECK_ATTEMPT\" = all/1\n\
                 for a in $VMDECK_SERVER_ADDR $VMDECK_CLIENT_ADDR $VMDECK_BY_STANDER_ADDR by-stander; do sudo ping -c 1 -w 5 $a; done",
            ),
            // The network has no way out, and nobody of this host is in it.
            ("alone", "\"client\"", "", "! sudo ping -c 1 -w 2 10.213.77.1\n! ip route | grep 'default.*10.213'"),
        ],
    );
    world.ci(&["--junit", "junit.xml"]).exits(0);
    let passed = [
        "all@net.by-stander",
        "all@net.client",
        "all@net.server",
        "alone@net.client",
        "ask@net.client",
        "serve@net.server",
    ];
    assert_eq!(verdicts(&world), passed.map(|case| format!("{case} passed")));
    assert!(world.record("guests/net.client/net/all/stdout.log").starts_with("client of net\n"));
    let junit = std::fs::read_to_string(world.path("junit.xml")).expect("report");
    assert!(junit.contains("net.by-stander"), "{junit}");
    world.assert_nothing_left();
}

#[test]
fn a_machine_that_dies_is_nobodys_verdict_and_is_named() {
    let dies = "sudo sh -c '(sleep 1; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &'";
    let world = world(
        &["server", "client"],
        "",
        &[
            ("dies-soon", "\"server\"", "", dies),
            ("waits", "\"client\"", "", "sleep 60"),
            ("later", "[\"client\", \"server\"]", "", "true"),
        ],
    );
    world.ci(&[]).exits(5);
    let wanted =
        ["dies-soon@net.server passed", "later@net.client infra", "later@net.server infra", "waits@net.client infra"];
    assert_eq!(verdicts(&world), wanted);
    let why = message(&world, "waits");
    assert!(why.starts_with("guest `net.server`, which takes part in the suite, was lost: "), "{why}");
    assert!(why.contains("panic"), "{why}");
    assert!(
        message(&world, "later").starts_with("guest `net.server` was lost before: "),
        "{}",
        message(&world, "later")
    );
    // What is known of both is in the record.
    for guest in ["net.server", "net.client"] {
        assert!(!world.record(&format!("guests/{guest}/diagnostics.txt")).is_empty());
        assert!(!world.record(&format!("guests/{guest}/console.log")).is_empty());
    }
    world.assert_nothing_left();
}

#[test]
fn a_case_that_fails_because_of_a_dead_peer_has_not_failed() {
    // The connection breaks before anybody has heard why.
    let serve = "nc -l -p 7000 -e sh -c 'sudo sh -c \"echo c > /proc/sysrq-trigger\"; sleep 60' >/dev/null 2>&1 </dev/null & true";
    let ask = "nc -w 1 server 7000 </dev/null; exit 1";
    let world = world(
        &["server", "client"],
        "",
        &[("serve", "\"server\"", "", serve), ("ask", "\"client\"", "retries = 2", ask)],
    );
    world.ci(&[]).exits(5);
    assert_eq!(verdicts(&world), ["ask@net.client infra", "serve@net.server passed"]);
}

#[test]
fn where_one_machine_does_not_come_up_no_case_begins_and_all_are_taken_down() {
    let bad = Micro { append: "init=/missing rdinit=/missing", ..Micro::default() }.guest("bad");
    let good = Micro::default().guest("good");
    let world = World::new(&format!(
        "{good}{bad}[suites.net]\nroles = {{ a = \"good\", b = \"bad\" }}\n\
         [[suites.net.cases]]\nname = \"never\"\non = [\"a\", \"b\"]\nrun = \"true\"\n"
    ));
    world.ci(&[]).exits(5);
    assert_eq!(verdicts(&world), ["never@net.a infra", "never@net.b infra"]);
    assert!(message(&world, "never").contains("guest `net.b`"), "{}", message(&world, "never"));
    assert!(world.of_kind("case_started").is_empty());
    world.assert_nothing_left();
}

#[test]
fn a_machine_that_restarts_is_in_its_network_again() {
    let again = "[ \"$VMDECK_REBOOT_COUNT\" = 1 ] || \"$VMDECK_REBOOT\"\nip addr show eth1";
    let world = world(
        &["server", "client"],
        "run_as = \"root\"",
        &[
            ("again", "\"server\"", "reboot = \"expected\"", again),
            ("serve", "\"server\"", "", SERVE),
            ("ask", "\"client\"", "", "test \"$(nc server 7000)\" = \"$VMDECK_RUN\""),
        ],
    );
    world.ci(&[]).exits(0);
    assert!(world.record("guests/net.server/net/again/stdout.log").contains("10.213.77.12/24"));
}

#[test]
fn runs_beside_each_other_hear_nothing_of_each_other() {
    let worlds: Vec<World> = (0..3)
        .map(|_| {
            world(
                &["server", "client"],
                "",
                &[
                    ("serve", "\"server\"", "", SERVE),
                    (
                        "ask",
                        "\"client\"",
                        "",
                        "for i in 1 2 3 4 5; do test \"$(nc server 7000)\" = \"$VMDECK_RUN\"; done",
                    ),
                ],
            )
        })
        .collect();
    let children: Vec<_> = worlds.iter().map(|world| world.start(&["--ci", "--run-dir", "record"])).collect();
    for (world, child) in worlds.iter().zip(children) {
        finish(child).exits(0);
        world.assert_nothing_left();
    }
}

#[test]
fn an_interrupt_takes_all_of_them_down() {
    let world = world(
        &["server", "client"],
        "",
        &[("waits", "\"client\"", "", "sleep 60"), ("later", "\"server\"", "", "true")],
    );
    let child = world.start(&["--ci", "--run-dir", "record"]);
    let begun = || {
        let events = std::fs::read_to_string(world.path("record/events.jsonl")).unwrap_or_default();
        events.contains("case_started")
    };
    eventually("the case", Duration::from_mins(1), begun);
    signal(&child, "INT");
    let ran: Ran = finish(child).exits(130);
    assert_eq!(verdicts(&world), ["later@net.server cancelled", "waits@net.client cancelled"], "{}", ran.out);
    world.assert_nothing_left();
}

#[test]
fn a_machine_that_was_kept_is_found_by_its_name_in_the_run() {
    let world = world(&["server", "client"], "", &[("fails", "\"client\"", "", "exit 1")]);
    world.ci(&["--keep", "failed"]).exits(1);
    assert!(
        world.record("events.jsonl").contains("the private network of its suite, if it had one, ends with this run")
    );
    world.run(&["shell", "net.client", "--", "cat /etc/hosts"]).exits(0).says("10.213.77.12 server # vmdeck");
    world.run(&["cleanup", "--force"]).exits(0);
    world.assert_nothing_left();
    world.run(&["shell", "net.client", "--", "true"]).exits(2).complains("the machines of its suite are not up");
}
