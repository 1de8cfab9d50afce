//! How long cases and boots took in earlier runs: the file by which a run is divided into parts that take the same time.
//!
//! It may lie in a repository or in a cache of CI: no host's name and no path is in it, and a line tells of one case.

use super::{
    event::{Event, EventKind, Phase},
    ids::{CaseId, GuestId, SuiteId, short_run},
    outcome::Verdict,
    run_view::{GuestView, RunView},
};
use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the file that this program reads and writes.
const FORMAT: u32 = 1;
/// How many times are kept of each case and boot.
const KEPT: usize = 10;
/// How many runs are known by their ids.
const KNOWN: usize = 200;
/// How many days a case that no run has had is kept.
const FORGOTTEN: u64 = 90;
/// How long a case takes of which nothing is known, in milliseconds.
const UNKNOWN_CASE: u64 = 10_000;
/// How long a guest boots of which nothing is known, in milliseconds.
const UNKNOWN_BOOT: u64 = 30_000;

/// The times of earlier runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseTimes {
    format: u32,
    /// The runs whose times are in it, the newest last: none is counted twice.
    #[serde(default)]
    runs: Vec<String>,
    /// Each guest's, by [`guest_key`].
    #[serde(default)]
    guests: BTreeMap<String, BootTimesKept>,
    /// Each case's: the guest's key, a blank, `suite/case`.
    #[serde(default)]
    cases: BTreeMap<String, TimesKept>,
}

/// How long a case took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TimesKept {
    /// The last times in milliseconds, the newest first.
    ms: Vec<u64>,
    /// How many there have been in all.
    n: u64,
    /// The day of the newest.
    last: NaiveDate,
}

/// How long a guest booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct BootTimesKept {
    /// The last times in milliseconds, the newest first.
    boot_ms: Vec<u64>,
    /// The day of the newest.
    last: NaiveDate,
}

impl Default for CaseTimes {
    fn default() -> Self {
        Self { format: FORMAT, runs: Vec::new(), guests: BTreeMap::new(), cases: BTreeMap::new() }
    }
}

/// Returns the name by which the times of a guest are kept: `debian/qemu`.
pub fn guest_key(guest: &str, backend: &str) -> String {
    format!("{guest}/{backend}")
}

impl CaseTimes {
    /// Reads a file; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A list could be read as well, value by value.
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| format!("it is no file of times: {e}"))?;
        let read: Self = serde_json::from_value(fields.into()).map_err(|e| format!("it is no file of times: {e}"))?;
        if read.format != FORMAT {
            return Err(format!("its format is {}, and this version knows {FORMAT}", read.format));
        }
        Ok(read)
    }

    /// Returns the file, with a line for each guest and case.
    pub fn render(&self) -> String {
        fn lines<T: Serialize>(all: &BTreeMap<String, T>) -> String {
            let line = |(key, value): (&String, &T)| {
                let (key, value) = (serde_json::to_string(key), serde_json::to_string(value));
                format!("    {}: {}", key.unwrap_or_default(), value.unwrap_or_default())
            };
            let all: Vec<String> = all.iter().map(line).collect();
            if all.is_empty() { "{}".to_owned() } else { format!("{{\n{}\n  }}", all.join(",\n")) }
        }
        let (guests, cases) = (lines(&self.guests), lines(&self.cases));
        let runs = serde_json::to_string(&self.runs).unwrap_or_default();
        format!("{{\n  \"format\": {FORMAT},\n  \"runs\": {runs},\n  \"guests\": {guests},\n  \"cases\": {cases}\n}}\n")
    }

    /// Returns of how many cases something is known.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty() && self.guests.is_empty()
    }

    /// Returns how long a case of a guest takes, in milliseconds: the median of its last times, else of what is known of its suite.
    pub fn case_ms(&self, guest: &str, suite: &SuiteId, case: &CaseId) -> u64 {
        let own = self.cases.get(&case_key(guest, suite, case)).and_then(|kept| median(kept.ms.clone()));
        own.or_else(|| self.of_found(guest, suite, case))
            .or_else(|| self.of_suite(guest, suite))
            .unwrap_or(UNKNOWN_CASE)
    }

    /// Returns how long the cases take together that were found for one.
    fn of_found(&self, guest: &str, suite: &SuiteId, case: &CaseId) -> Option<u64> {
        let found = self.below(format!("{}/", case_key(guest, suite, case)));
        found.filter_map(|kept| median(kept.ms.clone())).reduce(u64::saturating_add)
    }

    fn of_suite(&self, guest: &str, suite: &SuiteId) -> Option<u64> {
        median(self.below(format!("{guest} {suite}/")).filter_map(|kept| median(kept.ms.clone())).collect())
    }

    /// Returns what is kept of the cases whose keys begin so.
    fn below(&self, prefix: String) -> impl Iterator<Item = &TimesKept> {
        let of = self.cases.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix));
        of.map(|(_, kept)| kept)
    }

    /// Returns how long a guest boots, in milliseconds: the median of its last boots.
    pub fn boot_ms(&self, guest: &str) -> u64 {
        self.guests.get(guest).and_then(|kept| median(kept.boot_ms.clone())).unwrap_or(UNKNOWN_BOOT)
    }

    /// Adds what a run tells, whose times are newer than those that are there. One that is in it already, also as a part of a merged
    /// record, changes nothing.
    pub fn add_run(&mut self, events: &RunTimes) {
        let Some(day) = events.day.filter(|_| !events.runs.iter().any(|run| self.runs.contains(run))) else { return };
        let mut new = Self { runs: events.runs.clone(), ..Self::default() };
        for (key, ms) in &events.cases {
            let kept = TimesKept { ms: vec![*ms], n: 1, last: day };
            new.cases.entry(key.clone()).or_default().join(kept);
        }
        for (key, ms) in &events.boots {
            let kept = BootTimesKept { boot_ms: vec![*ms], last: day };
            new.guests.entry(key.clone()).or_default().join(kept);
        }
        self.join(new);
    }

    /// Adds what another file tells; of what both tell, the newer days come first.
    pub fn join(&mut self, other: Self) {
        let new: Vec<String> = other.runs.into_iter().filter(|run| !self.runs.contains(run)).collect();
        self.runs.extend(new);
        let excess = self.runs.len().saturating_sub(KNOWN);
        self.runs.drain(..excess);
        for (key, kept) in other.cases {
            self.cases.entry(key).or_default().join(kept);
        }
        for (key, kept) in other.guests {
            self.guests.entry(key).or_default().join(kept);
        }
        // By the newest day that is known, so that the same input gives the same file on any day.
        let days = self.cases.values().map(|kept| kept.last).chain(self.guests.values().map(|kept| kept.last));
        let Some(limit) = days.max().and_then(|newest| newest.checked_sub_days(Days::new(FORGOTTEN))) else { return };
        self.cases.retain(|_, kept| kept.last >= limit);
        self.guests.retain(|_, kept| kept.last >= limit);
    }
}

