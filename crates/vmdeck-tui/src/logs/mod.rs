//! The logs pane's state: which log, which part of it, how it is shown, what is searched and marked.
//!
//! A log is a file of the record that is read window by window, or all guests' lines merged. Drawing is `view::logs`.

pub mod ansi;
pub mod file;
mod goal;
pub mod index;
mod jump;
pub mod merged;
pub mod save;
pub mod search;
pub mod times;

use crate::host::Host;
use ansi::{LineStyle, Parts};
use file::{LogFile, Waker};
use goal::Jump;
use merged::{Merged, MergedLine};
use ratatui::style::Style;
use save::Part;
use search::LogSearch;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use vmdeck_model::ids::GuestId;

/// A log of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// The guest whose log it is.
    pub guest: GuestId,
    /// The name in the pane: `console`, `smoke/install stdout`, `qemu.log`.
    pub label: String,
    /// The path of the log.
    pub path: PathBuf,
}

/// Which times are shown before the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeMode {
    /// No times are shown.
    #[default]
    Off,
    /// The wall-clock time is shown, in UTC.
    Clock,
    /// The time since the guest was powered on is shown.
    Power,
    /// The time since the line before is shown.
    Delta,
}

impl TimeMode {
    fn next(self) -> Self {
        match self {
            TimeMode::Off => TimeMode::Clock,
            TimeMode::Clock => TimeMode::Power,
            TimeMode::Power => TimeMode::Delta,
            TimeMode::Delta => TimeMode::Off,
        }
    }

    /// Returns the word in the pane's title.
    pub fn word(self) -> &'static str {
        match self {
            TimeMode::Off => "",
            TimeMode::Clock => "clock",
            TimeMode::Power => "since power-on",
            TimeMode::Delta => "delta",
        }
    }
}

/// A line as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The number of the line, from 0.
    pub number: u64,
    /// When the line came, in milliseconds of the run.
    pub ms: Option<u64>,
    /// The guest and the place that the line came from, in the merged log.
    pub origin: Option<(GuestId, String)>,
    /// The text, in parts of one style each.
    pub parts: Parts,
}

/// The logs pane; see the module.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the pane")]
pub struct LogPane {
    /// The log that is shown; `None` = all merged.
    pub source: Option<LogSource>,
    /// The lines of all guests.
    pub merged: Merged,
    file: Option<LogFile>,
    waker: Waker,
    host: Arc<dyn Host>,
    /// The current line.
    pub at: u64,
    /// The first line on the screen.
    pub top: u64,
    /// Whether the end is followed.
    pub follow: bool,
    /// How many lines there were when following ended.
    pub left_at: u64,
    /// Whether long lines are wrapped.
    pub wrap: bool,
    /// How many columns are scrolled away to the left.
    pub left: usize,
    /// Which times are shown.
    pub times: TimeMode,
    /// How lines are shown: with colours, plain or raw.
    pub line_style: LineStyle,
    /// Whether only matches are shown.
    pub only: bool,
    /// The search of the person.
    pub search: Option<LogSearch>,
    /// The searches for errors and warnings.
    jumps: BTreeMap<&'static str, LogSearch>,
    /// A jump that waits for its search.
    waiting: Option<Jump>,
    /// What says why the case failed whose log is shown.
    evidence: Option<LogSearch>,
    bookmarks: BTreeMap<PathBuf, BTreeSet<u64>>,
    /// The line at which a selection began.
    pub selected_from: Option<u64>,
    /// Whether the person chose this log; then the console of a booting guest does not replace it.
    pub is_chosen: bool,
    /// In a replay, the time up to which lines are shown.
    pub until_ms: Option<u64>,
    /// The number of rows on the screen.
    pub height: usize,
}

/// The longest text for the clipboard, in bytes; a longer one goes to a file.
const TEXT_MAX: usize = 4 << 20;

impl LogPane {
    /// Returns a pane that shows the merged log, which is empty.
    pub fn new(waker: Waker, host: Arc<dyn Host>) -> Self {
        Self {
            source: None,
            merged: Merged::default(),
            file: None,
            waker,
            host,
            at: 0,
            top: 0,
            follow: true,
            left_at: 0,
            wrap: false,
            left: 0,
            times: TimeMode::Off,
            line_style: LineStyle::Colours,
            only: false,
            search: None,
            jumps: BTreeMap::new(),
            waiting: None,
            evidence: None,
            bookmarks: BTreeMap::new(),
            selected_from: None,
            is_chosen: false,
            until_ms: None,
            height: 10,
        }
    }

