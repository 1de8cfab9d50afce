//! `vmdeck init` as a user meets it: in a project, at a terminal, with the config of another tool, and with `--check`.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};
use vmdeck_testkit::world::World;

/// Returns a folder without a config.
fn empty() -> World {
    let world = World::new("");
    fs::remove_file(world.path("vmdeck.toml")).expect("removed");
    world
}

fn config(world: &World) -> String {
    fs::read_to_string(world.path("vmdeck.toml")).expect("the config")
}

#[test]
fn a_project_of_each_kind_gets_a_config_that_checks() {
    for (name, content, test) in [
        ("Cargo.toml", "[package]\nname = \"x\"\nedition = \"2024\"\n", "cargo test"),
        ("go.mod", "module x\n", "go test ./..."),
        ("package.json", "{\"scripts\": {\"test\": \"x\"}}", "npm test"),
        ("pyproject.toml", "[project]\nname = \"x\"\n", "python3 -m pytest"),
        ("Makefile", "check: all\n", "make check"),
    ] {
        let world = empty();
        fs::write(world.path(name), content).expect("written");
        let ran = world.run(&["init", "--yes"]).exits(0).says("wrote vmdeck.toml");
        // A test that is not run is said to be none.
        assert_eq!(
            ran.err.contains("only proposed"),
            !config(&world).contains(&format!("\nrun = \"{test}\"")),
            "{}",
            ran.err
        );
        assert!(config(&world).contains(test), "{}", config(&world));
        world.run(&["config", "check"]).exits(0);
        // What was named is what is run.
        for image in ["host", "fedora:43", "https://x.invalid/y.qcow2"] {
            let kind = if name == "Cargo.toml" { "rust" } else { "plain" };
            world.run(&["init", "--yes", "--force", "--image", image, "--template", kind]).exits(0);
            assert_eq!(config(&world).contains("\nrun = \"cargo test\""), kind == "rust", "{}", config(&world));
            world.run(&["config", "check"]).exits(0).says("1 guest, 1 suite");
        }
    }
    let world = empty();
    world.run(&["init", "--template", "cobol"]).exits(2).complains("possible values: make, rust, go, node");
    world.run(&["init", "--image", "none.qcow2"]).exits(2).complains("a name such as debian:12");
    for (words, said) in [
        (&["--image", "debian:99"][..], "has no version `99`"),
        (&["--image", "windows:11"], "no image is called `windows`"),
        (&["--image", "ftp://x/y"], "no address of the kind https"),
        (&["--image", "http://x/y"], "no address of the kind https"),
        (&["--image", "https://x/y", "--sha256", "abc"], "64 (SHA-256)"),
        (&["--image", "host", "--sha256", "abc"], "only an image that is fetched"),
        (&["--sha256", "abc"], "goes with --image"),
        (&["--test", " "], "the command does nothing"),
        (&["--test", "# x"], "the command does nothing"),
    ] {
        world.run(&[&["init", "--yes"], words].concat()).exits(2).complains(said);
    }
    assert!(!world.path("vmdeck.toml").exists());
    world.run(&["init", "--yes", "-f", "other.toml"]).exits(0).says("wrote other.toml");
    assert!(world.path("other.toml").exists() && !world.path("vmdeck.toml").exists());
}

#[test]
fn the_configs_of_other_tools_are_taken_over_with_what_they_lack() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversions");
    for (from, note) in [
        ("spread/basic", "note: backend `lxd` (lxd): its systems are guests in QEMU here"),
        ("spread/matrix/spread.yaml", "BUILD_ID"),
        ("tmt/tree", "`adjust` of the plan `/plans/full`"),
        ("kitchen/shell/kitchen.yml", "runs on this host"),
        ("vagrant/multi/Vagrantfile", "a Vagrantfile has no tests"),
        ("framework/new/qemu.config.json", "GUEST_ROOT_PASSWORD"),
    ] {
        let world = empty();
        world.run(&["init", "--from", &format!("{samples}/{from}")]).exits(0).complains(note).says("made from");
        world.run(&["config", "check"]).exits(0);
        // What was said is in the file as well.
        assert!(config(&world).contains("# Not taken over, or to be looked at:"), "{}", config(&world));
        world.run(&["init", "--from", &format!("{samples}/{from}")]).exits(2).complains("--force");
    }
    let world = empty();
    world.run(&["init", "--from", "nowhere"]).exits(2).complains("there is no such file");
    world.run(&["init", "--from", "x", "--image", "host"]).exits(2).complains("cannot be used with");
}

