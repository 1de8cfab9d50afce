//! Every output of a real tool is read as a person reads it, and none that is cut off reads as well.

use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};
use vmdeck_model::subtest::{Subtest, SubtestStatus};
use vmdeck_results::{Format, Judgement, ResultFile, ResultStream, ResultSummary, fuzz, judge, read_files};

#[derive(Deserialize)]
struct Want {
    exit: Option<i32>,
    complete: bool,
    verdict: String,
    tests: Vec<WantedTest>,
}

#[derive(Deserialize)]
struct WantedTest {
    name: String,
    status: SubtestStatus,
    took_ms: Option<u64>,
    file: Option<String>,
    line: Option<u32>,
    message: Option<String>,
    #[serde(default)]
    flaky: bool,
}

struct Fixture {
    name: String,
    path: PathBuf,
    bytes: Vec<u8>,
    want: Want,
}

impl Fixture {
    /// Returns whether it is the file of a single test of Automake.
    fn is_trs(&self) -> bool {
        self.path.extension().is_some_and(|ending| ending == "trs")
    }

    /// Returns the word with which a config would declare it.
    fn format(&self) -> Format {
        let folder = self.name.split('/').next().expect("a folder");
        let ending = self.path.extension().and_then(|ending| ending.to_str()).expect("an ending");
        let word = match (folder, ending) {
            ("nunit", _) => "nunit",
            (_, "trx") => "trx",
            (_, "xml") => "junit",
            ("libtest", "json") => "libtest-json",
            ("node", _) => "tap",
            ("vitest", "tap") => "tap",
            (folder, _) => folder,
        };
        Format::of_word(word).unwrap_or_else(|| panic!("{word} is no format"))
    }
}

fn fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut out = Vec::new();
    for folder in fs::read_dir(&root).expect("fixtures").flatten().filter(|entry| entry.path().is_dir()) {
        for entry in fs::read_dir(folder.path()).expect("a folder").flatten() {
            let path = entry.path();
            let file = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            if file.ends_with(".want.json") {
                continue;
            }
            let stem = file.rsplit_once('.').expect("an ending").0;
            let want = fs::read_to_string(path.with_file_name(format!("{stem}.want.json"))).expect("what is wanted");
            out.push(Fixture {
                name: format!("{}/{file}", folder.file_name().to_string_lossy()),
                bytes: fs::read(&path).expect("a fixture"),
                path,
                want: serde_json::from_str(&want).expect("readable"),
            });
        }
    }
    assert!(out.len() > 90, "{} fixtures", out.len());
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn read(format: Option<Format>, bytes: &[u8]) -> (Vec<Subtest>, ResultSummary) {
    let (mut stream, mut out) = (ResultStream::new(format), Vec::new());
    for piece in bytes.chunks(1000) {
        stream.feed(piece, &mut |subtest| out.push(subtest));
    }
    let summary = stream.finish(&mut |subtest| out.push(subtest));
    (out, summary)
}

/// Returns the verdict as the engine makes it.
fn verdict(exit: Option<i32>, summary: &ResultSummary) -> String {
    let Some(code) = exit else {
        return if summary.kernel_panic.is_some() { "failed" } else { "infra" }.to_owned();
    };
    match judge(summary, &format!("exit {code}"), code == 0, false) {
        Judgement::Passed => "passed".into(),
        Judgement::Failed(_) => "failed".into(),
        Judgement::Skipped => "skipped".into(),
    }
}

