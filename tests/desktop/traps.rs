//! The traps of the two tools that decide a verdict or a machine's life, each by its number. Those that are only about reading
//! an answer (2, 6, 7, 9, 12) are tested beside the code that reads it.

use serde_json::json;
use vmdeck_testkit::desktop::{DesktopWorld, ID, machine, multipass, multipass_guest, utm, utm_guest};

/// A failed Apple event gives exit code 0. Wherever it happens, the run is never green.
#[test]
fn trap_01_an_event_error_with_exit_0_is_never_green() {
    for (command, code, localized) in [
        ("start", -10004, false),
        ("exec", -10004, false),
        ("exec", -1712, true),
        ("exec", -609, false),
        ("list", -10004, true),
        ("status", -50, false),
    ] {
        let fault = json!([{ "tool": "utmctl", "on": command, "times": -1, "event": code, "localized": localized }]);
        let desk = DesktopWorld::new(
            &utm_guest("boot_timeout = \"2s\"", "networks = []").replace("boot_timeout = \"20s\"\n", ""),
            &utm(&json!([machine("ci-linux", "stopped")]), &fault),
        );
        let ran = desk.ci(&[]);
        assert!(ran.code != 0 && ran.code != 1, "{command} {code}: exit {}\n{}", ran.code, ran.out);
        assert!(desk.verdicts().iter().all(|(_, verdict)| verdict != "passed"));
    }
    // After the command has begun, and even after it has ended well.
    let late = json!([{ "tool": "utmctl", "on": "exec", "arg": "echo fine", "effect": "full", "event": -10004 }]);
    let desk =
        DesktopWorld::new(&utm_guest("", "networks = []"), &utm(&json!([machine("ci-linux", "stopped")]), &late));
    desk.ci(&[]).exits(5);
    assert_eq!(desk.verdict_of("s/a"), "infra");
}

/// A process that a signal ends gives exit code 0: our own mark counts.
#[test]
fn trap_03_a_command_that_a_signal_ends_is_not_a_pass() {
    let check = |run: &str, exit, verdict: &str| {
        let config = utm_guest("", "networks = []").replace("echo fine; pwd", run);
        let desk = DesktopWorld::new(&config, &utm(&json!([machine("ci-linux", "stopped")]), &json!([])));
        desk.ci(&[]).exits(exit);
        assert_eq!(desk.verdict_of("s/a"), verdict, "{run}");
    };
    check("kill -9 $$", 1, "failed");
    check("kill -SEGV $$", 1, "failed");
    // With the shell around it: then nobody can tell.
    check("kill -9 $PPID; sleep 0.2", 5, "infra");
}

/// A copy keeps the MAC of its original: it proves nothing any more.
#[test]
fn trap_04_a_mac_that_two_machines_have_finds_neither() {
    let ssh = "[guests.linux.ssh]\npassword = \"x\"\nhost_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\"\n";
    let config = format!(
        "{}{ssh}",
        utm_guest("transports = [\"ssh\"]\nboot_timeout = \"4s\"", "networks = []")
            .replace("boot_timeout = \"20s\"\n", "")
    );
    let mut found =
        utm(&json!([{ "uuid": ID, "name": "ci-linux", "status": "started", "backend": "Apple" }]), &json!([]));
    found["arp"] = json!("? (192.0.2.9) at 52:54:0:1:2:3 on bridge100 ifscope [bridge]\n");
    let desk = DesktopWorld::new(&config, &found);
    let network = "<key>Mode</key><string>Shared</string><key>MacAddress</key><string>52:54:00:01:02:03</string>";
    desk.bundle("ci-linux", ID, network);
    let arp = |desk: &DesktopWorld| {
        let tried = desk.of_kind("route_tried").into_iter().find(|e| e["way"] == "arp").expect("arp was tried");
        (tried["address"].as_str().unwrap_or_default().to_owned(), tried["why"].as_str().expect("why").to_owned())
    };
    desk.ci(&[]).exits(5);
    assert!(arp(&desk).0.contains("192.0.2.9"), "alone it is found: {:?}", arp(&desk));
    std::fs::remove_dir_all(desk.path("record")).expect("record");
    desk.bundle("ci-linux 2", "00000000-195C-499E-BDC9-066470BCA5C9", network);
    desk.ci(&[]).exits(5);
    assert!(arp(&desk).0.is_empty() && arp(&desk).1.contains("another machine has the same one"), "{:?}", arp(&desk));
}

