//! One case that becomes several, and where each of them is run.

use std::fs;
use vmdeck_testkit::world::World;

const LOCAL: &str = "[guests.here]\nbackend = \"local\"\n";

fn world(rest: &str) -> World {
    let world = World::new("");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config") + LOCAL + rest;
    fs::write(world.path("vmdeck.toml"), config).expect("config");
    world
}

fn ran(world: &World) -> Vec<String> {
    world.verdicts().into_iter().map(|(name, _)| name).collect()
}

const MATRIX: &str = "[suites.s]\nmatrix = { go = [\"1.24\", \"1.25\"], db = [\"pg\", \"my\"] }\n\
    exclude = [{ go = \"1.24\", db = \"my\" }]\ninclude = [{ go = \"1.26\", db = \"pg\", tip = \"yes\" }]\n\
    [[suites.s.cases]]\nname = \"up\"\n\
    run = \"echo {{go}} $VMDECK_MATRIX_GO $VMDECK_MATRIX_DB [$VMDECK_MATRIX_TIP] $E; echo '{{.Go}}'; test {{db}} = pg\"\n\
    env = { E = \"e-{{db}}\" }\n\
    [[suites.s.cases]]\nname = \"once\"\nmatrix = {}\nrun = \"echo $VMDECK_CASE [$VMDECK_MATRIX_GO]\"\n";

#[test]
fn a_case_is_run_for_each_combination_and_each_has_a_verdict_of_its_own() {
    let world = world(MATRIX);
    let done = world.ci(&[]).exits(1);
    assert_eq!(
        ran(&world),
        ["s/up:go=1.24,db=pg", "s/up:go=1.25,db=pg", "s/up:go=1.25,db=my", "s/up:go=1.26,db=pg", "s/once"]
    );
    for (case, wrote) in [
        ("up,go=1.24,db=pg", "1.24 1.24 pg [] e-pg\n{{.Go}}\n"),
        ("up,go=1.25,db=my", "1.25 1.25 my [] e-my\n{{.Go}}\n"),
        ("up,go=1.26,db=pg", "1.26 1.26 pg [yes] e-pg\n{{.Go}}\n"),
        ("once", "once []\n"),
    ] {
        assert_eq!(world.record(&format!("guests/here/s/{case}/stdout.log")), wrote, "{case}");
    }
    done.says("s/up (go 1.25, db my)");
    let junit = world.record("junit.xml");
    assert!(
        junit.contains("name=\"up (go 1.25, db my)\"") && junit.contains("name=\"up (go 1.24, db pg)\""),
        "{junit}"
    );
    world.run(&["--ci"]).exits(1);
    world.run(&["--ci", "--rerun-failed"]).exits(1).says("s/up (go 1.25, db my)").says("1 case: 1 failed");
}

