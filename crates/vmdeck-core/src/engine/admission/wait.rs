//! Waiting for memory: one request at a time for all machines of a job, so that no two jobs wait for each other.

use super::{
    book::{self, MemoryBook, Reservation, Writing},
    entry::{EntryState, MemoryEntry},
    memory_of,
    rule::{Refusal, refusal},
    told,
};
use crate::{
    backend,
    engine::{events::EventSender, phase_events::PhaseEvents},
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
    event::{EventKind, Phase},
    guest::Guest,
    ids::{GuestId, RunId},
    plan::{HostConfig, Plan},
    quantity::{show_duration, show_size},
};

/// How often it is looked whether there is memory now: of a program that ends, nobody tells.
const LOOK: Duration = Duration::from_secs(1);
/// How long somebody whose turn it is may take to go.
const TURN: Duration = Duration::from_secs(1);
/// How often it is told that a guest waits.
const TELL: Duration = Duration::from_secs(10);

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

/// What keeps a request waiting.
enum Obstacle {
    Memory {
        left: u64,
        refusal: Refusal,
    },
    /// The sentence says where too little is free.
    Disk(String),
    /// Somebody else does not stop to write in the book.
    Busy,
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
        let Some(first) = sized.first() else { return Ok(BTreeMap::new()) };
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
                self.warn_once(format!(
                    "cannot reserve memory in `{}`: {e}; other runs do not see ours",
                    path.display()
                ));
                return Ok(BTreeMap::new());
            }
        };
        let ticket = self.wait(ticket, &wanted, first, cancel).await?;
        self.divide(ticket, &sized)
    }

    /// Waits for the turn of a ticket, which then has its memory.
    async fn wait(
        &self,
        mut ticket: Reservation,
        wanted: &MemoryEntry,
        guest: &Guest,
        cancel: &CancellationToken,
    ) -> Result<Reservation> {
        let cannot = || Fault::infra(format!("cannot start guest `{}`", guest.id));
        let (began, mut alone_since) = (clock::now(), clock::now());
        let mut next_told = began;
        let mut stands: Option<(String, clock::Instant)> = None;
        let (mut ignored, mut phase) = (BTreeSet::new(), None);
        let watch = ticket.folder().watch();
        loop {
            if !ticket.is_there() {
                // Somebody removed it, or the whole book: last again.
                ticket = Reservation::first(ticket.folder().path(), wanted.clone()).map_err(|e| cannot().because(e))?;
            }
            let (obstacle, lines) = self.ask(&ticket, wanted, &ignored).await;
            let Some(obstacle) = obstacle else {
                if let Some(phase) = phase.take() {
                    PhaseEvents::end(phase, true);
                }
                return Ok(ticket);
            };
            if let Obstacle::Memory { refusal: Refusal::TurnOf(name), .. } = &obstacle {
                match &stands {
                    Some((before, since)) if before == name => {
                        if since.elapsed() >= TURN && can_go(&lines, name, &self.host, self.meter.as_ref()) {
                            ignored.insert(name.clone());
                            continue;
                        }
                    }
                    _ => stands = Some((name.clone(), clock::now())),
                }
            } else {
                stands = None;
            }
            // What this run has itself comes back when its cases have ended.
            let is_ours = |entry: &MemoryEntry| {
                entry.state == EntryState::Held && entry.run.as_deref() == Some(self.run.as_str())
            };
            if lines.promised.iter().any(|line| is_ours(&line.entry)) {
                alone_since = clock::now();
            }
            let late = alone_since.elapsed() >= self.host.lock_timeout;
            if late || next_told <= clock::now() {
                next_told = clock::now() + TELL;
                phase.get_or_insert_with(|| PhaseEvents::begin(&self.events, &guest.id, Phase::WaitForMemory, None));
                self.tell(&obstacle, &lines, ticket.name(), (guest, wanted.memory), clock::ms_since(began));
            }
            let fault = if late {
                Some(cannot().because(self.too_long(&obstacle, &lines, wanted.memory)).hint(
                    "`vmdeck lock status` shows who has the memory; `vmdeck down GUEST` ends a guest that was kept",
                ))
            } else if cancel.is_cancelled() {
                Some(Fault::cancelled(format!("cannot start guest `{}`", guest.id)).because("it was cancelled"))
            } else {
                None
            };
            if let Some(fault) = fault {
                if let Some(phase) = phase.take() {
                    PhaseEvents::end(phase, false);
                }
                return Err(fault);
            }
            tokio::select! {
                () = watch.changed() => {}
                () = clock::sleep(LOOK) => {}
                () = cancel.cancelled() => {}
            }
        }
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

    fn tell(
        &self,
        obstacle: &Obstacle,
        lines: &MemoryBook,
        ticket: &str,
        (guest, needs): (&Guest, u64),
        waited_ms: u64,
    ) {
        let left = match obstacle {
            Obstacle::Memory { left, .. } => *left,
            Obstacle::Disk(short) => {
                let text = format!("guest `{}` waits for disk space: {short}", guest.id);
                return self.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
            }
            Obstacle::Busy => {
                let text = format!("guest `{}` waits: another process does not release the book of memory", guest.id);
                return self.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
            }
        };
        let place = lines.waiting.iter().take_while(|line| line.name.as_str() < ticket).count() + 1;
        let promised = lines.promised.iter().map(told).collect();
        self.events.send(EventKind::MemoryWaiting { guest: guest.id.clone(), needs, left, place, promised, waited_ms });
    }

    fn too_long(&self, obstacle: &Obstacle, lines: &MemoryBook, needs: u64) -> String {
        let limit = show_duration(self.host.lock_timeout);
        match obstacle {
            Obstacle::Memory { left, .. } => {
                let (needs, left) = (show_size(needs), show_size(*left));
                let who: Vec<String> = lines.promised.iter().map(|line| told(line).to_string()).collect();
                let who = if who.is_empty() { String::new() } else { format!("; {}", who.join(", ")) };
                format!(
                    "it needs {needs} of memory, and within {limit} (`host.lock_timeout`) only {left} became free{who}"
                )
            }
            Obstacle::Disk(short) => {
                format!("for {limit} (`host.lock_timeout`) there was too little disk space: {short}")
            }
            Obstacle::Busy => format!("for {limit} another process did not release the book of memory"),
        }
    }

    fn warn_once(&self, text: String) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            self.events.warn(None, text, None);
        }
    }
}

/// Returns the memory that a guest's machine takes of this host, in bytes; 0 = it is not ours to say.
pub(in crate::engine) fn memory_need(guest: &Guest) -> u64 {
    let is_ours = guest.machine.is_none() && backend::capabilities_of(&guest.backend).sized;
    if is_ours { guest.memory } else { 0 }
}

/// Returns whether one who waits could go at once, and only does not.
fn can_go(lines: &MemoryBook, name: &str, host: &HostConfig, meter: &dyn Meter) -> bool {
    let promises = lines.promises();
    let left = memory_of(host, meter).left(&promises);
    lines.waiting.iter().any(|line| line.name == name && left.is_none_or(|left| line.entry.memory <= left))
}
