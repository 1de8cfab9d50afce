//! Multipass: the flow of the old scripts, launches that go wrong, adopted machines, cleaning up.

use serde_json::{Value, json};
use std::time::Duration;
use vmdeck_testkit::{
    desktop::{DesktopWorld, multipass, multipass_guest as guest},
    world::{eventually, finish, signal},
};

fn none() -> Value {
    multipass(&json!({}), &json!([]))
}

fn running(ip: &str) -> Value {
    json!({ "state": "Running", "ipv4": [ip], "used": 2_147_483_648_u64, "snapshots": {} })
}

#[test]
fn a_machine_is_launched_used_and_deleted() {
    let desk = DesktopWorld::new(&guest(""), &none());
    desk.ci(&["--verbose"])
        .exits(0)
        .says("removed u (verified")
        .says("1.1GiB of disk freed")
        .says("u | Retrieving image: 7%");
    assert_eq!(desk.verdicts(), [("s/a".to_owned(), "passed".to_owned())]);
    assert_eq!(desk.multipass(), json!({}));
    assert_eq!(desk.count("multipass purge"), 0);
    desk.assert_nothing_left();
}

#[test]
fn everything_that_launch_takes_reaches_it() {
    let keys = "cpus = 4\ndisk = \"20GiB\"\n[guests.u.multipass]\nimage = \"24.04\"\ncloud_init = \"init.yaml\"\n\
                mounts = [\"/tmp:/src\"]\nnetworks = [\"en0\"]\nlaunch_timeout = \"7m\"";
    let desk = DesktopWorld::new(&guest(keys), &none());
    std::fs::write(desk.path("init.yaml"), "#cloud-config\n").expect("file");
    desk.ci(&[]).exits(0);
    let calls = desk.calls();
    let launch = calls.iter().find(|c| c.starts_with("multipass launch")).expect("launched");
    let init = format!("--cloud-init {}", desk.path("init.yaml").display());
    for part in [
        "launch 24.04 --name vmdeck-",
        "--cpus 4",
        "--memory 1073741824",
        "--disk 21474836480",
        "--timeout 4020",
        &init,
        "--mount /tmp:/src",
        "--network en0",
    ] {
        assert!(launch.contains(part), "{part:?} not in {launch}");
    }
}

/// The old scripts' `run-all`: every platform has a machine of its own, and it is gone before the next one is made.
#[test]
fn suites_one_machine_at_a_time_each_deleted_after_its_suite() {
    let suite = |name: &str, run: &str| {
        format!(
            "[suites.{name}]\nguests = [\"u\"]\nsetup = \"true\"\n[[suites.{name}.cases]]\nname = \"t\"\nrun = \"{run}\"\n"
        )
    };
    let config = format!(
        "[guests.u]\nbackend = \"multipass\"\nfresh = \"suite\"\n{}{}{}",
        suite("appimage", "true"),
        suite("apt-repo", "false"),
        suite("rpm-repo", "true").replace("run = \"true\"", "run = \"true\"\nskip = \"no script\"")
    );
    let desk = DesktopWorld::new(&config, &none());
    let ran = desk.ci(&[]).exits(1);
    for line in ["PASSED  appimage ", "FAILED  apt-repo ", "SKIPPED rpm-repo "] {
        assert!(ran.out.contains(line), "{line:?} not in\n{}", ran.out);
    }
    let calls: Vec<String> = desk.calls();
    let order: Vec<&str> =
        calls.iter().filter_map(|c| c.split(' ').nth(1)).filter(|c| ["launch", "delete"].contains(c)).collect();
    assert_eq!(order, ["launch", "delete", "launch", "delete"], "a suite without a case to run needs no machine");
    // By name, as the old script took them.
    let named = desk.run(&["--ci", "--run-dir", "named", "appimage"]).exits(0);
    assert!(!named.out.contains("apt-repo"));
}

