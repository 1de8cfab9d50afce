//! The `JUnit` report, in the form that both the Jenkins and the Maven Surefire schema accept.
//!
//! Only what both know is written: no `skipped` on `testsuites`, no time stamps, `type` wherever Surefire wants one.

use super::ReportSink;
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesStart, BytesText, Event as Xml},
};
use std::{
    io::{self, Write},
    path::PathBuf,
};
use vmdeck_model::{
    event::{Attempt, Event, EventKind},
    outcome::Verdict,
    run_view::RunView,
};

/// Collects cases and writes the files at the end of the run.
pub struct Junit {
    files: Vec<PathBuf>,
    cases: Vec<ReportedCase>,
}

struct ReportedCase {
    suite: String,
    name: String,
    last: Attempt,
    earlier: Vec<Attempt>,
}

impl Junit {
    /// Writes to each of these files.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, cases: Vec::new() }
    }
}

impl ReportSink for Junit {
    fn name(&self) -> String {
        "the JUnit report".into()
    }

    fn event(&mut self, event: &Event, _: &RunView) -> io::Result<()> {
        match &event.kind {
            EventKind::CaseEnded {
                guest,
                suite,
                case,
                round,
                verdict,
                exit,
                took_ms,
                message,
                stdout_tail,
                stderr_tail,
                cause: _,
                earlier,
            } => {
                let round = if *round == 1 { String::new() } else { format!(" (round {round})") };
                self.cases.push(ReportedCase {
                    suite: format!("{guest}.{suite}"),
                    name: format!("{case}{round}"),
                    last: Attempt {
                        verdict: *verdict,
                        exit: *exit,
                        took_ms: *took_ms,
                        message: message.clone(),
                        stdout_tail: stdout_tail.clone(),
                        stderr_tail: stderr_tail.clone(),
                    },
                    earlier: earlier.clone(),
                });
                Ok(())
            }
            EventKind::RunEnded { took_ms, .. } => {
                let bytes = render(&self.cases, *took_ms)?;
                for file in &self.files {
                    std::fs::write(file, &bytes)
                        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn render(cases: &[ReportedCase], took_ms: u64) -> io::Result<Vec<u8>> {
    let mut out = Writer::new_with_indent(Vec::new(), b' ', 2);
    out.write_event(Xml::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let count = |verdicts: &[Verdict]| cases.iter().filter(|c| verdicts.contains(&c.last.verdict)).count().to_string();
    let mut root = BytesStart::new("testsuite");
    root.extend_attributes([
        ("name", "vmdeck"),
        ("time", seconds(took_ms).as_str()),
        ("tests", cases.len().to_string().as_str()),
        ("failures", count(&[Verdict::Failed]).as_str()),
        ("errors", count(&[Verdict::Infra]).as_str()),
        ("skipped", count(&[Verdict::Skipped, Verdict::Cancelled]).as_str()),
    ]);
    out.write_event(Xml::Start(root.borrow()))?;
    for case in cases {
        one(&mut out, case)?;
    }
    out.write_event(Xml::End(root.to_end()))?;
    let mut bytes = out.into_inner();
    bytes.write_all(b"\n")?;
    Ok(bytes)
}

fn one(out: &mut Writer<Vec<u8>>, case: &ReportedCase) -> io::Result<()> {
    let mut tag = BytesStart::new("testcase");
    let time = seconds(case.last.took_ms);
    tag.extend_attributes([("name", case.name.as_str()), ("classname", case.suite.as_str()), ("time", time.as_str())]);
    out.write_event(Xml::Start(tag.borrow()))?;
    // Surefire fixes the order of these.
    match case.last.verdict {
        Verdict::Failed => {
            reason(out, "failure", &case.last, Some("failed"))?;
            reruns(out, "rerunFailure", &case.earlier)?;
        }
        Verdict::Flaky => reruns(out, "flakyFailure", &case.earlier)?,
        Verdict::Skipped | Verdict::Cancelled => reason(out, "skipped", &case.last, None)?,
        Verdict::Infra => {
            reruns(out, "rerunFailure", &case.earlier)?;
            reason(out, "error", &case.last, Some("infra"))?;
        }
        Verdict::Passed => {}
    }
    streams(out, &case.last)?;
    out.write_event(Xml::End(tag.to_end()))?;
    Ok(())
}

fn reason(out: &mut Writer<Vec<u8>>, tag: &str, attempt: &Attempt, kind: Option<&str>) -> io::Result<()> {
    let mut start = BytesStart::new(tag);
    let message = clean(&attempt.message);
    start.push_attribute(("message", message.as_str()));
    if let Some(kind) = kind {
        start.push_attribute(("type", kind));
    }
    out.write_event(Xml::Start(start.borrow()))?;
    out.write_event(Xml::Text(BytesText::new(&message)))?;
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

fn element(out: &mut Writer<Vec<u8>>, tag: &str, text: &str) -> io::Result<()> {
    out.create_element(tag).write_text_content(BytesText::new(&clean(text)))?;
    Ok(())
}

/// Returns what XML 1.0 can hold; tails are clean already, this is the last door.
fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || (!c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')))
        .collect()
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
            suite: "deb.smoke".into(),
            name: "install".into(),
            last: attempt(verdict, message, out),
            earlier,
        }
    }

    /// What both schemas demand of names, order and attributes.
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
                "testsuite" => assert_eq!(attributes, ["errors", "failures", "name", "skipped", "tests", "time"]),
                "testcase" => {
                    assert_eq!(attributes, ["classname", "name", "time"]);
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
                other => panic!("<{other}> is in neither schema"),
            }
        }
    }

    #[test]
    fn every_verdict_in_the_form_of_both_schemas() {
        let cases: Vec<ReportedCase> = Verdict::ALL
            .iter()
            .map(|v| case(*v, "why & <how>", "out ]]> \u{1}", usize::from(*v == Verdict::Flaky)))
            .collect();
        let xml = String::from_utf8(render(&cases, 61_005).expect("rendered")).expect("text");
        check_schema(&xml);
        insta::assert_snapshot!(xml);
    }

    proptest! {
        #[test]
        fn any_text_gives_good_xml(message in "\\PC{0,40}|[\\x00-\\x1f\u{fffe}]{0,9}", out in "[\\x00-\u{10ffff}]{0,60}") {
            let xml = String::from_utf8(render(&[case(Verdict::Failed, &message, &out, 1)], 0).expect("rendered")).expect("text");
            check_schema(&xml);
        }
    }
}
