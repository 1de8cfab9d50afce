//! A hypervisor's own command-line tool: found, run within a limit, and used to run commands in its guests.
//!
//! What its words mean is its backend's matter. No exit status of such a tool is taken for the guest command's: the marks of
//! `command::frame` are.

use super::{
    child,
    contract::{MachineExit, note_exit},
    deps::BackendDeps,
};
use crate::{
    command::frame::{self, Frame},
    command::{
        CommandExit, OutputSink, RemoteCommand, Shell,
        kill::SURVIVORS,
        marks::{EndMark, StartMark},
        own_output::OwnOutput,
    },
    host::{
        clock, info,
        process::{Child, Output, Spawner, Spec, Streams},
    },
};
use futures_util::future::BoxFuture;
use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
    text::one_line,
};

/// How long ending a command in the guest may take.
const KILL: Duration = Duration::from_secs(10);
/// What is kept of a command's last words, for the message when its end is lost; bytes.
const LAST_WORDS: usize = 400;

/// A tool of this host.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    spawner: Spawner,
    program: PathBuf,
}

impl Tool {
    /// Looks where the config says, else on the search path, else in the usual places; the error names what was looked for.
    pub(super) fn find(deps: &BackendDeps, name: &str, usual: &[&str]) -> Result<Self, String> {
        let configured = deps.tools.get(name);
        let wanted = configured.map_or(name, String::as_str);
        let usual = usual.iter().filter(|_| configured.is_none());
        let program = info::find_program(wanted).or_else(|| usual.clone().find_map(|p| info::find_program(p)));
        let looked: Vec<String> = std::iter::once(wanted).chain(usual.copied()).map(|p| format!("`{p}`")).collect();
        match program {
            Some(program) => Ok(Self { spawner: deps.spawner.clone(), program }),
            None => Err(format!("none of these programs exists: {}", looked.join(", "))),
        }
    }

    /// Returns this exact program as a tool.
    pub(super) fn at(deps: &BackendDeps, program: &std::path::Path) -> Self {
        Self { spawner: deps.spawner.clone(), program: program.to_owned() }
    }

    /// Returns where it is.
    pub(super) fn program(&self) -> &std::path::Path {
        &self.program
    }

    fn spec<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Spec {
        Spec::new(&self.program).args(args)
    }

    /// Runs it to its end with nothing to read.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Result<Output> {
        self.run_with(args, Streams::piped_out(), limit).await
    }

    /// Returns the same with other streams, such as a file to read or to print to.
    pub(super) async fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        streams: Streams,
        limit: Duration,
    ) -> Result<Output> {
        let spec = self.spec(args);
        self.spawner.output_of(&spec, streams, limit).await.map_err(|e| self.failed(&spec).because(e))
    }

    /// Starts it with files for its two outputs; it keeps running when it is dropped, and when we die.
    pub(super) async fn start<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        stdout: std::fs::File,
        stderr: std::fs::File,
    ) -> Result<Child> {
        let spec = self.spec(args).outliving();
        let streams = Streams { stdin: Stdio::null(), stdout: stdout.into(), stderr: stderr.into() };
        self.spawner.spawn(&spec, streams).await.map_err(|e| self.failed(&spec).because(e))
    }

    fn failed(&self, spec: &Spec) -> Fault {
        let verb = spec.args.first().map(|word| format!(" {}", word.to_string_lossy())).unwrap_or_default();
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        Fault::infra(format!("cannot run `{name}{verb}`"))
    }
}

/// How a tool runs a command in one guest, and what its words mean.
pub(super) trait ExecTool: Send + Sync {
    /// Returns the tool.
    fn tool(&self) -> &Tool;
    /// Returns its arguments for this text of a POSIX shell.
    fn args(&self, text: &str) -> Vec<OsString>;
    /// Returns the command as it is to be run, where the guest's own rights ask for a change.
    fn adapt(&self, command: &RemoteCommand) -> RemoteCommand {
        command.clone()
    }
    /// Returns the whole text of a command as it is to be run, where the tool's own user is not the guest's.
    fn within(&self, _asked: &RemoteCommand, body: String) -> String {
        body
    }
    /// Returns who may end the processes of a command that runs as this user.
    fn killer(&self, run_as: RunAs) -> RunAs {
        run_as
    }
    /// Returns whether the machine is up; some tools start one that is not, only to end a command in it.
    fn is_up(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(true) })
    }
    /// Returns what the tool says when it did not do it: `before` the command began, or after.
    fn fault(&self, words: &str, before: bool) -> Fault;
    /// Returns whether these words after a command's end are a failure of the tool.
    fn is_failure(&self, words: &str) -> bool;
}

