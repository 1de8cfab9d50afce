//! The tests that cases ran themselves, in the `JUnit` report: a `testsuite` for each case, whose own verdict stands with its guest's.
//!
//! Readers tell tests apart by `classname` and `name` alone, and split the first at its dots.

use super::{
    junit_xml::{self, TestCounts, TestKind, clean, seconds},
    plan_index::PlanIndex,
};
use quick_xml::{
    Writer,
    events::{BytesStart, BytesText, Event as Xml},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};
use vmdeck_model::{
    ids::{CaseId, GuestId, SuiteId},
    subtest::{Subtest, SubtestStatus},
};

/// A case in one of the rounds.
type CaseKey = (GuestId, SuiteId, CaseId, u32);

/// The sub-tests of every case so far.
#[derive(Default)]
pub(super) struct JunitSubtests {
    cases: BTreeMap<CaseKey, Attempts>,
}

/// The last attempt at a case, and what failed before it.
#[derive(Default)]
struct Attempts {
    number: u32,
    /// Whether the next attempt runs only what failed.
    is_partial: bool,
    last: Vec<Subtest>,
    failed_before: BTreeMap<String, String>,
}

impl Attempts {
    fn kinds(&self) -> impl Iterator<Item = TestKind> {
        self.last.iter().map(kind)
    }
}

fn kind(subtest: &Subtest) -> TestKind {
    match subtest.status {
        // Readers know only failures that count.
        SubtestStatus::Failed | SubtestStatus::Error if subtest.quarantined.is_some() => TestKind::Skipped,
        SubtestStatus::Failed => TestKind::Failure,
        SubtestStatus::Error => TestKind::Error,
        SubtestStatus::Skipped | SubtestStatus::Xfail => TestKind::Skipped,
        SubtestStatus::Passed | SubtestStatus::Xpass => TestKind::Passed,
    }
}

impl JunitSubtests {
    /// Takes a sub-test that has ended.
    pub(super) fn add(&mut self, key: CaseKey, attempt: u32, subtest: &Subtest) {
        let of = self.cases.entry(key).or_default();
        if attempt > of.number {
            of.number = attempt;
            let (failed, rest): (Vec<Subtest>, Vec<Subtest>) =
                of.last.drain(..).partition(|subtest| subtest.status.is_failure());
            of.failed_before.extend(failed.into_iter().map(|subtest| (subtest.name, subtest.message)));
            of.last = if of.is_partial { rest } else { Vec::new() };
        }
        of.last.push(subtest.clone());
    }

    /// Takes the beginning of an attempt, which is perhaps only of what failed.
    pub(super) fn begin(&mut self, key: &CaseKey, is_partial: bool) {
        if let Some(of) = self.cases.get_mut(key) {
            of.is_partial = is_partial;
        }
    }

    /// Returns what each of them is in the words of the format.
    pub(super) fn kinds(&self) -> impl Iterator<Item = TestKind> {
        self.cases.values().flat_map(Attempts::kinds)
    }

    /// Writes a suite for each case.
    pub(super) fn write(&self, out: &mut Writer<Vec<u8>>, index: &PlanIndex, began: &str) -> io::Result<()> {
        for ((guest, suite, case, round), attempts) in &self.cases {
            let took = attempts.last.iter().filter_map(|subtest| subtest.took_ms).sum();
            let of_round = if *round == 1 { String::new() } else { format!(" (round {round})") };
            let name = format!("{suite}/{case}@{guest}{of_round}");
            let mut tag = TestCounts::of(attempts.kinds()).on(BytesStart::new("testsuite"), &name, took);
            tag.push_attribute(("timestamp", began));
            out.write_event(Xml::Start(tag.borrow()))?;
            let number = attempts.number.to_string();
            let about = [("guest", guest.as_str()), ("attempt", number.as_str())];
            junit_xml::properties(out, about.into_iter().chain(case.values()))?;
            let parts = [guest.as_str(), suite.as_str(), case.as_str()].map(part);
            let class = format!("{}{of_round}", parts.join("."));
            let mut seen = BTreeSet::new();
            for subtest in &attempts.last {
                one(out, &class, subtest, attempts, index, guest, &mut seen)?;
            }
            out.write_event(Xml::End(tag.to_end()))?;
        }
        Ok(())
    }
}

