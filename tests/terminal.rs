//! The real cockpit in a real terminal (tmux): its screens, its manners, and what is left when it goes, whatever ends it.
//!
//! The guests are of the `local` backend, and one is a real QEMU machine. Screens for `docs/screens` are made here too.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use vmdeck_testkit::{
    micro::Micro,
    picture,
    world::{World, eventually},
};

/// How long a screen may take to come; a loaded machine boots a guest in it.
const PATIENCE: Duration = Duration::from_mins(1);

/// A terminal of its own, with a program in it.
struct Tmux {
    socket: String,
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

impl Tmux {
    /// Starts this line of shell in the world, in a terminal of this size.
    fn start(world: &World, columns: u16, rows: u16, line: &str, env: &[(&str, &str)]) -> Self {
        let tmux = Self { socket: format!("vmdeck-test-{}-{}", std::process::id(), fastrand::u32(..)) };
        let mut command = tmux.command(&["new-session", "-d", "-x", &columns.to_string(), "-y", &rows.to_string()]);
        for (name, value) in [
            ("XDG_STATE_HOME", world.path("state").display().to_string()),
            ("XDG_CONFIG_HOME", world.path("config").display().to_string()),
            ("PS1", "$ ".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ] {
            command.args(["-e", &format!("{name}={value}")]);
        }
        for (name, value) in env {
            command.args(["-e", &format!("{name}={value}")]);
        }
        for name in ["NO_COLOR", "CI", "COLORTERM", "SSH_CONNECTION", "VMDECK_SCREENS", "VMDECK_TEST_SLOW"] {
            command.env_remove(name);
        }
        command.current_dir(world.home.path()).arg(line);
        let out = command.output().expect("tmux runs; scripts/deps.sh installs it");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        tmux
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(args);
        command
    }

    fn keys(&self, words: &[&str]) {
        let out = self.command(&["send-keys"]).args(words).output().expect("tmux");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Leaves the cockpit, whatever lies over its panes by then.
    fn leave(&self, wanted: &str) {
        let left = || {
            self.keys(&["q"]);
            self.screen().contains(wanted)
        };
        eventually("it is left", PATIENCE, left);
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.command(&["capture-pane", "-p"]).output().expect("tmux").stdout).into_owned()
    }

    /// Returns the screen with its escape sequences.
    fn styled(&self) -> String {
        String::from_utf8_lossy(&self.command(&["capture-pane", "-p", "-e"]).output().expect("tmux").stdout)
            .into_owned()
    }

    #[track_caller]
    fn see(&self, wanted: &str) -> String {
        let start = std::time::Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(wanted) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "`{wanted}` never came:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const CASES: &str = "[guests.here]\nbackend = \"local\"\n[suites.smoke]\n\
    [[suites.smoke.cases]]\nname = \"install\"\nrun = \"echo installing; echo done\"\n\
    [[suites.smoke.cases]]\nname = \"check\"\nrun = \"echo looking >&2; exit 3\"\n";

const LONG: &str = "[guests.here]\nbackend = \"local\"\n[suites.smoke]\n\
    [[suites.smoke.cases]]\nname = \"long\"\nrun = \"echo begun; sleep 300\"\n";

/// A shell that runs the cockpit, tells its exit and stays.
const LINE: &str = concat!("sh -c '", env!("CARGO_BIN_EXE_vmdeck"), "; echo exit=$?; exec cat'");

/// A config whose programs and secret leave a file when they are started.
fn trapped() -> World {
    let trap = "command = [\"sh\", \"-c\", \"echo secret >> sprung; echo canary\"]";
    let world = World::new(&format!(
        "[host.tools]\nmultipass = \"./trap\"\nutmctl = \"./trap\"\n{CASES}\
         [guests.v]\nbackend = \"qemu\"\n[guests.v.qemu]\nbinary = \"./trap\"\nimage = \"x.qcow2\"\n\
         [guests.v.ssh]\npassword = {{ {trap} }}\n"
    ));
    let sprung = world.path("sprung");
    fs::write(world.path("trap"), format!("#!/bin/sh\necho $* >> {}\n", sprung.display())).expect("trap");
    let status = Command::new("chmod").arg("+x").arg(world.path("trap")).status();
    assert!(status.expect("chmod").success());
    world
}

#[test]
fn opening_the_cockpit_starts_nothing_that_a_strange_config_names_unless_somebody_says_yes() {
    let world = trapped();
    let looks = format!("sh -c '{} --read-only; echo exit=$?; exec cat'", env!("CARGO_BIN_EXE_vmdeck"));
    for (line, answer) in [(looks.as_str(), None), (LINE, Some("n"))] {
        let tmux = Tmux::start(&world, 160, 50, line, &[]);
        if let Some(answer) = answer {
            let asked = tmux.see("Start them?");
            assert!(asked.contains("`host.tools.multipass`") && asked.contains("`guests.v.qemu.binary`"), "{asked}");
            tmux.keys(&[answer, "Enter"]);
        }
        tmux.see("machines");
        tmux.see("not started");
        tmux.leave("exit=0");
        assert!(!world.path("sprung").exists(), "{line}: {:?}", fs::read_to_string(world.path("sprung")));
    }
    let tmux = Tmux::start(&world, 80, 24, LINE, &[]);
    tmux.see("Start them?");
    tmux.keys(&["y", "Enter"]);
    // What preflight has found may lie over the panes by then, and not over the header.
    tmux.see("no run");
    eventually("the named program", PATIENCE, || world.path("sprung").exists());
    tmux.leave("exit=0");
    drop(tmux);
    let tmux = Tmux::start(&world, 80, 24, LINE, &[]);
    let screen = tmux.see("no run");
    assert!(!screen.contains("Start them?"), "the answer is remembered: {screen}");
}

/// Returns where the engine's process is, once there is one.
fn engine(world: &World) -> bool {
    world.processes().iter().any(|line| line.contains("--commands"))
}

/// Returns the cockpit's own process: named by where it was started.
fn cockpit(world: &World) -> u32 {
    let home = fs::canonicalize(world.home.path()).expect("home");
    let all = fs::read_dir("/proc").expect("proc").flatten();
    let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words == concat!(env!("CARGO_BIN_EXE_vmdeck"), "\0").as_bytes()
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == home)
    };
    pids.find(is_it).expect("the cockpit runs")
}

/// Returns the engine's process.
fn engine_pid(world: &World) -> u32 {
    let home = world.home.path().to_string_lossy().into_owned();
    let all = fs::read_dir("/proc").expect("proc").flatten();
    let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let words =
        |pid: &u32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned();
    pids.find(|pid| words(pid).contains("--commands") && words(pid).contains(&home)).expect("the engine runs")
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Nothing may stay; the terminal itself, which names the world too, goes first.
fn assert_all_gone(world: &World, tmux: Tmux) {
    drop(tmux);
    world.assert_nothing_left();
}

fn micro(suites: &str) -> World {
    let guest = Micro { keys: "boot_timeout = \"60s\"", ..Micro::default() }.guest("micro");
    World::new(&format!("{guest}{suites}"))
}

#[test]
fn a_real_guest_is_booted_looked_into_and_gone() {
    let world = micro(
        "[suites.smoke]\n[[suites.smoke.cases]]\nname = \"bad\"\nrun = \"echo no >&2; exit 3\"\n\
         [cockpit]\npause = \"5m\"\n",
    );
    let tmux = Tmux::start(&world, 160, 50, LINE, &[]);
    tmux.see("qemu linux");
    tmux.keys(&["r"]);
    tmux.see("PAUSED");
    assert!(tmux.screen().contains("bad") && tmux.screen().contains("failed"));
    // A shell on the whole terminal, with the key that the guest showed; and back.
    tmux.keys(&["S"]);
    tmux.see("BusyBox");
    tmux.keys(&["echo in-$(uname -n)", "Enter"]);
    tmux.see("in-micro");
    tmux.keys(&["exit", "Enter"]);
    tmux.see("PAUSED");
    // The serial console, typed into.
    tmux.keys(&["a"]);
    tmux.see("serial console");
    tmux.keys(&["Enter"]);
    tmux.keys(&["nobody", "Enter"]);
    tmux.see("Password:");
    tmux.keys(&["C-]"]);
    tmux.keys(&["1"]);
    tmux.keys(&["i"]);
    let details = tmux.see("reached");
    assert!(details.contains("ssh 127.0.0.1:"), "{details}");
    tmux.keys(&["Escape"]);
    tmux.see("PAUSED");
    tmux.keys(&["p"]);
    tmux.see("ended, exit 1");
    tmux.keys(&["q"]);
    let end = tmux.see("exit=1");
    assert!(end.contains("failed smoke/bad@micro: exit 3") && end.contains("record: "), "{end}");
    assert_all_gone(&world, tmux);
}

/// At both sizes: a case fails, its guest is held, the code is mended, and what failed runs again there: no boot.
#[test]
fn a_real_guest_that_is_held_is_used_for_what_is_run_again() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = micro(
            "[guests.micro.source]\npath = \"src\"\nto = \"/tmp/src\"\n\
             [suites.smoke]\nenv = { WHO = \"it's \\\"me\\\"\" }\n[[suites.smoke.cases]]\nname = \"code\"\nrun = \"cat code; grep right code\"\n\
             [[suites.smoke.cases]]\nname = \"other\"\nrun = \"true\"\n[cockpit]\npause = \"5m\"\n",
        );
        fs::create_dir(world.path("src")).expect("mkdir");
        fs::write(world.path("src/code"), "wrong\n").expect("write");
        let tmux = Tmux::start(&world, columns, rows, LINE, &[]);
        tmux.see("qemu linux");
        tmux.keys(&["r"]);
        tmux.see("PAUSED");
        // A shell is where the code is.
        tmux.keys(&["S"]);
        tmux.see("BusyBox");
        tmux.keys(&["ls /tmp/tmp.*; echo at-$PWD $WHO $VMDECK_SUITE", "Enter"]);
        let shell = tmux.see("at-/tmp/src it's \"me\" smoke");
        assert!(shell.contains("No such file"), "its variables are in no file any more:\n{shell}");
        tmux.keys(&["exit", "Enter"]);
        tmux.see("PAUSED");
        fs::write(world.path("src/code"), "right\n").expect("write");
        tmux.keys(&["R"]);
        tmux.see("reused ×1");
        tmux.see("✓ 1 passed  ended");
        let again = tmux.see("◆ micro");
        assert!(again.contains("reused ×1") && again.contains("1/1"), "{again}");
        tmux.keys(&["q"]);
        let end = tmux.see("exit=0");
        assert!(end.contains("vmdeck down micro"), "{end}");
        world.run(&["down"]).exits(0).says("removed vmdeck-");
        assert_all_gone(&world, tmux);
    }
}

/// At both sizes: save, and see the verdict; what the code breaks and mends is told.
#[test]
fn a_real_guest_is_watched_by_changes_of_the_code() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = micro(
            "[guests.micro.source]\npath = \"src\"\nto = \"/tmp/src\"\n\
             [suites.smoke]\n[[suites.smoke.cases]]\nname = \"code\"\nrun = \"grep right code\"\n",
        );
        fs::create_dir(world.path("src")).expect("mkdir");
        let put = |text: &str| fs::write(world.path("src/code"), text).expect("write");
        put("right\n");
        let tmux = Tmux::start(&world, columns, rows, LINE, &[]);
        tmux.see("qemu linux");
        tmux.keys(&["w"]);
        tmux.see("WATCH #1 green");
        put("wrong\n");
        tmux.see("WATCH #2 RED");
        tmux.see("RED now");
        put("right again\n");
        let screen = tmux.see("WATCH #3 green");
        assert!(screen.contains("reused ×2"), "{screen}");
        tmux.keys(&["w"]);
        tmux.see("not watched any more");
        put("wrong\n");
        tmux.keys(&["q"]);
        tmux.see("exit=0");
        world.run(&["down"]).exits(0).says("removed vmdeck-");
        assert_all_gone(&world, tmux);
    }
}

