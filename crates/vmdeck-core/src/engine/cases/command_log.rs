//! Where a command's output goes: raw files in the record, clean lines to whoever listens, the last lines for the report.
//!
//! Secrets are taken out before any of the three. What decides about a case sees the bytes as they were written. A file that
//! cannot be written is told once and does not stop the test; but a case whose output is lost is never green.

use super::{capped_log::CappedLog, line_match::LineMatch, subtests::Subtests};
use crate::{
    command::OutputSink,
    engine::{events::EventSender, timestamps::LogTimestamps},
};
use std::{collections::VecDeque, path::Path};
use vmdeck_model::{
    event::{EventKind, Stream},
    ids::{CaseId, GuestId, SuiteId},
    pattern::Pattern,
    quantity::show_size,
    secret::Redactor,
    suite::Expect,
    text::LineSplitter,
};

/// Bytes of the last lines that a report keeps for each stream.
const TAIL: usize = 4 * 1024;

/// The words before a text that a command leaves for its next start, after a restart of the guest.
const MARK: &str = "vmdeck: restart, mark:";

/// The guest, suite and case that the output belongs to.
#[derive(Clone, Debug)]
pub(super) struct OutputOrigin {
    pub(super) guest: GuestId,
    pub(super) suite: SuiteId,
    pub(super) case: Option<CaseId>,
}

/// Takes both streams of one command.
pub(super) struct CommandLog {
    source: OutputOrigin,
    events: EventSender,
    streams: [StreamLog; 2],
    /// Why a file does not hold all of it.
    lost: Option<String>,
    /// What the command said last behind [`MARK`].
    mark: Option<String>,
    /// Who reads the results of tests in its standard output.
    subtests: Option<Subtests>,
    /// The standard output as it was written, and the most of it, where somebody wants it.
    kept: Option<(Vec<u8>, usize)>,
}

/// What is known about a command's output at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordedOutput {
    /// The last lines of standard output, clean and without secrets.
    pub(super) stdout_tail: String,
    /// The last lines of standard error, likewise.
    pub(super) stderr_tail: String,
    /// What of it is not as it must be, if something is.
    pub(super) unmet: Option<String>,
    /// Why the record does not hold all of it.
    pub(super) lost: Option<String>,
}

struct StreamLog {
    stream: Stream,
    file: Option<CappedLog>,
    /// The log of the step that runs.
    of_step: Option<CappedLog>,
    timestamps: LogTimestamps,
    redactor: Redactor,
    lines: LineSplitter,
    tail: LastLines,
    wanted: Vec<LineMatch>,
    /// What no line may match.
    unwanted: Vec<LineMatch>,
    /// Whether nothing may be written to it.
    must_be_empty: bool,
    /// Whether something was.
    is_written: bool,
}

impl StreamLog {
    /// Returns what the stream lacks of what it must have.
    fn lacks(&mut self) -> Option<String> {
        if self.must_be_empty && self.is_written {
            return Some(format!("{} is not empty", self.stream.as_str()));
        }
        let missing = self.wanted.iter_mut().find_map(|wanted| (!wanted.finish()).then(|| wanted.pattern().to_owned()));
        missing.map(|wanted| format!("no line of {} matches `{wanted}`", self.stream.as_str()))
    }

    /// Returns what the stream has and may not have.
    fn holds_unwanted(&mut self) -> Option<String> {
        let found =
            self.unwanted.iter_mut().find_map(|unwanted| unwanted.finish().then(|| unwanted.pattern().to_owned()));
        found.map(|unwanted| format!("a line of {} matches `{unwanted}`, and none may", self.stream.as_str()))
    }
}

