//! The `JUnit` report, in the form that Jenkins, GitLab and the actions of GitHub read.
//!
//! One `testsuite` for each guest; the totals are counted from the cases.

use super::{
    ReportSink,
    junit_subtests::JunitSubtests,
    junit_xml::{self, TestCounts, TestKind, clean, element, seconds},
    plan_index::PlanIndex,
};
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesStart, BytesText, Event as Xml},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};
use vmdeck_model::{
    event::{Attempt, CaseCause, Event, EventKind},
    ids::GuestId,
    outcome::Verdict,
    run_view::RunView,
};

/// Collects cases and writes the files at the end of the run.
pub struct Junit {
    /// The report of the record.
    file: PathBuf,
    /// Further places that were asked for, which may be anything that can be written.
    copies: Vec<PathBuf>,
    index: PlanIndex,
    run: ReportedRun,
}

/// A whole run, as it is reported.
#[derive(Default)]
struct ReportedRun {
    id: String,
    host: String,
    /// When it began: RFC 3339 without a zone, UTC.
    began: String,
    accelerator: Option<String>,
    /// Of a merged record: the host of each of its runs, by the name that this has there.
    hosts: BTreeMap<String, String>,
    guests: BTreeMap<GuestId, ReportedGuest>,
    subtests: JunitSubtests,
    /// Why it went wrong as a whole.
    error: Option<String>,
}

/// A guest with its cases.
#[derive(Default)]
struct ReportedGuest {
    backend: String,
    image: Option<String>,
    /// How many runs have used its machine since it was made, where an earlier run kept it.
    reused: Option<u32>,
    /// The runs of a merged record that have told of its cases.
    origins: BTreeSet<String>,
    cases: Vec<ReportedCase>,
}

struct ReportedCase {
    /// Its round and its name in the plan, `suite/case`.
    key: (u32, String),
    class: String,
    name: String,
    /// The file and line where it was written.
    place: Option<(String, usize)>,
    cause: Option<CaseCause>,
    /// Where its failure is explained, if it is in quarantine.
    quarantined: Option<String>,
    last: Attempt,
    earlier: Vec<Attempt>,
}

impl ReportedRun {
    /// Returns the host of a guest: of a merged record the hosts of the runs that told of it.
    fn host_of(&self, guest: &ReportedGuest) -> String {
        let hosts: BTreeSet<&str> =
            guest.origins.iter().filter_map(|origin| self.hosts.get(origin)).map(String::as_str).collect();
        if hosts.is_empty() { self.host.clone() } else { hosts.into_iter().collect::<Vec<_>>().join(", ") }
    }
}

impl Junit {
    /// Returns a report that is written to this file of the record, and to each of these further places.
    pub fn new(file: PathBuf, copies: Vec<PathBuf>, index: PlanIndex) -> Self {
        Self { file, copies, index, run: ReportedRun::default() }
    }

    fn case(&mut self, event: &EventKind, view: &RunView) {
        let (EventKind::CaseEnded { guest, suite, case, round, cause, earlier, quarantined, .. }, Some(last)) =
            (event, event.last_attempt())
        else {
            return;
        };
        let key = (*round, format!("{suite}/{case}"));
        let round = if *round == 1 { String::new() } else { format!(" (round {round})") };
        self.run.guests.entry(guest.clone()).or_default().cases.push(ReportedCase {
            key,
            class: format!("{guest}.{suite}"),
            name: format!("{}{round}", view.found.title(suite, case)),
            place: self.index.place(suite, case).map(|place| (place.file, place.line)),
            cause: *cause,
            quarantined: quarantined.clone(),
            last,
            earlier: earlier.clone(),
        });
    }
}