/// Runs one command in the guest. Nothing is ever sent twice: what has begun may have had its effect.
pub(super) async fn run_framed(
    exec_tool: &dyn ExecTool,
    command: &RemoteCommand,
    sink: &mut dyn OutputSink,
    cancel: &CancellationToken,
) -> Result<CommandExit> {
    let frame = Frame::new();
    let (asked, command) = (command, exec_tool.adapt(command));
    let text = frame.framed_within(&command, |body| exec_tool.within(asked, body));
    let tool = exec_tool.tool();
    let stdin = if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
    let spec = tool.spec(exec_tool.args(&text));
    let streams = Streams { stdin, ..Streams::piped_out() };
    let mut child = tool.spawner.spawn(&spec, streams).await.map_err(|e| tool.failed(&spec).because(e))?;
    let mut decoder = FrameDecoder::new(&frame.nonce, sink);
    let followed = child::follow(&mut child, &command.stdin, &mut decoder, cancel).await;
    match followed {
        Ok(Some(_)) => decoder.outcome(exec_tool, asked),
        Ok(None) => {
            let kill = frame.kill_text(decoder.own.pid());
            let kill = RemoteCommand { run_as: exec_tool.killer(asked.run_as), ..RemoteCommand::new(kill) };
            let killed = end_in_guest(exec_tool, &kill).await;
            let _ = child.kill_group().await;
            // What may still run there would run beside whatever comes next.
            killed.map_err(|fault| Fault::infra("cannot end the command in the guest").caused_by(fault))?;
            Err(Fault::cancelled("cannot finish the command").because("it was cancelled"))
        }
        Err(fault) => {
            let _ = child.kill_group().await;
            Err(fault)
        }
    }
}

/// Runs the text that ends a command, where something is left to end.
async fn end_in_guest(exec_tool: &dyn ExecTool, kill: &RemoteCommand) -> Result<()> {
    if !exec_tool.is_up().await? {
        return Ok(());
    }
    let frame = Frame::new();
    let text = frame.framed_within(&exec_tool.adapt(kill), |body| exec_tool.within(kill, body));
    let out = exec_tool.tool().run(exec_tool.args(&text), KILL).await?;
    let (mut start, mut end) = (StartMark::new(&frame.nonce), EndMark::new(&frame.nonce));
    let said = end.feed(&start.feed(out.stdout.as_bytes()));
    match end.finish().0 {
        Some(SURVIVORS) => Err(frame::still_running(&String::from_utf8_lossy(&said))),
        Some(_) => Ok(()),
        None => Err(exec_tool.fault(&out.stderr, true)),
    }
}

/// Takes the marks out of what a framed command writes.
struct FrameDecoder<'a> {
    sink: &'a mut dyn OutputSink,
    own: OwnOutput,
    out: EndMark,
    err: EndMark,
    last: Vec<u8>,
}

impl<'a> FrameDecoder<'a> {
    fn new(nonce: &str, sink: &'a mut dyn OutputSink) -> Self {
        let (out, err) = (EndMark::new(nonce), EndMark::new(nonce));
        Self { sink, own: OwnOutput::new(nonce, Shell::Posix), out, err, last: Vec::new() }
    }

    fn pass(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if stream == Stream::Stderr {
            self.last.extend_from_slice(bytes);
            let excess = self.last.len().saturating_sub(LAST_WORDS);
            self.last.drain(..excess);
        }
        self.sink.write(stream, bytes);
    }

    /// Returns the status that the guest itself gave, or the reason why there is none.
    fn outcome(mut self, tool: &dyn ExecTool, asked: &RemoteCommand) -> Result<CommandExit> {
        if self.own.pid().is_none() {
            // The shell around it may have come to its end all the same: then the guest is well, and said no.
            let said = self.err.feed(self.own.said());
            let complaint = one_line(&String::from_utf8_lossy(&said));
            return Err(match self.err.finish().0 {
                Some(status) => frame::refused(asked, &CommandExit::Code(status), &complaint, 0),
                None => tool.fault(&self.own.complaint(), true),
            });
        }
        let ((status, after), (proof, _)) = (self.err.finish(), self.out.finish());
        let after = String::from_utf8_lossy(&after).into_owned();
        match (status, proof) {
            (Some(_), Some(_)) if tool.is_failure(&after) => Err(tool.fault(&after, false)),
            (Some(status), Some(proof)) if status == proof => Ok(CommandExit::Code(status)),
            (Some(_), _) => Err(tool.fault("the end of its standard output is missing", false).hint(
                "the guest agent passes a limited amount; write large output to a file and fetch it as an artifact",
            )),
            (None, _) => {
                let last = [&self.last[..], after.as_bytes()].concat();
                Err(tool.fault(&String::from_utf8_lossy(&last), false))
            }
        }
    }
}

impl OutputSink for FrameDecoder<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream != Stream::Stderr {
            let passed = self.out.feed(&self.own.stdout(bytes));
            return self.pass(stream, &passed);
        }
        let own = self.own.stderr(bytes, |_| ());
        let passed = self.err.feed(&own);
        self.pass(stream, &passed);
    }
}

/// Asks from time to time whether the machine is still up, and reports its end: such tools report nothing by
/// themselves.
pub(super) async fn watch_end<F: Future<Output = Option<MachineExit>>>(
    exit: tokio::sync::watch::Sender<Option<MachineExit>>,
    every: Duration,
    mut ask: impl FnMut() -> F,
) {
    loop {
        clock::sleep(every).await;
        if let Some(how) = ask().await {
            note_exit(&exit, how);
            return;
        }
    }
}
