//! The records that a word means, what failed in them, and their index: whole, damaged, stale.

use super::{
    index::{append, path},
    *,
};
use crate::host::clock;

#[test]
fn only_what_a_run_has_named_is_a_record() {
    assert!(is_record_name("20261121T080000-5bba890d"));
    for name in ["", "..", "20261121T080000", "20261121T080000-", "2026-5bba890d", "src", "20261121T08000x-5bba890d"] {
        assert!(!is_record_name(name), "{name}");
    }
}

#[test]
fn a_word_names_one_run_or_says_why_not() {
    let home = tempfile::tempdir().expect("tempdir");
    let said = |word: Option<&str>| find(home.path(), word).expect_err("none").to_string();
    assert!(said(None).contains("there is no record in"));
    for name in ["20261121T080000-5bba890d", "20261121T080001-5bba7777", "20261120T080000-01234567"] {
        fs::create_dir_all(home.path().join(name)).expect("mkdir");
        fs::write(home.path().join(name).join("events.jsonl"), "").expect("write");
    }
    let name = |word: Option<&str>| {
        let found = find(home.path(), word).expect("found");
        found.file_name().expect("name").to_string_lossy().into_owned()
    };
    assert_eq!(name(None), "20261121T080001-5bba7777", "the last one");
    for word in ["5bba8", "5bba890d", "5bba890d01020304", "20261121T080000-5bba890d"] {
        assert_eq!(name(Some(word)), "20261121T080000-5bba890d", "{word}");
    }
    assert_eq!(
        name(Some(&home.path().join("20261120T080000-01234567").display().to_string())),
        "20261120T080000-01234567"
    );
    assert!(said(Some("5bba")).contains("begins the ids of 2 runs"));
    for word in ["5bb", "smoke/x", "..", ""] {
        assert!(said(Some(word)).contains("is neither"), "{word}");
    }
}

