//! Serves the stand-ins of `ssh` and `scp` that a host program calls: each of their commands goes over the open session.
//!
//! What the stand-ins read of their own command line is their matter; here a command is a text and an input.

use super::wish::EndWish;
use crate::{
    command::{CommandExit, Input, RemoteCommand},
    engine::{
        machine::{LeasedMachine, recv_once},
        stand_in::{FAILED, LOST, StandInRequest},
    },
    host::clock,
    transport::session::Session,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use vmdeck_guest::wire::{Body, Decoder, Message, PIECE};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Stream,
    secret::Redactor,
};

/// How long the guest may take to go down once the connection to it was cut by that.
const GOES_DOWN: Duration = Duration::from_secs(30);
/// How long a command that nobody wants any more may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Most bytes of output that may wait for a stand-in which does not take it.
const WAITING: usize = 64 << 20;
/// Most bytes of a request.
const REQUEST: u64 = 4 << 20;
/// Characters of a command and its input in the list of commands.
const NOTED: usize = 2000;

/// What is known of the commands so far.
#[derive(Debug, Default)]
pub(super) struct RelayState {
    /// Whether a command asked the guest to end or to start anew.
    closing: AtomicBool,
    steps: AtomicU32,
    last_status: Mutex<Option<i32>>,
    lost: watch::Sender<Option<Fault>>,
}

impl RelayState {
    /// Returns whether a command asked the guest to end or to start anew.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Returns how many commands there were that did something else than ending the guest.
    pub(super) fn steps(&self) -> u32 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns the status of the command that began last; `None` = it has not ended, or only copied something.
    pub(super) fn last_status(&self) -> Option<i32> {
        *self.last_status.lock()
    }

    /// Returns the place of the fault with which the connection was lost, once it is.
    pub(super) fn lost(&self) -> watch::Receiver<Option<Fault>> {
        self.lost.subscribe()
    }
}

/// Serves stand-ins for one host program.
pub(super) struct Relay<'a> {
    pub(super) session: &'a dyn Session,
    pub(super) machine: &'a LeasedMachine,
    pub(super) state: &'a RelayState,
    pub(super) redactor: &'a Redactor,
    /// Where each command is written down with its status.
    pub(super) log: Option<Mutex<File>>,
}

