//! `vmdeck guest-test`: scripts of the KVM guest-test framework, as their users have them, on a real guest.
//!
//! The argument lists of QEMU are held in `src/app/framework/tests.rs`, over every recorded case.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use vmdeck_testkit::{
    micro::part,
    world::{Ran, World},
};

/// A tree of the framework in a world of its own.
struct Framework {
    world: World,
}

impl Framework {
    fn new() -> Self {
        let world = World::new("");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest-test/tree");
        let copied = Command::new("cp").args(["-r", "--"]).arg(from).arg(world.path("fw")).status().expect("cp");
        assert!(copied.success());
        let image = world.path("disk.qcow2");
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("64M").status();
        assert!(made.expect("qemu-img").success());
        let common = serde_json::json!({
            "kernel_img": part("vmlinux"),
            "initrd_img": part("initrd.cpio"),
            "bios_img": "/nowhere/OVMF.fd",
            "qemu_img": "qemu-system-x86_64",
            "guest_img": image,
            "guest_img_format": "qcow2",
            "boot_pattern": "*no such line*|*micro*login:*",
            "guest_root_passwd": fs::read_to_string(part("password")).expect("password").trim(),
        });
        fs::write(world.path("fw/guest-test/common.json"), common.to_string()).expect("common.json");
        Self { world }
    }

    fn scripts(&self) -> PathBuf {
        self.world.path("fw/guest-test")
    }

    /// Runs the launcher in the folder of the scripts, as its users do.
    fn run(&self, flags: &[&str]) -> Ran {
        let mut command = self.world.vmdeck(&["guest-test", "--no-lock", "-e", "demo", "-f", "demo"]);
        Ran::of(&command.args(flags).current_dir(self.scripts()).output().expect("vmdeck runs"))
    }

    /// Returns the folder of the newest record.
    fn record(&self) -> PathBuf {
        let runs = fs::read_dir(self.scripts().join(".vmdeck/runs")).expect("records");
        runs.map(|entry| entry.expect("entry").path()).max().expect("a record")
    }

    /// Runs a case; what is left afterwards is nothing but its record.
    #[track_caller]
    fn check(&self, flags: &[&str], code: i32, lines: &[&str]) -> Ran {
        let before = fs::read(self.world.path("disk.qcow2")).expect("image");
        let ran = self.run(flags).exits(code);
        for line in lines {
            assert!(ran.out.contains(line) || ran.err.contains(line), "{line}\n{}\n{}", ran.out, ran.err);
        }
        let password = fs::read_to_string(part("password")).expect("password");
        for text in [&ran.out, &ran.err] {
            assert!(!text.contains(password.trim()), "the password is printed");
        }
        assert_eq!(fs::read(self.world.path("disk.qcow2")).expect("image"), before, "the image was written to");
        for path in ["test_params.py", "../.env", "../demo/common.sh"] {
            assert!(!self.scripts().join(path).exists(), "{path} was written into the user's folder");
        }
        self.world.assert_nothing_left();
        ran
    }
}

#[test]
fn a_case_runs_with_the_scripts_as_they_are() {
    let framework = Framework::new();
    let ran = framework.check(
        &["-x", "BOOT", "-v", "2", "-s", "1", "-m", "1", "-c", " "],
        0,
        &[
            "|TRACE|VM test is starting now...",
            "QEMU's arguments: `-netdev user,id=mynet0,hostfwd=tcp: :",
            "[legacy_vm]: ",
            "VM_TYPE: legacy, VCPU: 2, SOCKETS: 1, MEM: 1,",
            "args: -v 2 -s 1 -m 1\n2\n/root/guest_test\nboot.sh\ncommon.sh\nMemTotal:",
            "|TRACE|legacy VM test complete...|",
            "|TRACE|legacy VM: test ran|",
            "|TRACE|legacy VM test complete all correctly...|",
        ],
    );
    assert!(!ran.out.contains("ERROR"), "{}", ran.out);
    let record = framework.record();
    let junit = fs::read_to_string(record.join("junit.xml")).expect("junit.xml");
    assert!(junit.contains("name=\"BOOT\"") && junit.contains("failures=\"0\""), "{junit}");
    let steps = fs::read_to_string(record.join("guests/guest/demo/BOOT/steps.jsonl")).expect("steps");
    let status = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["status"].clone();
    assert!(steps.lines().count() >= 5 && steps.lines().all(|line| status(line) == 0), "{steps}");
    let command = fs::read_to_string(record.join("guests/guest/qemu.cmd")).expect("qemu.cmd");
    assert!(command.contains("# As the config has it:") && command.contains("-snapshot"), "{command}");
    assert!(!record.join("scripts").exists(), "the copy of the scripts is gone");
    let kept = fs::read_to_string(record.join("files/guest-test/test_params.py")).expect("the record of parameters");
    assert!(kept.starts_with("PORT=") && kept.contains("VCPU=2\n") && kept.contains("TESTCASE=\"BOOT\""), "{kept}");
}

