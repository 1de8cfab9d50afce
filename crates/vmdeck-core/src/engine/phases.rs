//! The phases of one boot: one is open at a time, and it only goes forward. How long each took is remembered.
//!
//! What begins a phase is seen by `link`; what earlier boots took is in `history`.

use super::{bootprint::Bootprint, emit::Emit, history::History};
use crate::host::clock;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use vmdeck_model::{
    event::{EventKind, Phase},
    guest::Guest,
};

/// See the module.
pub(super) struct Phases {
    guest: Arc<Guest>,
    emit: Emit,
    state: PathBuf,
    history: History,
    print: Bootprint,
    open: Option<(Phase, clock::Instant)>,
    /// When the console last said something.
    heard: clock::Instant,
    quiet: BTreeMap<Phase, u64>,
    done: BTreeMap<Phase, u64>,
}

impl Phases {
    pub(super) fn new(guest: &Arc<Guest>, emit: Emit, state: &Path) -> Self {
        Self {
            history: History::load(state, guest),
            print: Bootprint::load(&History::lines(state, guest)),
            guest: Arc::clone(guest),
            emit,
            state: state.to_owned(),
            open: None,
            heard: clock::now(),
            quiet: BTreeMap::new(),
            done: BTreeMap::new(),
        }
    }

    fn is_booted(&self) -> bool {
        self.done.contains_key(&Phase::FirstCommand)
    }

    /// The console wrote a whole line.
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

    /// The boot has come to this phase.
    pub(super) fn advance(&mut self, to: Phase) {
        if self.is_booted() || self.open.is_some_and(|(now, _)| now >= to) {
            return;
        }
        self.close(true);
        self.open = Some((to, clock::now()));
        self.emit.fact(EventKind::PhaseStarted {
            guest: self.guest.id.clone(),
            phase: to,
            usual_ms: self.history.usual(to),
            rest_ms: self.history.rest(to),
            quiet_ms: self.history.quiet(to),
        });
    }

    /// The open phase is over.
    pub(super) fn close(&mut self, ok: bool) {
        self.note_quiet();
        if let Some((phase, since)) = self.open.take() {
            let took_ms = clock::ms_since(since);
            self.done.insert(phase, took_ms);
            self.emit.fact(EventKind::PhaseEnded { guest: self.guest.id.clone(), phase, ok, took_ms });
        }
    }

    /// The boot was good: later ones are measured by it.
    pub(super) fn remember(&self) {
        self.print.save(&History::lines(&self.state, &self.guest));
        self.history.clone().add(&self.state, &self.guest, self.done.clone(), self.quiet.clone());
    }

    /// The boot was not good: tells where it first differed from the last good one.
    pub(super) fn compare(&self) {
        if let Some(line) = self.print.odd() {
            let text = format!("the first console line that the last good boot did not have: {line}");
            self.emit.warn(Some(&self.guest.id), text, None);
        }
    }
}
