//! Follows a machine's console in a task of its own, from power-on to its last byte.
//!
//! What the bytes mean is in `console_scan`.

use super::{
    ConsoleError,
    boot_phases::BootPhases,
    console_scan::{ConsoleFinding, ConsoleScanner},
    console_watch::ConsoleLine,
    trouble_block::TroubleBlock,
};
use crate::{
    engine::{events::EventSender, timestamps::LogTimestamps},
    host::{clock, tail::Tail},
    trouble::{KernelSymbols, TroubleFinder},
};
use parking_lot::Mutex;
use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, PatternKind, Phase, Stream},
    guest::Guest,
    secret::Redactor,
    trouble::{TroubleEnd, TroubleKind, TroubleSeverity},
};

/// How long an unfinished line may wait for its rest.
const SETTLE: Duration = Duration::from_millis(10);
/// Most warnings of one machine that are reported; the console log has them all.
const WARNINGS: u32 = 100;

/// How long a line without an end must be left alone to be read as it is.
const QUIET: Duration = Duration::from_secs(1);

/// How long the rest of a trouble's block is waited for: it is told within two seconds of its first line.
const BLOCK: Duration = Duration::from_secs(1);

/// How long the lines of one trouble may be apart.
const EVENT: Duration = Duration::from_secs(2);

/// What trouble does to the running case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Badness {
    Warns,
    Fails,
    Ends,
}

impl Badness {
    fn of(kind: &TroubleKind) -> Self {
        match kind.severity {
            TroubleSeverity::Fail if kind.ends != TroubleEnd::Nothing => Badness::Ends,
            TroubleSeverity::Fail => Badness::Fails,
            _ => Badness::Warns,
        }
    }
}

/// A console that is being followed.
pub(super) struct ConsoleReader {
    scanner: Arc<Mutex<ConsoleScanner>>,
    ready: watch::Receiver<u32>,
    ready_sender: watch::Sender<u32>,
    /// What `ready` must be more than.
    ready_after: AtomicU32,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// From where a log is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogStart {
    /// From its first byte.
    Beginning,
    /// From what is written from now on: the rest was somebody else's.
    Now,
}

/// Where a reader reports what it finds.
pub(super) struct ConsoleListener {
    pub(super) guest: Arc<Guest>,
    pub(super) events: EventSender,
    pub(super) phases: Arc<Mutex<BootPhases>>,
    pub(super) line: ConsoleLine,
    pub(super) redactor: Redactor,
    /// The most bytes of the log that stay on the disk.
    pub(super) log_size: u64,
}

impl ConsoleReader {
    /// Follows the console log at this path, which may not exist yet.
    pub(super) fn start(path: &Path, from: LogStart, listener: ConsoleListener) -> Result<Self> {
        let followed = match from {
            LogStart::Beginning => Tail::follow(path),
            LogStart::Now => Tail::follow_from_now(path),
        };
        let tail = followed
            .map_err(|e| Fault::host(format!("cannot follow the console log `{}`", path.display())).because(e))?;
        let scanner = ConsoleScanner::new(
            &listener.guest.boot,
            TroubleFinder::new(&listener.guest.trouble),
            listener.redactor.clone(),
        );
        let scanner = Arc::new(Mutex::new(scanner));
        let (ready_sender, ready) = watch::channel(0);
        let stop = CancellationToken::new();
        let timestamps = LogTimestamps::beside(path, tail.position(), listener.events.clone());
        let reading = Reading {
            scanner: Arc::clone(&scanner),
            ready: ready_sender.clone(),
            listener,
            warnings: 0,
            trouble: None,
            block: None,
            symbols: Arc::default(),
        };
        reading.load_symbols();
        let task = tokio::spawn(reading.run(tail, timestamps, stop.clone()));
        Ok(Self { scanner, ready, ready_sender, ready_after: AtomicU32::new(0), stop, task })
    }

    /// Waits until the ready pattern appears.
    pub(super) async fn until_ready(&self) {
        let (mut ready, after) = (self.ready.clone(), self.ready_after.load(Ordering::Relaxed));
        let _ = ready.wait_for(|seen| *seen > after).await;
    }

