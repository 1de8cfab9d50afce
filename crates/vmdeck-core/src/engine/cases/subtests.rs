//! The tests that a case's command runs itself: read from its output while it comes and from the files that it leaves, told one by one,
//! and written beside its logs.
//!
//! Reading is `vmdeck-results`' work, fetching the files `result_files`'; what the verdict becomes of both is `judge`'s.

use super::command_log::OutputOrigin;
use crate::{engine::events::EventSender, host::clock};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};
use vmdeck_model::{
    event::EventKind,
    ids::CaseId,
    quarantine::ExcusedSubtests,
    secret::Redactor,
    subtest::{Subtest, SubtestProgress},
    suite::ResultSources,
};
use vmdeck_results::{Format, ResultFile, ResultStream, ResultSummary, read_files};

/// How often it is told how far the tests are.
const PULSE: Duration = Duration::from_millis(200);
/// Most tests that are run again by name.
const FAILED: usize = 1000;
/// The file of the record that has them all, one on each line.
const FILE: &str = "results.jsonl";

/// Where the tests of one attempt are read and told; whoever has it may feed it.
#[derive(Clone)]
pub(super) struct Subtests(Arc<Mutex<Feed>>);

struct Feed {
    /// Standard output, while the command runs.
    stream: Option<ResultStream>,
    teller: Teller,
}

/// Tells what was read.
struct Teller {
    origin: OutputOrigin,
    case: CaseId,
    round: u32,
    attempt: u32,
    events: EventSender,
    redactor: Redactor,
    file: Option<BufWriter<File>>,
    /// The first that failed.
    failed: Vec<Subtest>,
    /// The names of those that were to be run and have not been heard of.
    awaited: BTreeSet<String>,
    /// Those whose failure is known.
    excused: ExcusedSubtests,
}

impl Subtests {
    /// Returns what reads the results of one attempt; `None` = the case says of none where they are.
    pub(super) fn new(
        sources: &ResultSources,
        dir: &Path,
        (origin, case): (OutputOrigin, CaseId),
        (round, attempt): (u32, u32),
        events: EventSender,
        redactor: Redactor,
        only: &[Subtest],
    ) -> Option<Self> {
        if sources.is_empty() {
            return None;
        }
        let wanted = match &sources.streams[..] {
            [word] => Format::of_word(word),
            // Which of several it is, the content tells.
            _ => None,
        };
        let stream = (!sources.streams.is_empty()).then(|| ResultStream::new(wanted));
        let file = vmdeck_files::make_folders(dir).and_then(|()| vmdeck_files::create(&dir.join(FILE)));
        let file = match file {
            Ok(file) => Some(BufWriter::new(file)),
            Err(e) => {
                let text = format!("cannot write {FILE} of case `{case}`: {e}");
                events.warn(Some(&origin.guest), text, Some("free disk space where the run's record is".into()));
                None
            }
        };
        let (failed, awaited) = (Vec::new(), only.iter().map(|subtest| subtest.name.clone()).collect());
        let excused = ExcusedSubtests::default();
        let teller = Teller { origin, case, round, attempt, events, redactor, file, failed, awaited, excused };
        Some(Self(Arc::new(Mutex::new(Feed { stream, teller }))))
    }

    /// Has the failures of these be told as known.
    pub(super) fn excuse(&self, excused: ExcusedSubtests) {
        self.0.lock().teller.excused = excused;
    }

    /// Takes a piece of standard output.
    pub(super) fn feed(&self, bytes: &[u8]) {
        let Feed { stream, teller } = &mut *self.0.lock();
        if let Some(stream) = stream {
            stream.feed(bytes, &mut |subtest| teller.tell(&subtest));
        }
    }

    /// Tells how far the tests are, again and again.
    pub(super) async fn pulse(&self) {
        loop {
            clock::sleep(PULSE).await;
            self.tell_progress();
        }
    }

    fn tell_progress(&self) {
        let Feed { stream, teller } = &mut *self.0.lock();
        if let Some(progress) = stream.as_mut().and_then(ResultStream::progress) {
            teller.tell_progress(progress);
        }
    }

    /// Ends the stream of standard output.
    pub(super) fn finish_stream(&self, sources: &ResultSources) -> ResultSummary {
        let Feed { stream, teller } = &mut *self.0.lock();
        let Some(stream) = stream.take() else { return ResultSummary::default() };
        let mut summary = stream.finish(&mut |subtest| teller.tell(&subtest));
        let is_optional = sources.streams.iter().any(|word| word == ResultSources::AUTO);
        if !summary.is_recognized && !is_optional && sources.streams.len() > 1 {
            summary.lacks(format!("standard output holds none of {}", sources.streams.join(", ")));
        }
        summary
    }