impl CommandLog {
    /// Writes `stdout.log` and `stderr.log` in this folder, and looks for what `expect` wants in them.
    pub(super) fn open(
        dir: &Path,
        source: OutputOrigin,
        events: EventSender,
        redactor: &Redactor,
        expect: &Expect,
        limit: u64,
    ) -> Self {
        let mut lost = None;
        let mut open = |stream, name: &str, (wanted, unwanted, must_be_empty): (&[Pattern], &[Pattern], bool)| {
            let file = vmdeck_files::make_folders(dir).and_then(|()| vmdeck_files::create(&dir.join(name)));
            let file = file.map_err(|e| lost = Some(warn_lost(&events, &source, name, &e))).ok();
            let file = file.map(|file| CappedLog::new(file, limit));
            let timestamps = LogTimestamps::beside(&dir.join(name), 0, events.clone());
            StreamLog {
                stream,
                file,
                of_step: None,
                timestamps,
                redactor: redactor.clone(),
                lines: LineSplitter::default(),
                tail: LastLines::default(),
                wanted: wanted.iter().cloned().map(LineMatch::new).collect(),
                unwanted: unwanted.iter().cloned().map(LineMatch::new).collect(),
                must_be_empty,
                is_written: false,
            }
        };
        let streams = [
            open(Stream::Stdout, "stdout.log", (&expect.stdout, &expect.not_stdout, expect.stdout_empty)),
            open(Stream::Stderr, "stderr.log", (&expect.stderr, &expect.not_stderr, expect.stderr_empty)),
        ];
        Self { source, events, streams, lost, mark: None, subtests: None, kept: None }
    }

    /// Gives standard output to whoever reads the results of tests in it, as the bytes were written.
    pub(super) fn report_to(&mut self, subtests: Option<Subtests>) {
        self.subtests = subtests;
    }

    /// Keeps standard output as it is written, at most so many bytes of it.
    pub(super) fn keep_stdout(&mut self, most: usize) {
        self.kept = Some((Vec::new(), most));
    }

    /// Returns the standard output that was kept; the error says that there was more.
    pub(super) fn kept_stdout(&mut self) -> Result<Vec<u8>, String> {
        match self.kept.take() {
            Some((bytes, most)) if bytes.len() > most => Err(format!("it wrote more than {}", show_size(most as u64))),
            Some((bytes, _)) => Ok(bytes),
            None => Ok(Vec::new()),
        }
    }

    /// Begins a log of a further step of the case, in this folder, beside that of the whole.
    pub(super) fn begin_step(&mut self, dir: &Path, limit: u64) {
        self.end_step();
        for index in 0..2 {
            let name = stream_log(index);
            let file = vmdeck_files::make_folders(dir).and_then(|()| vmdeck_files::create(&dir.join(name)));
            match file {
                Ok(file) => self.streams[index].of_step = Some(CappedLog::new(file, limit)),
                Err(e) => self.lost = Some(warn_lost(&self.events, &self.source, name, &e)),
            }
        }
    }

    fn end_step(&mut self) {
        for index in 0..2 {
            if let Some(Err(e)) = self.streams[index].of_step.take().map(CappedLog::finish) {
                self.lost = Some(warn_lost(&self.events, &self.source, stream_log(index), &e));
            }
        }
    }

