//! The `ssh` transport against OpenSSH's own server on loopback: another login shell, another way to end channels.
//!
//! The "machine" is a `local` guest whose `ssh.host` is this host; sshd runs as whoever runs the test.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use vmdeck_testkit::sshd::{self, Server};
use vmdeck_testkit::world::{Ran, World, eventually, finish, read_until, signal};

struct Sshd {
    _server: Server,
    world: World,
}

/// Returns a server with keys of its own, and a guest that reaches it.
fn sshd(suites: &str) -> Sshd {
    let port = sshd::free_port("127.0.0.1");
    let user = sshd::user();
    let world = World::new(&format!(
        "[guests.here]\nbackend = \"local\"\ntransports = [\"ssh\"]\nlaunch_retries = 1\nboot_timeout = \"20s\"\n\
         [guests.here.ssh]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{user}\"\nkey = \"user_key\"\nhost_key = \"host_key.pub\"\n{suites}"
    ));
    let server = Server::start(&world, "", "127.0.0.1", port);
    Sshd { _server: server, world }
}

#[test]
fn statuses_streams_environment_and_signals_come_through() {
    let server = sshd(
        "[suites.s]\nenv = { WORDS = \"it's $HOME\" }\ndir = \"/\"\n\
         [[suites.s.cases]]\nname = \"both\"\nrun = \"pwd; echo \\\"$WORDS\\\"; echo err >&2; exit 7\"\nexpect = { exit = 7 }\n\
         [[suites.s.cases]]\nname = \"killed\"\nrun = \"kill -SEGV $$\"\n\
         [[suites.s.cases]]\nname = \"many\"\nrun = \"head -c 20000000 /dev/zero\"\n\
         [[suites.s.cases]]\nname = \"missing\"\nrun = \"no-such-command-here\"\nexpect = { exit = 127 }\n",
    );
    let world = &server.world;
    world.ci(&[]).exits(1).says("killed by SIGSEGV");
    assert_eq!(world.record("guests/here/s/both/stdout.log"), "/\nit's $HOME\n");
    assert_eq!(world.record("guests/here/s/both/stderr.log"), "err\n");
    assert_eq!(fs::metadata(world.path("record/guests/here/s/many/stdout.log")).expect("log").len(), 20_000_000);
    for (case, verdict) in [("s/both", "passed"), ("s/killed", "failed"), ("s/many", "passed"), ("s/missing", "passed")]
    {
        assert_eq!(world.verdict_of(case), verdict, "{case}");
    }
    assert_eq!(world.json("summary.json")["tally"]["passed"], 3);
    world.assert_nothing_left();
}

#[test]
fn code_goes_in_and_artifacts_come_out() {
    let server = sshd(
        "[suites.s]\nartifacts = [\"out/*\"]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"mkdir out && cp a.txt 'out/b c'\"\n",
    );
    let world = &server.world;
    fs::create_dir(world.path("app")).expect("mkdir");
    fs::write(world.path("app/a.txt"), "content").expect("write");
    let to = world.path("in/deep");
    let source = format!("guests.here.source={{ path = \"app\", to = \"{}\" }}", to.display());
    world.ci(&["--set", &source]).exits(0);
    assert_eq!(world.record("artifacts/here/s/out/b c"), "content");
}

#[test]
fn cancelling_and_time_outs_end_the_whole_tree() {
    let server = sshd(
        "[suites.s]\n[[suites.s.cases]]\nname = \"slow\"\nrun = \"(trap '' TERM; sleep 81.25) & sleep 81.25; echo next\"\ntimeout = \"2s\"\n\
         [[suites.s.cases]]\nname = \"long\"\nrun = \"echo begun; sleep 82.25\"\n",
    );
    let world = &server.world;
    let mut child = world.start(&["--ci", "--verbose", "--run-dir", "record"]);
    read_until(&mut child, "| begun");
    signal(&child, "INT");
    finish(child).exits(130);
    assert_eq!((world.verdict_of("s/slow"), world.verdict_of("s/long")), ("failed".into(), "cancelled".into()));
    let sleeping = || {
        let all =
            fs::read_dir("/proc").expect("proc").flatten().filter_map(|e| fs::read(e.path().join("cmdline")).ok());
        all.filter(|line| line.starts_with(b"sleep\x0081.25") || line.starts_with(b"sleep\x0082.25")).count()
    };
    eventually("the end of every sleep", Duration::from_secs(5), || sleeping() == 0);
}

