//! Commands by the daemon: a stream each for what a command reads and writes, and one that keeps it alive.
//!
//! Facts: an empty text message is the end of a stream. The daemon waits for whoever holds the output open, so that a case that leaves
//! a program behind would never end: our own end mark is what counts, and the daemon's status must agree where it tells one. A
//! folder that does not exist is ignored without a word, so that the command changes to it itself.

use super::{answer::status, client::LxdClient, error::LxdError, http::LxdStream, watch::WatchOutput};
use crate::{
    backend::{
        framed::{FrameDecoder, ProviderWords},
        guest_exec::GuestExec,
    },
    command::{
        Collected, CommandExit, OutputSink, RemoteCommand,
        frame::{self, Frame},
        kill::SURVIVORS,
        sh_quote,
    },
    host::clock,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use serde_json::{Value, json};
use std::{io, pin::pin, time::Duration};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
    text::one_line,
};

/// Longest text of a command in bytes: Linux takes an argument of 128 KiB.
const TEXT_MAX: usize = 120 * 1024;
/// How much is sent at a time, in bytes.
const PIECE: usize = 64 * 1024;
/// How long ending a command in the guest may take.
const KILL: Duration = Duration::from_secs(10);
/// How long the daemon's own status is waited for once the command has told its own.
const AGREES: Duration = Duration::from_millis(300);
/// How long it may take until it is known what became of a guest whose commands ended all at once.
const FATE: Duration = Duration::from_secs(8);
/// How long it may take to say how the instance is.
const LOOK: Duration = Duration::from_secs(5);

/// Runs commands in one instance.
#[derive(Clone, Debug)]
pub(super) struct LxdExec {
    client: LxdClient,
    instance: String,
    user: Option<String>,
    watched: WatchOutput,
}

/// A command that has been started.
struct ExecStreams {
    operation: String,
    input: LxdStream,
    out: LxdStream,
    err: LxdStream,
    /// The daemon kills the command when it closes.
    control: LxdStream,
}

impl LxdExec {
    /// Returns the power to run commands as this user; `None` = as root.
    pub(super) fn new(client: LxdClient, instance: String, user: Option<String>, watched: WatchOutput) -> Self {
        Self { client, instance, user, watched }
    }

    async fn start(&self, text: &str) -> Result<ExecStreams, LxdError> {
        let environment = json!({ "HOME": "/root", "USER": "root", "LOGNAME": "root" });
        let body = json!({
            "command": ["/bin/sh", "-c", text],
            "environment": environment,
            "wait-for-websocket": true,
            "interactive": false,
            "cwd": "/root",
        });
        let (operation, words) = self.client.open(&self.instance, "exec", &body).await?;
        let open = |of: &'static str| self.client.stream(&operation, &words, of);
        let (control, input, out, err) = tokio::try_join!(open("control"), open("0"), open("1"), open("2"))?;
        Ok(ExecStreams { operation, input, out, err, control })
    }

    /// Returns the whole text for the guest's shell: the daemon's commands are root's, and another user's are handed over.
    fn text(&self, frame: &Frame, asked: &RemoteCommand) -> String {
        let command = RemoteCommand { run_as: RunAs::User, ..asked.clone() };
        frame.framed_within(&command, |body| match (asked.run_as, &self.user) {
            (RunAs::User, Some(user)) => format!("exec su -s /bin/sh {} -c {}", sh_quote(user), sh_quote(&body)),
            _ => body,
        })
    }

    /// Runs a text to its end; `None` = it was cancelled, and may still run.
    async fn run_text(
        &self,
        text: &str,
        stdin: Option<tokio::fs::File>,
        decoder: &mut FrameDecoder<'_>,
        cancel: &CancellationToken,
    ) -> Result<Option<ExecEnd>> {
        let started = tokio::select! {
            started = self.start(text) => started,
            () = cancel.cancelled() => return Ok(None),
        };
        let ExecStreams { operation, mut input, mut out, mut err, control: _control } =
            started.map_err(|error| self.fault(&error.words(), true))?;
        // Beside the output: a command may write while it does not read.
        let mut feeding = pin!(feed(stdin, &mut input));
        let (mut is_fed, mut out_open, mut err_open) = (false, true, true);
        while (out_open || err_open) && !decoder.is_complete() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                message = out.next(), if out_open => out_open = take(message, Stream::Stdout, decoder),
                message = err.next(), if err_open => err_open = take(message, Stream::Stderr, decoder),
                fed = &mut feeding, if !is_fed => {
                    fed.map_err(|why| Fault::infra("cannot send the command its input").because(why))?;
                    is_fed = true;
                }
            }
        }
        let said = clock::within(AGREES, self.client.wait(&operation, AGREES)).await;
        Ok(Some(ExecEnd { status: said.and_then(status_of), was_complete: decoder.is_complete() }))
    }

    /// Ends a command with everything that it started, where something is left to end.
    async fn end_in_guest(&self, frame: &Frame, pid: Option<u32>) -> Result<()> {
        match self.client.glance(&self.instance).await {
            Ok(Some(instance)) if instance.status_code == status::RUNNING => {}
            // What does not run has no commands.
            Ok(_) => return Ok(()),
            Err(error) => return Err(self.fault(&error.words(), true)),
        }
        let kill = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(frame.kill_text(pid)) };
        let (frame, mut said) = (Frame::new(), Collected::default());
        let mut decoder = FrameDecoder::new(&frame.nonce, &mut said);
        let never = CancellationToken::new();
        self.run_text(&self.text(&frame, &kill), None, &mut decoder, &never).await?;
        match decoder.outcome(self, &kill)? {
            CommandExit::Code(SURVIVORS) => Err(frame::still_running(&String::from_utf8_lossy(&said.stdout))),
            _ => Ok(()),
        }
    }

    /// Returns how the instance is, for a message.
    async fn how_it_is(&self) -> String {
        let asked = clock::within(LOOK, self.client.glance(&self.instance)).await;
        match asked {
            Some(Ok(Some(now))) if now.status_code == status::RUNNING => String::new(),
            Some(Ok(Some(now))) if now.is_unreadable() => format!("its member `{}` is away", now.location),
            Some(Ok(Some(now))) => {
                format!("{} says that it is {}, on `{}`", self.client.flavour.name, now.status, now.location)
            }
            Some(Ok(None)) => format!("{} no longer has it", self.client.flavour.name),
            Some(Err(error)) => error.words(),
            None => format!("{} does not answer", self.client.flavour.name),
        }
    }
}

