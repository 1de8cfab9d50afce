//! What is told of a request for memory that waits, and why it came to nothing.

use super::{book::MemoryBook, rule::Refusal, told};
use crate::{
    engine::{events::EventSender, phase_events::PhaseEvents},
    host::clock,
};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    event::{EventKind, Phase},
    guest::Guest,
    quantity::{show_duration, show_size},
};

/// How often it is told that a guest waits.
const TELL: Duration = Duration::from_secs(10);

/// What keeps a request waiting.
pub(super) enum Obstacle {
    Memory {
        left: u64,
        refusal: Refusal,
    },
    /// The sentence says where too little is free.
    Disk(String),
    /// Somebody else does not stop to write in the book.
    Busy,
}

/// A request that waits, as it is told: an event now and then, and a phase of each guest.
pub(super) struct WaitingTold<'a> {
    events: &'a EventSender,
    guests: &'a [&'a Guest],
    /// What all of them need, in bytes.
    needs: u64,
    began: clock::Instant,
    next: clock::Instant,
    phases: Vec<PhaseEvents<'a>>,
}

impl<'a> WaitingTold<'a> {
    pub(super) fn new(events: &'a EventSender, guests: &'a [&'a Guest], needs: u64) -> Self {
        let began = clock::now();
        Self { events, guests, needs, began, next: began, phases: Vec::new() }
    }

    /// Returns the words for that its guests do not start.
    pub(super) fn cannot(&self) -> String {
        let names: Vec<String> = self.guests.iter().map(|guest| format!("`{}`", guest.id)).collect();
        format!("cannot start guest{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
    }

    /// Tells that it waits, if it is time to; `ticket` = the name of its ticket.
    pub(super) fn tell(&mut self, obstacle: &Obstacle, lines: &MemoryBook, ticket: &str) {
        let Some((guest, others)) = self.guests.split_first().filter(|_| self.next <= clock::now()) else { return };
        self.next = clock::now() + TELL;
        if self.phases.is_empty() {
            let begin = |guest: &&'a Guest| PhaseEvents::begin(self.events, &guest.id, Phase::WaitForMemory, None);
            self.phases = self.guests.iter().map(begin).collect();
        }
        let progress = |text| self.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
        let left = match obstacle {
            Obstacle::Memory { left, .. } => *left,
            Obstacle::Disk(short) => return progress(format!("guest `{}` waits for disk space: {short}", guest.id)),
            Obstacle::Busy => {
                return progress(format!(
                    "guest `{}` waits: another process keeps all from reserving memory",
                    guest.id
                ));
            }
        };
        self.events.send(EventKind::MemoryWaiting {
            guest: guest.id.clone(),
            with: others.iter().map(|guest| guest.id.clone()).collect(),
            needs: self.needs,
            left,
            place: lines.waiting.iter().take_while(|line| line.name.as_str() < ticket).count() + 1,
            promised: lines.promised.iter().map(told).collect(),
            waited_ms: clock::ms_since(self.began),
        });
    }

    /// Notes that the wait is over; `ok` = the memory is there.
    pub(super) fn end(self, ok: bool) {
        self.phases.into_iter().for_each(|phase| phase.end(ok));
    }

    /// Returns why it took longer than `limit`, and what to do.
    pub(super) fn too_long(
        &self,
        obstacle: &Obstacle,
        lines: &MemoryBook,
        book: &Path,
        limit: Duration,
    ) -> (String, String) {
        let limit = show_duration(limit);
        match obstacle {
            Obstacle::Memory { left, .. } => {
                let (needs, left) = (show_size(self.needs), show_size(*left));
                let who: String = lines.promised.iter().map(|line| format!("; {}", told(line))).collect();
                let why = format!(
                    "{needs} of memory are needed, and after {limit} (`host.lock_timeout`) {left} can be had{who}"
                );
                let hint = "`vmdeck lock status` shows who has the memory; `vmdeck down GUEST` ends a guest that was kept; \
                            `--lock-timeout` waits longer";
                (why, hint.to_owned())
            }
            Obstacle::Disk(short) => (
                format!("after {limit} (`host.lock_timeout`) there is too little disk space: {short}"),
                "free disk space: `vmdeck cleanup --list-only` shows what vmdeck could remove".to_owned(),
            ),
            Obstacle::Busy => {
                let book = book.display();
                (
                    format!("for {limit} another process kept the folder `{book}` locked"),
                    format!("`fuser {book}` shows which"),
                )
            }
        }
    }
}
