//! The real binary in a world that somebody else has prepared: configs that would start things, and files that are none.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use vmdeck_testkit::world::{World, eventually, finish, read_until, signal};

/// A config each of whose programs leaves a line when it is started.
struct Traps {
    world: World,
}

impl Traps {
    fn new() -> Self {
        let world = World::new("");
        let trap = world.path("trap");
        fs::write(&trap, format!("#!/bin/sh\necho \"$0 $*\" >> {}\n", world.path("sprung").display())).expect("trap");
        fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).expect("chmod");
        let head = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
        let config = format!(
            "{head}test_prefixes = [\"test-\"]\n\
             [host.tools]\nmultipass = \"./trap\"\nutmctl = \"./trap\"\narp = \"./trap\"\nopen = \"./trap\"\n\
             [defaults.sudo]\npassword = {{ command = [\"{0}\", \"sudo\"] }}\n\
             [guests.q]\nbackend = \"qemu\"\n[guests.q.qemu]\nbinary = \"{0}\"\nimage = \"x.qcow2\"\n\
             [guests.q.ssh]\npassword = {{ command = [\"{0}\", \"ssh\"] }}\n\
             [guests.m]\nbackend = \"multipass\"\n[guests.u]\nbackend = \"utm\"\n[guests.u.utm]\nterminal = \"auto\"\n\
             [guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n",
            trap.display()
        );
        fs::write(world.path("vmdeck.toml"), config).expect("config");
        fs::write(world.path("x.qcow2"), "no image").expect("image");
        Self { world }
    }

    /// Returns a line for each program that was started.
    fn sprung(&self) -> Vec<String> {
        let text = fs::read_to_string(self.world.path("sprung")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_config_starts_nothing_before_somebody_starts_a_run() {
    let traps = Traps::new();
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/testkit/records/mixed.jsonl");
    for words in [
        &["config", "check"][..],
        &["config", "show"],
        &["config", "schema"],
        &["--dry-run"],
        &["--ci", "--dry-run", "@here"],
        &["replay", record.to_str().expect("text")],
        &["lock", "status"],
        &["lock", "break"],
        &["lock", "exec", "--", "true"],
        &["cleanup", "--list-only"],
        &["cleanup", "--force"],
        &["cleanup", "--all", "--force"],
        // Nobody can be asked here.
        &["list"],
        &["list", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["--read-only"],
        &[],
    ] {
        let ran = traps.world.run(words);
        assert_eq!(traps.sprung(), Vec::<String>::new(), "{words:?}: {ran:?}");
    }
    for words in [&["list"][..], &["doctor"]] {
        let ran = traps.world.run(words).complains("this project's config is not trusted").complains("--trust");
        assert!(ran.err.contains("`host.tools.multipass`") && ran.err.contains("vmdeck.toml:"), "{}", ran.err);
    }
    traps.world.run(&["doctor"]).complains("`guests.q.ssh.password` by").complains("`guests.q.qemu.binary`");
    traps.world.run(&["cleanup", "--list-only"]).complains("`host.tools.utmctl`");
}

#[test]
fn a_yes_starts_what_the_config_names_and_holds_for_that_text_alone() {
    let traps = Traps::new();
    traps.world.run(&["list", "--trust"]);
    assert!(traps.sprung().iter().any(|line| line.contains("list")), "{:?}", traps.sprung());
    let _ = fs::remove_file(traps.world.path("sprung"));
    // As the question's answer leaves it.
    let config = fs::canonicalize(traps.world.path("vmdeck.toml")).expect("path");
    let sum = Command::new("sha256sum").arg(&config).output().expect("sha256sum").stdout;
    let sum = String::from_utf8(sum).expect("text").split(' ').next().expect("sum").to_owned();
    let store = serde_json::json!({ config.to_str().expect("text"): sum });
    fs::create_dir_all(traps.world.state()).expect("mkdir");
    fs::write(traps.world.state().join("trusted.json"), store.to_string()).expect("store");
    traps.world.run(&["list"]);
    assert!(!traps.sprung().is_empty());
    let _ = fs::remove_file(traps.world.path("sprung"));
    let text = fs::read_to_string(&config).expect("config");
    fs::write(&config, text + "# another text\n").expect("config");
    traps.world.run(&["list"]).complains("not trusted");
    assert_eq!(traps.sprung(), Vec::<String>::new());
}

#[test]
fn a_config_in_the_users_own_folder_is_trusted_and_so_are_their_own_words() {
    let traps = Traps::new();
    let own = traps.world.path("config/vmdeck");
    fs::create_dir_all(&own).expect("mkdir");
    let text = fs::read_to_string(traps.world.path("vmdeck.toml")).expect("config");
    fs::remove_file(traps.world.path("vmdeck.toml")).expect("rm");
    fs::write(own.join("config.toml"), text.replace("\"./trap\"", &format!("{:?}", traps.world.path("trap"))))
        .expect("config");
    traps.world.run(&["list"]);
    assert!(!traps.sprung().is_empty());
    let _ = fs::remove_file(traps.world.path("sprung"));
    fs::remove_dir_all(own).expect("rm");
    let tool = format!("host.tools.multipass={}", traps.world.path("trap").display());
    traps.world.run(&["list", "--set", &tool]);
    assert!(!traps.sprung().is_empty());
}

#[test]
fn a_run_starts_the_secret_commands_of_its_own_guests_only() {
    let world = World::new(
        "[guests.one]\nbackend = \"fake\"\n[guests.one.ssh]\npassword = { command = [\"sh\", \"-c\", \"echo one >> ran; echo canary\"] }\n\
         [guests.two]\nbackend = \"fake\"\n[guests.two.ssh]\npassword = { command = [\"sh\", \"-c\", \"echo two >> ran; echo canary\"] }\n\
         [guests.three]\nbackend = \"fake\"\n[guests.three.ssh]\npassword = { env = \"NOT_SET_AT_ALL\" }\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n",
    );
    world.run(&["--dry-run"]).exits(0);
    assert!(!world.path("ran").exists());
    world.ci(&["@two"]).exits(0);
    assert_eq!(fs::read_to_string(world.path("ran")).expect("ran"), "two\n");
    world.run(&["--ci", "@three"]).exits(2).complains("`NOT_SET_AT_ALL` is not set");
}

/// Puts something that is no file in a file's place.
fn set_trap(path: &Path, kind: &str) {
    let _ = fs::remove_file(path);
    match kind {
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success()),
        "folder" => fs::create_dir(path).expect("folder"),
        "sparse" => fs::File::create(path).and_then(|file| file.set_len(3 << 30)).expect("sparse"),
        "foreign" => {
            fs::write(path, "no secret, no config").expect("file");
            let _ = Command::new("chown").arg("nobody").arg(path).status();
        }
        link => symlink(link, path).expect("link"),
    }
}

const TRAPS: [&str; 6] = ["fifo", "folder", "sparse", "foreign", "/dev/zero", "/nowhere"];

/// Runs the binary under a limit of time and memory.
fn bounded(world: &World, words: &[&str], what: &str) -> vmdeck_testkit::world::Ran {
    let start = Instant::now();
    let mut limited = Command::new("prlimit");
    limited.args(["--as=2000000000", "timeout", "-s", "KILL", "20"]).arg(env!("CARGO_BIN_EXE_vmdeck")).args(words);
    for (name, value) in world.vmdeck(&[]).get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    let child = limited
        .current_dir(world.home.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let ran = finish(child.spawn().expect("starts"));
    assert!(ran.code >= 0 && ran.code != 137 && ran.code != 134 && ran.code != 101, "{what}: {ran:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{what} took {:?}", start.elapsed());
    ran
}

const LOCAL: &str =
    "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n";

#[test]
fn whatever_lies_in_the_place_of_the_lock_is_told_in_time() {
    for kind in TRAPS {
        for place in ["lock.d", "lock.d/pid", "lock.d/owner.json", "lock.d.queue", "lock.d.last"] {
            let world = World::new(LOCAL);
            let path = world.path(place);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            set_trap(&path, kind);
            let what = format!("{kind} as {place}");
            bounded(&world, &["lock", "status"], &what);
            bounded(&world, &["lock", "break"], &what);
            bounded(&world, &["--ci", "--lock-timeout", "300ms"], &what);
            bounded(&world, &["lock", "break", "--force"], &what);
        }
    }
}

#[test]
fn whatever_lies_in_the_place_of_a_config_a_key_or_a_secret_is_told_in_time() {
    for kind in TRAPS {
        let world = World::new(&format!(
            "{LOCAL}[guests.v]\nbackend = \"qemu\"\n[guests.v.qemu]\nkernel = \"kernel\"\nimage = \"image\"\n\
             [guests.v.ssh]\nkey = \"key\"\nhost_key = \"key.pub\"\npassword = {{ file = \"pw\" }}\n\
             [guests.v.source]\npath = \"src\"\nto = \"/home/ci/src\"\n\
             [suites.t]\nguests = [\"here\"]\n[[suites.t.cases]]\nname = \"b\"\nscript = \"script.sh\"\n"
        ));
        for name in ["kernel", "image", "key", "key.pub", "pw", "script.sh", "theme.toml"] {
            set_trap(&world.path(name), kind);
        }
        fs::create_dir(world.path("src")).expect("mkdir");
        set_trap(&world.path("src/file"), kind);
        for words in [
            &["config", "check", "--set", "cockpit.theme=theme.toml"][..],
            &["doctor"],
            &["--ci", "s@here"],
            &["--ci", "t@here"],
            &["--ci", "@v"],
        ] {
            bounded(&world, words, &format!("{kind}: {words:?}"));
        }
        fs::remove_file(world.path("vmdeck.toml")).expect("rm");
        set_trap(&world.path("vmdeck.toml"), kind);
        for words in [&["config", "check"][..], &["--ci"], &["doctor"], &["list"], &["lock", "status"]] {
            bounded(&world, words, &format!("{kind} as config: {words:?}"));
        }
    }
}

#[test]
fn whatever_lies_in_a_record_or_the_state_folder_is_told_in_time() {
    for kind in TRAPS {
        let world = World::new(LOCAL);
        let record = world.path("strange");
        fs::create_dir(&record).expect("mkdir");
        set_trap(&record.join("events.jsonl"), kind);
        bounded(&world, &["replay", "strange"], &format!("{kind} as events.jsonl"));
        bounded(&world, &["--ci", "--run-dir", "strange"], &format!("{kind} as events.jsonl of a new run"));
        let state = world.state();
        fs::create_dir_all(state.join("runs")).expect("mkdir");
        set_trap(&state.join("runs/0123456789abcdef.journal"), kind);
        fs::create_dir_all(world.path("empty")).expect("mkdir");
        set_trap(&world.path("empty/vmdeck.toml"), kind);
        let init = format!("cd empty && exec {} init --force", env!("CARGO_BIN_EXE_vmdeck"));
        let ran = Command::new("timeout")
            .args(["-s", "KILL", "20", "sh", "-c", &init])
            .current_dir(world.home.path())
            .output();
        assert!(ran.expect("init").status.code().is_some(), "{kind} as the file that init writes");
        set_trap(&state.join("accel.json"), kind);
        set_trap(&state.join("trusted.json"), kind);
        for words in [&["--ci"][..], &["list"], &["cleanup", "--list-only"], &["cleanup", "--force"], &["doctor"]] {
            bounded(&world, words, &format!("{kind} in the state folder: {words:?}"));
        }
    }
}

#[test]
fn lock_exec_passes_signals_on_and_says_how_its_program_ended() {
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        let world = World::new(LOCAL);
        let mut child = world.start(&["lock", "exec", "--", "sh", "-c", "echo up; exec sleep 60"]);
        read_until(&mut child, "up\n");
        signal(&child, name);
        finish(child).exits(code);
        world.assert_nothing_left();
    }
    // A program that takes its time holds the lock until it has ended.
    let world = World::new(LOCAL);
    let patient = "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = world.start(&["lock", "exec", "--", "sh", "-c", patient]);
    read_until(&mut child, "up\n");
    let waiting = world.start(&["lock", "exec", "--", "true"]);
    eventually("a waiter", Duration::from_secs(10), || world.path("lock.d.queue").is_dir());
    signal(&waiting, "TERM");
    finish(waiting).exits(143);
    signal(&child, "TERM");
    finish(child).exits(7).says("told");
    world.assert_nothing_left();
}

/// Returns a world with one local guest whose suite fetches everything, and the program `tar` as this script in its place.
fn archives(lines: &str, tar: &str) -> World {
    let world = World::new("");
    fs::create_dir(world.path("bin")).expect("mkdir");
    fs::write(world.path("bin/tar"), format!("#!/bin/sh\n{tar}\n")).expect("tar");
    fs::set_permissions(world.path("bin/tar"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::create_dir(world.path("tmp")).expect("mkdir");
    let head = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", world.path("bin").display());
    let config = format!(
        "{head}[guests.here]\nbackend = \"local\"\n[suites.s]\nartifacts = [\"out/**\"]\nenv = {{ PATH = \"{path}\" }}\n{lines}\n\
         [[suites.s.cases]]\nname = \"a\"\nrun = \"mkdir -p out; echo small > out/a; truncate -s 1T out/b\"\n"
    );
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world
}

#[test]
fn a_terabyte_of_nothing_is_not_read_and_what_fits_before_it_comes() {
    let world = archives("artifacts_size = \"10MiB\"", "exec /usr/bin/tar \"$@\"");
    let start = Instant::now();
    world.ci(&[]).exits(0).says("there is more than 10MiB");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.record("artifacts/here/s/out/a"), "small\n");
    assert!(!world.path("record/artifacts/here/s/out/b").exists());
    world.assert_nothing_left();
}

#[test]
fn a_slow_archive_ends_with_its_time_and_what_never_ends_with_the_run() {
    let slow = "/usr/bin/tar -cf - ./out/a | head -c 1536; sleep 60";
    let world = archives("artifacts_timeout = \"300ms\"", slow);
    let start = Instant::now();
    world.ci(&[]).exits(0).says("the transfer took longer than 0.3s");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.record("artifacts/here/s/out/a"), "small\n", "what came until then");
    world.assert_nothing_left();

    let world = archives("", &format!("touch {}; {slow}", "\"$0\".begun"));
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("the transfer", Duration::from_secs(20), || world.path("bin/tar.begun").exists());
    let start = Instant::now();
    signal(&child, "TERM");
    finish(child).exits(143);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    world.assert_nothing_left();
}

#[test]
fn a_transfer_that_is_killed_leaves_no_spool() {
    let world = archives("", "touch \"$0\".begun; head -c 5000000 /dev/zero; sleep 60");
    let mut command = world.vmdeck(&["--ci", "--run-dir", "record"]);
    let mut child = command.env("TMPDIR", world.path("tmp")).spawn().expect("starts");
    eventually("the transfer", Duration::from_secs(20), || world.path("bin/tar.begun").exists());
    signal(&child, "KILL");
    child.wait().expect("killed");
    let entries = |name: &str| -> Vec<String> {
        let list = fs::read_dir(world.path(name)).expect("dir").flatten();
        list.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(entries("tmp"), Vec::<String>::new());
    let known = ["events.jsonl", "guests", "junit.xml", "summary.json", "receipt.json", "artifacts"];
    let is_closed = || !entries("record").contains(&"control.sock".to_owned());
    eventually("the guardian closes what is left open", Duration::from_secs(20), is_closed);
    assert!(entries("record").iter().all(|name| known.contains(&name.as_str())), "{:?}", entries("record"));
    world.run(&["cleanup", "--force"]);
    world.assert_nothing_left();
}

#[test]
fn a_flood_of_output_is_bounded_in_every_file_and_its_two_ends_stay() {
    let world = World::new(
        "log_size = \"1MiB\"\nevents_size = \"1MiB\"\n[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"flood\"\n\
         run = \"echo the first; yes 'a line of a flood' | head -c 50000000; echo; echo the last; false\"\n\
         [[suites.s.cases]]\nname = \"after\"\nrun = \"echo quiet\"\n",
    );
    let text = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    // The two keys belong to the table that the world has begun.
    assert!(text.starts_with("[host]\n"));
    world.ci(&[]).exits(1).says("its middle is left out").says("stdout | the last");
    let log = world.record("guests/here/s/flood/stdout.log");
    assert!(log.len() < 2 << 20 && log.starts_with("the first\n") && log.ends_with("the last\n"), "{}", log.len());
    assert!(log.contains("are left out here; see `host.log_size`"));
    assert!(world.record("events.jsonl").len() < 3 << 20);
    let left_out = world.of_kind("warning").iter().filter(|e| e["text"].to_string().contains("further output")).count();
    assert_eq!((left_out, world.verdict_of("s/after").as_str()), (1, "passed"));
    assert_eq!(world.events().last().expect("last")["kind"], "run_ended");
}

#[test]
fn old_records_are_pruned_and_nothing_else_is() {
    let world = World::new(&format!("keep_records = 3\n{LOCAL}"));
    let runs = world.path(".vmdeck/runs");
    fs::create_dir_all(runs.join("not-a-record")).expect("mkdir");
    fs::create_dir(world.path("precious")).expect("mkdir");
    fs::write(world.path("precious/events.jsonl"), "").expect("write");
    for n in 0..5 {
        let record = runs.join(format!("20200101T00000{n}-0000000{n}"));
        fs::create_dir(&record).expect("mkdir");
        fs::write(record.join("events.jsonl"), "").expect("write");
        fs::write(record.join("summary.json"), "{}").expect("write");
    }
    symlink(world.path("precious"), runs.join("20190101T000000-00000000")).expect("link");
    world.run(&["prune"]).exits(2).complains("--keep N");
    world.run(&["prune", "--keep", "2"]).exits(2).complains("--force");
    world.run(&["prune", "--keep", "4", "--list-only"]).exits(0).says("20200101T000000-00000000").says("would remove");
    world.run(&["--ci"]).exits(0);
    let left = || fs::read_dir(&runs).expect("dir").count();
    assert_eq!(left(), 3 + 2, "three records, and what is none");
    world.run(&["--ci", "--set", "host.keep_size=\"1B\""]).exits(0);
    assert_eq!(left(), 1 + 2, "its own record stays, however large");
    world.run(&["--ci"]).exits(0);
    world.run(&["--ci", "--set", "host.keep_days=1"]).exits(0);
    assert_eq!(left(), 3 + 2);
    world.run(&["prune", "--days", "9000", "--force"]).exits(0).says("nothing to prune");
    world.run(&["prune", "--size", "1B", "--force"]).exits(0).says("removed 3 records");
    assert_eq!(left(), 2);
    assert!(world.path("precious/events.jsonl").exists());
}

/// Returns a canary in every form in which it may be written on.
fn forms(canary: &str) -> Vec<Vec<u8>> {
    let hex: String = canary.bytes().map(|b| format!("{b:02x}")).collect();
    let base64 = |text: &str| -> String {
        let mut child = Command::new("base64");
        let child = child.arg("-w0").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = child.spawn().expect("base64");
        std::io::Write::write_all(&mut child.stdin.take().expect("pipe"), text.as_bytes()).expect("written");
        let out = String::from_utf8(child.wait_with_output().expect("base64").stdout).expect("text");
        out.trim_end_matches('=').to_owned()
    };
    let wide: Vec<u8> = canary.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        canary.to_owned(),
        hex.clone(),
        hex.to_uppercase(),
        base64(canary),
        canary.replace('/', "%2F"),
        canary.replace('"', "\\\""),
    ];
    texts.into_iter().map(String::into_bytes).chain([wide]).collect()
}

#[test]
fn a_canary_is_in_no_record_core_environment_or_argument_in_any_form() {
    let canary = "cAnArY/with-24-character";
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[guests.here.sudo]\npassword = { env = \"CANARY_VARIABLE\" }\n\
         [guests.here.ssh]\npassword = { file = \"said\" }\n[suites.s]\nartifacts = []\n\
         [[suites.s.cases]]\nname = \"leak\"\nrun = '''cd ../../../../..; cat said; echo; base64 -w0 said; echo
od -An -v -tx1 said | tr -d ' \\n'; echo; sed s,/,%2F, said; echo; sed 's/./&\\x00/g' said; echo; env; echo up; exec sleep 60'''\n",
    );
    fs::write(world.path("said"), canary).expect("write");
    fs::set_permissions(world.path("said"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let mut command = Command::new("sh");
    // A core would be left here, were there one.
    command.args(["-c", "ulimit -c unlimited; exec \"$0\" --ci --verbose --run-dir record"]);
    command.arg(env!("CARGO_BIN_EXE_vmdeck")).current_dir(world.home.path()).env("CANARY_VARIABLE", canary);
    command.env("XDG_STATE_HOME", world.path("state")).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let said = read_until(&mut child, "| up");
    let forms = forms(canary);
    let find = |bytes: &[u8]| forms.iter().position(|form| memchr::memmem::find(bytes, form).is_some());
    assert_eq!(find(said.as_bytes()), None, "{said}");
    assert!(said.matches("***").count() >= 5, "{said}");
    let mut seen = 0;
    for process in fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.path()) {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        let is_ours = process.ends_with(child.id().to_string()) || process.ends_with(std::process::id().to_string());
        if memchr::memmem::find(&environment, world.home.path().to_string_lossy().as_bytes()).is_some() && !is_ours {
            seen += 1;
            assert_eq!(find(&environment), None, "{}", process.display());
        }
        assert_eq!(find(&arguments), None, "{}", String::from_utf8_lossy(&arguments));
    }
    assert!(seen >= 2, "the guardian and the command were looked at");
    signal(&child, "ABRT");
    let _ = child.wait();
    eventually("the guardian's clean-up", Duration::from_secs(20), || !world.path("lock.d").exists());
    let mut folders = vec![world.home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(!name.starts_with("core"), "{}", path.display());
            if path.is_dir() {
                folders.push(path);
            } else if name != "said" {
                assert_eq!(find(&fs::read(&path).unwrap_or_default()), None, "{}", path.display());
            }
        }
    }
    for path in ["record", "record/guests/here/s/leak"] {
        assert_eq!(fs::metadata(world.path(path)).expect("folder").permissions().mode() & 0o777, 0o700, "{path}");
    }
    for path in ["record/events.jsonl", "record/guests/here/s/leak/stdout.log"] {
        assert_eq!(fs::metadata(world.path(path)).expect("file").permissions().mode() & 0o777, 0o600, "{path}");
    }
}

#[test]
fn the_lock_is_free_only_when_the_clean_up_has_ended_and_its_pid_lives_until_then() {
    // The old scripts believe the pid: it must be that of the last process that needs the lock.
    let world = World::new(&format!(
        "lock_shared = true\n{}",
        LOCAL.replace("\"true\"", "\"echo begun; sleep 61 & sleep 61\"")
    ));
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    signal(&child, "KILL");
    let start = Instant::now();
    while let Ok(pid) = fs::read_to_string(world.path("lock.d/pid")) {
        let lives = Path::new("/proc").join(pid.trim()).exists();
        // It may have been released between the two looks.
        assert!(lives || !world.path("lock.d").exists(), "pid {pid} is gone and the lock is not");
        assert!(start.elapsed() < Duration::from_secs(20), "the guardian did not end");
    }
    let machines = fs::read_dir(world.state().join("machines")).expect("machines").count();
    assert_eq!(machines, 0, "the lock was free before the clean-up had ended");
    finish(child).exits(-9);
    world.assert_nothing_left();
}

#[test]
fn many_reapers_at_once_take_each_leftover_once_and_a_stopped_run_is_none() {
    let world = World::new(&LOCAL.replace("\"true\"", "\"echo begun; sleep 63\""));
    let mut stopped = world.start(&["--ci", "--verbose", "--run-dir", "stopped"]);
    read_until(&mut stopped, "| begun");
    let mut dead = world.start(&["--ci", "--verbose", "--no-lock", "--run-dir", "dead"]);
    read_until(&mut dead, "| begun");
    signal(&stopped, "STOP");
    // Both of the second run's processes, so that something is left.
    let journals = || -> Vec<String> {
        let list = fs::read_dir(world.state().join("runs")).expect("runs").flatten();
        list.map(|e| fs::read_to_string(e.path()).unwrap_or_default()).collect()
    };
    assert_eq!(journals().len(), 2);
    let guardians = Command::new("pgrep").args(["-P", &dead.id().to_string(), "-f", "__guardian"]).output();
    let guardian = String::from_utf8(guardians.expect("pgrep").stdout).expect("text");
    signal(&dead, "STOP");
    for pid in [guardian.trim(), &dead.id().to_string()] {
        assert!(Command::new("kill").args(["-KILL", pid]).status().expect("kill").success());
    }
    finish(dead).exits(-9);
    let reapers: Vec<_> = (0..8).map(|_| world.start(&["cleanup", "--force"])).collect();
    let removed: usize = reapers.into_iter().map(|child| finish(child).out.matches("removed vmdeck-").count()).sum();
    assert_eq!(removed, 1, "each leftover is taken by one reaper");
    assert_eq!(journals().len(), 1, "the stopped run is alive");
    signal(&stopped, "CONT");
    signal(&stopped, "TERM");
    finish(stopped).exits(143);
    world.assert_nothing_left();
}

/// Returns whether the slow tests were asked for (`make test-all`).
fn slow() -> bool {
    std::env::var_os("VMDECK_TEST_SLOW").is_some()
}

/// Lets a shell script that loops write a line of milliseconds since its start for each turn, until the time is over.
fn looping(world: &World, name: &str, seconds: u64, turn: &str) -> std::process::Child {
    let script = format!(
        "end=$(( $(date +%s) + {seconds} )); while [ $(date +%s) -lt $end ]; do s=$(date +%s%N); {turn}; done",
        turn = turn.replace("DONE", &format!("echo $(( ($(date +%s%N) - s) / 1000000 )) >> {name}"))
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(world.home.path()).env("XDG_STATE_HOME", world.path("state"));
    command
        .env("V", env!("CARGO_BIN_EXE_vmdeck"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.spawn().expect("bash")
}

fn numbers(world: &World, name: &str) -> Vec<u64> {
    let text = fs::read_to_string(world.path(name)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn waiters_are_served_in_turn_whoever_is_killed_and_never_two_at_once() {
    let seconds = if slow() { 90 } else { 8 };
    let world = World::new(LOCAL);
    // Inside the lock: nobody else may be, and it takes 0.1 s.
    let inside = "sh -c 'mkdir inside 2>/dev/null || echo double >> doubles; echo $(( ($(date +%s%N) - '$s') / 1000000 )) >> waits; \
                  sleep 0.1; rmdir inside'";
    let waiters: Vec<_> =
        (0..12).map(|n| looping(&world, &format!("w{n}"), seconds, &format!("$V lock exec -- {inside}"))).collect();
    // Killed while they wait: what holds the lock is left alone, since it could not remove its folder `inside`.
    let killer = looping(
        &world,
        "killed",
        seconds,
        "sleep 0.7; for p in $(pgrep -x vmdeck | shuf); do \
         case $(readlink /proc/$p/cwd) in \"$PWD\") pgrep -P $p >/dev/null || { kill -9 $p && DONE; break; };; esac; done",
    );
    for mut child in waiters.into_iter().chain([killer]) {
        child.wait().expect("ended");
    }
    assert!(!numbers(&world, "killed").is_empty(), "the killer has killed");
    let waits = numbers(&world, "waits");
    let (longest, mean) =
        (waits.iter().max().copied().unwrap_or(0), waits.iter().sum::<u64>() / waits.len().max(1) as u64);
    assert!(waits.len() as u64 > seconds * 4, "{} turns", waits.len());
    assert_eq!(fs::read_to_string(world.path("doubles")).unwrap_or_default(), "");
    assert!(longest <= 3 * mean, "longest {longest} ms, mean {mean} ms, {} turns", waits.len());
    // One that was killed when nobody else was left is swept by whoever comes next.
    world.run(&["lock", "exec", "--", "true"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn an_old_script_beside_four_vmdecks_gets_its_share() {
    if !slow() {
        return;
    }
    let seconds = 120;
    let world = World::new(&format!("lock_shared = true\n{LOCAL}"));
    let ours: Vec<_> =
        (0..4).map(|n| looping(&world, &format!("o{n}"), seconds, "$V lock exec -- true && DONE")).collect();
    // As the scripts do it: a look every 2 s, a folder with a pid, half a second of work.
    let script = "if mkdir lock.d 2>/dev/null; then echo $$ > lock.d/pid; sleep 0.5; rm -rf lock.d; DONE; fi; sleep 2";
    let mut theirs = looping(&world, "script", seconds, script);
    theirs.wait().expect("ended");
    for mut child in ours {
        child.wait().expect("ended");
    }
    let (script, all) =
        (numbers(&world, "script").len(), (0..4).map(|n| numbers(&world, &format!("o{n}")).len()).sum::<usize>());
    assert!(script * 3 >= all && script > 2, "the script {script}, four vmdecks {all}");
}

#[test]
fn ten_thousand_local_cases_take_less_than_a_minute() {
    if !slow() {
        return;
    }
    let mut config = "[guests.here]\nbackend = \"local\"\n[suites.s]\n".to_owned();
    for n in 0..10_000 {
        config.push_str(&format!("[[suites.s.cases]]\nname = \"c{n}\"\nrun = \"true\"\n"));
    }
    let world = World::new(&config);
    let start = Instant::now();
    world.ci(&["-q"]).exits(0);
    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());
}

#[test]
fn a_log_that_cannot_be_opened_is_never_a_pass() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"spoils\"\n\
         run = \"cd ../../../../../record/guests/here; mkdir t; ln -s /nowhere t/case; touch +setup u\"\n\
         [suites.t]\n[[suites.t.cases]]\nname = \"case\"\nrun = \"true\"\n[[suites.t.cases]]\nname = \"good\"\nrun = \"true\"\n\
         [suites.u]\nsetup = \"true\"\n[[suites.u.cases]]\nname = \"after-setup\"\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(5).says("its output is not recorded");
    world.assert_verdicts(&[
        ("s/spoils", "passed"),
        ("t/case", "infra"),
        ("t/good", "passed"),
        ("u/after-setup", "infra"),
    ]);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_huge_file_of_the_source_is_streamed_and_given_up_with_the_run() {
    let world = World::new(&format!("{LOCAL}[guests.here.source]\npath = \"src\"\nto = \"/tmp/never/sent\"\n"));
    fs::create_dir(world.path("src")).expect("mkdir");
    fs::create_dir(world.path("tmp")).expect("mkdir");
    fs::File::create(world.path("src/huge")).and_then(|file| file.set_len(15 << 40)).expect("sparse");
    world.ci(&[]).exits(3).says("of which `huge` has 15TiB; `source.exclude` leaves files out");
    fs::remove_dir_all(world.path("record")).expect("rm");
    fs::remove_file(world.path("src/huge")).expect("rm");
    set_trap(&world.path("src/sparse"), "sparse");
    let mut command = Command::new("prlimit");
    command.args(["--as=2000000000"]).arg(env!("CARGO_BIN_EXE_vmdeck")).args(["--ci", "--run-dir", "record"]);
    command.current_dir(world.home.path()).env("XDG_STATE_HOME", world.path("state")).env("TMPDIR", world.path("tmp"));
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("starts");
    eventually("the packing", Duration::from_secs(20), || {
        fs::read_to_string(world.path("record/events.jsonl")).is_ok_and(|t| t.contains("\"phase\":\"source\""))
    });
    let start = Instant::now();
    signal(&child, "TERM");
    finish(child).exits(143);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(fs::read_dir(world.path("tmp")).expect("dir").count(), 0);
    world.assert_nothing_left();
}

#[test]
fn a_lock_that_a_config_points_at_somebodys_folder_removes_nothing() {
    let world = World::new(LOCAL);
    let precious = world.path("precious");
    fs::create_dir(&precious).expect("mkdir");
    fs::write(precious.join("file"), "x").expect("write");
    Command::new("touch").args(["-d", "3 days ago"]).arg(&precious).status().expect("touch");
    let lock = format!("host.lock={}", precious.display());
    for words in [
        &["lock", "status"][..],
        &["lock", "break"],
        &["lock", "break", "--force"],
        &["cleanup", "--force"],
        &["lock", "exec", "--", "true"],
        &["--ci"],
    ] {
        let ran = world.run(&[&["--set", &lock], words].concat());
        assert!(precious.join("file").exists(), "{words:?}");
        assert!(ran.code != 0 || words[0] == "cleanup", "{words:?}: {ran:?}");
    }
}
