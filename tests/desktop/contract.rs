//! The same life and the same failures on every backend, and one oracle for all of them. `qemu` boots the real micro guest.

use serde_json::{Value, json};
use std::time::Duration;
use vmdeck_testkit::micro::Micro;
use vmdeck_testkit::{
    desktop::{DesktopWorld, machine, multipass, utm},
    world::{eventually, finish, signal},
};

/// A way to have a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackendKind {
    Local,
    Fake,
    Qemu,
    MultipassMade,
    MultipassAdopted,
    UtmCopied,
    UtmAdopted,
}

const ALL: [BackendKind; 7] = [
    BackendKind::Local,
    BackendKind::Fake,
    BackendKind::Qemu,
    BackendKind::MultipassMade,
    BackendKind::MultipassAdopted,
    BackendKind::UtmCopied,
    BackendKind::UtmAdopted,
];

/// What can go wrong besides the test itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailurePoint {
    /// The machine cannot be started.
    Start,
    /// It starts and never answers.
    Boot,
    /// It cannot be taken down or released.
    Close,
}

impl BackendKind {
    fn config(self, failure: Option<FailurePoint>) -> String {
        let head = match self {
            BackendKind::Local => "backend = \"local\"".to_owned(),
            BackendKind::Fake => {
                let fail = match failure {
                    Some(FailurePoint::Start) => "fail = \"start\"\n",
                    Some(FailurePoint::Boot) => "fail = \"boot\"\n",
                    Some(FailurePoint::Close) => "fail = \"close\"\n",
                    None => "",
                };
                let replies = "bad = \"3\"\nhang = \"hang\"\n\"echo good\" = \"0 good\"";
                format!("backend = \"fake\"\n[guests.g.fake]\n{fail}[guests.g.fake.replies]\n{replies}")
            }
            BackendKind::Qemu => micro(failure),
            BackendKind::MultipassMade => "backend = \"multipass\"".to_owned(),
            BackendKind::MultipassAdopted => "backend = \"multipass\"\nmachine = \"ci-box\"".to_owned(),
            BackendKind::UtmCopied => "backend = \"utm\"\n[guests.g.utm]\nnetworks = []\nclone = \"ci-box\"".to_owned(),
            BackendKind::UtmAdopted => {
                "backend = \"utm\"\nmachine = \"ci-box\"\n[guests.g.utm]\nnetworks = []".to_owned()
            }
        };
        let (bad, hang) = if self == BackendKind::Fake { ("bad", "hang") } else { ("exit 3", "sleep 73.5") };
        // A boot that must fail is given no time; one that must not is emulated.
        let boot = if self == BackendKind::Qemu && failure != Some(FailurePoint::Boot) { "90s" } else { "2s" };
        let case = |name: &str, run: &str, more: &str| {
            format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = \"{run}\"\n{more}\n")
        };
        format!(
            "[defaults]\nlaunch_retries = 1\nboot_timeout = \"{boot}\"\n[guests.g]\n{head}\n[suites.s]\n{}{}{}{}",
            case("good", "echo good", ""),
            case("bad", bad, ""),
            case("hangs", hang, "timeout = \"400ms\""),
            case("stays", hang, "timeout = \"60s\"")
        )
    }

    fn world(self, failure: Option<FailurePoint>) -> Value {
        let said = "{0} failed: something odd";
        let multi = |on: &str| json!({ "tool": "multipass", "on": on, "times": -1, "exit": 2, "stderr": said });
        let event = |on: &str| json!({ "tool": "utmctl", "on": on, "times": -1, "event": -50 });
        let faults = match (self, failure) {
            (BackendKind::MultipassMade, Some(FailurePoint::Start)) => json!([multi("launch")]),
            (BackendKind::MultipassAdopted, Some(FailurePoint::Start)) => json!([multi("start")]),
            (BackendKind::MultipassMade | BackendKind::MultipassAdopted, Some(FailurePoint::Boot)) => {
                json!([multi("exec")])
            }
            (BackendKind::MultipassMade, Some(FailurePoint::Close)) => json!([multi("delete")]),
            (BackendKind::MultipassAdopted, Some(FailurePoint::Close)) => json!([multi("stop")]),
            (BackendKind::UtmCopied | BackendKind::UtmAdopted, Some(FailurePoint::Start)) => json!([event("start")]),
            (BackendKind::UtmCopied | BackendKind::UtmAdopted, Some(FailurePoint::Boot)) => json!([event("exec")]),
            (BackendKind::UtmCopied, Some(FailurePoint::Close)) => json!([event("delete")]),
            (BackendKind::UtmAdopted, Some(FailurePoint::Close)) => json!([event("stop")]),
            _ => json!([]),
        };
        match self {
            BackendKind::UtmCopied | BackendKind::UtmAdopted => utm(&json!([machine("ci-box", "stopped")]), &faults),
            _ => multipass(&json!({ "ci-box": { "state": "Stopped", "ipv4": ["10.0.0.5"] } }), &faults),
        }
    }

    /// `local` has no start of its own, and nothing that could not be released; a process can always be killed.
    fn can(self, failure: FailurePoint) -> bool {
        self != BackendKind::Local && (self, failure) != (BackendKind::Qemu, FailurePoint::Close)
    }
}

