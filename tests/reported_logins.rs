//! Situations that people met with other tools of this trade at a guest's login, and what must come of them here: shells,
//! start files, forced commands, keys, and services that stay or come late. OpenSSH's own server stands for the guest.
//!
//! They need root, for a server or a run in a mount namespace; without it they say so and test nothing.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    net::UdpSocket,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use vmdeck_testkit::sshd::{LoginWorld, RootLogin, lacks};
use vmdeck_testkit::world::{Ran, eventually, finish, suite};

const ONE_CASE: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n";

// --- shells and logins -----------------------------------------------------------------------------------------------

#[test]
fn a_login_shell_with_other_quotes_runs_the_script_as_it_is() {
    if lacks(&["unshare", "sshd", "fish"]) {
        return;
    }
    let cases = suite(&[
        ("backslashes", r"printf '%s\n' 'a\\b' ", r"expect = { stdout = '/^a\\\\b$/' }"),
        ("must-fail", r"printf 'ab\n' | grep -q 'a\\.*b' ", ""),
        ("value", "printf %s \"$IT\"", "expect = { stdout = \"/^it's$/\" }"),
    ]);
    let cases = cases.replacen('\n', "\nenv = { IT = \"it's\" }\n", 1);
    for shell in ["/usr/bin/fish", "/bin/bash"] {
        let LoginWorld { world, .. } = &RootLogin { shell, ..RootLogin::default() }.start(&cases);
        world.ci(&[]).exits(1);
        world.assert_verdicts(&[("s/backslashes", "passed"), ("s/must-fail", "failed"), ("s/value", "passed")]);
    }
}

#[test]
fn a_start_file_s_greeting_is_no_output_and_spoils_no_artifact() {
    if lacks(&["unshare", "sshd", "bash"]) {
        return;
    }
    let files = &[(".bashrc", "echo 'Welcome, last update 3 days ago'\n")];
    let cases = suite(&[
        ("make", "mkdir -p out; echo '<a/>' > out/a.xml; echo done", ""),
        ("not-mine", "true", "expect = { stdout = \"/Welcome/\" }"),
    ]);
    let cases = cases.replacen('\n', "\nartifacts = [\"out/*.xml\"]\n", 1);
    let LoginWorld { world, .. } = &RootLogin { shell: "/bin/bash", files, ..RootLogin::default() }.start(&cases);
    world.ci(&[]).exits(1);
    world.assert_verdicts(&[("s/make", "passed"), ("s/not-mine", "failed")]);
    assert_eq!(world.record("artifacts/here/s/out/a.xml"), "<a/>\n");
    assert_eq!(world.record("guests/here/s/make/stdout.log"), "done\n");
}

#[test]
fn a_service_that_keeps_the_output_open_does_not_hold_its_case() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let cases = suite(&[
        ("start", "sleep 20 & echo $! > pid; echo started", "timeout = \"15s\""),
        ("stop", "kill \"$(cat pid)\"", ""),
    ]);
    let cases =
        cases.replacen('\n', "\nsetup = \"sleep 20 & echo $! > setup.pid\"\nteardown = \"kill $(cat setup.pid)\"\n", 1);
    let LoginWorld { world, .. } = &RootLogin::default().start(&cases);
    for (transport, record) in [("ssh", "record"), ("exec", "again")] {
        let set = format!("guests.here.transports=[\"{transport}\"]");
        let ran = world.run(&["--ci", "--run-dir", record, "--set", &set]).exits(0);
        assert!(!ran.out.contains("teardown failed"), "{}", ran.out);
        let text = fs::read_to_string(world.path(record).join("events.jsonl")).expect("events");
        let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("event"));
        let slow: Vec<_> = events.filter(|e| e["took_ms"].as_u64().is_some_and(|took| took > 6000)).collect();
        assert!(slow.is_empty(), "{transport}: {slow:?}");
    }
}

#[test]
fn a_forced_command_s_words_are_in_the_message() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let key_options = "no-pty,command=\"echo Please log in as the user debian rather than root.; exit 142\"";
    let LoginWorld { world, .. } = &RootLogin { key_options, ..RootLogin::default() }.start(ONE_CASE);
    let words = "cannot start the command: Please log in as the user debian rather than root.";
    world.ci(&[]).exits(5).says(words).says("set `guests.here.ssh.user`");
    assert!(world.record("junit.xml").contains(words));
}

