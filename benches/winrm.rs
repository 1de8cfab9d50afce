//! What the `winrm` transport costs, against pypsrp with the same server in the same run: ratios, not times.
//!
//! - time per trivial case: vmdeck's case with its record, against a command of pypsrp in an open shell; interleaved
//! - 64 MiB each way: vmdeck's whole transfer of a source and of an artifact, against a command's input and output
//!
//! `make bench-winrm`. It fails if a ratio is over 1.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use vmdeck_testkit::winrm::Peer;

const ROUNDS: usize = 3;
const CASES: usize = 300;
const BYTES: usize = 64 << 20;
const USER: &str = "ci";
const PASSWORD: &str = "a password of the benchmark";

fn main() {
    let home = tempfile::tempdir().expect("tempdir");
    let peer = Peer::start(USER, PASSWORD, &[]);
    fs::create_dir(home.path().join("app")).expect("mkdir");
    let blob: Vec<u8> = (0..BYTES).map(|at| ((at * 7919) >> 8).to_le_bytes()[0]).collect();
    fs::write(home.path().join("app/blob"), &blob).expect("blob");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(per_case(home.path(), peer.port));
        theirs.push(pypsrp(peer.port, &["commands", &CASES.to_string()]));
    }
    let case = report("a trivial case", ours, theirs);
    let (mut up, mut down, mut their_up, mut their_down) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let path = |name: &str| home.path().join(name).display().to_string();
    for _ in 0..ROUNDS {
        let (source, artifact) = transfer(home.path(), peer.port);
        up.push(source);
        down.push(artifact);
        their_up.push(pypsrp(peer.port, &["up", &path("app/blob"), &path("there")]));
        their_down.push(pypsrp(peer.port, &["down", &path("there"), &path("back")]));
    }
    let up = report("64 MiB to the guest", up, their_up);
    let down = report("64 MiB from the guest", down, their_down);
    assert!(case <= 1.0 && up <= 1.0 && down <= 1.0, "slower than pypsrp");
}

/// Prints both medians; returns their ratio.
fn report(what: &str, ours: Vec<Duration>, theirs: Vec<Duration>) -> f64 {
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{what}: vmdeck {ours:?}, pypsrp {theirs:?}, ratio {ratio:.2} (limit 1.00)");
    ratio
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Runs pypsrp; returns the time that it has measured.
fn pypsrp(port: u16, what: &[&str]) -> Duration {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/winrm");
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.arg(folder.join("pypsrp_bench.py")).args([&port.to_string(), USER]).args(what);
    let output = command.env("WINRM_PEER_PASSWORD", PASSWORD).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Duration::from_micros(text.trim().parse().expect("a number"))
}

/// Runs vmdeck with these suites; returns the events of its record.
fn run(home: &Path, port: u16, more: &str) -> Vec<Value> {
    let record: PathBuf = home.join("record");
    let _ = fs::remove_dir_all(&record);
    let config = format!(
        "[host]\nlock = \"{}\"\nmin_free_disk = \"1MiB\"\nwarn_free_disk = \"1MiB\"\nmin_free_memory = \"1MiB\"\n\
         [guests.win]\nbackend = \"local\"\nos = \"windows\"\ntransports = [\"winrm\"]\n\
         [guests.win.winrm]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{USER}\"\npassword = {{ env = \"WIN_PASSWORD\" }}\n{more}",
        home.join("lock.d").display()
    );
    fs::write(home.join("vmdeck.toml"), config).expect("config");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdeck"));
    command.args(["--ci", "--run-dir", "record"]).current_dir(home).env("XDG_STATE_HOME", home.join("state"));
    let output = command.env("WIN_PASSWORD", PASSWORD).output().expect("vmdeck");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = fs::read_to_string(record.join("events.jsonl")).expect("events");
    text.lines().map(|line| serde_json::from_str(line).expect("event")).collect()
}

fn at(event: &Value) -> u64 {
    event["elapsed_ms"].as_u64().expect("time")
}

/// Returns vmdeck's time for a case, from the first one's begin to the last one's end.
fn per_case(home: &Path, port: u16) -> Duration {
    let case = |n: usize| format!("[[suites.s.cases]]\nname = \"c{n}\"\nrun = \"true\"\n");
    let events = run(home, port, &format!("[suites.s]\n{}", (0..CASES).map(case).collect::<String>()));
    let first = events.iter().find(|event| event["kind"] == "case_started").map(at).expect("a case");
    let last = events.iter().rfind(|event| event["kind"] == "case_ended").map(at).expect("a case");
    Duration::from_micros((last - first) * 1000 / CASES as u64)
}

/// Returns vmdeck's times for a source and for an artifact.
fn transfer(home: &Path, port: u16) -> (Duration, Duration) {
    let to = home.join("in/deep").display().to_string();
    let events = run(
        home,
        port,
        &format!(
            "[guests.win.source]\npath = \"app\"\nto = \"{to}\"\n[suites.s]\nartifacts = [\"blob\"]\n\
             [[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
        ),
    );
    let source =
        events.iter().find(|event| event["kind"] == "phase_ended" && event["phase"] == "source").expect("source");
    let tests = events.iter().find(|event| event["kind"] == "phase_ended" && event["phase"] == "tests").expect("tests");
    let case = events.iter().find(|event| event["kind"] == "case_ended").map(at).expect("a case");
    let artifact = at(tests) - case;
    (Duration::from_millis(source["took_ms"].as_u64().expect("time")), Duration::from_millis(artifact))
}
