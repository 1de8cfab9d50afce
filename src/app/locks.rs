//! `vmdeck lock`: who holds the host lock, removing a dead one, and holding it around another program.
//!
//! The protocol is in `engine::lock`.

use super::{Io, settings};
use crate::cli::{ConfigArgs, LockSub};
use serde_json::json;
use std::{os::unix::process::ExitStatusExt, path::Path, process::Stdio};
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    engine::{
        admission,
        lock::{self, LockRequest, Standing},
    },
    host::{
        capacity::HostMeter,
        process::{Spawner, Spec, Streams},
        signal,
    },
};
use vmdeck_model::{
    error::{Fault, Result},
    event::Holder,
    exit::RunExit,
    memory::{MemoryStanding, PromisedMemory},
    outcome::Signal,
    plan::HostConfig,
    quantity::show_size,
};

pub(super) async fn run(sub: LockSub, config: &ConfigArgs, io: &mut Io<'_>) -> Result<u8> {
    let (host, _) = settings::load_host(config)?;
    match sub {
        LockSub::Status { json } => status(&host, json, io).map(RunExit::code),
        LockSub::Break { force } => {
            match lock::break_dead(&host.lock, force)? {
                Some(holder) => io.say(&format!("removed the lock of {holder}")),
                None => io.say("there is no lock to break"),
            }
            Ok(0)
        }
        LockSub::Exec { command } => exec(&host, &command, io).await,
    }
}

fn status(host: &HostConfig, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    // With each slot, as the queue: it is that of the host.
    let memory = admission::look(host, &HostMeter);
    let mut slots = Vec::new();
    for path in lock::slot_paths(&host.lock, host.slots) {
        let standing = lock::look(&path)
            .map_err(|e| Fault::host(format!("cannot inspect the lock `{}`", path.display())).because(e))?;
        let (word, holder) = match standing {
            Standing::Free => ("free", None),
            Standing::Live(holder) => ("held", Some(holder)),
            Standing::Dead { .. } => ("dead", None),
        };
        if json {
            slots.push(json!({ "path": path, "state": word, "holder": holder, "waiting": [], "memory": memory }));
        } else {
            io.say(&line(&path, word, holder.as_ref()));
        }
    }
    for (index, waiter) in lock::waiting(&host.lock).iter().enumerate() {
        if json {
            // The queue is that of all slots: with each of them, so that nobody has to know which is the first.
            for slot in &mut slots {
                if let Some(list) = slot["waiting"].as_array_mut() {
                    list.push(json!(waiter));
                }
            }
        } else {
            io.say(&format!("  waiting, {} in the queue: {waiter}", ordinal(index + 1)));
        }
    }
    if json {
        io.say(&serde_json::to_string_pretty(&slots).unwrap_or_default());
        return Ok(RunExit::Passed);
    }
    for line in memory_lines(&memory) {
        io.say(&line);
    }
    Ok(RunExit::Passed)
}

/// Returns how the host's memory stands: one line for all, one for each machine that has some, one for each guest that waits.
fn memory_lines(memory: &MemoryStanding) -> Vec<String> {
    let mut out: Vec<String> = memory.fault.iter().cloned().collect();
    if let (Some(total), Some(free)) = (memory.total, memory.free) {
        let (unused, reserve) = (memory.unused(None).1, memory.reserve);
        let used = show_size(total.saturating_sub(free));
        let left = memory.left.map(|left| format!("; {} can be had", show_size(left))).unwrap_or_default();
        let limit = memory.limit.map(|limit| format!(", `host.memory` is {}", show_size(limit))).unwrap_or_default();
        out.push(format!(
            "memory: {used} used of {}, {} more promised to guests, {} must stay free{limit}{left}",
            show_size(total),
            show_size(unused),
            show_size(reserve)
        ));
    }
    let uses = |one: &PromisedMemory| format!("  {one} of memory, uses {}", show_size(one.used));
    out.extend(memory.promised.iter().map(uses));
    out.extend(memory.waiting.iter().enumerate().map(|(index, one)| {
        format!(
            "  waiting, {} in the queue: {} of memory for {}",
            ordinal(index + 1),
            show_size(one.memory),
            one.whose()
        )
    }));
    out
}

/// Returns a place in a queue in words, `1st`.
fn ordinal(number: usize) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

fn line(full: &Path, word: &str, holder: Option<&Holder>) -> String {
    let path = full.display();
    let foreign = lock::removable_only_by(full).filter(|_| word == "dead");
    match (word, holder) {
        ("dead", _) if foreign.is_some() => {
            format!("{path}: dead: {}", lock::dead_foreign(&foreign.unwrap_or_default()))
        }
        ("dead", _) => format!("{path}: dead: its holder is gone; the next run removes it, or `vmdeck lock break`"),
        (_, Some(holder)) => format!("{path}: held by {holder}"),
        _ => format!("{path}: free"),
    }
}

/// Runs a program under the lock. The old scripts get a private lock directory, so that they do not wait for us.
async fn exec(host: &HostConfig, command: &[String], io: &mut Io<'_>) -> Result<u8> {
    let mut owner = lock::owner(None);
    owner.phase = Some(format!("running {}", command[0]));
    let request = LockRequest { path: host.lock.clone(), shared: host.lock_shared, timeout: host.lock_timeout, owner };
    let cancel = CancellationToken::new();
    let mut signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let held = {
        let told = |holder: &Holder, _| io.warn(&format!("waiting for the host lock, held by {holder}"));
        let waiting = lock::acquire(&request, told, &cancel);
        tokio::select! {
            held = waiting => held?,
            Some(signal) = signals.recv() => {
                io.warn(&Fault::cancelled("cannot wait for the lock").because("a signal arrived").render());
                return Ok(RunExit::of_signal(signal).code());
            }
        }
    };
    let result = run_under(command, &mut signals).await;
    held.release();
    result
}

/// Returns whether the terminal has sent a signal to the program as well: it is in our process group.
fn is_from_terminal(signal: Signal) -> bool {
    let foreground =
        rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
    foreground && matches!(signal, Signal::Interrupt | Signal::Quit)
}

async fn run_under(command: &[String], signals: &mut tokio::sync::mpsc::UnboundedReceiver<Signal>) -> Result<u8> {
    let cannot = |e: std::io::Error| Fault::user(format!("cannot run `{}`", command[0])).because(e);
    let private = tempfile::tempdir().map_err(cannot)?;
    let spec =
        Spec::new(&command[0]).args(&command[1..]).env("VM_LOCK_DIR", private.path().join("lock.d")).foreground();
    let streams = Streams { stdin: Stdio::inherit(), stdout: Stdio::inherit(), stderr: Stdio::inherit() };
    // It lives until the program has ended: its thread is the one that the program is tied to.
    let spawner = Spawner::new(std::env::current_exe().ok()).map_err(cannot)?;
    let mut child = spawner.spawn_tethered(&spec, streams).await.map_err(cannot)?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(cannot)?;
                // As a shell tells it: 128 and the number of the signal.
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(RunExit::Bug.code()));
            }
            // The lock is held until the program has ended, whatever it does about the signal.
            Some(signal) = signals.recv() => if !is_from_terminal(signal) { child.signal(signal) },
        }
    }
}