#[test]
fn a_launch_that_fails_is_tried_again_under_a_new_name() {
    let fault = json!([{ "on": "launch", "exit": 2, "stderr": "launch failed: The following errors occurred:\nx: timed out waiting for response", "effect": "full" }]);
    let desk = DesktopWorld::new(&guest(""), &multipass(&json!({}), &fault));
    desk.ci(&[]).exits(0).says("retry launch (attempt 2 of 2)");
    let calls = desk.calls();
    let names: Vec<&str> = calls
        .iter()
        .filter(|c| c.contains(" launch "))
        .filter_map(|c| c.split(' ').skip_while(|w| *w != "--name").nth(1))
        .collect();
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
    let first_delete = calls
        .iter()
        .position(|c| c.contains(&format!("delete --purge {}", names[0])))
        .expect("the half-born one is deleted");
    assert!(
        first_delete < calls.iter().position(|c| c.contains(names[1])).expect("second"),
        "before the next one is made"
    );
    assert_eq!(desk.multipass(), json!({}));
}

#[test]
fn what_cannot_get_better_is_not_tried_again() {
    for (keys, why) in [
        ("[guests.u.multipass]\nimage = \"nosuch\"", "Unable to find an image"),
        ("cpus = 400\n[guests.u.multipass]\nimage = \"mirror:22.04\"", "is unknown or unreachable"),
    ] {
        let desk = DesktopWorld::new(&guest(keys), &none());
        desk.ci(&[]).exits(5).says(why).says("multipass find");
        assert_eq!(desk.count("multipass launch"), 1);
        desk.assert_nothing_left();
    }
}

#[test]
fn settings_that_cannot_work_are_told_before_anything_is_made() {
    for (keys, why) in [
        ("[guests.u.multipass]\nimage = \"ubuntu:22.04\"", "has no remote `ubuntu`"),
        ("[guests.u.multipass]\ncloud_init = \"no.yaml\"", "cannot read its cloud-init file"),
        ("[guests.u.multipass]\nmounts = [\"/no/such:/x\"]", "cannot mount `/no/such`"),
        ("disk = \"100MiB\"", "its disk is less than Multipass allows"),
        ("machine = \"nope\"", "there is no such machine"),
        ("[guests.u.multipass]\nsnapshot = \"clean\"", "only an adopted machine has a snapshot"),
    ] {
        let desk = DesktopWorld::new(&guest(keys), &none());
        desk.ci(&[]).exits(3).says(why);
        assert_eq!(desk.count("multipass launch"), 0);
    }
}

#[test]
fn a_tool_or_a_daemon_that_is_missing_is_told_with_its_remedy() {
    let desk = DesktopWorld::new(&guest(""), &json!({ "multipass": { "machines": {} } }));
    desk.ci(&[]).exits(3).says("its daemon does not answer").says("launchctl kickstart");
    desk.run(&["list"]).exits(3).complains("cannot connect to the multipass socket");
    desk.run(&["--ci", "--set", "host.tools.multipass=/no/multipass"])
        .exits(3)
        .says("Multipass is not installed")
        .says("brew install");
}

#[test]
fn an_adopted_machine_is_used_and_put_back() {
    for (was, then) in [("Stopped", "Stopped"), ("Running", "Running"), ("Suspended", "Suspended")] {
        let machines =
            json!({ "ci-box": { "state": was, "ipv4": ["10.0.0.5"], "used": 5 }, "mine": running("10.0.0.6") });
        let desk = DesktopWorld::new(&guest("machine = \"ci-box\""), &multipass(&machines, &json!([])));
        desk.ci(&[]).exits(0).says("u was put back to how it was found");
        assert_eq!(desk.multipass()["ci-box"]["state"], then);
        assert_eq!(desk.multipass()["mine"], running("10.0.0.6"));
        assert_eq!(desk.count("multipass delete") + desk.count("multipass launch"), 0);
        assert_eq!(desk.json("receipt.json")["clean"], true);
        desk.assert_nothing_left();
    }
}

