//! The phases of one boot: one is open at a time, and it only goes forward. How long each took is remembered.
//!
//! What begins a phase is seen by `connection` and `console_reader`; what earlier boots took is in `boot_times`.

use super::{baseline::ConsoleBaseline, boot_times::BootTimes};
use crate::{engine::events::EventSender, host::clock};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use vmdeck_model::{
    event::{EventKind, Phase},
    guest::Guest,
};

/// How long a console may always be silent.
const SILENT: Duration = Duration::from_secs(5);

/// The phases of one boot.
pub(super) struct BootPhases {
    guest: Arc<Guest>,
    events: EventSender,
    state: PathBuf,
    history: BootTimes,
    print: ConsoleBaseline,
    open: Option<(Phase, clock::Instant)>,
    /// Whether the boot has failed: what the console says afterwards begins no phase.
    failed: bool,
    /// When the console last said something.
    heard: clock::Instant,
    quiet: BTreeMap<Phase, u64>,
    done: BTreeMap<Phase, u64>,
}

impl BootPhases {
    pub(super) fn new(guest: &Arc<Guest>, events: EventSender, state: &Path) -> Self {
        Self {
            history: BootTimes::load(state, guest),
            print: ConsoleBaseline::load(&BootTimes::lines(state, guest)),
            guest: Arc::clone(guest),
            events,
            state: state.to_owned(),
            open: None,
            failed: false,
            heard: clock::now(),
            quiet: BTreeMap::new(),
            done: BTreeMap::new(),
        }
    }

    fn is_booted(&self) -> bool {
        self.done.contains_key(&Phase::FirstCommand)
    }

    /// Returns until when the console may be silent, by what it usually is at this point, and how long that is; `None` = for ever.
    pub(super) fn may_be_silent(&self) -> Option<(clock::Instant, Duration)> {
        let (phase, since) = self.open?;
        let usual = Duration::from_millis(self.history.quiet(phase)?);
        let times = Some(self.guest.boot.watchdog).filter(|times| *times > 0)?;
        let limit = (usual * times).max(SILENT);
        Some((self.heard.max(since) + limit, limit))
    }

    /// Returns the phase that is open.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.open.map(|(phase, _)| phase)
    }

    /// Notes that the console wrote a whole line.
    pub(super) fn line(&mut self, line: &str) {
        self.note_quiet();
        if !self.is_booted() {
            self.print.line(line);
        }
    }

    fn note_quiet(&mut self) {
        if let Some((phase, _)) = self.open {
            let quiet = clock::ms_since(self.heard);
            let longest = self.quiet.entry(phase).or_default();
            *longest = (*longest).max(quiet);
        }
        self.heard = clock::now();
    }

    /// Notes that the boot has come to this phase.
    pub(super) fn advance(&mut self, to: Phase) {
        if self.is_booted() || self.failed || self.open.is_some_and(|(now, _)| now >= to) {
            return;
        }
        self.close(true);
        self.open = Some((to, clock::now()));
        self.events.send(EventKind::PhaseStarted {
            guest: self.guest.id.clone(),
            phase: to,
            usual_ms: self.history.usual(to),
            rest_ms: self.history.rest(to),
            quiet_ms: self.history.quiet(to),
        });
    }

    /// Notes that the guest began again.
    pub(super) fn restart(&mut self) {
        if !self.is_booted() && !self.failed {
            self.close(true);
            self.advance(Phase::Firmware);
        }
    }

    /// Notes that a guest that was up begins a boot of its own, which has its own times.
    pub(super) fn begin_again(&mut self) {
        self.close(true);
        self.done.clear();
        self.quiet.clear();
        self.failed = false;
        self.advance(Phase::Firmware);
    }

    /// Ends the open phase.
    pub(super) fn close(&mut self, ok: bool) {
        self.failed |= !ok;
        self.note_quiet();
        if let Some((phase, since)) = self.open.take() {
            let took_ms = clock::ms_since(since);
            self.done.insert(phase, took_ms);
            self.events.send(EventKind::PhaseEnded { guest: self.guest.id.clone(), phase, ok, took_ms });
        }
    }

    /// Notes that the boot was good: later ones are measured by it.
    pub(super) fn remember(&self) {
        self.print.save(&BootTimes::lines(&self.state, &self.guest));
        self.history.clone().add(&self.state, &self.guest, self.done.clone(), self.quiet.clone());
    }

    /// Reports where a boot that failed it first differs from the last good one.
    pub(super) fn compare(&self) {
        if let Some(line) = self.print.odd() {
            let text = format!("first console line not seen in the last good boot: {line}");
            self.events.warn(Some(&self.guest.id), text, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sample;

    #[tokio::test]
    async fn a_boot_that_failed_begins_no_further_phase() {
        let home = tempfile::tempdir().expect("tempdir");
        let guest = Arc::new(sample::guest(&[]));
        let (events, mut inbox) = EventSender::new(Arc::default());
        let mut phases = BootPhases::new(&guest, events, home.path());
        phases.advance(Phase::Kernel);
        phases.close(false);
        // The machine lives on for a person, and its console with it.
        phases.advance(Phase::Userspace);
        let kinds: Vec<EventKind> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
        let is = |kind: &EventKind, begins: bool| match kind {
            EventKind::PhaseStarted { phase: Phase::Kernel, .. } => begins,
            EventKind::PhaseEnded { phase: Phase::Kernel, ok: false, .. } => !begins,
            _ => false,
        };
        assert!(matches!(&kinds[..], [a, b] if is(a, true) && is(b, false)), "{kinds:?}");
    }
}
