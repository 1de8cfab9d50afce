//! One SSH connection: commands, their cancellation, and a person's terminal.
//!
//! Every channel is drained to its end whatever the receiver does; a channel that ends without a status is a fault.

use super::hostkey::Checker;
use crate::{
    command::frame::{self, FrameMark, FrameMarks, LoginShell, Sudo, nonce},
    command::{CommandExit, Input, OutputSink, RemoteCommand},
    host::{clock, files},
    transport::{
        session::{CommandRunner, FileTransfer, NoTerminal, RemoteTerminal, Session, Shell, TerminalStreams},
        tar_transfer::TarTransfer,
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Sig, client};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    guest::Guest,
    secret::Secret,
};

/// The word of the transport in the config.
pub(in crate::transport) const KIND: &str = "ssh";
/// How long ending a command's processes may take; the script itself allows 2 s between SIGTERM and SIGKILL.
const KILL: Duration = Duration::from_secs(6);
/// How long the channel of a command that was ended may stay open.
const GRACE: Duration = Duration::from_secs(1);
/// How long a server may take to free the session of a command that was ended, before another one is opened.
const FREE: Duration = Duration::from_secs(5);
/// Pause between two attempts to open a session.
const FREE_PAUSE: Duration = Duration::from_millis(100);
/// Piece of a file that is sent at a time: smaller ones are slower (measured).
const PIECE: usize = 256 * 1024;

type Write = Arc<ChannelWriteHalf<client::Msg>>;

pub(super) struct SshSession {
    handle: client::Handle<Checker>,
    shell: LoginShell,
    sudo: Option<Secret>,
    peer: SocketAddr,
}

/// Returns the first round trip: proves that commands run here, and learns which shell takes them.
pub(super) async fn open(handle: client::Handle<Checker>, guest: &Guest, peer: SocketAddr) -> Result<SshSession> {
    let mut session = SshSession { handle, shell: LoginShell::Other, sudo: guest.sudo.clone(), peer };
    let nonce = nonce();
    let answer = session.raw(&format!("echo {nonce} $0")).await?;
    match answer.lines().find_map(|l| l.trim().strip_prefix(&nonce)) {
        Some(shell) => session.shell = LoginShell::of(shell),
        // A shell without `$0`; a POSIX one behind it must answer.
        None => session.prove_shell().await?,
    }
    Ok(session)
}

fn lost(error: impl std::fmt::Display) -> Fault {
    Fault::infra("cannot finish the command")
        .because(format!("the connection was lost: {error}"))
        .hint("the guest may have rebooted, run out of memory, or lost its network; see its console log")
}

impl SshSession {
    /// Runs a command that does nothing; an error means that no POSIX shell takes commands here.
    async fn prove_shell(&self) -> Result<()> {
        let mut nowhere = |_: Stream, _: &[u8]| {};
        match self.run_command(&RemoteCommand::new(":"), &mut nowhere, &CancellationToken::new()).await? {
            CommandExit::Code(0) => Ok(()),
            exit => Err(Fault::infra("cannot run `:`").because(exit)),
        }
    }

    async fn channel(&self) -> Result<(ChannelReadHalf, Write)> {
        let start = clock::now();
        let channel = loop {
            match self.handle.channel_open_session().await {
                Ok(channel) => break channel,
                // The server still counts the session of a command that was ended; nothing was run here yet.
                Err(russh::Error::ChannelOpenFailure(_)) if start.elapsed() < FREE => clock::sleep(FREE_PAUSE).await,
                Err(e) => return Err(lost(e)),
            }
        };
        let (read, write) = channel.split();
        Ok((read, Arc::new(write)))
    }