#[test]
fn an_agent_with_too_many_keys_is_told_as_what_it_is() {
    if lacks(&["unshare", "sshd", "ssh-agent", "ssh-add"]) {
        return;
    }
    let login = RootLogin { ssh: "host = \"127.0.0.1\"\nagent = true", ..RootLogin::default() };
    let LoginWorld { world, .. } = &login.start(ONE_CASE);
    // In the foreground, so that it is a child that can be ended.
    let socket = world.path("agent.sock");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().expect("agent");
    eventually("the agent", Duration::from_secs(10), || socket.exists());
    for index in 0..8 {
        let key = if index == 7 { world.path("user_key") } else { world.path(&format!("other-{index}")) };
        if index < 7 {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
            assert!(made.expect("ssh-keygen").success());
        }
        let added = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status();
        assert!(added.expect("ssh-add").success());
    }
    let run = |args: &[&str]| {
        let all = [&["--ci", "--run-dir", "record"], args].concat();
        Ran::of(&world.vmdeck(&all).env("SSH_AUTH_SOCK", &socket).output().expect("ran"))
    };
    let without = run(&[]);
    let _ = fs::remove_dir_all(world.path("record"));
    let with_key = run(&["--set", "guests.here.ssh.key=user_key"]);
    agent.kill().expect("killed");
    agent.wait().expect("ended");
    without.exits(5).says("the server ended the login after").says("of the 8 keys").says("`guests.here.ssh.key`");
    with_key.exits(0);
}

#[test]
fn a_guest_without_ps_keeps_nothing_of_a_case_that_took_too_long() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let before = "mount --bind /dev/null \"$(command -v ps)\"";
    let cases = suite(&[
        ("hangs", "(sleep 41.375; true) & sleep 41.375; echo next", "timeout = \"1s\""),
        ("after", "! ps 2>/dev/null && test -z \"$(grep -la '41[.]375' /proc/[0-9]*/cmdline 2>/dev/null)\"", ""),
    ]);
    let LoginWorld { world, .. } = &RootLogin { before, ..RootLogin::default() }.start(&cases);
    world.ci(&[]).exits(1).says("took longer than 1.0s and was ended");
    world.assert_verdicts(&[("s/hangs", "failed"), ("s/after", "passed")]);
}

#[test]
fn a_script_runs_where_tmp_holds_no_programs() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let login = RootLogin {
        before: "mkdir -p tmp\nmount -t tmpfs -o noexec,mode=1777 tmpfs tmp\nd=$PWD/tmp\n\
                 echo \"SetEnv TMPDIR=$d\" | cat - sshd_config > changed\nmv changed sshd_config",
        ..RootLogin::default()
    };
    let cases = "[suites.s]\n\
                 [[suites.s.cases]]\nname = \"noexec\"\nrun = '''cp /bin/true \"$TMPDIR/t\"; ! \"$TMPDIR/t\" 2>/dev/null'''\n\
                 [[suites.s.cases]]\nname = \"script\"\nscript = \"t.sh\"\nexpect = { stdout = \"/^ran$/\" }\n\
                 [[suites.s.cases]]\nname = \"own-126\"\nscript = \"own.sh\"\n";
    let LoginWorld { world, .. } = &login.start(cases);
    fs::write(world.path("t.sh"), "#!/bin/sh\necho ran\n").expect("script");
    fs::write(world.path("own.sh"), "#!/bin/sh\nexit 126\n").expect("script");
    world.ci(&[]).exits(1).says("exit 126");
    world.assert_verdicts(&[("s/noexec", "passed"), ("s/script", "passed"), ("s/own-126", "failed")]);
}

#[test]
fn a_password_that_is_asked_for_interactively_is_offered() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let login = RootLogin {
        ssh: "host = \"127.0.0.1\"\npassword = \"secret-pw\"",
        guest: "boot_timeout = \"4s\"",
        sshd: "PasswordAuthentication no\nKbdInteractiveAuthentication yes\nPubkeyAuthentication no",
        ..RootLogin::default()
    };
    let LoginWorld { world, .. } = &login.start(ONE_CASE);
    world.ci(&[]).exits(5).says("refused the password (asked for by keyboard-interactive)");
}

// --- guests that come late -------------------------------------------------------------------------------------------