/// What the case of [`a_real_guest_s_failure_is_explained`] does: it fails at a line of its own that it names.
const CHECK: &str = "i=0; while [ $i -lt 60 ]; do echo \"ok $i\"; i=$((i+1)); done
grep -q right code || { echo \"error: expected right, got $(cat code) (tests/check.sh:2)\"; exit 3; }
i=60; while [ $i -lt 63 ]; do echo \"ok $i\"; i=$((i+1)); done
";

/// At both sizes: a case that passed fails; its row says why, its output is beside it at that line, and the list of errors, the comparison
/// with the last time, the editor and the list of runs are one key away.
#[test]
fn a_real_guest_s_failure_is_explained() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = micro(
            "[guests.micro.source]\npath = \"src\"\nto = \"/tmp/src\"\n\
             [suites.smoke]\n[[suites.smoke.cases]]\nname = \"first\"\nrun = \"true\"\n\
             [[suites.smoke.cases]]\nname = \"code\"\nrun = \"sh tests/check.sh\"\n[cockpit]\npause = \"5m\"\n",
        );
        fs::create_dir_all(world.path("src/tests")).expect("mkdir");
        fs::write(world.path("src/tests/check.sh"), CHECK).expect("write");
        fs::write(world.path("src/code"), "right\n").expect("write");
        fs::write(world.path("editor"), "#!/bin/sh\necho \"$@\" > edited\n").expect("write");
        Command::new("chmod").args(["+x", "editor"]).current_dir(world.home.path()).status().expect("chmod");
        let editor = world.path("editor").display().to_string();
        let tmux = Tmux::start(&world, columns, rows, LINE, &[("VISUAL", editor.as_str())]);
        tmux.see("qemu linux");
        tmux.keys(&["K", "r"]);
        tmux.see("✓ 2 passed  ended");
        fs::write(world.path("src/code"), "wrong\n").expect("write");
        tmux.keys(&["r"]);
        tmux.see("PAUSED");
        tmux.keys(&["F"]);
        tmux.see("exit 3: error: expected right");
        if columns > 100 {
            let beside = tmux.see("error 1 of 1");
            assert!(beside.contains("expected right, got wrong"), "{beside}");
        }
        tmux.keys(&["4"]);
        let log = tmux.see("error 1 of 1");
        assert!(log.contains("ok 58") && log.contains("error: expected right, got wrong"), "{log}");
        tmux.keys(&["O"]);
        eventually("the editor has run", PATIENCE, || world.path("edited").exists());
        let edited = fs::read_to_string(world.path("edited")).expect("edited");
        assert!(edited.contains("+2 ") || edited.trim().ends_with("/src/tests/check.sh"), "{edited}");
        tmux.see("error 1 of 1");
        tmux.keys(&["E"]);
        let errors = tmux.see("errors (1)");
        assert!(errors.contains("micro: smoke/code failed: exit 3: error:"), "{errors}");
        tmux.keys(&["Down", "Enter"]);
        tmux.see("error 1 of 1");
        tmux.keys(&["d"]);
        let comparison = tmux.see("beside the last time that it passed");
        for line in ["- passed in run ", "+ failed: exit 3", "+ error: expected right, got wrong", "- ok 60", "boot "] {
            assert!(comparison.contains(line), "{line}\n{comparison}");
        }
        tmux.keys(&["q"]);
        tmux.see("error 1 of 1");
        tmux.keys(&["H"]);
        let runs = tmux.see("runs: Enter opens one");
        assert!(runs.contains("running: 1 passed, 1 failed") && runs.contains("exit 0: 2 passed"), "{runs}");
        tmux.keys(&["q", "1", "p"]);
        tmux.see("ended, exit 1");
        // An earlier run, as if it had just ended.
        tmux.keys(&["H"]);
        tmux.see("runs: Enter opens one");
        tmux.keys(&["Down", "Enter"]);
        tmux.see("✓ 2 passed  ended, exit 0");
        tmux.keys(&["q"]);
        let end = tmux.see("exit=");
        assert!(end.contains("exit 3: error: expected right") || end.contains("exit=1"), "{end}");
        let kept = world.run(&["down"]);
        assert_eq!(kept.code, 0, "{}", kept.err);
        assert_all_gone(&world, tmux);
    }
}

