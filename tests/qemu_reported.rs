//! Situations that people met with other tools of this trade, with a real machine: what must come of them here. Those without
//! one are in `reported.rs` and `reported_logins.rs`.
//!
//! They need the micro guest in guests/micro/out (`make guest`); `make test` builds it first. Without it they fail.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use parking_lot::{Mutex, MutexGuard};
use std::{
    io::Write,
    process::{Command, Stdio},
};
use vmdeck_testkit::micro::{Micro, part};
use vmdeck_testkit::world::{World, suite};

/// Emulated guests share two processors: one test at a time, so that boot times mean something.
static ONE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE.lock()
}

#[test]
fn what_was_asked_of_the_kernel_after_a_case_is_no_fault_of_the_next() {
    let _turn = turn();
    let guest = Micro {
        keys: "boot_timeout = \"90s\"\nlaunch_retries = 1",
        append: "sysrq_always_enabled",
        ..Micro::default()
    };
    let text = guest.guest("micro").replacen(
        "pattern = \"login:\"",
        "pattern = \"login:\"\nerrors = [\"/Kernel panic/\", \"*Call Trace:*\"]",
        1,
    );
    let world = World::new(&format!(
        "{text}[suites.s]\n[[suites.s.cases]]\nname = \"hangs\"\nrun = \"sleep 60\"\ntimeout = \"2s\"\n\
         [[suites.s.cases]]\nname = \"healthy-1\"\nrun = \"true\"\n\
         [[suites.s.cases]]\nname = \"healthy-2\"\nrun = \"true\"\n\
         [suites.own]\nrun_as = \"root\"\n\
         [[suites.own.cases]]\nname = \"traces\"\nrun = \"echo 'Call Trace: of its own' > /dev/console; sleep 20\"\n"
    ));
    world.ci(&[]).exits(1).says("took longer than 2.0s and was ended");
    let console = world.record("guests/micro/console.log");
    assert!(console.matches("Call Trace:").count() >= 2, "the kernel was asked, and the pattern is alive");
    world.assert_verdicts(&[
        ("s/hangs", "failed"),
        ("s/healthy-1", "passed"),
        ("s/healthy-2", "passed"),
        ("own/traces", "failed"),
    ]);
    let messages = world.of_kind("case_ended").into_iter().map(|e| e["message"].to_string()).collect::<Vec<_>>();
    assert!(messages[0].contains("took longer") && messages[3].contains("Call Trace"), "{messages:?}");
    world.assert_nothing_left();
}

/// Writes an archive with the guest's own start script and these lines at its end, and after the guest's own initrd.
fn with_first_boot(world: &World, lines: &str) {
    let script = "mkdir x && cd x && cpio -idm --quiet ./etc/rcS etc/rcS < \"$0\" 2>/dev/null; cat >> etc/rcS && \
                  find etc/rcS | cpio -o -H newc --quiet -R 0:0 > ../extra.cpio && \
                  cat \"$0\" ../extra.cpio > ../initrd.cpio && \
                  qemu-img create -q -f qcow2 ../disk.qcow2 64M";
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .arg(part("initrd.cpio"))
        .current_dir(world.home.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    shell.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    assert!(shell.wait().expect("ended").success());
}

/// Returns a world whose guest restarts once, in its first boot.
fn restarts_once() -> World {
    let guest = Micro {
        keys: "disk = \"64MiB\"\nboot_timeout = \"90s\"\nlaunch_retries = 1",
        qemu: "image = \"disk.qcow2\"",
        ..Micro::default()
    };
    let text = guest.guest("micro").replace(&part("initrd.cpio").display().to_string(), "initrd.cpio");
    let world = World::new(&format!("{text}{}", suite(&[("a", "true", "")])));
    with_first_boot(
        &world,
        "mark=$(dd if=/dev/vda bs=4 count=1 2>/dev/null)\n\
         if [ \"$mark\" != done ]; then printf done | dd of=/dev/vda bs=4 conv=notrunc 2>/dev/null; sync\n\
         echo 'first boot finished, restarting' > /dev/console; reboot -f; fi\n",
    );
    world
}

#[test]
fn a_restart_in_the_first_boot_is_part_of_it() {
    let _turn = turn();
    let world = restarts_once();
    world.ci(&[]).exits(0).says("micro is ready after").says("restarted by itself while it booted (1)");
    let console = world.record("guests/micro/console.log");
    assert_eq!(console.matches("first boot finished, restarting").count(), 1);
    assert_eq!(world.verdict_of("s/a"), "passed");
    let created = world.of_kind("guest_state").iter().filter(|e| e["to"] == "Created").count();
    assert_eq!(created, 1, "the same machine");
    world.assert_nothing_left();
}

#[test]
fn a_guest_that_restarts_once_is_counted_once() {
    let _turn = turn();
    let world = restarts_once();
    world.run(&["--ci", "--run-dir", "none", "--set", "guests.micro.boot.restarts=0"]).exits(5).says("restarted");
    world.ci(&["--set", "guests.micro.boot.restarts=1"]).exits(0);
    world.assert_nothing_left();
}
