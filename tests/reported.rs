//! Situations that people met with other tools of this trade, and what must come of them here: what a command wrote, consoles,
//! artifacts, rights, locks, names and reports. Those with a login are in `reported_logins.rs`, those with a machine in
//! `qemu_reported.rs`.
//!
//! Some need root, for another user or namespaces of its own; without it they say so and test nothing.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stderr, reason = "what is not tested here is said")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use vmdeck_testkit::sshd::lacks;
use vmdeck_testkit::world::{Ran, World, binary, eventually, finish, read_until, suite};

const ONE_CASE: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n";

/// Returns one local guest, further lines of the config, and a suite with these cases: name, command, further lines.
fn local(more: &str, cases: &[(&str, &str, &str)]) -> World {
    World::new(&format!("[guests.g]\nbackend = \"local\"\n{more}\n{}", suite(cases)))
}

/// Returns a guest that is a script.
fn fake(guest: &str) -> World {
    World::new(&format!("[guests.{guest}]\nbackend = \"fake\"\n{ONE_CASE}"))
}

// --- what a command wrote --------------------------------------------------------------------------------------------

#[test]
fn a_password_that_is_an_ordinary_word_decides_no_verdict() {
    let world = local(
        "[guests.g.sudo]\npassword = \"vagrant\"\n",
        &[
            ("who", "echo vagrant", "expect = { stdout = \"/^vagrant$/\" }"),
            ("home", "echo HOME=/home/vagrant/app", "expect = { stdout = \"/HOME=.home.vagrant.app/\" }"),
            ("bad", "echo user vagrant; false", ""),
        ],
    );
    world.ci(&[]).exits(1).says("stdout | user ***");
    world.assert_verdicts(&[("s/who", "passed"), ("s/home", "passed"), ("s/bad", "failed")]);
    assert!(!world.record("events.jsonl").contains("user vagrant"), "what is shown is still masked");
}

#[test]
fn patterns_look_at_the_bytes_that_were_written() {
    let long = r#"printf '{"pad":"'; head -c 9000 /dev/zero | tr '\0' x; printf '","status":"ok"}\n'"#;
    let world = local(
        "",
        &[
            ("long-line", long, r#"expect = { stdout = '/"status":"ok"/' }"#),
            ("tab", r"printf 'name\tok\n'", r"expect = { stdout = '/^name\tok$/' }"),
            ("return", r"printf 'ran 10 of 10\rcleaning up\n'", "expect = { stdout = \"/ran 10 of 10/\" }"),
            ("colour", r"printf '\033[32mPASS\033[0m: all\n'", "expect = { stdout = \"/PASS.*: all/\" }"),
            ("mark", r"printf '\357\273\277ok\n'", "expect = { stdout = '/ok$/' }"),
            (
                "emoji",
                r"printf 'done \360\237\221\250\342\200\215\360\237\222\273\n'",
                r"expect = { stdout = '/done \x{1F468}\x{200D}\x{1F4BB}/' }",
            ),
            ("backspace", r"printf 'caf\303\251\010\010\010ok\n'", "expect = { stdout = '/ok/' }"),
            ("other-blanks", r"printf 'name\tok\n'", "expect = { stdout = '/name    ok/' }"),
        ],
    );
    world.ci(&[]).exits(1);
    let failed: Vec<_> = world.verdicts().into_iter().filter(|(_, verdict)| verdict != "passed").collect();
    assert_eq!(failed, [("s/other-blanks".to_owned(), "failed".to_owned())]);
    assert_eq!(world.record("guests/g/s/tab/stdout.log"), "name\tok\n");
}

#[test]
fn a_config_with_the_line_ends_of_windows_means_the_same() {
    let world =
        local("", &[("program", "touch core.dump", ""), ("clean", "\necho checking\ntest ! -e core.dump\n", "")]);
    let text = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("crlf.toml"), text.replace('\n', "\r\n")).expect("config");
    for config in ["vmdeck.toml", "crlf.toml"] {
        world.run(&["-f", config, "config", "check"]).exits(0);
        let _ = fs::remove_dir_all(world.path("record"));
        world.ci(&["-f", config]).exits(1);
        world.assert_verdicts(&[("s/program", "passed"), ("s/clean", "failed")]);
        assert_eq!(world.record("guests/g/s/clean/stdout.log"), "checking\n", "{config}");
    }
}

