//! Real QEMU guests: the main path, and every way in which a machine, its console, its login service or vmdeck can fail.
//!
//! They need the micro guest in guests/micro/out (`make guest`); `make test` builds it first. Without it they fail.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use parking_lot::{Mutex, MutexGuard};
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};
use vmdeck_testkit::micro::{Micro, part};
use vmdeck_testkit::world::{World, eventually, finish, read_until, signal, tell};

/// Emulated guests share two processors: one test at a time, so that boot times mean something.
static ONE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE.lock()
}

/// Returns whether the slow tests were asked for (`make test-all`).
fn slow() -> bool {
    std::env::var_os("VMDECK_TEST_SLOW").is_some()
}

/// Returns a world with the micro guest and these suites.
fn micro(suites: &str) -> World {
    let keys = "boot_timeout = \"60s\"\nlaunch_retries = 1";
    let guest = Micro { keys, append: "sysrq_always_enabled", ..Micro::default() }.guest("micro");
    World::new(&format!("{guest}{suites}"))
}

const ONE_CASE: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"ok\"\nrun = \"true\"\n";

fn cases(list: &[(&str, &str)]) -> String {
    let mut out = "[suites.s]\n".to_owned();
    for (name, run) in list {
        out.push_str(&format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = '''{run}'''\ntimeout = \"60s\"\n"));
    }
    out
}

#[test]
fn a_guest_reads_the_services_of_its_host_only_where_its_network_lets_it() {
    let _turn = turn();
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = service.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for mut client in service.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut client, b"private\n");
        }
    });
    let world = micro(&cases(&[("read", &format!("nc -w 5 10.0.2.2 {port} </dev/null | grep private"))]));
    world.ci(&[]).exits(0).says("reaches every service of this host");
    fs::remove_dir_all(world.path("record")).expect("rm");
    world.ci(&["--set", "guests.micro.network=restricted"]).exits(1).says("micro is ready after");
    assert_eq!(world.verdict_of("s/read"), "failed");
    fs::remove_dir_all(world.path("record")).expect("rm");
    world.ci(&["--set", "guests.micro.network=none"]).exits(3).says("leaves no way in");
    world
        .run(&["--ci", "--set", "guests.micro.network=restricted", "--set", "guests.micro.backend=multipass"])
        .exits(3);
    world.assert_nothing_left();
}

// --- the main path ---------------------------------------------------------------------------------------------------

#[test]
fn a_real_guest_boots_is_tested_and_is_gone() {
    let _turn = turn();
    let world = micro(
        "[suites.user]\nenv = { WORDS = \"two words; $(id)\" }\ndir = \"/tmp\"\nartifacts = [\"*.txt\"]\n\
         [[suites.user.cases]]\nname = \"who\"\nrun = \"id -un; pwd; echo \\\"$WORDS\\\"; echo err >&2; echo kept > a.txt\"\n\
         [[suites.user.cases]]\nname = \"code\"\nrun = \"exit 200\"\nexpect = { exit = 200 }\n\
         [[suites.user.cases]]\nname = \"killed\"\nrun = \"kill -9 $$\"\n\
         [suites.root]\nrun_as = \"root\"\n[[suites.root.cases]]\nname = \"who\"\nrun = \"id -un\"\nexpect = { stdout = \"/^root$/\" }\n",
    );
    fs::create_dir(world.path("app")).expect("mkdir");
    fs::write(world.path("app/file"), "brought in").expect("write");
    let source =
        format!("guests.micro.source={{ path = \"{}\", to = \"/home/ci/src/app\" }}", world.path("app").display());
    world.ci(&["--set", &source]).exits(1).says("micro is ready after");
    assert_eq!(world.record("guests/micro/user/who/stdout.log"), "ci\n/tmp\ntwo words; $(id)\n");
    assert_eq!(world.record("guests/micro/user/who/stderr.log"), "err\n");
    assert_eq!(world.verdict_of("user/code"), "passed");
    assert_eq!(world.verdict_of("root/who"), "passed");
    assert_eq!(world.verdict_of("user/killed"), "failed");
    assert_eq!(world.record("artifacts/micro/user/a.txt"), "kept\n");
    assert!(world.record("guests/micro/console.log").contains("Linux version"));
    let phases: Vec<String> =
        world.of_kind("phase_ended").iter().map(|e| e["phase"].as_str().expect("phase").to_owned()).collect();
    assert_eq!(
        phases,
        ["create", "firmware", "kernel", "userspace", "sshd", "first_command", "source", "tests", "cleanup"]
    );
    let receipt = world.json("receipt.json");
    assert!(receipt["resources"][0]["gone"][0].as_str().expect("proof").contains("was reaped"), "{receipt}");
    // The command is a script that a shell can read.
    let script = world.path("record/guests/micro/qemu.cmd");
    assert!(Command::new("sh").arg("-n").arg(&script).status().expect("sh").success());
    assert!(!world.record("guests/micro/qemu.cmd").contains("/machines/"));
    world.assert_nothing_left();
}

