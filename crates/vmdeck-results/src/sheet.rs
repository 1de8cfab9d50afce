//! The sheet on which a reader writes down the tests that it sees, in their order, until nothing more can be said of them.
//!
//! It counts exactly and keeps little: what is settled leaves at once, and beyond a limit only counts are kept.

use crate::{
    place::CodePlace,
    summary::{NAMES, ResultSummary},
    words,
};
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};
use vmdeck_model::subtest::{Subtest, SubtestProgress, SubtestStatus, SubtestTally};

/// Most sub-tests that are shown one by one.
const MOST: usize = 100_000;
/// Most bytes of tests that wait until more can be said of them.
const HELD: usize = 10 << 20;
/// Most names of failures between two looks at the progress.
const TOLD: usize = 20;
/// Most names of running tests that the progress has.
const RUNNING: usize = 8;

/// Names a test on the sheet; it may have left already.
pub(crate) type Id = usize;

/// A test that is or was running.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// What it is part of.
    pub(crate) class: Option<String>,
    /// The whole name.
    pub(crate) name: String,
    /// How it ended; `None` = it is running.
    pub(crate) status: Option<SubtestStatus>,
    pub(crate) took_ms: Option<u64>,
    pub(crate) place: Option<CodePlace>,
    pub(crate) message: String,
    pub(crate) flaky: bool,
}

/// An entry, and whether it may leave.
struct SheetRow {
    entry: Entry,
    is_settled: bool,
    is_withdrawn: bool,
}

impl Entry {
    /// Returns a test of this name, whose parts before the last are joined with `join`.
    pub(crate) fn new(class: &str, join: &str, name: &str) -> Self {
        let (class, name) = (words::name(class), words::name(name));
        let full = if class.is_empty() {
            name
        } else if name.is_empty() {
            class.clone()
        } else {
            format!("{class}{join}{name}")
        };
        Self { class: Some(class).filter(|class| !class.is_empty()), name: full, ..Self::default() }
    }

    /// Returns the test as it ended.
    pub(crate) fn ended(self, status: SubtestStatus) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Returns the test with the reason that is given for it.
    pub(crate) fn because(self, message: &str) -> Self {
        Self { message: words::message(message), ..self }
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.message.len() + 160
    }
}

