//! UTM: which machine, how it is started and put back, commands and files by its agent, copies of a template.

use serde_json::{Value, json};
use std::time::Duration;
use vmdeck_testkit::{
    desktop::{DesktopWorld, ID, machine, utm, utm_guest as guest},
    world::{eventually, finish, signal},
};

const NO_SCAN: &str = "networks = []";

fn other(name: &str, status: &str) -> Value {
    json!({ "uuid": "11111111-195C-499E-BDC9-066470BCA5C9", "name": name, "status": status })
}

#[test]
fn the_machine_whose_name_says_so_is_adopted_used_and_put_back() {
    for status in ["stopped", "started", "paused"] {
        let world = json!([other("ci-windows", "started"), machine("ci-linux", status), other("My Linux", "paused")]);
        let desk = DesktopWorld::new(&guest("", NO_SCAN), &utm(&world, &json!([])));
        desk.ci(&[]).exits(0).says("linux was put back to how it was found");
        assert_eq!(desk.utm(), world, "{status}");
        assert_eq!(desk.count("utmctl delete") + desk.count("utmctl clone"), 0);
        desk.assert_nothing_left();
    }
}

#[test]
fn a_machine_is_meant_by_its_name_or_its_uuid_and_else_what_was_seen_is_told() {
    let world = json!([machine("My own box", "stopped"), other("ci-linux", "stopped")]);
    for wanted in ["My own box", ID, &ID.to_lowercase()] {
        let desk = DesktopWorld::new(&guest(&format!("machine = \"{wanted}\""), NO_SCAN), &utm(&world, &json!([])));
        desk.ci(&[]).exits(0);
        assert!(desk.calls().contains(&format!("utmctl start --hide {ID}")), "{:?}", desk.calls());
    }
    for (keys, world) in [
        ("machine = \"nope\"", world.clone()),
        ("", json!([machine("My own box", "stopped"), other("ci-darwin", "stopped")])),
    ] {
        let desk = DesktopWorld::new(&guest(keys, NO_SCAN), &utm(&world, &json!([])));
        desk.ci(&[])
            .exits(3)
            .says("cannot find the machine of guest `linux`")
            .says("`My own box` (FC379EA4")
            .says("set `guests.linux.machine`");
        assert_eq!(desk.count("utmctl start"), 0);
    }
}

#[test]
fn a_copy_of_a_template_is_made_used_and_deleted() {
    let world = json!([machine("template", "stopped")]);
    let desk = DesktopWorld::new(&guest("", "networks = []\nclone = \"template\""), &utm(&world, &json!([])));
    desk.ci(&[]).exits(0).says("removed linux (verified");
    assert_eq!(desk.utm(), world);
    assert!(desk.calls().iter().any(|c| c.starts_with(&format!("utmctl clone --hide {ID} --name vmdeck-"))));
    desk.assert_nothing_left();
}

#[test]
fn a_template_that_runs_is_told_and_an_answer_that_came_too_late_is_no_failure() {
    let desk = DesktopWorld::new(
        &guest("", "networks = []\nclone = \"template\""),
        &utm(&json!([machine("template", "started")]), &json!([])),
    );
    desk.ci(&[]).exits(3).says("only a stopped machine can be copied").says("utmctl stop --request");
    assert_eq!(desk.count("utmctl clone"), 0);
    let late = json!([{ "on": "clone", "effect": "full", "event": -1712 }, { "on": "delete", "effect": "full", "event": -1712 }]);
    let world = json!([machine("template", "stopped")]);
    let desk = DesktopWorld::new(&guest("", "networks = []\nclone = \"template\""), &utm(&world, &late));
    desk.ci(&[]).exits(0);
    assert_eq!(desk.utm(), world);
}

#[test]
fn what_fails_in_passing_is_tried_again_and_a_command_never() {
    let passing = json!([{ "on": "start", "event": -609 }, { "on": "list", "event": -609, "times": 2 }, { "on": "status", "event": -1712 }]);
    let desk = DesktopWorld::new(&guest("", NO_SCAN), &utm(&json!([machine("ci-linux", "stopped")]), &passing));
    desk.ci(&[]).exits(0);
    let lost = json!([{ "on": "exec", "arg": "echo fine", "event": -609 }]);
    let desk = DesktopWorld::new(
        &guest("launch_retries = 1", NO_SCAN).replace("launch_retries = 2\n", ""),
        &utm(&json!([machine("ci-linux", "stopped")]), &lost),
    );
    desk.ci(&[]).exits(5);
    assert_eq!(desk.calls().iter().filter(|c| c.contains("echo fine")).count(), 1);
}