#[test]
fn patterns_fit_a_console_in_colour() {
    let world = World::new(&format!(
        r#"[guests.ready]
backend = "fake"
boot_timeout = "4s"
launch_retries = 1
[guests.ready.boot]
pattern = "Reached target Multi-User System"
[guests.ready.fake]
boot = "300ms"
console = ["Linux version 6.1", "[\u001b[0;32m  OK  \u001b[0m] Reached target \u001b[0;1;39mMulti-User System\u001b[0m.\r"]
[guests.broken]
backend = "fake"
boot_timeout = "4s"
launch_retries = 1
[guests.broken.boot]
errors = ["Failed to start web.service"]
[guests.broken.fake]
boot = "300ms"
console = ["Linux version 6.1", "[\u001b[0;1;31mFAILED\u001b[0m] Failed to start \u001b[0;1;39mweb.service\u001b[0m.\r", "done"]
{ONE_CASE}"#
    ));
    world.ci(&[]).exits(5).says("ready is ready after").says("matched the error pattern `Failed to start web.service`");
    let mut ended: Vec<_> = world
        .of_kind("case_ended")
        .iter()
        .map(|e| format!("{} {}", e["guest"].as_str().unwrap_or_default(), e["verdict"].as_str().unwrap_or_default()))
        .collect();
    ended.sort();
    assert_eq!(ended, ["broken infra", "ready passed"]);
}

// --- artifacts and sources -------------------------------------------------------------------------------------------

#[test]
fn every_artifact_comes_whatever_it_is_and_is_called() {
    let world = World::new(
        r#"[guests.g]
backend = "local"
[suites.link]
artifacts = ["logs/latest.log"]
[[suites.link.cases]]
name = "a"
run = "mkdir -p logs; echo one > logs/run-1.log; ln -sf run-1.log logs/latest.log"
[suites.deep]
artifacts = ["reports/**/*.xml"]
[[suites.deep.cases]]
name = "a"
run = "mkdir -p reports/unit/net; for f in top unit/mid unit/net/deep; do echo $f > reports/$f.xml; done; > reports/no.txt"
[suites.class]
artifacts = ["out/part-[0-9].xml", "out/{a,b}.xml"]
[[suites.class.cases]]
name = "a"
run = "mkdir -p out; for f in part-1 part-x a b c; do echo $f > out/$f.xml; done"
[suites.latin1]
artifacts = ["l1"]
[[suites.latin1.cases]]
name = "a"
run = "mkdir -p l1; echo 1 > l1/$(printf 'caf\\351').txt; echo 2 > l1/plain.txt"
[suites.hard]
artifacts = ["hl"]
[[suites.hard.cases]]
name = "a"
run = "mkdir -p hl; echo 1 > hl/a; ln -f hl/a hl/b"
[suites.gone]
artifacts = ["none/*.xml", "broken"]
[[suites.gone.cases]]
name = "a"
run = "ln -s nowhere broken"
"#,
    );
    world.ci(&[]).exits(0).says("none/*.xml").says("broken");
    let rows: [(&[u8], &str); 10] = [
        (b"link/logs/latest.log", "one\n"),
        (b"deep/reports/top.xml", "top\n"),
        (b"deep/reports/unit/mid.xml", "unit/mid\n"),
        (b"deep/reports/unit/net/deep.xml", "unit/net/deep\n"),
        (b"class/out/part-1.xml", "part-1\n"),
        (b"class/out/a.xml", "a\n"),
        (b"class/out/b.xml", "b\n"),
        (b"latin1/l1/caf\xe9.txt", "1\n"),
        (b"latin1/l1/plain.txt", "2\n"),
        (b"hard/hl/b", "1\n"),
    ];
    for (name, content) in rows {
        let path = world.path("record/artifacts/g").join(OsStr::from_bytes(name));
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some(content), "{}", path.display());
    }
    for name in ["deep/reports/no.txt", "class/out/part-x.xml", "class/out/c.xml"] {
        assert!(!world.path("record/artifacts/g").join(name).exists(), "{name}");
    }
}