/// Returns what is not as it is wanted.
fn differences(fixture: &Fixture, how: &str, (tests, summary): &(Vec<Subtest>, ResultSummary)) -> Vec<String> {
    let want = &fixture.want;
    let mut out = Vec::new();
    let mut differ = |what: String| out.push(format!("{} as {how}: {what}", fixture.name));
    let names = |tests: Vec<(&str, SubtestStatus)>| {
        tests.iter().map(|(name, status)| format!("{status} {name}")).collect::<Vec<_>>()
    };
    let got = names(tests.iter().map(|test| (test.name.as_str(), test.status)).collect());
    let wanted = names(want.tests.iter().map(|test| (test.name.as_str(), test.status)).collect());
    if got != wanted {
        differ(format!("tests\n     got {got:#?}\n  wanted {wanted:#?}"));
    }
    if summary.incomplete.is_empty() != want.complete {
        differ(format!("complete: {:?}", summary.incomplete));
    }
    let verdict = verdict(want.exit, summary);
    if verdict != want.verdict {
        differ(format!("{verdict}, wanted {}", want.verdict));
    }
    for (test, want) in tests.iter().zip(&want.tests) {
        let near = |a: u64, b: u64| a.abs_diff(b) <= 1;
        if want.took_ms.is_some_and(|ms| test.took_ms.is_none_or(|got| !near(got, ms))) {
            differ(format!("{}: took {:?}, wanted {:?}", test.name, test.took_ms, want.took_ms));
        }
        if want.file.is_some() && test.file != want.file || want.line.is_some() && test.line != want.line {
            differ(format!(
                "{}: at {:?}:{:?}, wanted {:?}:{:?}",
                test.name, test.file, test.line, want.file, want.line
            ));
        }
        if want.message.as_ref().is_some_and(|message| !test.message.contains(message.as_str())) {
            differ(format!("{}: says {:?}, wanted {:?}", test.name, test.message, want.message));
        }
        if test.flaky != want.flaky {
            differ(format!("{}: flaky {}", test.name, test.flaky));
        }
    }
    out
}

#[test]
fn every_fixture_reads_as_it_must() {
    let mut all = Vec::new();
    for fixture in fixtures() {
        // The file of a single test has no names in it.
        if !fixture.is_trs() {
            all.extend(differences(&fixture, "declared", &read(Some(fixture.format()), &fixture.bytes)));
        }
        let is_nothing = ["junit/empty-file.xml", "junit/not-junit.xml"].contains(&fixture.name.as_str());
        let found = read(None, &fixture.bytes);
        if is_nothing {
            assert!(!found.1.is_recognized, "{} is nothing of ours", fixture.name);
        } else if !fixture.is_trs() {
            all.extend(differences(&fixture, "auto", &found));
        }
        let mut out = Vec::new();
        let name = fixture.name.clone();
        let summary = read_files(&[ResultFile { path: fixture.path.clone(), name }], &mut |test| out.push(test));
        all.extend(differences(&fixture, "a file", &(out, summary)));
    }
    assert!(all.is_empty(), "{} differences:\n{}", all.len(), all.join("\n"));
}

#[test]
fn what_is_cut_at_a_line_end_is_never_green() {
    for fixture in fixtures() {
        // Nothing marks the end of these; what the command says beside them does.
        let has_no_end = ["meson/mixed.json", "ktap/no-plan.tap"].contains(&fixture.name.as_str());
        // What makes these red comes after a whole report.
        let is_whole_before = ["tap/extra.tap", "tap/late-bail.tap"].contains(&fixture.name.as_str());
        if fixture.want.verdict != "failed" || has_no_end || is_whole_before || fixture.is_trs() {
            continue;
        }
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &fixture.bytes).map(|at| at + 1).collect();
        for end in ends.into_iter().filter(|end| *end < fixture.bytes.len()) {
            for format in [Some(fixture.format()), None] {
                let (_, summary) = read(format, &fixture.bytes[..end]);
                if format.is_none() && !summary.is_recognized {
                    continue;
                }
                let verdict = verdict(Some(0), &summary);
                assert_ne!(verdict, "passed", "{} cut at {end}, {format:?}: {summary:?}", fixture.name);
            }
        }
    }
}

#[test]
fn tests_of_the_same_name_in_two_files_get_their_names() {
    let home = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for (name, status) in [("a.tap", "ok"), ("b.tap", "not ok")] {
        let path = home.path().join(name);
        fs::write(&path, format!("1..2\n{status} 1 - same\nok 2 - only {name}\n")).expect("written");
        files.push(ResultFile { path, name: format!("out/{name}") });
    }
    let mut names = Vec::new();
    let summary = read_files(&files, &mut |test| names.push(test.name));
    assert_eq!(names, ["out/a.tap > same", "only a.tap", "out/b.tap > same", "only b.tap"]);
    assert_eq!((summary.tally.passed, summary.tally.failed), (3, 1));
}

