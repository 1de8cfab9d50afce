//! The command that runs only some tests again, by the habits of the tools. Names of tests are text from a guest: each is one quoted word.

use vmdeck_model::subtest::Subtest;

/// Most bytes of a command: shells and Windows take no longer ones everywhere.
const MOST: usize = 24 * 1024;
/// The templates that have a word.
const WORDS: &[(&str, &str)] = &[
    ("pytest", "pytest {ids}"),
    ("cargo", "cargo test -- --exact {names}"),
    ("nextest", "cargo nextest run -E {nextest}"),
    ("go", "{go}"),
    ("ctest", "ctest --output-on-failure -R {regex}"),
    ("bats", "bats -f {regex} {files}"),
    ("meson", "meson test {titles}"),
    ("prove", "prove {names}"),
];
/// What a template may hold.
const PLACES: &[&str] = &["names", "titles", "ids", "regex", "filter", "files", "nextest", "go"];

/// Returns the words that stand for a template.
pub fn rerun_words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, _)| *word)
}

/// Returns what is wrong with a template, if anything is.
pub fn check_rerun(template: &str) -> Result<(), String> {
    if WORDS.iter().any(|(word, _)| *word == template.trim()) {
        return Ok(());
    }
    let known = || PLACES.iter().map(|place| format!("{{{place}}}")).collect::<Vec<_>>().join(", ");
    let mut has_place = false;
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        let is_word = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
        if let Some(name) = after.split_once('}').map(|(name, _)| name).filter(is_word) {
            if !PLACES.contains(&name) {
                return Err(format!("`{{{name}}}` is none of {}", known()));
            }
            has_place = true;
        }
        rest = after;
    }
    if has_place {
        return Ok(());
    }
    let words: Vec<&str> = rerun_words().collect();
    Err(format!("it is no known word ({}), and holds none of {}", words.join(", "), known()))
}