impl Relay<'_> {
    /// Serves whoever connects, until it is dropped.
    pub(super) async fn serve(&self, listener: &UnixListener) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => open.push(self.serve_one(stream)),
                    // Too many open files, for one: what is open goes on.
                    Err(_) => clock::sleep(Duration::from_millis(50)).await,
                },
                Some(()) = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn serve_one(&self, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut client = RelayClient { read: BufReader::new(read), decoder: Decoder::new(PIECE) };
        let Some(request) = client.request().await else { return };
        let start = clock::now();
        *self.state.last_status.lock() = None;
        let mut wish = EndWish::of(&request.command, !request.copies);
        let body = if self.machine.is_lost() {
            // Nobody answers there; what was asked for before is done.
            Some(Body::Refused("the guest is down".into()))
        } else {
            self.run(&request, &mut client, &mut wish, &mut write).await
        };
        if !wish.is_for_an_end() {
            self.state.steps.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(body) = body {
            self.note(&request, wish.seen(), &body, clock::ms_since(start));
            let _ = write.write_all(&Message { id: 0, body }.to_bytes()).await;
        }
    }

    /// Runs a command; `None` = whoever wanted it is gone.
    async fn run(
        &self,
        request: &StandInRequest,
        client: &mut RelayClient,
        wish: &mut EndWish,
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> Option<Body> {
        self.heed(wish);
        let (input, pipe) = match pipe() {
            Ok(both) => both,
            Err(e) => return Some(Body::Refused(format!("cannot make a pipe: {e}"))),
        };
        let command =
            RemoteCommand { stdin: Input::Pipe(Arc::new(input)), ..RemoteCommand::new(request.script.clone()) };
        let (out, mut pieces) = mpsc::unbounded_channel();
        let (token, waiting) = (CancellationToken::new(), AtomicUsize::new(0));
        let work = async {
            // It goes with the command, and so what sends ends as well.
            let mut sink = |stream: Stream, bytes: &[u8]| {
                if waiting.fetch_add(bytes.len(), Ordering::Relaxed) > WAITING {
                    // It cannot be held up here, and must not fill the memory.
                    return token.cancel();
                }
                let bytes = bytes.to_vec();
                let _ = out.send(if stream == Stream::Stderr { Body::Stderr(bytes) } else { Body::Stdout(bytes) });
            };
            let result = self.session.run(&command, &mut sink, &token).await;
            drop(out);
            result
        };
        let send = async {
            while let Some(body) = pieces.recv().await {
                let length = if let Body::Stdout(bytes) | Body::Stderr(bytes) = &body { bytes.len() } else { 0 };
                if write.write_all(&Message { id: 0, body }.to_bytes()).await.is_err() {
                    break;
                }
                waiting.fetch_sub(length, Ordering::Relaxed);
            }
        };
        let result = {
            let both = async { tokio::join!(work, send).0 };
            tokio::pin!(both);
            tokio::select! {
                result = &mut both => result,
                () = client.pass_input(pipe, wish, || self.state.closing.store(true, Ordering::Relaxed)) => {
                    token.cancel();
                    let _ = clock::within(GRACE, both).await;
                    return None;
                }
            }
        };
        if token.is_cancelled() {
            return Some(Body::Refused("its output is not taken".into()));
        }
        let (body, why) = self.answer(result, wish).await;
        if let Some(why) = why {
            let _ = write.write_all(&Message { id: 0, body: Body::Stderr(format!("{why}\n").into()) }.to_bytes()).await;
        }
        Some(body)
    }

    fn heed(&self, wish: &EndWish) {
        if wish.is_for_an_end() {
            self.state.closing.store(true, Ordering::Relaxed);
        }
    }

    /// Returns what a stand-in is told of its command's end, and what it writes besides.
    async fn answer(&self, result: Result<CommandExit>, wish: &EndWish) -> (Body, Option<String>) {
        match result {
            Ok(CommandExit::Code(LOST)) => {
                let why = format!(
                    "vmdeck: the command's own status is {LOST}, which would be a lost connection; {FAILED} is returned"
                );
                (Body::Exited(FAILED.into()), Some(why))
            }
            Ok(CommandExit::Code(code)) => (Body::Exited(code), None),
            Ok(CommandExit::Signal(name)) => {
                let number =
                    (1..64).find(|number| CommandExit::of_signal(*number) == CommandExit::Signal(name.clone()));
                (Body::Killed(number.unwrap_or(9)), None)
            }
            // It never began, and the guest is well.
            Err(fault) if fault.blame() == Blame::User => (Body::Refused(fault.to_string()), None),
            // That the guest went down as this very command wanted is no loss.
            Err(_) if wish.is_for_an_end() && self.goes_down().await => (Body::Exited(0), None),
            // One that still ran when another ended the guest is over; that is no loss either.
            Err(_) if self.state.is_closing() && self.goes_down().await => {
                (Body::Exited(FAILED.into()), Some("vmdeck: the guest was shut down meanwhile".to_owned()))
            }
            Err(fault) => {
                let text = self.redactor.text(&fault.to_string());
                self.state.lost.send_if_modified(|now| {
                    let first = now.is_none();
                    now.get_or_insert(fault);
                    first
                });
                (Body::Exited(LOST), Some(text))
            }
        }
    }

    /// Waits for an end that the guest brought about itself.
    async fn goes_down(&self) -> bool {
        let mut exit = self.machine.exit.clone();
        let down = async {
            tokio::select! {
                how = recv_once(&mut exit) => how.is_some_and(|how| how.is_orderly()),
                () = self.machine.restarted() => true,
            }
        };
        clock::within(GOES_DOWN, down).await.unwrap_or(false)
    }

    /// Writes a command down with its status.
    fn note(&self, request: &StandInRequest, input: &str, body: &Body, took_ms: u64) {
        let status = match body {
            Body::Exited(code) => Some(*code),
            Body::Killed(signal) => Some(128 + signal),
            _ => None,
        };
        if !request.copies {
            *self.state.last_status.lock() = status;
        }
        let Some(log) = &self.log else { return };
        let start = |text: &str| self.redactor.text(&text.chars().take(NOTED).collect::<String>());
        let line = serde_json::json!({
            "command": start(&request.command),
            "input": start(input),
            "status": status,
            "took_ms": took_ms,
        });
        // The record's own loss is noticed where the command's output is written.
        let _ = writeln!(log.lock(), "{line}");
    }
}

/// Returns the two ends of a pipe for a command's input.
fn pipe() -> std::io::Result<(File, UnixStream)> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((File::from(OwnedFd::from(theirs)), UnixStream::from_std(ours)?))
}

/// Whoever wants a command.
struct RelayClient {
    read: BufReader<OwnedReadHalf>,
    decoder: Decoder,
}

impl RelayClient {
    /// Returns what is asked for; `None` = nothing that makes sense.
    async fn request(&mut self) -> Option<StandInRequest> {
        let mut line = Vec::new();
        (&mut self.read).take(REQUEST).read_until(b'\n', &mut line).await.ok()?;
        serde_json::from_slice(&line).ok()
    }

    /// Returns the next message; `None` = there is none, or it makes no sense.
    async fn next(&mut self) -> Option<Body> {
        let mut buffer = vec![0; PIECE];
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Some(message.body),
                Ok(None) => {}
                Err(_) => return None,
            }
            match self.read.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.decoder.feed(&buffer[..length]),
            }
        }
    }

    /// Passes the input on; returns when the client is gone. `ends` is called where the input wants the guest to end.
    async fn pass_input(&mut self, pipe: UnixStream, wish: &mut EndWish, ends: impl Fn()) {
        let mut pipe = Some(pipe);
        while let Some(body) = self.next().await {
            match (body, &mut pipe) {
                (Body::Input(bytes), Some(open)) => {
                    wish.read(&bytes);
                    if wish.is_for_an_end() {
                        ends();
                    }
                    // A command that does not read its input is no error.
                    let _ = open.write_all(&bytes).await;
                }
                (Body::InputEnd, _) => {
                    wish.end();
                    if wish.is_for_an_end() {
                        ends();
                    }
                    pipe = None;
                }
                _ => {}
            }
        }
    }
}
