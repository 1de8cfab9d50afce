//! Serves the port: the host's messages go to the jobs they are for, the jobs' messages go to the host.
//!
//! A connection ends when the host lets go of the port; then every job of it is killed, and the next one may come.

use super::{
    host_line::HostLine,
    job::AgentJob,
    port,
    wire::{Body, CONTENT_MAX, Decoder, Message, find_greeting},
    words::CONSOLE_PREFIX,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
};

/// The word by which the program knows that it is the agent.
pub(super) const WORD: &str = "agent";
/// Most bytes that are looked through for a greeting.
const NOISE_MAX: usize = 64 * 1024;
/// How long nobody listens before the port is looked at again: nothing tells when a host comes.
const NOBODY: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Serves one host after the other; ends only where the port fails.
pub(super) fn run() -> u8 {
    let served = port::open().and_then(|port| {
        let host = HostLine::new(port.try_clone()?);
        serve(port, host)
    });
    if let Err(e) = served {
        let _ = writeln!(io::stderr(), "{CONSOLE_PREFIX} the serial port failed: {e}");
    }
    1
}

fn serve(mut port: File, mut host: HostLine) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut noise = Vec::new();
    let mut decoder: Option<Decoder> = None;
    let mut jobs: BTreeMap<u32, AgentJob> = BTreeMap::new();
    loop {
        let length = match port.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if length == 0 {
            jobs.clear();
            noise.clear();
            decoder = None;
            wait_for_host(&port)?;
            continue;
        }
        let piece = &buffer[..length];
        let Some(messages) = &mut decoder else {
            noise.extend_from_slice(piece);
            if let Some((nonce, rest)) = find_greeting(&noise) {
                let mut first = Decoder::new(CONTENT_MAX);
                first.feed(rest);
                host.begin(&nonce);
                decoder = Some(first);
                noise.clear();
            } else if noise.len() > NOISE_MAX {
                noise.drain(..noise.len() - NOISE_MAX / 2);
            }
            continue;
        };
        messages.feed(piece);
        loop {
            match messages.next_message() {
                Ok(Some(message)) => take(message, &mut jobs, &host),
                Ok(None) => break,
                // The host speaks another language: it has to begin again.
                Err(_) => {
                    jobs.clear();
                    decoder = None;
                    break;
                }
            }
        }
    }
}

fn take(message: Message, jobs: &mut BTreeMap<u32, AgentJob>, host: &HostLine) {
    jobs.retain(|_, job| !job.has_ended());
    match message.body {
        Body::Run(request) => match AgentJob::start(message.id, *request, host.clone()) {
            Ok(job) => drop(jobs.insert(message.id, job)),
            Err(e) => host.send(message.id, Body::Refused(e.to_string())),
        },
        Body::Abandon => drop(jobs.remove(&message.id)),
        // Input for a command that has ended is not wanted any more.
        body => {
            if let Some(job) = jobs.get_mut(&message.id) {
                job.take(body);
            }
        }
    }
}

/// Waits until a host listens on the port.
fn wait_for_host(port: &File) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(port, PollFlags::OUT)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if !fds[0].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        // A port without a host is always "ready": a pause by a poll of nothing.
        let _ = poll(&mut [], Some(&NOBODY));
    }
}
