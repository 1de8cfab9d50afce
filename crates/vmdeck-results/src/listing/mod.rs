//! What test tools list of their tests, and the command that runs one of them. Names are text from a guest: each is one quoted word.
//!
//! Facts: the documentation of the tools.

mod autopkgtest;
mod listed;
mod tools;

pub use listed::{ListedTest, Quote};

use std::collections::BTreeSet;

/// Returns the command by which a tool lists its tests; `None` = the word is of no tool.
pub fn list_command(tool: &str) -> Option<&'static str> {
    match tool {
        "autopkgtest" => Some(autopkgtest::LIST),
        _ => tools::of(tool).map(|tool| tool.list),
    }
}

/// Returns the format in which a tool reports what it ran, where its exit status alone does not say whether it ran anything.
pub fn list_results(tool: &str) -> Option<&'static str> {
    tools::of(tool).and_then(|tool| tool.results)
}

/// Reads the list of a tool; the error says what is wrong with it.
pub fn read_list(tool: &str, text: &str, quote: Quote<'_>) -> Result<Vec<ListedTest>, String> {
    match (tool, tools::of(tool)) {
        _ if text.contains('\0') => Err("the list holds a NUL, which no command can".to_owned()),
        ("autopkgtest", _) => autopkgtest::read(text, quote),
        (_, Some(tool)) => {
            let mut seen = BTreeSet::new();
            let tests = (tool.read)(text)?.into_iter().filter(|test| seen.insert(test.clone()));
            Ok(tests
                .map(|test| ListedTest { script: (tool.run)(&test, quote), name: test, ..ListedTest::default() })
                .collect())
        }
        _ => Err(format!("`{tool}` is no tool whose lists are known")),
    }
}

/// Returns the files of a list; each is run by a script in which `place` stands for it. A relative one begins with `./`, so that none is an
/// option.
pub fn read_paths(paths: &[String], (place, script): (&str, &str), quote: Quote<'_>) -> Vec<ListedTest> {
    let word = |path: &str| if path.starts_with('/') { quote(path) } else { quote(&format!("./{path}")) };
    let test = |path: &String| ListedTest {
        name: path.trim_start_matches('/').to_owned(),
        script: script.replace(place, &word(path)),
        ..ListedTest::default()
    };
    paths.iter().map(test).collect()
}