/// At both sizes: the lock is held, the run waits in a queue that is shown, leaves it on request, and begins by itself at its turn.
#[test]
fn a_run_that_waits_for_the_lock_shows_the_queue_and_leaves_it_on_request() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = World::new(CASES);
        let holder = world.start(&["lock", "exec", "--", "sleep", "300"]);
        eventually("the lock is held", PATIENCE, || world.run(&["lock", "status"]).out.contains("held by"));
        let waiter = world.start(&["--ci", "smoke/install"]);
        let queued = |count: usize| world.run(&["lock", "status"]).out.matches("in the queue").count() == count;
        eventually("the other waits", PATIENCE, || queued(1));
        let tmux = Tmux::start(&world, columns, rows, LINE, &[]);
        tmux.see("local linux");
        tmux.keys(&["r"]);
        tmux.see("waiting for the lock, 2 of 2 (Q leaves)");
        tmux.keys(&["2"]);
        let pane = tmux.see("waiting 2  this run");
        assert!(pane.contains("waiting 1  process ") && (columns > 80 || pane.contains("vmdeck --ci")), "{pane}");
        tmux.keys(&["Q"]);
        tmux.see("ended, exit 130");
        eventually("it has left the queue", PATIENCE, || queued(1));
        let json = world.run(&["lock", "status", "--json"]).exits(0);
        let slots: serde_json::Value = serde_json::from_str(&json.out).expect("json");
        assert_eq!(slots[0]["waiting"].as_array().map(Vec::len), Some(1), "{slots}");
        // At its turn it begins by itself.
        tmux.keys(&["1", "r"]);
        tmux.see("waiting for the lock, 2 of 2");
        kill("-KILL", holder.id());
        vmdeck_testkit::world::finish(holder);
        vmdeck_testkit::world::finish(waiter).exits(0);
        tmux.see("PAUSED");
        tmux.keys(&["p"]);
        tmux.see("ended, exit 1");
        tmux.keys(&["q"]);
        tmux.see("exit=1");
        assert_all_gone(&world, tmux);
    }
}