#[test]
fn boots_by_kexec_are_counted_on_one_console_and_the_last_one_is_judged() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let framework = Framework::new();
    for file in ["vmlinuz", "initrd.cpio"] {
        fs::copy(part(file), framework.world.path("fw/demo").join(file)).expect("copied");
    }
    let flags = ["-x", "KEXEC", "-v", "1", "-m", "1", "-c", " ", "-k", "2", "-o", "no"];
    let lines =
        ["legacy VM: KEXEC.boot-2: the guest has begun again", "legacy VM: KEXEC.boot-1: the guest has begun again"];
    let ran =
        framework.check(&flags, 0, &[&lines[..], &["args: -v 1", "legacy VM test complete all correctly..."]].concat());
    assert_eq!(ran.out.matches("VM test complete...").count(), 1, "{}", ran.out);
    let record = framework.record();
    let kept = fs::read_to_string(record.join("files/guest-test/test_params.py")).expect("the record of parameters");
    let names = ["TD_KEXEC_NO_MEM_DRAIN_1C_1G_CYCLE_1", "TD_KEXEC_NO_MEM_DRAIN_1C_1G_CYCLE_0"];
    assert!(names.iter().all(|name| kept.contains(name)), "{kept}");
    let console = fs::read_to_string(record.join("guests/guest/console.log")).expect("console");
    assert_eq!(console.matches("Linux version ").count(), 3, "three boots on one console");
    let events = fs::read_to_string(record.join("events.jsonl")).expect("events");
    let boots = events.lines().filter(|line| line.contains("phase_ended") && line.contains("first_command"));
    assert_eq!(boots.count(), 3, "each boot has its times");
    // A test case that does not make the guest begin again has not done what `-k` wants.
    framework.check(&["-x", "BOOT", "-v", "1", "-k", "1"], 1, &["legacy VM test: failed: the guest's system crashed"]);
}

#[test]
fn what_the_framework_takes_for_a_pass_is_none() {
    let framework = Framework::new();
    framework.check(&["-x", "SSHLOST"], 5, &["infra: cannot finish the command", "legacy VM test fail"]);
    framework.check(&["-x", "MSR"], 1, &["There is *unchecked MSR access error*, test is not fully PASS"]);
    framework.check(&["-x", "OWN255"], 1, &["FATAL: OWN255: exit.sh 255", "failed: exit 1"]);
    framework.check(&["-x", "AFTER"], 1, &["the guest is down", "FATAL: AFTER: after the close"]);
    framework.check(&["-x", "REBOOTS"], 1, &["the guest's system crashed during the case"]);
    framework.check(&["-x", "NO_SUCH"], 2, &["unknown test case `NO_SUCH`", "known: BOOT, COPY, AFTER"]);
    framework.check(&["-t", "sev", "-x", "BOOT"], 2, &["cannot use -t `sev`: it is no kind of machine"]);
    framework.check(&["-v", "2"], 2, &["no test case is named"]);
    framework.check(&["-x", "BOOT", "-z", "1"], 2, &["unexpected argument '-z'"]);
}

#[test]
fn every_end_has_its_name() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let framework = Framework::new();
    framework.check(
        &["-x", "COPY"],
        0,
        &["a file in a folder\n-rwxr-xr-x\n", "one\ntwo\nthree\nit is root\nstatus 7\n"],
    );
    framework.check(&["-x", "HELPER_1C", "-v", "1"], 0, &["a helper by its bare name", "complete all correctly"]);
    framework.check(&["-x", "NOTHING"], 1, &["has run nothing in the guest"]);
    framework.check(&["-x", "BACKGROUND", "-v", "1"], 0, &["args: -v 1", "complete all correctly"]);
    framework.check(&["-x", "MISSING"], 0, &["complete all correctly"]);
    framework.check(&["-x", "FAIL"], 1, &["FATAL: FAIL: exit.sh 3", "legacy VM: test ran"]);
    let skipped = framework.check(&["-x", "NA"], 0, &["legacy VM test skipped: exit 32 means skipped"]);
    assert!(!skipped.out.contains("complete all correctly"), "{}", skipped.out);
    framework.check(&["-x", "WARN"], 0, &["There is *WARNING:*, please check", "test complete all correctly"]);
    framework.check(&["-x", "KEPT"], 1, &["the guest was not closed", "legacy VM: was not closed"]);
    framework.check(&["-x", "CRASH"], 1, &["the guest's system crashed during the case", "Kernel panic"]);
    framework.check(&["-x", "SLOW", "--timeout", "12s"], 1, &["took longer than 12.0s", "legacy VM: stuck"]);
    framework.check(
        &["-x", "BOOT", "--timeout", "1s"],
        5,
        &["did not appear on the console within", "legacy VM: did not boot"],
    );
    framework.check(&["-x", "BOOT", "-c", "rdinit=/none"], 5, &["legacy VM: died early"]);
    // Features that bring nothing but their own executor get the functions from vmdeck.
    let own = framework.scripts().join("guest.test_executor.sh");
    let theirs = fs::read_to_string(&own).expect("executor");
    fs::remove_file(&own).expect("executor");
    framework.check(
        &["-x", "BOOT", "-v", "1"],
        0,
        &["args: -v 1", "Guest VM closed properly", "complete all correctly"],
    );
    framework.check(&["-x", "OWN255"], 1, &["FATAL: OWN255"]);
    fs::write(&own, theirs).expect("executor");
    let config = framework.scripts().join("qemu.config.json");
    let text = fs::read_to_string(&config).expect("config");
    fs::write(&config, text.replace("-nodefaults", "-nodefaults -device nosuch")).expect("config");
    framework.check(&["-x", "BOOT"], 5, &["'nosuch' is not a valid device model name", "legacy VM: never started"]);
}

