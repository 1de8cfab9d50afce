//! Commands and terminals over the connection to an agent.

use super::link::{CommandSender, Link};
use crate::{
    command::{
        Collected, CommandExit, OutputSink, RemoteCommand, Shell,
        frame::{self, Frame},
        kill,
        own_output::OwnOutput,
    },
    host::clock,
    transport::{
        file_transfer,
        session::{CommandRunner, FileTransfer, NoTerminal, RemoteTerminal, Session, TerminalStreams},
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::{
    io::AsyncReadExt,
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use vmdeck_guest::wire::{Body, CommandRequest, PIECE, Terminal, User, WINDOW};
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
};

/// The word of the transport in the config.
pub(in crate::transport) const KIND: &str = "serial";
/// A session with an agent.
pub(super) struct SerialSession {
    link: Link,
    user: User,
}

fn lost() -> Fault {
    Fault::infra("cannot finish the command")
        .because("the connection to the agent in the guest was lost")
        .hint("the guest may have crashed, been switched off, or run out of memory; see its console log")
}

impl SerialSession {
    pub(super) fn new(link: Link, user: User) -> Self {
        Self { link, user }
    }

    fn user(&self, run_as: RunAs) -> User {
        match run_as {
            RunAs::User => self.user.clone(),
            RunAs::Root => User::Root,
        }
    }

    async fn run_command(
        &self,
        exec: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        let frame = Frame::new();
        // Before the command: one that would read nothing instead must not run at all.
        let input = exec.stdin.open().map_err(|e| exec.stdin.unreadable(&e))?.map(tokio::fs::File::from);
        let mut command = self.link.begin();
        command.sender.send(Body::Run(Box::new(CommandRequest {
            script: Some(frame.body(exec)),
            user: self.user(exec.run_as),
            terminal: exec.terminal.then(Terminal::default),
        })));
        let window = Arc::new(Semaphore::new(WINDOW));
        let (broken, mut unread) = mpsc::channel::<String>(1);
        match input {
            Some(file) => {
                tokio::spawn(send_input(command.sender.clone(), file, Arc::clone(&window), broken));
            }
            // A terminal has no end of its input.
            None if exec.terminal => {}
            None => command.sender.send(Body::InputEnd),
        }
        let mut own = OwnOutput::new(&frame.nonce, Shell::Posix);
        let end = loop {
            let body = tokio::select! {
                body = command.next() => body,
                Some(why) = unread.recv() => {
                    return Err(Fault::infra("cannot send the command its input").because(why));
                }
                () = cancel.cancelled() => {
                    self.end(&own, &frame, exec).await?;
                    return Err(Fault::cancelled("cannot finish the command").because("it was cancelled"));
                }
            };
            match body {
                Some(Body::Stdout(bytes)) => own.pass(Stream::Stdout, &bytes, sink),
                Some(Body::Stderr(bytes)) => own.pass(Stream::Stderr, &bytes, sink),
                Some(Body::InputTaken(bytes)) => window.add_permits(bytes as usize),
                other => break other,
            }
        };
        let exit = exit_of(end)?;
        // A terminal has no standard error of its own: the mark is in its output.
        if own.pid().is_some() || exec.terminal {
            return Ok(exit);
        }
        Err(frame::refused(exec, &exit, &own.complaint(), 0))
    }

    /// Ends a cancelled command and everything that it started; the error says that something may still run.
    async fn end(&self, own: &OwnOutput, frame: &Frame, exec: &RemoteCommand) -> Result<()> {
        let command = RemoteCommand { run_as: exec.run_as, ..RemoteCommand::new(frame.kill_text(own.pid())) };
        let (mut said, never) = (Collected::default(), CancellationToken::new());
        let ended = clock::within(kill::LIMIT, Box::pin(self.run_command(&command, &mut said, &never))).await;
        frame::ended(ended, &said)
    }

    async fn serve(&self, mut terminal: TerminalStreams) -> Result<CommandExit> {
        let (columns, rows) = *terminal.size.borrow_and_update();
        let mut command = self.link.begin();
        command.sender.send(Body::Run(Box::new(CommandRequest {
            script: terminal.command.take(),
            user: self.user.clone(),
            terminal: Some(Terminal { kind: terminal.kind.clone(), columns, rows }),
        })));
        loop {
            tokio::select! {
                body = command.next() => match body {
                    Some(Body::Stdout(bytes) | Body::Stderr(bytes)) => {
                        let _ = terminal.output.send(Bytes::from(bytes)).await;
                    }
                    Some(Body::InputTaken(_)) => {}
                    end => return exit_of(end),
                },
                // What a person types never fills the window.
                Some(typed) = terminal.input.recv() => command.sender.send(Body::Input(typed.to_vec())),
                Ok(()) = terminal.size.changed() => {
                    let (columns, rows) = *terminal.size.borrow_and_update();
                    command.sender.send(Body::Resize(columns, rows));
                }
            }
        }
    }
}

/// Returns how a command ended, by its last message.
fn exit_of(end: Option<Body>) -> Result<CommandExit> {
    match end {
        Some(Body::Exited(code)) => Ok(CommandExit::Code(code)),
        Some(Body::Killed(signal)) => Ok(CommandExit::of_signal(signal)),
        Some(Body::Refused(reason)) => Err(Fault::infra("cannot start the command in the guest").because(reason)),
        Some(_) | None => Err(lost()),
    }
}

/// Sends a command its input, as fast as it reads. Input that cannot be read to its end kills the command: half a file must not
/// look like a whole one.
async fn send_input(
    sender: CommandSender,
    mut file: tokio::fs::File,
    window: Arc<Semaphore>,
    broken: mpsc::Sender<String>,
) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        match file.read_buf(&mut piece).await {
            Ok(0) => return sender.send(Body::InputEnd),
            Ok(length) => {
                let wanted = u32::try_from(length).unwrap_or(u32::MAX);
                let Ok(room) = window.acquire_many(wanted).await else { return };
                // The agent gives it back.
                room.forget();
                sender.send(Body::Input(piece));
            }
            // Who waits for the command drops it, and that kills it.
            Err(e) => return drop(broken.try_send(e.to_string())),
        }
    }
}

impl CommandRunner for SerialSession {
    fn shell(&self) -> Shell {
        Shell::Posix
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

impl RemoteTerminal for SerialSession {
    fn attach(&self, streams: TerminalStreams) -> BoxFuture<'_, Result<CommandExit>> {
        Box::pin(self.serve(streams))
    }
}

impl Session for SerialSession {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn files(&self) -> Box<dyn FileTransfer + '_> {
        file_transfer::by_commands(self, None)
    }

    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal> {
        Ok(self)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