#[test]
fn the_run_is_cleaned_up_when_the_cockpit_is_ended_or_its_terminal_closed() {
    type End = fn(&Tmux, &World);
    let ends: [(&str, End); 2] = [
        ("a closed terminal", |tmux, _| drop(tmux.command(&["kill-server"]).output())),
        ("SIGTERM", |_, world| kill("-TERM", cockpit(world))),
    ];
    for (what, end) in ends {
        let world = World::new(LONG);
        let tmux = Tmux::start(&world, 80, 24, LINE, &[]);
        tmux.see("local linux");
        tmux.keys(&["r"]);
        tmux.see("smoke/long");
        eventually("the engine runs", PATIENCE, || engine(&world));
        end(&tmux, &world);
        eventually(&format!("everything is gone after {what}"), PATIENCE, || !engine(&world));
        assert_all_gone(&world, tmux);
    }
}

#[test]
fn an_engine_that_is_killed_is_told_and_the_clock_stops() {
    let world = World::new(LONG);
    let tmux = Tmux::start(&world, 120, 30, LINE, &[]);
    tmux.see("local linux");
    tmux.keys(&["r"]);
    tmux.see("smoke/long");
    eventually("the engine runs", PATIENCE, || engine(&world));
    kill("-KILL", engine_pid(&world));
    tmux.see("the engine died");
    tmux.keys(&["Enter"]);
    tmux.see("ENGINE DIED");
    tmux.see("lost with its engine");
    eventually("its guardian cleans up", PATIENCE, || !world.path("lock.d").exists());
    tmux.keys(&["q"]);
    tmux.see("exit=70");
    assert_all_gone(&world, tmux);
}

#[test]
fn a_run_whose_cockpit_is_killed_goes_on_until_others_join_and_steer_it() {
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = World::new(LONG);
        let tmux = Tmux::start(&world, columns, rows, LINE, &[]);
        tmux.see("local linux");
        tmux.keys(&["r"]);
        tmux.see("smoke/long");
        eventually("the engine runs", PATIENCE, || engine(&world));
        kill("-KILL", cockpit(&world));
        tmux.see("exit=137");
        // Two at once, each right about what the other does.
        let attach = format!("sh -c '{} attach; echo exit=$?; exec cat'", env!("CARGO_BIN_EXE_vmdeck"));
        let others = [&attach, LINE].map(|line| Tmux::start(&world, columns, rows, line, &[]));
        for other in &others {
            let screen = other.see("smoke/long");
            assert!(!screen.contains("VIEW ONLY"), "{screen}");
        }
        others[0].keys(&["h"]);
        others[0].see("stays at the end");
        others[0].keys(&["h", "X"]);
        others[0].see("kill here now?");
        others[0].keys(&["y"]);
        for other in &others {
            other.see("1 cancelled");
            other.keys(&["q"]);
            other.see("exit=130");
        }
        drop(others);
        assert_all_gone(&world, tmux);
    }
}

