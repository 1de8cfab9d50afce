//! A shell of WinRM: commands in it, one after the other or at once, and their cancellation.
//!
//! What is lost once a command may have begun is a fault, never an exit and never a reason to run it again.
//!
//! For PowerShell, which is slow to start, the next command is started before anybody knows what it will be: it waits for its text on
//! its standard input, and is ready when it is wanted. A POSIX shell gets its text at once, where it has nothing to read.

use super::{
    client::WinrmClient,
    error::{WinrmError, code},
    soap::{OVERHEAD, OutputPiece, ShellMessage},
};
use crate::{
    command::{
        Collected, CommandExit, OutputSink, RemoteCommand, Shell,
        frame::{self, Frame, Sudo},
        input_feed::InputFeed,
        kill,
        login_shell::STATUS,
        own_output::OwnOutput,
        powershell,
    },
    host::clock,
    transport::{
        file_transfer,
        session::{CommandRunner, FileTransfer, NoTerminal, RemoteTerminal, Session},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
};

/// The word of the transport in the config.
pub(in crate::transport) const KIND: &str = "winrm";
/// How long a first command may take: PowerShell starts slowly, and slower in emulated guests.
const FIRST: Duration = Duration::from_mins(1);
/// Bytes of input in one message: as base64 they fit into the 500 KiB that Windows takes by itself.
const PIECE: usize = (super::soap::ENVELOPE - 2 * OVERHEAD) / 4 * 3;
/// The least of them that is tried where the guest takes less.
const PIECE_MIN: usize = 3 * 1024;
/// Most bytes that are kept of what a probe says.
const SAID: usize = 64 * 1024;

/// A session with a shell of WinRM.
pub(super) struct WinrmSession {
    service: Arc<ShellService>,
    /// The language of its commands.
    language: Shell,
    /// The next command, started and waiting, or about to be.
    ready: Mutex<Option<JoinHandle<Option<StartedCommand>>>>,
    /// How many bytes of input go into one message.
    piece: AtomicUsize,
    peer: SocketAddr,
}

/// The service and our shell in it.
struct ShellService {
    client: WinrmClient,
    /// The shell's id; Windows ends a shell that was idle for long, and then there is another one.
    shell: Mutex<String>,
}

/// Makes a shell and finds out by a first command which language it has.
pub(super) async fn open(client: WinrmClient, peer: SocketAddr) -> Result<WinrmSession, WinrmError> {
    let shell = Mutex::new(client.create().await?);
    let mut session = WinrmSession {
        service: Arc::new(ShellService { client, shell }),
        language: Shell::PowerShell,
        ready: Mutex::default(),
        piece: AtomicUsize::new(PIECE),
        peer,
    };
    let late = || WinrmError::Late(FIRST.as_secs());
    session.language = clock::within(FIRST, session.probe()).await.unwrap_or_else(|| Err(late()))?;
    Ok(session)
}

/// A command that waits for its text, or has it.
struct StartedCommand {
    shell: String,
    id: String,
    frame: Frame,
}

/// Why the input of a command did not get there.
enum InputError {
    /// The command was gone before it took any of it.
    Gone,
    Unreadable(std::io::Error),
    Winrm(WinrmError),
}

impl ShellService {
    /// Starts a command line, whose text comes later. A shell that has gone meanwhile is made anew: nothing was begun in it.
    async fn start(&self, frame: Frame, line: &str) -> Result<StartedCommand, WinrmError> {
        let shell = self.shell.lock().clone();
        match self.client.command(&shell, line).await {
            Err(error) if error.is(code::NOT_FOUND) => {
                let shell = self.client.create().await?;
                self.shell.lock().clone_from(&shell);
                let id = self.client.command(&shell, line).await?;
                Ok(StartedCommand { shell, id, frame })
            }
            id => Ok(StartedCommand { shell, id: id?, frame }),
        }
    }
}

impl WinrmSession {
    /// Asks what reads the text of an encoded command: only PowerShell knows where its home is.
    async fn probe(&self) -> Result<Shell, WinrmError> {
        let nonce = frame::nonce();
        let line = powershell::line(&format!("echo \"[shell-{nonce} $PSHOME]\"\nexit {STATUS}"));
        let command = self.service.start(Frame::new(), &line).await?;
        let nothing = InputFeed::new(Vec::new(), None, Vec::new(), Shell::Posix);
        if let Err(InputError::Winrm(error)) = self.send(&command, Some(nothing)).await {
            return Err(error);
        }
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let status = loop {
            let piece = self.service.client.receive(&command.shell, &command.id).await?;
            for (is_error, data) in piece.output {
                let kept = if is_error { &mut complaint } else { &mut said };
                kept.extend_from_slice(&data[..data.len().min(SAID.saturating_sub(kept.len()))]);
            }
            if let Some(end) = piece.end {
                break end;
            }
        };
        self.acknowledge(&command).await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let Some((_, rest)) = said.split_once(&format!("[shell-{nonce} ")) else {
            let words = vmdeck_model::text::one_line(&String::from_utf8_lossy(&complaint));
            return Err(WinrmError::Nonsense(format!("a first command says nothing that is known: {words}")));
        };
        if status != STATUS {
            return Err(WinrmError::Nonsense(format!("a command that ended with {STATUS} came back as {status}")));
        }
        Ok(if rest.trim_start().starts_with(']') { Shell::Posix } else { Shell::PowerShell })
    }

    /// Sends a command its input to the end. One that does not read it is no error.
    async fn send(&self, command: &StartedCommand, input: Option<InputFeed>) -> Result<(), InputError> {
        let Some(mut input) = input else { return Ok(()) };
        let (mut has_begun, mut largest) = (false, 0);
        loop {
            let most = self.piece.load(Ordering::Relaxed);
            let (data, is_last) = input.next(most).await.map_err(InputError::Unreadable)?;
            // A piece that is too large for the guest was not looked at, and goes again in smaller ones.
            let mut rest = &data[..];
            loop {
                let most = self.piece.load(Ordering::Relaxed);
                let (piece, after) = rest.split_at(rest.len().min(most));
                let message =
                    ShellMessage::Send { command: &command.id, data: piece, is_last: is_last && after.is_empty() };
                match self.service.client.tell(&command.shell, &message).await {
                    Ok(()) => {
                        has_begun = true;
                        largest = largest.max(piece.len());
                        if after.is_empty() {
                            break;
                        }
                        rest = after;
                    }
                    // One that fits was taken already: whoever says so now wants to see it twice.
                    Err(WinrmError::TooLarge) if most > PIECE_MIN && piece.len() > largest => {
                        self.piece.store((most / 2 / 3 * 3).max(PIECE_MIN), Ordering::Relaxed);
                    }
                    Err(error) if error.is(code::PIPE_CLOSED) || error.is(code::NOT_FOUND) => {
                        return if has_begun { Ok(()) } else { Err(InputError::Gone) };
                    }
                    Err(error) => return Err(InputError::Winrm(error)),
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Tells the service that the end of a command was seen: until then it counts as one of those that run.
    async fn acknowledge(&self, command: &StartedCommand) -> Result<(), WinrmError> {
        match self.service.client.tell(&command.shell, &ShellMessage::Terminate(&command.id)).await {
            Err(error) if error.is(code::NOT_FOUND) => Ok(()),
            told => told,
        }
    }

    /// Returns the line that starts a command.
    fn line(&self, frame: &Frame, run_as: RunAs) -> String {
        powershell::line(&match self.language {
            Shell::Posix => frame.starter(run_as, Sudo::Silent),
            Shell::PowerShell => powershell::starter(&frame.nonce),
        })
    }

    /// Starts the next command of a PowerShell, whatever it will be, unless it is started already.
    fn get_ready(&self) {
        let mut ready = self.ready.lock();
        if ready.is_none() && self.language == Shell::PowerShell {
            let (service, frame) = (Arc::clone(&self.service), Frame::new());
            let line = self.line(&frame, RunAs::User);
            *ready = Some(tokio::spawn(async move { service.start(frame, &line).await.ok() }));
        }
    }

    /// Returns the command that was started before, if there is one.
    async fn take_ready(&self) -> Option<StartedCommand> {
        let ready = self.ready.lock().take()?;
        ready.await.ok().flatten()
    }

    async fn run_command(
        &self,
        exec: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        let cannot_start = |error: WinrmError| {
            let fault = Fault::infra("cannot start the command").because(&error);
            match error.remedy() {
                Some(hint) => fault.hint(hint),
                None => fault,
            }
        };
        let cancelled = || Fault::cancelled("cannot start the command").because("it was cancelled");
        let frame = Frame::new();
        if let Some(text) = self.whole(&frame, exec) {
            let line = powershell::line(&text);
            let command = tokio::select! {
                command = self.service.start(frame, &line) => command.map_err(cannot_start)?,
                () = cancel.cancelled() => return Err(cancelled()),
            };
            let ran = self.run_in(command, exec, None, sink, cancel).await?;
            return ran.ok_or_else(|| Fault::bug("a command without input did not take it"));
        }
        let waiting = tokio::select! {
            waiting = self.take_ready() => waiting,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        if let Some(command) = waiting
            && let Some(exit) = self.run_with_input(command, exec, sink, cancel).await?
        {
            return Ok(exit);
        }
        // None was ready, or it was gone before it had its text.
        let line = self.line(&frame, exec.run_as);
        let command = tokio::select! {
            command = self.service.start(frame, &line) => command.map_err(cannot_start)?,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        match self.run_with_input(command, exec, sink, cancel).await? {
            Some(exit) => Ok(exit),
            None => Err(Fault::infra("cannot start the command").because("it ended before it had its text")),
        }
    }

    /// Returns the text of a command that can be given at once. A service that has asked for another logon may have been made to
    /// by somebody: from then on a command that is started twice must not begin twice.
    fn whole(&self, frame: &Frame, exec: &RemoteCommand) -> Option<String> {
        let may = self.language == Shell::Posix && exec.stdin.is_empty() && !self.service.client.has_sent_twice();
        may.then(|| frame.whole(exec)).flatten()
    }

    /// Gives a command its text and its input and follows it to its end; `None` = it was gone before it had that, and nothing has
    /// begun.
    async fn run_with_input(
        &self,
        command: StartedCommand,
        exec: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<CommandExit>> {
        let frame = &command.frame;
        // Before the command: one that would read nothing instead must not run at all.
        let file = exec.stdin.open().map_err(|e| exec.stdin.unreadable(&e))?.map(tokio::fs::File::from);
        let (head, tail) = match self.language {
            Shell::Posix => (frame.payload(exec), String::new()),
            Shell::PowerShell => (powershell::payload(frame, exec), powershell::last_line(&frame.nonce)),
        };
        let input = InputFeed::new(head.into_bytes(), file, tail.into_bytes(), self.language);
        self.run_in(command, exec, Some(input), sink, cancel).await
    }

    /// Follows a command to its end, while it gets its input; `None` = it was gone before it had any.
    async fn run_in(
        &self,
        command: StartedCommand,
        exec: &RemoteCommand,
        input: Option<InputFeed>,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<CommandExit>> {
        let frame = &command.frame;
        // Whoever reads much may write much before it has read all.
        let is_large = input.as_ref().is_some_and(InputFeed::has_file);
        let mut is_sent = input.is_none();
        let mut own = OwnOutput::new(&frame.nonce, self.language);
        let ended = {
            let mut sending = Box::pin(self.send(&command, input));
            let mut receiving = Box::pin(self.service.client.receive(&command.shell, &command.id));
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break None,
                    sent = &mut sending, if !is_sent => match sent {
                        Ok(()) => {
                            is_sent = true;
                            self.get_ready();
                        }
                        Err(InputError::Gone) => return Ok(None),
                        Err(InputError::Winrm(error)) => return Err(error.lost()),
                        Err(InputError::Unreadable(e)) => {
                            let _ = self.acknowledge(&command).await;
                            return Err(exec.stdin.unreadable(&e));
                        }
                    },
                    piece = &mut receiving, if is_sent || is_large => {
                        let OutputPiece { output, end } = piece.map_err(|error| error.lost())?;
                        for (is_error, data) in output {
                            let stream = if is_error { Stream::Stderr } else { Stream::Stdout };
                            own.pass(stream, &data, sink);
                        }
                        match end {
                            Some(end) => break Some(end),
                            None => receiving = Box::pin(self.service.client.receive(&command.shell, &command.id)),
                        }
                    }
                }
            }
        };
        let Some(status) = ended else {
            let ended = self.end(&own, frame, exec).await;
            let terminated = clock::within(kill::LIMIT, self.acknowledge(&command)).await;
            ended?;
            if own.pid().is_none() && !matches!(terminated, Some(Ok(()))) {
                return Err(Fault::infra("cannot end the command in the guest").because("it may be about to begin"));
            }
            return Err(Fault::cancelled("cannot finish the command").because("it was cancelled"));
        };
        let rest = own.finish();
        if !rest.is_empty() {
            sink.write(Stream::Stderr, &rest);
        }
        self.acknowledge(&command).await.map_err(|error| error.lost())?;
        let exit = CommandExit::Code(status);
        if own.pid().is_some() {
            return Ok(Some(exit));
        }
        Err(frame::refused(exec, &exit, &own.complaint(), 0))
    }

    /// Ends a cancelled command and everything that it started; the error says that something may still run.
    async fn end(&self, own: &OwnOutput, frame: &Frame, exec: &RemoteCommand) -> Result<()> {
        // One that cannot be named yet is ended by the service.
        let Some(text) = self.language.kill_text(frame, own.pid()) else { return Ok(()) };
        let command = RemoteCommand { run_as: exec.run_as, ..RemoteCommand::new(text) };
        let (mut said, never) = (Collected::default(), CancellationToken::new());
        let ended =
            clock::within(self.language.kill_limit(), Box::pin(self.run_command(&command, &mut said, &never))).await;
        frame::ended(ended, &said)
    }
}

impl CommandRunner for WinrmSession {
    fn shell(&self) -> Shell {
        self.language
    }

    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(self.run_command(command, sink, cancel))
    }
}

impl Session for WinrmSession {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn files(&self) -> Box<dyn FileTransfer + '_> {
        file_transfer::by_commands(self, None)
    }

    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal> {
        Err(NoTerminal::default())
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if let Some(ready) = self.ready.lock().take() {
                ready.abort();
            }
            // It ends whatever still runs in it. A guest that is down already cannot be told, and need not be.
            let shell = self.service.shell.lock().clone();
            let _ = self.service.client.tell(&shell, &ShellMessage::Delete).await;
            Ok(())
        })
    }
}
