//! Machines of others, in a world where everything goes wrong at random: they are what they were, byte by byte.

use serde_json::{Value, json};
use vmdeck_testkit::desktop::DesktopWorld;

/// Runs in all, and where the slow tests are wanted; each thread makes its share.
const RUNS: [usize; 2] = [60, 200];
const THREADS: usize = 4;

fn multipass_strangers() -> Value {
    json!({
        "primary": { "state": "Running", "ipv4": ["10.0.0.2"], "used": 11, "snapshots": {} },
        "test-not-ours": { "state": "Stopped", "ipv4": [], "used": 12 },
        "redoubt-x-test-1": { "state": "Suspended", "ipv4": [] },
        "vmdeck-00000000-00000000": { "state": "Running", "ipv4": ["10.0.0.3"] },
        "precious": { "state": "Deleted", "ipv4": [] },
    })
}

fn utm_strangers() -> Vec<Value> {
    let machine = |n: u32, name: &str, status: &str| json!({ "uuid": format!("{n:08}-195C-499E-BDC9-066470BCA5C9"), "name": name, "status": status });
    vec![
        machine(1, "Windows 11", "started"),
        machine(2, "ci-windows", "paused"),
        machine(3, "vmdeck-00000000-00000000", "started"),
        machine(4, "Windows 11", "stopped"),
    ]
}

/// Returns one to three faults for anything but a look at a list: what cannot be listed cannot be proven either.
fn faults(random: &mut fastrand::Rng) -> Value {
    let multi = ["launch", "exec", "delete", "info", "stop", "start", "version"];
    let utm = ["start", "exec", "delete", "clone", "stop", "status", "suspend"];
    let one = |random: &mut fastrand::Rng| {
        let effect = *random.choice(&["none", "full"]).expect("some");
        let (skip, times) = (random.u8(0..4), random.u8(1..4));
        if random.bool() {
            let on = *random.choice(&multi).expect("some");
            let (exit, words) = *random
                .choice(&[
                    (2, "x failed: something odd"),
                    (5, "Timed out waiting for instance launch."),
                    (255, ""),
                    (2, "x failed: The following errors occurred:\nx: timed out waiting for response"),
                ])
                .expect("some");
            return json!({ "tool": "multipass", "on": on, "skip": skip, "times": times, "effect": effect, "exit": exit, "stderr": words });
        }
        let (on, code) =
            (*random.choice(&utm).expect("some"), *random.choice(&[-2700, -609, -1712, -50, -10004]).expect("some"));
        if random.u8(0..6) == 0 {
            return json!({ "tool": "utmctl", "on": on, "skip": skip, "times": times, "effect": effect, "signal": 6 });
        }
        json!({ "tool": "utmctl", "on": on, "skip": skip, "times": times, "effect": effect, "event": code, "text": "Operation not available." })
    };
    Value::Array((0..random.u8(1..4)).map(|_| one(random)).collect())
}

const CASES: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"echo fine\"\n";

fn config(random: &mut fastrand::Rng) -> String {
    let guest = *random
        .choice(&[
            "backend = \"multipass\"",
            "backend = \"multipass\"\nmachine = \"ci-box\"",
            "backend = \"utm\"\n[guests.g.utm]\nnetworks = []",
            "backend = \"utm\"\n[guests.g.utm]\nnetworks = []\nclone = \"ci-linux\"",
        ])
        .expect("some");
    format!("[defaults]\nlaunch_retries = 2\nboot_timeout = \"1500ms\"\n[guests.g]\n{guest}\n{CASES}")
}

fn one_run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut machines = multipass_strangers();
    machines["ci-box"] = json!({ "state": "Stopped", "ipv4": ["10.0.0.9"] });
    let mut of_utm = utm_strangers();
    of_utm.push(json!({ "uuid": vmdeck_testkit::desktop::ID, "name": "ci-linux", "status": "stopped" }));
    let faults = faults(&mut random);
    let config = config(&mut random);
    let desk = DesktopWorld::new(
        &config,
        &json!({ "multipass": { "daemon": "1.16.3", "machines": machines }, "utm": { "machines": of_utm }, "faults": faults }),
    );
    let ran = desk.ci(&[]);
    let context = || format!("seed {seed}, exit {}\n{config}\n{faults}\n{}\n{:#?}", ran.code, ran.out, desk.calls());
    assert!([0, 3, 5, 6].contains(&ran.code), "{}", context());
    // Whoever failed to clean up says so, and can do it when all is well again.
    let mut found = desk.found();
    found["faults"] = json!([]);
    desk.becomes(&found);
    let tidied = desk.run(&["cleanup", "--force"]);
    assert_eq!(tidied.code, 0, "{}\n{}{}", context(), tidied.out, tidied.err);
    let strangers: Vec<Value> =
        desk.utm().as_array().expect("machines").iter().filter(|m| m["name"] != "ci-linux").cloned().collect();
    assert_eq!(text(&Value::Array(strangers)), text(&Value::Array(utm_strangers())), "{}", context());
    let mut multipass = desk.multipass();
    multipass.as_object_mut().expect("machines").remove("ci-box");
    assert_eq!(text(&multipass), text(&multipass_strangers()), "{}", context());
    // The machines that were lent are still there, and stopped.
    assert_eq!(desk.multipass()["ci-box"]["state"], "Stopped", "{}", context());
    assert!(
        desk.utm().as_array().expect("machines").iter().any(|m| m["name"] == "ci-linux" && m["status"] == "stopped"),
        "{}",
        context()
    );
    assert_eq!(desk.count("multipass purge"), 0);
}

fn text(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("json")
}

#[test]
fn machines_of_others_are_the_same_after_many_random_runs_with_faults() {
    let runs = RUNS[usize::from(std::env::var_os("VMDECK_TEST_SLOW").is_some())];
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| std::thread::spawn(move || (thread..runs).step_by(THREADS).for_each(|seed| one_run(seed as u64))))
        .collect();
    for worker in workers {
        worker.join().expect("every run of this thread");
    }
}