#[test]
fn a_run_without_a_screen_is_watched_and_steered_only_on_request() {
    let world = World::new(LONG);
    let child = world.start(&["--ci"]);
    let joined = || world.run(&["attach"]).err.contains("is not a terminal");
    eventually("the run is there to be joined", PATIENCE, joined);
    let attach = |words: &str| {
        let line = format!("sh -c '{} attach {words}; echo exit=$?; exec cat'", env!("CARGO_BIN_EXE_vmdeck"));
        Tmux::start(&world, 100, 30, &line, &[])
    };
    let watcher = attach("");
    watcher.see("VIEW ONLY");
    watcher.see("smoke/long");
    watcher.keys(&["C-x"]);
    watcher.see("view only");
    let steerer = attach("--allow-control");
    steerer.see("smoke/long");
    steerer.keys(&["C-x"]);
    steerer.see("cancel the run?");
    steerer.keys(&["y"]);
    vmdeck_testkit::world::finish(child).exits(130);
    for tmux in [&watcher, &steerer] {
        tmux.see("1 cancelled");
        tmux.keys(&["q"]);
    }
    world.run(&["attach"]).exits(2).complains("none is in progress");
    drop(watcher);
    assert_all_gone(&world, steerer);
}

#[test]
fn a_run_that_was_detached_goes_on_and_a_second_cockpit_steers_it() {
    let world = World::new(LONG);
    let tmux = Tmux::start(&world, 100, 30, LINE, &[]);
    tmux.see("local linux");
    tmux.keys(&["r"]);
    tmux.see("smoke/long");
    tmux.keys(&["q"]);
    tmux.see("leave?");
    tmux.keys(&["d"]);
    tmux.see("has not ended");
    assert!(engine(&world), "it goes on");
    let second = Tmux::start(&world, 100, 30, LINE, &[]);
    second.see("smoke/long");
    second.keys(&["q"]);
    second.see("leave?");
    second.keys(&["d"]);
    second.see("has not ended");
    assert!(engine(&world), "it goes on once more");
    // A person ends it as any other process.
    let status = Command::new("pkill").args(["-INT", "-f", &world.path("").display().to_string()]).status();
    assert!(status.expect("pkill").success());
    eventually("the run ends", PATIENCE, || !engine(&world));
    eventually("its lock is free", PATIENCE, || !world.path("lock.d").exists());
    drop(second);
    assert_all_gone(&world, tmux);
}

#[test]
fn suspended_it_gives_the_terminal_back_and_takes_it_again() {
    let world = World::new(CASES);
    let tmux = Tmux::start(&world, 80, 24, "bash --norc --noprofile -i", &[]);
    tmux.keys(&[env!("CARGO_BIN_EXE_vmdeck"), "Enter"]);
    tmux.see("local linux");
    tmux.keys(&["C-z"]);
    let shell = tmux.see("Stopped");
    assert!(!shell.contains("machines"), "the normal screen is back:\n{shell}");
    tmux.keys(&["echo typed-$((6*7))", "Enter"]);
    tmux.see("typed-42");
    tmux.keys(&["fg", "Enter"]);
    tmux.see("local linux");
    tmux.keys(&["q"]);
    // What is typed before the shell is back would still be the cockpit's.
    eventually("the normal screen is back", PATIENCE, || !tmux.screen().contains("machines"));
    tmux.keys(&["echo code=$?", "Enter"]);
    tmux.see("code=0");
    // Echo and line mode are as they were.
    tmux.keys(&["stty -a | tr ' ' '\\n' | grep -cE '^(echo|icanon);?$'", "Enter"]);
    tmux.see("2");
}

/// Not a test: what the next one runs in a terminal of its own.
#[test]
#[ignore = "run by `a_panic_gives_the_terminal_back` in a terminal"]
fn panic_in_a_terminal() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let _inside = runtime.enter();
    vmdeck_tui::screen::restore_on_panic(|_| {});
    let _tty = vmdeck_tui::screen::Tty::take(true).expect("a terminal");
    panic!("on purpose");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let world = World::new(CASES);
    let own = std::env::current_exe().expect("own path");
    let tmux = Tmux::start(&world, 100, 30, "bash --norc --noprofile -i", &[]);
    tmux.keys(&["echo before; stty -g > before", "Enter"]);
    tmux.see("before");
    let line = format!("{} --exact --ignored --nocapture --test-threads=1 panic_in_a_terminal", own.display());
    tmux.keys(&[&line, "Enter"]);
    tmux.see("on purpose");
    tmux.see("test result: FAILED");
    tmux.keys(&["stty -g | cmp - before && echo the-same", "Enter"]);
    tmux.see("\nthe-same");
    assert!(tmux.screen().contains("before"), "the normal screen with what was on it is back");
    let cursor = tmux.command(&["display-message", "-p", "#{cursor_flag} #{mouse_any_flag} #{alternate_on}"]).output();
    assert_eq!(String::from_utf8_lossy(&cursor.expect("tmux").stdout).trim(), "1 0 0", "cursor, mouse, other screen");
}