/// How a command ended, as the daemon sees it.
struct ExecEnd {
    /// The status; `None` = it told none in time.
    status: Option<i32>,
    /// Whether the command's own end was seen.
    was_complete: bool,
}

fn status_of(said: Result<Value, LxdError>) -> Option<i32> {
    said.ok()?["return"].as_i64().and_then(|status| i32::try_from(status).ok())
}

/// Passes a message on; returns whether more may come.
fn take(
    message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    stream: Stream,
    decoder: &mut FrameDecoder<'_>,
) -> bool {
    match message {
        Some(Ok(Message::Binary(bytes))) => {
            decoder.write(stream, &bytes);
            true
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => true,
        Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => false,
    }
}

/// Sends a file, and that it has ended. An error is one of the file, of which half must not look like the whole; that a command does
/// not read its input is none.
async fn feed(file: Option<tokio::fs::File>, to: &mut LxdStream) -> io::Result<()> {
    if let Some(mut file) = file {
        let mut piece = vec![0; PIECE];
        loop {
            let length = file.read(&mut piece).await?;
            if length == 0 {
                break;
            }
            if to.send(Message::binary(Bytes::copy_from_slice(&piece[..length]))).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = to.send(Message::text("")).await;
    Ok(())
}

impl ProviderWords for LxdExec {
    fn fault(&self, words: &str, before: bool) -> Fault {
        let words = one_line(words);
        let (what, silent) = if before {
            ("cannot run a command", "it ended before the command began")
        } else {
            ("cannot finish the command", "the instance or the connection to it ended without giving a reason")
        };
        Fault::infra(what).because(if words.is_empty() { silent } else { &words })
    }

    fn is_failure(&self, _: &str) -> bool {
        // Nothing but the command writes to its streams.
        false
    }
}

impl GuestExec for LxdExec {
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            let frame = Frame::new();
            let text = self.text(&frame, command);
            if text.len() > TEXT_MAX {
                return Err(Fault::user("cannot run the command")
                    .because(format!("its text has {} bytes, and {TEXT_MAX} are the most", text.len()))
                    .hint("put it into a file of the source, and run that")
                    .permanent());
            }
            // Before anything is begun: one that would read nothing instead must not run at all.
            let stdin = command.stdin.open().map_err(|e| command.stdin.unreadable(&e))?.map(tokio::fs::File::from);
            let (mut exit, mut restarts) = (self.watched.exit.subscribe(), self.watched.restarts.subscribe());
            let mut decoder = FrameDecoder::new(&frame.nonce, sink);
            let Some(ended) = self.run_text(&text, stdin, &mut decoder, cancel).await? else {
                let ended = Box::pin(clock::within(KILL, self.end_in_guest(&frame, decoder.pid()))).await;
                let late = || Err(Fault::infra("nothing answers"));
                // What may still run there would run beside whatever comes next.
                ended
                    .unwrap_or_else(late)
                    .map_err(|inner| Fault::infra("cannot end the command in the guest").caused_by(inner))?;
                return Err(Fault::cancelled("cannot finish the command").because("it was cancelled"));
            };
            let began = decoder.pid().is_some();
            let exit = match decoder.outcome(self, command) {
                Ok(exit) => exit,
                // It was refused, in words of the guest's own shell.
                Err(fault) if ended.was_complete || (!began && ended.status.is_some()) => return Err(fault),
                Err(fault) => {
                    // A guest that goes down ends its commands first, and the daemon tells of it some seconds later.
                    let fate = async {
                        tokio::select! {
                            _ = exit.wait_for(Option::is_some) => {}
                            _ = restarts.changed() => {}
                        }
                    };
                    let _ = clock::within(FATE, fate).await;
                    let how = self.how_it_is().await;
                    return Err(if how.is_empty() { fault } else { fault.caused_by(Fault::infra(how)) });
                }
            };
            match (exit.code(), ended.status) {
                (Some(own), Some(said)) if own != said => Err(self.fault(
                    &format!("the command says exit {own}, and {} says {said}", self.client.flavour.name),
                    false,
                )),
                _ => Ok(exit),
            }
        })
    }

    fn shell_hint(&self) -> Option<String> {
        let project = match self.client.place.project.as_str() {
            "default" => String::new(),
            project => format!(" --project {}", sh_quote(project)),
        };
        Some(format!("{} exec{project} {} -- su -", self.client.flavour.program, self.instance))
    }
}
