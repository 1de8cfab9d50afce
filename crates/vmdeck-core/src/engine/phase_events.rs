//! The two events that frame a phase outside of the boot.

use crate::{engine::events::EventSender, host::clock};
use vmdeck_model::{
    error::Result,
    event::{EventKind, Phase},
    ids::GuestId,
};

/// A phase that has begun.
pub(super) struct PhaseEvents<'a> {
    events: &'a EventSender,
    guest: &'a GuestId,
    phase: Phase,
    start: clock::Instant,
}

impl<'a> PhaseEvents<'a> {
    /// Begins a phase; `usual_ms` is how long it takes usually, or at most.
    pub(super) fn begin(events: &'a EventSender, guest: &'a GuestId, phase: Phase, usual_ms: Option<u64>) -> Self {
        let start = clock::now();
        let started = EventKind::PhaseStarted { guest: guest.clone(), phase, usual_ms, rest_ms: None, quiet_ms: None };
        events.send(started);
        Self { events, guest, phase, start }
    }

    /// Ends the phase; `ok` says whether it did what it was for.
    pub(super) fn end(self, ok: bool) {
        let took_ms = clock::ms_since(self.start);
        self.events.send(EventKind::PhaseEnded { guest: self.guest.clone(), phase: self.phase, ok, took_ms });
    }

    /// Frames work with the two events.
    pub(super) async fn around<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = work.await;
        self.end(result.is_ok());
        result
    }
}
