//! Cases that are found in the guest.

use std::fs;
use vmdeck_testkit::{micro::Micro, world::World};

/// A world with a folder of scripts, in which `FOLDER` of the suites stands for it.
fn world(suites: &str, files: &[(&str, &str)]) -> World {
    let world = World::new("");
    for (name, text) in files {
        let path = world.path("project").join(name);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, text).expect("file");
    }
    let folder = world.path("project").display().to_string();
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let guest = "[guests.here]\nbackend = \"local\"\n";
    fs::write(world.path("vmdeck.toml"), config + guest + &suites.replace("FOLDER", &folder)).expect("config");
    world
}

const SCRIPTS: &[(&str, &str)] = &[
    ("tests/a.sh", "echo \"$VMDECK_CASE in $(pwd)\""),
    ("tests/net/b.sh", "echo why >&2; exit 3"),
    ("tests/it's odd; x.sh", "true"),
];
const FOUND: &str = "[suites.s]\ndir = \"FOLDER\"\nsetup = \"echo true >tests/made-by-setup.sh\"\n\
    [[suites.s.cases]]\nname = \"unit\"\ntags = [\"t\"]\ndiscover = { glob = \"tests/**/*.sh\", run = \"sh {path}\" }\n\
    [[suites.s.cases]]\nname = \"after\"\nneeds = [\"unit\"]\nrun = \"true\"\n";

fn verdicts(world: &World) -> Vec<String> {
    world.verdicts().into_iter().map(|(name, verdict)| format!("{name} {verdict}")).collect()
}

#[test]
fn every_file_that_is_found_is_a_case_of_its_own() {
    let world = world(FOUND, SCRIPTS);
    let done = world.ci(&[]).exits(1).says("s/unit: 4 cases found").says("5 cases: 3 passed, 1 failed, 1 skipped");
    let done = done.says("[tests/it's odd; x.sh]");
    done.says("it needs `unit/tests/net/b.sh`, which failed").says("vmdeck.toml:");
    let mut seen = verdicts(&world);
    let odd = seen.remove(1);
    assert!(odd.starts_with("s/unit/tests/it_s_odd__x.sh-") && odd.ends_with(" passed"), "{odd}");
    assert_eq!(
        seen,
        [
            "s/unit/tests/a.sh passed",
            "s/unit/tests/made-by-setup.sh passed",
            "s/unit/tests/net/b.sh failed",
            "s/after skipped"
        ]
    );
    let wrote = world.record("guests/here/s/unit,tests,a.sh/stdout.log");
    assert!(wrote.starts_with("unit/tests/a.sh in ") && wrote.trim_end().ends_with("/project"), "{wrote}");
    let found = world.of_kind("cases_found");
    assert_eq!(found[0]["cases"][1]["name"], "tests/it's odd; x.sh", "{found:?}");
    let junit = world.record("junit.xml");
    assert!(
        junit.contains("name=\"unit/tests/net/b.sh\"") && junit.contains("unit/tests/it&apos;s odd; x.sh"),
        "{junit}"
    );
    assert!(world.record("report.html").contains("unit/tests/it's odd; x.sh"));
    let ended = world.of_kind("case_ended");
    assert!(ended.iter().all(|event| event["case"] != "unit"), "what stands for others has no verdict of its own");
}

#[test]
fn one_of_them_is_selected_by_its_name_and_run_again_where_it_failed() {
    for (args, ran) in [
        (&["s/unit/tests/net/b.sh"][..], &["s/unit/tests/net/b.sh failed"][..]),
        (&["s/unit/tests/net/*", "s/unit/*/a.sh"], &["s/unit/tests/a.sh passed", "s/unit/tests/net/b.sh failed"]),
    ] {
        let world = world(FOUND, SCRIPTS);
        world.ci(args).exits(1);
        assert_eq!(verdicts(&world), ran, "{args:?}");
    }
    let world = world(FOUND, SCRIPTS);
    world.run(&["--ci"]).exits(1);
    world.run(&["--ci", "--rerun-failed"]).exits(1).says("1 case: 1 failed").says("s/unit/tests/net/b.sh");
    // One of two that were asked for is gone: what is left says nothing about it.
    fs::remove_dir_all(world.path("project/tests/net")).expect("removed");
    let both = ["--ci", "s/unit/tests/a.sh", "s/unit/tests/net/b.sh"];
    world.run(&both).exits(1).says("no test was found that `s/unit/tests/net/b.sh` selects");
    world.ci(&["s/unit/nowhere"]).exits(1).says("no test was found that `s/unit/nowhere` selects");
    world.run(&["--ci", "t/unit/a.sh"]).exits(2).complains("matches no case");
}

