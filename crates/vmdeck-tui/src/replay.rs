//! Playing a record that is over: which events have happened at a time, at what speed, where the failures are.
//!
//! Facts are few and kept in memory; output lines may be millions and are read from the file when their time comes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Event, EventKind},
};

/// What every output line of a record has in it.
pub const OUTPUT: &[u8] = br#""kind":"output""#;
/// The longest line of a record that can be an event, in bytes.
pub const LINE_MAX: usize = 1 << 20;
/// How many output lines are between two marks.
const STRIDE: usize = 128;
/// After how many bytes without an event a file is no record.
const STRANGE: u64 = 4 << 20;
/// How much of a line without an end is read at a time.
const ENDLESS: u64 = 64 << 20;
/// How much of a line that is too long is kept.
const KEPT: usize = 256;
/// How much of the record at a time counts as a jump, in milliseconds.
const GAP: u64 = 10_000;
/// How many marks of output lines are read again after a jump.
const BEHIND: usize = 16;

/// The player of a record; see the module.
#[derive(Debug)]
pub struct Player {
    path: PathBuf,
    facts: Vec<Event>,
    /// Every 128th output line: its time and its offset.
    marks: Vec<(u64, u64)>,
    /// How many facts have happened.
    done: usize,
    /// Where the next output line is.
    out_at: u64,
    at_ms: u64,
    /// While it plays: the cockpit's time and the record's time when playing began.
    since: Option<(u64, u64)>,
    speed: f64,
    /// The times of what went wrong, in milliseconds of the run.
    pub failures: Vec<u64>,
    /// The length of the record, in milliseconds.
    pub total_ms: u64,
    /// How many lines of the record are no events: damaged, or of a program that wrote between them.
    pub unreadable: usize,
}