/// Returns the command that runs these tests again; `None` = they cannot be named in one. `quote` makes one word of any text.
pub fn rerun_command(template: &str, tests: &[&Subtest], quote: &dyn Fn(&str) -> String) -> Option<String> {
    let template = template.trim();
    let template = WORDS.iter().find(|(word, _)| *word == template).map_or(template, |(_, template)| template);
    if tests.is_empty() || tests.iter().any(|test| test.name.contains('\u{fffd}') || test.name.ends_with('…')) {
        return None;
    }
    let is_doc_test = |test: &&&Subtest| test.name.contains(" - ") && test.name.contains("(line ");
    if template.contains("--exact") && tests.iter().any(|test| is_doc_test(&test)) {
        // Cargo finds no doc test by its exact name.
        return None;
    }
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let place = after.split_once('}').and_then(|(name, after)| Some((fill(name, tests, quote)?, after)));
        if let Some((text, after)) = place {
            out.push_str(&text?);
            rest = after;
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(rest);
    (out.len() <= MOST).then_some(out)
}

/// Returns what stands for a place; the outer `None` = it is none of ours, the inner = the tests cannot be named so.
#[expect(clippy::option_option, reason = "a place that is not ours stays, one that cannot be filled ends it")]
fn fill(name: &str, tests: &[&Subtest], quote: &dyn Fn(&str) -> String) -> Option<Option<String>> {
    let each = |text: &dyn Fn(&Subtest) -> String| {
        let mut words: Vec<String> = tests.iter().map(|test| quote(&text(test))).collect();
        words.dedup();
        Some(words.join(" "))
    };
    Some(match name {
        "names" => each(&|test| plain(&test.name).to_owned()),
        // What is before a slash with blanks is a suite, which meson does not take.
        "titles" => each(&|test| {
            let title = plain(test.title());
            title.rsplit_once(" / ").map_or(title, |(_, title)| title).to_owned()
        }),
        "ids" => each(&|test| pytest_id(test)),
        "regex" => {
            let all: Vec<String> = tests.iter().map(|test| regex_of(plain(test.title()))).collect();
            Some(quote(&format!("^({})$", all.join("|"))))
        }
        "filter" => {
            let all: Vec<String> = tests.iter().map(|test| plain(&test.name).replace("::", ".")).collect();
            Some(quote(&all.join(":")))
        }
        "files" => {
            let mut files: Vec<&str> = Vec::new();
            for test in tests {
                match test.file.as_deref().or(test.class.as_deref()) {
                    Some(file) if !files.contains(&file) => files.push(file),
                    Some(_) => {}
                    None => return Some(None),
                }
            }
            Some(files.iter().map(|file| quote(file)).collect::<Vec<_>>().join(" "))
        }
        "nextest" => {
            let one = |test: &&Subtest| match &test.class {
                Some(binary) => format!("(binary_id(={binary}) & test(={}))", test.title()),
                None => format!("test(={})", plain(&test.name)),
            };
            Some(quote(&tests.iter().map(one).collect::<Vec<_>>().join(" | ")))
        }
        "go" => go(tests, quote),
        _ => return None,
    })
}

/// Returns a name without the number that tells it from an earlier one of the same name.
fn plain(name: &str) -> &str {
    match name.rsplit_once(" #") {
        Some((plain, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => plain,
        _ => name,
    }
}

/// Returns the node id of a test: its own text has it, its `JUnit` report has a module in place of the file.
fn pytest_id(test: &Subtest) -> String {
    let name = plain(&test.name);
    if name.split("::").next().is_some_and(|file| file.strip_suffix(".py").is_some()) {
        return name.to_owned();
    }
    let (Some(class), Some(file)) = (&test.class, &test.file) else { return name.to_owned() };
    let module = file.trim_end_matches(".py").replace(['/', '\\'], ".");
    let classes = class.strip_prefix(&module).unwrap_or_default().trim_start_matches('.');
    let classes = if classes.is_empty() { String::new() } else { format!("{}::", classes.replace('.', "::")) };
    format!("{file}::{classes}{}", plain(test.title()))
}

/// Returns a call for each test: one pattern for several would take in others as well.
fn go(tests: &[&Subtest], quote: &dyn Fn(&str) -> String) -> Option<String> {
    let mut calls = vec!["s=0".to_owned()];
    for test in tests {
        let package = test.class.as_deref()?;
        let parts: Vec<String> = plain(test.title()).split('/').map(|part| format!("^{}$", regex_of(part))).collect();
        calls.push(format!("go test -json -count=1 {} -run {} || s=$?", quote(package), quote(&parts.join("/"))));
    }
    calls.push("(exit $s)".to_owned());
    Some(calls.join("\n"))
}

fn regex_of(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_alphanumeric() && !" _-/:=,<>'\"#%&@!~`".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::subtest::SubtestStatus;

    fn test(name: &str, class: Option<&str>, file: Option<&str>) -> Subtest {
        Subtest {
            name: name.into(),
            class: class.map(str::to_owned),
            status: SubtestStatus::Failed,
            took_ms: None,
            file: file.map(str::to_owned),
            line: None,
            message: String::new(),
            flaky: false,
            quarantined: None,
        }
    }

    #[test]
    fn each_tool_is_asked_in_its_own_way_and_names_stay_words() {
        let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let rows: &[(&str, &[Subtest], &str)] = &[
            (
                "pytest",
                &[
                    test("t.py::TestA::x[a b]", Some("t.py"), Some("t.py")),
                    test("d.t.B::y", Some("d.t.B"), Some("d/t.py")),
                ],
                "pytest 't.py::TestA::x[a b]' 'd/t.py::B::y'",
            ),
            ("cargo", &[test("tests::a", None, None)], "cargo test -- --exact 'tests::a'"),
            (
                "nextest",
                &[test("s::it::a", Some("s::it"), None)],
                "cargo nextest run -E '(binary_id(=s::it) & test(=a))'",
            ),
            (
                "go",
                &[test("e.org/p::TestA/b.c", Some("e.org/p"), None)],
                "s=0\ngo test -json -count=1 'e.org/p' -run '^TestA$/^b\\.c$' || s=$?\n(exit $s)",
            ),
            ("ctest -R {regex}", &[test("a.b", None, None), test("c", None, None)], r"ctest -R '^(a\.b|c)$'"),
            ("bats", &[test("it's $(x)", None, Some("a.bats"))], r"bats -f '^(it'\''s \$\(x\))$' 'a.bats'"),
            ("meson", &[test("s:proto / tap", None, None)], "meson test 'tap'"),
            (
                "./g --gtest_filter={filter}",
                &[test("A.B", None, None), test("A::C", None, None)],
                "./g --gtest_filter='A.B:A.C'",
            ),
            ("run {names} ${HOME}", &[test("x #2", None, None)], "run 'x' ${HOME}"),
        ];
        for (template, tests, want) in rows {
            let tests: Vec<&Subtest> = tests.iter().collect();
            assert_eq!(rerun_command(template, &tests, &quote).as_deref(), Some(*want), "{template}");
        }
        for (template, tests) in [
            ("bats", test("x", None, None)),
            ("go", test("TestA", None, None)),
            ("cargo", test("bad \u{fffd}", None, None)),
            ("cargo", test(&"x".repeat(MOST), None, None)),
        ] {
            assert_eq!(rerun_command(template, &[&tests], &quote), None, "{template}");
        }
    }

    #[test]
    fn a_template_says_where_the_names_go() {
        for good in ["pytest", "ctest -R {regex}", "x ${A} {names}"] {
            assert_eq!(check_rerun(good), Ok(()), "{good}");
        }
        for bad in ["pytests", "cargo test", "x {name}"] {
            assert!(check_rerun(bad).is_err(), "{bad}");
        }
    }
}
