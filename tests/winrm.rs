//! The `winrm` transport against a server with real NTLM: logons, encryption, commands, files, and a connection that is cut at every
//! message.
//!
//! The server gives what PowerShell would run to `/bin/sh`; the session finds that out, and everything else is as with Windows.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use base64::{Engine, prelude::BASE64_STANDARD};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};
use vmdeck_testkit::{
    winrm::{self, Peer, Tap},
    world::{Ran, World, finish},
};

/// A name and a password with all that quoting and encoding can get wrong.
const USER: &str = "Jörg O'Neil";
const PASSWORD: &str = "grün \"%PATH%\" $(id) 'q' \\ €";

/// Returns a world whose guest is reached at this port, with these keys of its transport.
fn world(port: u16, keys: &str, suites: &str) -> World {
    let mut world = World::new(&format!(
        "[guests.win]\nbackend = \"remote\"\nos = \"windows\"\naddress = \"127.0.0.1\"\ntransports = [\"winrm\"]\n\
         boot_timeout = \"20s\"\nlaunch_retries = 1\n\
         [guests.win.winrm]\nuser = \"{USER}\"\nport = {port}\npassword = {{ env = \"WIN_PASSWORD\" }}\n{keys}\n{suites}"
    ));
    world.env.push(("WIN_PASSWORD".into(), PASSWORD.into()));
    world
}

/// Returns all that a run has said.
fn said(ran: &Ran) -> String {
    format!("{}{}", ran.out, ran.err)
}

/// Returns a suite of cases, each a name and a command.
fn suite(cases: &[(&str, &str)]) -> String {
    let case = |(name, run): &(&str, &str)| format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = '''{run}'''\n");
    format!("[suites.s]\n{}", cases.iter().map(case).collect::<String>())
}

#[test]
fn every_way_to_log_on_works_and_says_what_is_wrong() {
    let scratch = World::new("");
    let print = winrm::certificate(&scratch, "win");
    let other = winrm::certificate(&scratch, "other");
    let file = |name: &str| scratch.path(name).display().to_string();
    let (cert, key, others) = (file("win.pem"), file("win.key"), file("other.pem"));
    let tls = ["--tls-cert", cert.as_str(), "--tls-key", key.as_str()];
    let strict = [&tls[..], &["--cbt", "strict"]].concat();
    let basic = [&tls[..], &["--basic"]].concat();
    let loose = ["--basic", "--allow-unencrypted"];
    let rows: [(&[&str], String, i32, &str); 14] = [
        (&[], String::new(), 0, ""),
        (&["--delay", "0.05"], String::new(), 0, ""),
        (&tls, format!("tls = \"pinned\"\ncert = \"{print}\""), 0, ""),
        (&strict, format!("tls = \"pinned\"\ncert = \"{cert}\""), 0, ""),
        (&strict, format!("tls = \"ca\"\ncert = \"{cert}\""), 0, ""),
        (&basic, format!("tls = \"pinned\"\ncert = \"{print}\"\nauth = \"basic\""), 0, ""),
        (&loose, String::new(), 0, ""),
        (&tls, "tls = \"pinned\"".into(), 5, "and nothing says whether it is the right one"),
        (&tls, format!("tls = \"pinned\"\ncert = \"{other}\""), 5, "expected sha256:"),
        (&tls, format!("tls = \"ca\"\ncert = \"{others}\""), 5, "for which no authority vouches"),
        (&tls, "tls = \"ca\"".into(), 5, "for which no authority vouches"),
        (&loose, "auth = \"basic\"".into(), 3, "would send the password in the clear"),
        (&[], "auth = \"kerberos\"".into(), 3, "cannot log on by Kerberos"),
        (&[], "user_ = \"x\"".into(), 2, "unknown key"),
    ];
    for (options, keys, exit, says) in rows {
        let peer = Peer::start(USER, PASSWORD, options);
        let world = world(peer.port, &keys, &suite(&[("a", "echo hi")]));
        let ran = world.ci(&[]).exits(exit);
        assert!(said(&ran).contains(says), "{options:?} {keys}: {}", said(&ran));
        if exit == 5 {
            let shown = print.trim_start_matches("sha256:").replace(':', "").to_lowercase();
            assert!(said(&ran).contains(&shown), "the fingerprint to pin: {}", said(&ran));
        }
    }
}

