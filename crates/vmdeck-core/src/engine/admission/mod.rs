//! Admission: no machine is started before this host has promised it the memory that it needs, over all vmdeck processes.
//!
//! The first that came is the first that gets it; who needs less may pass one that has no room yet, but only for a minute. What is
//! promised is in a book beside the lock, and the kernel says whose it still is.

mod book;
mod entry;
mod pressure;
mod rule;
mod wait;
mod words;

use crate::host::{capacity::Meter, clock, tickets::TicketFolder};
pub use book::Reservation;
pub(super) use pressure::watch;
use rule::HostMemory;
use std::{path::Path, time::Duration};
use vmdeck_model::{
    job::Job,
    memory::{MemoryStanding, PromisedMemory},
    plan::HostConfig,
};
pub(super) use wait::{Admission, memory_need};

/// How often it is looked whether a machine that was killed has let go of its ticket.
const DYING: usize = 50;
/// The time between two such looks.
const MOMENT: Duration = Duration::from_millis(10);

/// Returns how the memory of this host stands; nothing is changed.
pub fn look(host: &HostConfig, meter: &dyn Meter) -> MemoryStanding {
    let path = book::folder_of(&host.lock);
    let (lines, fault) = match TicketFolder::open(&path) {
        Ok(folder) => (book::read(&folder, false), None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (book::MemoryBook::default(), None),
        Err(e) => {
            (book::MemoryBook::default(), Some(format!("who has memory cannot be read from `{}`: {e}", path.display())))
        }
    };
    let (here, promises) = (memory_of(host, meter), lines.promises());
    MemoryStanding {
        total: meter.total_memory(),
        free: here.free,
        reserve: here.reserve,
        limit: here.limit,
        fault,
        left: here.left(&promises),
        left_alone: here.left_alone(&promises),
        promised: lines.promised.iter().map(told).collect(),
        waiting: lines.waiting.iter().map(told).collect(),
    }
}

/// Removes from the book of this lock what is nobody's any more.
pub fn sweep(lock: &Path) {
    let Ok(folder) = TicketFolder::open(&book::folder_of(lock)) else { return };
    folder.sweep();
    for _ in 0..DYING {
        // A process that was killed holds its ticket until the last of its threads has ended.
        let is_dying = book::read(&folder, true).promised.iter().any(book::BookLine::is_dying);
        folder.remove_empty();
        if !is_dying {
            break;
        }
        clock::block(MOMENT);
    }
}

/// Returns the memory that the machines of a job need together, in bytes.
pub(super) fn memory_of_job(job: &Job) -> u64 {
    job.guests().map(memory_need).fold(0, u64::saturating_add)
}

fn memory_of(host: &HostConfig, meter: &dyn Meter) -> HostMemory {
    HostMemory { free: meter.free_memory(), reserve: host.min_free_memory, limit: host.memory }
}

/// Returns a line of the book for people. Another user may have written it: no limit on what it says is relied on.
fn told(line: &book::BookLine) -> PromisedMemory {
    let entry = &line.entry;
    PromisedMemory { run: entry.run.clone(), guests: entry.guests.clone(), memory: entry.memory, used: line.used }
}

#[cfg(test)]
mod tests;
