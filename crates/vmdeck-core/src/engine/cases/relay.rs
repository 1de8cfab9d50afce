//! Serves the stand-ins of `ssh` and `scp` that a host program calls: each of their commands goes over the open session.
//!
//! They speak the messages of `vmdeck_guest::wire` over a socket, one command a connection. What the stand-ins read of their own
//! command line is their matter; here a command is a text and an input.

use crate::{
    command::{CommandExit, Input, RemoteCommand},
    engine::machine::{LeasedMachine, recv_once},
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
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use vmdeck_guest::wire::{Body, CommandRequest, Decoder, Message, PIECE};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Stream,
    secret::Redactor,
};

/// Bytes of a command's text and input that are looked at for a wish to end the guest.
const LOOKED_AT: usize = 64 * 1024;
/// How long the guest may take to go down once the connection to it was cut by that.
const GOES_DOWN: Duration = Duration::from_secs(30);
/// How long a command that nobody wants any more may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// What `ssh` says of a lost connection.
const LOST: i32 = 255;
/// What stands for a command's own status of that number: scripts take it for a lost connection.
const OWN_LOST: i32 = 254;
/// The words of a command that end the guest or start it anew.
const ENDS: [&str; 5] = ["shutdown", "poweroff", "reboot", "halt", "kexec"];

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

    /// Returns how many commands there were.
    pub(super) fn steps(&self) -> u32 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns the status of the command that ended last.
    pub(super) fn last_status(&self) -> Option<i32> {
        *self.last_status.lock()
    }

    /// Returns the place of the fault with which the connection was lost, once it is.
    pub(super) fn lost(&self) -> watch::Receiver<Option<Fault>> {
        self.lost.subscribe()
    }

    fn look_at(&self, text: &str) {
        if asks_for_end(text) {
            self.closing.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns whether a text of a shell has a command that ends the guest or starts it anew.
fn asks_for_end(text: &str) -> bool {
    let words = text.split(|c: char| c.is_whitespace() || "\"'();|&<>`${}".contains(c));
    words.filter_map(|word| word.rsplit('/').next()).any(|word| ENDS.contains(&word))
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
        let mut client = RelayClient { read, decoder: Decoder::new(PIECE), seen: String::new() };
        let Some(Body::Run(request)) = client.next().await else { return };
        let start = clock::now();
        self.state.steps.fetch_add(1, Ordering::Relaxed);
        let (body, script) = self.run(*request, &mut client, &mut write).await;
        if let Some(body) = body {
            self.note(&script, &client.seen, &body, clock::ms_since(start));
            let _ = write.write_all(&Message { id: 0, body }.to_bytes()).await;
        }
    }

    /// Runs a command; `None` = whoever wanted it is gone. Returns its text as well.
    async fn run(
        &self,
        request: CommandRequest,
        client: &mut RelayClient,
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> (Option<Body>, String) {
        let script = request.script.unwrap_or_default();
        self.state.look_at(&script);
        let (input, pipe) = match pipe() {
            Ok(both) => both,
            Err(e) => return (Some(Body::Refused(format!("cannot make a pipe: {e}"))), script),
        };
        let command = RemoteCommand { stdin: Input::Pipe(Arc::new(input)), ..RemoteCommand::new(script.clone()) };
        let (out, mut pieces) = mpsc::unbounded_channel();
        let token = CancellationToken::new();
        let work = async {
            // It goes with the command, and so what sends ends as well.
            let mut sink = move |stream: Stream, bytes: &[u8]| {
                let bytes = bytes.to_vec();
                let _ = out.send(if stream == Stream::Stderr { Body::Stderr(bytes) } else { Body::Stdout(bytes) });
            };
            self.session.run(&command, &mut sink, &token).await
        };
        let send = async {
            while let Some(body) = pieces.recv().await {
                if write.write_all(&Message { id: 0, body }.to_bytes()).await.is_err() {
                    break;
                }
            }
        };
        let both = async { tokio::join!(work, send).0 };
        tokio::pin!(both);
        let result = tokio::select! {
            result = &mut both => result,
            () = client.pass_input(pipe, self.state) => {
                token.cancel();
                let _ = clock::within(GRACE, both).await;
                return (None, script);
            }
        };
        (Some(self.answer(result).await), script)
    }

    /// Returns what a stand-in is told of its command's end.
    async fn answer(&self, result: Result<CommandExit>) -> Body {
        match result {
            Ok(CommandExit::Code(LOST)) => Body::Exited(OWN_LOST),
            Ok(CommandExit::Code(code)) => Body::Exited(code),
            Ok(CommandExit::Signal(name)) => {
                let number =
                    (1..64).find(|number| CommandExit::of_signal(*number) == CommandExit::Signal(name.clone()));
                Body::Killed(number.unwrap_or(9))
            }
            // It never began, and the guest is well.
            Err(fault) if fault.blame() == Blame::User => Body::Refused(fault.to_string()),
            // That the guest went down as it was told to is no loss.
            Err(_) if self.state.is_closing() && self.goes_down().await => Body::Exited(0),
            Err(fault) => {
                let text = self.redactor.text(&fault.to_string());
                self.state.lost.send_if_modified(|now| {
                    let first = now.is_none();
                    now.get_or_insert(fault);
                    first
                });
                Body::Refused(text)
            }
        }
    }

    async fn goes_down(&self) -> bool {
        let mut exit = self.machine.exit.clone();
        let down = async {
            tokio::select! {
                _ = recv_once(&mut exit) => {}
                () = self.machine.restarted() => {}
            }
        };
        clock::within(GOES_DOWN, down).await.is_some()
    }

    /// Writes a command down with its status.
    fn note(&self, script: &str, input: &str, body: &Body, took_ms: u64) {
        let status = match body {
            Body::Exited(code) => Some(*code),
            Body::Killed(signal) => Some(128 + signal),
            _ => None,
        };
        *self.state.last_status.lock() = status;
        let Some(log) = &self.log else { return };
        let line = serde_json::json!({
            "command": self.redactor.text(script),
            "input": self.redactor.text(input.chars().take(2000).collect::<String>().as_str()),
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
    read: OwnedReadHalf,
    decoder: Decoder,
    /// The beginning of the input.
    seen: String,
}

impl RelayClient {
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

    /// Passes the input on; returns when the client is gone.
    async fn pass_input(&mut self, pipe: UnixStream, state: &RelayState) {
        let mut pipe = Some(pipe);
        while let Some(body) = self.next().await {
            match (body, &mut pipe) {
                (Body::Input(bytes), Some(open)) => {
                    let room = LOOKED_AT.saturating_sub(self.seen.len());
                    if room > 0 {
                        self.seen.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(room)]));
                        state.look_at(&self.seen);
                    }
                    // A command that does not read its input is no error.
                    let _ = open.write_all(&bytes).await;
                }
                (Body::InputEnd, _) => pipe = None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_end_the_guest_is_a_word_of_its_own() {
        for (text, ends) in [
            ("shutdown now", true),
            ("if true; then /sbin/reboot -f; fi", true),
            ("systemctl reboot --reboot-argument=now", true),
            ("(kexec -e)", true),
            ("./reboot-test.sh", false),
            ("./shutdown.sh", false),
            ("test_print_trc \"rebooting\"", false),
            ("", false),
        ] {
            assert_eq!(asks_for_end(text), ends, "{text}");
        }
    }
}
