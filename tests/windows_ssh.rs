//! Windows guests over SSH: OpenSSH's own server, with a stand-in for PowerShell behind different login shells.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, path::Path, process::Command};
use vmdeck_testkit::sshd::{RootLogin, lacks};

/// Returns the folder of the stand-ins.
fn bin() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/winrm/bin").display().to_string()
}

/// Returns the line for the server with which its commands find `powershell.exe`.
fn with_powershell() -> String {
    format!("SetEnv PATH={}:{}", bin(), std::env::var("PATH").unwrap_or_default())
}

const GUEST: &str = "os = \"windows\"\nboot_timeout = \"30s\"";

#[test]
fn powershell_is_found_behind_each_login_shell_and_its_status_is_exact() {
    if lacks(&["unshare"]) {
        return;
    }
    let login = format!("{}/powershell-login", bin());
    for shell in ["/bin/sh", login.as_str()] {
        let word = format!("63.{}", fastrand::u32(1000..9999));
        let suites = format!(
            "[suites.s]\nartifacts = [\"out/*.txt\"]\nenv = {{ WORDS = \"it's € ’x’\" }}\n\
             [[suites.s.cases]]\nname = \"both\"\nrun = \"echo \\\"$WORDS\\\"; echo err >&2; exit 7\"\nexpect = {{ exit = 7 }}\n\
             [[suites.s.cases]]\nname = \"files\"\nrun = \"mkdir out && cp a.txt out/b.txt\"\n\
             [[suites.s.cases]]\nname = \"red\"\nrun = \"exit 3\"\n\
             [[suites.s.cases]]\nname = \"eof\"\nrun = \"cat\"\ntimeout = \"10s\"\n\
             [[suites.s.cases]]\nname = \"many\"\nrun = \"head -c 5000000 /dev/zero\"\n\
             [[suites.s.cases]]\nname = \"slow\"\nrun = \"sleep {word} & sleep {word}; true\"\ntimeout = \"2s\"\n"
        );
        let sshd = with_powershell();
        let server = RootLogin { shell, sshd: &sshd, guest: GUEST, ..RootLogin::default() }.start(&suites);
        let world = &server.world;
        fs::create_dir(world.path("app")).expect("mkdir");
        fs::write(world.path("app/a.txt"), "content").expect("write");
        let source = format!("guests.here.source={{ path = \"app\", to = \"{}\" }}", world.path("in/deep").display());
        world.ci(&["--set", &source]).exits(1);
        assert_eq!(world.record("guests/here/s/both/stdout.log"), "it's € ’x’\n", "{shell}");
        assert_eq!(world.record("guests/here/s/both/stderr.log"), "err\n");
        assert_eq!(fs::metadata(world.path("record/guests/here/s/many/stdout.log")).expect("log").len(), 5_000_000);
        for (case, verdict) in [
            ("s/both", "passed"),
            ("s/files", "passed"),
            ("s/red", "failed"),
            ("s/eof", "passed"),
            ("s/many", "passed"),
            ("s/slow", "failed"),
        ] {
            assert_eq!(world.verdict_of(case), verdict, "{shell}: {case}");
        }
        assert_eq!(world.record("artifacts/here/s/out/b.txt"), "content");
        let left = Command::new("pgrep").args(["-f", &format!("sleep {word}")]).output().expect("pgrep");
        assert!(left.stdout.is_empty(), "{shell}: what it started is gone");
    }
}

#[test]
fn a_case_goes_on_in_a_windows_that_comes_up_again() {
    if lacks(&["unshare"]) {
        return;
    }
    let state = tempfile::tempdir().expect("tempdir");
    let login = format!("{}/powershell-login", bin());
    let suites = "[suites.s]\n\
         [[suites.s.cases]]\nname = \"restarts\"\nreboot = \"expected\"\n\
         run = 'echo \"count $VMDECK_REBOOT_COUNT $VMDECK_REBOOT_MARK\"; [ \"$VMDECK_REBOOT_COUNT\" = 1 ] || \"$VMDECK_REBOOT\" next'\n\
         [[suites.s.cases]]\nname = \"lost\"\nreboot = \"allowed\"\n\
         run = 'p=$$; until case $(cat /proc/$p/comm) in sshd*) true ;; *) false ;; esac; do p=$(cut -d\" \" -f4 /proc/$p/stat); done; kill -9 $p; sleep 60'\n";
    let sshd = format!("{} STANDIN_STATE={}", with_powershell(), state.path().display());
    let login = RootLogin {
        shell: &login,
        sshd: &sshd,
        is_remote: true,
        guest: GUEST,
        ssh: "key = \"user_key\"",
        ..RootLogin::default()
    };
    let server = login.start(suites);
    let world = &server.world;
    let ran = world.ci(&["s/restarts"]).exits(0);
    assert_eq!(world.record("guests/here/s/restarts/stdout.log"), "count 0 \ncount 1 next\n", "{}", ran.out);
    assert!(ran.out.contains("has restarted as its case wanted (1)"), "{}", ran.out);
    fs::remove_dir_all(world.path("record")).expect("removed");
    // A connection that is lost proves no restart: the guest still says the same of its boot.
    world.ci(&["s/lost"]).exits(5);
    assert_eq!(world.verdict_of("s/lost"), "infra");
}

#[test]
fn a_windows_whose_login_is_a_posix_shell_is_used_as_such() {
    if lacks(&["unshare"]) {
        return;
    }
    let cases = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"echo $0; exit 4\"\nexpect = { exit = 4 }\n";
    let server = RootLogin { guest: GUEST, ..RootLogin::default() }.start(cases);
    server.world.ci(&[]).exits(0);
}