    /// Ends both streams and returns what is known about them.
    pub(super) fn finish(mut self) -> RecordedOutput {
        for index in 0..2 {
            let rest = self.streams[index].redactor.finish();
            self.take(index, &rest);
            let mut lines = Vec::new();
            self.streams[index].lines.finish(|line| lines.push(line.into_string()));
            for line in lines {
                self.line(index, line);
            }
            if let Some(Err(e)) = self.streams[index].file.take().map(CappedLog::finish) {
                self.lost = Some(warn_lost(&self.events, &self.source, stream_log(index), &e));
            }
        }
        self.end_step();
        let lacks = self.streams.iter_mut().find_map(StreamLog::lacks);
        let unmet = lacks.or_else(|| self.streams.iter_mut().find_map(StreamLog::holds_unwanted));
        let [out, err] = self.streams;
        RecordedOutput { stdout_tail: out.tail.text(), stderr_tail: err.tail.text(), unmet, lost: self.lost }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        let log = &mut self.streams[index];
        if log.file.as_ref().is_some_and(CappedLog::has_room) {
            log.timestamps.note(bytes.len());
        }
        if let Some(Err(e)) = log.of_step.as_mut().map(|file| file.write(bytes)) {
            log.of_step = None;
            self.lost = Some(warn_lost(&self.events, &self.source, stream_log(index), &e));
        }
        let log = &mut self.streams[index];
        match log.file.as_mut().map(|file| file.write(bytes)) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                let name = stream_log(index);
                let text = format!("{name} of suite `{}` is too long; its middle is left out", self.source.suite);
                self.events.warn(Some(&self.source.guest), text, Some("raise `host.log_size`".into()));
            }
            Some(Err(e)) => {
                log.file = None;
                self.lost = Some(warn_lost(&self.events, &self.source, stream_log(index), &e));
            }
        }
        let mut lines = Vec::new();
        self.streams[index].lines.feed(bytes, |line| lines.push(line.into_string()));
        for line in lines {
            self.line(index, line);
        }
    }

    /// Returns what the command said last behind [`MARK`], once.
    pub(super) fn take_mark(&mut self) -> Option<String> {
        self.mark.take()
    }

    fn line(&mut self, index: usize, line: String) {
        if let Some(mark) = line.strip_prefix(MARK) {
            self.mark = Some(mark.trim().to_owned());
        }
        self.streams[index].tail.push(&line);
        self.events.output(EventKind::Output {
            guest: self.source.guest.clone(),
            suite: Some(self.source.suite.clone()),
            case: self.source.case.clone(),
            stream: self.streams[index].stream,
            line,
        });
    }
}

fn stream_log(index: usize) -> &'static str {
    if index == 0 { "stdout.log" } else { "stderr.log" }
}

/// Warns about a file that cannot be written; returns why the record is not complete.
fn warn_lost(events: &EventSender, source: &OutputOrigin, name: &str, error: &std::io::Error) -> String {
    let text = format!("cannot write {name} of suite `{}`: {error}; the log is not complete", source.suite);
    events.warn(Some(&source.guest), text, Some("free disk space where the run's record is".into()));
    format!("its output is not recorded: cannot write {name}: {error}")
}

impl OutputSink for CommandLog {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let index = usize::from(stream == Stream::Stderr);
        let log = &mut self.streams[index];
        log.is_written |= !bytes.is_empty();
        log.wanted.iter_mut().chain(&mut log.unwanted).for_each(|lines| lines.feed(bytes));
        if let Some(subtests) = self.subtests.as_ref().filter(|_| stream == Stream::Stdout) {
            subtests.feed(bytes);
        }
        if let Some((kept, most)) = self.kept.as_mut().filter(|_| stream == Stream::Stdout) {
            // One more than may be shows that there was more.
            kept.extend_from_slice(&bytes[..bytes.len().min((*most + 1).saturating_sub(kept.len()))]);
        }
        let clear = self.streams[index].redactor.feed(bytes);
        self.take(index, &clear);
    }
}

/// The last lines of a stream, bounded in bytes.
#[derive(Default)]
struct LastLines {
    lines: VecDeque<String>,
    bytes: usize,
    /// Whether earlier lines were dropped.
    cut: bool,
}

