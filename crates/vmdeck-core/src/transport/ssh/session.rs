//! One SSH connection: commands, their cancellation, and a person's terminal.
//!
//! Every channel is drained to its end whatever the receiver does; a channel that ends without a status is a fault.

use super::{
    hostkey::Checker,
    running::{ExitSeen, REST, RunningCommand, Write, abandon},
};
use crate::{
    command::{
        Collected, CommandExit, OutputSink, RemoteCommand, Shell,
        frame::{self, Frame, GO, Sudo},
        input_feed::InputFeed,
        login_shell::{LoginShell, STATUS, ShellProbe},
        marks::FrameMark,
        own_output::OwnOutput,
        powershell,
    },
    host::clock,
    transport::{
        file_transfer,
        session::{CommandRunner, FileTransfer, NoTerminal, RemoteTerminal, Session, TerminalStreams},
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use russh::{ChannelMsg, ChannelReadHalf, Disconnect, client};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    guest::Os,
    secret::Secret,
    suite::RunAs,
};

/// The word of the transport in the config.
pub(in crate::transport) const KIND: &str = "ssh";
/// How long a first command may take, login shell and its files included; emulated guests are slow.
const FIRST: Duration = Duration::from_secs(12);
/// The same for PowerShell, which starts slowly.
const FIRST_POWERSHELL: Duration = Duration::from_secs(45);
/// What stands around a command line that starts a PowerShell: nothing for `cmd` and POSIX shells; a PowerShell reads the input itself,
/// and would make 1 of every status but 0.
const AROUND_POWERSHELL: [(&str, &str); 2] = [("", ""), ("$input | ", "; exit $LASTEXITCODE")];
/// What to do about a Windows whose login shell can do nothing for us.
const WINDOWS_SHELL: &str = "the login shell must run `powershell.exe`; `cmd.exe` does: remove the value `DefaultShell` of HKLM:\\SOFTWARE\\OpenSSH in the guest";
/// How long a login shell may take to show what it is.
const PROBE: Duration = Duration::from_secs(5);
/// Most that is read of what it says meanwhile, in bytes.
const PROBE_MAX: usize = 64 * 1024;
/// How long a login shell may be silent before the command is typed to it.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a server may take to free the session of a command that was ended, before another one is opened.
const FREE: Duration = Duration::from_secs(5);
/// Pause between two attempts to open a session.
const FREE_PAUSE: Duration = Duration::from_millis(100);

/// What the login shell was proven to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoginLanguage {
    /// It starts a POSIX shell, or is one.
    Posix(LoginShell),
    /// It starts a PowerShell, and passes input and status on where these texts stand around the command.
    PowerShell(&'static str, &'static str),
}

pub(super) struct SshSession {
    handle: client::Handle<Checker>,
    /// The logins on the way, which carry this one.
    jumps: Vec<client::Handle<Checker>>,
    login: LoginLanguage,
    /// Whether commands are typed to whatever the login shell's own files start.
    by_stdin: AtomicBool,
    sudo: Option<Secret>,
    /// Where the server is; unset: behind others.
    peer: Option<SocketAddr>,
}

/// Returns a session in which a first command has run: a server may take a login and no commands.
pub(super) async fn open(
    handle: client::Handle<Checker>,
    jumps: Vec<client::Handle<Checker>>,
    os: Os,
    sudo: Option<Secret>,
    peer: Option<SocketAddr>,
) -> Result<SshSession> {
    let (login, by_stdin) = (LoginLanguage::Posix(LoginShell::Unknown), AtomicBool::new(false));
    let mut session = SshSession { handle, jumps, login, by_stdin, sudo, peer };
    if os == Os::Windows {
        for (before, after) in AROUND_POWERSHELL {
            session.login = LoginLanguage::PowerShell(before, after);
            if session.runs_a_first_command(FIRST_POWERSHELL).await.is_ok() {
                return Ok(session);
            }
        }
        // Whatever a Windows is logged in to may be a POSIX shell, too.
        session.login = LoginLanguage::Posix(LoginShell::Unknown);
    }
    // A shell whose files start something that waits says nothing at all.
    let shell = clock::within(PROBE, session.probe()).await.unwrap_or(Ok(LoginShell::Unknown))?;
    session.login = LoginLanguage::Posix(shell);
    if shell == LoginShell::Unknown {
        session.runs_a_first_command(FIRST).await.map_err(|fault| match os {
            Os::Windows => fault.hint(WINDOWS_SHELL),
            Os::Linux | Os::Macos => fault,
        })?;
    }
    Ok(session)
}

