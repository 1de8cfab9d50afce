//! Waiting for memory: one request at a time for all machines of a job, so that no two jobs wait for each other.

use super::{
    book::{self, MemoryBook, Reservation, Writing},
    entry::{EntryState, MemoryEntry},
    memory_of,
    rule::{Refusal, refusal},
    words::{Obstacle, WaitingTold},
};
use crate::{
    backend,
    engine::events::EventSender,
    host::{capacity::Meter, clock, failpoint},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    ids::{GuestId, RunId},
    plan::{HostConfig, Plan},
    quantity::show_size,
};

/// How often it is looked whether there is memory now: of a program that ends, nobody tells.
const LOOK: Duration = Duration::from_secs(1);
/// How long somebody whose turn it is may take to go.
const TURN: Duration = Duration::from_secs(1);
/// What a run asks this host's memory with.
pub(in crate::engine) struct Admission {
    pub(super) host: HostConfig,
    run: RunId,
    state: PathBuf,
    meter: Arc<dyn Meter>,
    events: EventSender,
    /// Whether it was said that the book cannot be written.
    has_warned: AtomicBool,
}

impl Admission {
    pub(in crate::engine) fn new(plan: &Plan, state: PathBuf, meter: Arc<dyn Meter>, events: EventSender) -> Self {
        Self {
            host: plan.host.clone(),
            run: plan.run.clone(),
            state,
            meter,
            events,
            has_warned: AtomicBool::new(false),
        }
    }