#[test]
fn hostile_bytes_change_nothing_but_what_is_read() {
    let all = fixtures();
    let formats: Vec<Option<Format>> =
        std::iter::once(None).chain(all.iter().map(|fixture| Some(fixture.format()))).collect();
    let mut rng = fastrand::Rng::with_seed(17);
    for fixture in &all {
        for format in [None, Some(fixture.format())] {
            fuzz::read(format, &fixture.bytes);
        }
    }
    for (name, word, ..) in OUTPUTS {
        fuzz::read(None, &output(name));
        fuzz::read(Format::of_word(word), &output(name));
    }
    let words: &[&[u8]] = &[
        b"\n",
        b"\0",
        b"\x1b[31m",
        b"{",
        b"}",
        b"<",
        b"</testsuite>",
        b"1..",
        b"ok 1 - ",
        b"not ok",
        b"    ",
        b"# ",
        b"\xb3\x2b",
        b"&#0;",
        b"\"",
        b"TAP version 14\n",
        b"# Subtest: x\n",
        b"99999999999999999999",
        b"\xff",
        b"running 3 tests\n",
        b"::error::",
    ];
    for _ in 0..6_000 {
        let fixture = &all[rng.usize(..all.len())];
        let mut data = fixture.bytes.clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..=data.len());
            match rng.u8(..4) {
                0 => data.truncate(at),
                1 => drop(data.splice(at..at, words[rng.usize(..words.len())].iter().copied())),
                2 if at < data.len() => data[at] = rng.u8(..),
                _ => {
                    let end = (at + rng.usize(..200)).min(data.len());
                    let piece = data[at..end].to_vec();
                    let to = rng.usize(..=data.len());
                    drop(data.splice(to..to, piece));
                }
            }
        }
        fuzz::read(formats[rng.usize(..formats.len())], &data);
        fuzz::read(Some(fixture.format()), &data);
    }
}