    /// Returns what a command line prints, as the login shell understands it.
    async fn raw(&self, line: &str) -> Result<String> {
        let (mut read, write) = self.channel().await?;
        write.exec(true, line).await.map_err(lost)?;
        let mut out = Vec::new();
        while let Some(message) = read.wait().await {
            if let ChannelMsg::Data { data } = message {
                let room = 4096usize.saturating_sub(out.len());
                out.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    async fn run_command(
        &self,
        exec: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        let nonce = nonce();
        let sudo = if self.sudo.is_some() { Sudo::Asking } else { Sudo::Silent };
        let text = frame::command(exec, &nonce, self.shell, sudo);
        // Before the command: one that would read nothing instead must not run at all.
        let input = open_input(&exec.stdin)?;
        let (mut read, write) = self.channel().await?;
        write.exec(true, text).await.map_err(lost)?;
        let unread = Arc::default();
        let mut command =
            RunningCommand { marks: FrameMarks::new(&nonce), pid: None, asked: 0, exit: None, write, input, unread };
        let cancelled = loop {
            tokio::select! {
                message = read.wait() => match message {
                    Some(message) => self.take(message, &mut command, sink).await?,
                    None => break false,
                },
                () = cancel.cancelled() => break true,
            }
        };
        if !cancelled {
            return self.outcome(command, exec);
        }
        self.end(&mut command, &mut read, exec).await;
        Err(Fault::cancelled("cannot finish the command").because("it was cancelled"))
    }

    async fn take(&self, message: ChannelMsg, command: &mut RunningCommand, sink: &mut dyn OutputSink) -> Result<()> {
        match message {
            ChannelMsg::Data { data } => sink.write(Stream::Stdout, &data),
            ChannelMsg::ExtendedData { data, ext: 1 } if command.pid.is_some() => sink.write(Stream::Stderr, &data),
            ChannelMsg::ExtendedData { data, ext: 1 } => match command.marks.feed(&data) {
                Some(FrameMark::Asked) => self.answer_sudo(command).await?,
                Some(FrameMark::Running { pid, rest }) => {
                    command.pid = Some(pid);
                    if !rest.is_empty() {
                        sink.write(Stream::Stderr, &rest);
                    }
                    let input = command.input.take();
                    tokio::spawn(send_input(Arc::clone(&command.write), input, Arc::clone(&command.unread)));
                }
                None => {}
            },
            ChannelMsg::ExitStatus { exit_status } => {
                command.exit.get_or_insert(CommandExit::Code(i32::try_from(exit_status).unwrap_or(i32::MAX)));
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                command.exit.get_or_insert(CommandExit::Signal(format!("{signal_name:?}")));
            }
            ChannelMsg::Failure => {
                return Err(Fault::infra("cannot run a command").because("the guest's sshd refused to run it"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn answer_sudo(&self, command: &mut RunningCommand) -> Result<()> {
        command.asked += 1;
        match (&self.sudo, command.asked) {
            (Some(password), 1) => {
                command.write.data_bytes(format!("{}\n", password.expose()).into_bytes()).await.map_err(lost)
            }
            // Asked again: it was wrong. No further word, so that the account is not locked.
            _ => command.write.eof().await.map_err(lost),
        }
    }

    fn outcome(&self, command: RunningCommand, exec: &RemoteCommand) -> Result<CommandExit> {
        if let Some(why) = command.unread.get() {
            return Err(Fault::infra("cannot send the command its input").because(why));
        }
        if command.pid.is_some() {
            return command.exit.ok_or_else(|| {
                if self.handle.is_closed() {
                    lost("it was closed by the guest")
                } else {
                    lost("the command's channel ended without an exit status")
                }
            });
        }
        let complaint = command.marks.complaint();
        let Some(exit) = command.exit else { return Err(lost("it ended before the command was started")) };
        Err(frame::refused(exec, &exit, &complaint, command.asked))
    }

    /// Ends a cancelled command and everything that it started.
    async fn end(&self, command: &mut RunningCommand, read: &mut ChannelReadHalf, exec: &RemoteCommand) {
        match command.pid {
            // Not by the server's own signal: it ends the parent alone, and then the children cannot be found any more.
            Some(pid) => {
                let kill = RemoteCommand { run_as: exec.run_as, ..RemoteCommand::new(frame::kill_tree(pid)) };
                let never = CancellationToken::new();
                let mut nowhere = |_: Stream, _: &[u8]| {};
                let _ = clock::within(KILL, Box::pin(self.run_command(&kill, &mut nowhere, &never))).await;
            }
            None => drop(command.write.signal(Sig::TERM).await),
        }
        let ended = async { while read.wait().await.is_some() {} };
        let _ = clock::within(GRACE, ended).await;
        let _ = command.write.close().await;
    }

    async fn serve(&self, mut terminal: TerminalStreams) -> Result<CommandExit> {
        let (mut read, write) = self.channel().await?;
        let (columns, rows) = *terminal.size.borrow_and_update();
        write.request_pty(false, &terminal.kind, columns.into(), rows.into(), 0, 0, &[]).await.map_err(lost)?;
        match &terminal.command {
            Some(command) => write.exec(true, command.as_str()).await,
            None => write.request_shell(true).await,
        }
        .map_err(lost)?;
        let mut exit = None;
        loop {
            tokio::select! {
                message = read.wait() => match message {
                    Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => {
                        let _ = terminal.output.send(Bytes::copy_from_slice(&data)).await;
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => exit = Some(CommandExit::Code(i32::try_from(exit_status).unwrap_or(i32::MAX))),
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => exit = Some(CommandExit::Signal(format!("{signal_name:?}"))),
                    Some(_) => {}
                    None => return exit.ok_or_else(|| lost("the shell ended without a status")),
                },
                Some(typed) = terminal.input.recv() => write.data_bytes(typed).await.map_err(lost)?,
                Ok(()) = terminal.size.changed() => {
                    let (columns, rows) = *terminal.size.borrow_and_update();
                    write.window_change(columns.into(), rows.into(), 0, 0).await.map_err(lost)?;
                }
            }
        }
    }
}

/// A command on its way.
struct RunningCommand {
    marks: FrameMarks,
    pid: Option<u32>,
    asked: u32,
    exit: Option<CommandExit>,
    write: Write,
    /// What it reads, until that is being sent.
    input: Option<tokio::fs::File>,
    /// Why its input could not be read to the end.
    unread: Arc<OnceLock<String>>,
}

fn open_input(input: &Input) -> Result<Option<tokio::fs::File>> {
    let Input::File(path) = input else { return Ok(None) };
    let cannot = |e| Fault::user(format!("cannot read `{}`, which the command is to read", path.display())).because(e);
    files::open_input(path).map(|file| Some(file.into())).map_err(cannot)
}

/// Sends the input and closes it; a command that does not read it is no error. Input that cannot be read to its end
/// closes the channel instead: half a file must not look like a whole one.
async fn send_input(write: Write, input: Option<tokio::fs::File>, unread: Arc<OnceLock<String>>) {
    if let Some(mut file) = input {
        loop {
            let mut piece = bytes::BytesMut::with_capacity(PIECE);
            let mut ended = false;
            while piece.len() < PIECE && !ended {
                match file.read_buf(&mut piece).await {
                    Ok(n) => ended = n == 0,
                    Err(e) => {
                        let _ = unread.set(e.to_string());
                        let _ = write.close().await;
                        return;
                    }
                }
            }
            if piece.is_empty() || write.data_bytes(piece.freeze()).await.is_err() {
                break;
            }
        }
    }
    let _ = write.eof().await;
}

impl CommandRunner for SshSession {
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

impl RemoteTerminal for SshSession {
    fn attach(&self, streams: TerminalStreams) -> BoxFuture<'_, Result<CommandExit>> {
        Box::pin(self.serve(streams))
    }
}

impl Session for SshSession {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn files(&self) -> Box<dyn FileTransfer + '_> {
        Box::new(TarTransfer { runner: self, copy_out: None })
    }

    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal> {
        Ok(self)
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            // A guest that is down already cannot be told, and need not be.
            let _ = self.handle.disconnect(Disconnect::ByApplication, "", "en").await;
            Ok(())
        })
    }
}