/// The form of 2023: all of the config in one file, and the branches in the executor itself.
#[test]
fn the_older_form_works_as_well() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let framework = Framework::new();
    let at = |name: &str| framework.scripts().join(name);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(at(name)).expect(name)).expect("JSON")
    };
    let (mut config, common) = (read("qemu.config.json"), read("common.json"));
    for (key, value) in common.as_object().expect("keys") {
        config["common"][key] = value.clone();
    }
    fs::write(at("qemu.config.json"), config.to_string()).expect("config");
    fs::remove_file(at("common.json")).expect("common.json");
    fs::write(at("hello.sh"), "#!/bin/sh\necho \"hello from $(pwd), $1\"\n").expect("script");
    let marked = Command::new("chmod").arg("+x").arg(at("hello.sh")).status().expect("chmod");
    assert!(marked.success());
    let script = fs::read_to_string(at("guest.test_executor.sh")).expect("executor");
    let (functions, _) = script.rsplit_once("if [ \"${BASH_SOURCE[0]}\"").expect("the part that runs");
    let own = "cd \"$(dirname \"$0\")\" || exit 1\nsource ../.env\nsource ./test_params.py\n\
               case \"$TESTCASE\" in\n  TD_BOOT)\n    guest_test_prepare hello.sh\n    \
               guest_test_entry hello.sh \"-v $VCPU\" || die \"Failed on TD_BOOT\"\n    \
               if [[ $GCOV == \"off\" ]]; then guest_test_close; fi\n    ;;\nesac\n";
    fs::write(at("guest.test_executor.sh"), format!("{functions}{own}")).expect("executor");
    let run = |flags: &[&str]| {
        let mut command = framework.world.vmdeck(&["guest-test", "--no-lock"]);
        Ran::of(&command.args(flags).current_dir(framework.scripts()).output().expect("vmdeck runs"))
    };
    run(&["-x", "TD_BOOT", "-v", "1"])
        .exits(0)
        .says("hello from /root/guest_test, -v")
        .says("test complete all correctly");
    run(&["-x", "TD_OTHER"]).exits(2).complains("known: TD_BOOT");
    // For coverage the machine stays, and is removed like every other.
    run(&["-x", "TD_BOOT", "-g", "on"]).exits(0).says("keep alive for gcov").says("to login and get data");
    framework.world.run(&["cleanup", "--force"]).exits(0);
    framework.world.assert_nothing_left();
}

/// On a host with TDX: docs/kernel-testing.md says how. Anywhere else there is nothing to be seen.
#[test]
fn a_tdx_guest_boots_and_is_closed_by_the_reboot_argument() {
    let Ok(text) = std::env::var("VMDECK_TDX") else { return };
    let given = |key: &str| {
        let word = text.split_whitespace().find_map(|word| word.strip_prefix(&format!("{key}=")));
        word.unwrap_or_else(|| panic!("VMDECK_TDX lacks {key}=")).to_owned()
    };
    let framework = Framework::new();
    let at = |name: &str| framework.scripts().join(name);
    let common = serde_json::json!({
        "kernel_img": given("kernel"),
        "bios_img": given("firmware"),
        "qemu_img": given("binary"),
        "guest_img": given("image"),
        "guest_img_format": "qcow2",
        "boot_pattern": "*login:*",
        "guest_root_passwd": given("password"),
    });
    fs::write(at("common.json"), common.to_string()).expect("common.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(at("qemu.config.json")).expect("config")).expect("JSON");
    config["vm"]["cfg_var_9"] = "-append \"root=/dev/vda1 rw console=hvc0 $CMDLINE\" ".into();
    config["tdx"] = serde_json::json!({
        "cfg_1": "-machine q35,kernel_irqchip=split,confidential-guest-support=tdx,memory-backend=ram1,hpet=off ",
        "cfg_var_1": "-object '{\"qom-type\":\"tdx-guest\",\"id\":\"tdx\",\"sept-ve-disable\":true}' ",
        "cfg_var_2": "-object memory-backend-ram,id=ram1,size=$MEMG ",
    });
    fs::write(at("qemu.config.json"), config.to_string()).expect("config");
    // The functions that vmdeck brings close such a guest by the reboot argument.
    fs::remove_file(at("guest.test_executor.sh")).expect("executor");
    fs::write(at("../demo/exit.sh"), "#!/bin/sh\ngrep -qw tdx_guest /proc/cpuinfo\n").expect("script");
    framework.run(&["-t", "tdx", "-x", "FAIL", "-m", "4"]).exits(0).says("tdx VM test complete all correctly");
}