impl ReportSink for Junit {
    fn name(&self) -> String {
        "the JUnit report".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        match &event.kind {
            EventKind::RunStarted { run, host, guests, origins, .. } => {
                self.run.hosts = origins.iter().map(|of| (of.origin.clone(), of.host.clone())).collect();
                self.run.id = run.to_string();
                self.run.host.clone_from(host);
                self.run.began = event.at.format("%Y-%m-%dT%H:%M:%S").to_string();
                for planned in guests.iter().filter(|planned| planned.one_more_of.is_none()) {
                    let guest = self.run.guests.entry(planned.guest.clone()).or_default();
                    guest.backend.clone_from(&planned.backend);
                    guest.image = self.index.image(&planned.guest).map(str::to_owned);
                }
            }
            EventKind::PreflightFinding(finding) if finding.check == "accelerator" => {
                self.run.accelerator = finding.text.split(':').next().map(str::to_owned);
            }
            EventKind::CaseEnded { guest, .. } => {
                if let Some(reused) = view.guests.get(guest).and_then(|seen| seen.reused.as_ref()) {
                    self.run.guests.entry(guest.clone()).or_default().reused = Some(reused.times);
                }
                self.run.guests.entry(guest.clone()).or_default().origins.extend(event.origin.clone());
                self.case(&event.kind, view);
            }
            EventKind::CaseStarted { guest, suite, case, round, only, .. } => {
                let key = (guest.clone(), suite.clone(), case.clone(), *round);
                self.run.subtests.begin(&key, only.is_some());
            }
            EventKind::SubtestEnded { guest, suite, case, round, attempt, subtest } => {
                let key = (guest.clone(), suite.clone(), case.clone(), *round);
                self.run.subtests.add(key, *attempt, subtest);
            }
            EventKind::RunEnded { took_ms, error, .. } => {
                self.run.error.clone_from(error);
                for (id, guest) in &mut self.run.guests {
                    if let Some(seen) = view.guests.get(id) {
                        let places = seen.places();
                        guest.cases.sort_by_key(|case| (case.key.0, places.of(&case.key.1)));
                    }
                }
                let bytes = render(&self.run, &self.index, *took_ms)?;
                vmdeck_files::write(&self.file, &bytes)?;
                return self.copies.iter().try_for_each(|file| write(file, &bytes));
            }
            _ => {}
        }
        Ok(())
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::write(file, bytes).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))
}

/// Writes a report of a run that could not even be planned: one error that says why.
pub fn write_unplanned(file: &Path, reason: &str) -> io::Result<()> {
    let case = whole_run(reason);
    let mut out = begin()?;
    let total = TestCounts::of(std::iter::once(kind(&case)));
    let root = total.on(BytesStart::new("testsuites"), "vmdeck", 0);
    out.write_event(Xml::Start(root.borrow()))?;
    suite_of_run(&mut out, &case)?;
    finish(out, &root).and_then(|bytes| write(file, &bytes))
}

/// Returns a case that stands for the run itself, which went wrong.
fn whole_run(reason: &str) -> ReportedCase {
    let attempt = Attempt {
        verdict: Verdict::Infra,
        exit: None,
        took_ms: 0,
        message: reason.to_owned(),
        stdout_tail: String::new(),
        stderr_tail: String::new(),
    };
    ReportedCase {
        key: (1, String::new()),
        class: "vmdeck".into(),
        name: "run".into(),
        place: None,
        cause: Some(CaseCause::NotBegun),
        last: attempt,
        earlier: Vec::new(),
        quarantined: None,
    }
}

fn suite_of_run(out: &mut Writer<Vec<u8>>, case: &ReportedCase) -> io::Result<()> {
    let suite = TestCounts::of(std::iter::once(kind(case))).on(BytesStart::new("testsuite"), "vmdeck", 0);
    out.write_event(Xml::Start(suite.borrow()))?;
    one(out, case)?;
    out.write_event(Xml::End(suite.to_end()))
}

