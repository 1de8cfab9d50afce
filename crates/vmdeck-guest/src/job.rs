//! One command of the agent: its process, its input, and its outputs, each passed on as it comes.

use super::{
    clock,
    command::{self, NEW_ROOT},
    host_line::HostLine,
    wire::{Body, CommandRequest, PIECE, Terminal},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process_group},
    pty::{ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::ExitStatusExt},
    },
    process::{Child, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// The longest text that is given to the shell as a word, in bytes: Linux takes 128 KiB for one.
const WORD_MAX: usize = 96 * 1024;
/// How long further output is waited for, after the exit or after the last piece: what the command left running may hold its
/// outputs open.
const REST: Duration = Duration::from_millis(300);
/// How long it is waited for in all.
const REST_MAX: Duration = Duration::from_secs(5);

/// A command that was started. Dropping it kills it with its whole session's first group, and says nothing more about it.
pub(super) struct AgentJob {
    group: Option<Pid>,
    input: Option<mpsc::Sender<Vec<u8>>>,
    terminal: Option<File>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Whether the process was collected: its number may be another's by now.
    collected: AtomicBool,
    /// Whether everything was said.
    ended: AtomicBool,
    /// Whether nobody wants to hear about it.
    abandoned: AtomicBool,
}

impl AgentJob {
    /// Starts a command.
    pub(super) fn start(id: u32, mut request: CommandRequest, host: HostLine) -> io::Result<Self> {
        let spooled = spool(id, &mut request)?;
        let terminal = request.terminal.as_ref().map(open_terminal).transpose()?;
        let mut command = command::starter(&request);
        if let Some((_, line)) = &terminal {
            command.stdin(line.try_clone()?).stdout(line.try_clone()?).stderr(line.try_clone()?);
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn()?;
        // The command's ends of its pipes and its terminal are the command's alone.
        drop(command);
        let terminal = terminal.map(|(ours, _)| File::from(ours));
        let (stdin, outputs) = match &terminal {
            Some(terminal) => {
                (Some(terminal.try_clone()?), vec![CommandOutput { file: terminal.try_clone()?, is_error: false }])
            }
            None => (
                child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))),
                [
                    child.stdout.take().map(|pipe| CommandOutput { file: OwnedFd::from(pipe).into(), is_error: false }),
                    child.stderr.take().map(|pipe| CommandOutput { file: OwnedFd::from(pipe).into(), is_error: true }),
                ]
                .into_iter()
                .flatten()
                .collect(),
            ),
        };
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let state = Arc::new(State::default());
        let (sender, pieces) = mpsc::channel();
        if let Some(stdin) = stdin {
            let host = host.clone();
            thread::spawn(move || pass_input(id, stdin, &pieces, &host));
        }
        let (seen, told) = (Arc::clone(&state), Arc::clone(&state));
        let (exit, exited) = exit_pipe(child, seen)?;
        thread::spawn(move || {
            pass_output(id, outputs, &exit, &exited, &host, &told);
            if let Some(path) = spooled {
                let _ = fs::remove_file(path);
            }
        });
        Ok(Self { group, input: Some(sender), terminal, state })
    }

    /// Takes a message for this command.
    pub(super) fn take(&mut self, body: Body) {
        match (body, &self.input, &self.terminal) {
            // Not more than the host may send ahead is ever waiting.
            (Body::Input(bytes), Some(input), _) => drop(input.send(bytes)),
            (Body::InputEnd, ..) => self.input = None,
            (Body::Resize(columns, rows), _, Some(terminal)) => drop(tcsetwinsize(terminal, size(columns, rows))),
            _ => {}
        }
    }

    /// Returns whether everything about it was said.
    pub(super) fn has_ended(&self) -> bool {
        self.state.ended.load(Ordering::SeqCst)
    }
}