#[test]
fn a_key_that_the_guest_learns_late_is_waited_for() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let LoginWorld { world, .. } =
        &RootLogin { guest: "boot_timeout = \"90s\"", ..RootLogin::default() }.start(ONE_CASE);
    let key = fs::read(world.path("authorized")).expect("key");
    fs::write(world.path("authorized"), "").expect("emptied");
    let child = world.start(&["--ci", "--run-dir", "record"]);
    // So often that a few tries are no explanation.
    let refused =
        || fs::read_to_string(world.path("sshd.log")).unwrap_or_default().matches("authenticating user root").count();
    eventually("ten refusals", Duration::from_mins(1), || refused() >= 10);
    fs::write(world.path("authorized"), key).expect("key");
    finish(child).exits(0);
    assert_eq!(world.verdict_of("s/a"), "passed");
}

/// Answers questions for addresses at this address until the test ends: so often that there is no such name, then with
/// 127.0.0.1. Returns how often it said so.
fn name_server(ip: &str, unknown: usize) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind((ip, 53)).expect("port 53");
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // After the head: the name, which ends with a zero, its type and its class.
            let name = packet[12..length].iter().position(|byte| *byte == 0).expect("a name");
            let (end, is_a) = (12 + name + 5, packet[12 + name + 2] == 1);
            let known = count.load(Ordering::Relaxed) >= unknown;
            count.fetch_add(usize::from(is_a && !known), Ordering::Relaxed);
            let mut answer = packet[..end].to_vec();
            let head = [0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(known && is_a), 0, 0, 0, 0];
            answer[2..12].copy_from_slice(&head);
            if known && is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    refused
}

#[test]
fn a_host_name_that_is_known_late_is_waited_for() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let login = RootLogin {
        ssh: "host = \"guest-under-test.lan\"\nkey = \"user_key\"",
        guest: "boot_timeout = \"60s\"",
        ..RootLogin::default()
    };
    let LoginWorld { world, .. } = &login.start(ONE_CASE);
    let ip = format!("127.0.83.{}", std::process::id() % 250 + 1);
    fs::write(world.path("resolv.conf"), format!("nameserver {ip}\n")).expect("resolv.conf");
    fs::write(world.path("nsswitch.conf"), "hosts: files dns\n").expect("nsswitch.conf");
    let refused = name_server(&ip, 5);
    let ran = world.inside(
        &["-m"],
        "mount --make-rprivate /; for f in resolv.conf nsswitch.conf; do mount --bind $f /etc/$f; done",
        &["--ci", "--run-dir", "record"],
    );
    ran.exits(0);
    assert_eq!(world.verdict_of("s/a"), "passed");
    assert_eq!(refused.load(Ordering::Relaxed), 5);
}

#[test]
fn the_first_set_up_of_a_guest_is_waited_for_and_its_failure_is_told() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    // (what cloud-init does, the exit of the run, what is said, further lines of the guest)
    for (status, exit, said, lines) in [
        ("sleep 1; touch /run/set-up; exit 0", 0, "is ready after", ""),
        ("exit 2", 0, "the first set-up of guest `here` ended with errors; cloud-init says: status: error", ""),
        ("exit 1", 5, "its first set-up failed", ""),
        ("exit 1", 0, "ended with errors", "first_boot = \"warn\""),
        ("sleep 60", 0, "is ready after", "first_boot = \"ignore\""),
        ("sleep 60", 5, "the guest's first set-up (cloud-init) did not end within 2", "boot_timeout = \"2s\""),
    ] {
        let tool = format!("[ \"$2\" = --wait ] || {{ echo status: error; exit 1; }}\n{status}");
        let guest =
            if lines.contains("boot_timeout") { lines.to_owned() } else { format!("boot_timeout = \"30s\"\n{lines}") };
        let before = format!(
            "mount -t tmpfs none /usr/local/bin\nprintf '%s\\n' '#!/bin/sh' '{}' > /usr/local/bin/cloud-init\n\
             chmod 755 /usr/local/bin/cloud-init\nmkdir -p /run/x; mount -t tmpfs none /run/x",
            tool.replace('\n', "' '").replace("/run/set-up", "/run/x/set-up")
        );
        let case = if status.contains("touch") { "test -e /run/x/set-up" } else { "true" };
        let login = RootLogin {
            before: &before,
            guest: &guest,
            sshd: "SetEnv PATH=/usr/local/bin:/usr/bin:/bin",
            ..RootLogin::default()
        };
        let LoginWorld { world, .. } = &login.start(&suite(&[("a", case, "")]));
        let ran = world.ci(&[]);
        assert!(ran.out.contains(said) && ran.code == exit, "{status} {lines}: {}\n{}\n{}", ran.code, ran.out, ran.err);
    }
}