#[test]
fn a_wrong_password_is_tried_three_times_and_no_more() {
    let scratch = World::new("");
    let log = scratch.path("log");
    let peer = Peer::start(USER, "another", &["--log", &log.display().to_string()]);
    let world = world(peer.port, "", &suite(&[("a", "true")]));
    world.ci(&[]).exits(5).says("refused the user or the password");
    // Each logon is two refusals: the first asks for the challenge.
    assert_eq!(winrm::actions(&log).len(), 6, "accounts get locked");
}

#[test]
fn streams_statuses_environment_and_files_come_through() {
    let peer = Peer::start(USER, PASSWORD, &[]);
    let scratch = World::new("");
    let there = scratch.path("in/deep");
    let cases = "[suites.s]\nartifacts = [\"out/**\"]\nenv = { WORDS = \"it's $HOME € \\\"x\\\"\" }\nsetup = \"mkdir -p out && cp a.txt out/\"\n\
        [[suites.s.cases]]\nname = \"both\"\nrun = \"echo \\\"$WORDS\\\"; echo err >&2; exit 7\"\nexpect = { exit = 7, stdout = \"/it's/\" }\n\
        [[suites.s.cases]]\nname = \"strict\"\nrun = \"false\\necho not\"\nexpect = { exit = 1 }\n\
        [[suites.s.cases]]\nname = \"many\"\nrun = \"head -c 20000000 /dev/zero\"\n\
        [[suites.s.cases]]\nname = \"script\"\nscript = \"check.sh\"\n\
        [[suites.s.cases]]\nname = \"red\"\nrun = \"echo ok; exit 1\"\n\
        [[suites.s.cases]]\nname = \"eof\"\nrun = \"cat\"\ntimeout = \"10s\"\n";
    let source = format!("[guests.win.source]\npath = \"app\"\nto = \"{}\"\n", there.display());
    let world = world(peer.port, "", &(source + cases));
    fs::create_dir(world.path("app")).expect("mkdir");
    fs::write(world.path("app/a.txt"), "content").expect("write");
    fs::write(world.path("app/ü b"), vec![b'x'; 3_000_000]).expect("write");
    fs::write(world.path("check.sh"), "#!/bin/sh\n[ \"$(wc -c < 'ü b')\" = 3000000 ]\n").expect("write");
    world.ci(&[]).exits(1);
    assert_eq!(world.record("guests/win/s/both/stdout.log"), "it's $HOME € \"x\"\n");
    assert_eq!(world.record("guests/win/s/both/stderr.log"), "err\n");
    assert_eq!(fs::metadata(world.path("record/guests/win/s/many/stdout.log")).expect("log").len(), 20_000_000);
    for (case, verdict) in [
        ("s/both", "passed"),
        ("s/strict", "passed"),
        ("s/many", "passed"),
        ("s/script", "passed"),
        ("s/red", "failed"),
        ("s/eof", "passed"),
    ] {
        assert_eq!(world.verdict_of(case), verdict, "{case}");
    }
    assert_eq!(world.record("artifacts/win/s/out/a.txt"), "content");
    world.assert_nothing_left();
}

