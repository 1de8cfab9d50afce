//! Going to a line of the log that matches something: the person's search, an error, a warning, the evidence of a failure.
//!
//! The search may still be at work; then the jump waits for it.

use super::{
    LogPane,
    goal::{Goal, Jump},
    merged::MergedLine,
    search::{LogSearch, Query},
};
use vmdeck_model::evidence::ERRORS;

impl LogPane {
    /// Searches for this from the current line on; an empty text ends searching.
    pub fn search_for(&mut self, text: &str) {
        self.search = (!text.is_empty()).then(|| LogSearch::new(Query::new(text)));
        self.only &= self.search.is_some();
        self.waiting = self.search.is_some().then_some(Jump { goal: Goal::Own, forward: true });
        self.refresh();
    }

    /// Goes to the next or previous match.
    pub fn next_match(&mut self, forward: bool) {
        self.jump(Jump { goal: Goal::Own, forward });
    }

    /// Goes to the next or previous line that matches this expression.
    pub fn next_like(&mut self, pattern: &'static str, forward: bool) {
        self.look_for(pattern);
        self.waiting = Some(Jump { goal: Goal::Like(pattern), forward });
        self.refresh();
    }

    /// Goes to the line that says why a case failed, with the lines around it; without one to the first that reports an error, and
    /// where there is none, the end is shown as of any log.
    pub fn show_evidence(&mut self, line: Option<&str>) {
        self.look_for(ERRORS);
        self.evidence = line.map(|line| LogSearch::new(Query::literal(line)));
        self.refresh();
        self.waiting = Some(Jump { goal: Goal::Evidence, forward: true });
        self.refresh();
    }

    /// Goes to the line of this number as soon as the log has it, with the lines around it.
    pub fn show_line(&mut self, line: u64) {
        self.look_for(ERRORS);
        self.waiting = Some(Jump { goal: Goal::Line(line), forward: true });
        self.refresh();
    }

    fn look_for(&mut self, pattern: &'static str) {
        self.jumps.entry(pattern).or_insert_with(|| LogSearch::new(Query::new(pattern)));
    }

    pub(super) fn jump(&mut self, jump: Jump) {
        let search = match jump.goal {
            Goal::Evidence => return self.jump_to_evidence(),
            Goal::Line(line) => return self.stay_at(Some(line).filter(|line| *line < self.range().1)),
            Goal::Like(pattern) => self.jumps.get(pattern),
            Goal::Own => self.search.as_ref(),
        };
        self.waiting = None;
        let Some(search) = search else { return };
        let from = if jump.forward { self.at + 1 } else { self.at };
        let (hit, busy) = match &self.file {
            Some(_) => {
                let found = search.found();
                let busy = search.is_busy();
                let next = if jump.forward { found.at_or_after(from) } else { found.before(from) };
                // At the end it begins again at the other end, once that is known.
                let around = || if jump.forward { found.at_or_after(0) } else { found.before(u64::MAX) };
                (if busy { next } else { next.or_else(around) }, busy)
            }
            None => (self.merged_hit(&search.query, from, jump.forward), false),
        };
        match hit {
            Some(line) => self.go_to_the_middle(line),
            None if busy => self.waiting = Some(jump),
            None => {}
        }
    }

    /// Goes to the evidence as soon as it is found; until then, and where there is none, the jump waits and harms nobody.
    fn jump_to_evidence(&mut self) {
        let Some(length) = self.path().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len()) else {
            return;
        };
        let first = |search: &LogSearch| search.found().at_or_after(0);
        let is_searched = |search: &LogSearch| !search.is_busy() && search.has_seen(length);
        let own = self.evidence.as_ref().and_then(first);
        let error = || self.jumps.get(ERRORS).and_then(first);
        let hit = if self.evidence.as_ref().is_none_or(is_searched) { own.or_else(error) } else { own };
        self.stay_at(hit);
    }

    /// Goes to a line, if it is known, and follows the end no more.
    fn stay_at(&mut self, line: Option<u64>) {
        if let Some(line) = line {
            self.waiting = None;
            self.go_to_the_middle(line);
            // The last line is no end to follow here: it is what was looked for.
            self.follow = false;
        }
    }

    /// Goes to a line and shows as much before it as after it.
    fn go_to_the_middle(&mut self, line: u64) {
        let is_seen = (self.top..self.top + self.height as u64).contains(&line);
        self.go(line);
        if !is_seen && !self.follow {
            let (first, end) = self.range();
            let last = end.saturating_sub(self.height as u64).max(first);
            self.top = line.saturating_sub(self.height as u64 / 2).clamp(first, last);
        }
    }

    pub(super) fn merged_hit(&self, query: &Query, from: u64, forward: bool) -> Option<u64> {
        let is_hit = |(number, line): &(u64, &MergedLine)| {
            let wanted = if forward { *number >= from } else { *number < from };
            wanted && query.is_in(line.text.as_bytes())
        };
        let hit = if forward { self.merged.iter().find(is_hit) } else { self.merged.iter().rev().find(is_hit) };
        hit.map(|(number, _)| number)
    }

    /// Returns the count of matches, such as `3 of 17`, or how many so far; empty without a search.
    pub fn count(&self) -> String {
        let Some(search) = &self.search else { return String::new() };
        if self.file.is_none() {
            return search.query.text.clone();
        }
        let found = search.found();
        let (total, more) = (found.lines.len(), if found.more || search.is_busy() { "+" } else { "" });
        match found.rank(self.at) {
            Some(rank) => format!("{} [{rank} of {total}{more}]", search.query.text),
            None => format!("{} [{total}{more}]", search.query.text),
        }
    }

    /// Returns which of the errors the current line is, such as `error 1 of 2`; `None` = it is none, or nobody looks for them.
    pub fn error_count(&self) -> Option<String> {
        let search = self.jumps.get(ERRORS).filter(|_| self.file.is_some() && !self.follow)?;
        let found = search.found();
        let more = if found.more || search.is_busy() { "+" } else { "" };
        found.rank(self.at).map(|rank| format!("error {rank} of {}{more}", found.lines.len()))
    }
}
