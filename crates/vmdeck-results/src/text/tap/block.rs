//! A block of results: its plan, its numbers, and what it is part of.
//!
//! A block whose name is known writes its results down at once; one that gets its name only from its parent's result, after it, waits
//! for that, since it may turn out to be no block at all.

use super::words::{Directive, TapResult};
use crate::{
    place::CodePlace,
    sheet::{Entry, Id, Sheet},
    words,
};
use std::collections::HashSet;
use vmdeck_model::subtest::SubtestStatus;

/// What joins the names of blocks.
const JOIN: &str = " > ";
/// Most results of a block without a name that are kept until it gets one.
const DRAFTS: usize = 10_000;
/// Most numbers that may be ahead of the one that is due.
const AHEAD: usize = 100_000;
/// Most lines that are kept for the next result.
const TOLD: usize = 20;

/// How a single result is to be read.
#[derive(Clone, Debug)]
pub(super) struct TapOutcome {
    status: SubtestStatus,
    message: String,
    took_ms: Option<u64>,
    place: Option<CodePlace>,
}

impl TapOutcome {
    pub(super) fn of(result: &TapResult<'_>, is_kernel: bool) -> Self {
        let plain = if result.is_ok { SubtestStatus::Passed } else { SubtestStatus::Failed };
        let status = result.directive.map_or(plain, |directive| directive.status(result.is_ok));
        let message = match result.directive {
            Some(Directive::Timeout(why)) => format!("timed out: {why}").trim_end_matches(": ").to_owned(),
            Some(Directive::Skip(why) | Directive::Todo(why) | Directive::Xfail(why) | Directive::Error(why)) => {
                why.to_owned()
            }
            Some(Directive::Other(text)) if is_kernel && !result.is_ok => text.to_owned(),
            _ => String::new(),
        };
        Self { status, message: words::message(&message), took_ms: result.took_ms, place: None }
    }

    /// Adds what was said before the result: the kernel's tests say first why they fail.
    pub(super) fn with_earlier(mut self, told: &[String], name: &str) -> Self {
        if !self.status.is_failure() {
            return self;
        }
        let own = told.iter().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        let text = own.or(told.last().map(String::as_str)).unwrap_or_default();
        self.place = own.and_then(|text| CodePlace::find(text, None));
        if self.message.is_empty() {
            self.message = words::message(text);
        }
        self
    }
}

/// What became of a block, for its parent.
pub(super) struct ClosedBlock {
    pub(super) name: Option<String>,
    /// How many results it had.
    pub(super) parts: u64,
    has_failed: bool,
    /// Those that failed and are on the sheet.
    failed: Vec<Id>,
    skip: Option<String>,
}

/// A result that waits for the name of its block.
struct HeldResult {
    /// The names of the blocks below the one without a name.
    path: String,
    name: String,
    outcome: TapOutcome,
}

/// Numbers that were seen.
#[derive(Default)]
struct Numbers {
    /// All below it were seen.
    due: u64,
    ahead: HashSet<u64>,
    most: u64,
}

impl Numbers {
    /// Takes a number; returns whether it was seen before.
    fn is_again(&mut self, number: u64) -> bool {
        self.most = self.most.max(number);
        self.due = self.due.max(1);
        if number < self.due {
            return number > 0;
        }
        if number > self.due {
            return !self.ahead.insert(number);
        }
        self.due += 1;
        while self.ahead.remove(&self.due) {
            self.due += 1;
        }
        false
    }
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a block")]
pub(super) struct TapBlock {
    pub(super) level: usize,
    /// How many `#` stand before its lines.
    pub(super) hashes: usize,
    pub(super) has_version: bool,
    /// Whether it stands between `{` and `}` after its parent's result.
    pub(super) is_after_parent: bool,
    /// The name of the test that is about to begin, and its place on the sheet.
    pub(super) announced: Option<String>,
    running: Option<Id>,
    /// The result that came last.
    pub(super) last: Option<Id>,
    /// What was said since then.
    pub(super) told: Vec<String>,
    /// Whether its depth is that of its first line.
    is_new: bool,
    /// The names of the blocks around it.
    path: String,
    name: Option<String>,
    may_be_live: bool,
    plan: Option<u64>,
    is_plan_late: bool,
    skip: Option<String>,
    results: u64,
    numbers: Numbers,
    has_failed: bool,
    failed: Vec<Id>,
    problems: Vec<String>,
    drafts: Vec<HeldResult>,
    /// The result whose parts are being read.
    parent: Option<(String, TapOutcome)>,
}

impl TapBlock {
    pub(super) fn root() -> Self {
        Self { name: Some(String::new()), may_be_live: true, ..Self::new(0, None, None) }
    }