#[test]
fn a_word_selects_combinations_by_some_of_their_axes() {
    for (word, wanted) in [
        ("s/up:db=my", &["s/up:go=1.25,db=my"][..]),
        ("s/up:db=pg,go=1.2[45]@here", &["s/up:go=1.24,db=pg", "s/up:go=1.25,db=pg"]),
        ("*/*:go=1.26", &["s/up:go=1.26,db=pg"]),
        ("s/o*", &["s/once"]),
    ] {
        let world = world(MATRIX);
        world.ci(&[word]);
        assert_eq!(ran(&world), wanted, "{word}");
    }
    let world = world(MATRIX);
    world.ci(&["s/up:go=1.99"]).exits(2).complains("matches no case");
    world.ci(&["s/up:go"]).exits(2).complains("`go` is no axis with its value");
    world.run(&["list", "--cases", "s/up:db=my"]).exits(0).says("s/up:go=1.25,db=my@here").says("1 case");
    let listed = world.run(&["list", "--cases", "--json", "s/up:go=1.26"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&listed.out).expect("json");
    assert_eq!(rows[0]["matrix"], serde_json::json!({ "go": "1.26", "db": "pg", "tip": "yes" }), "{rows}");
}

#[test]
fn what_a_case_needs_has_the_same_values_where_both_have_the_axis() {
    let world = world(
        "[suites.s]\nmatrix = { a = [\"1\", \"2\"] }\n[[suites.s.cases]]\nname = \"build\"\nrun = \"test {{a}} = 2\"\n\
         [[suites.s.cases]]\nname = \"use\"\nneeds = [\"build\"]\nrun = \"true\"\n\
         [[suites.s.cases]]\nname = \"all\"\nmatrix = {}\nneeds = [\"build\"]\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(1).says("it needs `build:a=1`, which failed");
    let verdicts: Vec<String> = world.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, ["failed", "passed", "skipped", "passed", "skipped"]);
    world.run(&["--ci", "s/use:a=2"]).exits(0).says("s/build (a 2)").says("2 passed");
}

#[test]
fn a_case_is_run_only_where_it_is_meant_to_be() {
    let rest = "[guests.other]\nbackend = \"local\"\n[suites.s]\nwhen = \"guest ~ 'h*'\"\n\
        [[suites.s.cases]]\nname = \"here\"\nrun = \"true\"\n\
        [[suites.s.cases]]\nname = \"there\"\ntags = [\"late\"]\nwhen = \"guest == 'other' and env.WANTED != 'no'\"\nrun = \"true\"\n\
        [[suites.s.cases]]\nname = \"after\"\nwhen = \"'late' not in tags and 'x' in tags\"\ntags = [\"x\"]\nneeds = [\"there\"]\nrun = \"true\"\n";
    let world = world(rest);
    world.ci(&[]).exits(0).says("it needs `there`, which is not meant for this guest");
    let ended = world.of_kind("case_ended");
    let seen: Vec<String> =
        ended.iter().map(|e| format!("{}@{} {}", e["case"], e["guest"], e["verdict"]).replace('"', "")).collect();
    assert_eq!(seen, ["here@here passed", "after@here skipped", "there@other passed", "after@other passed"]);
    let never = "[suites.s]\n[[suites.s.cases]]\nname = \"x\"\nwhen = \"os == 'windows'\"\nrun = \"true\"\n";
    let none = World::new("");
    let config = fs::read_to_string(none.path("vmdeck.toml")).expect("config") + LOCAL + never;
    fs::write(none.path("vmdeck.toml"), config).expect("config");
    none.run(&["config", "check"]).exits(0).complains("case `s/x` is run in no guest: `os == 'windows'` is so in none");
    world
        .run(&["list", "--cases", "--all"])
        .exits(0)
        .says("s/there@here")
        .says("it does not hold here: guest == 'other' and");
    world.ci(&["s/there@here"]).exits(2).complains("`s/there` is not run there: `guest == 'other' and");
    world.run(&["list", "--cases", "s/nowhere"]).exits(2).complains("matches no case");
}

#[test]
fn some_cases_are_run_only_where_they_are_asked_for() {
    let rest = "[suites.s]\n[[suites.s.cases]]\nname = \"usual\"\nrun = \"true\"\n\
        [[suites.s.cases]]\nname = \"huge\"\nexplicit = true\ntags = [\"big\"]\nrun = \"false\"\n";
    for (args, wanted) in [
        (&[][..], &["s/usual"][..]),
        (&["s"], &["s/usual"]),
        (&["s/*"], &["s/usual"]),
        (&["s/huge"], &["s/huge"]),
        (&["*/hu*", "s"], &["s/usual", "s/huge"]),
        (&["--tag", "big"], &["s/huge"]),
        (&["--tag", "not big"], &["s/usual"]),
    ] {
        let world = world(rest);
        world.ci(args);
        assert_eq!(ran(&world), wanted, "{args:?}");
    }
    let world = world(rest);
    world.run(&["--ci", "s/huge"]).exits(1);
    world.run(&["--ci", "--rerun-failed"]).exits(1).says("s/huge");
    world.run(&["list", "--cases", "--all"]).exits(0).says("only where it is asked for");
}

#[test]
fn a_case_that_asks_for_it_gets_a_machine_in_which_nothing_has_been_run() {
    let world = world(
        "[suites.s]\nguests = [\"here\"]\nsetup = \"true\"\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n\
         [[suites.s.cases]]\nname = \"b\"\nrun = \"true\"\n[[suites.s.cases]]\nname = \"c\"\nfresh = true\nrun = \"true\"\n\
         [[suites.s.cases]]\nname = \"d\"\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(0);
    let made: Vec<u64> = world
        .of_kind("guest_state")
        .iter()
        .filter(|event| event["to"].as_str().is_some_and(|to| to.eq("Created")))
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    let ended: Vec<u64> = world.of_kind("case_ended").iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(ended.len() == 4 && made.len() == 2 && ended[1] < made[1] && made[1] < ended[2], "{made:?} {ended:?}");
}

#[test]
fn what_a_case_leaves_is_fetched_and_has_to_be_there() {
    let rest = "[suites.s]\ndir = \"DIR\"\n[[suites.s.cases]]\nname = \"leaves\"\nartifacts = [\"out/*.txt\"]\n\
        run = \"mkdir -p out; echo one >out/a.txt; exit 3\"\n\
        [[suites.s.cases]]\nname = \"has\"\nrun = \"touch made\"\nexpect = { files = [\"made\", \"out/*.txt\"], stderr = \"\" }\n\
        [[suites.s.cases]]\nname = \"lacks\"\nrun = \"true\"\nexpect = { files = [\"made\", \"nowhere/*.log\"] }\n\
        [[suites.s.cases]]\nname = \"loud\"\nrun = \"echo oops >&2\"\nexpect = { stderr = \"\" }\n\
        [[suites.s.cases]]\nname = \"several\"\nrun = \"echo a; echo b\"\nexpect = { stdout = [\"/^a$/\", \"/^c$/\"] }\n";
    let folder = tempfile::tempdir().expect("folder");
    let world = world(&rest.replace("DIR", &folder.path().display().to_string()));
    world
        .ci(&[])
        .exits(1)
        .says("there is no file nowhere/*.log")
        .says("stderr is not empty")
        .says("no line of stdout matches `/^c$/`");
    let verdicts: Vec<String> = world.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, ["failed", "passed", "failed", "failed", "failed"]);
    assert_eq!(world.record("guests/here/s/leaves/artifacts/out/a.txt"), "one\n");
}

#[test]
fn what_cannot_be_a_matrix_or_a_condition_is_told_with_its_place() {
    let case = "[[suites.s.cases]]\nname = \"x\"\nrun = \"true\"\n";
    for (keys, of_case, says) in [
        ("matrix = { go = [1.10] }", "", "axis `go`: a value is a string, in quotes"),
        ("matrix = { go = \"1\" }", "", "axis `go` must be a list of strings"),
        ("matrix = { go = [] }", "", "axis `go` has no values"),
        ("matrix = { \"a b\" = [\"1\"] }", "", "`a b` cannot be the name of an axis"),
        ("matrix = { a = [\"1\", \"1\"] }", "", "axis `a` has `1` twice"),
        ("matrix = { a = [\"x y\", \"x_y\"] }", "", "the same in a file name"),
        ("matrix = { a-b = [\"1\"], a_b = [\"1\"] }", "", "two axes would be the variable VMDECK_MATRIX_A_B"),
        ("matrix = { a = [\"1\"] }\nexclude = [{ b = \"1\" }]", "", "`b` is no axis (known: a)"),
        ("matrix = { a = [\"1\"] }\nexclude = [{ a = \"2\" }]", "", "axis `a` has no value `2` (known: 1)"),
        ("matrix = { a = [\"1\"] }\nexclude = [{ a = \"1\" }]", "", "it leaves nothing of the matrix"),
        ("matrix = { a = [\"1\"] }\nexclude = [{}]", "", "would leave everything out"),
        ("matrix = { a = [\"1\"], b = [\"1\"] }\ninclude = [{ a = \"2\" }]", "", "does not say what `b` is"),
        ("matrix = { a = [\"1\"] }\ninclude = [{ a = \"1\" }]", "", "there is a combination a 1 already"),
        ("exclude = [{ a = \"1\" }]", "", "there is no `matrix`"),
        ("matrix = { a = [\"$(id)\"] }", "dir = \"{{a}}\"\n", "write \"$VMDECK_MATRIX_A\" instead"),
        ("when = \"os == 'linus'\"", "", "`os` is never `linus` (known: linux, macos, windows)"),
        ("when = \"guest == 'nobody'\"", "", "`guest` is never `nobody` (known: here)"),
        ("when = \"matrix.a == '1'\"", "", "the case has no axis `a`"),
        ("matrix = { a = [\"1\"] }\nwhen = \"matrix.a == '2'\"", "", "`matrix.a` is never `2` (known: 1)"),
        ("when = \"os = 'linux'\"", "", "write `==`"),
        ("when = \"arch == 'amd64'\"", "", "`arch` is never `amd64` (known: aarch64"),
        ("when = \"backend == 'quemu'\"", "", "`backend` is never `quemu`"),
        ("when = \"'slwo' in tags\"", "", "no case of the suite has the tag `slwo` (there are none)"),
        ("when = \"os ~ 'linus*'\"", "", "`os` never fits `linus*`"),
        (
            "matrix = { a = [\"1\"] }",
            "[[suites.s.cases]]\nname = \"y\"\nmatrix = { a = [\"2\"] }\nneeds = [\"x\"]\nrun = \"true\"\n",
            "no combination has the same values",
        ),
        ("", "needs = [\"y\"]\n", "which is no case before it"),
        ("", "steps = [{ run = \"true\" }]\n", "exactly one of `run`, `script`, `steps`, `discover` and `manual`"),
        ("", "[[suites.s.cases]]\nname = \"y\"\nsteps = [{ reboot = true }]\n", "hold no command"),
        ("", "[[suites.s.cases]]\nname = \"y\"\nsteps = [{ reboot = false }]\n", "a step is { run = "),
        ("", "[[suites.s.cases]]\nname = \"y\"\nsteps = [{ run = \"# no\" }]\n", "would always pass"),
        ("", "expect = { stdout = [\"/[/\"] }\n", "is not a regular expression"),
    ] {
        let world = world(&format!("[suites.s]\n{keys}\n{case}{of_case}"));
        world.run(&["config", "check"]).exits(2).complains(says).complains("vmdeck.toml:");
    }
    let many: Vec<String> = (0..17).map(|n| format!("\"{n}\"")).collect();
    let many = many.join(",");
    let world = world(&format!("[suites.s]\nmatrix = {{ a = [{many}], b = [{many}] }}\n{case}"));
    world.run(&["config", "check"]).exits(2).complains("more than 256 cases");
}