/// Keeps the first bytes of what a login shell says.
fn keep(kept: &mut Vec<u8>, data: &[u8]) {
    let room = PROBE_MAX.saturating_sub(kept.len());
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

/// Returns the end of the program that a message tells of, if it tells of one.
fn exit_of(message: &ChannelMsg) -> Option<CommandExit> {
    match message {
        ChannelMsg::ExitStatus { exit_status } => {
            Some(CommandExit::Code(i32::try_from(*exit_status).unwrap_or(i32::MAX)))
        }
        ChannelMsg::ExitSignal { signal_name, .. } => Some(CommandExit::Signal(format!("{signal_name:?}"))),
        _ => None,
    }
}

/// How a command is begun.
struct Opening {
    /// The line for the login shell.
    line: String,
    /// What the command reads first.
    payload: String,
    /// What it reads last.
    last: String,
    /// Whether it may be sent before anybody has said that it is waited for.
    is_read_at_once: bool,
    /// Whether the line may be typed to what the login shell's own files have started.
    may_be_typed: bool,
}

fn lost(error: impl std::fmt::Display) -> Fault {
    Fault::infra("cannot finish the command")
        .because(format!("the connection was lost: {error}"))
        .hint("the guest may have rebooted, run out of memory, or lost its network; see its console log")
}

impl SshSession {
    /// Runs a first command, whose status must come back as it is.
    async fn runs_a_first_command(&self, limit: Duration) -> Result<()> {
        let mut nowhere = |_: Stream, _: &[u8]| {};
        let (first, never) = (RemoteCommand::new(format!("exit {STATUS}")), CancellationToken::new());
        match clock::within(limit, self.run_command(&first, &mut nowhere, &never)).await {
            Some(Ok(CommandExit::Code(STATUS))) => Ok(()),
            // With such a shell every case would end as it likes.
            Some(Ok(exit)) => Err(Fault::user("cannot trust the exit status of a command")
                .because(format!("a command that ended with {STATUS} came back as {exit}"))
                .hint("the account's shell, or the forced command of its server, must pass the status on")),
            Some(Err(fault)) => Err(fault),
            None => Err(Fault::infra("cannot run a first command")
                .because(format!("nothing answers within {} s", limit.as_secs()))
                .hint("the login shell's own files (.bashrc, .profile) may start another program")),
        }
    }

    /// Finds out what the login shell does with text.
    async fn probe(&self) -> Result<LoginShell> {
        let probe = ShellProbe::new(frame::nonce());
        let (mut read, write) = self.channel().await?;
        write.exec(true, probe.text()).await.map_err(lost)?;
        // It reads nothing: what its files start sees an end.
        let _ = write.eof().await;
        let (mut out, mut err, mut exit, mut ended) = (Vec::new(), Vec::new(), None, None);
        // To the server's own end of the channel: one version of dropbear dies of a command that comes before it.
        loop {
            let message = tokio::select! {
                message = read.wait() => message,
                // What its files left in the background may hold the channel open.
                () = clock::sleep_until(ended.unwrap_or_else(clock::now)), if ended.is_some() => None,
            };
            match message {
                Some(ChannelMsg::Data { data }) => keep(&mut out, &data),
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => keep(&mut err, &data),
                Some(other) => {
                    if let Some(told) = exit_of(&other) {
                        exit = Some(told);
                        ended = Some(clock::now() + REST);
                    }
                }
                None => break,
            }
        }
        abandon(write, read);
        Ok(probe.read(&out, &err, exit.as_ref()))
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

    /// Returns how a command is begun.
    fn opening(&self, frame: &Frame, exec: &RemoteCommand) -> Opening {
        let shell = match self.login {
            LoginLanguage::PowerShell(before, after) => {
                return Opening {
                    line: format!("{before}{}{after}", powershell::line(&powershell::starter(&frame.nonce))),
                    payload: powershell::payload(frame, exec),
                    last: powershell::last_line(&frame.nonce),
                    is_read_at_once: true,
                    may_be_typed: false,
                };
            }
            LoginLanguage::Posix(shell) => shell,
        };
        let sudo = if self.sudo.is_some() { Sudo::Asking } else { Sudo::Silent };
        match frame.direct(exec, shell, sudo) {
            Some(line) => Opening {
                line,
                payload: GO.to_owned(),
                last: String::new(),
                is_read_at_once: false,
                may_be_typed: false,
            },
            None => Opening {
                line: frame.starter(exec.run_as, sudo),
                payload: frame.payload(exec),
                last: String::new(),
                is_read_at_once: false,
                // sudo would take it for a password.
                may_be_typed: exec.run_as == RunAs::User,
            },
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
        let (language, opening) = (self.shell(), self.opening(&frame, exec));
        let (mut read, write) = self.channel().await?;
        write.exec(true, opening.line.as_str()).await.map_err(lost)?;
        let mut command = RunningCommand {
            own: OwnOutput::new(&frame.nonce, language),
            payload: Some(InputFeed::new(opening.payload.into_bytes(), input, opening.last.into_bytes(), language)),
            asked: 0,
            ended: None,
            write,
            unread: Arc::default(),
        };
        if opening.is_read_at_once {
            command.send_payload();
        }
        let mut may_type = opening.may_be_typed;
        let silence = if self.by_stdin.load(Ordering::Relaxed) { Duration::ZERO } else { SILENCE };
        let silent = clock::sleep(silence);
        tokio::pin!(silent);
        let cancelled = loop {
            let until = command.ended.as_ref().map(ExitSeen::until);
            tokio::select! {
                message = read.wait() => match message {
                    Some(message) => self.take(message, &mut command, sink).await?,
                    None => break false,
                },
                () = cancel.cancelled() => break true,
                // Something that the command left running holds its outputs open.
                () = clock::sleep_until(until.unwrap_or_else(clock::now)), if until.is_some() => break false,
                () = &mut silent, if may_type && command.payload.is_some() => {
                    may_type = false;
                    // The login shell's own files may have started another shell, which reads commands.
                    let _ = command.write.data_bytes(format!("{}\n", opening.line).into_bytes()).await;
                }
            }
        };
        if opening.may_be_typed && !may_type && command.payload.is_none() {
            self.by_stdin.store(true, Ordering::Relaxed);
        }
        if cancelled {
            self.end(&command, &frame, exec).await?;
            let begun = command.own.pid().is_some();
            abandon(command.write, read);
            return Err(if begun {
                Fault::cancelled("cannot finish the command").because("it was cancelled")
            } else {
                Fault::user("cannot start the command")
                    .because("it had not begun when its time was over")
                    .hint("the login shell's own files may take long or start another program, or sudo may wait")
            });
        }
        let rest = command.own.finish();
        if !rest.is_empty() {
            sink.write(Stream::Stderr, &rest);
        }
        let write = Arc::clone(&command.write);
        let outcome = self.outcome(command, exec);
        abandon(write, read);
        outcome
    }

    async fn take(&self, message: ChannelMsg, command: &mut RunningCommand, sink: &mut dyn OutputSink) -> Result<()> {
        match message {
            ChannelMsg::Data { data } => {
                let own = command.own.stdout(&data);
                if !own.is_empty() {
                    sink.write(Stream::Stdout, &own);
                }
                command.touch();
            }
            ChannelMsg::ExtendedData { data, ext: 1 } => {
                self.take_error(&data, command, sink).await?;
                command.touch();
            }
            ChannelMsg::Failure => {
                return Err(Fault::infra("cannot run a command").because("the guest's sshd refused to run it"));
            }
            other => {
                if let Some(exit) = exit_of(&other) {
                    command.exited(exit);
                }
            }
        }
        Ok(())
    }

    async fn take_error(&self, text: &[u8], command: &mut RunningCommand, sink: &mut dyn OutputSink) -> Result<()> {
        let mut marks = Vec::new();
        let own = command.own.stderr(text, |mark| marks.push(mark)).into_owned();
        if !own.is_empty() {
            sink.write(Stream::Stderr, &own);
        }
        for mark in marks {
            match mark {
                FrameMark::Asked => self.answer_sudo(command).await?,
                FrameMark::Ready => command.send_payload(),
                FrameMark::Running { .. } => {}
            }
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
        let (exit, other) = command.ended.map_or((None, None), |ended| (Some(ended.exit), ended.other));
        if let (Some(exit), Some(other)) = (&exit, other) {
            return Err(Fault::infra("cannot tell how the command ended")
                .because(format!("the guest's sshd says {exit}, and then {other}"))
                .hint("such a server is broken or hostile; nothing that it says is a verdict"));
        }
        if command.own.pid().is_some() {
            return exit.ok_or_else(|| {
                if self.handle.is_closed() {
                    lost("it was closed by the guest")
                } else {
                    lost("the command's channel ended without an exit status")
                }
            });
        }
        let complaint = command.own.complaint();
        match exit {
            Some(exit) => Err(frame::refused(exec, &exit, &complaint, command.asked)),
            None if complaint.is_empty() => Err(lost("it ended before the command said that it had begun")),
            None => {
                Err(lost(format!("it ended before the command said that it had begun; the guest says: {complaint}")))
            }
        }
    }

    /// Ends a cancelled command and everything that it started; the error says that something may still run.
    async fn end(&self, command: &RunningCommand, frame: &Frame, exec: &RemoteCommand) -> Result<()> {
        if command.payload.is_some() {
            // The command was never sent.
            return Ok(());
        }
        if self.shell() == Shell::PowerShell {
            // Without its last word it never begins; once it has that, nobody knows it before it says so.
            let Some(pid) = command.own.pid() else {
                return Err(Fault::infra("cannot end the command in the guest").because("it may be about to begin"));
            };
            return self.kill(exec.run_as, &powershell::kill_text(pid)).await;
        }
        // Not by the server's own signal: it ends the parent alone, and then the children cannot be found any more.
        let text = frame.kill_text(command.own.pid());
        match self.kill(exec.run_as, &text).await {
            // What sudo started belongs to another user.
            Err(fault) if exec.run_as == RunAs::User => self.kill(RunAs::Root, &text).await.map_err(|_| fault),
            ended => ended,
        }
    }

    async fn kill(&self, run_as: RunAs, text: &str) -> Result<()> {
        let (command, never) = (RemoteCommand { run_as, ..RemoteCommand::new(text) }, CancellationToken::new());
        let mut said = Collected::default();
        let ended =
            clock::within(self.shell().kill_limit(), Box::pin(self.run_command(&command, &mut said, &never))).await;
        frame::ended(ended, &said)
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
                    Some(other) => exit = exit_of(&other).or(exit),
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

impl CommandRunner for SshSession {
    fn shell(&self) -> Shell {
        match self.login {
            LoginLanguage::Posix(_) => Shell::Posix,
            LoginLanguage::PowerShell(..) => Shell::PowerShell,
        }
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
        file_transfer::by_commands(self, None)
    }

    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal> {
        Ok(self)
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            // A guest that is down already cannot be told, and need not be.
            for handle in std::iter::once(&self.handle).chain(self.jumps.iter().rev()) {
                let _ = handle.disconnect(Disconnect::ByApplication, "", "en").await;
            }
            Ok(())
        })
    }
}