#[test]
fn a_changed_host_key_is_refused_before_anything_is_sent() {
    let server = sshd("[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n");
    let world = &server.world;
    let other =
        Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-N", "", "-f"]).arg(world.path("other")).status();
    assert!(other.expect("ssh-keygen").success());
    world.ci(&["--set", "guests.here.ssh.host_key=other.pub"]).exits(5).says("no credential was sent");
    let shell = world.vmdeck(&["shell", "here", "--", "echo", "reached"]).output().expect("ran");
    Ran::of(&shell).exits(0).says("reached").complains("removed here (verified)");
}

#[test]
fn a_server_that_dies_in_mid_case_is_infra() {
    let server = sshd("[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"kill -9 $PPID; sleep 20\"\n");
    server.world.ci(&[]).exits(5).says("the connection was lost");
    assert_eq!(server.world.verdict_of("s/a"), "infra");
}

/// Passes connections on to a port, and counts the bytes that come back from there.
fn counted(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let own = listener.local_addr().expect("address").port();
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).expect("sshd");
            let ends = |stream: &TcpStream| stream.try_clone().expect("clone");
            let (mut up, mut into, mut down, mut out) = (ends(&client), ends(&server), ends(&server), client);
            std::thread::spawn(move || std::io::copy(&mut up, &mut into));
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || {
                let mut piece = [0; 16 * 1024];
                while let Ok(length @ 1..) = down.read(&mut piece) {
                    counter.fetch_add(length as u64, Ordering::Relaxed);
                    if out.write_all(&piece[..length]).is_err() {
                        break;
                    }
                }
                let _ = out.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (own, count)
}

#[test]
fn a_compressed_connection_carries_the_same_in_fewer_bytes() {
    let server = sshd("[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"seq 1000000\"\n");
    let world = &server.world;
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let line = config.lines().find(|line| line.starts_with("port = ")).expect("port").to_owned();
    let (port, count) = counted(line["port = ".len()..].parse().expect("a number"));
    let mut seen = Vec::new();
    for compression in ["false", "true"] {
        let _ = fs::remove_dir_all(world.path("record"));
        let before = count.load(Ordering::Relaxed);
        let set = [format!("guests.here.ssh.port={port}"), format!("guests.here.ssh.compression={compression}")];
        world.ci(&["--set", &set[0], "--set", &set[1]]).exits(0);
        assert!(world.record("guests/here/s/a/stdout.log").ends_with("\n999999\n1000000\n"));
        seen.push(count.load(Ordering::Relaxed) - before);
    }
    assert!(seen[0] > 6_888_896, "all of it: {seen:?}");
    assert!(seen[1] < seen[0] / 2, "{seen:?}");
}

/// Two hosts that know nothing of each other: the machine itself keeps their runs apart, whatever ends the first.
#[test]
fn a_machine_is_locked_against_the_runs_of_other_hosts() {
    let port = sshd::free_port("127.0.0.1");
    let user = sshd::user();
    let host = |keys: &Path, run: &str| {
        let key = |name: &str| keys.join(name).display().to_string();
        World::new(&format!(
            "[guests.board]\nbackend = \"remote\"\naddress = \"127.0.0.1\"\ntransports = [\"ssh\"]\n\
             [guests.board.ssh]\nport = {port}\nuser = \"{user}\"\nkey = \"{}\"\nhost_key = \"{}\"\n\
             [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = '{run}'\n",
            key("user_key"),
            key("host_key.pub"),
        ))
    };
    let (home, signs) = (World::new(""), tempfile::tempdir().expect("tempdir"));
    let _server = Server::start(&home, "", "127.0.0.1", port);
    let (here, go) = (signs.path().join("here"), signs.path().join("go"));
    let holds = format!("touch {}; until [ -e {} ]; do sleep 0.1; done", here.display(), go.display());
    for kill in [false, true] {
        let (first, second) = (host(&home.path(""), &holds), host(&home.path(""), "true"));
        let _ = (fs::remove_file(&here), fs::remove_file(&go));
        let one = first.start(&["--ci", "--run-dir", "record"]);
        eventually("the first run's case", Duration::from_secs(30), || here.exists());
        let mut two = second.start(&["--ci", "--run-dir", "record"]);
        let said = read_until(&mut two, "waiting for another run that uses this machine");
        assert!(said.contains("guest `board`"), "{said}");
        if kill {
            signal(&one, "KILL");
        } else {
            fs::write(&go, "").expect("written");
        }
        assert_eq!(finish(one).code, if kill { -9 } else { 0 });
        finish(two).exits(0);
        fs::write(&go, "").expect("written");
    }
    let world = host(&home.path(""), "true");
    let ran = world.ci(&["--set", "guests.board.remote.lock=false"]).exits(0);
    assert!(!ran.out.contains("lock"), "{}", ran.out);
}