/// Whatever is cut off says nothing about the code, is never run twice, and never waits for ever.
#[test]
fn a_connection_that_is_cut_at_any_message_is_infra_and_nothing_runs_twice() {
    // Once with a shell that gets its text at once, and once with one that gets it as input.
    for options in [vec![], vec!["--powershell".to_owned(), winrm::powershell()]] {
        let (mut cut, mut good_since) = (0, 0);
        for at in 1.. {
            let fail = ["--fail-after".to_owned(), at.to_string()];
            let all: Vec<&str> = options.iter().chain(&fail).map(String::as_str).collect();
            let (verdict, runs) = cut_at(&Peer::start(USER, PASSWORD, &all));
            assert!(runs <= 1, "cut at {at}: it ran {runs} times");
            match verdict.as_str() {
                "infra" => (cut, good_since) = (cut + 1, 0),
                // The way there was cut, or the start of what would have come next; or all was over.
                "passed" => {
                    assert_eq!(runs, 1, "cut at {at}");
                    good_since += 1;
                }
                other => panic!("cut at {at}: {other}"),
            }
            if good_since == 3 && cut > 0 {
                break;
            }
            assert!(at < 60, "the exchange has an end");
        }
        assert!(cut >= 3, "start, output and end of a command: {cut}");
    }
}

/// Runs a case at a server that cuts a connection; returns its verdict, and how often it ran.
fn cut_at(peer: &Peer) -> (String, usize) {
    let world = world(peer.port, "", "");
    let marker = world.path("marker");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let run = format!("echo x >> {}; echo out", marker.display());
    fs::write(world.path("vmdeck.toml"), config + &suite(&[("a", &run)])).expect("config");
    world.ci(&[]);
    (world.verdict_of("s/a"), fs::read_to_string(&marker).unwrap_or_default().lines().count())
}

#[test]
fn logons_that_end_small_messages_and_quiet_commands_change_nothing() {
    for options in [&["--expire-after", "3"][..], &["--expire-after", "7"], &["--max-envelope-kb", "8"]] {
        let peer = Peer::start(USER, PASSWORD, options);
        let there = World::new("");
        let source = format!("[guests.win.source]\npath = \"app\"\nto = \"{}/in/deep\"\n", there.home.path().display());
        let cases = suite(&[("a", "test \"$(wc -c < big)\" = 100000"), ("quiet", "sleep 1.5; echo late")]);
        let world = world(peer.port, "operation_timeout = \"500ms\"", &(source + &cases));
        fs::create_dir(world.path("app")).expect("mkdir");
        fs::write(world.path("app/big"), vec![b'x'; 100_000]).expect("write");
        world.ci(&[]).exits(0);
        assert_eq!(world.record("guests/win/s/quiet/stdout.log"), "late\n", "{options:?}");
    }
}

#[test]
fn a_command_that_takes_too_long_ends_with_all_that_it_started() {
    let peer = Peer::start(USER, PASSWORD, &[]);
    let word = format!("61.{}", fastrand::u32(1000..9999));
    let run = format!("(sleep {word}; true) & sleep {word}; true");
    let cases = suite(&[("slow", &run), ("next", "true")])
        .replace("[[suites.s.cases]]\nname = \"next\"", "timeout = \"2s\"\n[[suites.s.cases]]\nname = \"next\"");
    let world = world(peer.port, "", &cases);
    world.ci(&[]).exits(1).says("took longer than");
    assert_eq!((world.verdict_of("s/slow").as_str(), world.verdict_of("s/next").as_str()), ("failed", "passed"));
    let left = Command::new("pgrep").args(["-f", &format!("sleep {word}")]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "what it started is gone");
}

#[test]
fn a_name_is_found_whichever_way_it_is_put_in_capitals() {
    let peer = Peer::start("straße", PASSWORD, &[]);
    let world = world(peer.port, "", &suite(&[("a", "true")]));
    world.ci(&["--set", "guests.win.winrm.user=straße"]).exits(0);
}

#[test]
fn quotas_are_said_with_what_to_do() {
    let peer = Peer::start(USER, PASSWORD, &["--max-shells", "0"]);
    let world = world(peer.port, "", &suite(&[("a", "true")]));
    world.ci(&["--set", "guests.win.boot_timeout=2s"]).exits(5).says("maximum number of concurrent shells");
}

/// Returns the forms in which a secret may be written.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    let percent = secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>().into_bytes();
    // What base64 makes of it at each of the three places that it may have in a longer text.
    let inner = |bytes: &[u8], at: usize| {
        let text = BASE64_STANDARD.encode([&vec![0; at][..], bytes].concat());
        text.as_bytes()[(at * 8).div_ceil(6)..text.len() - 4].to_vec()
    };
    let mut all = vec![secret.as_bytes().to_vec(), hex(secret.as_bytes()), hex(&utf16), percent];
    for at in 0..3 {
        all.extend([inner(secret.as_bytes(), at), inner(&utf16, at)]);
    }
    all.push(utf16);
    all
}

