//! What vmdeck costs, against its peers on the same guest in the same run: ratios, not times.
//!
//! - boot to first command: vmdeck, against a bare script that starts the same QEMU and polls with `ssh`; interleaved
//! - time per trivial case: vmdeck, against `ssh` over a control master, on one and the same guest
//! - vmdeck's own time in a run of 20 trivial cases, beyond the boot and the commands
//! - a case that runs 5 000 tests of its own: with its results read, against the same case without; interleaved
//!
//! `make bench`; needs the micro guest and an ssh client. It fails if a figure is over its limit.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const ROUNDS: usize = 7;
const CASES: usize = 20;
const SUBTESTS: usize = 5000;

fn part(name: &str) -> String {
    vmdeck_testkit::micro::part(name).display().to_string()
}

fn main() {
    let home = tempfile::tempdir().expect("tempdir");
    let config = home.path().join("vmdeck.toml");
    fs::write(&config, config_text(home.path())).expect("config");
    // The first run proves the accelerator; that is once per boot of the host and no part of the figures.
    vmdeck(home.path(), "warm", &["s/case-0"]);

    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(bare_boot(home.path()));
        ours.push(our_boot(home.path(), round));
    }
    let (bare, ours) = (median(bare), median(ours));
    let boot = ratio(ours, bare);
    println!("boot to first command: vmdeck {ours:?}, bare script {bare:?}, ratio {boot:.2} (limit 1.10)");

    let record = vmdeck(home.path(), "cases", &["--keep", "always", "s"]);
    let events = events(&record);
    let (per_case, overhead) = figures(&events);
    let kept = kept_port(home.path());
    let master = per_ssh(home.path(), kept);
    let case = ratio(per_case, master);
    println!("time per case: vmdeck {per_case:?}, ssh with a control master {master:?}, ratio {case:.2} (limit 1.00)");
    println!("vmdeck's own time in a run of {CASES} cases: {overhead:?} (limit 1 s)");
    run(home.path(), &["cleanup", "--force"]);
    let record = vmdeck(home.path(), "subtests", &["--repeat", &ROUNDS.to_string(), "tests"]);
    let (plain, read) = subtest_figures(&self::events(&record));
    let subtests = ratio(read, plain);
    println!("{SUBTESTS} sub-tests: read {read:?}, not read {plain:?}, ratio {subtests:.3} (limit 1.03)");
    let is_quick = boot <= 1.10 && case <= 1.0 && overhead < Duration::from_secs(1) && subtests <= 1.03;
    assert!(is_quick, "over the limit");
}

fn config_text(home: &Path) -> String {
    let cases: String =
        (0..CASES).map(|i| format!("[[suites.s.cases]]\nname = \"case-{i}\"\nrun = \"true\"\n")).collect();
    let tap =
        format!("i=0; echo 1..{SUBTESTS}; while [ $i -lt {SUBTESTS} ]; do i=$((i+1)); echo \"ok $i - test $i\"; done");
    let tests = format!(
        "[suites.tests]\n[[suites.tests.cases]]\nname = \"plain\"\nrun = '{tap}'\n\
         [[suites.tests.cases]]\nname = \"read\"\nrun = '{tap}'\nresults = [\"tap\"]\n"
    );
    format!(
        "[host]\nlock = \"{}\"\nmin_free_disk = \"1MiB\"\nwarn_free_disk = \"1MiB\"\nmin_free_memory = \"1MiB\"\n\
         [guests.micro]\nbackend = \"qemu\"\ncpus = 1\nmemory = \"256MiB\"\n\
         [guests.micro.ssh]\nkey = \"{}\"\nhost_key = \"{}\"\n\
         [guests.micro.qemu]\nkernel = \"{}\"\ninitrd = \"{}\"\nappend = \"console=ttyS0 panic=-1\"\n[suites.s]\n{cases}{tests}",
        home.join("lock.d").display(),
        part("id_ed25519"),
        part("host_key"),
        part("vmlinux"),
        part("initrd.cpio"),
    )
}