#[test]
fn what_the_last_runs_said_of_a_case_is_in_their_order() {
    let home = tempfile::tempdir().expect("tempdir");
    for (n, verdict) in ["failed", "skipped", "passed", "flaky"].iter().enumerate() {
        let name = format!("20261121T08000{n}-0000000{n}");
        summary(home.path(), &name, 0);
        let file = home.path().join(name).join("summary.json");
        let case = format!(r#","cases":[{{"guest":"deb","suite":"s","case":"a","verdict":"{verdict}"}}]}}"#);
        let text = fs::read_to_string(&file).expect("read");
        fs::write(file, text.trim_end_matches('}').to_owned() + "}" + &case).expect("write");
    }
    fs::create_dir_all(home.path().join("20261121T080009-00000009")).expect("a run that died");
    let verdicts = |most| {
        let all = trends(home.path(), most).cases;
        all["s/a@deb"].iter().map(|case| case.verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(30), [Verdict::Failed, Verdict::Passed, Verdict::Flaky]);
    assert_eq!(verdicts(1), [Verdict::Flaky]);
}

#[test]
fn boots_are_listed_but_not_of_machines_that_were_used_again() {
    let home = tempfile::tempdir().expect("tempdir");
    let guests = [
        r#"{"guest":"deb","boot_ms":90,"phases_ms":{"firmware":20,"kernel":70},"reused":null}"#,
        r#"{"guest":"deb","boot_ms":null,"phases_ms":{},"reused":2}"#,
        r#"{"guest":"deb","boot_ms":null,"phases_ms":{"firmware":25},"reused":null}"#,
    ];
    for (n, guest) in guests.iter().enumerate() {
        let name = format!("20261121T08000{n}-0000000{n}");
        summary(home.path(), &name, 0);
        let file = home.path().join(name).join("summary.json");
        let text = fs::read_to_string(&file).expect("read");
        let text = text.trim_end_matches('}').to_owned() + &format!(r#"}},"cases":[],"guests":[{guest}]}}"#);
        fs::write(file, text).expect("write");
    }
    let boots = trends(home.path(), 30).boots;
    let told: Vec<_> = boots[&GuestId::new("deb").expect("name")].iter().map(|b| (b.run.as_str(), b.boot_ms)).collect();
    assert_eq!(told, [("00000000", Some(90)), ("00000002", None)]);
}

#[test]
fn the_last_time_that_a_case_passed_is_found_before_a_run() {
    let home = tempfile::tempdir().expect("tempdir");
    for (n, verdict) in ["passed", "passed", "failed", "passed"].iter().enumerate() {
        let name = format!("20261121T08000{n}-0000000{n}");
        summary(home.path(), &name, 1);
        let file = home.path().join(name).join("summary.json");
        let more = format!(
            r#","cases":[{{"guest":"deb","suite":"s","case":"a","verdict":"{verdict}","took_ms":{n}}}],"guests":[{{"guest":"deb","boot_ms":7{n}}}]}}"#
        );
        let text = fs::read_to_string(&file).expect("read").replace(r#","guests":[]"#, "");
        fs::write(file, text.trim_end_matches('}').to_owned() + "}" + &more).expect("write");
    }
    let found =
        |word: &str, record: &str| last_passed(home.path(), word, &home.path().join(record)).map(|case| case.took_ms);
    assert_eq!(
        found("s/a@deb", "20261121T080003-00000003"),
        Some(1),
        "neither the run itself nor one in which it failed"
    );
    assert_eq!(found("s/a@deb", "20261121T080001-00000001"), Some(0), "nothing that came later");
    assert_eq!(found("s/a@deb", "20261121T080000-00000000"), None);
    assert_eq!(found("s/b@deb", "20261121T080003-00000003"), None);
    assert_eq!(found("s/a@deb", "elsewhere"), Some(3), "a record of another folder is compared with the last");
    let case = last_passed(home.path(), "s/a@deb", Path::new("x")).expect("passed");
    assert_eq!((case.boot_ms, case.run.short()), (Some(73), "00000003"));
}

#[test]
fn what_failed_last_is_what_failed() {
    let home = tempfile::tempdir().expect("tempdir");
    let ended = |case: &str, verdict: &str| {
        format!(
            r#"{{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"case_ended","guest":"deb","suite":"s","case":"{case}","round":1,"verdict":"{verdict}","exit":1,"took_ms":1,"message":"","stdout_tail":"","stderr_tail":""}}"#
        )
    };
    let lines = [
        ended("a", "failed"),
        ended("b", "infra"),
        ended("c", "flaky"),
        ended("a", "passed"),
        ended("d", "failed"),
        ended("e", "cancelled"),
        ended("artifacts", "failed").replace(r#","exit""#, r#","cause":"artifacts","exit""#),
    ];
    fs::write(home.path().join("events.jsonl"), lines.join("\n") + "\n{\"torn").expect("write");
    assert_eq!(view(home.path()).expect("read").failed(), ["s/b@deb", "s/d@deb", "s@deb"]);
    assert!(!is_pinned(home.path()));
    for (on, expected) in [(true, true), (true, true), (false, false), (false, false)] {
        pin(home.path(), on).expect("done");
        assert_eq!(is_pinned(home.path()), expected);
    }
}

fn summary(folder: &Path, name: &str, exit: u8) {
    fs::create_dir_all(folder.join(name)).expect("mkdir");
    let tally = r#"{"passed":1,"failed":0,"infra":0,"skipped":0,"cancelled":0,"flaky":0}"#;
    let text = format!(r#"{{"run":"{}00000000","exit":{exit},"took_ms":5,"tally":{tally}}}"#, &name[16..]);
    fs::write(folder.join(name).join("summary.json"), text).expect("write");
}

#[test]
fn ten_thousand_records_are_listed_by_one_file() {
    let home = tempfile::tempdir().expect("tempdir");
    let name = |n: usize| format!("20261121T{:02}{:02}{:02}-{n:08x}", n / 3600, n / 60 % 60, n % 60);
    (0..10_000).for_each(|n| summary(home.path(), &name(n), 0));
    assert_eq!(list(home.path()).len(), 10_000);
    let start = clock::now();
    let all = list(home.path());
    assert!(all.is_sorted_by(|a, b| a.name >= b.name) && all.len() == 10_000);
    assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
}

#[test]
fn the_index_may_be_damaged_stale_or_missing() {
    let home = tempfile::tempdir().expect("tempdir");
    let (first, second) = ("20261121T080000-00000001", "20261122T080000-00000002");
    summary(home.path(), first, 0);
    assert_eq!(list(home.path())[0].began.to_rfc3339(), "2026-11-21T08:00:00+00:00");
    summary(home.path(), second, 1);
    let text = fs::read_to_string(path(home.path())).expect("index");
    fs::write(path(home.path()), format!("{{\"name\":\n{text}\nnonsense")).expect("damaged");
    let names = || list(home.path()).into_iter().map(|run| run.name).collect::<Vec<_>>();
    assert_eq!(names(), [second, first]);
    fs::remove_dir_all(home.path().join(first)).expect("pruned");
    assert_eq!(names(), [second]);
    let gone: Vec<PastRun> = (0..1100)
        .map(|n| PastRun { name: format!("20250101T000000-{n:08x}"), ..list(home.path())[0].clone() })
        .collect();
    append(home.path(), &gone);
    assert_eq!(names(), [second]);
    assert_eq!(fs::read_to_string(path(home.path())).expect("index").lines().count(), 1, "written anew");
}
