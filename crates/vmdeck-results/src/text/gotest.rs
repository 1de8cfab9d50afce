//! `go test -json`, one object on each line, and the text of `go test -v`, which has the same facts.
//!
//! A test can be made to look ended by what another prints; so a package's tests are settled only with the package.

use crate::{
    line::Line,
    place::{CodePlace, leading_number},
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};
use vmdeck_model::subtest::SubtestStatus;

/// Most packages and tests that may be open at once.
const OPEN: usize = 10_000;

/// An object of the stream.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoEvent<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    package: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    import_path: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    test: Option<Cow<'a, str>>,
    #[serde(default)]
    elapsed: Option<f64>,
    #[serde(borrow, default)]
    output: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    failed_build: Option<Cow<'a, str>>,
}

#[derive(Default)]
struct GoTestRun {
    id: Option<Id>,
    status: Option<SubtestStatus>,
    has_parts: bool,
    part_failed: bool,
    said: String,
    place: Option<CodePlace>,
    /// What it wrote at that place.
    reason: String,
}

#[derive(Default)]
struct GoPackage {
    /// In one order, whatever the process: those that have no place of their own are told in it.
    tests: BTreeMap<String, GoTestRun>,
    has_failed: bool,
    build_failed: bool,
    panic: String,
    panic_place: Option<CodePlace>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct GoTest {
    packages: HashMap<String, GoPackage>,
    /// Whether the lines are those of `go test -v`; their package is named after them.
    is_text: bool,
    /// The test whose output the lines of text are.
    current: Option<String>,
    /// Whether there was more than the beginning of a test.
    is_sure: bool,
    /// Whether tests are told when they begin.
    has_runs: bool,
}

impl GoTest {
    fn event(&mut self, event: &GoEvent<'_>, sheet: &mut Sheet) {
        let package = event.package.as_ref().or(event.import_path.as_ref()).map_or("", AsRef::as_ref);
        match (event.action.as_ref(), event.test.as_deref()) {
            ("build-fail", _) => {
                if let Some(package) = self.package(package) {
                    package.build_failed = true;
                }
            }
            ("run", Some(test)) => self.begin_anew(package, test, sheet),
            ("output", Some(test)) => {
                self.begin(package, test, sheet);
                self.output(package, Some(test), event.output.as_deref().unwrap_or_default());
            }
            ("output", None) => {
                let text = event.output.as_deref().unwrap_or_default();
                if text.starts_with("FAIL\t") && text.trim_end().ends_with(" failed]") {
                    if let Some(package) = self.package(package) {
                        package.build_failed |= text.contains("[build failed]") || text.contains("[setup failed]");
                    }
                } else {
                    self.output(package, None, text);
                }
            }
            (action @ ("pass" | "fail" | "skip" | "bench"), test) => {
                let status = match action {
                    "fail" => SubtestStatus::Failed,
                    "skip" => SubtestStatus::Skipped,
                    _ => SubtestStatus::Passed,
                };
                if let Some(test) = test {
                    self.begin(package, test, sheet);
                    self.end_test(package, test, status, event.elapsed, sheet);
                } else {
                    if event.failed_build.is_some()
                        && let Some(package) = self.package(package)
                    {
                        package.build_failed = true;
                    }
                    self.end_package(package, Some(status), sheet);
                }
            }
            ("start", _) => drop(self.package(package)),
            _ => {}
        }
    }

    fn package(&mut self, name: &str) -> Option<&mut GoPackage> {
        if !self.packages.contains_key(name) {
            if self.packages.len() >= OPEN {
                return None;
            }
            self.packages.insert(name.to_owned(), GoPackage::default());
        }
        self.packages.get_mut(name)
    }

    fn begin(&mut self, package: &str, test: &str, sheet: &mut Sheet) {
        let Some(of) = self.package(package) else { return };
        if of.tests.contains_key(test) || of.tests.len() >= OPEN * 10 {
            return;
        }
        for (at, _) in test.match_indices('/') {
            if let Some(parent) = of.tests.get_mut(&test[..at]) {
                parent.has_parts = true;
            }
        }
        let id = sheet.add(Entry::new(package, "::", test));
        if id.is_none() && of.tests.len() >= OPEN {
            return;
        }
        of.tests.insert(test.to_owned(), GoTestRun { id, ..GoTestRun::default() });
    }

    /// Begins a test that may have been run before, as with `-count 2`.
    fn begin_anew(&mut self, package: &str, test: &str, sheet: &mut Sheet) {
        if let Some(of) = self.packages.get_mut(package)
            && of.tests.get(test).is_some_and(|run| run.status.is_some())
            && let Some(run) = of.tests.remove(test)
        {
            sheet.settle(run.id);
        }
        self.begin(package, test, sheet);
    }