impl Drop for AgentJob {
    fn drop(&mut self) {
        self.state.abandoned.store(true, Ordering::SeqCst);
        if let Some(group) = self.group.filter(|_| !self.state.collected.load(Ordering::SeqCst)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Puts a text that is too long for a word into a file, which the shell reads instead; returns its path.
fn spool(id: u32, request: &mut CommandRequest) -> io::Result<Option<String>> {
    let Some(script) = request.script.as_mut().filter(|script| script.len() > WORD_MAX) else { return Ok(None) };
    let name = format!("/run/vmdeck-{id}.sh");
    let path = format!("{NEW_ROOT}{name}");
    fs::write(&path, &script)?;
    // Its user is known only in the new root; what it holds is nothing that others may not see.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    *script = format!(". {name}");
    Ok(Some(path))
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Opens a terminal of the new root: our end, and the command's.
fn open_terminal(wanted: &Terminal) -> io::Result<(OwnedFd, OwnedFd)> {
    let open = |path: &str| {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(format!("{NEW_ROOT}{path}"), flags, Mode::empty())
    };
    let ours = open("/dev/pts/ptmx")?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = open(&name.to_string_lossy())?;
    tcsetwinsize(&ours, size(wanted.columns, wanted.rows))?;
    Ok((ours, theirs))
}

/// Writes what the host sends to the command, and tells how much of it was taken: a command that does not read stops its own
/// input and no other.
fn pass_input(id: u32, mut to: File, pieces: &mpsc::Receiver<Vec<u8>>, host: &HostLine) {
    let mut is_open = true;
    for piece in pieces {
        // A command that has closed its input does not want the rest; the host may stop or go on sending.
        is_open = is_open && to.write_all(&piece).is_ok();
        host.send(id, Body::InputTaken(u32::try_from(piece.len()).unwrap_or(u32::MAX)));
    }
}

/// Collects a child in a thread of its own; a pipe that ends tells that it has, and the channel how.
fn exit_pipe(mut child: Child, state: Arc<State>) -> io::Result<(File, mpsc::Receiver<io::Result<ExitStatus>>)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (sender, exited) = mpsc::channel();
    thread::spawn(move || {
        let status = child.wait();
        state.collected.store(true, Ordering::SeqCst);
        let _ = sender.send(status);
        drop(theirs);
    });
    Ok((ours.into(), exited))
}

/// One output of a command.
struct CommandOutput {
    file: File,
    is_error: bool,
}

/// Passes on what the command writes, to its end; then says how it ended.
fn pass_output(
    id: u32,
    mut outputs: Vec<CommandOutput>,
    exit: &File,
    exited: &mpsc::Receiver<io::Result<ExitStatus>>,
    host: &HostLine,
    state: &State,
) {
    let say = |body: Body| {
        if !state.abandoned.load(Ordering::SeqCst) {
            host.send(id, body);
        }
    };
    let mut buffer = vec![0; PIECE];
    let mut status = None;
    // When the process ended, and when something was last written after that.
    let mut ended: Option<(Instant, Instant)> = None;
    while status.is_none() || !outputs.is_empty() {
        let rest = ended.map(|(first, last)| {
            let until = (last + REST).min(first + REST_MAX).saturating_duration_since(clock::now());
            Timespec { tv_sec: until.as_secs().cast_signed(), tv_nsec: until.subsec_nanos().into() }
        });
        let mut fds: Vec<PollFd<'_>> = outputs.iter().map(|out| PollFd::new(&out.file, PollFlags::IN)).collect();
        if status.is_none() {
            fds.push(PollFd::new(exit, PollFlags::IN));
        }
        let count = poll(&mut fds, rest.as_ref());
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        match count {
            // What still holds the outputs open is not the command.
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        }
        if status.is_none() && ready.last() == Some(&true) {
            status = exited.recv().ok();
            ended = Some((clock::now(), clock::now()));
        }
        let mut ready = ready.into_iter();
        outputs.retain_mut(|output| {
            if ready.next() != Some(true) {
                return true;
            }
            // The other end of a terminal that has no process any more is an error, and means the same.
            let length = output.file.read(&mut buffer).unwrap_or(0);
            if length > 0 {
                let bytes = buffer[..length].to_vec();
                say(if output.is_error { Body::Stderr(bytes) } else { Body::Stdout(bytes) });
                ended = ended.map(|(first, _)| (first, clock::now()));
            }
            length > 0
        });
    }
    // What it wrote to a share is on the host before the host hears of its end.
    rustix::fs::sync();
    say(match status {
        Some(Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => Body::Exited(code),
            (None, Some(signal)) => Body::Killed(signal),
            (None, None) => Body::Refused("its status is unknown".to_owned()),
        },
        _ => Body::Refused("its status cannot be had".to_owned()),
    });
    state.ended.store(true, Ordering::SeqCst);
}