    /// Reads files that have come from the guest; blocks.
    pub(super) fn read_files(&self, files: &[ResultFile]) -> ResultSummary {
        let Feed { teller, .. } = &mut *self.0.lock();
        read_files(files, &mut |subtest| teller.tell(&subtest))
    }

    /// Returns the first tests that failed.
    pub(super) fn failed(&self) -> Vec<Subtest> {
        self.0.lock().teller.failed.clone()
    }

    /// Says in the summary which of the tests that were to be run again were not.
    pub(super) fn check_awaited(&self, asked: usize, summary: &mut ResultSummary) {
        let Feed { teller, .. } = &*self.0.lock();
        if teller.awaited.len() == asked && asked > 0 {
            summary.lacks(format!("none of the {asked} tests that were to be run again ran"));
        } else if let Some(name) = teller.awaited.first() {
            summary.lacks(format!(
                "{} of the {asked} tests that were to be run again did not run: {name}",
                teller.awaited.len()
            ));
        }
    }

    /// Ends the file in the record; returns why it does not hold all of them.
    pub(super) fn finish(&self) -> Option<String> {
        let Feed { teller, .. } = &mut *self.0.lock();
        let file = teller.file.take()?;
        let written = file.into_inner().map_err(std::io::IntoInnerError::into_error);
        written.err().map(|e| format!("its results are not recorded: cannot write {FILE}: {e}"))
    }
}

impl Teller {
    fn tell(&mut self, subtest: &Subtest) {
        let mut subtest = self.redacted(subtest);
        if subtest.status.is_failure() {
            subtest.quarantined = self.excused.issue(&subtest.name).map(str::to_owned);
        }
        self.awaited.remove(&subtest.name);
        if subtest.status.is_failure() && self.failed.len() < FAILED {
            self.failed.push(subtest.clone());
        }
        if let Some(file) = &mut self.file {
            let line = serde_json::to_string(&subtest).unwrap_or_default();
            // A disk that is full stays so until the end of the file is written.
            let _ = writeln!(file, "{line}");
        }
        self.events.send(EventKind::SubtestEnded {
            guest: self.origin.guest.clone(),
            suite: self.origin.suite.clone(),
            case: self.case.clone(),
            round: self.round,
            attempt: self.attempt,
            subtest,
        });
    }

    fn tell_progress(&self, progress: SubtestProgress) {
        let clear = |names: Vec<String>| names.iter().map(|name| self.redactor.text(name)).collect();
        let SubtestProgress { tally, expected, running, failed } = progress;
        let progress = SubtestProgress { tally, expected, running: clear(running), failed: clear(failed) };
        self.events.send(EventKind::SubtestProgress {
            guest: self.origin.guest.clone(),
            suite: self.origin.suite.clone(),
            case: self.case.clone(),
            progress,
        });
    }

    fn redacted(&self, subtest: &Subtest) -> Subtest {
        let clear = |text: &String| self.redactor.text(text);
        Subtest {
            name: clear(&subtest.name),
            class: subtest.class.as_ref().map(clear),
            file: subtest.file.as_ref().map(clear),
            message: clear(&subtest.message),
            ..subtest.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::ids::{GuestId, SuiteId};

    #[test]
    fn what_is_told_has_no_secrets_and_is_in_the_record() {
        let home = tempfile::tempdir().expect("tempdir");
        let (events, mut inbox) = EventSender::new(Arc::default());
        let origin = OutputOrigin {
            guest: GuestId::new("g").expect("name"),
            suite: SuiteId::new("s").expect("name"),
            case: None,
        };
        let secret = vmdeck_model::secret::Secret::new("hunter22");
        let redactor = Redactor::new([&secret]);
        let sources = ResultSources { streams: vec!["tap".into()], ..ResultSources::default() };
        let case = CaseId::new("c").expect("name");
        let subtests =
            Subtests::new(&sources, home.path(), (origin, case), (1, 2), events, redactor, &[]).expect("sources");
        subtests.feed(b"1..2\nok 1 - with hunter22\nnot o");
        subtests.feed(b"k 2 - b\n# at hunter22\n");
        let summary = subtests.finish_stream(&sources);
        assert_eq!((summary.tally.passed, summary.tally.failed, subtests.finish()), (1, 1, None));
        let record = std::fs::read_to_string(home.path().join(FILE)).expect("a record");
        assert_eq!(record.lines().count(), 2);
        let mut told = Vec::new();
        while let Ok(event) = inbox.try_recv() {
            told.push(format!("{event:?}"));
        }
        assert!(!record.contains("hunter22") && !told.concat().contains("hunter22"), "{told:?}");
        assert_eq!(told.iter().filter(|text| text.starts_with("SubtestEnded")).count(), 2, "{told:?}");
    }
}