#[test]
fn the_password_and_sudo_s_password_work_and_wrong_ones_are_told() {
    let _turn = turn();
    let suite = "[suites.root]\nrun_as = \"root\"\n[[suites.root.cases]]\nname = \"who\"\nrun = \"id -un; cat\"\nexpect = { stdout = \"/^root$/\" }\n";
    let password = part("password");
    let by_password = |world: &World| {
        let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
        let config = config.replace("panic=-1", "panic=-1 micro.sudo=password");
        let lines: Vec<&str> = config.lines().filter(|l| !l.starts_with("key = ")).collect();
        fs::write(world.path("vmdeck.toml"), lines.join("\n")).expect("config");
        format!("guests.micro.ssh.password={{ file = \"{}\" }}", password.display())
    };
    let world = micro(suite);
    let login = by_password(&world);
    let sudo = format!("guests.micro.sudo.password={{ file = \"{}\" }}", password.display());
    world.ci(&["--set", &login, "--set", &sudo]).exits(0);
    let secret = fs::read_to_string(&password).expect("password");
    assert!(!world.record("events.jsonl").contains(secret.trim()));
    world.assert_nothing_left();

    fs::remove_dir_all(world.path("record")).expect("removed");
    world
        .ci(&["--set", &login, "--set", "guests.micro.sudo.password=\"wrong-password\""])
        .exits(5)
        .says("sudo refused the password");
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&["--set", &login]).exits(5).says("sudo asks for a password");
}

#[test]
fn an_encrypted_key_and_an_agent_log_in() {
    let _turn = turn();
    let world = micro(ONE_CASE);
    let key = world.path("key");
    fs::copy(part("id_ed25519"), &key).expect("copy");
    let agent = Command::new("ssh-agent").args(["-s", "-a"]).arg(world.path("agent.sock")).output().expect("ssh-agent");
    let text = String::from_utf8_lossy(&agent.stdout).into_owned();
    let pid = text.split("SSH_AGENT_PID=").nth(1).and_then(|t| t.split(';').next()).expect("pid").to_owned();
    let add = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", world.path("agent.sock")).status();
    assert!(add.expect("ssh-add").success());
    let changed = Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "a phrase", "-f"]).arg(&key).status();
    assert!(changed.expect("ssh-keygen").success());
    let encrypted = "guests.micro.ssh.key=key";
    world.ci(&["--set", encrypted, "--set", "guests.micro.ssh.key_passphrase=\"a phrase\""]).exits(0);
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&["--set", encrypted]).exits(5).says("set `ssh.key_passphrase`");

    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let lines: Vec<&str> = config.lines().map(|l| if l.starts_with("key = ") { "agent = true" } else { l }).collect();
    fs::write(world.path("vmdeck.toml"), lines.join("\n")).expect("config");
    fs::remove_dir_all(world.path("record")).expect("removed");
    let run = world.vmdeck(&["--ci", "--run-dir", "record"]).env("SSH_AUTH_SOCK", world.path("agent.sock")).output();
    vmdeck_testkit::world::Ran::of(&run.expect("ran")).exits(0);
    assert!(Command::new("kill").arg(pid.trim()).status().expect("kill").success());
    world.run(&["--ci", "--run-dir", "second"]).exits(5).says("cannot use the ssh-agent");
    world.assert_nothing_left();
}