#[test]
fn a_snapshot_of_an_adopted_machine_is_taken_once_and_restored_before_each_later_run() {
    let machines = json!({ "ci-box": { "state": "Stopped", "ipv4": ["10.0.0.5"] } });
    let config = guest("machine = \"ci-box\"\n[guests.u.multipass]\nsnapshot = \"clean\"")
        .replace("echo fine; pwd", "test ! -e left && touch left");
    let desk = DesktopWorld::new(&config, &multipass(&machines, &json!([])));
    for run in ["one", "two", "three"] {
        desk.run(&["--ci", "--run-dir", run]).exits(0);
    }
    assert_eq!((desk.count("multipass snapshot"), desk.count("multipass restore")), (1, 2));
    assert!(desk.calls().iter().filter(|c| c.contains(" restore ")).all(|c| c.ends_with("ci-box.clean --destructive")));
}

#[test]
fn two_guests_never_share_an_adopted_machine() {
    let machines = json!({ "ci-box": running("10.0.0.5") });
    let config = format!(
        "{}\n[guests.v]\nbackend = \"multipass\"\nmachine = \"ci-box\"\n",
        guest("machine = \"ci-box\"\nlaunch_retries = 1").replace("launch_retries = 2\n", "")
    );
    let desk = DesktopWorld::new(&config, &multipass(&machines, &json!([])));
    desk.ci(&["--set", "host.slots=2"]).exits(3).says("guests `u` and `v` would share the machine `ci-box`");
    desk.run(&["--ci", "--run-dir", "kept", "--keep", "always", "@u"]).exits(0).says("was kept as `ci-box`");
    desk.run(&["--ci", "--run-dir", "other", "@v"]).exits(5).says("of run ").says("`vmdeck cleanup` puts it back");
    desk.run(&["cleanup", "--force"]).exits(0).says("put back ci-box").says("is not ours and stays");
}

#[test]
fn a_command_that_is_cancelled_ends_in_the_guest() {
    let config =
        guest("").replace("echo fine; pwd", "sleep 71.25").replace("name = \"a\"", "name = \"a\"\ntimeout = \"700ms\"");
    let desk = DesktopWorld::new(&config, &none());
    desk.ci(&[]).exits(1).says("FAIL  s/a");
    eventually("the end of the sleep", Duration::from_secs(5), || {
        !desk.processes().iter().any(|p| p.contains("71.25"))
    });
    desk.assert_nothing_left();
}

#[test]
fn ctrl_c_while_the_daemon_launches_leaves_nothing() {
    let mut found = none();
    found["multipass"]["prepare"] = json!(1.5);
    found["multipass"]["boot"] = json!(1.0);
    let desk = DesktopWorld::new(&guest(""), &found);
    let run = desk.start(&["--ci", "--run-dir", "record"]);
    eventually("the launch", Duration::from_secs(10), || desk.count("multipass launch") == 1);
    signal(&run, "INT");
    finish(run).exits(130);
    assert_eq!(desk.multipass(), json!({}), "the machine that appeared after the signal was deleted");
    desk.assert_nothing_left();
}

#[test]
fn kill_9_while_the_daemon_launches_is_finished_by_the_guardian() {
    let mut found = none();
    found["multipass"]["prepare"] = json!(1.0);
    let desk = DesktopWorld::new(&guest(""), &found);
    let run = desk.start(&["--ci", "--run-dir", "record"]);
    eventually("the launch", Duration::from_secs(10), || desk.count("multipass launch") == 1);
    signal(&run, "KILL");
    finish(run);
    desk.guardian_ends("killed");
    assert_eq!(desk.multipass(), json!({}));
    desk.assert_nothing_left();
}