#[test]
fn a_command_lists_them_as_well_and_each_combination_has_its_own() {
    let world = world(
        "[suites.s]\nmatrix = { v = [\"1\", \"2\"] }\nretries = 1\n[[suites.s.cases]]\nname = \"list\"\n\
         discover = { command = \"for n in one two{{v}}; do echo $n; done\", run = \"test {name} != two2 && echo {name}\" }\n",
        &[],
    );
    world.ci(&["--repeat", "2"]).exits(1).says("8 cases: 6 passed, 2 failed");
    assert_eq!(
        verdicts(&world)[..4],
        ["s/list/one:v=1 passed", "s/list/two1:v=1 passed", "s/list/one:v=2 passed", "s/list/two2:v=2 failed"]
    );
    let again = world.of_kind("case_started").iter().filter(|event| event["attempt"] == 2).count();
    assert_eq!(again, 2, "each has retries of its own");
    assert_eq!(world.record("guests/here/s/list,one,v=1/round-2/stdout.log"), "one\n");
}

#[test]
fn what_cannot_be_found_is_a_failure_that_says_why() {
    for (discover, exit, says) in [
        ("{ glob = \"nowhere/*.sh\", run = \"sh {path}\" }", 1, "discover failed: no test was found"),
        ("{ command = \"true\", run = \"{name}\" }", 1, "discover failed: no test was found"),
        ("{ command = \"echo a; echo oops >&2; exit 4\", run = \"{name}\" }", 1, "discover failed: exit 4: oops"),
        ("{ command = \"echo a; echo a\", run = \"{name}\" }", 1, "discover failed: `a` is listed twice"),
        ("{ command = \"seq 10001\", run = \"{name}\" }", 1, "10001 tests were found, and 10000 is the most"),
        ("{ command = \"sleep 60\", run = \"{name}\" }", 1, "it took longer than"),
        ("\"ctest\"", 1, "discover failed"),
        ("\"maven\"", 2, "`maven` is no tool whose tests can be listed (known: autopkgtest, bats"),
        ("{ glob = \"*\", run = \"true\" }", 2, "`run` has to hold {path}"),
        ("{ command = \"ls\", run = \"x {path}\" }", 2, "`run` has to hold {name}"),
        ("{ glob = \"*\" }", 2, "write the word of a tool"),
        ("{ command = \"echo --version\", run = \"bash {name}\" }", 1, "`--version` would be read as an option"),
        ("{ command = \"printf 'a\\\\000b\\\\n'\", run = \"echo {name}\" }", 1, "holds a NUL"),
        ("{ command = \"ls\", run = \"sh -c 'echo {name}'\" }", 2, "is quoted already"),
        ("{ command = \"ls\", run = 'echo \"{name}\"' }", 2, "is quoted already"),
        ("{ command = \"ls\", run = \"echo it\\\\'s {name} 'fine'\" }", 0, ""),
        ("{ command = \"ls\", run = \"# it's\\necho a#b {name}\" }", 0, ""),
        ("{ command = \"ls\", run = \"true # {name}\" }", 2, "`run` has to hold {name}"),
        ("{ command = \"ls\", run = \"echo a#'b {name}'\" }", 2, "is quoted already"),
    ] {
        let suite = "[suites.s]\nsetup_timeout = \"3s\"\ndir = \"/\"\n[[suites.s.cases]]\nname = \"x\"\n";
        let world = world(&format!("{suite}discover = {discover}\n"), &[]);
        if exit == 0 {
            world.run(&["config", "check"]).exits(0);
            continue;
        }
        let done = world.ci(&[]).exits(exit);
        if exit == 2 {
            done.complains(says);
        } else {
            done.says(says);
            assert_eq!(verdicts(&world), ["s/x failed"], "{discover}");
        }
    }
    let both = "[suites.s]\n[[suites.s.cases]]\nname = \"x\"\ndiscover = \"go\"\nrun = \"true\"\n";
    world(both, &[]).ci(&[]).exits(2).complains("exactly one of `run`, `script`, `steps`, `discover` and `manual`");
}