#[test]
fn no_color_means_no_colour_and_still_bold_and_reverse() {
    let world = World::new(CASES);
    // Parameters of colour, without those that take it away.
    let is_colour = |p: &str| p.len() == 2 && (p.starts_with('3') || p.starts_with('4')) && !p.ends_with('9');
    let colour = |text: &str| {
        let sequences = text.split('\u{1b}').filter_map(|s| s.strip_prefix('[')?.split_once('m'));
        sequences.filter(|(params, _)| params.split(';').any(is_colour)).count()
    };
    let plain = Tmux::start(&world, 80, 24, LINE, &[("NO_COLOR", "1")]);
    plain.see("local linux");
    let styled = plain.styled();
    assert_eq!(colour(&styled), 0, "{styled:?}");
    assert!(styled.contains("\u{1b}[1") && styled.contains("[7m"), "attributes are kept: {styled:?}");
    let coloured = Tmux::start(&world, 80, 24, LINE, &[("TERM", "screen-256color")]);
    coloured.see("local linux");
    assert!(colour(&coloured.styled()) > 5);
}

#[test]
fn the_first_minute_leads_somewhere() {
    // A host that cannot run anything: what to do is the first thing to be seen.
    let world = World::new(CASES);
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let unfit: Vec<&str> = config.lines().filter(|line| !line.starts_with("min_free_disk")).collect();
    let unfit = unfit.join("\n").replacen("[host]", "[host]\nmin_free_disk = \"900TiB\"", 1);
    fs::write(world.path("vmdeck.toml"), unfit).expect("write");
    let unfit = Tmux::start(&world, 80, 24, LINE, &[]);
    let screen = unfit.see("this host is not ready");
    assert!(screen.contains("FATAL") && screen.contains("min_free_disk"), "{screen}");
    unfit.keys(&["Escape"]);
    unfit.see("local linux");
    // Its worst finding stays in sight, and a page says what is done here all day.
    unfit.see("3 preflight: FATAL disk");
    unfit.keys(&["?", "?"]);
    let tour = unfit.see("something failed waits");
    assert!(tour.contains("r what is selected") && tour.contains("F next failure"), "{tour}");
    drop(unfit);
    // The demo in a terminal is the cockpit on it.
    let world = World::new("");
    fs::remove_file(world.path("vmdeck.toml")).expect("no config");
    let line = format!("sh -c '{} demo --local; echo exit=$?; exec cat'", env!("CARGO_BIN_EXE_vmdeck"));
    let demo = Tmux::start(&world, 100, 30, &line, &[]);
    demo.see("ended, exit ");
    demo.keys(&["q"]);
    let end = demo.see("exit=0");
    assert!(end.contains("try next:"), "{end}");
    assert_all_gone(&world, demo);
}

#[test]
fn without_a_screen_there_is_a_line_for_each_change() {
    let world = World::new(CASES);
    let line = |words: &str| format!("sh -c '{} {words}; echo exit=$?; exec cat'", env!("CARGO_BIN_EXE_vmdeck"));
    // A terminal that has no screen says so, and whoever wants none says so.
    for (line, is_dumb) in [(line("").replace("sh -c '", "sh -c 'TERM=dumb "), true), (line("--plain"), false)] {
        let tmux = Tmux::start(&world, 100, 40, &line, &[]);
        let screen = tmux.see("exit=1");
        assert!(screen.contains("smoke/install") && screen.contains("smoke/check"), "{screen}");
        assert!(!tmux.styled().contains("\u{1b}[?"), "nothing is drawn");
        assert_eq!(screen.contains("TERM=dumb has no screen"), is_dumb, "{screen}");
    }
    // A run of another process, followed the same way, and left alone by Ctrl-C.
    let world = World::new(LONG);
    let child = world.start(&["--ci"]);
    eventually("the run is there to be joined", PATIENCE, || world.run(&["attach"]).err.contains("is not a terminal"));
    // Ctrl-C is for the shell too.
    let follow = line("attach --plain").replace("sh -c '", "sh -c 'trap : INT; ");
    let tmux = Tmux::start(&world, 100, 30, &follow, &[]);
    tmux.see("smoke/long");
    tmux.keys(&["C-c"]);
    tmux.see("exit=130");
    let follower = world.start(&["attach", "--plain"]);
    kill("-INT", child.id());
    vmdeck_testkit::world::finish(child).exits(130);
    let told = vmdeck_testkit::world::finish(follower).exits(130);
    assert!(told.out.contains("smoke/long") && !told.out.contains('\u{1b}'), "{}", told.out);
    assert_all_gone(&world, tmux);
}

#[test]
fn a_light_terminal_gets_the_light_theme_and_what_is_chosen_stays() {
    let world = World::new(CASES);
    let light = Tmux::start(&world, 100, 30, LINE, &[("COLORFGBG", "0;15")]);
    light.see("local linux");
    light.keys(&["T"]);
    let themes = light.see("themes");
    assert!(themes.contains("▶ light"), "{themes}");
    light.keys(&["Down", "Enter"]);
    light.see("high-contrast is the theme from now on");
    light.keys(&["q"]);
    light.see("exit=0");
    drop(light);
    let again = Tmux::start(&world, 100, 30, LINE, &[]);
    again.see("local linux");
    again.keys(&["T"]);
    let themes = again.see("themes");
    assert!(themes.contains("▶ high-contrast"), "{themes}");
    drop(again);
    // Only ASCII is certain where the locale is not UTF-8.
    let ascii = Tmux::start(&world, 100, 30, LINE, &[("LC_ALL", "C")]);
    let screen = ascii.see("local linux");
    assert!(screen.is_ascii(), "{screen}");
    assert_all_gone(&world, ascii);
}