#[test]
fn neither_a_password_nor_a_command_is_seen_on_the_way_or_in_the_record() {
    let peer = Peer::start(USER, PASSWORD, &[]);
    let tap = Tap::start(peer.port);
    let canary = "canary-in-the-command";
    let world = world(tap.port, "", &suite(&[("a", &format!("echo {canary}; echo \"$PASSWORD_OF_NOBODY\""))]));
    world.ci(&["--verbose"]).exits(0);
    let seen = tap.seen();
    assert!(seen.len() > 4000, "something went by");
    let holds = |bytes: &[u8], form: &[u8]| memchr::memmem::find(bytes, form).is_some();
    for form in forms(PASSWORD).into_iter().chain(forms(canary)) {
        assert!(!holds(&seen, &form), "on the way: {}", String::from_utf8_lossy(&form));
    }
    let mut files = vec![world.path("record")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).expect("folder").map(|entry| entry.expect("entry").path()));
            continue;
        }
        let bytes = fs::read(&path).expect("file");
        for form in forms(PASSWORD) {
            assert!(!holds(&bytes, &form), "{}: {}", path.display(), String::from_utf8_lossy(&form));
        }
    }
}

/// With a guest whose shell is PowerShell, as far as a stand-in of it goes.
#[test]
fn a_guest_with_powershell_gets_its_texts_in_its_own_way() {
    let powershell = winrm::powershell();
    let peer = Peer::start(USER, PASSWORD, &["--powershell", &powershell]);
    let scratch = World::new("");
    let there = scratch.path("in/it's deep");
    let cases = "[suites.s]\nartifacts = [\"out/**\"]\nenv = { WORDS = \"it's € ’x’\" }\nsetup = \"mkdir -p out/d && cp a.txt out/d/\"\n\
        [[suites.s.cases]]\nname = \"both\"\nrun = \"echo \\\"$WORDS\\\"; echo err >&2; exit 7\"\nexpect = { exit = 7 }\n\
        [[suites.s.cases]]\nname = \"strict\"\nrun = \"false\\necho not\"\nexpect = { exit = 1 }\n\
        [[suites.s.cases]]\nname = \"batch\"\nshell = \"cmd\"\nrun = \"exit /b 9\"\nexpect = { exit = 9 }\n\
        [[suites.s.cases]]\nname = \"python\"\nshell = [\"python3\", \"-c\"]\nrun = \"import sys; sys.exit('it' == \\\"it\\\" and 5)\"\nexpect = { exit = 5 }\n\
        [[suites.s.cases]]\nname = \"script\"\nscript = \"check.ps1\"\n\
        [[suites.s.cases]]\nname = \"nameless\"\nscript = \"check\"\n\
        [[suites.s.cases]]\nname = \"red\"\nrun = \"exit 1\"\n\
        [[suites.s.cases]]\nname = \"long\"\nrun = \"true LONG\"\n\
        [[suites.s.cases]]\nname = \"eof\"\nrun = \"cat\"\ntimeout = \"10s\"\n";
    let cases = cases.replace("LONG", &"x".repeat(100_000));
    let source = format!("[guests.win.source]\npath = \"app\"\nto = \"{}\"\n", there.display());
    let world = world(peer.port, "", &(source + &cases));
    fs::create_dir(world.path("app")).expect("mkdir");
    fs::write(world.path("app/a.txt"), "content").expect("write");
    fs::write(world.path("app/ü b"), vec![b'x'; 3_000_000]).expect("write");
    fs::write(world.path("check.ps1"), "[ \"$(wc -c < 'ü b')\" = 3000000 ]\n").expect("write");
    fs::write(world.path("check"), "true\n").expect("write");
    world.ci(&[]).exits(5).says("its name does not say what runs it");
    assert_eq!(world.record("guests/win/s/both/stdout.log"), "it's € ’x’\n");
    assert_eq!(world.record("guests/win/s/both/stderr.log"), "err\n");
    for (case, verdict) in [
        ("s/both", "passed"),
        ("s/strict", "passed"),
        ("s/batch", "passed"),
        ("s/python", "passed"),
        ("s/script", "passed"),
        ("s/nameless", "infra"),
        ("s/red", "failed"),
        ("s/long", "passed"),
        ("s/eof", "passed"),
    ] {
        assert_eq!(world.verdict_of(case), verdict, "{case}");
    }
    assert_eq!(world.record("artifacts/win/s/out/d/a.txt"), "content");
}