impl Player {
    /// Reads a record: its folder, or its file of events. A torn last line and lines that are no events are left out;
    /// [`Player::unreadable`] says how many.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("events.jsonl") } else { path.to_owned() };
        let cannot = || Fault::user(format!("cannot replay `{}`", path.display()));
        let file = vmdeck_files::open(&path).map_err(|e| {
            cannot().because(e).hint("give the folder of a run, or its events.jsonl; runs are in `.vmdeck/runs`")
        })?;
        let mut player = Self {
            path: path.clone(),
            facts: Vec::new(),
            marks: Vec::new(),
            done: 0,
            out_at: 0,
            at_ms: 0,
            since: None,
            speed: 1.0,
            failures: Vec::new(),
            total_ms: 0,
            unreadable: 0,
        };
        let (mut outputs, mut offset) = (0, 0);
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            let n = next_line(&mut reader, &mut line).map_err(|e| cannot().because(e))?;
            if n == 0 || (n == line.len() as u64 && line.last() != Some(&b'\n')) {
                break;
            }
            if memchr::memmem::find(&line, OUTPUT).is_some() {
                if outputs % STRIDE == 0 {
                    player.marks.push((elapsed_of(&line), offset));
                }
                outputs += 1;
            } else if let Ok(event) = serde_json::from_slice::<Event>(&line) {
                player.total_ms = player.total_ms.max(event.elapsed_ms);
                if is_failure(&event.kind) {
                    player.failures.push(event.elapsed_ms);
                }
                player.facts.push(event);
            } else {
                player.unreadable += 1;
            }
            offset += n;
            // A file of something else: nobody waits for all of it.
            if player.facts.is_empty() && offset > STRANGE {
                break;
            }
        }
        if player.facts.is_empty() {
            let why = match player.unreadable {
                0 => "it holds no events".to_owned(),
                lines => format!("none of its {lines} lines is an event"),
            };
            return Err(cannot().because(why));
        }
        if let Some(first) = player.facts.first_mut() {
            // The run is there from the beginning, however long its first word took.
            first.elapsed_ms = 0;
        }
        player.out_at = player.marks.first().map_or(u64::MAX, |m| m.1);
        Ok(player)
    }

    /// Returns the record's folder.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Returns the time of the record that is shown.
    pub fn now_ms(&self) -> u64 {
        self.at_ms
    }

    /// Returns whether the record plays.
    pub fn is_playing(&self) -> bool {
        self.since.is_some()
    }

    /// Returns how fast the record plays.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Plays or pauses; at the end it plays from the beginning.
    pub fn toggle(&mut self, now_ms: u64) {
        self.since = match self.since {
            Some(_) => None,
            None => Some((now_ms, self.at_ms)),
        };
    }

    /// Plays faster or slower, between a quarter and 64 times.
    pub fn change_speed(&mut self, factor: f64, now_ms: u64) {
        self.speed = (self.speed * factor).clamp(0.25, 64.0);
        if self.since.is_some() {
            self.since = Some((now_ms, self.at_ms));
        }
    }

    /// Takes the time that has passed; returns the events that have happened since.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Event> {
        let Some((since, from)) = self.since else { return Vec::new() };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "milliseconds of a run"
        )]
        let target = from + (now_ms.saturating_sub(since) as f64 * self.speed) as u64;
        if target >= self.total_ms {
            self.since = None;
        }
        let target = target.min(self.total_ms);
        if target > self.at_ms + GAP {
            // After a long absence: of the output only what would be seen now.
            self.skip_output(target);
        }
        self.forward(target)
    }

    fn forward(&mut self, to_ms: u64) -> Vec<Event> {
        let from = self.done;
        self.done = self.facts.partition_point(|e| e.elapsed_ms <= to_ms).max(from);
        self.at_ms = to_ms;
        let mut out = self.outputs(to_ms);
        out.extend(self.facts[from..self.done].iter().cloned());
        out.sort_by_key(|e| e.seq);
        out
    }

    /// Goes to a time; returns the events that have happened by then, from the first on, but of output only the last
    /// lines.
    pub fn seek(&mut self, to_ms: u64, now_ms: u64) -> Vec<Event> {
        let to_ms = to_ms.min(self.total_ms);
        if self.since.is_some() {
            self.since = Some((now_ms, to_ms));
        }
        self.done = 0;
        self.skip_output(to_ms);
        self.forward(to_ms)
    }

    /// Continues in the output with the last lines before a time.
    fn skip_output(&mut self, to_ms: u64) {
        let mark = self.marks.partition_point(|(ms, _)| *ms <= to_ms).saturating_sub(BEHIND);
        self.out_at = self.marks.get(mark).map_or(u64::MAX, |m| m.1);
    }

    /// Returns the time of the next event, or of the one before.
    pub fn neighbour(&self, forward: bool) -> u64 {
        let after = self.facts.partition_point(|e| e.elapsed_ms <= self.at_ms);
        if forward {
            return self.facts.get(after).map_or(self.total_ms, |e| e.elapsed_ms);
        }
        let before = self.facts.partition_point(|e| e.elapsed_ms < self.at_ms);
        before.checked_sub(1).map_or(0, |i| self.facts[i].elapsed_ms)
    }

    /// Returns the time of the next failure; after the last one, the first again.
    pub fn next_failure(&self) -> Option<u64> {
        let after = self.failures.partition_point(|ms| *ms <= self.at_ms);
        self.failures.get(after).or(self.failures.first()).copied()
    }

    /// Returns the output lines up to a time from where the last call ended.
    fn outputs(&mut self, to_ms: u64) -> Vec<Event> {
        let mut out = Vec::new();
        if self.out_at == u64::MAX {
            return out;
        }
        let Ok(mut file) = vmdeck_files::open(&self.path) else { return out };
        if file.seek(SeekFrom::Start(self.out_at)).is_err() {
            return out;
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            match next_line(&mut reader, &mut line) {
                Ok(n @ 1..) if n > line.len() as u64 || (line.ends_with(b"\n") && elapsed_of(&line) <= to_ms) => {
                    self.out_at += n;
                }
                _ => return out,
            }
            if memchr::memmem::find(&line, OUTPUT).is_some()
                && let Ok(event) = serde_json::from_slice(&line)
            {
                out.push(event);
            }
        }
    }
}

/// Reads a line with its end into `line`, and returns how many bytes it took of the file; of a line that is too long for an
/// event only the beginning is kept.
fn next_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut taken = reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', line)? as u64;
    if taken == LINE_MAX as u64 && line.last() != Some(&b'\n') {
        line.truncate(KEPT);
        let (mut rest, mut ended) = (Vec::new(), false);
        while !ended && taken < ENDLESS {
            rest.clear();
            let n = reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut rest)?;
            ended = n == 0 || rest.last() == Some(&b'\n');
            taken += n as u64;
        }
    }
    Ok(taken)
}