#[test]
fn cleanup_takes_machines_of_others_only_by_the_configured_prefixes() {
    let machines = json!({ "test-a-17": running("10.0.0.5"), "redoubt-b": running("10.0.0.6"), "mine": running("10.0.0.7"), "contest-c": running("10.0.0.8") });
    let desk = DesktopWorld::new("", &multipass(&machines, &json!([])));
    let prefixes = ["--set", "host.test_prefixes=[\"test-\", \"redoubt-\"]"];
    desk.run(&["cleanup", "--all", "--list-only"]).exits(0).complains("`host.test_prefixes` is empty");
    let listed = desk.run(&[&["cleanup", "--all", "--list-only"][..], &prefixes].concat()).exits(0);
    assert!(
        listed.out.contains("test-a-17 (multipass), Running, not made by vmdeck, matches a test prefix: 2GiB"),
        "{}",
        listed.out
    );
    assert_eq!(desk.multipass(), machines, "it only lists");
    desk.run(&[&["cleanup", "--all"][..], &prefixes].concat()).exits(2).complains("cannot ask");
    desk.run(&[&["cleanup", "--force"][..], &prefixes].concat()).exits(0);
    assert_eq!(desk.multipass(), machines, "without --all it takes none");
    desk.run(&[&["cleanup", "--all", "--force"][..], &prefixes].concat()).exits(0).says("removed test-a-17");
    let left: Vec<String> = desk.multipass().as_object().expect("machines").keys().cloned().collect();
    assert_eq!(left, ["mine", "contest-c"]);
}

#[test]
fn a_machine_that_cannot_be_deleted_is_told_and_taken_later() {
    let refuses = json!([{ "on": "delete", "times": -1, "exit": 2, "stderr": "delete failed: something odd" }]);
    let desk = DesktopWorld::new(&guest(""), &multipass(&json!({}), &refuses));
    desk.ci(&[]).exits(6).says("NOT CLEANED UP").says("something odd");
    desk.run(&["cleanup", "--list-only"]).exits(0).says("of guest `u`");
    let mut found = desk.found();
    found["faults"] = json!([]);
    desk.becomes(&found);
    desk.run(&["cleanup", "--force"]).exits(0).says("Multipass lists no machine");
    assert_eq!(desk.multipass(), json!({}));
    desk.assert_nothing_left();
}

#[test]
fn code_goes_in_and_artifacts_come_out_through_exec() {
    let config = guest("[guests.u.source]\npath = \"tree\"\nto = \"TO\"")
        .replace("echo fine; pwd", "cat hello; echo made > out.xml")
        .replace("[suites.s]", "[suites.s]\nartifacts = [\"*.xml\"]");
    let desk = DesktopWorld::new("", &none());
    desk.add(&config.replace("TO", &desk.path("guest-src/app").display().to_string()));
    std::fs::create_dir_all(desk.path("tree")).expect("tree");
    std::fs::write(desk.path("tree/hello"), "from the host\n").expect("file");
    desk.ci(&[]).exits(0);
    assert_eq!(desk.record("guests/u/s/a/stdout.log"), "from the host\n");
    assert_eq!(desk.record("artifacts/u/s/out.xml"), "made\n");
}

#[test]
fn list_shows_every_machine_and_whose_it_is() {
    let machines = json!({ "mine": running("10.0.0.7"), "old": { "state": "Deleted" } });
    let desk = DesktopWorld::new(&guest(""), &multipass(&machines, &json!([])));
    desk.ci(&["--keep", "always"]).exits(0);
    let rows: Value = serde_json::from_str(&desk.run(&["list", "--json"]).exits(0).out).expect("json");
    let row = |name: &str| {
        rows.as_array()
            .expect("rows")
            .iter()
            .find(|r| r["backend"] == "multipass" && r["name"].as_str().is_some_and(|n| n.starts_with(name)))
            .expect("row")
            .clone()
    };
    assert_eq!((row("mine")["owner"].as_str(), row("old")["state"].as_str()), (Some("not ours"), Some("Deleted")));
    assert_eq!((row("vmdeck-")["owner"].as_str(), row("vmdeck-")["guest"].as_str()), (Some("kept"), Some("u")));
    // Whoever wants to look goes into the one that was kept.
    desk.run(&["shell", "u", "--", "echo in $STANDIN_GUEST"]).exits(0).says("in vmdeck-");
    assert_eq!(desk.count("multipass launch"), 1);
    desk.run(&["cleanup", "--force"]).exits(0);
    assert_eq!(desk.multipass(), machines);
}

