//! Cases that restart their guest, on a real kernel: they go on where it comes up again, and only where they may.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};
use vmdeck_testkit::{
    micro::{Micro, part},
    world::{World, eventually},
};

fn world(cases: &[(&str, &str, &str)]) -> World {
    let guest = Micro::default().guest("micro");
    let cases: String = cases
        .iter()
        .map(|(name, keys, run)| {
            format!("[[suites.s.cases]]\nname = \"{name}\"\n{keys}\nrun = {}\n", serde_json::Value::from(*run))
        })
        .collect();
    World::new(&format!("{guest}[suites.s]\nrun_as = \"root\"\n{cases}"))
}

/// Boots the guest's own kernel again within the machine, of which no hypervisor hears.
const KEXEC: &str = "/sbin/kexec /tmp/again/vmlinuz /tmp/again/initrd.cpio \"$(cat /proc/cmdline)\"; sleep 60";

/// A world whose guest has its own kernel and file tree at hand.
fn world_with_kernel(cases: &[(&str, &str, &str)]) -> World {
    let world = world(cases);
    std::fs::create_dir(world.path("again")).expect("folder");
    for file in ["vmlinuz", "initrd.cpio"] {
        std::fs::copy(part(file), world.path("again").join(file)).expect("copied");
    }
    world
}

#[test]
fn another_kernel_in_the_same_machine_is_a_restart_like_others() {
    let own = format!("[ \"$VMDECK_REBOOT_COUNT\" = 1 ] || {{ {KEXEC}; }}");
    let world = world_with_kernel(&[
        ("writes", "reboot = \"allowed\"", "echo '[    0.000000] Linux version 9 (forged)' > /dev/ttyS0; sleep 3"),
        ("allowed", "reboot = \"expected\"", &own),
        ("forbidden", "", KEXEC),
        ("after", "", "uname -r"),
    ]);
    let source = [
        "guests.micro.source.path=again",
        "guests.micro.source.to=/tmp/again",
        "guests.micro.memory=1GiB",
        "guests.micro.fresh=case",
        "suites.s.dir=/",
    ];
    world.ci(&source.map(|set| ["--set", set]).concat()).exits(1);
    let wanted = [("s/writes", "passed"), ("s/allowed", "passed"), ("s/forbidden", "failed"), ("s/after", "passed")];
    world.assert_verdicts(&wanted);
    let failed = world.of_kind("case_ended").into_iter().find(|event| event["case"] == "forbidden").expect("ended");
    let why = "the guest's system crashed during the case: it restarted";
    assert_eq!(failed["message"], why);
    world.assert_nothing_left();
}

#[test]
fn a_case_goes_on_in_the_guest_that_comes_up_again() {
    let helper = "echo \"count $VMDECK_REBOOT_COUNT\"\nif [ \"$VMDECK_REBOOT_COUNT\" -lt 2 ]; then \"$VMDECK_REBOOT\" next; fi\nuptime";
    let own = "[ \"$VMDECK_REBOOT_COUNT\" = 1 ] || { reboot -f; sleep 60; }";
    let world = world(&[
        ("helper", "reboot = \"allowed\"", helper),
        ("own", "reboot = \"expected\"", own),
        ("without", "reboot = \"allowed\"", "true"),
        ("panics", "reboot = \"allowed\"", "echo c > /proc/sysrq-trigger; sleep 60"),
        ("forbidden", "", "reboot -f; sleep 60"),
        ("after", "", "[ -z \"$VMDECK_REBOOT\" ]"),
    ]);
    let ran = world.ci(&[]).exits(1);
    world.assert_verdicts(&[
        ("s/helper", "passed"),
        ("s/own", "passed"),
        ("s/without", "passed"),
        ("s/panics", "failed"),
        ("s/forbidden", "failed"),
        ("s/after", "passed"),
    ]);
    let out = world.record("guests/micro/s/helper/stdout.log");
    assert!(out.starts_with("count 0\ncount 1\ncount 2\n"), "{out}");
    assert!(ran.out.contains("the guest's system crashed during the case: it restarted"), "{}", ran.out);
    // Each boot has its times: the first of three machines, and three restarts of it.
    let boots = world.of_kind("phase_ended");
    let first = boots.iter().filter(|event| event["phase"] == "first_command" && event["ok"] == true);
    assert_eq!(first.count(), 6, "{boots:?}");
    world.assert_nothing_left();
}