fn run(home: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdeck"));
    let output =
        command.args(args).current_dir(home).env("XDG_STATE_HOME", home.join("state")).output().expect("vmdeck");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn vmdeck(home: &Path, record: &str, args: &[&str]) -> PathBuf {
    run(home, &[&["--ci", "--run-dir", record], args].concat());
    home.join(record)
}

fn events(record: &Path) -> Vec<Value> {
    let text = fs::read_to_string(record.join("events.jsonl")).expect("events");
    text.lines().map(|l| serde_json::from_str(l).expect("event")).collect()
}

fn at(event: &Value) -> u64 {
    event["elapsed_ms"].as_u64().expect("time")
}

fn first(events: &[Value], kind: &str) -> u64 {
    at(events.iter().find(|e| e["kind"] == kind).expect(kind))
}

/// From power-on to the end of the first command of the first case.
fn our_boot(home: &Path, round: usize) -> Duration {
    let record = vmdeck(home, &format!("boot-{round}"), &["s/case-0"]);
    let events = events(&record);
    let on = events.iter().find(|e| e["kind"] == "phase_started" && e["phase"] == "firmware").expect("power-on");
    Duration::from_millis(first(&events, "case_ended") - at(on))
}

/// Returns the same machine by hand: QEMU, then `ssh` until it works.
fn bare_boot(home: &Path) -> Duration {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("addr").port();
    let forward = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22");
    let accel = accelerator(home);
    let cpu = if accel == "tcg" { "max" } else { "host" };
    let (kernel, initrd) = (part("vmlinux"), part("initrd.cpio"));
    let start = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", &accel, "-cpu", cpu])
        .args(["-smp", "1", "-m", "256", "-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 panic=-1"])
        .args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"])
        .args(["-serial", &format!("file:{}", home.join("bare.log").display())])
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu");
    while !ssh(port).args(["-o", "ConnectTimeout=2", "ci@127.0.0.1", "true"]).status().expect("ssh").success() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = start.elapsed();
    qemu.kill().expect("kill");
    qemu.wait().expect("collected");
    took
}

/// Returns the accelerator that vmdeck found, for a fair comparison.
fn accelerator(home: &Path) -> String {
    let report: Value = serde_json::from_str(&run(home, &["doctor", "--json"])).expect("json");
    let mut findings = report["findings"].as_array().expect("list").iter();
    let finding = findings.find(|finding| finding["check"] == "accelerator").expect("an accelerator was looked for");
    finding["text"].as_str().expect("text").split(':').next().expect("a word").to_owned()
}

fn ssh(port: u16) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "/dev/null", "-i", &part("id_ed25519"), "-p", &port.to_string()]);
    command.args([
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Time per case, and what the run took beyond its boot and its commands.
fn figures(events: &[Value]) -> (Duration, Duration) {
    let ended: Vec<&Value> = events.iter().filter(|e| e["kind"] == "case_ended").collect();
    assert_eq!(ended.len(), CASES);
    let cases = at(ended[CASES - 1]) - first(events, "case_started");
    let boot: u64 = events
        .iter()
        .filter(|e| e["kind"] == "phase_ended")
        .filter(|e| {
            ["firmware", "kernel", "userspace", "sshd", "first_command"].contains(&e["phase"].as_str().expect("phase"))
        })
        .map(|e| e["took_ms"].as_u64().expect("time"))
        .sum();
    let total = at(events.last().expect("run_ended"));
    let commands: u64 = ended.iter().map(|e| e["took_ms"].as_u64().expect("time")).sum();
    let per_case = Duration::from_micros(cases * 1000 / CASES as u64);
    (per_case, Duration::from_millis(total.saturating_sub(boot).saturating_sub(commands)))
}

/// Returns how long the case of many tests took, without its results and with them.
fn subtest_figures(events: &[Value]) -> (Duration, Duration) {
    let of = |name: &str| {
        let ended = events.iter().filter(|e| e["kind"] == "case_ended" && e["case"] == name);
        median(ended.map(|e| Duration::from_millis(e["took_ms"].as_u64().expect("time"))).collect())
    };
    let told = events.iter().filter(|e| e["kind"] == "subtest_ended").count();
    assert_eq!(told, SUBTESTS * ROUNDS);
    (of("plain"), of("read"))
}

fn kept_port(home: &Path) -> u16 {
    let rows: Value = serde_json::from_str(&run(home, &["list", "--json"])).expect("json");
    let row = rows.as_array().expect("rows").iter().find(|r| r["owner"] == "kept").expect("a kept guest");
    row["address"].as_str().expect("address").rsplit(':').next().expect("port").parse().expect("number")
}

fn per_ssh(home: &Path, port: u16) -> Duration {
    let path = format!("ControlPath={}", home.join("mux").display());
    let master = ssh(port)
        .args(["-o", &path, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "ci@127.0.0.1", "true"])
        .status();
    assert!(master.expect("ssh").success(), "the control master");
    let start = Instant::now();
    for _ in 0..CASES {
        assert!(ssh(port).args(["-o", &path, "ci@127.0.0.1", "true"]).status().expect("ssh").success());
    }
    let took = start.elapsed();
    let _ = ssh(port).args(["-o", &path, "-O", "exit", "ci@127.0.0.1"]).status();
    took / u32::try_from(CASES).expect("few")
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}
