//! What the rest of the engine knows of a console that is being followed: its errors within a window, and whether it is followed.
//!
//! Reading it is `console_reader`'s work.

use super::ConsoleError;
use crate::host::clock;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use vmdeck_model::trouble::TroubleKind;

/// How long the reader may take to answer; a flood of some hundred megabytes is looked at in less.
const ANSWER: Duration = Duration::from_secs(10);

/// The reader has not looked at everything in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Behind;

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more was written than could be looked at in time")
    }
}

/// The end of whoever waits for what a console shows.
#[derive(Clone)]
pub(in crate::engine) struct ConsoleWatch {
    error: Arc<watch::Sender<Option<ConsoleError>>>,
    complaint: Arc<Mutex<Option<ConsoleError>>>,
    muted: Arc<AtomicBool>,
    lost: watch::Receiver<Option<String>>,
    kernels: watch::Receiver<u32>,
    asks: mpsc::UnboundedSender<ConsoleAsk>,
}

/// The reader's end.
pub(super) struct ConsoleLine {
    error: Arc<watch::Sender<Option<ConsoleError>>>,
    /// What counts against a command once it has ended.
    complaint: Arc<Mutex<Option<ConsoleError>>>,
    /// The kinds and categories of trouble that are none in this window.
    ignored: Mutex<Vec<String>>,
    muted: Arc<AtomicBool>,
    /// Why the console is not read any more.
    pub(super) lost: watch::Sender<Option<String>>,
    /// How often a kernel has begun.
    kernels: watch::Sender<u32>,
    /// What the reader is asked to do.
    pub(super) asks: mpsc::UnboundedReceiver<ConsoleAsk>,
}

/// What the reader does once it has taken in everything that was written so far, before it reads on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    /// It begins a window in which these kinds and categories of trouble are none.
    OpenWindow(Vec<String>),
    Unmute,
}

/// A wish of whoever waits, with the place of the answer: the error that was there.
pub(super) struct ConsoleAsk {
    then: Then,
    answer: oneshot::Sender<Option<ConsoleError>>,
}

/// Returns the two ends.
pub(super) fn pair() -> (ConsoleWatch, ConsoleLine) {
    let (error, muted) = (Arc::new(watch::channel(None).0), Arc::new(AtomicBool::new(false)));
    let ((lost, lost_seen), (ask, asks)) = (watch::channel(None), mpsc::unbounded_channel());
    let complaint = Arc::<Mutex<Option<ConsoleError>>>::default();
    let (kernels, kernels_seen) = watch::channel(0);
    let watch = ConsoleWatch {
        error: Arc::clone(&error),
        complaint: Arc::clone(&complaint),
        muted: Arc::clone(&muted),
        lost: lost_seen,
        kernels: kernels_seen,
        asks: ask,
    };
    (watch, ConsoleLine { error, complaint, ignored: Mutex::default(), muted, lost, kernels, asks })
}

impl ConsoleLine {
    /// Answers, when everything that was written so far has been taken in; returns whether a window begins.
    pub(super) fn answer(&self, ask: ConsoleAsk) -> bool {
        let begins = matches!(ask.then, Then::OpenWindow(_));
        let before = match ask.then {
            Then::OpenWindow(ignored) => {
                *self.ignored.lock() = ignored;
                let before = self.complaint.lock().take();
                self.error.send_replace(None).or(before)
            }
            Then::Unmute => {
                self.muted.store(false, Ordering::Relaxed);
                None
            }
            Then::Nothing => None,
        };
        // Whoever asked may have given up.
        let _ = ask.answer.send(before);
        begins
    }

    /// Notes that a kernel has begun.
    pub(super) fn note_kernel(&self) {
        self.kernels.send_modify(|count| *count = count.saturating_add(1));
    }

    /// Returns how often a kernel has begun.
    pub(super) fn kernels(&self) -> u32 {
        *self.kernels.borrow()
    }

    /// Notes what counts against the running command once it has ended; returns whether it counts.
    pub(super) fn note_for_the_end(&self, found: ConsoleError) -> bool {
        let counts = !self.is_muted();
        if counts {
            self.complaint.lock().get_or_insert(found);
        }
        counts
    }

    /// Returns whether this window takes a kind of trouble for none.
    pub(super) fn ignores(&self, kind: &TroubleKind) -> bool {
        self.ignored.lock().iter().any(|word| word == "*" || *word == kind.id || *word == kind.category)
    }

    /// Returns whether what comes now was asked for by us.
    pub(super) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Relaxed)
    }

    /// Notes an error; returns whether it counts. What we asked for ourselves does not, but a panic always does.
    pub(super) fn note(&self, found: ConsoleError) -> bool {
        let counts = !self.muted.load(Ordering::Relaxed) || found.is_panic();
        if counts {
            // The first cause explains the others; a panic explains more than what led to it.
            self.error.send_if_modified(|now| {
                let replace = now.is_none() || (found.is_panic() && !now.as_ref().is_some_and(ConsoleError::is_panic));
                if replace {
                    *now = Some(found);
                }
                replace
            });
        }
        counts
    }
}