/// Where nobody but root writes to /var/tmp.
#[test]
fn a_user_who_cannot_write_to_the_usual_folder_restarts_the_guest_all_the_same() {
    let guest = Micro::default().guest("micro");
    let run = "case $VMDECK_STATE in /home/ci/vmdeck-*) ;; *) exit 3 ;; esac; [ $VMDECK_REBOOT_COUNT = 1 ] || \\\"$VMDECK_REBOOT\\\"";
    let world = World::new(&format!(
        "{guest}[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nreboot = \"expected\"\nrun = \"{run}\"\n"
    ));
    world.ci(&[]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn twenty_restarts_in_a_row_are_twenty_boots() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let own = "[ \"$VMDECK_REBOOT_COUNT\" = 1 ] || { reboot -f; sleep 60; }";
    let world = world(&[("cycle", "reboot = \"expected\"", own)]);
    world.ci(&["--repeat", "20"]).exits(0);
    let boots = world.of_kind("phase_ended");
    let first = boots.iter().filter(|event| event["phase"] == "first_command" && event["ok"] == true);
    assert_eq!(first.count(), 21, "one machine, twenty restarts");
    world.assert_nothing_left();
}

#[test]
fn a_restart_that_never_comes_is_a_failure() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let world = world(&[("never", "reboot = \"expected\"", "true"), ("after", "", "true")]);
    world.ci(&[]).exits(1).says("the guest should have restarted, and did not");
    world.assert_verdicts(&[("s/never", "failed"), ("s/after", "passed")]);
}

/// Before its machine is taken down a guest may shut down by itself; one that does not is ended all the same.
#[test]
fn a_guest_shuts_down_by_itself_where_the_config_wants_that() {
    for (keys, shut_down) in
        [("shutdown = \"command\"\n", true), ("shutdown = \"powerdown\"\nshutdown_timeout = \"1s\"\n", false)]
    {
        let guest = Micro { keys, ..Micro::default() }.guest("micro");
        let world = World::new(&format!("{guest}[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"));
        let ran = world.ci(&[]).exits(0);
        // Nothing in the micro guest listens to the power button.
        assert_eq!(ran.out.contains("did not shut down well, and is ended: it took longer"), !shut_down, "{}", ran.out);
        let console = world.record("guests/micro/console.log");
        assert_eq!(console.contains("Requesting system poweroff"), shut_down, "{console}");
        let states = world.of_kind("guest_state");
        let why = states.last().and_then(|event| event["why"].as_str().map(str::to_owned)).unwrap_or_default();
        assert_eq!(why.contains("guest-shutdown"), shut_down, "{why}");
        world.assert_nothing_left();
    }
}

/// A machine that vmdeck has not made: nobody tells it of restarts.
struct Stranger {
    child: Child,
    port: u16,
}

