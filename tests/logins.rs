//! What a login to a guest can be like, against OpenSSH's own server: every usual login shell, start files that speak,
//! forced commands, folders and programs that are missing. Whatever it is, the verdicts and the recorded bytes are the same.
//!
//! They need root, since root's login shell is replaced in a mount namespace; without it they say so and test nothing.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stderr, reason = "what is not tested here is said")]

use parking_lot::Mutex;
use std::{fs, path::Path, process::Command};
use vmdeck_testkit::sshd::{LoginWorld, RootLogin, lacks, program};

/// Shells that root can log in with: the program, and commands that put it in its place where that is not its own.
const SHELLS: [(&str, &str); 7] = [
    ("sh", ""),
    ("dash", ""),
    ("bash", ""),
    ("zsh", ""),
    ("fish", ""),
    ("tcsh", ""),
    // As on small systems, whose `sh` it is; it goes by the name that it is started under.
    ("busybox", "mount --bind /usr/bin/busybox \"$(readlink -f /bin/sh)\""),
];

/// Those of them that read a start file before any command.
const READERS: [&str; 4] = ["bash", "zsh", "fish", "tcsh"];

/// How many logins are tried at a time: most of them wait.
const THREADS: usize = 4;

/// Start files, each read by one of the shells, that write to both streams, and leave a trace of it in the home folder.
const NOISE: [(&str, &str); 5] = [
    (".bashrc", "echo 'NOISE on out'; echo 'NOISE on err' >&2; touch ~/spoke\n"),
    (".zshenv", "echo 'NOISE on out'; echo 'NOISE on err' >&2; touch ~/spoke\n"),
    (".config/fish/config.fish", "echo 'NOISE on out'; echo 'NOISE on err' >&2; touch ~/spoke\n"),
    (".tcshrc", "echo 'NOISE on out'; /bin/sh -c 'echo NOISE on err >&2'; touch ~/spoke\n"),
    (".shrc", "echo 'NOISE on out'; echo 'NOISE on err' >&2; touch ~/spoke\n"),
];

/// A value with everything that a shell reads specially, as TOML.
const HOSTILE: (&str, &str) = (
    r#""it's \"quoted\" \\ \\\\ \\n $HOME $(id) `id` !x %s ~ *\n second\\\n\tthird; #'\n""#,
    "it's \"quoted\" \\ \\\\ \\n $HOME $(id) `id` !x %s ~ *\n second\\\n\tthird; #'\n",
);

/// A file that is run in the guest.
const SCRIPT: &str = "#!/bin/sh\nprintf '%s\\n' 'a\\\\b' \"it's\"\ncase $0 in /*) exit 0 ;; esac\nexit 9\n";