    fn output(&mut self, package: &str, test: Option<&str>, text: &str) {
        let Some(of) = self.packages.get_mut(package) else { return };
        let line = text.trim_end();
        let bare = line.trim_start();
        if of.panic.is_empty() && (line.starts_with("panic: ") || line.starts_with("fatal error: ")) {
            of.panic = words::message(line);
        } else if !of.panic.is_empty()
            && of.panic_place.is_none()
            && line.starts_with('\t')
            && line.contains("_test.go:")
        {
            let place = CodePlace::find(bare, None);
            of.panic_place = place
                .map(|place| CodePlace { file: place.file.rsplit('/').next().unwrap_or_default().to_owned(), ..place });
        }
        let Some(run) = test.and_then(|test| of.tests.get_mut(test)) else { return };
        if bare.is_empty() || bare.starts_with("=== ") || bare.starts_with("--- ") {
            return;
        }
        if run.place.is_none()
            && of.panic.is_empty()
            && let Some((place, message)) = placed(bare)
        {
            run.place = Some(place);
            run.reason = words::message(message);
        }
        run.said = words::message(bare);
    }

    fn end_test(&mut self, package: &str, test: &str, status: SubtestStatus, took: Option<f64>, sheet: &mut Sheet) {
        let is_text = self.is_text;
        let Some(of) = self.package(package) else { return };
        let Some(run) = of.tests.get_mut(test) else {
            of.has_failed |= status.is_failure();
            return sheet.end(None, status);
        };
        let mut status = status;
        if let Some(before) = run.status {
            sheet.summary().lacks(format!("{} ended twice", words::name(test)));
            if before.is_failure() {
                status = before;
            }
        }
        run.status = Some(status);
        // A parent stands for itself where it failed and no part of it did.
        // In text its line comes before those of its parts: then the package's end tells.
        let is_parent = run.has_parts && (is_text || run.part_failed || !status.is_failure());
        let (id, is_only_parent) = (run.id, is_parent);
        if is_only_parent {
            sheet.withdraw(id);
        } else {
            sheet.end(id, status);
            if let Some(entry) = sheet.entry(id) {
                entry.took_ms = took.and_then(words::millis);
                if status != SubtestStatus::Passed {
                    entry.place.clone_from(&run.place);
                    entry.message.clone_from(if run.reason.is_empty() { &run.said } else { &run.reason });
                }
            }
        }
        if status.is_failure() {
            of.has_failed = true;
            for (at, _) in test.match_indices('/') {
                if let Some(parent) = of.tests.get_mut(&test[..at]) {
                    parent.part_failed = true;
                }
            }
        }
    }

    fn end_package(&mut self, name: &str, status: Option<SubtestStatus>, sheet: &mut Sheet) {
        let Some(package) = self.packages.remove(name) else { return };
        let mut unfinished = 0;
        let mut open: Vec<&GoTestRun> = package.tests.values().filter(|run| run.status.is_none()).collect();
        open.sort_by_key(|run| run.id);
        for run in open {
            // What stands open above the one that did not end is only its parent.
            if run.has_parts {
                sheet.withdraw(run.id);
                continue;
            }
            if status == Some(SubtestStatus::Passed) {
                // Its end is hidden behind what it printed; the package says that all is well.
                sheet.end(run.id, SubtestStatus::Passed);
                continue;
            }
            unfinished += 1;
            let why = if package.panic.is_empty() { &run.reason } else { &package.panic };
            sheet.did_not_end(run.id, if why.is_empty() { &run.said } else { why });
            if let Some(entry) = sheet.entry(run.id) {
                entry.place = run.place.clone().or_else(|| package.panic_place.clone());
            }
        }
        if unfinished > 0 {
            sheet.summary().lacks("a test did not end");
        }
        for (test, run) in &package.tests {
            if self.is_text && run.has_parts {
                // Where nobody told when it began, it came before its parts.
                sheet.withdraw(run.id);
            }
            if self.is_text && run.has_parts && !run.part_failed && run.status.is_some_and(SubtestStatus::is_failure) {
                let entry = Entry::new(name, "::", test).ended(SubtestStatus::Failed);
                sheet.add(Entry { place: run.place.clone(), ..entry.because(&run.reason) });
            }
        }
        if package.build_failed {
            sheet.add(Entry::new("", "", name).ended(SubtestStatus::Error).because("build failed"));
        } else if status.is_some_and(SubtestStatus::is_failure) && !package.has_failed && unfinished == 0 {
            let why =
                if package.panic.is_empty() { "the package failed, although no test did" } else { &package.panic };
            sheet.add(Entry::new("", "", name).ended(SubtestStatus::Failed).because(why));
        }
        for run in package.tests.values() {
            sheet.settle(run.id);
        }
        if self.packages.is_empty() {
            sheet.settle_ended();
        }
    }