#[test]
fn machines_of_others_that_look_like_leftovers_are_told_before_the_run() {
    let machines = json!({ "test-a-17": running("10.0.0.5") });
    let desk = DesktopWorld::new(&guest(""), &multipass(&machines, &json!([])));
    desk.ci(&["--set", "host.test_prefixes=[\"test-\"]"])
        .exits(0)
        .says("machines made by others with a test prefix: test-a-17");
    assert_eq!(desk.multipass(), machines);
}

#[test]
fn a_connection_that_is_lost_in_mid_case_is_infra_and_nothing_is_run_twice() {
    let machines = json!({ "ci-box": { "state": "Running", "ipv4": ["10.0.0.5"], "exec_dies": 0.5 } });
    let config = guest("machine = \"ci-box\"").replace("echo fine; pwd", "echo begun; sleep 3");
    let desk = DesktopWorld::new(&config, &multipass(&machines, &json!([])));
    desk.ci(&["--retries", "3"]).exits(5).says("ssh connection lost");
    assert_eq!(desk.verdict_of("s/a"), "infra");
    assert_eq!(desk.calls().iter().filter(|c| c.contains("echo begun")).count(), 1);
}

#[test]
fn a_folder_that_is_missing_does_not_cost_the_machine() {
    let desk = DesktopWorld::new(&guest(""), &none());
    desk.ci(&["--set", "suites.s.dir=/no/such"]).exits(5).says("cannot run a command in `/no/such`");
    assert_eq!(desk.count("multipass launch"), 1);
}

#[test]
fn what_a_failed_setup_left_behind_is_not_for_the_next_suite() {
    let suite = |name: &str, setup: &str| {
        format!(
            "[suites.{name}]\nsetup = \"{setup}\"\n[[suites.{name}.cases]]\nname = \"t\"\nrun = \"test ! -e left\"\n"
        )
    };
    let config = format!(
        "[guests.u]\nbackend = \"multipass\"\nfresh = \"suite\"\n{}{}",
        suite("one", "touch left; false"),
        suite("two", "true")
    );
    let desk = DesktopWorld::new(&config, &none());
    let ran = desk.ci(&[]).exits(1).says("FAILED (setup) one");
    assert!(ran.out.contains("PASSED         two"), "{}", ran.out);
    assert_eq!(desk.count("multipass launch"), 2);
}

#[test]
fn a_tool_that_hangs_is_not_waited_for_longer_than_is_said() {
    let hangs = json!([{ "on": "launch", "delay": 3, "times": -1, "exit": 2, "stderr": "launch failed: late" }]);
    let keys = "[guests.u.multipass]\nlaunch_timeout = \"500ms\"";
    let config = guest(keys).replace("launch_retries = 2", "launch_retries = 1");
    let desk = DesktopWorld::new(&config, &multipass(&json!({}), &hangs));
    desk.ci(&[]).exits(5).says("it took longer than 0.5s");
    desk.assert_nothing_left();
}

#[test]
fn a_machine_that_never_was_is_not_kept() {
    let config = guest("[guests.u.multipass]\nimage = \"nosuch\"");
    let desk = DesktopWorld::new(&config, &none());
    let ran = desk.ci(&["--keep", "failed"]).exits(5);
    assert!(!ran.out.contains("was kept"), "{}", ran.out);
    desk.assert_nothing_left();
}