#[test]
fn a_first_start_leads_to_a_config_and_a_typo_is_told() {
    let world = World::new("");
    fs::remove_file(world.path("vmdeck.toml")).expect("removed");
    let tmux = Tmux::start(&world, 80, 24, LINE, &[]);
    tmux.see("welcome");
    tmux.keys(&["i"]);
    eventually("the config is written", PATIENCE, || world.path("vmdeck.toml").exists());
    tmux.see("machines");
    tmux.keys(&["q"]);
    tmux.see("exit=0");
    let world = World::new("[guests.here]\nbackend = \"local\"\n[keys]\nkil = [\"x\"]\nstop = [\"hyper-x\"]\n");
    world
        .run(&["config", "check"])
        .exits(2)
        .complains("vmdeck.toml:9: `keys.kil`: unknown key (did you mean `kill`?)")
        .complains("vmdeck.toml:10: `keys.stop`: `hyper-x` is not a key");
    world.run(&["replay", "nowhere"]).exits(2).complains("`nowhere` is neither the folder of a record");
}

#[test]
fn a_theme_is_read_again_when_it_is_changed_and_a_mistake_keeps_the_last() {
    let world = World::new(&format!("{CASES}[cockpit]\ntheme = \"mine\"\n"));
    let theme = world.path("config/vmdeck/themes/mine.toml");
    fs::create_dir_all(theme.parent().expect("folder")).expect("folder");
    fs::write(&theme, "inherits = \"dark\"\n").expect("theme");
    let tmux = Tmux::start(&world, 80, 24, LINE, &[("COLORTERM", "truecolor"), ("VMDECK_HOST_SLOTS", "3")]);
    tmux.see("local linux");
    fs::write(&theme, "inherits = \"dark\"\n[ui]\nborder = { fg = \"nocolour\" }\n").expect("theme");
    tmux.see("mine.toml:3");
    fs::write(&theme, "inherits = \"dark\"\n[ui]\ntitle = { fg = \"#010203\" }\n").expect("theme");
    let seen = |text: String| text.contains("1;2;3") || text.contains("38;5;16m");
    eventually("the new colour is seen", PATIENCE, || seen(tmux.styled()));
}

#[test]
fn a_record_is_replayed_in_the_terminal() {
    let world = World::new(CASES);
    world.ci(&[]).exits(1);
    let tmux = Tmux::start(&world, 100, 30, &LINE.replace("; echo", " replay record; echo"), &[]);
    tmux.see("replay of run");
    tmux.keys(&["F"]);
    tmux.see("1 failed");
    tmux.keys(&["5"]);
    tmux.keys(&["j", "j", "j"]);
    tmux.keys(&["Enter"]);
    tmux.see("looking");
    tmux.keys(&["q"]);
    tmux.see("exit=0");
}

// --- the screens in docs/screens -------------------------------------------------------------------------------------