    /// Returns a block within another; `path` = the names around it, `None` = they are not known yet.
    pub(super) fn new(level: usize, path: Option<String>, name: Option<String>) -> Self {
        Self {
            level,
            hashes: 0,
            has_version: false,
            is_after_parent: false,
            announced: None,
            running: None,
            last: None,
            told: Vec::new(),
            is_new: false,
            may_be_live: path.is_some(),
            path: path.unwrap_or_default(),
            name,
            plan: None,
            is_plan_late: false,
            skip: None,
            results: 0,
            numbers: Numbers::default(),
            has_failed: false,
            failed: Vec::new(),
            problems: Vec::new(),
            drafts: Vec::new(),
            parent: None,
        }
    }

    /// Returns the block that follows its parent, deeper than that.
    pub(super) fn after_parent(level: usize, path: Option<String>, name: String) -> Self {
        Self { is_after_parent: true, is_new: true, ..Self::new(level + 1, path, Some(name)) }
    }

    /// Takes the depth of the first line of a block that follows its parent.
    pub(super) fn adopt(&mut self, level: usize) {
        if std::mem::take(&mut self.is_new) {
            self.level = level;
        }
    }

    pub(super) fn is_at(&self, level: usize) -> bool {
        self.level == level || (self.is_new && level >= self.level)
    }

    fn is_live(&self) -> bool {
        self.may_be_live && self.name.is_some()
    }

    /// Returns the names around a block within this one; `None` = they are not known yet.
    pub(super) fn path_of_child(&self) -> Option<String> {
        self.is_live().then(|| self.class())
    }

    /// Returns what the results of this block are part of.
    fn class(&self) -> String {
        joined(&self.path, self.name.as_deref().unwrap_or_default())
    }

    pub(super) fn wants_name(&self) -> bool {
        self.name.is_none() && self.results == 0
    }

    pub(super) fn name_it(&mut self, name: &str) {
        self.name = Some(name.to_owned());
    }

    /// Says which test is about to begin.
    pub(super) fn announce(&mut self, name: &str, sheet: &mut Sheet) {
        drop(self.take_announced(sheet));
        self.announced = Some(name.to_owned());
        if self.is_live() {
            self.running = sheet.add(Entry::new(&self.class(), JOIN, name));
        }
    }

    /// Returns the name of the test that was about to begin, which turned out to be a block.
    pub(super) fn take_announced(&mut self, sheet: &mut Sheet) -> Option<String> {
        sheet.withdraw(self.running.take());
        self.announced.take()
    }

    /// Keeps a line for the next result.
    pub(super) fn tell(&mut self, text: &str) {
        if self.told.len() == TOLD {
            self.told.remove(0);
        }
        self.told.push(words::message(text));
    }

    /// Counts a result; returns its number.
    pub(super) fn count(&mut self, result: &TapResult<'_>) -> u64 {
        self.results += 1;
        let number = result.number.unwrap_or(self.results);
        if self.numbers.is_again(number) {
            self.problem(format!("number {number} twice"));
        }
        if self.numbers.ahead.len() > AHEAD {
            self.numbers.ahead.clear();
            self.problem("the numbers are too far out of order to be checked".to_owned());
        }
        number
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < 3 && !self.problems.contains(&what) {
            self.problems.push(what);
        }
    }

