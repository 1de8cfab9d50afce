//! The configs in `examples/`: each passes `vmdeck config check` in a clean clone, every backend has one, and a mistake in
//! one is reported with its file, line and key.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use vmdeck_core::backend::BACKENDS;
use vmdeck_testkit::world::{Ran, World};

/// Returns every example, by name.
fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(dir).expect("examples").map(|entry| entry.expect("entry").path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    all.sort();
    assert!(all.len() >= BACKENDS.len(), "the examples were found");
    all
}

fn example(name: &str) -> String {
    examples().into_iter().find(|path| path.ends_with(name)).expect("example").display().to_string()
}

fn parsed(path: &Path) -> toml::Table {
    fs::read_to_string(path).expect("text").parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs an example in a world of its own, on a host of any size.
fn run(world: &World, name: &str, more: &[&str]) -> Ran {
    let (file, lock) = (example(name), format!("host.lock={}", world.path("lock.d").display()));
    let limits = ["host.min_free_disk=1MiB", "host.warn_free_disk=1MiB", "host.min_free_memory=1MiB", &lock];
    let set = limits.iter().flat_map(|limit| ["--set", *limit]);
    let args: Vec<&str> = ["--config", &file].into_iter().chain(set).chain(more.iter().copied()).collect();
    world.ci(&args)
}

#[test]
fn every_example_passes_the_check_without_a_warning() {
    let world = World::new("");
    for path in examples() {
        let ran = world.run(&["config", "check", "--config", &path.to_string_lossy()]).exits(0);
        assert_eq!(ran.err, "", "{}", path.display());
    }
}

#[test]
fn every_backend_has_an_example() {
    let used: BTreeSet<String> = examples()
        .iter()
        .flat_map(|path| {
            let guests = parsed(path)["guests"].as_table().expect("guests").clone();
            guests.into_iter().filter_map(|(_, guest)| guest.get("backend")?.as_str().map(str::to_owned))
        })
        .collect();
    for row in BACKENDS {
        assert!(used.contains(row.kind), "no example for the backend `{}`: {used:?}", row.kind);
    }
}

#[test]
fn every_example_says_what_it_is_for() {
    for path in examples() {
        let text = fs::read_to_string(&path).expect("text");
        let name = path.file_name().expect("name").to_string_lossy();
        assert!(text.starts_with("# "), "{name} begins with a comment");
        assert!(text.contains(&*name), "{name} shows how it is run");
    }
}

#[test]
fn a_mistake_in_a_copy_is_reported_with_file_line_and_key() {
    let world = World::new("");
    for path in examples() {
        let text = fs::read_to_string(&path).expect("text");
        let first = text.lines().position(|line| line.starts_with("backend = ")).expect("a guest");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(first + 1, "bakcend = 1");
        let guest = lines[..first].iter().rfind(|line| line.starts_with("[guests.")).expect("its table");
        let guest = guest.trim_start_matches('[').split(']').next().expect("name");
        let name = format!("broken-{}", path.file_name().expect("name").to_string_lossy());
        fs::write(world.path(&name), lines.join("\n")).expect("write");
        world
            .run(&["config", "check", "--config", &name])
            .exits(2)
            .complains(&format!("{name}:{}: `{guest}.bakcend`: unknown key", first + 2));
    }
}

#[test]
fn the_local_example_really_runs() {
    let world = World::new("");
    run(&world, "local-quick.toml", &[]).exits(0).says("FLAKY flaky/second-attempt");
    world.assert_nothing_left();
}

#[test]
fn the_tutorial_shows_what_its_comments_promise() {
    let world = World::new("");
    run(&world, "fake-tutorial.toml", &["@good"]).exits(1);
    let verdicts: BTreeSet<String> = world.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, BTreeSet::from(["failed", "flaky", "passed", "skipped"].map(str::to_owned)));
    let world = World::new("");
    run(&world, "fake-tutorial.toml", &["@broken"]).exits(5);
    world.assert_nothing_left();
}

/// Returns the pages in a folder of `docs/`, by name.
fn pages(folder: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(folder);
    let entries = fs::read_dir(dir).expect("pages").map(|entry| entry.expect("entry").path());
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("text"));
    let mut all: Vec<_> = entries.map(read).collect();
    all.sort();
    all
}

/// Returns the blocks of a page in a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect()
}

#[test]
fn the_configs_of_the_pages_for_movers_pass_the_check() {
    let pages = pages("migrating");
    assert!(pages.len() >= 5, "the pages were found");
    for (name, page) in pages {
        let found = blocks(&page, "toml");
        assert!(!found.is_empty(), "{name} has a config");
        for config in found {
            let world = World::new("");
            fs::write(world.path("vmdeck.toml"), config).expect("config");
            world.run(&["config", "check"]).exits(0);
            world.run(&["list", "--cases"]).exits(0);
        }
    }
}

#[test]
fn the_lines_of_the_recipes_for_ci_are_command_lines() {
    let world = World::new(
        "[suites.s]\n[[suites.s.cases]]\nname = \"x\"\nrun = \"true\"\n[guests.here]\nbackend = \"local\"\n",
    );
    let mut count = 0;
    for (name, page) in pages("ci") {
        for line in page
            .lines()
            .filter(|line| line.contains("vmdeck ") && !line.contains("path") && !line.starts_with(char::is_alphabetic))
        {
            let Some(at) = line.find("vmdeck ") else { continue };
            let words: Vec<&str> =
                line[at..].split(['\'', '`', '"']).next().expect("words").split_whitespace().skip(1).collect();
            let [first, rest @ ..] = &words[..] else { panic!("{name}: {line}") };
            if *first == "--ci" {
                let args = [&["--ci", "--dry-run"], rest].concat();
                world.run(&args).exits(0);
            } else {
                // A subcommand that is not known, or a flag, is a mistake in how it is called: exit 2.
                let help = [&[*first], rest, &["--help"]].concat();
                world.run(&help).exits(0);
            }
            count += 1;
        }
    }
    assert!(count >= 8, "the lines were found: {count}");
}