/// Returns the time of an event without reading all of it: output lines are many.
fn elapsed_of(line: &[u8]) -> u64 {
    const KEY: &[u8] = br#""elapsed_ms":"#;
    let Some(at) = memchr::memmem::find(line, KEY) else { return 0 };
    let digits = line[at + KEY.len()..].iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n: u64, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')))
}

fn is_failure(kind: &EventKind) -> bool {
    match kind {
        EventKind::CaseEnded { verdict, .. } => verdict.is_failure(),
        EventKind::PhaseEnded { ok, .. } => !ok,
        EventKind::LockLost { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::run_view::RunView;

    fn record() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/records/mixed.jsonl")
    }

    fn whole() -> Vec<Event> {
        let text = std::fs::read_to_string(record()).expect("record");
        text.lines().map(|l| serde_json::from_str(l).expect("event")).collect()
    }

    #[test]
    fn playing_to_the_end_gives_what_the_run_gave() {
        let mut player = Player::load(&record()).expect("record");
        player.toggle(0);
        let (mut view, mut now) = (RunView::default(), 0);
        while player.is_playing() {
            now += 50;
            player.tick(now).iter().for_each(|e| view.apply(e));
        }
        assert_eq!(view, RunView::of(&whole()));
        assert_eq!(player.now_ms(), player.total_ms);
    }

    #[test]
    fn any_jump_gives_the_fold_of_what_had_happened() {
        let mut player = Player::load(&record()).expect("record");
        let all = whole();
        for to in [player.total_ms, 0, player.total_ms / 2, player.total_ms / 3, 17, player.total_ms] {
            let got = RunView::of(&player.seek(to, 0));
            let wanted = RunView::of(all.iter().filter(|e| e.elapsed_ms <= to));
            assert_eq!(got, wanted, "at {to}");
        }
    }

    #[test]
    fn a_run_is_there_from_the_beginning_however_late_its_first_word_came() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("events.jsonl");
        let good = std::fs::read_to_string(record()).expect("record");
        let (first, rest) = good.split_once('\n').expect("lines");
        let mut first: serde_json::Value = serde_json::from_str(first).expect("event");
        first["elapsed_ms"] = 7.into();
        std::fs::write(&path, format!("{first}\n{rest}")).expect("write");
        let mut player = Player::load(&path).expect("record");
        assert!(RunView::of(&player.seek(0, 0)).run.is_some());
    }

    #[test]
    fn failures_are_found_one_after_the_other() {
        let mut player = Player::load(&record()).expect("record");
        assert!(!player.failures.is_empty());
        let first = player.next_failure().expect("failure");
        player.seek(first, 0);
        assert_ne!(player.next_failure(), Some(first).filter(|_| player.failures.len() > 1));
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_line() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("events.jsonl");
        let fault = |text: &str| {
            std::fs::write(&path, text).expect("write");
            Player::load(home.path()).map(drop).expect_err(text).to_string()
        };
        assert!(fault("").contains("no event"));
        assert!(fault("{\"torn\": tru").contains("no event"));
        assert!(fault("hello\nyou\n").contains("none of its 2 lines is an event"));
        assert!(Player::load(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn lines_that_are_no_events_are_passed_over_and_counted() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("events.jsonl");
        let good = std::fs::read_to_string(record()).expect("record");
        let endless = "x".repeat(3 * LINE_MAX);
        let mut lines: Vec<&str> = good.lines().collect();
        lines.insert(3, "{\"seq\":4,\"at\":");
        lines.insert(7, "\u{1b}[31mnoise of another program");
        lines.insert(9, &endless);
        std::fs::write(&path, lines.join("\n") + "\n{\"torn").expect("write");
        let mut player = Player::load(&path).expect("readable");
        assert_eq!(player.unreadable, 3);
        let all = player.seek(player.total_ms, 0);
        assert_eq!(RunView::of(&all), RunView::of(&whole()));
    }
}