#[test]
fn the_base_image_is_never_written() {
    let _turn = turn();
    let world = micro(&cases(&[("write", "sudo -n sh -c 'echo scribble > /dev/vda && sync && head -c 8 /dev/vda'")]));
    let base = world.path("base, with comma.img");
    fs::write(&base, vec![7; 1 << 20]).expect("image");
    let image = format!("guests.micro.qemu.image=\"{}\"", base.display());
    world
        .ci(&["--set", &image, "--set", "guests.micro.qemu.image_format=raw", "--set", "guests.micro.disk=8MiB"])
        .exits(0);
    assert_eq!(world.record("guests/micro/s/write/stdout.log"), "scribble");
    assert!(fs::read(&base).expect("image").iter().all(|b| *b == 7));
    world.assert_nothing_left();
}

#[test]
fn a_shell_command_and_a_kept_guest() {
    let _turn = turn();
    let world = micro(ONE_CASE);
    world.run(&["shell", "micro", "--", "id -un; exit 6"]).exits(6).says("ci\n").complains("removed micro (verified)");
    world.ci(&["--keep", "always"]).exits(0).says("was kept as");
    world.run(&["list"]).exits(0).says("kept").says("127.0.0.1:");
    world.run(&["shell", "micro", "--", "cat", "/proc/uptime"]).exits(0);
    // A later run leaves it alone.
    fs::remove_dir_all(world.path("record")).expect("removed");
    world.ci(&[]).exits(0);
    world.run(&["list", "--json"]).exits(0).says("\"owner\": \"kept\"");
    world.run(&["cleanup", "--list-only"]).exits(0).says("kept on purpose");
    world.run(&["cleanup"]).exits(2).complains("--force");
    world.run(&["cleanup", "--force"]).exits(0).says("killed pid");
    world.assert_nothing_left();
}

// --- guests that fail ------------------------------------------------------------------------------------------------

#[test]
fn each_failure_of_a_boot_has_its_own_words_and_exit_code() {
    let _turn = turn();
    let stranger = "guests.micro.ssh.host_key=\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\"";
    let rows: &[(&[&str], i32, &str)] = &[
        (
            &["guests.micro.boot.pattern=never-printed", "guests.micro.boot_timeout=6s"],
            5,
            "the ready pattern `never-printed` did not appear",
        ),
        (
            &["guests.micro.qemu.append=console=ttyS0 micro.sshd=off", "guests.micro.boot_timeout=15s"],
            5,
            "no login service answered",
        ),
        (&["guests.micro.qemu.append=console=ttyS0 panic=-1 rdinit=/bin/false"], 5, "Kernel panic - not syncing"),
        (&["guests.micro.ssh.key=stranger"], 5, "it refused the key"),
        (&[stranger], 5, "no credential was sent"),
        (&["guests.micro.qemu.kernel=/none"], 3, "cannot open the kernel `/none`"),
        (&["guests.micro.qemu.binary=qemu-system-none"], 3, "`qemu-system-none` is not installed"),
        (&["guests.micro.qemu.extra_args=[\"-nonsense\"]"], 5, "-nonsense: invalid option"),
        (&["guests.micro.memory=9000GiB"], 3, "needed for micro"),
    ];
    let world = micro(ONE_CASE);
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(world.path("stranger")).status();
    assert!(made.expect("ssh-keygen").success());
    for (set, code, words) in rows {
        let _ = fs::remove_dir_all(world.path("record"));
        let args: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
        world.ci(&args).exits(*code).says(words).says("hint: ");
        world.assert_nothing_left();
    }
}

#[test]
fn a_guest_that_says_nothing_on_its_console_shows_when_its_programs_run() {
    let _turn = turn();
    let guest = Micro { keys: "boot_timeout = \"60s\"", ..Micro::default() }.guest("micro");
    let guest = guest.replace("pattern = \"login:\"\n", "").replace("console=ttyS0", "console=null 8250.nr_uarts=0");
    let world = World::new(&format!("{guest}{ONE_CASE}"));
    world.ci(&[]).exits(0);
    let phases: Vec<String> = world.of_kind("phase_started").iter().map(|event| event["phase"].to_string()).collect();
    let of_boot = ["\"firmware\"", "\"userspace\"", "\"first_command\""];
    assert!(phases.windows(3).any(|three| three == of_boot), "{phases:?}");
    let console = fs::read_to_string(world.path("record/guests/micro/console.log")).unwrap_or_default();
    assert!(console.trim().is_empty(), "{console}");
}

