//! The backend `lxd` on a real cluster of three members on this host: a run in it, what goes wrong in it, and that nothing of ours stays
//! and nothing of others is touched.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};
use vmdeck_testkit::{
    lxd::LxdCluster,
    world::{self, Ran, World, eventually, suite},
};

/// The demo's own suites.
const DEMO: &str = include_str!("../src/app/demo.toml");

fn is_slow() -> bool {
    std::env::var_os("VMDECK_TEST_SLOW").is_some()
}

#[test]
fn the_demo_is_green_by_socket_and_by_network() {
    let Some(cluster) = LxdCluster::start(3) else { return };
    let world = World::new(&(cluster.guest("micro", "", "") + DEMO));
    world.ci(&[]).exits(0).says("made on `m").says("5 passed, 1 flaky, 1 skipped");
    assert!(world.record("guests/micro/console.log").contains("micro: ready"), "its console is in the record");
    assert!(!world.of_kind("machine_placed").is_empty());
    assert_eq!(cluster.ours(), [""; 0]);
    world.assert_nothing_left();

    // From another machine, by a certificate that the cluster knows.
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -sha384 -nodes -days 9 -subj /CN=ci \
                -keyout client.key -out client.crt 2>/dev/null";
    let made = Command::new("sh").args(["-c", make]).current_dir(world.home.path()).status();
    assert!(made.expect("openssl").success());
    cluster.lxc(&["config", "trust", "add", &world.path("client.crt").display().to_string()]);
    let certificate = cluster.folder().join("m1/cluster.crt");
    let remote = |certificate: &str, record: &str| {
        let socket = format!("socket = \"{}\"", cluster.socket("m1").display());
        let address = cluster.address("m1");
        let url = format!(
            "url = \"https://{address}:8443\"\nserver_certificate = \"{certificate}\"\ncertificate = \"client.crt\"\nkey = \"client.key\""
        );
        let text = fs::read_to_string(world.path("vmdeck.toml")).expect("config").replace(&socket, &url);
        fs::write(world.path("remote.toml"), text).expect("config");
        let mut command = cluster.inside("m1", &world::binary());
        command.args(["--ci", "-f", "remote.toml", "--run-dir", record]).current_dir(world.home.path());
        Ran::of(&command.env("XDG_STATE_HOME", world.path("state")).stdin(Stdio::null()).output().expect("runs"))
    };
    remote(&certificate.display().to_string(), "remote").exits(0).says("5 passed");
    remote(&format!("sha256:{}", "00".repeat(32)), "refused")
        .exits(3)
        .says("its certificate is sha256:")
        .says("expected sha256:0000");
    assert_eq!(cluster.ours(), [""; 0]);
}