/// Returns the suite that is run through every login; `proof` shows that it is the one that is meant, the numbers name
/// processes.
fn behaviours(proof: &str, hangs: &str, service: &str) -> String {
    let rows: [(&str, &str, &str); 11] = [
        ("the-login-is-as-meant", proof, ""),
        ("passes", "echo fine; echo err >&2", "expect = { stdout = \"/^fine$/\" }"),
        ("fails", "exit 3", ""),
        ("early-line-fails", "echo before\nfalse\necho after", ""),
        ("hangs", &format!("trap '' TERM; (sleep {hangs}; true) & sleep {hangs}; echo next"), "timeout = \"1s\""),
        ("nothing-is-left", &format!("test -z \"$({})\"", processes(hangs)), ""),
        ("starts-a-service", &format!("sleep {service} & echo $! > service.pid; echo started"), ""),
        ("the-service-lives", &format!("test -n \"$({})\" && kill \"$(cat service.pid)\"", processes(service)), ""),
        ("env", "printf %s \"$HOSTILE\"", ""),
        ("bytes", "printf '\\377\\376\\000x\\r\\n\\200\\033[31m'; printf '\\303' >&2", ""),
        ("speaks-as-the-login-does", "true", "expect = { stdout = \"/NOISE/\" }"),
    ];
    let mut suite = format!("[suites.s]\nenv = {{ HOSTILE = {} }}\n", HOSTILE.0);
    for (name, run, more) in rows {
        let limit = if more.contains("timeout") { "" } else { "timeout = \"25s\"" };
        suite.push_str(&format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = '''\n{run}'''\n{more}\n{limit}\n"));
    }
    suite.push_str("[[suites.s.cases]]\nname = \"script\"\nscript = \"script.sh\"\n");
    suite
}

/// Returns a command that prints where processes with this number in their arguments are; it does not find itself.
fn processes(number: &str) -> String {
    format!("grep -la '{}' /proc/[0-9]*/cmdline 2>/dev/null", number.replace('.', "[.]"))
}

/// Runs the suite; returns everything that is not as it must be.
fn faults(login: &RootLogin, proof: &str, id: usize) -> Vec<String> {
    let LoginWorld { world, .. } = &login.start(&behaviours(proof, &format!("71.{id}25"), &format!("72.{id}25")));
    fs::write(world.path("script.sh"), SCRIPT).expect("script");
    let ran = world.ci(&[]);
    let ended = if world.path("record/events.jsonl").exists() { world.of_kind("case_ended") } else { Vec::new() };
    let case = |name: &str| ended.iter().find(|e| e["case"] == name).cloned().unwrap_or_default();
    let mut out = Vec::new();
    let mut wants = |what: &str, got: &[u8], want: &[u8]| {
        if got != want {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            out.push(format!("{what}: {:?} instead of {:?}", text(got), text(want)));
        }
    };
    wants("exit code", ran.code.to_string().as_bytes(), b"1");
    for (name, verdict) in VERDICTS {
        let (case, what) = (case(name), format!("{name} ({})", case(name)["message"]));
        wants(&what, case["verdict"].as_str().unwrap_or_default().as_bytes(), verdict.as_bytes());
    }
    for (name, want) in LOGS {
        wants(name, &fs::read(world.path("record/guests/here/s").join(name)).unwrap_or_default(), want);
    }
    wants("exit of `fails`", case("fails")["exit"].to_string().as_bytes(), b"3");
    let (said, took) = (case("hangs")["message"].to_string(), case("starts-a-service")["took_ms"].as_u64());
    if !said.contains("and was ended") {
        wants("words of `hangs`", said.as_bytes(), b"... and was ended");
    }
    if took.is_none_or(|ms| ms >= 8000) {
        wants("time of `starts-a-service`", format!("{took:?}").as_bytes(), b"less than 8000 ms");
    }
    if !login.files.is_empty() && READERS.iter().any(|name| login.shell.ends_with(name)) {
        wants("start file was read", world.path("home/spoke").exists().to_string().as_bytes(), b"true");
    }
    if !out.is_empty() {
        out.push(format!("\n{}{}", ran.out, ran.err));
    }
    out
}

/// What each case of the suite must end with.
const VERDICTS: [(&str, &str); 12] = [
    ("the-login-is-as-meant", "passed"),
    ("passes", "passed"),
    ("fails", "failed"),
    ("early-line-fails", "failed"),
    ("hangs", "failed"),
    ("nothing-is-left", "passed"),
    ("starts-a-service", "passed"),
    ("the-service-lives", "passed"),
    ("env", "passed"),
    ("bytes", "passed"),
    ("speaks-as-the-login-does", "failed"),
    ("script", "passed"),
];

/// What the record must hold of them, byte for byte.
const LOGS: [(&str, &[u8]); 12] = [
    ("passes/stdout.log", b"fine\n"),
    ("passes/stderr.log", b"err\n"),
    ("fails/stdout.log", b""),
    ("fails/stderr.log", b""),
    ("early-line-fails/stdout.log", b"before\n"),
    ("hangs/stdout.log", b""),
    ("starts-a-service/stdout.log", b"started\n"),
    ("env/stdout.log", HOSTILE.1.as_bytes()),
    ("bytes/stdout.log", b"\xff\xfe\0x\r\n\x80\x1b[31m"),
    ("bytes/stderr.log", b"\xc3"),
    ("script/stdout.log", b"a\\\\b\nit's\n"),
    ("script/stderr.log", b""),
];

/// Tries these shells, several at a time; the test fails with all that went wrong.
fn try_shells(shells: &[(&str, &str)], login: &RootLogin, proof: &str) {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let (queue, wrong) = (Mutex::new(shells.iter().enumerate()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some((index, (name, place))) = queue.lock().next() else { return };
            let Some(path) = program(name) else {
                eprintln!("not tested here: {name} is not installed");
                continue;
            };
            let shell = if place.is_empty() { path.display().to_string() } else { "/bin/sh".to_owned() };
            let before = format!("{place}\n{}", login.before);
            // Tests run beside each other: what they start has numbers of its own.
            let id = usize::try_from(std::process::id()).expect("small") * 10 + index;
            let found = faults(&RootLogin { shell: &shell, before: &before, ..login.clone() }, proof, id);
            wrong.lock().extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    assert!(wrong.lock().is_empty(), "\n{}\n", wrong.lock().join("\n"));
}

// --- every login shell -----------------------------------------------------------------------------------------------

#[test]
fn start_files_that_speak_change_nothing() {
    try_shells(&SHELLS, &RootLogin { files: &NOISE, sshd: "SetEnv ENV=.shrc", ..RootLogin::default() }, "true");
}

#[test]
fn a_forced_command_that_hands_the_command_on_changes_nothing() {
    let key_options = r#"command="exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"""#;
    let login = RootLogin { key_options, ..RootLogin::default() };
    try_shells(&SHELLS, &login, "test -n \"$SSH_ORIGINAL_COMMAND\"");
}

#[test]
fn a_tmp_without_the_right_to_run_programs_changes_nothing() {
    // The world lies in it as well, and keeps that right: a home folder has it.
    let before = "mount --bind . .\nmount --rbind /tmp /tmp\nmount -o remount,bind,noexec /tmp";
    let proof = "f=/tmp/probe-$$; cp /bin/true $f; ! $f 2>/dev/null; c=$?; rm $f; exit $c";
    try_shells(&SHELLS, &RootLogin { before, ..RootLogin::default() }, proof);
}

#[test]
fn a_guest_without_ps_and_setsid_changes_nothing() {
    let before = "for f in ps setsid; do f=$(command -v $f) && mount --bind /dev/null \"$f\"; done";
    let proof = "! ps >/dev/null 2>&1 && ! setsid true 2>/dev/null";
    // One that has them in itself, as the static build of busybox does, is never without.
    let within = Command::new("busybox").args(["sh", "-c", "PATH=/nowhere; ps >/dev/null"]).output();
    let has_them = within.is_ok_and(|out| out.status.success());
    let shells: Vec<(&str, &str)> = SHELLS.into_iter().filter(|(name, _)| *name != "busybox" || !has_them).collect();
    try_shells(&shells, &RootLogin { before, ..RootLogin::default() }, proof);
}

#[test]
fn a_start_file_that_becomes_another_shell_changes_nothing() {
    let files = &[(".bashrc", "touch ~/spoke; exec dash\n")];
    try_shells(&[("bash", "")], &RootLogin { files, ..RootLogin::default() }, "true");
}

// --- logins that refuse ----------------------------------------------------------------------------------------------

#[test]
fn what_a_login_says_instead_of_running_a_command_is_told() {
    if lacks(&["unshare", "sshd"]) {
        return;
    }
    let nologin = program("nologin").map(|path| path.display().to_string()).unwrap_or_default();
    let forced = RootLogin {
        key_options: "no-pty,command=\"echo Please log in as the user debian rather than root.; exit 142\"",
        ..RootLogin::default()
    };
    let rows = [
        (forced, "Please log in as the user debian rather than root."),
        (RootLogin { shell: &nologin, ..RootLogin::default() }, "This account is currently not available."),
    ];
    for (login, words) in rows {
        if login.shell.is_empty() {
            eprintln!("not tested here: there is no nologin");
            continue;
        }
        let LoginWorld { world, .. } = &login.start(ONE_CASE);
        world.ci(&[]).exits(5).says(&format!("cannot start the command: {words}"));
        assert_eq!(world.verdict_of("s/a"), "infra");
        assert!(world.record("junit.xml").contains(words));
    }
}

#[test]
fn a_login_that_loses_the_exit_status_is_never_green() {
    if lacks(&["unshare", "sshd", "bash"]) {
        return;
    }
    let suites = "[suites.s]\nsetup = \"true\"\n[[suites.s.cases]]\nname = \"a\"\nrun = \"exit 3\"\n";
    for forced in [
        "/bin/sh -c \"$SSH_ORIGINAL_COMMAND\"; exit 0",
        "/bin/sh -c \"$SSH_ORIGINAL_COMMAND\" | tee -a /dev/null",
        "/bin/sh -c \"$SSH_ORIGINAL_COMMAND\" || exit 1",
    ] {
        let line = format!("ForceCommand {forced}");
        let login = RootLogin { shell: "/bin/bash", sshd: &line, ..RootLogin::default() };
        let LoginWorld { world, .. } = &login.start(suites);
        world.ci(&[]).exits(5).says("cannot trust the exit status of a command");
        assert_eq!(world.verdict_of("s/a"), "infra", "{forced}");
    }
}

#[test]
fn a_command_that_had_no_time_to_begin_does_not_begin_later() {
    if lacks(&["unshare", "sshd", "bash"]) {
        return;
    }
    let files = &[(".bashrc", "sleep 3\n")];
    let login = RootLogin { shell: "/bin/bash", files, ..RootLogin::default() };
    let suites = "[suites.s]\n[[suites.s.cases]]\nname = \"install\"\nrun = \"touch ~/installed\"\ntimeout = \"1s\"\n\
                  [[suites.s.cases]]\nname = \"check\"\nrun = \"sleep 1; test -e ~/installed\"\n";
    let LoginWorld { world, .. } = &login.start(suites);
    world.ci(&[]).exits(5).says("it had not begun when its time was over");
    assert_eq!((world.verdict_of("s/install"), world.verdict_of("s/check")), ("infra".into(), "failed".into()));
}

const ONE_CASE: &str =
    "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"id -un\"\nexpect = { stdout = \"/^root$/\" }\n";

#[test]
fn a_password_that_is_asked_for_by_keyboard_interactive() {
    if lacks(&["unshare", "sshd", "openssl"]) || !Path::new("/etc/pam.d/sshd").exists() {
        return;
    }
    let hash = Command::new("openssl").args(["passwd", "-6", "right-password"]).output().expect("openssl");
    let shadow = format!("root:{}:20000:0:99999:7:::\n", String::from_utf8_lossy(&hash.stdout).trim());
    let login = RootLogin {
        files: &[("shadow", &shadow)],
        before: "chmod 600 home/shadow\nmount --bind home/shadow /etc/shadow",
        sshd: "UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\nPubkeyAuthentication no\n\
               MaxStartups 100",
        ssh: "host = \"127.0.0.1\"",
        guest: "boot_timeout = \"15s\"",
        ..RootLogin::default()
    };
    let LoginWorld { world, .. } = &login.start(ONE_CASE);
    let with = |password: &str, dir: &str| {
        let set = format!("guests.here.ssh.password=\"{password}\"");
        world.run(&["--ci", "--run-dir", dir, "--set", &set])
    };
    with("right-password", "record").exits(0);
    assert_eq!(world.verdict_of("s/a"), "passed");
    with("wrong-password", "wrong").exits(5).says("it refused the password").says("(it takes: keyboard-interactive)");
}