    /// Waits until this host has the memory of all of these guests, and takes it; a guest whose memory is not ours to say gets nothing.
    pub(in crate::engine) async fn reserve(
        &self,
        guests: &[&Guest],
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<GuestId, Arc<Reservation>>> {
        let sized: Vec<&Guest> = guests.iter().copied().filter(|guest| memory_need(guest) > 0).collect();
        if sized.is_empty() {
            return Ok(BTreeMap::new());
        }
        let memory = sized.iter().map(|guest| guest.memory).fold(0, u64::saturating_add);
        let names = sized.iter().map(|guest| guest.id.to_string()).collect();
        let wanted = MemoryEntry::wanted(self.run.as_str(), names, memory);
        let path = book::folder_of(&self.host.lock);
        if let Some(parent) = path.parent() {
            let _ = std::fs::create_dir_all(parent);
        }
        let ticket = match Reservation::first(&path, wanted.clone()) {
            Ok(ticket) => ticket,
            Err(e) => {
                let at = path.display();
                self.warn_once(
                    format!(
                        "cannot reserve memory in `{at}`: {e}; runs do not see each other's, and may want too much"
                    ),
                    format!("remove what stands at `{at}`"),
                );
                return Ok(BTreeMap::new());
            }
        };
        let ticket = self.wait(ticket, &wanted, &sized, cancel).await?;
        self.divide(ticket, &sized)
    }

    /// Waits for the turn of a ticket, which then has its memory.
    async fn wait(
        &self,
        mut ticket: Reservation,
        wanted: &MemoryEntry,
        guests: &[&Guest],
        cancel: &CancellationToken,
    ) -> Result<Reservation> {
        let mut waiting = WaitingTold::new(&self.events, guests, wanted.memory);
        let mut alone_since = clock::now();
        let mut next: Option<(String, clock::Instant)> = None;
        let mut ignored = BTreeSet::new();
        let watch = ticket.folder().watch();
        loop {
            if !ticket.is_there() {
                // Somebody removed it, or the whole book: last again.
                let cannot = |e| Fault::infra(waiting.cannot()).because(e);
                ticket = Reservation::first(ticket.folder().path(), wanted.clone()).map_err(cannot)?;
            }
            let (obstacle, lines) = self.ask(&ticket, wanted, &ignored).await;
            let Some(obstacle) = obstacle else {
                waiting.end(true);
                return Ok(ticket);
            };
            if let Obstacle::Memory { refusal: Refusal::TurnOf(name), .. } = &obstacle {
                match next.take().filter(|(before, _)| before == name) {
                    Some((_, since)) if since.elapsed() >= TURN && self.can_go(&lines, name) => {
                        ignored.insert(name.clone());
                        continue;
                    }
                    before => next = Some(before.unwrap_or_else(|| (name.clone(), clock::now()))),
                }
            }
            // What this run has itself comes back when its cases have ended.
            if lines.promised.iter().any(|line| self.is_held_by_us(&line.entry)) {
                alone_since = clock::now();
            }
            if cancel.is_cancelled() {
                let fault = Fault::cancelled(waiting.cannot()).because("it was cancelled");
                waiting.end(false);
                return Err(fault);
            }
            if alone_since.elapsed() >= self.host.lock_timeout {
                let (why, hint) = waiting.too_long(&obstacle, &lines, ticket.folder().path(), self.host.lock_timeout);
                let fault = Fault::infra(waiting.cannot()).because(why).hint(hint);
                waiting.end(false);
                return Err(fault);
            }
            waiting.tell(&obstacle, &lines, ticket.name());
            tokio::select! {
                () = watch.changed() => {}
                () = clock::sleep(LOOK) => {}
                () = cancel.cancelled() => {}
            }
        }
    }

    fn is_held_by_us(&self, entry: &MemoryEntry) -> bool {
        entry.state == EntryState::Held && entry.run.as_deref() == Some(self.run.as_str())
    }

    /// Returns whether one who waits could go at once, and only does not.
    fn can_go(&self, lines: &MemoryBook, name: &str) -> bool {
        let left = memory_of(&self.host, self.meter.as_ref()).left(&lines.promises());
        lines.waiting.iter().any(|line| line.name == name && left.is_none_or(|left| line.entry.memory <= left))
    }

    /// Takes what a ticket asks for, if it is its turn; returns what keeps it waiting where not, and what is in the book.
    async fn ask(
        &self,
        ticket: &Reservation,
        wanted: &MemoryEntry,
        ignored: &BTreeSet<String>,
    ) -> (Option<Obstacle>, MemoryBook) {
        if let Some(short) = self.disk_short() {
            return (Some(Obstacle::Disk(short)), book::read(ticket.folder(), true));
        }
        let Some(_writing) = Writing::begin(ticket.folder()).await else {
            return (Some(Obstacle::Busy), book::read(ticket.folder(), true));
        };
        let lines = book::read(ticket.folder(), true);
        let (here, promises) = (memory_of(&self.host, self.meter.as_ref()), lines.promises());
        let refused = refusal(wanted.memory, &lines.older_than(ticket.name()), ignored, &here, &promises);
        let Some(refusal) = refused else {
            // A ticket that cannot be written again on a full disk would count as waiting: then it waits.
            failpoint::pass("memory-begin");
            let taken = ticket.write(|entry| entry.state = EntryState::Held);
            failpoint::pass("memory-taken");
            return (taken.err().map(|e| Obstacle::Disk(format!("the book cannot be written: {e}"))), lines);
        };
        (Some(Obstacle::Memory { left: here.left(&promises).unwrap_or(0), refusal }), lines)
    }

    /// Returns where too little disk space is free for another machine.
    fn disk_short(&self) -> Option<String> {
        let free = self.meter.free_disk(&self.state)?;
        let least = self.host.min_free_disk;
        (free < least).then(|| {
            let (free, least) = (show_size(free), show_size(least));
            format!("{free} free at `{}`, and `host.min_free_disk` is {least}", self.state.display())
        })
    }

    /// Gives each machine of a request its own part.
    fn divide(&self, ticket: Reservation, sized: &[&Guest]) -> Result<BTreeMap<GuestId, Arc<Reservation>>> {
        let mut parts = BTreeMap::new();
        let of = |guest: &Guest| MemoryEntry {
            state: EntryState::Held,
            ..MemoryEntry::wanted(self.run.as_str(), vec![guest.id.to_string()], guest.memory)
        };
        let cannot = |e: std::io::Error| Fault::infra("cannot reserve memory").because(e);
        // First the others: in the moment between, too much is promised, never too little.
        for guest in &sized[1..] {
            let part = Reservation::add(ticket.folder(), of(guest)).map_err(cannot)?;
            parts.insert(guest.id.clone(), Arc::new(part));
        }
        if sized.len() > 1 {
            ticket.write(|entry| *entry = of(sized[0])).map_err(cannot)?;
        }
        parts.insert(sized[0].id.clone(), Arc::new(ticket));
        Ok(parts)
    }

    fn warn_once(&self, text: String, hint: String) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            self.events.warn(None, text, Some(hint));
        }
    }
}

/// Returns the memory that a guest's machine takes of this host, in bytes; 0 = it is not ours to say.
pub(in crate::engine) fn memory_need(guest: &Guest) -> u64 {
    let can = backend::capabilities_of(&guest.backend);
    let is_ours = guest.machine.is_none() && can.sized && can.runs_here;
    if is_ours { guest.memory } else { 0 }
}