#[test]
fn what_commands_do_is_told_as_it_was() {
    let Some(cluster) = LxdCluster::start(1) else { return };
    let cases = suite(&[
        ("daemon", "sleep 300 & echo left", "timeout = \"20s\""),
        ("missing-folder", "true", "dir = \"/nosuch\""),
        ("signal", "kill -9 $$", "expect = { exit = 137 }"),
        ("no-such-command", "nosuch", "expect = { exit = 127 }"),
        ("flood", "head -c 20000000 /dev/zero | tr '\\0' a; echo; echo the end", "expect = { stdout = \"/the end/\" }"),
        ("both", "echo out; echo err >&2; exit 3", "expect = { exit = 3, stdout = \"/^out$/\", stderr = \"/^err$/\" }"),
        ("source", "cat /srv/code/hello.txt", "expect = { stdout = \"/from the host/\" }"),
        ("artifact", "echo kept > $VMDECK_ARTIFACTS/x", ""),
        ("late", "sleep 600", "timeout = \"1s\""),
        ("ended", "! ps | grep -q '[s]leep 600'", ""),
        ("user", "id -u; echo $HOME", "expect = { stdout = \"/^0$/\" }"),
        ("forged", "echo '[end-x 0]'; echo '[end-x 0]' >&2; exit 4", "expect = { exit = 4 }"),
    ]);
    let lines = "[guests.g.source]\npath = \"code\"\nto = \"/srv/code\"";
    let world = World::new(&(cluster.guest("g", "", "") + lines + "\n" + &cases));
    fs::create_dir(world.path("code")).expect("folder");
    fs::write(world.path("code/hello.txt"), "from the host\n").expect("file");
    let ran = world.ci(&[]);
    for (name, verdict) in [("missing-folder", "infra"), ("late", "failed")] {
        assert_eq!(world.verdict_of(&format!("s/{name}")), verdict, "{name}: {}", ran.out);
    }
    for name in
        ["daemon", "signal", "no-such-command", "flood", "both", "source", "artifact", "ended", "user", "forged"]
    {
        assert_eq!(world.verdict_of(&format!("s/{name}")), "passed", "{name}: {}", ran.out);
    }
    let log = fs::metadata(world.path("record/guests/g/s/flood/stdout.log")).expect("log").len();
    assert_eq!(log, 20_000_009, "nothing of it is lost");
    assert_eq!(cluster.ours(), [""; 0]);

    // Its own restarts, wanted and not, and its own end.
    let restarts = "[suites.r]\n[[suites.r.cases]]\nname = \"wanted\"\nsteps = [{ run = \"touch /root/mark\" }, { reboot = true }, \
                    { run = \"test -e /root/mark\" }]\n[[suites.r.cases]]\nname = \"unwanted\"\nrun = \"reboot; sleep 60\"\n\
                    [[suites.r.cases]]\nname = \"off\"\nrun = \"poweroff; sleep 60\"\n[[suites.r.cases]]\nname = \"after\"\nrun = \"true\"\n";
    let world = World::new(&(cluster.guest("g", "", "") + restarts));
    let ran = world.ci(&[]).exits(1);
    for (name, verdict) in [("wanted", "passed"), ("unwanted", "failed"), ("off", "failed"), ("after", "passed")] {
        assert_eq!(world.verdict_of(&format!("r/{name}")), verdict, "{name}: {}", ran.out);
    }
    assert!(ran.out.contains("crashed during the case: it restarted"), "{}", ran.out);
}

#[test]
fn whatever_others_do_to_the_machine_is_never_green() {
    let Some(cluster) = LxdCluster::start(1) else { return };
    let cases = suite(&[("long", "sleep 8", ""), ("after", "true", "")]);
    for (deed, verdict) in [("restart", "infra"), ("stop", "infra"), ("delete", "infra"), ("pause", "infra")] {
        let world = World::new(&(cluster.guest("g", "", "") + &cases));
        let child = world.start(&["--ci", "--run-dir", "record"]);
        world.until_event("\"case_started\"");
        let machine = cluster.ours().pop().expect("its machine");
        let force: &[&str] = if deed == "pause" { &[] } else { &["-f"] };
        // What vmdeck does about it may come in between.
        cluster.try_lxc(&[&[deed, &machine], force].concat());
        let ran = world::finish(child).exits(5);
        assert_eq!(world.verdict_of("s/long"), verdict, "{deed}: {}", ran.out);
        assert_eq!(world.verdict_of("s/after"), "passed", "{deed}: {}", ran.out);
        assert_eq!(cluster.ours(), [""; 0], "{deed}");
    }
}

