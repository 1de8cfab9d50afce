//! A secret that comes back from a guest: it is on no surface but the raw console log, whatever happens to the guest.

use std::{fs, path::Path};
use vmdeck_testkit::world::{World, finish};

/// The secret; it is written to no other place.
const CANARY: &str = "canary-7f3a91c2";

/// Returns every file below a folder that holds the secret.
fn leaks(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            out.extend(leaks(&path));
        } else if !name.starts_with("console")
            && String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).contains(CANARY)
        {
            out.push(path.display().to_string());
        }
    }
    out
}

/// Returns a guest whose console shows the secret at every turn: before the boot, in a warning, in an error, at the prompt.
fn world(more: &str) -> World {
    World::new(&format!(
        "[guests.g]\nbackend = \"fake\"\nlaunch_retries = 2\nboot_timeout = \"500ms\"\n{more}\n\
         [guests.g.ssh]\npassword = {{ env = \"CANARY\" }}\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"a\"\n"
    ))
}

fn console(last: &str) -> String {
    let lines = ["Linux version 6", "token {}", "WARNING: {} at x", last].map(|line| line.replace("{}", CANARY));
    format!("fake.console = {lines:?}\nfake.boot = \"50ms\"")
}

#[test]
fn a_secret_on_the_console_is_on_no_other_surface() {
    let cases = [
        ("a good boot", console("{} login: "), 0, "a = \"0\""),
        ("a case that prints it", console("login: "), 1, &*format!("a = \"1 {CANARY}\"")),
        ("a boot that ends in a panic", console("Kernel panic - {}") + "\nfake.fail = \"boot\"", 5, "a = \"0\""),
        ("a boot that never ends", console("{} waits") + "\nfake.fail = \"boot\"", 5, "a = \"0\""),
        ("a machine that dies", console("{} login: ") + "\nfake.fail = \"panic\"", 5, "a = \"0\""),
    ];
    for (what, guest, code, replies) in cases {
        let world =
            world(&format!("{guest}\nboot.pattern = \"/login|waits|panic/\"\n[guests.g.fake.replies]\n{replies}"));
        let mut command = world.vmdeck(&["--ci", "--verbose", "--run-dir", "record", "--junit", "junit.xml"]);
        command.env("CANARY", CANARY).env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", world.path("step.md"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let ran = finish(command.spawn().expect("vmdeck"));
        assert_eq!(ran.code, code, "{what}: {ran:?}");
        assert!(!ran.out.contains(CANARY) && !ran.err.contains(CANARY), "{what}: {ran:?}");
        assert!(ran.out.contains("***"), "{what}: the lines themselves are shown: {}", ran.out);
        assert!(world.record("guests/g/console.log").contains(CANARY), "{what}: the raw log is raw");
        let mut found = leaks(&world.path("record"));
        found.extend(leaks(&world.state()));
        found.extend(
            ["junit.xml", "step.md"]
                .iter()
                .filter(|&name| fs::read_to_string(world.path(name)).is_ok_and(|text| text.contains(CANARY)))
                .map(|name| (*name).to_owned()),
        );
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}

#[test]
fn a_secret_that_is_too_short_to_be_masked_is_told() {
    let mut world = world("");
    world.env.push(("CANARY".into(), "12345".into()));
    world.ci(&[]).says("1 secret of fewer than 6 characters: not masked in logs");
    world.env.clear();
    world.env.push(("CANARY".into(), CANARY.into()));
    assert!(!world.run(&["--ci", "--run-dir", "long"]).out.contains("fewer than"));
}