impl TimesKept {
    fn join(&mut self, other: Self) {
        join_times(&mut self.ms, other.ms, other.last >= self.last);
        self.n = self.n.saturating_add(other.n);
        self.last = self.last.max(other.last);
    }
}

impl BootTimesKept {
    fn join(&mut self, other: Self) {
        join_times(&mut self.boot_ms, other.boot_ms, other.last >= self.last);
        self.last = self.last.max(other.last);
    }
}

fn join_times(own: &mut Vec<u64>, other: Vec<u64>, other_is_newer: bool) {
    let at = if other_is_newer { 0 } else { own.len() };
    own.splice(at..at, other);
    own.truncate(KEPT);
}

/// Returns the value in the middle; of an even number, the greater of the two; `None` = there is none.
pub fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn case_key(guest: &str, suite: &SuiteId, case: &CaseId) -> String {
    format!("{guest} {suite}/{case}")
}

/// What one run tells of times, gathered event by event.
#[derive(Clone, Debug, Default)]
pub struct RunTimes {
    /// The run, or those from which its record was merged, by the first digits of their ids.
    runs: Vec<String>,
    /// The day on which the run began.
    day: Option<NaiveDate>,
    /// Each case that ended of itself, in milliseconds.
    cases: Vec<(String, u64)>,
    /// Each boot.
    boots: Vec<(String, u64)>,
}