impl LastLines {
    fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > TAIL && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |l| l.len() + 1);
            self.cut = true;
        }
    }

    fn text(self) -> String {
        let mut lines = Vec::from(self.lines);
        if self.cut {
            lines.insert(0, "[earlier lines are in the log]".to_owned());
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use vmdeck_model::secret::Secret;

    #[test]
    fn secrets_are_in_none_of_the_three_places() {
        let home = tempfile::tempdir().expect("tempdir");
        let (events, mut inbox) = EventSender::new(std::sync::Arc::default());
        let source = OutputOrigin {
            guest: GuestId::new("g").expect("name"),
            suite: SuiteId::new("s").expect("name"),
            case: None,
        };
        let redactor = Redactor::new(&[Secret::new("canary-secret")]);
        let pattern = |text: &str| Pattern::parse(text).into_iter().collect();
        let expect = Expect {
            stdout: pattern("/^ok$/"),
            stderr: pattern("/^canary-secret$/"),
            not_stdout: pattern("/nothing/"),
            not_stderr: pattern("/canary-secret/"),
            ..Expect::default()
        };
        let mut logs = CommandLog::open(home.path(), source, events, &redactor, &expect, 1 << 20);
        logs.write(Stream::Stdout, b"a canary-");
        logs.write(Stream::Stdout, b"secret b\nok\n\x1b[31mred\n");
        logs.write(Stream::Stderr, b"canary-secret");
        let want = RecordedOutput {
            stdout_tail: "a *** b\nok\nred".into(),
            stderr_tail: "***".into(),
            unmet: Some("a line of stderr matches `/canary-secret/`, and none may".into()),
            lost: None,
        };
        assert_eq!(logs.finish(), want, "what decides is what was written, what is shown is masked");
        assert_eq!(fs::read_to_string(home.path().join("stdout.log")).expect("log"), "a *** b\nok\n\x1b[31mred\n");
        let mut seen = String::new();
        while let Ok(event) = inbox.try_recv() {
            seen.push_str(&format!("{event:?}"));
        }
        assert!(seen.contains("***") && !seen.contains("canary"));
    }

    #[test]
    fn every_pattern_has_a_say_and_the_first_that_is_not_met_is_told() {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| Pattern::parse(text).expect("pattern")).collect::<Vec<_>>();
        let rows: [(Expect, &[u8], Option<&str>); 6] = [
            (Expect { stdout: patterns(&["/^a$/", "/^b$/"]), ..Expect::default() }, b"a\nb", None),
            (
                Expect { stdout: patterns(&["/^a$/", "/^b$/"]), ..Expect::default() },
                b"a\nc",
                Some("no line of stdout matches `/^b$/`"),
            ),
            (
                Expect { not_stdout: patterns(&["/x/", "/c/"]), ..Expect::default() },
                b"a\nc",
                Some("a line of stdout matches `/c/`, and none may"),
            ),
            (Expect { stdout_empty: true, ..Expect::default() }, b"\n", Some("stdout is not empty")),
            (Expect { stdout_empty: true, ..Expect::default() }, b"", None),
            (Expect { stderr_empty: true, ..Expect::default() }, b"a", None),
        ];
        for (expect, bytes, unmet) in rows {
            let home = tempfile::tempdir().expect("tempdir");
            let (events, _inbox) = EventSender::new(std::sync::Arc::default());
            let names = (GuestId::new("g").expect("name"), SuiteId::new("s").expect("name"));
            let source = OutputOrigin { guest: names.0, suite: names.1, case: None };
            let mut logs = CommandLog::open(home.path(), source, events, &Redactor::default(), &expect, 1 << 20);
            logs.write(Stream::Stdout, bytes);
            assert_eq!(logs.finish().unmet.as_deref(), unmet, "{expect:?}");
        }
    }

    #[test]
    fn the_tail_is_bounded_whatever_comes() {
        let mut tail = LastLines::default();
        (0..100_000).for_each(|i| tail.push(&format!("line {i}")));
        let text = tail.text();
        assert!(text.len() <= TAIL + 40 && text.starts_with("[earlier") && text.ends_with("line 99999"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told_and_the_lines_still_come() {
        let (events, mut inbox) = EventSender::new(std::sync::Arc::default());
        let source = OutputOrigin {
            guest: GuestId::new("g").expect("name"),
            suite: SuiteId::new("s").expect("name"),
            case: None,
        };
        let mut logs =
            CommandLog::open(Path::new("/proc/no"), source, events, &Redactor::default(), &Expect::default(), 1 << 20);
        logs.write(Stream::Stdout, b"x\n");
        let recorded = logs.finish();
        assert_eq!(recorded.stdout_tail, "x");
        assert!(recorded.lost.is_some_and(|why| why.contains("cannot write")));
        assert!(matches!(inbox.try_recv(), Ok(EventKind::Warning { .. })));
    }
}