/// Returns what differs from run to run, made the same. Widths stay, so that frames do.
fn settled(screen: &str) -> String {
    let mut out = String::new();
    for line in screen.lines() {
        // Which of its findings is the worst is this host's own.
        let line = if line.starts_with(" 3 preflight: ") { " 3 preflight: ..." } else { line };
        let chars: Vec<char> = line.chars().collect();
        let mut row = String::new();
        let mut at = 0;
        while at < chars.len() {
            let run: String = chars[at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '.').collect();
            let length = run.chars().count();
            let is_id = length >= 8 && run.chars().all(|c| c.is_ascii_hexdigit());
            let is_time = run.ends_with('s') && run.trim_end_matches('s').parse::<f64>().is_ok();
            if length > 0 {
                row.push_str(&if is_id {
                    "0".repeat(length)
                } else if is_time {
                    format!("{:.>width$}s", "", width = length - 1)
                } else {
                    run
                });
                at += length;
            } else {
                row.push(chars[at]);
                at += 1;
            }
        }
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out
}

/// Three guests that a script plays: one is good, one has a failure, one does not boot.
const SCRIPTED: &str = r#"
[cockpit]
pause = "0s"
[defaults]
backend = "fake"
launch_retries = 1
[defaults.boot]
pattern = "login:"
[guests.debian.fake]
console = ["Linux version 6.12.0-cloud-amd64", "systemd[1]: Reached target network-online.target", "debian login: "]
[guests.fedora.fake]
console = ["Linux version 6.14.0-63.fc43", "fedora login: "]
[guests.fedora.fake.replies]
"./check.sh --all" = "1 check: 41 passed | 0 check: 42 passed"
"./upgrade.sh" = "3 upgrade: the old settings are gone"
[guests.next-kernel]
boot_timeout = "5s"
[guests.next-kernel.fake]
fail = "panic"
console = ["Linux version 7.0.0-rc2", "VFS: Unable to mount root fs on unknown-block(0,0)"]
[guests.debian.fake.replies]
"./check.sh --all" = "0 check: 42 passed"
[suites.install]
[[suites.install.cases]]
name = "from-scratch"
run = "./install.sh"
[[suites.install.cases]]
name = "check"
run = "./check.sh --all"
retries = 1
[[suites.install.cases]]
name = "upgrade"
run = "./upgrade.sh"
[[suites.install.cases]]
name = "downgrade"
run = "./downgrade.sh"
skip = "only before a release"
"#;

/// The picture of the README: `docs/screens/cockpit.svg`, drawn of a scripted run.
#[test]
fn the_picture_in_the_readme_is_what_the_cockpit_shows() {
    let world = World::new(SCRIPTED);
    let (columns, rows) = (124, 32);
    let tmux = Tmux::start(&world, columns, rows, LINE, &[("COLORTERM", "truecolor"), ("VMDECK_HOST_SLOTS", "3")]);
    tmux.see("fake linux");
    // Machines of others on this host are no part of the picture.
    tmux.keys(&["/"]);
    tmux.keys(&["!vmdeck-", "Enter"]);
    // All three.
    tmux.keys(&["1", "A", "r"]);
    tmux.see(" 12/12 ");
    tmux.see("r run");
    // To the case that has failed, and its log.
    tmux.keys(&["5", "g"]);
    tmux.keys(&["j"; 10]);
    tmux.keys(&["Enter"]);
    // Its output was beside it already; now the keys are those of the log.
    tmux.see("/ search");
    tmux.see("the old settings are gone");
    // What is below tells of this host.
    let screen = tmux.screen();
    let end = screen.lines().position(|line| line.contains("2 lock")).expect("the lower panes");
    let upper = |screen: &str| -> String {
        let lines: Vec<&str> = screen.lines().collect();
        [&lines[..end], &lines[lines.len() - 1..]].concat().join("\n")
    };
    let text = natural(&upper(&screen));
    let rows = u16::try_from(text.lines().count()).expect("a screen");
    let now = picture::svg(&upper(&tmux.styled()), &text, columns, rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screens/cockpit.svg");
    if std::env::var("VMDECK_SCREENS").is_ok_and(|v| v == "write") {
        fs::write(&path, now).expect("written");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, now, "{} is out of date; `make screens` writes it:\n{text}", path.display());
}

/// Returns a screen with the same times and ids whenever it was made, as they could be.
fn natural(screen: &str) -> String {
    settled(screen).replace("....s", "12.4s").replace("...s", "1.2s").replace("00000000", "5f3a91c4")
}

/// A scripted run; `docs/screens/NAME.txt` must be what it shows. `VMDECK_SCREENS=write` writes them.
#[test]
fn the_screens_in_the_documentation_are_what_the_cockpit_shows() {
    let world = World::new(&format!("{CASES}[cockpit]\npause = \"0s\"\n"));
    let tmux = Tmux::start(&world, 100, 30, LINE, &[]);
    let mut screens: Vec<(&str, String)> = Vec::new();
    tmux.see("local linux");
    // Other machines of this host are no part of the picture.
    tmux.keys(&["/"]);
    tmux.keys(&["here", "Enter"]);
    tmux.keys(&["r"]);
    tmux.see("ended, exit 1");
    // The short message goes by itself.
    tmux.see("r run");
    tmux.keys(&["5"]);
    tmux.keys(&["j", "j", "j"]);
    tmux.keys(&["Enter"]);
    // Its output was beside it already; now the keys are those of the log.
    tmux.see("/ search");
    tmux.see("looking");
    screens.push(("run", tmux.screen()));
    tmux.keys(&["1"]);
    tmux.keys(&["?"]);
    tmux.see("find:");
    screens.push(("help", tmux.screen()));
    tmux.keys(&["Escape"]);
    tmux.keys(&[":"]);
    tmux.keys(&["rerun"]);
    tmux.see("find: rerun ");
    screens.push(("palette", tmux.screen()));
    tmux.keys(&["Escape"]);
    tmux.keys(&["C"]);
    tmux.see("nothing to clean up");
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screens");
    for (name, screen) in screens {
        let (path, now) = (folder.join(format!("{name}.txt")), settled(&screen));
        if std::env::var("VMDECK_SCREENS").is_ok_and(|v| v == "write") {
            fs::create_dir_all(&folder).expect("folder");
            fs::write(&path, now).expect("written");
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(kept, now, "{} is out of date; `make screens` writes it", path.display());
    }
}

/// At both sizes: a case that runs tests of its own shows how far they are and what has failed while they run, and each of them afterwards.
#[test]
fn a_real_guest_s_tests_are_counted_while_they_run() {
    let tap = "echo 1..6; for i in 1 2 3 4 5 6; do sleep 1; if [ $i = 3 ]; then echo not ok $i - third; echo '# expected 4, got 5'; else echo ok $i - t$i; fi; done; exit 1";
    for (columns, rows) in [(80, 24), (160, 50)] {
        let world = micro(&format!(
            "[suites.unit]\n[[suites.unit.cases]]\nname = \"all\"\nrun = '''{tap}'''\nresults = [\"tap\"]\n[cockpit]\npause = \"0s\"\n"
        ));
        let tmux = Tmux::start(&world, columns, rows, LINE, &[]);
        tmux.see("qemu linux");
        tmux.keys(&["5", "r"]);
        tmux.see("2 ok of 6");
        let running = tmux.see("3 ok, 1 failed of 6");
        assert!(running.contains("third"), "what failed has a row at once: {running}");
        tmux.see("exit 1: 1 of 6 tests failed");
        tmux.keys(&["5", "g", "Down", "Down", "Right"]);
        let all = tmux.see("t6");
        assert!(all.contains("t1") && all.contains("third"), "{all}");
        tmux.keys(&["Left", "F"]);
        tmux.see("expected 4, got 5");
        tmux.keys(&["q"]);
        tmux.see("exit=1");
        assert_all_gone(&world, tmux);
    }
}