impl SheetRow {
    fn is_running(&self) -> bool {
        self.entry.status.is_none() && !self.is_withdrawn
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Sheet {
    rows: VecDeque<SheetRow>,
    /// The id of the first entry that has not left.
    first: Id,
    held: usize,
    /// How much more may be held before what has ended is let go once more.
    slack: usize,
    summary: ResultSummary,
    /// How often each name was seen, by its hash.
    names: HashMap<u64, u32, BuildHasherDefault<DefaultHasher>>,
    shown: usize,
    expected: Option<u32>,
    told: Vec<String>,
    /// The counts when the session began that is being read.
    before: SubtestTally,
    /// Whether something changed since the progress was told last.
    has_news: bool,
}

impl Sheet {
    /// Writes a test down, running or ended; `None` = there are too many, and it is only counted.
    pub(crate) fn add(&mut self, entry: Entry) -> Option<Id> {
        self.has_news = true;
        if let Some(status) = entry.status {
            self.count(status, &entry.name);
        }
        let is_full = self.held > 2 * HELD && entry.status.is_none();
        if self.shown + self.rows.len() >= MOST || is_full {
            self.summary.not_shown += u64::from(entry.status.is_some());
            return None;
        }
        self.held += entry.bytes();
        self.rows.push_back(SheetRow { entry, is_settled: false, is_withdrawn: false });
        if self.held > HELD + self.slack {
            self.settle_ended();
            self.slack = self.held - HELD + HELD / 4;
        }
        Some(self.first + self.rows.len() - 1)
    }

    /// Counts tests of which nothing but the outcome is known.
    pub(crate) fn add_unnamed(&mut self, status: SubtestStatus, count: u32) {
        if count > 0 {
            self.has_news = true;
            self.summary.tally.add(status, count);
            self.summary.not_shown += u64::from(count);
        }
    }

    /// Returns a test of which more may be said. One that is settled may have left or not, as the stream came in pieces.
    pub(crate) fn entry(&mut self, id: Option<Id>) -> Option<&mut Entry> {
        self.row(id).filter(|row| !row.is_settled).map(|row| &mut row.entry)
    }

    fn row(&mut self, id: Option<Id>) -> Option<&mut SheetRow> {
        self.rows.get_mut(id?.checked_sub(self.first)?)
    }

    /// Says how a test ended, or that it ended otherwise than was said before.
    pub(crate) fn end(&mut self, id: Option<Id>, status: SubtestStatus) {
        self.has_news = true;
        let Some(entry) = self.entry(id) else {
            self.count(status, "");
            self.summary.not_shown += 1;
            return;
        };
        let before = entry.status.replace(status);
        let name = entry.name.clone();
        if let Some(before) = before {
            self.summary.tally.take(before);
        }
        self.count(status, &name);
    }

    /// Takes a test back: it turned out to be only the parent of others.
    pub(crate) fn withdraw(&mut self, id: Option<Id>) {
        let Some(row) = self.row(id).filter(|row| !row.is_settled) else { return };
        row.is_withdrawn = true;
        row.is_settled = true;
        if let Some(status) = row.entry.status.take() {
            self.summary.tally.take(status);
        }
        self.has_news = true;
    }

    /// Says that nothing more will be said of a test.
    pub(crate) fn settle(&mut self, id: Option<Id>) {
        if let Some(row) = self.row(id) {
            row.is_settled = true;
        }
    }

    /// Says that nothing more will be said of any test that has ended.
    pub(crate) fn settle_ended(&mut self) {
        for row in &mut self.rows {
            row.is_settled |= row.entry.status.is_some();
        }
    }

    /// Says that nothing more will be said of what has ended before this test; `None` = of anything that has ended.
    pub(crate) fn settle_ended_before(&mut self, id: Option<Id>) {
        let count = id.map_or(self.rows.len(), |id| id.saturating_sub(self.first));
        for row in self.rows.iter_mut().take(count) {
            row.is_settled |= row.entry.status.is_some();
        }
    }

    /// Makes errors of all that are running, and settles everything. The reason comes after "did not end".
    pub(crate) fn end_running(&mut self, why: &str) -> usize {
        let running = self.rows.iter().enumerate().filter(|(_, row)| row.is_running());
        let running: Vec<Id> = running.map(|(at, _)| self.first + at).collect();
        for id in &running {
            self.did_not_end(Some(*id), why);
        }
        self.settle_ended();
        running.len()
    }

    /// Makes an error of one that was running.
    pub(crate) fn did_not_end(&mut self, id: Option<Id>, why: &str) {
        self.end(id, SubtestStatus::Error);
        if let Some(entry) = self.entry(id) {
            let why = words::message(why);
            entry.message = if why.is_empty() { "did not end".to_owned() } else { format!("did not end: {why}") };
            let name = entry.name.clone();
            if self.summary.unfinished.len() < NAMES {
                self.summary.unfinished.push(name);
            }
        }
    }

    /// Hands over what is settled, in its order.
    pub(crate) fn release(&mut self, each: &mut dyn FnMut(Subtest)) {
        while self.rows.front().is_some_and(|row| row.is_settled) {
            let Some(SheetRow { entry, is_withdrawn, .. }) = self.rows.pop_front() else { return };
            self.first += 1;
            self.held = self.held.saturating_sub(entry.bytes());
            self.slack = 0;
            let Some(status) = entry.status.filter(|_| !is_withdrawn) else { continue };
            self.shown += 1;
            let seen = self.names.entry(self.names.hasher().hash_one(&entry.name)).or_default();
            *seen += 1;
            let name = if *seen == 1 { entry.name } else { format!("{} #{seen}", entry.name) };
            let (file, line) = entry.place.map_or((None, None), |place| (Some(place.file), place.line));
            let (took_ms, message, flaky, class) = (entry.took_ms, entry.message, entry.flaky, entry.class);
            self.summary.tally.flaky += u32::from(flaky);
            each(Subtest { name, class, status, took_ms, file, line, message, flaky, quarantined: None });
        }
    }

    /// Returns how far the tests are, if that has changed since it was asked last.
    pub(crate) fn progress(&mut self) -> Option<SubtestProgress> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let running = self.rows.iter().filter(|row| row.is_running());
        let running = running.take(RUNNING).map(|row| row.entry.name.clone()).collect();
        let failed = std::mem::take(&mut self.told);
        Some(SubtestProgress { tally: self.summary.tally, expected: self.expected, running, failed })
    }

    /// Begins another session of the same tool: what is claimed of it at its end is of it alone.
    pub(crate) fn begin_session(&mut self) {
        self.before = self.summary.tally;
    }

    /// Returns the counts of the session so far.
    pub(crate) fn session(&self) -> SubtestTally {
        let mut tally = SubtestTally::default();
        for status in SubtestStatus::ALL {
            tally.add(status, self.summary.tally.of(status).saturating_sub(self.before.of(status)));
        }
        tally
    }

    /// Takes what the tool itself says at its end of how many failed: those that were not seen failed all the same.
    pub(crate) fn claim_failures(&mut self, count: u32) {
        let unseen = count.saturating_sub(self.session().failures());
        if unseen > 0 {
            self.add_unnamed(SubtestStatus::Failed, unseen);
            self.summary.warn(format!("its last line says {count} failed, of which {unseen} have no name here"));
        }
    }

    /// Says how many tests there will be.
    pub(crate) fn expect(&mut self, count: u64) {
        self.expected = u32::try_from(count).ok();
        self.has_news = true;
    }

    /// Says how many more tests there will be, besides those that have ended.
    pub(crate) fn expect_more(&mut self, count: u64) {
        self.expect(u64::from(self.summary.tally.total()) + count);
    }

    /// Returns what is said of the whole.
    pub(crate) fn summary(&mut self) -> &mut ResultSummary {
        &mut self.summary
    }

    /// Ends the sheet.
    pub(crate) fn finish(mut self, each: &mut dyn FnMut(Subtest)) -> ResultSummary {
        self.end_running("");
        self.release(each);
        self.summary
    }

    fn count(&mut self, status: SubtestStatus, name: &str) {
        self.summary.tally.add(status, 1);
        if status == SubtestStatus::Xpass && self.summary.unexpected.len() < NAMES {
            self.summary.unexpected.push(name.to_owned());
        }
        if status.is_failure() && self.told.len() < TOLD {
            self.told.push(name.to_owned());
        }
    }
}