fn one(
    out: &mut Writer<Vec<u8>>,
    case_class: &str,
    subtest: &Subtest,
    attempts: &Attempts,
    index: &PlanIndex,
    guest: &GuestId,
    seen: &mut BTreeSet<(String, String)>,
) -> io::Result<()> {
    let mut tag = BytesStart::new("testcase");
    let class = subtest.class.as_deref().map_or_else(
        || case_class.to_owned(),
        |class| {
            let class = if subtest.title() == subtest.name { "" } else { class };
            let parts: Vec<String> = class.split(" > ").filter(|part| !part.is_empty()).map(part).collect();
            [&[case_class.to_owned()], &parts[..]].concat().join(".")
        },
    );
    // Two that only their parts told apart may look the same now.
    let (class, mut title) = (clean(&class), clean(subtest.title()));
    if !seen.insert((class.clone(), title.clone())) {
        title = clean(&subtest.name);
        seen.insert((class.clone(), title.clone()));
    }
    let time = seconds(subtest.took_ms.unwrap_or(0));
    tag.extend_attributes([("name", title.as_str()), ("classname", class.as_str()), ("time", time.as_str())]);
    let file = subtest.file.as_ref().map(|file| clean(&index.file_of(guest, file)));
    if let Some(file) = &file {
        tag.push_attribute(("file", file.as_str()));
        if let Some(line) = subtest.line {
            tag.push_attribute(("line", line.to_string().as_str()));
        }
    }
    let message = clean(&subtest.message);
    let place = file.map(|file| subtest.line.map_or(file.clone(), |line| format!("{file}:{line}"))).unwrap_or_default();
    let reason = |out: &mut Writer<Vec<u8>>, name: &str, kind: Option<&str>, message: &str| {
        let mut start = BytesStart::new(name);
        start.push_attribute(("message", message));
        if let Some(kind) = kind {
            start.push_attribute(("type", kind));
        }
        out.write_event(Xml::Start(start.borrow()))?;
        let text = [message, place.as_str()].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>();
        out.write_event(Xml::Text(BytesText::new(&text.join("\n"))))?;
        out.write_event(Xml::End(start.to_end()))
    };
    let before = attempts.failed_before.get(&subtest.name);
    let kind = match (subtest.status, &subtest.quarantined) {
        (SubtestStatus::Failed | SubtestStatus::Error, Some(issue)) => {
            Some(("skipped", None, clean(&format!("failed, in quarantine ({issue}): {}", subtest.message))))
        }
        (status, _) => match status {
            SubtestStatus::Failed => Some(("failure", Some("failed"), message.clone())),
            SubtestStatus::Error => Some(("error", Some("error"), message.clone())),
            SubtestStatus::Skipped => Some(("skipped", None, message.clone())),
            SubtestStatus::Xfail => Some(("skipped", Some("xfail"), format!("expected failure: {message}"))),
            SubtestStatus::Passed | SubtestStatus::Xpass if before.is_some() || subtest.flaky => {
                Some(("flakyFailure", Some("failed"), before.map_or(message.clone(), |before| clean(before))))
            }
            SubtestStatus::Passed | SubtestStatus::Xpass => None,
        },
    };
    let Some((name, kind, message)) = kind else { return out.write_event(Xml::Empty(tag)) };
    out.write_event(Xml::Start(tag.borrow()))?;
    reason(out, name, kind, message.trim_end_matches(": "))?;
    out.write_event(Xml::End(tag.to_end()))
}

/// Returns a part of a `classname`, which readers split at its dots.
fn part(text: &str) -> String {
    text.trim().replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtest(name: &str, class: Option<&str>, status: SubtestStatus) -> Subtest {
        Subtest {
            name: name.into(),
            class: class.map(str::to_owned),
            status,
            took_ms: Some(12),
            file: Some("tests/a.py".into()),
            line: Some(3),
            message: "why <&>".into(),
            flaky: false,
            quarantined: None,
        }
    }

    #[test]
    fn each_is_a_testcase_that_readers_can_tell_apart() {
        let key = |attempt| {
            let names = (GuestId::new("deb"), SuiteId::new("s"), CaseId::new("a.b"));
            let (Ok(guest), Ok(suite), Ok(case)) = names else { panic!("names") };
            ((guest, suite, case, 1), attempt)
        };
        let mut all = JunitSubtests::default();
        for (attempt, name, class, status) in [
            (1, "v1.2 > x", Some("v1.2"), SubtestStatus::Failed),
            (2, "v1.2 > x", Some("v1.2"), SubtestStatus::Passed),
            (2, "pkg::TestX", Some("pkg"), SubtestStatus::Error),
            (2, "plain", None, SubtestStatus::Xfail),
            (2, "late", None, SubtestStatus::Skipped),
        ] {
            let (key, attempt) = key(attempt);
            all.add(key, attempt, &subtest(name, class, status));
        }
        let mut out = Writer::new_with_indent(Vec::new(), b' ', 1);
        all.write(&mut out, &PlanIndex::default(), "2026-01-02T03:04:05").expect("written");
        let xml = String::from_utf8(out.into_inner()).expect("text");
        let document = roxmltree::Document::parse(&xml).expect("well-formed");
        let root = document.root_element();
        assert_eq!((root.attribute("name"), root.attribute("tests")), (Some("s/a.b@deb"), Some("4")));
        assert_eq!((root.attribute("failures"), root.attribute("errors")), (Some("0"), Some("1")));
        let cases: Vec<(Option<&str>, Option<&str>, Option<&str>)> = root
            .children()
            .filter(|node| node.has_tag_name("testcase"))
            .map(|node| {
                let child = node.children().find(roxmltree::Node::is_element).map(|child| child.tag_name().name());
                (node.attribute("classname"), node.attribute("name"), child)
            })
            .collect();
        assert_eq!(
            cases,
            [
                (Some("deb.s.a_b.v1_2"), Some("x"), Some("flakyFailure")),
                (Some("deb.s.a_b.pkg"), Some("TestX"), Some("error")),
                (Some("deb.s.a_b"), Some("plain"), Some("skipped")),
                (Some("deb.s.a_b"), Some("late"), Some("skipped")),
            ]
        );
        assert!(xml.contains("why &lt;&amp;&gt;") && xml.contains(r#"file="tests/a.py" line="3""#), "{xml}");
    }
}