/// Without QEMU the only guest is this host; it is run once, and its exit code is the run's.
#[test]
fn a_new_config_can_be_run_at_once() {
    for (rule, exit, said) in [("exit 0", 0, "2 passed"), ("exit 3", 1, "1 failed")] {
        let mut world = empty();
        fs::write(world.path("Makefile"), format!("check:\n\t{rule}\n")).expect("written");
        let bin = world.path("bin");
        fs::create_dir(&bin).expect("made");
        for tool in ["make", "sh", "bash", "uname", "env", "setsid", "sleep", "cat", "mkdir", "rm", "tar"] {
            if let Some(path) =
                ["/usr/bin", "/bin"].iter().map(|d| format!("{d}/{tool}")).find(|p| fs::exists(p).is_ok_and(|is| is))
            {
                std::os::unix::fs::symlink(path, bin.join(tool)).expect("link");
            }
        }
        world.env.push(("PATH".into(), bin.display().to_string()));
        let ran = world.run(&["init", "--yes", "--check"]).exits(exit).says(said);
        assert!(ran.out.contains("NOT isolated: QEMU is not installed"), "{}", ran.out);
        world.assert_nothing_left();
    }
}

/// What has a command for it is mended by that, after a yes.
#[test]
fn doctor_mends_what_it_can() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(
        "[guests.d]\nbackend = \"qemu\"\n[guests.d.qemu]\nkernel = \"k\"\n[guests.d.ssh]\nkey = \"a key\"\n",
    );
    fs::write(world.path("k"), "").expect("written");
    fs::write(world.path("a key"), "").expect("written");
    fs::set_permissions(world.path("a key"), fs::Permissions::from_mode(0o644)).expect("set");
    world.run(&["doctor"]).exits(3).says("others can read the key").says("`vmdeck doctor --fix`");
    let json = world.run(&["doctor", "--json"]).exits(3).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("json");
    let key = world.path("a key").display().to_string();
    let fix = json["findings"].as_array().expect("list").iter().find_map(|finding| finding.get("fix")).expect("a fix");
    assert_eq!(*fix, serde_json::json!(["chmod", "600", "--", key]));
    world.run(&["doctor", "--fix"]).exits(2).complains("use --yes to run them");
    world
        .run(&["doctor", "--fix", "--yes"])
        .exits(0)
        .says(&format!("$ chmod 600 -- '{key}'"))
        .says("this host is ready");
    assert_eq!(fs::metadata(world.path("a key")).expect("key").permissions().mode() & 0o777, 0o600);
    world.run(&["doctor", "--fix", "--yes"]).exits(0).says("nothing here is mended by a command");
}

/// At a terminal: each question has an answer that Enter takes; a wrong number is asked for again.
#[test]
fn a_person_is_asked_and_enter_takes_what_is_proposed() {
    for (typed, run) in
        [("\n\nn\n", Some("make check")), ("99\n1\n./mine.sh\nn\n", Some("./mine.sh")), ("1\n-\nn\n", None)]
    {
        let world = empty();
        fs::write(world.path("Makefile"), "check:\n").expect("written");
        let line = format!("exec {} init", env!("CARGO_BIN_EXE_vmdeck"));
        let mut child = Command::new("timeout")
            .args(["-s", "KILL", "30", "script", "-qec", &line, "/dev/null"])
            .current_dir(world.path("."))
            .envs(world.env.clone())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script");
        child.stdin.take().expect("pipe").write_all(typed.as_bytes()).expect("typed");
        let out = child.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("What shall the tests run in?"), "{said}");
        let config = config(&world);
        match run {
            Some(run) => assert!(config.contains(&format!("run = \"{run}\"")), "{config}"),
            None => assert!(!config.contains("make check"), "{config}"),
        }
    }
}