/// Reads a list with a name on each line, without the blanks around it; each is run by a script in which `place` stands for it.
pub fn read_names(text: &str, (place, script): (&str, &str), quote: Quote<'_>) -> Result<Vec<ListedTest>, String> {
    let mut seen = BTreeSet::new();
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            if !seen.insert(name) {
                return Err(format!("`{name}` is listed twice"));
            }
            if name.starts_with('-') {
                return Err(format!("`{name}` would be read as an option"));
            }
            if name.contains('\0') {
                return Err(format!("`{}` holds a NUL, which no command can", name.replace('\0', "?")));
            }
            let script = script.replace(place, &quote(name));
            Ok(ListedTest { name: name.to_owned(), script, ..ListedTest::default() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quote(text: &str) -> String {
        format!("'{}'", text.replace('\'', "'\\''"))
    }

    fn listed(tool: &str, text: &str) -> Vec<(String, String)> {
        let list = read_list(tool, text, &quote).unwrap_or_else(|why| panic!("{tool}: {why}"));
        list.into_iter().map(|test| (test.name, test.script)).collect()
    }

    #[test]
    fn a_nul_is_refused_in_the_list_of_each_tool() {
        for tool in ["pytest", "go", "cargo", "nextest", "ctest", "bats", "kselftest", "autopkgtest"] {
            let why = read_list(tool, "tests/a.py::one\0\na: test\nTests: a\0\n", &quote).expect_err("refused");
            assert!(why.contains("NUL"), "{tool}: {why}");
        }
    }

    #[test]
    fn every_tool_is_read_as_it_writes() {
        for (tool, text, wanted) in [
            (
                "pytest",
                "tests/test_a.py::test_one\ntests/test_a.py::TestB::test_two[a b-1]\n\n2 tests collected in 0.01s\n",
                &[
                    ("tests/test_a.py::test_one", "pytest -v 'tests/test_a.py::test_one'"),
                    ("tests/test_a.py::TestB::test_two[a b-1]", "pytest -v 'tests/test_a.py::TestB::test_two[a b-1]'"),
                ][..],
            ),
            (
                "go",
                "TestOne\nBenchmarkX\nok  \texample.org/m/a\t0.002s\n?   \texample.org/m/b\t[no test files]\nExampleTwo\nok  \texample.org/m/c\t0.1s\n",
                &[
                    ("example.org/m/a/TestOne", "go test -count=1 -v -run '^TestOne$' 'example.org/m/a'"),
                    ("example.org/m/c/ExampleTwo", "go test -count=1 -v -run '^ExampleTwo$' 'example.org/m/c'"),
                ],
            ),
            (
                "cargo",
                "tests::adds: test\ntests::big: benchmark\n\n1 test, 1 benchmark\n\ntests::adds: test\nit works: test\nsrc/lib.rs - add (line 3): test\n",
                &[
                    ("tests::adds", "cargo test -- --exact 'tests::adds'"),
                    ("it works", "cargo test -- --exact 'it works'"),
                ],
            ),
            (
                "nextest",
                "{\"rust-suites\":{\"m::it\":{\"testcases\":{\"a::b\":{\"ignored\":false},\"slow\":{\"ignored\":true}}}}}",
                &[("m::it/a::b", "cargo nextest run -E 'binary_id(=m::it) & test(=a::b)'")],
            ),
            (
                "ctest",
                "Test project /b\n  Test  #1: adds\n  Test #12: a.b (x)\n  Test #13: off (Disabled)\n\nTotal Tests: 3\n",
                &[
                    ("adds", "ctest --output-on-failure -R '^adds$'"),
                    ("a.b (x)", "ctest --output-on-failure -R '^a[.]b [(]x[)]$'"),
                ],
            ),
            (
                "bats",
                "./a.bats\n./b c.bats\n",
                &[("a.bats", "bats --tap './a.bats'"), ("b c.bats", "bats --tap './b c.bats'")],
            ),
            (
                "kselftest",
                "net:ping.sh\ntimers:posix_timers\n",
                &[
                    ("net/ping.sh", "./run_kselftest.sh -t 'net:ping.sh'"),
                    ("timers/posix_timers", "./run_kselftest.sh -t 'timers:posix_timers'"),
                ],
            ),
        ] {
            let wanted: Vec<(String, String)> =
                wanted.iter().map(|(name, script)| ((*name).to_owned(), (*script).to_owned())).collect();
            assert_eq!(listed(tool, text), wanted, "{tool}");
            assert!(list_command(tool).is_some());
        }
        assert!(list_command("make").is_none() && read_list("make", "", &quote).is_err());
        assert!(read_list("nextest", "error: no such command", &quote).is_err());
    }

    #[test]
    fn the_tests_of_a_debian_package_keep_what_they_want() {
        let text = "# why\nTests: smoke, net-check\nDepends: @\nRestrictions: needs-root, allow-stderr\n\n\
            Test-Command: ./run --all\nFeatures: test-name=whole\nRestrictions: skippable\n\n\
            Test-Command: true &&\n false\n\nTests: odd\nRestrictions: made-up\nTests-Directory: t\n";
        let list = read_list("autopkgtest", text, &quote).expect("good");
        let names: Vec<&str> = list.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["smoke", "net-check", "whole", "command2", "odd"]);
        assert!(list[0].as_root && !list[0].is_silent && list[0].script.contains("debian/tests/smoke"));
        assert!(
            !list[2].as_root && list[2].is_silent && list[2].skip == Some(77) && list[2].script.contains("./run --all")
        );
        assert!(list[3].script.contains("true &&\nfalse"), "{}", list[3].script);
        assert!(list[4].skipped.as_deref().is_some_and(|why| why.contains("made-up")), "{list:?}");
        for bad in ["", "Depends: x\n", "Tests a\n", "Tests: ../x\n", "Tests: a\nTests: b\n"] {
            assert!(read_list("autopkgtest", bad, &quote).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_of_names_has_each_once() {
        let list = read_names("a\r\n\nb; rm -rf /\n", ("{name}", "./t {name} {x}"), &quote).expect("good");
        let scripts: Vec<&str> = list.iter().map(|test| test.script.as_str()).collect();
        assert_eq!(scripts, ["./t 'a' {x}", "./t 'b; rm -rf /' {x}"]);
        for bad in ["a\na\n", "--version\n", "a\0b\n"] {
            assert!(read_names(bad, ("{name}", "{name}"), &quote).is_err(), "{bad:?}");
        }
        let paths = ["t/a".to_owned(), "--version".to_owned(), "/x".to_owned()];
        let list = read_paths(&paths, ("{path}", "sh {path}"), &quote);
        let scripts: Vec<&str> = list.iter().map(|test| test.script.as_str()).collect();
        assert_eq!(scripts, ["sh './t/a'", "sh './--version'", "sh '/x'"]);
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(tool in 0usize..8, text in "[a-zA-Z:#/ ,\\n\\t()=é-]{0,200}") {
            let tools = ["autopkgtest", "bats", "cargo", "ctest", "go", "kselftest", "nextest", "pytest"];
            let _ = read_list(tools[tool], &text, &quote);
        }
    }
}