    pub(super) fn plan(&mut self, count: u64, skip: Option<&str>, is_root: bool, sheet: &mut Sheet) {
        if self.plan.is_some() {
            return self.problem("a second plan".to_owned());
        }
        self.plan = Some(count);
        self.skip = skip.map(str::to_owned);
        self.is_plan_late = self.results > 0;
        if is_root {
            sheet.expect(count);
        }
    }

    pub(super) fn has_plan(&self) -> bool {
        self.plan.is_some()
    }

    pub(super) fn is_begun(&self) -> bool {
        self.results > 0 || self.plan.is_some()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.plan == Some(self.results)
    }

    /// Returns whether the plan came last, and was kept.
    pub(super) fn is_ended(&self) -> bool {
        self.is_plan_late && self.is_whole()
    }

    /// Writes down a result of this block; `child` = the parts of which it is made.
    pub(super) fn record(
        &mut self,
        name: &str,
        outcome: TapOutcome,
        child: Option<ClosedBlock>,
        sheet: &mut Sheet,
    ) -> Option<Id> {
        let mut outcome = outcome;
        if let Some(mut child) = child {
            if matches!(outcome.status, SubtestStatus::Xfail | SubtestStatus::Skipped) {
                // What fails in a part that is expected to fail is expected as well.
                for id in child.failed.drain(..) {
                    sheet.end(Some(id), SubtestStatus::Xfail);
                }
                return None;
            }
            self.failed.append(&mut child.failed);
            self.failed.truncate(DRAFTS);
            self.has_failed |= child.has_failed || outcome.status.is_failure();
            let says_ok = matches!(outcome.status, SubtestStatus::Passed | SubtestStatus::Xpass);
            if child.has_failed && says_ok {
                outcome.status = SubtestStatus::Failed;
                "says ok, but a part failed".clone_into(&mut outcome.message);
            } else if child.has_failed || !outcome.status.is_failure() {
                return None;
            }
        }
        self.has_failed |= outcome.status.is_failure();
        if !self.is_live() {
            if self.drafts.len() < DRAFTS {
                self.drafts.push(HeldResult { path: String::new(), name: name.to_owned(), outcome });
            } else {
                sheet.add_unnamed(outcome.status, 1);
            }
            return None;
        }
        let status = outcome.status;
        let id = match self.running.take() {
            Some(id) => {
                let class = self.class();
                self.announced = None;
                if let Some(entry) = sheet.entry(Some(id)) {
                    let Entry { name, class, .. } = Entry::new(&class, JOIN, name);
                    (entry.name, entry.class) = (name, class);
                    (entry.message, entry.took_ms, entry.place) = (outcome.message, outcome.took_ms, outcome.place);
                }
                sheet.end(Some(id), outcome.status);
                Some(id)
            }
            None => sheet.add(entry(&self.class(), name, outcome)),
        };
        self.failed.extend(id.filter(|_| status.is_failure() && self.level > 0 && self.failed.len() < DRAFTS));
        id
    }

    /// Keeps a result whose parts follow.
    pub(super) fn begin_parent(&mut self, result: &TapResult<'_>, name: &str) {
        self.parent = Some((name.to_owned(), TapOutcome::of(result, false)));
    }

    /// Writes down the result whose parts have come.
    pub(super) fn end_parent(&mut self, child: ClosedBlock, sheet: &mut Sheet) {
        let Some((name, outcome)) = self.parent.take() else { return };
        self.last = self.record(&name, outcome, Some(child).filter(|child| child.parts > 0), sheet);
        if self.level == 0 {
            sheet.settle_ended_before(None);
        }
    }

    /// Returns a result that had no words of its own, with what its empty block says of it.
    pub(super) fn or_skipped(outcome: TapOutcome, child: Option<&ClosedBlock>) -> TapOutcome {
        match child.and_then(|child| child.skip.as_ref()) {
            Some(why) if outcome.status == SubtestStatus::Passed => {
                TapOutcome { status: SubtestStatus::Skipped, message: words::message(why), ..outcome }
            }
            _ => outcome,
        }
    }