/// Outputs of real tools that are easily misread, with what they come to where the status says nothing (as behind `| cat`): the format that is
/// declared, the verdict, the counts, and a word of what is missing.
const OUTPUTS: &[(&str, &str, &str, &str, &str)] = &[
    // What any program may write.
    ("auto-l1.txt", "auto", "nothing", "none", ""),
    ("auto-l2.txt", "auto", "nothing", "none", ""),
    ("auto-l20.txt", "auto", "nothing", "none", ""),
    ("auto-l29.txt", "auto", "nothing", "none", ""),
    ("auto-l6.txt", "auto", "nothing", "none", ""),
    ("node-1-spec.txt", "auto", "nothing", "none", ""),
    ("unittest-1.txt", "auto", "nothing", "none", ""),
    // A log that is shown repeats what failed; a run that was killed is followed by a whole one.
    ("automake-1-verbose.txt", "automake", "failed", "1 passed, 2 failed, 1 error, 1 skipped, 1 xfail, 1 xpass", ""),
    ("automake-2-two-runs-cut.txt", "automake", "failed", "3 passed", "a run did not end"),
    ("automake-3-cut-in-the-second-folder.txt", "auto", "failed", "1 passed, 1 failed", "no closing line"),
    ("meson-1-errorlogs.txt", "meson", "failed", "2 passed, 4 failed, 1 error, 1 skipped, 1 xfail, 1 xpass", ""),
    ("meson-4-auto-green.txt", "auto", "passed", "2 passed", ""),
    ("meson-5-two-runs-cut.txt", "meson", "failed", "3 passed", "a run did not end"),
    ("prove-7-two-runs-cut.txt", "prove", "failed", "2 passed", "a run did not end"),
    ("pytest-14-crash-then-good.txt", "pytest", "failed", "5 passed, 1 failed, 1 error", "a session did not end"),
    ("pytest-7b-two-runs-cut.txt", "pytest", "failed", "2 passed, 1 error", "a session did not end"),
    // What only the last lines say.
    ("prove-2-noplan.txt", "prove", "failed", "1 passed, 1 failed", ""),
    ("prove-3-bail.txt", "prove", "failed", "1 passed, 1 failed", "bail out"),
    ("prove-4-many.txt", "prove", "failed", "2 passed, 6 failed, 1 skipped", ""),
    ("pytest-9-subtest.txt", "pytest", "failed", "2 passed, 1 failed", ""),
    ("pytest-9b-s-nosummary.txt", "pytest", "failed", "1 passed, 1 failed", ""),
    ("pytest-10b-logcli-nosummary.txt", "pytest", "failed", "1 passed, 1 failed", ""),
    ("gtest-1-brief-green.txt", "gtest", "passed", "4 passed", ""),
    ("gtest-2-brief.txt", "gtest", "failed", "9 passed, 6 failed", ""),
    ("gtest-3-suite-setup.txt", "gtest", "failed", "1 passed, 1 error, 1 skipped", ""),
    // Stopped in mid-test, by the tool's own exit.
    ("pytest-2-exit0.txt", "pytest", "failed", "1 passed, 1 error", "stopped"),
    ("pytest-3-kbd.txt", "pytest", "failed", "1 passed, 1 error", "stopped: KeyboardInterrupt"),
    ("pytest-4-timeout-thread.txt", "pytest", "failed", "1 passed, 1 error", "a test did not end"),
    // Options and plugins.
    ("pytest-8-two-runs-cut-q.txt", "pytest", "passed", "4 passed", ""),
    ("pytest-12-q-auto.txt", "auto", "failed", "5 passed, 1 failed", ""),
    ("pytest-15-xdist-td.txt", "pytest", "failed", "11 passed, 14 failed, 3 errors, 4 skipped, 3 xfail, 1 xpass", ""),
    ("pytest-16-dash-name.txt", "pytest", "failed", "1 passed, 9 failed", ""),
    ("prove-1-v.txt", "prove", "passed", "1 passed", ""),
    ("prove-5-timer.txt", "prove", "passed", "1 passed", ""),
    ("prove-6-v-auto.txt", "auto", "passed", "1 passed", ""),
    ("go-1-v.txt", "gotest", "failed", "11 passed, 5 failed, 1 skipped", ""),
    ("go-2-build.txt", "gotest", "failed", "1 passed, 1 error", ""),
    ("go-3-count.txt", "gotest", "passed", "2 passed", ""),
    ("go-6-plain.txt", "auto", "failed", "5 failed", ""),
    ("go-7-testmain-exit.txt", "gotest", "failed", "1 passed, 1 failed", ""),
    ("go-8-nonl.json", "gotest", "passed", "2 passed", ""),
    ("go-8-nonl.txt", "gotest", "passed", "2 passed", ""),
    ("go-9-count.json", "gotest", "passed", "2 passed", ""),
    ("go-10-single.txt", "gotest", "failed", "2 passed, 2 failed", ""),
    ("libtest-json-1.txt", "libtest-json", "failed", "8 passed, 8 failed, 3 skipped", ""),
    ("ctest-1.txt", "ctest", "failed", "3 passed, 9 failed, 2 errors, 3 skipped", ""),
    ("ctest-3-disabled.txt", "ctest", "skipped", "1 skipped", ""),
    ("tap-1-todo-subtest.txt", "tap", "passed", "1 passed, 1 xfail", ""),
];

fn output(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outputs").join(name)).expect("an output")
}

#[test]
fn what_is_easily_misread_is_read_right_where_the_status_says_nothing() {
    for (name, word, verdict, counts, lack) in OUTPUTS {
        let (_, summary) = read(Format::of_word(word), &output(name));
        let got = if summary.is_recognized { self::verdict(Some(0), &summary) } else { "nothing".to_owned() };
        assert_eq!((got.as_str(), summary.tally.to_string().as_str()), (*verdict, *counts), "{name}: {summary:?}");
        let lacks = summary.incomplete.join("; ");
        assert!(lacks.contains(lack) && lack.is_empty() == lacks.is_empty(), "{name}: {lacks}");
    }
}