    /// Shows a log from its end; `None` = all merged. A search continues in it.
    pub fn open(&mut self, source: Option<LogSource>) -> io::Result<()> {
        self.file = None;
        self.source = None;
        if let Some(source) = &source {
            self.file = Some(LogFile::open(self.host.as_ref(), &source.path, self.waker.clone())?);
        }
        self.source = source;
        self.jumps.clear();
        self.waiting = None;
        self.evidence = None;
        self.selected_from = None;
        self.left = 0;
        if let Some(query) = self.search.take().map(|s| s.query.clone()) {
            self.search = Some(LogSearch::new(query));
        }
        self.set_follow(true);
        self.refresh();
        Ok(())
    }

    /// Returns the shown file.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(LogFile::path)
    }

    /// Returns the first line that there is, and one past the last.
    pub fn range(&self) -> (u64, u64) {
        match &self.file {
            Some(file) => (0, file.lines(self.until_ms)),
            None => (self.merged.first(), self.merged.end()),
        }
    }

    /// Follows and searches what has been added to the log.
    pub fn refresh(&mut self) {
        self.waker.seen();
        let (first, end) = self.range();
        if self.follow {
            self.at = end.saturating_sub(1);
            self.left_at = end;
        }
        self.at = self.at.clamp(first, end.saturating_sub(1).max(first));
        self.scroll();
        if let Some(file) = &self.file {
            for search in self.search.iter().chain(self.jumps.values()).chain(&self.evidence) {
                let index = file.index();
                search.go_on(file.path(), &index, self.waker.clone());
            }
        }
        if let Some(jump) = self.waiting {
            self.jump(jump);
        }
    }

    /// Keeps the current line on the screen.
    fn scroll(&mut self) {
        let (first, end) = self.range();
        let height = self.height.max(1) as u64;
        if self.follow {
            self.top = end.saturating_sub(height);
        } else if self.at < self.top {
            self.top = self.at;
        } else if self.at >= self.top + height {
            self.top = self.at + 1 - height;
        }
        self.top = self.top.max(first);
    }

    /// Sets how many rows there are.
    pub fn resize(&mut self, height: usize) {
        self.height = height.max(1);
        self.scroll();
    }

    /// Follows the end, or stays at the current line.
    pub fn set_follow(&mut self, on: bool) {
        self.waiting = None;
        self.follow = on;
        self.refresh();
    }

    /// Returns how many lines have come since following ended.
    pub fn unseen(&self) -> u64 {
        let end = self.range().1;
        if self.follow || self.at + 1 >= end { 0 } else { end.saturating_sub(self.left_at) }
    }

    /// Moves the current line; towards the beginning this ends following.
    pub fn step(&mut self, lines: i64) {
        self.waiting = None;
        if self.only {
            return self.step_hits(lines);
        }
        let target = self.at.saturating_add_signed(lines);
        let (first, end) = self.range();
        self.go(target.clamp(first, end.saturating_sub(1).max(first)));
    }

    fn step_hits(&mut self, lines: i64) {
        for _ in 0..lines.unsigned_abs().min(10_000) {
            let Some(search) = &self.search else { return };
            let next = match &self.file {
                None if lines > 0 => self.merged_hit(&search.query, self.at + 1, true),
                None => self.merged_hit(&search.query, self.at, false),
                Some(_) if lines > 0 => search.found().at_or_after(self.at + 1),
                Some(_) => search.found().before(self.at),
            };
            match next {
                Some(line) => self.go(line),
                None => return,
            }
        }
    }

    /// Goes to a line and stays there, unless it is the last.
    pub fn go(&mut self, line: u64) {
        let (_, end) = self.range();
        self.at = line;
        let is_last = line + 1 >= end;
        if self.follow && !is_last {
            self.left_at = end;
        }
        if !is_last {
            self.follow = false;
        }
        self.scroll();
    }

    /// Scrolls sideways; this does not end following.
    pub fn sideways(&mut self, columns: i64) {
        self.left = self.left.saturating_add_signed(isize::try_from(columns).unwrap_or(0));
    }

    /// Switches to the next way of showing times.
    pub fn next_times(&mut self) {
        self.times = self.times.next();
    }

    /// Switches to the next way of showing bytes.
    pub fn next_line_style(&mut self) {
        self.line_style = match self.line_style {
            LineStyle::Colours => LineStyle::Plain,
            LineStyle::Plain => LineStyle::Raw,
            LineStyle::Raw => LineStyle::Colours,
        };
    }

    /// Marks the current line, or takes the mark off.
    pub fn bookmark(&mut self) {
        let marks = self.bookmarks.entry(self.path().map(Path::to_owned).unwrap_or_default()).or_default();
        if !marks.remove(&self.at) {
            marks.insert(self.at);
        }
    }

    /// Returns whether a line is marked.
    pub fn is_bookmarked(&self, line: u64) -> bool {
        self.bookmarks.get(self.path().unwrap_or(Path::new(""))).is_some_and(|marks| marks.contains(&line))
    }

    /// Goes to the next or previous marked line.
    pub fn next_bookmark(&mut self, forward: bool) {
        let Some(marks) = self.bookmarks.get(self.path().unwrap_or(Path::new(""))) else { return };
        let next = if forward {
            marks.range(self.at + 1..).next().or(marks.first())
        } else {
            marks.range(..self.at).next_back().or(marks.last())
        };
        if let Some(line) = next.copied() {
            self.go(line);
        }
    }

    /// Returns the selected lines, or the current one.
    pub fn selection(&self) -> (u64, u64) {
        let from = self.selected_from.unwrap_or(self.at);
        (from.min(self.at), from.max(self.at))
    }

    /// Returns the lines on a screen of this many rows.
    pub fn window(&self, rows: usize) -> Vec<Shown> {
        if self.only {
            return self.hits_window(rows);
        }
        let (_, end) = self.range();
        let count = usize::try_from(end.saturating_sub(self.top)).unwrap_or(rows).min(rows);
        self.read(self.top, count)
    }

    fn hits_window(&self, rows: usize) -> Vec<Shown> {
        let Some(search) = &self.search else { return Vec::new() };
        if self.file.is_none() {
            let is_hit = |(_, line): &(u64, &MergedLine)| search.query.is_in(line.text.as_bytes());
            let until = if self.follow { u64::MAX } else { self.at };
            let hits = self.merged.iter().rev().filter(|(number, _)| *number <= until).filter(is_hit).take(rows);
            let mut out: Vec<Shown> = hits.map(|(number, line)| of_merged(number, line)).collect();
            out.reverse();
            return out;
        }
        let numbers: Vec<u64> = {
            let found = search.found();
            let here = found.lines.partition_point(|l| *l <= self.at);
            let end = if self.follow { found.lines.len() } else { here.max(rows.min(found.lines.len())) };
            found.lines[end.saturating_sub(rows)..end].to_vec()
        };
        numbers.into_iter().flat_map(|number| self.read(number, 1)).collect()
    }

    /// Reads this many lines, from one on.
    pub fn read(&self, from: u64, count: usize) -> Vec<Shown> {
        let Some(file) = &self.file else {
            let lines = (from..from + count as u64).filter_map(|n| Some((n, self.merged.get(n)?)));
            return lines.map(|(number, line)| of_merged(number, line)).collect();
        };
        let timed = self.times != TimeMode::Off;
        let shown = |line: &file::RawLine| Shown {
            number: line.number,
            ms: if timed { file.time_of(line) } else { None },
            origin: None,
            parts: ansi::render(&line.bytes, self.line_style),
        };
        file.read(from, count).iter().map(shown).collect()
    }

    /// Returns the text of these lines, for the clipboard.
    pub fn text(&self, (from, to): (u64, u64)) -> String {
        let mut out = String::new();
        let mut at = from;
        while at <= to && out.len() < TEXT_MAX {
            let count = usize::try_from(to - at + 1).unwrap_or(100).min(100);
            let lines = self.read(at, count);
            if lines.is_empty() {
                break;
            }
            for line in &lines {
                out.push_str(&ansi::plain(&line.parts));
                out.push('\n');
            }
            at += lines.len() as u64;
        }
        out.pop();
        out
    }

    /// Returns what is saved: the selection, the matches, or everything.
    pub fn part(&self) -> Part {
        let (first, end) = self.range();
        if self.file.is_none() {
            let (from, to) =
                if self.selected_from.is_some() { self.selection() } else { (first, end.saturating_sub(1)) };
            return Part::Text(self.text((from, to)));
        }
        match &self.search {
            Some(search) if self.only => Part::Hits(search.found().lines.clone()),
            _ if self.selected_from.is_some() => {
                let (from, to) = self.selection();
                Part::Lines(from, to)
            }
            _ => Part::Lines(first, end.saturating_sub(1)),
        }
    }
}

fn of_merged(number: u64, line: &MergedLine) -> Shown {
    Shown {
        number,
        ms: Some(line.ms),
        origin: Some((line.guest.clone(), line.from.clone())),
        parts: vec![(line.text.clone(), Style::new())],
    }
}

#[cfg(test)]
mod tests;