#[test]
fn a_repository_that_git_refuses_is_no_empty_one() {
    if lacks(&["git", "chown"]) {
        return;
    }
    let world = local("", &[("a", "find . -type f | sort", "")]);
    let source = format!("guests.g.source={{ path = \"home/proj\", to = \"{}\" }}", world.path("in/deep").display());
    let script = "mkdir -p home/proj && cd home/proj && git init -q && echo m > Makefile && \
                  echo '*.cfg' > .gitignore && \
                  echo k > keep.cfg && git add -f . && git -c user.name=x -c user.email=x@example.org commit -qm x";
    // No configuration of this machine's.
    let own = |command: &mut Command| {
        command.env("HOME", world.home.path()).env("GIT_CONFIG_NOSYSTEM", "1").env_remove("SUDO_UID");
    };
    let mut make = Command::new("sh");
    own(make.args(["-c", script]).current_dir(world.home.path()));
    assert!(make.status().expect("sh").success());
    let run = |record: &str| {
        let mut command = world.vmdeck(&["--ci", "--run-dir", record, "--set", &source]);
        own(&mut command);
        Ran::of(&command.output().expect("ran"))
    };
    run("record").exits(0);
    assert_eq!(world.record("guests/g/s/a/stdout.log"), "./.gitignore\n./Makefile\n./keep.cfg\n");
    assert!(Command::new("chown").args(["-R", "1000:1000"]).arg(world.path("home")).status().expect("chown").success());
    run("again").exits(3).says("git says: fatal: detected dubious ownership").says("safe.directory");
    assert!(!world.path("again/guests/g/s").exists());
}

// --- rights, locks and names -----------------------------------------------------------------------------------------

#[test]
fn an_accelerator_that_could_not_be_used_is_looked_at_again() {
    if lacks(&["unshare", "setpriv", "mknod", "qemu-system-x86_64"]) || !Path::new("/dev/kvm").exists() {
        return;
    }
    let world = World::new(
        "[guests.g]\nbackend = \"qemu\"\n[guests.g.qemu]\nimage = \"none.qcow2\"\n[guests.g.ssh]\npassword = \"x\"\n",
    );
    for name in ["", "state"] {
        fs::create_dir_all(world.path(name)).expect("mkdir");
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let before = "mount --make-rprivate /\nmknod kvm c 10 232\nchown 0:5555 kvm\nchmod 660 kvm\n\
                  mount --bind kvm /dev/kvm\n\
                  as() { setpriv --reuid 1234 --regid 1234 $1 env HOME=$PWD $2 \"$0\" doctor 2>&1 | \
                  grep accelerator || echo none; }\n\
                  as --clear-groups A=1\nas '--groups 5555' A=1\nrm -f state/vmdeck/accel.json\n\
                  as '--groups 5555' TMPDIR=/nonexistent\nas '--groups 5555' A=1\nexit 0";
    let ran = world.inside(&["-m"], before, &[]).exits(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    if lines.contains(&"none") {
        eprintln!("not tested here: other users cannot run {}", binary().display());
        return;
    }
    let (no_right, no_folder) = ("you may not use /dev/kvm", "cannot write a temporary file");
    let seen: Vec<_> = lines.iter().map(|line| (line.contains(no_right), line.contains(no_folder))).collect();
    assert_eq!(seen, [(true, false), (false, false), (false, true), (false, false)], "{lines:#?}");
}

#[test]
fn two_users_share_the_lock_whatever_their_umask_is() {
    if lacks(&["setpriv"]) {
        return;
    }
    let world = fake("g");
    let (shared, ids) = (world.path("shared"), [2001, 2002]);
    fs::create_dir(&shared).expect("mkdir");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).expect("chmod");
    fs::set_permissions(world.home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let lock = format!("host.lock=\"{}\"", shared.join("lock.d").display());
    let start = |id: u32, umask: &str| {
        let home = world.path(&id.to_string());
        fs::create_dir(&home).expect("mkdir");
        fs::copy(world.path("vmdeck.toml"), home.join("vmdeck.toml")).expect("copy");
        assert!(
            Command::new("chown").arg("-R").arg(format!("{id}:{id}")).arg(&home).status().expect("chown").success()
        );
        let run = format!("umask {umask}; exec setpriv --reuid {id} --regid {id} --clear-groups \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &run]).arg(binary()).args(["--ci", "--run-dir", "r", "--set", &lock]);
        command.args(["--set", "guests.g.fake.replies={ \"true\" = \"0@3s\" }", "--set", "host.lock_timeout=30s"]);
        command.current_dir(&home).env("HOME", &home).env("XDG_STATE_HOME", home.join("state")).env_remove("CI");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
    };
    let first = start(ids[0], "077");
    let events = || fs::read_to_string(world.path("2001/r/events.jsonl")).unwrap_or_default();
    eventually("the first one's case", Duration::from_secs(20), || events().contains("case_started"));
    let mut second = start(ids[1], "022");
    read_until(&mut second, "waiting for the host lock");
    finish(first).exits(0);
    finish(second).exits(0).says("1 passed");
}

#[test]
fn a_dead_lock_that_only_another_user_may_remove_ends_the_run_at_once_and_says_who() {
    if lacks(&["setpriv"]) {
        return;
    }
    let world = fake("g");
    let (shared, home) = (world.path("shared"), world.path("home"));
    fs::create_dir(&shared).expect("mkdir");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).expect("chmod");
    fs::set_permissions(world.home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let lock = shared.join("lock.d");
    fs::create_dir(&lock).expect("mkdir");
    fs::write(lock.join("pid"), "1\n").expect("pid");
    fs::write(lock.join("owner.json"), "{\"pid\":1,\"run\":\"gone\"}").expect("record");
    fs::create_dir(&home).expect("mkdir");
    fs::copy(world.path("vmdeck.toml"), home.join("vmdeck.toml")).expect("copy");
    assert!(Command::new("chown").args(["-R", "2001:2001"]).arg(&home).status().expect("chown").success());
    let as_other = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "2001", "--regid", "2001", "--clear-groups"]).arg(binary()).args(words);
        command.args(["--set", &format!("host.lock=\"{}\"", lock.display())]).current_dir(&home).env("HOME", &home);
        command.env("XDG_STATE_HOME", home.join("state")).env_remove("CI").stdin(Stdio::null());
        Ran::of(&command.output().expect("started"))
    };
    let started = std::time::Instant::now();
    as_other(&["--ci", "--run-dir", "r"]).exits(4).says("only user `root` or root may remove it");
    assert!(started.elapsed() < Duration::from_secs(20), "it does not wait for nobody");
    assert!(lock.join("owner.json").exists());
    as_other(&["lock", "status"]).exits(0).says("dead: ").says("root");
}