/// Returns the micro guest; `make test` builds it first.
fn micro(failure: Option<FailurePoint>) -> String {
    let extra = if failure == Some(FailurePoint::Start) { "extra_args = [\"-no-such-option\"]\n" } else { "" };
    Micro { qemu: extra, ..Micro::default() }.tables("g")
}

/// What must hold after every run, whatever happened in it; the machines are as before it.
#[track_caller]
fn oracle(desk: &DesktopWorld, before: &Value, kind: BackendKind) {
    let now = desk.found();
    assert_eq!(
        (&now["multipass"]["machines"], &now["utm"]["machines"]),
        (&before["multipass"]["machines"], &before["utm"]["machines"]),
        "{kind:?}"
    );
    desk.assert_nothing_left();
    well_formed(desk, kind);
    assert_eq!(desk.json("receipt.json")["clean"], true, "{kind:?}");
    assert!(
        desk.of_kind("cleanup_ended").iter().all(|e| e["proofs"].as_array().is_some_and(|p| !p.is_empty())),
        "{kind:?}"
    );
}

/// The record tells one story: states follow each other, phases and cases are closed, the end is the end.
#[track_caller]
fn well_formed(desk: &DesktopWorld, kind: BackendKind) {
    let events = desk.events();
    assert_eq!(events.first().map(|e| &e["kind"]), Some(&json!("run_started")));
    assert_eq!(events.last().map(|e| &e["kind"]), Some(&json!("run_ended")));
    let mut state = json!("NotCreated");
    let mut open: Vec<&Value> = Vec::new();
    for event in &events {
        match event["kind"].as_str().unwrap_or_default() {
            "guest_state" => {
                let starts = event["from"] == "NotCreated" && state == "Terminated";
                assert!(event["from"] == state || starts, "{kind:?}: {event} in {state}");
                state = event["to"].clone();
            }
            "phase_started" => open.push(&event["phase"]),
            "phase_ended" => assert_eq!(open.pop(), Some(&event["phase"]), "{kind:?}: {event}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{kind:?}: {open:?}");
    let count = |kind: &str| events.iter().filter(|e| e["kind"] == kind).count();
    assert_eq!(count("cleanup_began"), count("cleanup_ended"), "{kind:?}");
}

fn desk(kind: BackendKind, failure: Option<FailurePoint>) -> DesktopWorld {
    DesktopWorld::new(&kind.config(failure), &kind.world(failure))
}

#[test]
fn every_backend_tells_a_pass_a_failure_and_a_hang_apart() {
    for kind in ALL {
        let desk = desk(kind, None);
        desk.ci(&["s/good", "s/bad", "s/hangs"]).exits(1);
        let verdicts: Vec<String> = desk.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
        assert_eq!(verdicts, ["passed", "failed", "failed"], "{kind:?}");
        assert_eq!(desk.record("guests/g/s/good/stdout.log"), "good\n", "{kind:?}");
        assert_eq!(desk.of_kind("case_ended")[1]["exit"], 3, "{kind:?}");
        oracle(&desk, &kind.world(None), kind);
    }
}

#[test]
fn every_backend_s_start_and_boot_failures_are_infra_and_leave_nothing() {
    for kind in ALL {
        for failure in [FailurePoint::Start, FailurePoint::Boot].into_iter().filter(|f| kind.can(*f)) {
            let desk = desk(kind, Some(failure));
            desk.ci(&["s/good"]).exits(5);
            assert_eq!(desk.verdicts(), [("s/good".to_owned(), "infra".to_owned())], "{kind:?} {failure:?}");
            oracle(&desk, &kind.world(Some(failure)), kind);
        }
    }
}

#[test]
fn every_backend_s_failed_release_is_told_and_made_up_for() {
    for kind in ALL.into_iter().filter(|kind| kind.can(FailurePoint::Close)) {
        let desk = desk(kind, Some(FailurePoint::Close));
        desk.ci(&["s/good"]).exits(6).says("NOT CLEANED UP");
        assert_eq!(desk.verdict_of("s/good"), "passed");
        well_formed(&desk, kind);
        let mut found = desk.found();
        found["faults"] = json!([]);
        desk.becomes(&found);
        desk.run(&["cleanup", "--force"]).exits(0);
        let (now, before) = (desk.found(), kind.world(None));
        assert_eq!(
            (&now["multipass"]["machines"], &now["utm"]["machines"]),
            (&before["multipass"]["machines"], &before["utm"]["machines"]),
            "{kind:?}"
        );
        desk.assert_nothing_left();
    }
}

#[test]
fn every_backend_gives_way_to_ctrl_c_and_survives_kill_9() {
    for kind in ALL {
        for (name, code) in [("INT", Some(130)), ("KILL", None)] {
            let desk = desk(kind, None);
            let run = desk.start(&["--ci", "--run-dir", "record", "s/stays"]);
            let record = desk.path("record/events.jsonl");
            eventually("the case", Duration::from_secs(90), || {
                std::fs::read_to_string(&record).is_ok_and(|text| text.contains("case_started"))
            });
            signal(&run, name);
            let ran = finish(run);
            if let Some(code) = code {
                ran.exits(code);
                oracle(&desk, &kind.world(None), kind);
                continue;
            }
            desk.guardian_ends(&format!("{kind:?}"));
            let (now, before) = (desk.found(), kind.world(None));
            assert_eq!(
                (&now["multipass"]["machines"], &now["utm"]["machines"]),
                (&before["multipass"]["machines"], &before["utm"]["machines"]),
                "{kind:?}"
            );
            eventually(&format!("the end of the command of {kind:?}"), Duration::from_secs(5), || {
                !desk.processes().iter().any(|p| p.contains("73.5"))
            });
        }
    }
}

/// A machine of somebody else's that ends under our hands goes the same way down as one that lives.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test acts from outside")]
fn an_adopted_machine_that_ends_by_itself_is_reported_as_put_back() {
    for (kind, tool) in [(BackendKind::MultipassAdopted, "multipass"), (BackendKind::UtmAdopted, "utmctl")] {
        let desk = desk(kind, None);
        let run = desk.start(&["--ci", "--hold", "--run-dir", "record", "s/good"]);
        let record = desk.path("record/events.jsonl");
        eventually("the hold", Duration::from_secs(30), || {
            std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"phase\":\"hold\""))
        });
        let stopped =
            std::process::Command::new(desk.path(&format!("desk/bin/{tool}"))).args(["stop", "ci-box"]).output();
        assert!(stopped.expect("the tool").status.success(), "{kind:?}");
        finish(run).exits(5).says("g was put back to how it was found");
        let ended = desk.of_kind("cleanup_ended");
        assert!(!ended.is_empty() && ended.iter().all(|e| e["adopted"] == true), "{kind:?}: {ended:?}");
        oracle(&desk, &kind.world(None), kind);
    }
}