impl Stranger {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256M"])
            .args(["-append", "console=ttyS0 panic=-1", "-device", "virtio-rng-pci", "-serial", "null"])
            .arg("-kernel")
            .arg(part("vmlinux"))
            .arg("-initrd")
            .arg(part("initrd.cpio"))
            .args(["-netdev", &format!("user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22")])
            .args(["-device", "virtio-net-pci,netdev=n,romfile="])
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu");
        eventually("its login service", Duration::from_mins(1), || {
            let mut banner = [0; 4];
            let open = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.read_exact(&mut banner));
            open.is_ok() && &banner == b"SSH-"
        });
        Self { child, port }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_machine_that_is_there_already_proves_a_restart_by_its_own_word() {
    let stranger = Stranger::start();
    let cases = [
        (
            "helper",
            "reboot = \"allowed\"",
            "echo \"count $VMDECK_REBOOT_COUNT $VMDECK_REBOOT_MARK\"; [ \"$VMDECK_REBOOT_COUNT\" = 1 ] || \"$VMDECK_REBOOT\" next; uptime",
        ),
        (
            "behind",
            "reboot = \"expected\"",
            "[ \"$VMDECK_REBOOT_COUNT\" = 1 ] || (sleep 2; reboot -f) >/dev/null 2>&1 &",
        ),
    ];
    let cases: String = cases
        .iter()
        .map(|(name, keys, run)| {
            format!("[[suites.s.cases]]\nname = \"{name}\"\n{keys}\nrun = {}\n", serde_json::Value::from(*run))
        })
        .collect();
    let world = World::new(&format!(
        "[guests.far]\nbackend = \"remote\"\naddress = \"127.0.0.1\"\ntransports = [\"ssh\"]\nboot_timeout = \"40s\"\n\
         [guests.far.ssh]\nport = {}\nkey = \"{}\"\nhost_key = \"{}\"\n[suites.s]\nrun_as = \"root\"\n{cases}",
        stranger.port,
        part("id_ed25519").display(),
        part("host_key").display(),
    ));
    let ran = world.ci(&["s/helper", "s/behind"]).exits(0);
    let out = world.record("guests/far/s/helper/stdout.log");
    assert!(out.starts_with("count 0 \ncount 1 next\n"), "{out}\n{}", ran.out);
    // Both: a person is not told the same thing twice within a moment.
    let told = world.of_kind("progress").into_iter().filter(|event| {
        event["text"].as_str().is_some_and(|text| text.contains("has restarted as its case wanted (1)"))
    });
    assert_eq!(told.count(), 2, "{}", ran.out);
}

#[test]
fn a_case_of_steps_goes_on_behind_the_restart_that_stands_between_them() {
    let steps = |list: &str| format!("steps = [{list}]");
    let keys = [
        (
            "goes_on",
            steps(
                "{ run = \"uptime -s >/root/before; echo one\" }, { reboot = true }, { run = \"echo two; test ! -e /tmp/x\" }",
            ),
        ),
        (
            "twice",
            steps("{ run = \"touch /tmp/x\" }, { reboot = true }, { run = \"test ! -e /tmp/x\" }, { reboot = true }"),
        ),
        (
            "fails",
            steps("{ run = \"true\" }, { run = \"echo why >&2; exit 3\" }, { run = \"true\" }")
                + "\nexpect = { exit = 3 }",
        ),
        ("crashes", steps("{ run = \"reboot -f; sleep 60\" }, { run = \"true\" }")),
        ("slow", steps("{ run = \"sleep 2\" }, { run = \"sleep 60\" }") + "\ntimeout = \"4s\""),
        ("skips", steps("{ run = \"exit 77\" }, { run = \"false\" }") + "\nexpect = { skip = 77 }"),
    ];
    let cases: String =
        keys.iter().map(|(name, keys)| format!("[[suites.s.cases]]\nname = \"{name}\"\n{keys}\n")).collect();
    let guest = Micro::default().guest("micro");
    let world = World::new(&format!("{guest}[suites.s]\nrun_as = \"root\"\n{cases}"));
    world
        .ci(&[])
        .exits(1)
        .says("step 2 of 3: exit 3")
        .says("step 1 of 2: the guest's system crashed")
        .says("step 2 of 2: took longer than 4.0s");
    world.assert_verdicts(&[
        ("s/goes_on", "passed"),
        ("s/twice", "passed"),
        ("s/fails", "failed"),
        ("s/crashes", "failed"),
        ("s/slow", "failed"),
        ("s/skips", "skipped"),
    ]);
    for (log, wrote) in [("stdout.log", "one\ntwo\n"), ("+step-1/stdout.log", "one\n"), ("+step-3/stdout.log", "two\n")]
    {
        assert_eq!(world.record(&format!("guests/micro/s/goes_on/{log}")), wrote, "{log}");
    }
}
