//! Trouble that only the console tells: a green command is no green case then.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Command};
use vmdeck_testkit::{micro::Micro, world::World};

/// Returns a command that says a line as the kernel does, and ends well.
fn says(line: &str) -> String {
    format!("echo '<0>{line}' > /dev/kmsg; true")
}

fn world(keys: &str, more: &str, cases: &[(&str, &str)]) -> World {
    // A guest that waits after its panic can still be looked into.
    let append = "loglevel=7 sysrq_always_enabled panic=0";
    let guest = Micro { keys, append, qemu: "dump = \"panic\"" }.guest("micro");
    let cases: String = cases
        .iter()
        .map(|(name, run)| format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = {}\n", serde_json::Value::from(*run)))
        .collect();
    World::new(&format!("{guest}{more}[suites.s]\nrun_as = \"root\"\n{cases}"))
}

/// On a real kernel: real memory that runs out, and lines as the kernel writes them.
#[test]
fn a_green_command_in_a_broken_system_is_no_green_case() {
    let oops = says("BUG: kernel NULL pointer dereference, address: 0000000000000010");
    let glued = "printf 'no end of line' > /dev/console; echo '<0>INFO: task x:94 blocked for more than 4 seconds.' > /dev/kmsg";
    let trace = [
        "WARNING: CPU: 0 PID: 93 at drivers/x.c:12 x_init+0x1/0x2",
        "CPU: 0 PID: 93 Comm: insmod Tainted: G        W  O       6.1.0 #1",
        "Call Trace:",
        "---[ end trace 0000000000000000 ]---",
    ];
    let warns = trace.map(says).join("; ");
    let world = world(
        "",
        "",
        &[
            ("memory", "tail /dev/zero || true"),
            ("well", "true"),
            ("glued", glued),
            ("warns", &warns),
            // The stacks that somebody asks for are no trouble.
            ("asks", "echo l > /proc/sysrq-trigger"),
            ("oops", &oops),
            ("after", "true"),
        ],
    );
    let ran = world.ci(&[]).exits(1);
    for (case, verdict, why) in [
        ("memory", "FAIL", "trouble of the kind `oom-kill`"),
        ("well", "pass", ""),
        ("glued", "FAIL", "trouble of the kind `hung-task`"),
        ("warns", "pass", ""),
        ("asks", "pass", ""),
        ("oops", "FAIL", "trouble of the kind `bug-memory`"),
        ("after", "pass", ""),
    ] {
        let line = ran.out.lines().find(|line| line.contains(&format!("s/{case} "))).expect(case);
        assert!(line.trim_start().starts_with(verdict) && line.contains(why), "{case}: {line}\n{}", ran.out);
    }
    assert!(ran.out.contains("trouble:warning"), "the warning is told: {}", ran.out);
    // The whole of it is one finding.
    let told = world.of_kind("console_match");
    let warning = told.iter().find(|event| event["pattern"] == "trouble:warning").expect("the warning");
    let block = warning["block"].as_array().expect("block");
    assert!(block.len() == 3 && block[2].as_str().is_some_and(|line| line.contains("---[ end trace")), "{warning}");
    assert_eq!(warning["taint"], "GWO", "{warning}");
    // Only what cannot be trusted any more is replaced.
    assert_eq!(ran.out.matches("micro is ready").count(), 2, "{}", ran.out);
    world.assert_nothing_left();
}

/// With the kernel's own file a trace says where in the source it was.
#[test]
fn a_trace_is_told_with_file_and_line() {
    let line = |at: &str| says(&format!(" boom+{at}"));
    let lines = |size: &str| {
        let oops = says("BUG: kernel NULL pointer dereference, address: 0000000000000010");
        [
            oops,
            says(&format!("RIP: 0010:boom+0x0/{size}")),
            line(&format!("0x1/{size} [mod]")),
            says("---[ end trace 0 ]---"),
        ]
        .join("; ")
    };
    let folder = tempfile::tempdir().expect("folder");
    let (source, vmlinux) = (folder.path().join("boom.c"), folder.path().join("vmlinux"));
    fs::write(&source, "int x;\nvoid boom(void) {\n  x = 1;\n}\nint main(void) { boom(); return 0; }\n").expect("file");
    let built = Command::new("cc").args(["-g", "-O0", "-o"]).arg(&vmlinux).arg(&source).status().expect("cc");
    assert!(built.success());
    let named = Command::new("nm").arg("-S").arg(&vmlinux).output().expect("nm");
    let named = String::from_utf8_lossy(&named.stdout).into_owned();
    let boom = named.lines().find(|line| line.ends_with(" T boom")).expect("the function");
    let size = u64::from_str_radix(boom.split_whitespace().nth(1).expect("size"), 16).expect("number");
    let keys = format!("vmlinux = \"{}\"", vmlinux.display());
    let world = world(&keys, "", &[("oops", &lines(&format!("0x{size:x}")))]);
    world.ci(&[]).exits(1);
    let told = world.of_kind("console_match");
    let block = told.iter().find(|event| event["pattern"] == "trouble:bug-memory").expect("the oops")["block"].clone();
    let text = block.to_string();
    assert!(text.contains(&format!("RIP: 0010:boom+0x0/0x{size:x} (")) && text.contains("boom.c:2)"), "{text}");
    assert!(text.contains(&format!("boom+0x1/0x{size:x} [mod]\"")), "that of a module is another one: {text}");
    // A file that is none costs nothing but a warning.
    let world = self::world("vmlinux = \"vmdeck.toml\"", "", &[("well", "true")]);
    world.ci(&[]).exits(0).says("cannot read the symbols of");
}

/// The user's own patterns add to the library, and a guest can leave kinds out.
#[test]
fn what_counts_as_trouble_is_the_user_s_word() {
    let mine = says("tr0: the frobnicator is upside down");
    let oops = says("BUG: kernel NULL pointer dereference, address: 0000000000000010");
    let hung = says("INFO: task x:94 blocked for more than 4 seconds.");
    let meant = says("Out of memory: Killed process 92 (tail) total-vm:131600kB");
    let world = world(
        "trouble_ignore = [\"oops\"]\n",
        "[trouble.frobnicator]\npattern = 'frobnicator is upside'\n[trouble.hung-task]\nseverity = \"warn\"\n",
        &[
            ("mine", &mine),
            ("oops", &oops),
            ("hung", &hung),
            ("meant", &meant),
            ("again", &meant),
            ("panic", "echo c > /proc/sysrq-trigger; sleep 60"),
        ],
    );
    let set = ["guests.micro.boot.errors=[\"*never*\"]", "suites.s.cases.3.trouble_ignore=[\"memory\"]"];
    let ran = world.ci(&["--set", set[0], "--set", set[1]]).exits(1);
    for (case, verdict, why) in [
        ("mine", "FAIL", "trouble of the kind `frobnicator`"),
        ("oops", "pass", ""),
        ("hung", "pass", ""),
        // The case says so, and the next one does not.
        ("meant", "pass", ""),
        ("again", "FAIL", "trouble of the kind `oom-kill`"),
        // Although `boot.errors` was written anew.
        ("panic", "FAIL", "crashed during the case"),
    ] {
        let line = ran.out.lines().find(|line| line.contains(&format!("s/{case} "))).expect(case);
        assert!(line.trim_start().starts_with(verdict) && line.contains(why), "{case}: {line}\n{}", ran.out);
    }
    // As file(1) and crash(8) know it.
    let dump = fs::read(world.path("record/guests/micro/memory.kdump")).expect("the memory of the panic");
    assert!(dump.starts_with(b"makedumpfile\0") && dump.len() > 1 << 20, "{} bytes", dump.len());
    // Its kernel has the driver of pvpanic as a module that nothing loads.
    ran.says("the hypervisor did not hear of the panic").says("load the module `pvpanic-mmio`");
    world.assert_nothing_left();
}

#[test]
fn doctor_says_what_quiet_hides() {
    let world = world("", "", &[("c", "true")]);
    let append = |words: &str| format!("guests.micro.qemu.append=console=ttyS0 {words}");
    world
        .run(&["--set", &append("quiet"), "doctor"])
        .exits(0)
        .says("`quiet` keeps the kernel's warnings off the console");
    for set in [append("loglevel=3 noquiet"), "guests.micro.trouble_ignore=[\"*\"]".to_owned()] {
        let ran = world.run(&["--set", &set, "doctor"]).exits(0);
        assert!(!ran.out.contains("keeps the kernel's warnings"), "{}", ran.out);
    }
}

#[test]
fn a_log_is_read_by_hand_and_kinds_are_listed_and_checked() {
    let mut world = World::new("[trouble.own]\npattern = 'my own'\nseverity = \"warn\"\n");
    world.run(&["trouble", "list"]).exits(0).says("own                  own         warn").says("oom-kill");
    let list = world.run(&["trouble", "list", "--json"]).exits(0).out;
    let list: serde_json::Value = serde_json::from_str(&list).expect("json");
    assert_eq!((list[0]["id"].as_str(), list[0]["ends"].as_str()), (Some("own"), Some("nothing")));
    for (text, exit, said) in [
        ("all is well\n", 0, "no trouble"),
        ("this is my own\n", 0, "log:1: own (warn)"),
        ("x\n\x1b[31mKernel panic - not syncing: \x1b[0mFatal exception", 1, "log:2: panic (fail, ends the case)"),
        ("", 0, "no trouble"),
    ] {
        fs::write(world.path("log"), text).expect("written");
        world.run(&["trouble", "test", "log"]).exits(exit).says(said);
    }
    let json = world.run(&["trouble", "test", "--json", "log"]).exits(0).out;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("json"), serde_json::json!([]));
    world.run(&["trouble", "test", "gone"]).exits(2).complains("cannot read `gone`");
    for (lines, said) in [
        ("[trouble.x]\nseverity = \"warn\"\n", "`trouble.x.pattern`: it is missing"),
        ("[trouble.x]\npattern = \"(\"\n", "no regular expression"),
        ("[trouble.x]\npattern = \"y\"\nseverity = \"bad\"\n", "not one of fail, warn, ignore"),
        (
            "[guests.g]\nbackend = \"fake\"\n[suites.s]\ntrouble_ignore = [\"no\"]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n",
            "`no` is no kind",
        ),
        ("[guests.g]\nbackend = \"fake\"\ntrouble_ignore = [\"nosuch\"]\n", "`nosuch` is no kind and no category"),
    ] {
        world = World::new(lines);
        world.run(&["config", "check"]).exits(2).complains(said);
    }
}

#[test]
fn trouble_may_end_the_whole_run() {
    let mine = says("tr0: the rack is on fire");
    let world = world(
        "",
        "[trouble.fire]\npattern = 'rack is on fire'\nends = \"run\"\n",
        &[("first", "true"), ("fire", &format!("{mine}; sleep 30")), ("never", "true")],
    );
    let ran = world.ci(&[]).exits(1).says("cancelled: a console showed trouble that ends the run");
    world.assert_verdicts(&[("s/first", "passed"), ("s/fire", "failed"), ("s/never", "cancelled")]);
    assert!(!ran.out.contains("took longer"), "{}", ran.out);
    world.assert_nothing_left();
}