/// A machine that lives on has the code of the last run: only what has changed is sent, and everything where it was touched.
#[test]
fn a_machine_that_lives_on_gets_only_what_has_changed() {
    let port = sshd::free_port("127.0.0.1");
    let user = sshd::user();
    let world = World::new(&format!(
        "[guests.here]\nbackend = \"remote\"\naddress = \"127.0.0.1\"\ntransports = [\"ssh\"]\nlaunch_retries = 1\n\
         [guests.here.ssh]\nport = {port}\nuser = \"{user}\"\nkey = \"user_key\"\nhost_key = \"host_key.pub\"\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"cat a b d/c\"\n"
    ));
    let _server = Server::start(&world, "", "127.0.0.1", port);
    let (app, there) = (world.path("app"), world.path("in/deep"));
    fs::create_dir_all(app.join("d")).expect("mkdir");
    let put = |name: &str, text: &str| fs::write(app.join(name), text).expect("write");
    for n in 0..20 {
        put(&format!("f{n}"), "x");
    }
    put("a", "1\n");
    put("b", "2\n");
    put("d/c", "3\n");
    let source = format!("guests.here.source={{ path = \"app\", to = \"{}\" }}", there.display());
    let run = |said: &str, wanted: &str| {
        let record = format!("record-{}", fastrand::u64(..));
        let ran = world.run(&["--ci", "--run-dir", &record, "--events", "-", "--set", &source]).exits(0);
        assert_eq!(ran.out.contains("files had changed"), !said.is_empty(), "{}", ran.out);
        assert!(ran.out.contains(said), "{said}: {}", ran.out);
        let log = fs::read_to_string(world.path(&record).join("guests/here/s/a/stdout.log")).expect("log");
        assert_eq!(log, wanted);
    };
    run("", "1\n2\n3\n");
    run("0 of 23 files had changed", "1\n2\n3\n");
    put("b", "two\n");
    put("new", "x");
    fs::remove_file(app.join("f3")).expect("removed");
    run("3 of 23 files had changed", "1\ntwo\n3\n");
    assert!(there.join("new").exists() && !there.join("f3").exists());
    // Whatever a test has left there is no part of the next run.
    fs::write(there.join("result.xml"), "old").expect("write");
    run("", "1\ntwo\n3\n");
    assert!(!there.join("result.xml").exists());
    fs::write(there.join("a"), "9\n").expect("write");
    run("", "1\ntwo\n3\n");
    run("0 of 23 files had changed", "1\ntwo\n3\n");
}

#[test]
fn a_guest_that_hangs_with_its_connection_open_is_infra_in_time() {
    // The case stops the server's process of this very connection: nothing answers any more, and nothing is closed.
    let server = sshd(
        "[suites.s]\ntimeout = \"60s\"\n[[suites.s.cases]]\nname = \"hangs\"\nrun = \"echo begun; kill -STOP $PPID; sleep 50\"\n",
    );
    let started = std::time::Instant::now();
    server.world.ci(&["--set", "guests.here.ssh.keep_alive=1s"]).exits(5);
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    assert_eq!(server.world.verdict_of("s/hangs"), "infra");
    let Sshd { _server: server, .. } = server;
    server.kill_with_its_connections();
}