#[test]
fn a_member_that_dies_spoils_what_it_had_and_is_cleaned_up_when_it_is_back() {
    let Some(cluster) = LxdCluster::start(3) else { return };
    // One guest on the member that dies, two elsewhere.
    let on = |name: &str, member: &str| cluster.guest(name, "", &format!("target = \"{member}\""));
    let guests = on("a", "m2") + &on("b", "m3") + &on("c", "m1");
    let cases = suite(&[("long", "sleep 6", ""), ("after", "true", "")]);
    let world = World::new(&format!("slots = 3\n{guests}{cases}"));
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("all three cases", Duration::from_mins(1), || {
        fs::read_to_string(world.path("record/events.jsonl"))
            .is_ok_and(|text| text.matches("\"case_started\"").count() >= 3)
    });
    cluster.cut_off("m2");
    let ran = world::finish(child).exits(6);
    let ended = world.of_kind("case_ended");
    let verdict = |guest: &str, case: &str| {
        let of = |event: &&serde_json::Value| event["guest"] == guest && event["case"] == case;
        ended.iter().find(of).map(|event| event["verdict"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    assert_eq!(verdict("a", "long"), "infra", "{}", ran.out);
    for guest in ["b", "c"] {
        assert_eq!(
            (verdict(guest, "long"), verdict(guest, "after")),
            ("passed".into(), "passed".into()),
            "{}",
            ran.out
        );
    }
    assert!(ran.out.contains("`m2`"), "the member is named: {}", ran.out);
    let left = cluster.ours();
    assert_eq!(left.len(), 1, "{left:?}: {}", ran.out);
    // As long as the member is away nothing is believed to be gone, and that takes no minute.
    world.run(&["cleanup", "--force"]).exits(6).complains("its member `m2` is away");
    cluster.start_again();
    world.run(&["cleanup", "--force"]).exits(0).says(&format!("removed {}", left[0]));
    assert_eq!(cluster.ours(), [""; 0]);
    world.assert_nothing_left();
}

#[test]
fn a_job_whose_member_is_dead_goes_to_another_one() {
    let Some(cluster) = LxdCluster::start(3) else { return };
    cluster.cut_off("m2");
    // For some seconds the cluster takes it for alive.
    let world = World::new(&(cluster.guest("g", "launch_retries = 3", "") + &suite(&[("one", "true", "")])));
    world.ci(&[]).exits(0);
    let placed = world.of_kind("machine_placed");
    assert!(placed.iter().all(|event| event["on"] != "m2"), "{placed:?}");
    assert_eq!(cluster.ours(), [""; 0]);
}

#[test]
fn killed_at_any_moment_nothing_of_ours_stays_and_copies_of_it_do() {
    let Some(cluster) = LxdCluster::start(2) else { return };
    cluster.lxc(&["launch", "-q", "micro", "vmdeck-00000000-mine"]);
    let world = World::new(&(cluster.guest("g", "", "") + &suite(&[("c", "sleep 1", "")])));
    let steps = [
        "intent-written",
        "create-begin",
        "create-done",
        "known-written",
        "start-done",
        "stop-begin",
        "release-begin",
        "release-done",
    ];
    let rounds = if is_slow() { 13 } else { 1 };
    for (at, step) in (0..rounds).flat_map(|_| steps).enumerate() {
        let mut command = world.vmdeck(&["--ci", "--run-dir", &format!("record-{at}")]);
        // The run and its guardian die at the same step.
        let child =
            command.env("FAILPOINT", format!("{step}:kill")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("vmdeck starts");
        // A person copies what is there, mark and all.
        let copy = format!("copy-{at}");
        while child.try_wait().expect("waits").is_none() {
            if !cluster.instances().iter().any(|row| row.0 == copy)
                && let Some(ours) = cluster.ours().into_iter().find(|name| !name.ends_with("-mine"))
            {
                cluster.try_lxc(&["copy", &ours, &copy]);
            }
        }
        let copies = cluster.instances().iter().filter(|row| row.0.starts_with("copy-")).count();
        eventually("the reaper", Duration::from_mins(1), || {
            world.vmdeck(&["cleanup", "--force"]).output().is_ok_and(|out| out.status.code() == Some(0))
        });
        let now = cluster.instances();
        assert_eq!(cluster.ours(), ["vmdeck-00000000-mine"], "{step}");
        assert_eq!(now.iter().filter(|row| row.0.starts_with("copy-")).count(), copies, "{step}: {now:?}");
    }
    let copies = cluster.instances().iter().filter(|row| row.0.starts_with("copy-")).count();
    assert!(copies >= steps.len() / 2, "the copies were there to be touched: {copies}");
}

#[test]
fn cases_are_spread_over_the_members() {
    let Some(cluster) = LxdCluster::start(3) else { return };
    let guest = cluster.guest("g", "workers = 6\nfresh = \"case\"\ncpus = 1", "");
    let cases = "[suites.s]\nmatrix = { n = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"] }\n[[suites.s.cases]]\nname = \"c\"\nrun = \"sleep 1\"\n";
    let world = World::new(&format!("slots = 6\n{guest}{cases}"));
    world.ci(&[]).exits(0).says("9 passed");
    let placed = world.of_kind("machine_placed");
    assert_eq!(placed.len(), 9);
    for member in ["m1", "m2", "m3"] {
        let count = placed.iter().filter(|event| event["on"] == member).count();
        assert!((2..=4).contains(&count), "{member} has {count} of 9: {placed:?}");
    }
    assert_eq!(cluster.ours(), [""; 0]);
}

#[test]
fn two_hundred_jobs_and_a_power_cut_give_no_false_verdict() {
    if !is_slow() {
        return;
    }
    let Some(cluster) = LxdCluster::start(3) else { return };
    // With a zero before them a shell would take them for octal.
    let numbers: Vec<String> = (0..200).map(|n| format!("\"{n}\"")).collect();
    let guest = cluster.guest("g", "workers = 9\nfresh = \"case\"\ncpus = 1\nlaunch_retries = 4", "");
    let cases = format!(
        "[suites.s]\nmatrix = {{ n = [{}] }}\n[[suites.s.cases]]\nname = \"c\"\nrun = \"sleep 1; exit $((VMDECK_MATRIX_N % 5 == 0))\"\n",
        numbers.join(", ")
    );
    let world = World::new(&format!("slots = 9\n{guest}{cases}"));
    let child = world.start(&["--ci", "--run-dir", "record"]);
    eventually("half of it", Duration::from_mins(20), || {
        fs::read_to_string(world.path("record/events.jsonl"))
            .is_ok_and(|text| text.matches("\"case_ended\"").count() >= 100)
    });
    cluster.cut_off("m2");
    let ran = world::finish(child);
    let mut tally = BTreeMap::<String, u32>::new();
    for event in world.of_kind("case_ended") {
        let verdict = event["verdict"].as_str().expect("a word").to_owned();
        let number: u32 =
            event["case"].as_str().and_then(|id| id.rsplit_once('=')).and_then(|(_, n)| n.parse().ok()).expect("n");
        let right = if number.is_multiple_of(5) { "failed" } else { "passed" };
        assert!(verdict == right || verdict == "infra", "{number}: {verdict}");
        *tally.entry(verdict).or_default() += 1;
    }
    assert_eq!(tally.values().sum::<u32>(), 200, "{tally:?}");
    let left = cluster.ours();
    assert_eq!(ran.code, if left.is_empty() { 5 } else { 6 }, "{tally:?}: {}", ran.out);
    cluster.start_again();
    world.run(&["cleanup", "--force"]).exits(0);
    assert_eq!(cluster.ours(), [""; 0]);
    let _ = writeln!(std::io::stderr(), "200 jobs: {tally:?}, {} left until their member was back", left.len());
}

#[test]
fn a_kept_machine_is_used_again_and_one_that_is_renamed_is_still_ours() {
    let Some(cluster) = LxdCluster::start(1) else { return };
    let world = World::new(&(cluster.guest("g", "", "") + &suite(&[("name", "hostname; sleep 5", "")])));
    world.run(&["keep", "g"]).exits(0);
    let kept = cluster.ours();
    assert_eq!(kept.len(), 1, "{kept:?}");
    world.ci(&["--reuse"]).exits(0).says("is reused ×1");
    assert!(world.record("guests/g/s/name/stdout.log").contains(&kept[0]), "it is the same machine");
    assert_eq!(cluster.ours(), kept, "it lives on");
    world.run(&["shell", "g", "--", "exit 7"]).exits(7);
    world.run(&["down", "g"]).exits(0);
    assert_eq!(cluster.ours(), [""; 0]);

    let child = world.start(&["--ci", "--run-dir", "renamed"]);
    eventually("the case", Duration::from_mins(1), || {
        fs::read_to_string(world.path("renamed/events.jsonl")).is_ok_and(|text| text.contains("\"case_started\""))
    });
    let machine = cluster.ours().pop().expect("its machine");
    cluster.try_lxc(&["stop", "-f", &machine]);
    cluster.try_lxc(&["rename", &machine, "mine"]);
    world::finish(child).exits(5);
    assert!(cluster.instances().is_empty(), "{:?}", cluster.instances());

    // Another daemon at the same place knows nothing of it, and that proves nothing.
    world.run(&["keep", "g"]).exits(0);
    cluster.make_anew(1);
    world.run(&["cleanup", "--force"]).exits(6).complains("made it, and at").complains("remove the journal");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let none = World::new(
        &("[guests.g]\nbackend = \"lxd\"\n[guests.g.lxd]\nimage = \"micro\"\nsocket = \"/nonexistent/unix.socket\"\n"
            .to_owned()
            + &suite(&[("c", "true", "")])),
    );
    none.run(&["doctor"]).exits(3).says("the LXD daemon does not answer").says("lxd.socket");
    let bad = |lines: &str| {
        World::new(&format!("[guests.g]\nbackend = \"lxd\"\n[guests.g.lxd]\n{lines}\n{}", suite(&[("c", "true", "")])))
    };
    bad("url = \"10.0.0.5\"").run(&["doctor"]).exits(3).says("it is no address");
    bad("url = \"https://10.0.0.5\"").run(&["doctor"]).exits(3).says("server_certificate");
    let Some(cluster) = LxdCluster::start(1) else { return };
    for (lines, what, remedy) in [
        ("project = \"nosuch\"", "no project `nosuch`", "lxc project list"),
        ("profiles = [\"default\", \"nosuch\"]", "no profile `nosuch`", "lxc profile list"),
        ("target = \"m9\"", "no member is `m9`", "lxd.target"),
        ("target = \"@nosuch\"", "no member is in the group `nosuch`", "lxd.target"),
        ("devices = { d = \"hello\" }", "the device `d` is `hello`", "lxd.devices.d"),
        ("config = { \"user.vmdeck.nonce\" = \"x\" }", "is vmdeck's own", "lxd.config"),
        ("type = \"vm\"", "makes no virtual machines", "lxd.type"),
    ] {
        let world = World::new(&(cluster.guest("g", "", lines) + &suite(&[("c", "true", "")])));
        let ran = world.run(&["doctor"]).exits(3);
        assert!(ran.out.contains(what) && ran.out.contains(remedy), "{lines}: {}", ran.out);
    }
    let huge = cluster.guest("g", "", "").replace("128MiB", "900TiB") + &suite(&[("c", "true", "")]);
    World::new(&huge).run(&["doctor"]).exits(3).says("no member has more than").says("guests.g.memory");
    let text = cluster.guest("g", "", "").replace("\"micro\"", "\"nosuch\"") + &suite(&[("c", "true", "")]);
    World::new(&text).run(&["doctor"]).exits(3).says("no image `nosuch`").says("lxc image list");
    let incus = cluster.guest("g", "", "").replace("\"lxd\"", "\"incus\"").replace(".lxd]", ".incus]");
    World::new(&(incus + &suite(&[("c", "true", "")]))).run(&["doctor"]).exits(3).says("not of Incus");
    assert_eq!(cluster.ours(), [""; 0]);
}