impl RunTimes {
    /// Takes one event; `view` already includes it.
    pub fn take(&mut self, event: &Event, view: &RunView) {
        let key = |guest: &GuestId| {
            let seen = view.guests.get(guest)?;
            // What a further machine of a guest takes is the guest's.
            let told = seen.one_more_of.as_ref().unwrap_or(guest);
            Some(guest_key(told.as_str(), &seen.backend))
        };
        match &event.kind {
            EventKind::RunStarted { run, origins, .. } => {
                self.day = Some(event.at.date_naive());
                self.runs = origins.iter().map(|origin| short_run(&origin.run).to_owned()).collect();
                if self.runs.is_empty() {
                    self.runs.push(run.short().to_owned());
                }
            }
            EventKind::CaseEnded { guest, suite, case, verdict, took_ms, cause: None, .. } => {
                // One that was ended from outside took as long as somebody let it; a time-out is a failure, and took its limit.
                let is_told = matches!(verdict, Verdict::Passed | Verdict::Failed | Verdict::Flaky);
                if let (Some(guest), true) = (key(guest), is_told) {
                    self.cases.push((case_key(&guest, suite, case), *took_ms));
                }
            }
            EventKind::PhaseEnded { guest, phase: Phase::FirstCommand, ok: true, .. } => {
                let boot = view.guests.get(guest).and_then(GuestView::boot_ms);
                self.boots.extend(key(guest).zip(boot));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(suite: &str, case: &str) -> (SuiteId, CaseId) {
        (SuiteId::new(suite).expect("name"), CaseId::try_from(case.to_owned()).expect("name"))
    }

    fn run(day: &str, cases: &[(&str, u64)], boots: &[u64]) -> RunTimes {
        RunTimes {
            runs: Vec::new(),
            day: Some(day.parse().expect("day")),
            cases: cases.iter().map(|(name, ms)| (format!("deb/qemu {name}"), *ms)).collect(),
            boots: boots.iter().map(|ms| ("deb/qemu".to_owned(), *ms)).collect(),
        }
    }

    #[test]
    fn what_is_known_is_the_median_and_what_is_not_is_taken_from_beside() {
        let mut times = CaseTimes::default();
        for ms in [900, 100, 120] {
            times.add_run(&run(
                "2026-11-25",
                &[("s/a", ms), ("s/b", 10 * ms), ("s/found/x", 5), ("s/found/y", 7)],
                &[ms],
            ));
        }
        let of = |suite: &str, case: &str| {
            let (suite, case) = names(suite, case);
            times.case_ms("deb/qemu", &suite, &case)
        };
        assert_eq!((of("s", "a"), of("s", "b"), of("s", "found")), (120, 1200, 12));
        assert_eq!(of("s", "new"), 120, "the median of its suite");
        assert_eq!(
            (of("other", "new"), times.boot_ms("deb/qemu"), times.boot_ms("win/utm")),
            (UNKNOWN_CASE, 120, UNKNOWN_BOOT)
        );
    }

    #[test]
    fn the_file_has_a_line_for_each_case_the_newest_first_and_forgets() {
        let mut times = CaseTimes::default();
        times.add_run(&run("2026-01-01", &[("s/gone", 1)], &[]));
        for ms in 1..=12 {
            times.add_run(&run("2026-11-25", &[("s/a", ms)], &[]));
        }
        times.add_run(&run("2026-11-20", &[("s/a", 99)], &[3100]));
        let text = times.render();
        assert_eq!(
            text,
            "{\n  \"format\": 1,\n  \"runs\": [],\n  \"guests\": {\n    \"deb/qemu\": {\"boot_ms\":[3100],\"last\":\"2026-11-20\"}\n  },\n  \
             \"cases\": {\n    \"deb/qemu s/a\": {\"ms\":[12,11,10,9,8,7,6,5,4,3],\"n\":13,\"last\":\"2026-11-25\"}\n  }\n}\n"
        );
        assert_eq!(CaseTimes::parse(&text).expect("read"), times);
        assert_eq!(CaseTimes::parse(&CaseTimes::default().render()).expect("empty"), CaseTimes::default());
        for (bad, why) in [("{", "no file of times"), ("{\"format\":2}", "its format is 2"), ("[]", "no file of times")]
        {
            assert!(CaseTimes::parse(bad).expect_err("bad").contains(why), "{bad}");
        }
    }

    #[test]
    fn a_run_counts_once() {
        let mut times = CaseTimes::default();
        let named = |runs: &[&str], ms: u64| RunTimes {
            runs: runs.iter().map(|run| (*run).to_owned()).collect(),
            ..run("2026-11-25", &[("s/a", ms)], &[])
        };
        // The second is merged from the first and another one.
        for runs in [&["aaaaaaaa"][..], &["aaaaaaaa", "bbbbbbbb"], &["aaaaaaaa"], &["cccccccc"]] {
            times.add_run(&named(runs, 7));
        }
        assert_eq!((times.cases["deb/qemu s/a"].n, times.runs.len()), (2, 2));
        (0..300).for_each(|at| times.add_run(&named(&[&format!("{at:08}")], 7)));
        assert_eq!(times.runs.len(), KNOWN);
    }

    proptest! {
        /// Files that two jobs of CI wrote are one file, whoever comes first, as long as their days differ.
        #[test]
        fn joining_forgets_nothing_that_is_kept(a in 1_u64..1000, b in 1_u64..1000) {
            let file = |day: &str, ms: u64| {
                let mut times = CaseTimes::default();
                times.add_run(&run(day, &[("s/a", ms)], &[ms]));
                times
            };
            let (older, newer) = (file("2026-11-01", a), file("2026-11-02", b));
            let (mut one, mut other) = (older.clone(), newer.clone());
            one.join(newer);
            other.join(older);
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(&one.cases["deb/qemu s/a"].ms, &vec![b, a]);
        }
    }
}