#[test]
fn an_old_lock_is_not_taken_from_a_holder_that_cannot_be_seen() {
    if lacks(&["unshare"]) {
        return;
    }
    let world = fake("g");
    let lock = world.path("old-vm-tests.lock.d");
    fs::create_dir(&lock).expect("mkdir");
    fs::write(lock.join("pid"), std::process::id().to_string()).expect("pid");
    let set = format!("host.lock=\"{}\"", lock.display());
    let args = ["--ci", "--run-dir", "record", "--set", &set, "--set", "host.lock_timeout=2s"];
    for namespaces in [&["-m"][..], &["-m", "-p", "-f", "--mount-proc"]] {
        world.inside(namespaces, "", &args).exits(4).says("it is still held after 2.0s");
        assert_eq!(fs::read_to_string(lock.join("pid")).expect("pid"), std::process::id().to_string());
        fs::remove_dir_all(world.path("record")).expect("removed");
    }
}

#[test]
fn a_folder_whose_name_is_not_utf_8_is_refused_before_anything_is_made() {
    let world = local("", &[("a", "touch ../../../../../begun", "")]);
    let odd = world.home.path().join(OsStr::from_bytes(b"Jos\xe9"));
    fs::create_dir(&odd).expect("mkdir");
    fs::copy(world.path("vmdeck.toml"), odd.join("vmdeck.toml")).expect("copy");
    let refused = |mut command: Command| {
        Ran::of(&command.output().expect("ran")).exits(2).complains("the path is not UTF-8");
    };
    let mut within = world.vmdeck(&["--ci"]);
    within.current_dir(&odd);
    refused(within);
    let mut state = world.vmdeck(&["--ci"]);
    state.env("XDG_STATE_HOME", &odd);
    refused(state);
    let mut record = world.vmdeck(&["--ci"]);
    record.arg(OsStr::from_bytes(b"--run-dir=r-Jos\xe9"));
    refused(record);
    let mut argument = world.vmdeck(&[]);
    argument.arg(OsStr::from_bytes(b"r-Jos\xe9"));
    assert_eq!(Ran::of(&argument.output().expect("ran")).code, 2);
    assert_eq!(fs::read_dir(&odd).expect("folder").count(), 1, "nothing but the config");
    assert!(!world.path("begun").exists() && !world.home.path().join(OsStr::from_bytes(b"r-Jos\xe9")).exists());
    world.run(&["cleanup", "--force"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn a_guest_name_with_a_dot_is_set_like_any_other() {
    let world = fake("\"ubuntu-24.04\"");
    let plan = ["--ci", "--dry-run"];
    let mut by_variable = world.vmdeck(&plan);
    by_variable.env("VMDECK_GUESTS_UBUNTU_24_04_MEMORY", "5GiB");
    Ran::of(&by_variable.output().expect("ran")).exits(0).says("5GiB");
    for set in ["guests.ubuntu-24.04.memory=6GiB", "guests.\"ubuntu-24.04\".memory=6GiB"] {
        world.run(&[&plan[..], &["--set", set]].concat()).exits(0).says("6GiB");
    }
    let text = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("bare.toml"), text.replace("\"ubuntu-24.04\"", "ubuntu-24.04")).expect("config");
    world.run(&["-f", "bare.toml", "config", "check"]).exits(2).complains("[guests.\"ubuntu-24.04\"]");
}

// --- reports ---------------------------------------------------------------------------------------------------------

#[test]
fn the_junit_report_of_a_run_that_did_not_begin_is_not_green() {
    let world = fake("g");
    let rows = [
        ("host.min_free_disk=900TiB", 3, "the host is not ready"),
        ("host.lock_timeout=500ms", 4, "it is still held after"),
    ];
    for (set, code, reason) in rows {
        if code == 4 {
            fs::create_dir(world.path("lock.d")).expect("mkdir");
        }
        let record = format!("record-{code}");
        world.run(&["--ci", "--run-dir", &record, "--junit", "copy.xml", "--set", set]).exits(code);
        let text = fs::read_to_string(world.path("copy.xml")).expect("junit");
        let junit = roxmltree::Document::parse(&text).expect("XML");
        let root = junit.root_element();
        let counts = ["tests", "failures", "errors", "skipped"].map(|name| root.attribute(name).unwrap_or_default());
        assert_eq!(counts, ["1", "0", "1", "0"], "{text}");
        let case = junit.descendants().find(|node| node.has_tag_name("testcase")).expect("a case");
        assert_eq!((case.attribute("classname"), case.attribute("name")), (Some("g.s"), Some("a")));
        let error = case.children().find(|node| node.has_tag_name("error")).expect("an error");
        assert!(error.attribute("message").is_some_and(|message| message.contains(reason)), "{text}");
    }
}

#[test]
fn a_long_run_s_step_summary_fits_what_github_takes() {
    let name = "inheritance-of-permissions-".repeat(2);
    let mut config = format!("[guests.g]\nbackend = \"fake\"\n[suites.{name}]\n");
    let mut replies = "[guests.g.fake.replies]\n".to_owned();
    for index in 0..2500 {
        config.push_str(&format!("[[suites.{name}.cases]]\nname = \"{name}{index:010}\"\nrun = \"run {index}\"\n"));
        replies.push_str(&format!("\"run {index}\" = \"{} x\"\n", i32::from(index % 4 == 0)));
    }
    let world = World::new(&(config + &replies));
    let mut command = world.vmdeck(&["--ci", "--repeat", "3", "--run-dir", "record"]);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", world.path("summary.md"));
    let ran = Ran::of(&command.output().expect("ran")).exits(1);
    let annotations = ran.out.lines().filter(|line| line.starts_with("::error")).count();
    assert!((1..=10).contains(&annotations), "{annotations}");
    let summary = fs::read_to_string(world.path("summary.md")).expect("summary");
    assert!((500_000..=1 << 20).contains(&summary.len()), "{} bytes", summary.len());
    assert!(summary.contains("5625 passed, 1875 failed") && summary.contains(" more in junit.xml"));
    let rows: Vec<&str> = summary.lines().filter(|line| line.starts_with("| g |")).collect();
    let is_failed = |row: &&str| row.contains("| failed |");
    let first_passed = rows.iter().position(|row| !is_failed(row)).expect("some passed");
    assert_eq!(rows.iter().filter(|row| is_failed(row)).count(), first_passed, "what is not green comes first");
    assert_eq!(first_passed, 1875, "all of it");
    assert!(world.record("junit.xml").contains("tests=\"7500\""));
}
