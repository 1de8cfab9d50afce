//! The JSON of Jest and Vitest: one object, read file by file, so that no more than one file's tests are in memory.

use crate::{
    place::{self, CodePlace},
    sheet::{Entry, Sheet},
    words,
};
use serde::{
    Deserialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{fmt, io::BufRead};
use vmdeck_model::subtest::SubtestStatus;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestFile {
    #[serde(default)]
    assertion_results: Vec<Assertion>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Assertion {
    #[serde(default)]
    ancestor_titles: Vec<String>,
    #[serde(default)]
    title: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    duration: Option<f64>,
    #[serde(default)]
    failure_messages: Option<Vec<String>>,
    #[serde(default)]
    location: Option<Location>,
}

#[derive(Deserialize)]
struct Location {
    #[serde(default)]
    line: Option<u32>,
}

impl TestFile {
    fn record(&self, sheet: &mut Sheet) {
        for test in &self.assertion_results {
            let status = match test.status.as_str() {
                "passed" => SubtestStatus::Passed,
                "failed" => SubtestStatus::Failed,
                "pending" | "skipped" | "disabled" | "todo" => SubtestStatus::Skipped,
                _ => SubtestStatus::Error,
            };
            let said = test.failure_messages.iter().flatten().next().map(String::as_str).unwrap_or_default();
            let line = test.location.as_ref().and_then(|location| location.line);
            let line = line.or_else(|| CodePlace::find(said, Some(&self.name)).and_then(|place| place.line));
            let class = test.ancestor_titles.iter().map(|title| words::name(title)).filter(|title| !title.is_empty());
            let class = class.collect::<Vec<_>>().join(" > ");
            let mut entry = Entry::new(&class, " > ", &test.title).ended(status);
            entry.message = if test.status == "todo" { "todo".to_owned() } else { place::reason(said) };
            entry.took_ms = test.duration.and_then(|ms| words::millis(ms / 1000.0));
            entry.place = CodePlace::new(&self.name, line);
            sheet.add(entry);
        }
        if self.status == "failed" && !self.assertion_results.iter().any(|test| test.status == "failed") {
            // The file could not be loaded, or broke outside of its tests.
            let said = self.message.as_deref().unwrap_or_default();
            let text: Vec<&str> = said.lines().filter(|line| !line.trim_start().starts_with('●')).collect();
            let entry = Entry::new("", "", &self.name).ended(SubtestStatus::Error);
            let message = place::reason(&text.join("\n"));
            sheet.add(Entry { message, place: CodePlace::new(&self.name, None), ..entry });
        }
        sheet.settle_ended();
    }
}

/// What is known of the whole.
#[derive(Default)]
struct Whole {
    total: Option<u64>,
    has_results: bool,
    was_interrupted: bool,
}

struct TestFiles<'a>(&'a mut Sheet);

impl<'de> DeserializeSeed<'de> for TestFiles<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for TestFiles<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of test files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(file) = seq.next_element::<TestFile>()? {
            file.record(self.0);
        }
        Ok(())
    }
}

struct Document<'a>(&'a mut Sheet);

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the results of Jest or Vitest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Whole, A::Error> {
        let mut whole = Whole::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "testResults" => {
                    whole.has_results = true;
                    map.next_value_seed(TestFiles(self.0))?;
                }
                "numTotalTests" => whole.total = map.next_value()?,
                "wasInterrupted" => whole.was_interrupted = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(whole)
    }
}

/// Reads the results; what stands around the object is no part of it.
pub(super) fn read(input: &mut impl BufRead, sheet: &mut Sheet) {
    let mut from = serde_json::Deserializer::from_reader(input);
    match serde::Deserializer::deserialize_map(&mut from, Document(sheet)) {
        Ok(whole) => {
            let summary = sheet.summary();
            summary.is_recognized = true;
            if !whole.has_results || whole.total.is_none() {
                summary.lacks("it holds no test results");
            }
            if whole.was_interrupted {
                summary.lacks("the run was interrupted");
            }
        }
        Err(e) => sheet.summary().lacks(format!("it is cut off or broken: {}", words::message(&e.to_string()))),
    }
}
