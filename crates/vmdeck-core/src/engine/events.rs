//! How the parts of a run report what happened: facts always arrive, output lines only while somebody keeps up.
//!
//! Numbers and times are put on by the dispatcher.

use crate::host::clock;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::mpsc;
use vmdeck_model::event::EventKind;

/// Output lines that may wait for the reader.
const OUTPUT_QUEUE: usize = 8192;

/// A sender of events; cheap to copy.
#[derive(Clone, Debug)]
pub struct EventSender {
    start: clock::Instant,
    facts: mpsc::UnboundedSender<EventKind>,
    queued: Arc<AtomicUsize>,
    skipped: Arc<AtomicU64>,
    bug: Arc<AtomicBool>,
    infra: Arc<AtomicBool>,
}

impl EventSender {
    /// Returns a sender and its receiver; `queued` counts the output lines that are on their way to the reader.
    pub fn new(queued: Arc<AtomicUsize>) -> (Self, mpsc::UnboundedReceiver<EventKind>) {
        let (facts, inbox) = mpsc::unbounded_channel();
        (
            Self {
                start: clock::now(),
                facts,
                queued,
                skipped: Arc::default(),
                bug: Arc::default(),
                infra: Arc::default(),
            },
            inbox,
        )
    }

    /// Returns the milliseconds of the run so far.
    pub fn elapsed_ms(&self) -> u64 {
        clock::ms_since(self.start)
    }

    /// Sends a fact.
    pub fn send(&self, kind: EventKind) {
        // After the dispatcher's end nobody is left to hear it.
        let _ = self.facts.send(kind);
    }

    /// Sends an output line, unless too many wait already; the logs have it in any case.
    pub fn output(&self, kind: EventKind) {
        if self.queued.fetch_add(1, Ordering::Relaxed) < OUTPUT_QUEUE {
            self.send(kind);
        } else {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a warning.
    pub fn warn(&self, guest: Option<&vmdeck_model::ids::GuestId>, text: impl Into<String>, hint: Option<String>) {
        self.send(EventKind::Warning { guest: guest.cloned(), text: text.into(), hint });
    }

    /// Notes that vmdeck itself went wrong: the run cannot end green.
    pub fn bug(&self) {
        self.bug.store(true, Ordering::Relaxed);
    }

    /// Returns whether vmdeck itself went wrong.
    pub fn has_bug(&self) -> bool {
        self.bug.load(Ordering::Relaxed)
    }

    /// Notes that a guest was lost that has no case to report it: the run cannot end green.
    pub fn infra(&self) {
        self.infra.store(true, Ordering::Relaxed);
    }

    /// Returns whether such a guest was lost.
    pub fn has_infra(&self) -> bool {
        self.infra.load(Ordering::Relaxed)
    }

    /// Returns how many output lines were not sent to the reader.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}