#[test]
fn hide_is_tried_and_left_out_where_it_fails() {
    let fault = json!([{ "on": "start", "arg": "--hide", "times": -1, "event": -50 }]);
    let desk = DesktopWorld::new(&guest("", NO_SCAN), &utm(&json!([machine("ci-linux", "stopped")]), &fault));
    desk.ci(&[]).exits(0);
    assert!(desk.calls().contains(&format!("utmctl start {ID}")));
    let desk = DesktopWorld::new(
        &guest("", "networks = []\nhide = \"never\""),
        &utm(&json!([machine("ci-linux", "stopped")]), &json!([])),
    );
    desk.ci(&[]).exits(0);
    // The check of the host asks with the guest's settings too.
    assert!(!desk.calls().iter().any(|c| c.contains("--hide")), "{:?}", desk.calls());
    let desk = DesktopWorld::new(
        &guest("", "networks = []\ndisposable = true"),
        &utm(&json!([machine("ci-linux", "stopped")]), &json!([])),
    );
    desk.ci(&[]).exits(0);
    assert!(desk.calls().contains(&format!("utmctl start --hide --disposable {ID}")));
}

#[test]
fn an_agent_that_comes_late_is_waited_for() {
    let machine = json!({ "uuid": ID, "name": "ci-linux", "status": "stopped", "start_polls": 3, "agent_after": 3 });
    let desk = DesktopWorld::new(&guest("", NO_SCAN), &utm(&json!([machine]), &json!([])));
    desk.ci(&[]).exits(0);
    let desk = DesktopWorld::new(
        &guest("boot_timeout = \"1s\"", NO_SCAN).replace("boot_timeout = \"20s\"\n", ""),
        &utm(&json!([{ "uuid": ID, "name": "ci-linux", "status": "stopped", "agent": false }]), &json!([])),
    );
    desk.ci(&[]).exits(5).says("guest agent is not running or not installed");
    assert_eq!(desk.utm()[0]["status"], "stopped");
}

#[test]
fn a_machine_that_ignores_a_polite_request_is_stopped_by_force() {
    let stubborn = json!({ "uuid": ID, "name": "ci-linux", "status": "stopped", "ignores_request": true });
    let desk = DesktopWorld::new(&guest("", NO_SCAN), &utm(&json!([stubborn]), &json!([])));
    desk.ci(&[]).exits(0);
    assert_eq!(desk.utm()[0]["status"], "stopped");
    let calls = desk.calls();
    let stops: Vec<&String> = calls.iter().filter(|c| c.starts_with("utmctl stop")).collect();
    assert_eq!(stops, [&format!("utmctl stop --hide --request {ID}"), &format!("utmctl stop --hide --force {ID}")]);
}

#[test]
fn nothing_of_a_case_is_shell_text_outside_of_its_own() {
    let config = guest("", NO_SCAN)
        .replace("[suites.s]", "[suites.s]\nenv = { HOSTILE = \"'; touch pwned; $(touch pwned) `touch pwned`\" }")
        .replace("run = \"echo fine; pwd\"", "run = '''printf %s \"$HOSTILE\"; echo; exit 0''' ");
    let desk = DesktopWorld::new(&config, &utm(&json!([machine("ci-linux", "stopped")]), &json!([])));
    desk.ci(&[]).exits(0);
    assert_eq!(desk.record("guests/linux/s/a/stdout.log"), "'; touch pwned; $(touch pwned) `touch pwned`\n");
    assert!(!desk.path("desk/guests/ci-linux/pwned").exists());
}