/// `start` of a machine that runs is an error, and exit code 0; so is the start of one that is starting.
#[test]
fn trap_05_a_machine_that_runs_already_is_used_and_not_started() {
    for (status, polls) in [("started", 0), ("starting", 2)] {
        let machine = json!({ "uuid": ID, "name": "ci-linux", "status": status, "polls": polls, "becomes": "started" });
        let desk = DesktopWorld::new(&utm_guest("", "networks = []"), &utm(&json!([machine]), &json!([])));
        desk.ci(&[]).exits(0);
        assert_eq!(desk.count("utmctl start"), 0);
        assert_eq!(desk.utm()[0]["status"], "started", "and it still runs");
    }
}

/// `exec` starts a machine that is stopped, as if nothing had happened to it.
#[test]
fn trap_08_exec_never_starts_a_machine_that_went_down() {
    let config = multipass_guest("").replace("run = \"echo fine; pwd\"", "run = \"POWEROFF\"")
        + "[[suites.s.cases]]\nname = \"b\"\nrun = \"true\"\n";
    let desk = DesktopWorld::new("", &multipass(&json!({}), &json!([])));
    desk.add(&config.replace("POWEROFF", &desk.path("desk/bin/poweroff").display().to_string()));
    desk.ci(&[]).exits(5);
    assert_eq!((desk.verdict_of("s/a").as_str(), desk.verdict_of("s/b").as_str()), ("infra", "passed"));
    assert_eq!(desk.count("multipass launch"), 2, "a new machine for what was left");
    assert!(!desk.found().to_string().contains("started_by_exec"));
    desk.assert_nothing_left();
}

/// `purge` destroys every deleted machine of the user.
#[test]
fn trap_10_what_the_user_deleted_can_still_be_recovered() {
    let machines = json!({ "precious": { "state": "Deleted", "ipv4": [] } });
    let desk = DesktopWorld::new(&multipass_guest(""), &multipass(&machines, &json!([])));
    desk.ci(&[]).exits(0);
    desk.run(&["cleanup", "--force"]).exits(0);
    assert_eq!((desk.multipass(), desk.count("multipass purge")), (machines, 0));
    assert!(
        desk.calls()
            .iter()
            .filter(|c| c.contains(" delete "))
            .all(|c| c.starts_with("multipass delete --purge vmdeck-"))
    );
}

/// A launch that times out leaves its machine behind; one that fails in preparation does not.
#[test]
fn trap_11_a_launch_that_timed_out_leaves_nothing_behind() {
    let mut found = multipass(&json!({}), &json!([]));
    // We give up while the daemon still prepares, and lists nothing yet.
    found["multipass"]["prepare"] = json!(1.5);
    let keys = "[guests.u.multipass]\nlaunch_timeout = \"300ms\"";
    let desk = DesktopWorld::new(&multipass_guest(keys).replace("launch_retries = 2", "launch_retries = 1"), &found);
    desk.ci(&[]).exits(5).says("it took longer than 0.3s");
    assert_eq!(desk.multipass(), json!({}));
    desk.assert_nothing_left();
    let early = json!([{ "on": "launch", "times": -1, "exit": 2, "stderr": "launch failed: no space left" }]);
    let desk = DesktopWorld::new(&multipass_guest(""), &multipass(&json!({}), &early));
    desk.ci(&[]).exits(5).says("no space left");
    assert_eq!(desk.count("multipass delete"), 0, "there is nothing to delete");
    desk.assert_nothing_left();
}
