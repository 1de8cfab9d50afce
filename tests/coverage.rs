//! Coverage: which lines of a program were run in guests, as lcov reads it. With a real compiler and a real gcov.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{fs, process::Command};
use vmdeck_testkit::{micro::Micro, world::World};

const PROGRAM: &str = "int twice(int x) {\n  if (x > 2)\n    return 2 * x;\n  return x;\n}\nint main(int count, char **words) {\n  (void)words;\n  return twice(count) == 99;\n}\n";

fn suite(build: &str, cases: &str) -> String {
    format!("[suites.s]\ncoverage = \"gcov\"\nsetup = {}\n{cases}", serde_json::Value::from(build))
}

const TWO: &str = "[[suites.s.cases]]\nname = \"few\"\nrun = \"./program\"\n[[suites.s.cases]]\nname = \"many\"\nrun = \"./program a b c\"\n";

/// Where the guest has a compiler, its gcov is asked.
#[test]
fn lines_are_summed_up_over_cases_with_the_paths_of_this_host() {
    let build = "printf %s \"$TEXT\" > a.c && gcc --coverage -O0 -o program a.c";
    let config = suite(build, TWO).replacen(
        "coverage",
        &format!("env = {{ TEXT = {} }}\ndir = \"DIR\"\ncoverage", serde_json::Value::from(PROGRAM)),
        1,
    );
    let world = World::new("");
    let dir = world.path("build");
    fs::create_dir(&dir).expect("folder");
    let head = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let config = config.replace("DIR", &dir.display().to_string());
    fs::write(world.path("vmdeck.toml"), format!("{head}[guests.here]\nbackend = \"local\"\n{config}"))
        .expect("config");
    let ran = world.ci(&[]).exits(0).says("coverage: 100.0% of 6 lines: coverage.info");
    let info = world.record("coverage.info");
    let name = format!("SF:{}", dir.join("a.c").display());
    for line in
        [name.as_str(), "FN:1,twice", "FNDA:2,twice", "DA:1,2", "DA:3,1", "DA:4,1", "LF:6", "LH:6", "end_of_record"]
    {
        assert!(info.lines().any(|own| own == line), "{line}\n{info}\n{}", ran.out);
    }
    let told = world.of_kind("coverage");
    assert_eq!((told[0]["lines"].as_u64(), told[0]["hit"].as_u64()), (Some(6), Some(6)));
    fs::remove_dir_all("/var/tmp/vmdeck-coverage").ok();
}

/// Where it has none, this host's is: for a program that was built here and sent.
#[test]
fn a_program_that_was_built_here_is_measured_in_a_guest_without_a_compiler() {
    let world = World::new("");
    let app = world.path("app");
    fs::create_dir(&app).expect("folder");
    fs::write(app.join("a.c"), PROGRAM).expect("program");
    // Its notes say where it was built, and it is sent to the same place.
    let built = Command::new("gcc")
        .args(["--coverage", "-O0", "-static", "-o", "program", "a.c"])
        .current_dir(&app)
        .status()
        .expect("gcc");
    assert!(built.success());
    let guest = Micro::default().guest("micro");
    let source = format!("[guests.micro.source]\npath = \"{}\"\nto = \"{}\"\n", app.display(), app.display());
    let head = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let cases = "[[suites.s.cases]]\nname = \"few\"\nrun = \"./program\"\n";
    let config = format!("{head}{guest}{source}[suites.s]\nrun_as = \"root\"\ncoverage = \"gcov\"\n{cases}");
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    let ran = world.ci(&[]).exits(0);
    let info = fs::read_to_string(world.path("record/coverage.info")).unwrap_or_else(|e| panic!("{e}\n{}", ran.out));
    let name = format!("SF:{}", app.join("a.c").display());
    for line in [name.as_str(), "FNDA:1,twice", "DA:3,0", "DA:4,1", "LF:6", "LH:5"] {
        assert!(info.lines().any(|own| own == line), "{line}\n{info}\n{}", ran.out);
    }
    world.assert_nothing_left();
}

#[test]
fn coverage_that_is_not_there_is_told() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.none]\ncoverage = \"gcov\"\n[[suites.none.cases]]\nname = \"c\"\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(0).says("there is no coverage: no program wrote any");
    assert!(!world.path("record/coverage.info").exists());
}