#[test]
fn exposed_keys_are_refused_before_anything_starts() {
    let _turn = turn();
    let world = micro(ONE_CASE);
    fs::copy(part("id_ed25519"), world.path("key")).expect("copy");
    assert!(Command::new("chmod").arg("644").arg(world.path("key")).status().expect("chmod").success());
    world.ci(&["--set", "guests.micro.ssh.key=key"]).exits(3).says("others can read the key").says("chmod 600");
}

#[test]
fn a_guest_that_is_lost_is_infra_one_that_crashes_failed_and_both_are_replaced() {
    let _turn = turn();
    let world = micro(&cases(&[
        ("drops", "sudo -n killall -9 dropbear; sleep 20"),
        ("panics", "sudo -n sh -c 'sleep 0.2; echo c > /proc/sysrq-trigger'; sleep 20"),
        ("complains", "sudo -n sh -c 'echo oops BUG: here > /dev/kmsg'; sleep 20"),
        ("after", "echo a new one"),
    ]));
    let errors = "guests.micro.boot.errors=[\"/Kernel panic/\", \"/BUG:/\"]";
    world
        .ci(&["--set", errors])
        .exits(5)
        .says("the connection was lost")
        .says("crashed during the case")
        .says("sysrq triggered crash");
    let wanted = [("s/drops", "infra"), ("s/panics", "failed"), ("s/complains", "failed"), ("s/after", "passed")];
    assert_eq!(world.verdicts(), wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert!(world.path("record/guests/micro/console-2.log").exists(), "each machine has its own console log");
    assert!(world.record("guests/micro/diagnostics.txt").len() > 20);
    world.assert_nothing_left();
}

#[test]
fn a_boot_that_stalls_is_given_up_long_before_its_time_and_says_where() {
    let _turn = turn();
    let world = micro(ONE_CASE);
    let watched = ["--set", "guests.micro.boot.watchdog=20", "--set", "guests.micro.boot_timeout=5m"];
    world.ci(&watched).exits(0);
    fs::remove_dir_all(world.path("record")).expect("rm");
    let append = "guests.micro.qemu.append=console=ttyS0 panic=-1 sysrq_always_enabled micro.sshd=off";
    let late = ["--set", "guests.micro.boot_timeout=9s"];
    for (limits, why) in
        [(&watched[..], "its console has said nothing for 5.0s in the phase `"), (&late[..], "within 9.0s")]
    {
        let ran = world.ci(&[limits, &["--set", append]].concat()).exits(5);
        assert!(ran.out.contains(why), "{}", ran.out);
        // What is shown is what the guest said, and not what it was asked for then.
        assert!(!ran.out.contains("sysrq: Show"), "{}", ran.out);
        assert!(world.record("guests/micro/console.log").contains("sysrq: Show Blocked State"));
        fs::remove_dir_all(world.path("record")).expect("rm");
    }
    world.assert_nothing_left();
}

#[test]
fn a_person_reaches_the_kernel_of_a_guest_and_only_a_crash_is_a_crash() {
    let _turn = turn();
    let world = micro(&cases(&[
        ("asked", "echo begun; until [ -e /tmp/on ]; do sleep 0.1; done"),
        ("crashed", "echo second; sleep 60"),
    ]));
    let (child, mut stdin) = world.controlled(&[]);
    let press = |key: &str| format!(r#"{{"command":"press","guest":"micro","key":{key}}}"#);
    let sysrq = |key: &str| press(&format!(r#"{{"kind":"sys_rq","key":"{key}"}}"#));
    world.until_event(r#""line":"begun""#);
    for (key, told) in [("w", "got SysRq `w`"), ("l", "got SysRq `l`"), ("t", "got SysRq `t`")] {
        tell(&mut stdin, &sysrq(key));
        world.until_event(told);
    }
    tell(&mut stdin, &sysrq("!"));
    world.until_event("`!` is no key for SysRq");
    tell(&mut stdin, &press(r#"{"kind":"nmi"}"#));
    world.until_event("got a non-maskable interrupt");
    let ready = world.run(&["shell", "micro", "--", "touch /tmp/on"]);
    assert_eq!(ready.code, 0, "{}", ready.err);
    world.until_event(r#""line":"second""#);
    tell(&mut stdin, &sysrq("c"));
    finish(child).exits(1);
    assert_eq!((world.verdict_of("s/asked").as_str(), world.verdict_of("s/crashed").as_str()), ("passed", "failed"));
    let console = world.record("guests/micro/console.log");
    assert!(
        ["sysrq: Show Blocked State", "sysrq: Show backtrace", "sysrq: Show State"]
            .iter()
            .all(|line| console.contains(line))
    );
    world.assert_nothing_left();
}

#[test]
fn a_case_that_takes_too_long_is_ended_with_everything_it_started() {
    let _turn = turn();
    let world = micro(
        "[suites.s]\n[[suites.s.cases]]\nname = \"slow\"\nrun = \"(trap '' TERM; sleep 77) & sleep 77; echo next\"\ntimeout = \"1s\"\n\
         [[suites.s.cases]]\nname = \"root\"\nrun = \"! ps | grep '[s]leep 77'\"\n",
    );
    world.ci(&[]).exits(1).says("took longer than 1.0s");
    assert_eq!((world.verdict_of("s/slow"), world.verdict_of("s/root")), ("failed".into(), "passed".into()));
    // The guest's kernel was asked for its stacks.
    assert!(world.record("guests/micro/console.log").contains("sysrq: Show"));
}

#[test]
fn a_flood_costs_no_memory_and_no_verdict() {
    let _turn = turn();
    let megabytes = if slow() { 100 } else { 20 };
    let flood = format!("dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null | tr '\\0' x");
    let console = "sudo -n sh -c 'dd if=/dev/zero bs=64k count=16 2>/dev/null | tr \"\\0\" x > /dev/ttyS0'";
    let world = micro(&cases(&[("stdout", &flood), ("console", console), ("after", "echo fine")]));
    let mut child = world.start(&["--ci", "--run-dir", "record"]);
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    eventually("the end", Duration::from_mins(3), || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let anonymous = text
            .lines()
            .find_map(|l| l.strip_prefix("RssAnon:"))
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(anonymous.unwrap_or(0));
        child.try_wait().expect("child").is_some()
    });
    finish(child).exits(0);
    assert!(peak < 100 * 1024, "{peak} KiB of memory");
    assert_eq!(
        fs::metadata(world.path("record/guests/micro/s/stdout/stdout.log")).expect("log").len(),
        megabytes << 20
    );
    assert!(fs::metadata(world.path("record/guests/micro/console.log")).expect("log").len() > 1 << 20);
}

#[test]
fn a_full_disk_is_told_and_nothing_stays() {
    let _turn = turn();
    let world = micro(&cases(&[("big", "dd if=/dev/zero bs=1M count=8 2>/dev/null; echo done >&2")]));
    let small = world.path("small");
    fs::create_dir(&small).expect("mkdir");
    let mount = |args: &[&str]| {
        Command::new("mount").args(args).arg(&small).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]) {
        return; // Only root can make a small disk; CI is.
    }
    let ran = world.run(&["--ci", "--run-dir", "small/record", "--set", "host.min_free_disk=1MiB"]);
    let free = world.run(&["--ci", "--run-dir", "small/second", "--set", "host.min_free_disk=1GiB"]);
    assert!(Command::new("umount").arg("-l").arg(&small).status().expect("umount").success());
    assert!(ran.code == 0 || ran.code == 5, "{ran:?}");
    assert!(ran.out.contains("the log is not complete") || ran.err.contains("No space left"), "{ran:?}");
    free.exits(3).complains("No space left").complains("hint: free disk space");
    world.assert_nothing_left();
}

// --- vmdeck itself dies ----------------------------------------------------------------------------------------------

/// Returns a process that looks like a QEMU of somebody else.
fn stranger() -> std::process::Child {
    let mut command = Command::new("/bin/sh");
    command.arg0("/usr/bin/qemu-system-x86_64").args([
        "-c",
        "read x",
        "-name",
        "vmdeck-00000000-00000000",
        "-uuid",
        "not-ours",
    ]);
    command.stdin(Stdio::piped()).spawn().expect("sh")
}

#[test]
fn kill_9_at_random_moments_leaves_nothing_and_touches_nothing_else() {
    let _turn = turn();
    let mut stranger = stranger();
    let world = micro(&cases(&[("work", "i=0; while [ $i -lt 20 ]; do echo $i; sleep 0.1; i=$((i+1)); done")]));
    for round in 0..if slow() { 20 } else { 4 } {
        let _ = fs::remove_dir_all(world.path("record"));
        let child = world.start(&["--ci", "--run-dir", "record"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(5..6000)));
        signal(&child, "KILL");
        finish(child);
        world.run(&["cleanup", "--force"]).exits(0);
        world.assert_nothing_left();
        assert!(stranger.try_wait().expect("alive").is_none(), "round {round}: a qemu that is not ours still runs");
    }
    stranger.kill().expect("kill");
    stranger.wait().expect("collected");
}

#[test]
fn with_the_guardian_killed_first_the_machine_dies_and_the_next_start_reaps() {
    let _turn = turn();
    let world = micro(&cases(&[("work", "echo begun; sleep 60")]));
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    // No other user can talk to the machine's monitor or console.
    let machine = fs::read_dir(world.state().join("machines")).expect("machines").flatten().next().expect("one").path();
    let open = |path: &std::path::Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    open(world.home.path()).expect("chmod");
    open(&world.path("state")).expect("chmod");
    for socket in ["qmp.sock", "console.sock"] {
        let path = machine.join(socket);
        assert!(path.exists(), "{}", path.display());
        let mut stranger = Command::new("setpriv");
        stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups", "test", "-e"]).arg(&path);
        assert!(!stranger.status().expect("setpriv").success(), "{socket} can be reached");
        let mode = fs::metadata(&machine).expect("folder").permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    }
    let guardian = fs::read_to_string(world.path("lock.d/pid")).expect("pid");
    assert!(Command::new("kill").args(["-9", guardian.trim()]).status().expect("kill").success());
    signal(&child, "KILL");
    finish(child);
    eventually("QEMU's end", Duration::from_secs(5), || world.processes().is_empty());
    world.run(&["list"]).exits(0);
    world.run(&["cleanup", "--list-only"]).exits(0).says("of guest `micro`");
    world.run(&["cleanup", "--force"]).exits(0).says("removed vmdeck-");
    world.assert_nothing_left();
}

#[test]
fn ctrl_c_takes_the_guest_down_while_it_boots_and_while_it_works() {
    let _turn = turn();
    let world = micro(&cases(&[("work", "echo begun; sleep 60")]));
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("the boot", Duration::from_secs(30), || {
        fs::read_to_string(world.path("record/guests/micro/console.log")).is_ok_and(|t| t.contains("Linux version"))
    });
    signal(&child, "INT");
    finish(child).exits(130).says("removed micro (verified");
    world.assert_nothing_left();

    fs::remove_dir_all(world.path("record")).expect("removed");
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    signal(&child, "TERM");
    finish(child).exits(143);
    assert_eq!(world.verdict_of("s/work"), "cancelled");
    world.assert_nothing_left();
}

#[test]
fn the_accelerator_is_proven_and_told() {
    let _turn = turn();
    let world = micro(ONE_CASE);
    let report = world.run(&["doctor", "--json"]).exits(0).out;
    let report: serde_json::Value = serde_json::from_str(&report).expect("json");
    let found =
        report["findings"].as_array().expect("list").iter().find(|f| f["check"] == "accelerator").expect("accelerator");
    let text = found["text"].as_str().expect("text");
    assert!(["kvm: ", "hvf: ", "tcg: "].iter().any(|a| text.starts_with(a)), "{text}");
    let proven = text.contains(" answered ") || text.contains("does not run guests here");
    assert_eq!(world.state().join("accel.json").exists(), proven, "only what is proven is kept: {text}");
}