#[test]
fn a_powershell_that_says_no_is_understood() {
    let python = format!("env STANDIN_CLIXML=1 STANDIN_NOT_ELEVATED=1 {}", winrm::powershell());
    let peer = Peer::start(USER, PASSWORD, &["--powershell", &python]);
    let cases = "[suites.d]\ndir = \"/no/such <folder>\"\n[[suites.d.cases]]\nname = \"a\"\nrun = \"true\"\n\
        [suites.r]\nrun_as = \"administrator\"\n[[suites.r.cases]]\nname = \"a\"\nrun = \"true\"\n";
    let world = world(peer.port, "", cases);
    let ran = world.ci(&[]).exits(5).says("Cannot find path '/no/such <folder>' because it does not exist.");
    assert!(said(&ran).contains("the session has no rights of an administrator"), "{}", said(&ran));
    assert!(!said(&ran).contains("CLIXML"), "{}", said(&ran));
}

#[test]
fn what_takes_too_long_in_powershell_ends_with_all_that_it_started() {
    let powershell = winrm::powershell();
    let peer = Peer::start(USER, PASSWORD, &["--powershell", &powershell]);
    let word = format!("62.{}", fastrand::u32(1000..9999));
    let run = format!("(sleep {word}; true) & sleep {word}; true");
    let cases =
        suite(&[("slow", &run), ("next", "true")]).replacen("name = \"slow\"", "name = \"slow\"\ntimeout = \"2s\"", 1);
    let world = world(peer.port, "", &cases);
    world.ci(&[]).exits(1).says("took longer than");
    assert_eq!((world.verdict_of("s/slow").as_str(), world.verdict_of("s/next").as_str()), ("failed", "passed"));
    let left = Command::new("pgrep").args(["-f", &format!("sleep {word}")]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "what it started is gone");
}

#[test]
fn a_person_runs_one_command_in_it_and_pipes_something_in() {
    let peer = Peer::start(USER, PASSWORD, &[]);
    let world = world(peer.port, "", "");
    let words = ["shell", "win", "--", "sh", "-c", "cat; echo \"[$1]\"; exit 4", "x", "a 'b'"];
    let mut command = world.vmdeck(&words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vmdeck");
    child.stdin.take().expect("piped").write_all("zwölf\n".as_bytes()).expect("written");
    let ran = finish(child).exits(4);
    assert!(ran.out.contains("zwölf\n[a 'b']\n"), "{}", said(&ran));
    world.run(&["shell", "win"]).exits(2);
}

#[test]
fn preflight_says_which_ways_are_used_and_whether_a_machine_answers() {
    let peer = Peer::start(USER, PASSWORD, &[]);
    let all = world(peer.port, "", &suite(&[("a", "true")]));
    let chain = "guests.win.transports=[\"ssh\", \"winrm\", \"exec\"]";
    let ran = all.run(&["doctor", "--set", chain]).exits(0);
    assert!(ran.out.contains("guest `win` is reached by winrm; `ssh` is passed over: no key"), "{}", said(&ran));
    all.ci(&["--set", chain]).exits(0);
    let silent = world(peer.port, "", &suite(&[("a", "true")]));
    drop(peer);
    silent.ci(&[]).exits(3).says("guest `win` cannot be reached: nothing answers at 127.0.0.1:");
}