#[test]
fn a_fresh_machine_for_each_case_is_one_for_each_that_is_found() {
    let suite = "[suites.s]\n[[suites.s.cases]]\nname = \"x\"\ndiscover = { command = \"touch left; seq 3\", run = \"test ! -e left && echo {name}\" }\n";
    let world = world(suite, &[]);
    world.ci(&["--set", "guests.here.fresh=case"]).exits(0).says("3 passed");
    let made = world.of_kind("guest_state").iter().filter(|event| event["to"] == "Created").count();
    // One in which they are listed, too: what the listing leaves is seen by none.
    assert_eq!(made, 4);
}

#[test]
fn the_tests_of_a_real_cargo_project_are_found_and_run() {
    // The guest has another home, where the launcher of toolchains finds none.
    let cargo = std::path::PathBuf::from(std::env::var_os("CARGO").expect("a test of cargo"));
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.parent().expect("folder").display());
    let world = world(
        &format!(
            "[suites.s]\ndir = \"FOLDER\"\nenv = {{ PATH = \"{path}\" }}\n[[suites.s.cases]]\nname = \"unit\"\ndiscover = \"cargo\"\n"
        ),
        &[
            ("Cargo.toml", "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n"),
            (
                "src/lib.rs",
                "#[test]\nfn good() {}\n#[test]\nfn bad() { panic!(\"no\") }\n#[test]\n#[ignore]\nfn left_out() {}\n",
            ),
        ],
    );
    world.ci(&[]).exits(1).says("s/unit: 3 cases found");
    assert_eq!(verdicts(&world), ["s/unit/bad failed", "s/unit/good passed", "s/unit/left_out skipped"]);
}

#[test]
fn a_file_is_run_under_its_own_name_or_not_at_all() {
    let glob = |glob: &str| {
        format!(
            "[suites.s]\ndir = \"FOLDER\"\n[[suites.s.cases]]\nname = \"x\"\ndiscover = {{ glob = \"{glob}\", run = \"bash {{path}}\" }}\n"
        )
    };
    let options = world(&glob("--*"), &[("--version", "exit 3")]);
    options.ci(&[]).exits(1).says("exit 3");
    let lines = world(&glob("t/*.sh"), &[("t/good", "true"), ("t/good\nx.sh", "exit 3"), ("t/other.sh", "true")]);
    lines.ci(&[]).exits(1).says("the name of a file holds the end of a line");
    let folders = world(&glob("t/*"), &[("t/a.sh", "true"), ("t/sub/deep.sh", "exit 3")]);
    folders.ci(&[]).exits(0);
    assert_eq!(verdicts(&folders), ["s/x/t/a.sh passed"]);
}

#[test]
fn what_is_not_found_any_more_in_a_further_round_is_told() {
    let suite = "[suites.s]\ndir = \"FOLDER\"\n[[suites.s.cases]]\nname = \"x\"\n\
        discover = { command = \"echo a; test -e seen || echo b; touch seen\", run = \"echo {name}\" }\n";
    let world = world(suite, &[("here", "")]);
    world.ci(&["--repeat", "2"]).exits(0).says("found in an earlier round, and not now: x/b");
}

#[test]
fn a_real_guest_lists_its_files_and_runs_each_in_each_combination() {
    let guest = Micro::default().guest("micro");
    let world = World::new(&format!(
        "{guest}[suites.s]\nrun_as = \"root\"\nmatrix = {{ v = [\"1\", \"2\"] }}\n\
         setup = '''\nmkdir -p /tmp/t/net\necho 'echo \"$0 $VMDECK_MATRIX_V\" | tee out.txt' >/tmp/t/a.sh\n\
         echo 'test $VMDECK_MATRIX_V = 1' >\"/tmp/t/net/it's b.sh\"\n'''\n\
         [[suites.s.cases]]\nname = \"unit\"\ndir = \"/tmp/t\"\ndiscover = {{ glob = \"**/*.sh\", run = \"sh {{path}}\" }}\nartifacts = [\"out.txt\"]\n\
         expect = {{ files = [\"a.sh\"], stderr = \"\" }}\n"
    ));
    let ran = world.ci(&[]).exits(1).says("s/unit (v 1): 2 cases found").says("4 cases: 3 passed, 1 failed");
    assert!(ran.out.contains("[net/it's b.sh]"), "{}", ran.out);
    let seen = verdicts(&world);
    assert!(seen[0] == "s/unit/a.sh:v=1 passed" && seen[3].starts_with("s/unit/net/it_s_b.sh-"), "{seen:?}");
    assert_eq!(world.record("guests/micro/s/unit,a.sh,v=2/artifacts/out.txt"), "./a.sh 2\n");
}