fn kind(case: &ReportedCase) -> TestKind {
    match case.last.verdict {
        // Readers know only failures that count.
        Verdict::Failed if case.quarantined.is_some() => TestKind::Skipped,
        // The case itself was not run: its setup failed.
        Verdict::Failed if case.cause == Some(CaseCause::Setup) => TestKind::Error,
        Verdict::Failed => TestKind::Failure,
        Verdict::Infra => TestKind::Error,
        Verdict::Skipped | Verdict::Cancelled => TestKind::Skipped,
        Verdict::Passed | Verdict::Flaky => TestKind::Passed,
    }
}

fn begin() -> io::Result<Writer<Vec<u8>>> {
    let mut out = Writer::new_with_indent(Vec::new(), b' ', 2);
    out.write_event(Xml::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    Ok(out)
}

fn finish(mut out: Writer<Vec<u8>>, root: &BytesStart<'_>) -> io::Result<Vec<u8>> {
    out.write_event(Xml::End(root.to_end()))?;
    let mut bytes = out.into_inner();
    bytes.write_all(b"\n")?;
    Ok(bytes)
}

fn render(run: &ReportedRun, index: &PlanIndex, took_ms: u64) -> io::Result<Vec<u8>> {
    let mut out = begin()?;
    let all = || run.guests.values().flat_map(|guest| &guest.cases);
    // Where no case says that the run went wrong, one stands for it: a reader that sees no error takes it for a clean run.
    let is_told = all().any(|case| matches!(kind(case), TestKind::Error | TestKind::Failure));
    let of_run = run.error.as_deref().filter(|_| !is_told).map(whole_run);
    let all = TestCounts::of(all().chain(&of_run).map(kind).chain(run.subtests.kinds()));
    let root = all.on(BytesStart::new("testsuites"), "vmdeck", took_ms);
    out.write_event(Xml::Start(root.borrow()))?;
    for (id, guest) in &run.guests {
        let took = guest.cases.iter().map(|case| case.last.took_ms).sum();
        let mut tag = TestCounts::of(guest.cases.iter().map(kind)).on(
            BytesStart::new("testsuite"),
            &format!("vmdeck.{id}"),
            took,
        );
        tag.extend_attributes([("timestamp", run.began.as_str()), ("hostname", clean(&run.host_of(guest)).as_str())]);
        out.write_event(Xml::Start(tag.borrow()))?;
        properties(&mut out, run, id, guest)?;
        for case in &guest.cases {
            one(&mut out, case)?;
        }
        out.write_event(Xml::End(tag.to_end()))?;
    }
    if let Some(case) = &of_run {
        suite_of_run(&mut out, case)?;
    }
    run.subtests.write(&mut out, index, &run.began)?;
    finish(out, &root)
}

fn properties(out: &mut Writer<Vec<u8>>, run: &ReportedRun, id: &GuestId, guest: &ReportedGuest) -> io::Result<()> {
    let accelerator = run.accelerator.as_deref().filter(|_| guest.backend == "qemu");
    let reused = guest.reused.map(|times| times.to_string());
    let shards = guest.origins.iter().cloned().collect::<Vec<_>>().join(", ");
    let all = [
        ("run", Some(run.id.as_str())),
        ("guest", Some(id.as_str())),
        ("backend", Some(guest.backend.as_str())),
        ("image", guest.image.as_deref()),
        ("accelerator", accelerator),
        ("reused", reused.as_deref()),
        ("shard", Some(shards.as_str()).filter(|shards| !shards.is_empty())),
    ];
    junit_xml::properties(out, all.into_iter().filter_map(|(name, value)| Some((name, value?))))
}

fn one(out: &mut Writer<Vec<u8>>, case: &ReportedCase) -> io::Result<()> {
    let mut tag = BytesStart::new("testcase");
    let time = seconds(case.last.took_ms);
    tag.extend_attributes([("name", case.name.as_str()), ("classname", case.class.as_str()), ("time", time.as_str())]);
    if let Some((file, line)) = &case.place {
        tag.extend_attributes([("file", clean(file).as_str()), ("line", line.to_string().as_str())]);
    }
    out.write_event(Xml::Start(tag.borrow()))?;
    // Surefire fixes the order of these.
    match kind(case) {
        TestKind::Failure => {
            reason(out, "failure", case, Some("failed"))?;
            reruns(out, "rerunFailure", &case.earlier)?;
        }
        TestKind::Skipped => reason(out, "skipped", case, None)?,
        TestKind::Error => {
            let setup = case.cause == Some(CaseCause::Setup);
            reruns(out, "rerunFailure", &case.earlier)?;
            reason(out, "error", case, Some(if setup { "setup failed" } else { "infra" }))?;
        }
        TestKind::Passed if case.last.verdict == Verdict::Flaky => reruns(out, "flakyFailure", &case.earlier)?,
        TestKind::Passed => {}
    }
    streams(out, &case.last)?;
    out.write_event(Xml::End(tag.to_end()))?;
    Ok(())
}

fn reason(out: &mut Writer<Vec<u8>>, tag: &str, case: &ReportedCase, kind: Option<&str>) -> io::Result<()> {
    let mut start = BytesStart::new(tag);
    let excuse =
        case.quarantined.as_ref().map(|issue| format!("failed, in quarantine ({issue}): ")).unwrap_or_default();
    let message = clean(&format!("{excuse}{}", case.last.message));
    start.push_attribute(("message", message.as_str()));
    if let Some(kind) = kind {
        start.push_attribute(("type", kind));
    }
    out.write_event(Xml::Start(start.borrow()))?;
    let place = case.place.as_ref().map(|(file, line)| format!("\n{}:{line}", clean(file))).unwrap_or_default();
    out.write_event(Xml::Text(BytesText::new(&format!("{message}{place}"))))?;
    out.write_event(Xml::End(start.to_end()))?;
    Ok(())
}

fn reruns(out: &mut Writer<Vec<u8>>, tag: &str, attempts: &[Attempt]) -> io::Result<()> {
    for attempt in attempts {
        let mut start = BytesStart::new(tag);
        let message = clean(&attempt.message);
        start.extend_attributes([("message", message.as_str()), ("type", "failed")]);
        out.write_event(Xml::Start(start.borrow()))?;
        element(out, "stackTrace", &message)?;
        streams(out, attempt)?;
        out.write_event(Xml::End(start.to_end()))?;
    }
    Ok(())
}

fn streams(out: &mut Writer<Vec<u8>>, attempt: &Attempt) -> io::Result<()> {
    for (tag, text) in [("system-out", &attempt.stdout_tail), ("system-err", &attempt.stderr_tail)] {
        if !text.is_empty() {
            element(out, tag, text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attempt(verdict: Verdict, message: &str, out: &str) -> Attempt {
        Attempt {
            verdict,
            exit: Some(1),
            took_ms: 1234,
            message: message.into(),
            stdout_tail: out.into(),
            stderr_tail: "e".into(),
        }
    }

    fn case(verdict: Verdict, message: &str, out: &str, earlier: usize) -> ReportedCase {
        let earlier = (0..earlier).map(|_| attempt(Verdict::Failed, "exit 1", "first try")).collect();
        ReportedCase {
            key: (1, String::new()),
            class: "deb.smoke".into(),
            name: "install".into(),
            place: Some(("vmdeck.toml".into(), 12)),
            cause: None,
            last: attempt(verdict, message, out),
            earlier,
            quarantined: None,
        }
    }

    fn run_of(cases: Vec<ReportedCase>) -> ReportedRun {
        let guest = ReportedGuest {
            backend: "qemu".into(),
            image: Some("/i.qcow2".into()),
            reused: Some(2),
            cases,
            origins: BTreeSet::new(),
        };
        ReportedRun {
            hosts: BTreeMap::new(),
            error: None,
            id: "0123".into(),
            host: "ci-1".into(),
            began: "2026-01-02T03:04:05".into(),
            accelerator: Some("kvm".into()),
            guests: BTreeMap::from([(GuestId::new("deb").expect("name"), guest)]),
            subtests: JunitSubtests::default(),
        }
    }

    /// What readers demand of names, order and attributes.
    fn check_schema(xml: &str) {
        let document = roxmltree::Document::parse(xml).expect("well-formed");
        let order = [
            "failure",
            "rerunFailure",
            "flakyFailure",
            "skipped",
            "error",
            "rerunError",
            "flakyError",
            "system-out",
            "system-err",
        ];
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            let mut attributes: Vec<&str> = node.attributes().map(|a| a.name()).collect();
            attributes.sort_unstable();
            let children: Vec<&str> =
                node.children().filter(roxmltree::Node::is_element).map(|c| c.tag_name().name()).collect();
            match node.tag_name().name() {
                "testsuites" => assert_eq!(attributes, ["errors", "failures", "name", "skipped", "tests", "time"]),
                "testsuite" => {
                    let wanted = ["errors", "failures", "hostname", "name", "skipped", "tests", "time", "timestamp"];
                    assert_eq!((attributes, children[0]), (wanted.to_vec(), "properties"));
                }
                "properties" => assert!(children.iter().all(|name| *name == "property")),
                "property" => assert_eq!(attributes, ["name", "value"]),
                "testcase" => {
                    assert_eq!(attributes, ["classname", "file", "line", "name", "time"]);
                    let places: Vec<_> =
                        children.iter().map(|c| order.iter().position(|o| o == c).expect("known")).collect();
                    assert!(places.is_sorted(), "{children:?}");
                }
                "failure" | "error" => assert_eq!(attributes, ["message", "type"]),
                "skipped" => assert_eq!(attributes, ["message"]),
                "rerunFailure" | "flakyFailure" => {
                    assert_eq!(attributes, ["message", "type"]);
                    assert_eq!(children[0], "stackTrace");
                }
                "stackTrace" | "system-out" | "system-err" => assert!(attributes.is_empty() && children.is_empty()),
                other => panic!("nobody knows <{other}>"),
            }
        }
    }

    #[test]
    fn a_run_that_was_never_planned_has_one_error() {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("j.xml");
        write_unplanned(&file, "cannot use `vmdeck.toml`: <one> problem").expect("written");
        let text = std::fs::read_to_string(file).expect("text");
        let document = roxmltree::Document::parse(&text).expect("well-formed");
        assert_eq!(document.root_element().attribute("errors"), Some("1"));
        assert!(text.contains("&lt;one&gt; problem"), "{text}");
    }

    #[test]
    fn a_failed_setup_is_an_error_of_each_case() {
        let case =
            ReportedCase { cause: Some(CaseCause::Setup), ..case(Verdict::Failed, "setup failed: exit 3", "", 0) };
        let xml =
            String::from_utf8(render(&run_of(vec![case]), &PlanIndex::default(), 0).expect("rendered")).expect("text");
        assert!(
            xml.contains("errors=\"1\"") && xml.contains("failures=\"0\"") && xml.contains("type=\"setup failed\"")
        );
    }

    #[test]
    fn every_verdict_in_the_form_that_readers_know() {
        let cases: Vec<ReportedCase> = Verdict::ALL
            .iter()
            .map(|v| case(*v, "why & <how>", "out ]]> \u{1}", usize::from(*v == Verdict::Flaky)))
            .collect();
        let xml =
            String::from_utf8(render(&run_of(cases), &PlanIndex::default(), 61_005).expect("rendered")).expect("text");
        check_schema(&xml);
        insta::assert_snapshot!(xml);
    }

    proptest! {
        #[test]
        fn any_text_gives_good_xml(message in "\\PC{0,40}|[\\x00-\\x1f\u{fffe}]{0,9}", out in "[\\x00-\u{10ffff}]{0,60}") {
            let xml = String::from_utf8(render(&run_of(vec![case(Verdict::Failed, &message, &out, 1)]), &PlanIndex::default(), 0).expect("rendered")).expect("text");
            check_schema(&xml);
        }
    }
}