    /// Forgets that the ready pattern appeared: the guest begins again.
    pub(super) fn not_ready(&self) {
        self.scanner.lock().begin_again();
        self.ready_sender.send_replace(0);
        self.ready_after.store(0, Ordering::Relaxed);
    }

    /// Forgets that the ready pattern appeared under one of the first kernels, of which there were so many; one that has begun since may
    /// be ready already.
    pub(super) fn not_ready_before(&self, kernels: u32) {
        self.ready_after.store(kernels.saturating_add(1), Ordering::Relaxed);
    }

    /// Returns the last lines, secrets taken out.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.scanner.lock().last_lines()
    }

    /// Takes in what was written so far, and stops.
    pub(super) async fn drain(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// The state of the task that follows the console.
struct Reading {
    scanner: Arc<Mutex<ConsoleScanner>>,
    /// How many kernels had begun when the ready pattern was last seen, and one more; 0 = it was not.
    ready: watch::Sender<u32>,
    listener: ConsoleListener,
    /// Warnings so far.
    warnings: u32,
    /// When trouble was last seen, and how bad the event is that it belongs to.
    trouble: Option<(clock::Instant, Badness)>,
    /// The trouble whose block is being read.
    block: Option<OpenBlock>,
    /// The symbols of the guest's kernel, once they are read.
    symbols: Arc<OnceLock<Mutex<KernelSymbols>>>,
}

/// A trouble that is told once its block has ended.
struct OpenBlock {
    meaning: PatternKind,
    pattern: String,
    line: String,
    context: Vec<String>,
    block: TroubleBlock,
    until: clock::Instant,
}

impl Reading {
    /// Reads the symbols of the guest's kernel, if it has a file of them, beside everything else: it may be large.
    fn load_symbols(&self) {
        let Some(path) = self.listener.guest.vmlinux.clone() else { return };
        let (symbols, events) = (Arc::clone(&self.symbols), self.listener.events.clone());
        let guest = self.listener.guest.id.clone();
        tokio::task::spawn_blocking(move || match KernelSymbols::load(&path) {
            Ok(read) => drop(symbols.set(Mutex::new(read))),
            Err(fault) => events.warn(Some(&guest), fault.to_string(), fault.remedy().map(str::to_owned)),
        });
    }

    async fn run(mut self, mut tail: Tail, mut timestamps: LogTimestamps, stop: CancellationToken) {
        let mut unsettled = false;
        loop {
            let until = self.block.as_ref().map(|block| block.until);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ask) = self.listener.line.asks.recv() => {
                    self.take_rest(&mut tail, &mut timestamps).await;
                    self.tell_block();
                    if self.listener.line.answer(ask) {
                        // What comes now belongs to another command.
                        self.trouble = None;
                    }
                }
                () = clock::sleep_until(until.unwrap_or_else(clock::now)), if until.is_some() => self.tell_block(),
                () = clock::sleep(QUIET), if unsettled => {
                    let scanner = Arc::clone(&self.scanner);
                    scanner.lock().settle(|finding| self.report(finding));
                    unsettled = false;
                }
                read = tail.next() => match read {
                    Ok(bytes) => {
                        unsettled = !bytes.ends_with(b"\n");
                        let mut bytes = bytes.to_vec();
                        if unsettled {
                            // Consoles are written byte by byte: most lines are complete a moment later.
                            clock::sleep(SETTLE).await;
                            bytes.extend_from_slice(tail.now().unwrap_or_default());
                        }
                        timestamps.note(bytes.len());
                        self.take(&bytes);
                        self.bound(&mut tail);
                    }
                    Err(e) => {
                        self.lose(&e);
                        // Whoever asks still gets an answer; there is nothing more to read.
                        self.listener.line.asks.close();
                        stop.cancelled().await;
                        return;
                    }
                },
            }
            // A flood must not starve the other tasks of this thread.
            tokio::task::yield_now().await;
        }
        // What was written before the stop still counts.
        self.take_rest(&mut tail, &mut timestamps).await;
        self.tell_block();
    }

    /// Tells the trouble whose block is being read, with what has come of it.
    fn tell_block(&mut self) {
        let Some(OpenBlock { meaning, pattern, mut line, context, block, .. }) = self.block.take() else { return };
        let guest = self.listener.guest.id.clone();
        let (mut block, taint) = block.finish();
        if let Some(symbols) = self.symbols.get() {
            let symbols = symbols.lock();
            for line in std::iter::once(&mut line).chain(&mut block) {
                *line = symbols.annotate(line);
            }
        }
        self.listener.events.send(EventKind::ConsoleMatch { guest, meaning, pattern, line, context, block, taint });
    }

    /// Takes in what was written so far; a machine that goes on writing does not hold us.
    async fn take_rest(&mut self, tail: &mut Tail, timestamps: &mut LogTimestamps) {
        // All that is there now, however much a flood has written; not what comes meanwhile.
        let mut left = tail.behind();
        while left > 0 {
            match tail.now() {
                Ok([]) => break,
                Err(e) => return self.lose(&e),
                Ok(bytes) => {
                    left = left.saturating_sub(bytes.len() as u64);
                    timestamps.note(bytes.len());
                    self.take(bytes);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Gives the middle of a log that is too long back to the disk; all of it has been looked at.
    fn bound(&self, tail: &mut Tail) {
        if tail.give_back(self.listener.log_size) {
            let text = "the console's log is too long; its middle is left out".to_owned();
            self.listener.events.warn(Some(&self.listener.guest.id), text, Some("raise `host.log_size`".into()));
        }
    }

    /// Notes, once, that the console cannot be read any more.
    fn lose(&self, error: &std::io::Error) {
        let ConsoleListener { guest, events, line, .. } = &self.listener;
        let why = format!("the console cannot be read any more: {error}");
        let is_new = line.lost.send_if_modified(|lost| {
            let is_new = lost.is_none();
            lost.get_or_insert_with(|| why.clone());
            is_new
        });
        if is_new {
            events.warn(Some(&guest.id), why, None);
        }
    }

    /// Takes trouble in: all of it counts, and each event is told once, and again where it turns out worse.
    fn trouble(&mut self, kind: &TroubleKind, line: String, context: Vec<String>) {
        let watched = &self.listener.line;
        if watched.ignores(kind) {
            return;
        }
        let bad = Badness::of(kind);
        let pattern = format!("trouble:{}", kind.id);
        let found = ConsoleError {
            pattern: pattern.clone(),
            kind: Some(kind.id.clone()),
            ends_run: kind.ends == TroubleEnd::Run,
            line: line.clone(),
            context: context.clone(),
        };
        let counts = match bad {
            Badness::Ends => watched.note(found),
            Badness::Fails => watched.note_for_the_end(found),
            Badness::Warns => !watched.is_muted(),
        };
        let now = clock::now();
        let same = self.trouble.filter(|(last, _)| now.duration_since(*last) < EVENT);
        self.trouble = Some((now, same.map_or(bad, |(_, worst)| worst.max(bad))));
        if !counts || same.is_some_and(|(_, worst)| bad <= worst) {
            return;
        }
        let meaning = if bad == Badness::Warns { PatternKind::Warning } else { PatternKind::Error };
        if meaning == PatternKind::Warning {
            self.warnings = self.warnings.saturating_add(1);
            if self.warnings > WARNINGS {
                return;
            }
        }
        self.tell_block();
        let block = TroubleBlock::begin(&line);
        self.block = Some(OpenBlock { meaning, pattern, line, context, block, until: now + BLOCK });
    }

    fn take(&mut self, bytes: &[u8]) {
        let scanner = Arc::clone(&self.scanner);
        scanner.lock().feed(bytes, |finding| self.report(finding));
    }

    fn report(&mut self, finding: ConsoleFinding) {
        let ConsoleListener { guest, events, phases, line: watched, .. } = &self.listener;
        let guest = guest.id.clone();
        match finding {
            ConsoleFinding::Kernel => {
                watched.note_kernel();
                phases.lock().advance(Phase::Kernel);
            }
            ConsoleFinding::Userspace => phases.lock().advance(Phase::Userspace),
            ConsoleFinding::Line(line) => {
                phases.lock().line(&line);
                let ends = self.block.as_mut().is_some_and(|open| open.block.line(&line));
                events.output(EventKind::Output { guest, suite: None, case: None, stream: Stream::Console, line });
                if ends {
                    self.tell_block();
                }
            }
            ConsoleFinding::Trouble { kind, line, context } => self.trouble(&kind, line, context),
            ConsoleFinding::Match { meaning, pattern, line, context } => {
                match meaning {
                    PatternKind::Ready => drop(self.ready.send_replace(watched.kernels().saturating_add(1))),
                    PatternKind::Error => {
                        let found = ConsoleError {
                            pattern: pattern.clone(),
                            kind: None,
                            ends_run: false,
                            line: line.clone(),
                            context: context.clone(),
                        };
                        if !watched.note(found) {
                            return;
                        }
                    }
                    PatternKind::Warning => {
                        self.warnings = self.warnings.saturating_add(1);
                        if self.warnings > WARNINGS {
                            return;
                        }
                    }
                }
                let (block, taint) = (Vec::new(), None);
                events.send(EventKind::ConsoleMatch { guest, meaning, pattern, line, context, block, taint });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::sample, engine::machine::console_watch};
    use std::io::Write;
    use vmdeck_model::pattern::Pattern;

    /// Returns a reader of a new log, and the log.
    fn reader(home: &Path) -> (ConsoleReader, console_watch::ConsoleWatch, std::fs::File) {
        let path = home.join("console.log");
        let file = std::fs::File::create(&path).expect("create");
        let mut guest = sample::guest(&[]);
        guest.boot.errors = vec![Pattern::parse("Kernel panic").expect("pattern")];
        guest.boot.pattern = Some(Pattern::parse("login:").expect("pattern"));
        let guest = Arc::new(guest);
        let (events, _inbox) = EventSender::new(Arc::default());
        let phases = Arc::new(Mutex::new(BootPhases::new(&guest, events.clone(), home)));
        let (console, line) = console_watch::pair();
        let listener =
            ConsoleListener { guest, events, phases, line, redactor: Redactor::default(), log_size: 1 << 30 };
        (ConsoleReader::start(&path, LogStart::Beginning, listener).expect("follow"), console, file)
    }

    #[tokio::test]
    async fn a_guest_is_ready_whatever_it_says_next_and_again_only_under_another_kernel() {
        let home = tempfile::tempdir().expect("tempdir");
        let (reader, console, mut file) = reader(home.path());
        file.write_all(b"Linux version 6\nmicro login: \nLinux version 6 is what it runs\n").expect("write");
        reader.until_ready().await;
        let ready = async |reader: &ConsoleReader| {
            console.catch_up().await.expect("answered");
            clock::within(Duration::ZERO, reader.until_ready()).await.is_some()
        };
        assert!(ready(&reader).await);
        let before = *console.kernels().borrow();
        reader.not_ready_before(before);
        assert!(!ready(&reader).await, "what was seen was the boot before");
        file.write_all(b"kexec_core: Starting new kernel\nmicro login: ").expect("write");
        assert!(!ready(&reader).await, "no other kernel has begun");
        file.write_all(b"\nLinux version 6\nmicro login: \n").expect("write");
        assert!(ready(&reader).await);
        reader.not_ready();
        assert!(!ready(&reader).await);
        file.write_all(b"login: \n").expect("write");
        assert!(ready(&reader).await);
    }

    #[tokio::test]
    async fn an_error_behind_a_flood_is_found_before_the_answer() {
        let home = tempfile::tempdir().expect("tempdir");
        let (reader, console, mut file) = reader(home.path());
        let flood = "a line that means nothing at all\n".repeat(2 << 15);
        for _ in 0..6 {
            file.write_all(flood.as_bytes()).expect("write");
        }
        file.write_all(b"Kernel panic - not syncing: at the end\n").expect("write");
        console.catch_up().await.expect("answered");
        assert!(console.error_now().is_some_and(|found| found.is_panic()));
        reader.drain().await;
    }
}
