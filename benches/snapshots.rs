//! Fresh guests that go on from a snapshot, against plain boots and `loadvm`, in the same run: ratios, not times.
//!
//! - a full Debian: 50 trivial cases, each in a machine of its own, against two boots of it; with one machine and with two
//! - from the start of a machine until its first command has ended, against a boot: by the guest agent, and by ssh
//! - the micro guest: the same, against QEMU's own `loadvm`, started by hand
//!
//! `make bench-snapshots`, about ten minutes; needs QEMU, the micro guest, an ssh client, and mmdebstrap with a mirror of Debian. With `micro` as
//! argument, the micro guest alone. It fails where that is slower than `loadvm`; the goals for the Debian are printed beside its figures.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use vmdeck_testkit::{micro::Micro, world::World};

const CASES: usize = 50;
const ROUNDS: usize = 5;

fn main() {
    if !std::env::args().any(|arg| arg == "micro") {
        debian();
    }
    micro();
}

/// Returns a config of trivial cases.
fn cases(count: usize) -> String {
    let case = |n| format!("[[suites.s.cases]]\nname = \"c{n}\"\nrun = \"true\"\n");
    format!("[suites.s]\n{}", (0..count).map(case).collect::<String>())
}

fn debian() {
    let guest = |name: &str, transport: &str| {
        format!(
            "[guests.{name}]\nbackend = \"qemu\"\ncpus = 2\nmemory = \"512MiB\"\nfresh = \"case\"\nnetwork = \"restricted\"\n\
             image = {{ build = \"debian:12\", packages = [\"qemu-guest-agent\"] }}\ntransports = [\"{transport}\"]\n"
        )
    };
    let world = World::new(&format!("slots = 2\n{}{}{}", guest("ssh", "ssh"), guest("agent", "exec"), cases(CASES)));
    // The image is built, and what freezing costs is no part of the figures.
    let seconds = |record: &str, args: &[&str]| {
        let started = Instant::now();
        world.run(&[&["--ci", "--run-dir", record], args].concat()).exits(0);
        started.elapsed()
    };
    let boots = |guest: &str| {
        let record = format!("boot-{guest}");
        seconds(
            &record,
            &[&format!("s/c0@{guest}"), &format!("s/c1@{guest}"), "--set", &format!("guests.{guest}.snapshot=off")],
        );
        until_first_command(&world.path(&record))
    };
    for (guest, goal) in [("agent", 0.03), ("ssh", 0.06)] {
        let boot = median(boots(guest));
        seconds(&format!("freeze-{guest}"), &[&format!("s/c0@{guest}")]);
        let all = format!("s/*@{guest}");
        let one = seconds(&format!("one-{guest}"), &[&all]);
        let two = seconds(&format!("two-{guest}"), &[&all, "--set", &format!("guests.{guest}.workers=2")]);
        let restored = median(until_first_command(&world.path(&format!("one-{guest}"))));
        println!(
            "debian by {guest}: boot to the first command {boot:?}, restored {restored:?}, ratio {:.4} (goal {goal})",
            ratio(restored, boot)
        );
        println!(
            "debian by {guest}: {CASES} cases, each in a fresh machine: {one:?}, with two machines {two:?} ({:.2}); of two boots {:.2} and {:.2} (goal 1.00)",
            ratio(two, one),
            ratio(one, boot * 2),
            ratio(two, boot * 2)
        );
    }
}

/// Returns how long each machine of a run took from its start until its first command had ended, what it was given of its own included.
fn until_first_command(record: &Path) -> Vec<Duration> {
    let text = fs::read_to_string(record.join("events.jsonl")).expect("events");
    let (mut out, mut begun) = (Vec::new(), None);
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("event");
        let at = event["elapsed_ms"].as_u64().expect("time");
        match (event["kind"].as_str(), event["phase"].as_str()) {
            (Some("phase_started"), Some("firmware" | "restore" | "launch")) => begun = Some(at),
            (Some("phase_ended"), Some("first_command")) => {
                out.extend(begun.take().map(|b| Duration::from_millis(at - b)));
            }
            _ => {}
        }
    }
    out
}

fn micro() {
    let keys = Micro { keys: "fresh = \"case\"\n", ..Micro::default() }.guest("micro");
    let world = World::new(&format!("{keys}{}", cases(ROUNDS)));
    world.run(&["--ci", "--run-dir", "freeze", "s/c0"]).exits(0);
    world.run(&["--ci", "--run-dir", "ours", "s"]).exits(0);
    let ours = median(until_first_command(&world.path("ours")));
    let theirs = median(loadvm(world.home.path()));
    println!(
        "micro: restored to the first command {ours:?}, by loadvm and ssh {theirs:?}, ratio {:.2} (limit 1.00)",
        ratio(ours, theirs)
    );
    assert!(ours < theirs, "over the limit");
}

/// Takes a snapshot by QEMU's own means, and starts from it by hand; returns how long it took each time until `ssh` had run a command.
fn loadvm(home: &Path) -> Vec<Duration> {
    let disk = home.join("state.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("1G").status();
    assert!(made.expect("qemu-img").success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("addr").port();
    let mut qemu = start(home, &disk, port, &[]);
    until_ssh(port);
    let socket = home.join("monitor.sock");
    let mut monitor = UnixStream::connect(socket).expect("monitor");
    monitor.write_all(b"savevm one\nquit\n").expect("written");
    let mut lines = BufReader::new(monitor).lines();
    while lines.next().is_some_and(|line| line.is_ok()) {}
    qemu.wait().expect("collected");
    (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            let mut qemu = start(home, &disk, port, &["-loadvm", "one"]);
            until_ssh(port);
            let took = started.elapsed();
            qemu.kill().expect("kill");
            qemu.wait().expect("collected");
            took
        })
        .collect()
}

fn start(home: &Path, disk: &Path, port: u16, more: &[&str]) -> Child {
    let part = |name: &str| vmdeck_testkit::micro::part(name).display().to_string();
    let _ = fs::remove_file(home.join("monitor.sock"));
    Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "tcg", "-cpu", "max"])
        .args(["-smp", "1", "-m", "256", "-kernel", &part("vmlinux"), "-initrd", &part("initrd.cpio")])
        .args(["-append", "console=ttyS0 panic=-1", "-device", "virtio-rng-pci"])
        .args([
            "-netdev",
            &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22"),
            "-device",
            "virtio-net-pci,netdev=n0,romfile=",
        ])
        .args(["-drive", &format!("if=virtio,format=qcow2,file={}", disk.display())])
        .args([
            "-serial",
            "null",
            "-monitor",
            &format!("unix:{},server=on,wait=off", home.join("monitor.sock").display()),
        ])
        .args(more)
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu")
}

fn until_ssh(port: u16) {
    let key = vmdeck_testkit::micro::part("id_ed25519").display().to_string();
    let options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=2",
    ];
    loop {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null", "-i", &key, "-p", &port.to_string()]);
        ssh.args(options.iter().flat_map(|option| ["-o", option]));
        let ran = ssh.args(["ci@127.0.0.1", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
        if ran.expect("ssh").success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}