impl ConsoleWatch {
    /// Returns the place that holds the error which the console shows, once it does.
    pub(in crate::engine) fn error(&self) -> watch::Receiver<Option<ConsoleError>> {
        self.error.subscribe()
    }

    /// Returns the error that the console shows now.
    pub(in crate::engine) fn error_now(&self) -> Option<ConsoleError> {
        self.error.borrow().clone()
    }

    /// Takes what counts against the command that has just ended, although it did not end it.
    pub(in crate::engine) fn take_complaint(&self) -> Option<ConsoleError> {
        self.complaint.lock().take()
    }

    /// Returns the answer: the error that was there. The error says that none came in time.
    async fn ask(&self, then: Then) -> Result<Option<ConsoleError>, Behind> {
        let (answer, answered) = oneshot::channel();
        // Without a reader there is nothing to look at.
        if self.asks.send(ConsoleAsk { then, answer }).is_err() {
            return Ok(None);
        }
        clock::within(ANSWER, answered).await.map(Result::unwrap_or_default).ok_or(Behind)
    }

    /// Waits until everything that the console wrote so far has been looked at; the error says that it has not been.
    pub(in crate::engine) async fn catch_up(&self) -> Result<(), Behind> {
        self.ask(Then::Nothing).await.map(drop)
    }

    /// Begins a window: what comes from now on counts, but for the kinds and categories of trouble that are `ignored`. Returns the
    /// error that came before it.
    pub(in crate::engine) async fn open_window(&self, ignored: &[String]) -> Result<Option<ConsoleError>, Behind> {
        self.ask(Then::OpenWindow(ignored.to_vec())).await
    }

    /// Does something that makes the guest speak, for so long at most: what it says then is nobody's complaint, unless it is a panic.
    pub(in crate::engine) async fn muted<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.mute();
        let done = clock::within(limit, work).await;
        self.unmute().await;
        done
    }

    /// Lets errors that we ask for ourselves not count, until [`ConsoleWatch::unmute`].
    fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// Takes in what was asked for, and lets errors count again.
    async fn unmute(&self) {
        // Late is no harm here: the window of the next command begins after it.
        let _ = self.ask(Then::Unmute).await;
    }

    /// Returns the place that holds how often a kernel has begun, by what the console shows: whoever may write to it can show that.
    pub(in crate::engine) fn kernels(&self) -> watch::Receiver<u32> {
        self.kernels.clone()
    }

    /// Returns why the console is not read any more, if it is not.
    pub(in crate::engine) fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> ConsoleError {
        ConsoleError { pattern: "p".into(), kind: None, ends_run: false, line: line.into(), context: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_console_that_is_not_read_any_more_is_known() {
        let (console, line) = pair();
        assert_eq!(console.lost(), None);
        line.lost.send_replace(Some("disk".into()));
        assert_eq!(console.lost(), Some("disk".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn catching_up_waits_for_the_reader() {
        let (console, mut line) = pair();
        let reader = async {
            let ask = line.asks.recv().await.expect("asked");
            assert!(line.note(error("late")));
            line.answer(ask);
        };
        tokio::join!(
            async {
                console.catch_up().await.expect("answered");
                assert_eq!(console.error_now(), Some(error("late")));
            },
            reader
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_sees_only_what_came_in_it_and_nothing_that_was_asked_for() {
        let (console, mut line) = pair();
        let reader = tokio::spawn(async move {
            assert!(line.note(error("before")));
            let ask = line.asks.recv().await.expect("asked");
            line.answer(ask);
            // At once: no window may be open between the answer and what comes next.
            assert!(line.note(error("within")) && line.note(error("later")));
            line
        });
        assert_eq!(console.open_window(&[]).await, Ok(Some(error("before"))));
        let mut line = reader.await.expect("reader");
        assert_eq!(console.error_now(), Some(error("within")), "the first one counts");
        assert!(line.note(error("Kernel panic - not syncing")));
        assert!(console.error_now().is_some_and(|e| e.is_panic()), "a panic explains more");
        let reader = tokio::spawn(async move {
            for _ in 0..2 {
                let ask = line.asks.recv().await.expect("asked");
                assert!(
                    matches!(ask.then, Then::OpenWindow(_)) || !line.note(error("Call Trace:")),
                    "muted until the answer"
                );
                line.answer(ask);
            }
            line
        });
        console.open_window(&[]).await.expect("answered");
        console.mute();
        console.unmute().await;
        let line = reader.await.expect("reader");
        assert_eq!(console.error_now(), None);
        assert!(line.note(error("Call Trace:")));
        console.mute();
        assert!(line.note(error("Kernel panic - not syncing")), "a panic is never muted");
        drop(line);
        assert_eq!(console.catch_up().await, Ok(()), "without a reader there is nothing to look at");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_keep_up_is_known() {
        let (console, _line) = pair();
        assert_eq!(console.catch_up().await, Err(Behind));
        assert_eq!(console.open_window(&[]).await, Err(Behind));
    }
}