    /// Returns whether what follows a word in mid-line is the end of the test that is running.
    fn ends_current(&self, rest: &str) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| rest.strip_prefix(current.as_str()).is_some_and(|rest| rest.starts_with(" (")))
    }

    /// Takes a line of `go test -v`, or one that stands between the objects.
    fn text(&mut self, text: &str, sheet: &mut Sheet) {
        if text.starts_with("FAIL\t") && (text.ends_with("[build failed]") || text.ends_with("[setup failed]")) {
            let name = text["FAIL\t".len()..].rsplit_once(" [").map_or("", |(name, _)| name);
            let entry = Entry::new("", "", name).ended(SubtestStatus::Error);
            let id = sheet.add(entry.because("build failed"));
            return sheet.settle(id);
        }
        if let Some(name) = text.strip_prefix("=== RUN   ") {
            (self.is_text, self.has_runs) = (true, true);
            self.current = Some(name.to_owned());
            return self.begin_anew("", name, sheet);
        }
        self.is_text |=
            text.trim_start().starts_with("--- ") || text.starts_with("ok  \t") || text.starts_with("FAIL\t");
        if !self.is_text {
            return;
        }
        self.is_sure |= !text.starts_with("=== ") && (text.contains("--- ") || text.contains('\t'));
        if text.starts_with("=== ") {
            self.current = text.rsplit_once(' ').map(|(_, name)| name.to_owned());
            return;
        }
        let bare = text.trim_start();
        for (word, status) in [
            ("--- PASS: ", SubtestStatus::Passed),
            ("--- FAIL: ", SubtestStatus::Failed),
            ("--- SKIP: ", SubtestStatus::Skipped),
        ] {
            // What the test printed without a line end may stand before it.
            let at = bare.find(word).filter(|at| *at == 0 || self.ends_current(&bare[at + word.len()..]));
            let Some((name, took)) =
                at.and_then(|at| bare[at..].strip_prefix(word)).and_then(|rest| rest.rsplit_once(" ("))
            else {
                continue;
            };
            if self.has_runs && self.packages.get("").is_none_or(|of| !of.tests.contains_key(name)) {
                // Nobody began it: a test has printed that.
                return;
            }
            let took = took.strip_suffix("s)").and_then(|seconds| seconds.parse().ok());
            self.begin("", name, sheet);
            return self.end_test("", name, status, took, sheet);
        }
        for (word, status) in [("ok  \t", SubtestStatus::Passed), ("FAIL\t", SubtestStatus::Failed)] {
            let Some(rest) = text.strip_prefix(word) else { continue };
            let name = rest.split('\t').next().unwrap_or_default().trim().to_owned();
            let package = self.packages.remove("").unwrap_or_default();
            for (test, run) in &package.tests {
                if let Some(entry) = sheet.entry(run.id) {
                    let Entry { name, class, .. } = Entry::new(&name, "::", test);
                    (entry.name, entry.class) = (name, class);
                }
            }
            self.packages.insert(name.clone(), package);
            self.current = None;
            return self.end_package(&name, Some(status), sheet);
        }
        if let Some(current) = self.current.clone() {
            self.output("", Some(&current), text);
        }
    }
}

/// Returns the place with which a line begins, and the rest of it.
fn placed(line: &str) -> Option<(CodePlace, &str)> {
    let (file, rest) = line.split_once(".go:")?;
    let number = leading_number(rest)?;
    let message = rest.split_once(": ").map_or("", |(_, message)| message);
    let is_name = !file.contains(char::is_whitespace);
    is_name.then(|| CodePlace::new(&format!("{file}.go"), Some(number))).flatten().map(|place| (place, message))
}

impl LineReader for GoTest {
    fn is_certain(&self) -> bool {
        self.is_sure || !self.is_text
    }

    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.trim_start_matches('\u{16}');
        if text.starts_with('{') {
            match serde_json::from_str::<GoEvent<'_>>(text) {
                Ok(event) => return self.event(&event, sheet),
                Err(_) if line.is_cut => return sheet.summary().lacks("the last line is cut"),
                Err(_) => {}
            }
        } else if line.is_cut {
            return;
        }
        self.text(text, sheet);
    }

    fn end(&mut self, sheet: &mut Sheet) {
        let mut names: Vec<String> = self.packages.keys().cloned().collect();
        names.sort();
        for name in names {
            let shown =
                if name.is_empty() { "a package".to_owned() } else { format!("package {}", words::name(&name)) };
            sheet.summary().lacks(format!("{shown} did not end"));
            let is_open =
                self.packages.get(&name).is_some_and(|package| package.build_failed || package.tests.is_empty());
            self.end_package(&name, is_open.then_some(SubtestStatus::Failed), sheet);
        }
    }
}