#[test]
fn files_go_in_by_push_and_are_compared() {
    let config = guest("", NO_SCAN)
        .replace("echo fine; pwd", "cat hello; yes made | head -c 100000 > out.xml")
        .replace("[suites.s]", "[suites.s]\nartifacts = [\"*.xml\"]");
    let with_source = |desk: &DesktopWorld| {
        desk.add(&config);
        desk.add(&format!(
            "[guests.linux.source]\npath = \"tree\"\nto = \"{}\"\n",
            desk.path("guest-src/app").display()
        ));
        std::fs::create_dir_all(desk.path("tree")).expect("tree");
        std::fs::write(desk.path("tree/hello"), "from the host\n").expect("file");
    };
    // The way out by output is narrow: artifacts are pulled.
    let narrow = json!({ "uuid": ID, "name": "ci-linux", "status": "stopped", "max_output": 4000 });
    let desk = DesktopWorld::new("", &utm(&json!([narrow]), &json!([])));
    with_source(&desk);
    desk.ci(&[]).exits(0);
    assert_eq!(desk.record("guests/linux/s/a/stdout.log"), "from the host\n");
    assert_eq!(desk.record("artifacts/linux/s/out.xml").len(), 100_000);
    assert_eq!(desk.count("utmctl file pull"), 1);
    let cut = json!({ "uuid": ID, "name": "ci-linux", "status": "stopped", "cut_files": 100 });
    let desk = DesktopWorld::new("", &utm(&json!([cut]), &json!([])));
    with_source(&desk);
    desk.ci(&[]).exits(5).says("it arrived with different contents");
}

#[test]
fn output_that_the_agent_cut_is_no_pass() {
    let cut = json!({ "uuid": ID, "name": "ci-linux", "status": "stopped", "max_output": 4000 });
    let config = guest("", NO_SCAN).replace("echo fine; pwd", "yes | head -c 9000");
    let desk = DesktopWorld::new(&config, &utm(&json!([cut]), &json!([])));
    desk.ci(&[]).exits(5).says("the end of its standard output is missing");
}

#[test]
fn a_command_that_is_cancelled_ends_in_the_guest() {
    let config = guest("", NO_SCAN)
        .replace("echo fine; pwd", "sleep 72.25")
        .replace("name = \"a\"", "name = \"a\"\ntimeout = \"700ms\"");
    let desk = DesktopWorld::new(&config, &utm(&json!([machine("ci-linux", "stopped")]), &json!([])));
    desk.ci(&[]).exits(1);
    eventually("the end of the sleep", Duration::from_secs(5), || {
        !desk.processes().iter().any(|p| p.contains("72.25"))
    });
}

#[test]
fn without_the_permission_terminal_app_carries_the_commands() {
    let mut found = utm(&json!([machine("ci-linux", "stopped")]), &json!([]));
    found["utm"]["denied"] = json!(true);
    let desk = DesktopWorld::new(&guest("", NO_SCAN), &found);
    desk.ci(&[]).exits(3).says("-1743").says("Automation");
    std::fs::remove_dir_all(desk.path("record")).expect("record");
    let open = format!("host.tools.open=\"{}\"", desk.path("desk/bin/open").display());
    desk.ci(&["--set", &open]).exits(0);
    assert_eq!(desk.verdict_of("s/a"), "passed");
    assert_eq!(desk.utm(), json!([machine("ci-linux", "stopped")]));
    std::fs::remove_dir_all(desk.path("record")).expect("record");
    desk.ci(&["--set", &open, "--set", "guests.linux.utm.terminal=never"]).exits(3);
}

#[test]
fn kill_9_with_a_copy_or_an_adopted_machine_is_finished_by_the_guardian() {
    for (keys, name, after) in [("clone = \"template\"", "template", "stopped"), ("", "ci-linux", "stopped")] {
        let config = guest("", &format!("networks = []\n{keys}")).replace("echo fine; pwd", "sleep 30");
        let world = json!([machine(name, after)]);
        let desk = DesktopWorld::new(&config, &utm(&world, &json!([])));
        let run = desk.start(&["--ci", "--run-dir", "record"]);
        eventually("the case", Duration::from_secs(20), || desk.calls().iter().any(|c| c.contains("sleep 30")));
        signal(&run, "KILL");
        finish(run);
        desk.guardian_ends("killed");
        assert_eq!(desk.utm(), world);
    }
}

#[test]
fn list_and_cleanup_know_utms_machines() {
    let world = json!([machine("test-old", "paused"), other("mine", "started")]);
    let desk = DesktopWorld::new("", &utm(&world, &json!([])));
    desk.run(&["list"]).exits(0).says("test-old").says("not ours");
    desk.run(&["cleanup", "--all", "--force", "--set", "host.test_prefixes=[\"test-\"]"])
        .exits(0)
        .says("removed test-old");
    assert_eq!(desk.utm(), json!([other("mine", "started")]));
    let refused = json!([{ "on": "list", "times": -1, "event": -10004 }]);
    let desk = DesktopWorld::new("", &utm(&world, &refused));
    desk.run(&["list"]).exits(3).complains("-10004");
}