    /// Ends a block within `around`; `name` = its parent's result says so. `None` = it was no block, but text.
    pub(super) fn close(mut self, name: Option<&str>, around: &mut TapBlock, sheet: &mut Sheet) -> Option<ClosedBlock> {
        let is_block = self.plan.is_some() || self.has_version || self.name.is_some();
        if !is_block {
            return None;
        }
        if name.is_none() && !self.is_after_parent {
            let named = self.name.as_deref().unwrap_or("a block");
            sheet.summary().lacks(format!("`{named}` has no result"));
        }
        if self.name.is_none() {
            self.name = name.map(str::to_owned);
        }
        self.check(sheet);
        let own = self.name.clone().unwrap_or_default();
        for draft in self.drafts.drain(..) {
            let path = joined(&own, &draft.path);
            if around.is_live() {
                let is_failure = draft.outcome.status.is_failure();
                let id = sheet.add(entry(&joined(&around.class(), &path), &draft.name, draft.outcome));
                self.failed.extend(id.filter(|_| is_failure));
            } else if around.drafts.len() < DRAFTS {
                around.drafts.push(HeldResult { path, ..draft });
            } else {
                sheet.add_unnamed(draft.outcome.status, 1);
            }
        }
        let name = self.name.filter(|name| !name.is_empty());
        Some(ClosedBlock {
            name,
            parts: self.results,
            has_failed: self.has_failed,
            failed: self.failed,
            skip: self.skip,
        })
    }

    /// Ends a block within which the stream ended.
    pub(super) fn cut(&mut self, sheet: &mut Sheet, why: &str) {
        let class = self.class();
        for draft in self.drafts.drain(..) {
            sheet.add(entry(&joined(&self.path, &draft.path), &draft.name, draft.outcome));
        }
        match &self.name {
            Some(name) if !name.is_empty() => {
                sheet.summary().lacks(format!("cut inside `{}`", words::name(name)));
                if self.may_be_live {
                    let id = sheet.add(Entry::new(&self.path, JOIN, name));
                    sheet.did_not_end(id, why);
                }
            }
            _ if class.is_empty() && self.plan.is_none() && !self.has_version => {}
            _ => sheet.summary().lacks("cut inside a block"),
        }
    }

    /// Ends the outermost block.
    pub(super) fn finish_root(&mut self, is_kernel: bool, sheet: &mut Sheet) {
        if self.running.is_some() {
            sheet.summary().lacks("a test did not end");
        }
        if self.plan == Some(0) && self.results == 0 {
            if let Some(why) = &self.skip {
                sheet.add(Entry::new("", JOIN, "(all)").ended(SubtestStatus::Skipped).because(why));
            }
            return;
        }
        if self.plan.is_none() && !is_kernel && (self.is_begun() || self.has_version) {
            self.problem("no plan".to_owned());
        }
        self.check(sheet);
    }

    /// Says what of the plan was not kept.
    fn check(&mut self, sheet: &mut Sheet) {
        if let Some(plan) = self.plan {
            if self.numbers.most > plan && self.results > 0 {
                self.problem(format!("number {} outside the plan", self.numbers.most));
            }
            if plan != self.results {
                self.problem(format!("plan {plan}, {} results", self.results));
            }
        }
        let of = match self.name.as_deref() {
            Some(name) if !name.is_empty() => format!(" in `{}`", words::name(name)),
            _ => String::new(),
        };
        for problem in self.problems.drain(..) {
            sheet.summary().lacks(format!("{problem}{of}"));
        }
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() || name.is_empty() { format!("{path}{name}") } else { format!("{path}{JOIN}{name}") }
}

fn entry(class: &str, name: &str, outcome: TapOutcome) -> Entry {
    let TapOutcome { status, message, took_ms, place } = outcome;
    Entry { took_ms, place, message, ..Entry::new(class, JOIN, name).ended(status) }
}
