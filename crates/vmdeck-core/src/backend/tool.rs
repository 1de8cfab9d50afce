//! A hypervisor's own command-line tool: found, run within a limit, and used to run commands in its guests.
//!
//! What its words mean is its backend's matter. No exit status of such a tool is taken for the guest command's: the marks of
//! `command::frame` are.

use super::{
    child,
    contract::{MachineExit, note_exit},
    deps::BackendDeps,
    framed::{FrameDecoder, ProviderWords},
};
use crate::{
    command::frame::{self, Frame},
    command::{
        CommandExit, OutputSink, RemoteCommand,
        kill::SURVIVORS,
        marks::{EndMark, StartMark},
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
    suite::RunAs,
};

/// How long ending a command in the guest may take.
const KILL: Duration = Duration::from_secs(10);

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

/// How a tool runs a command in one guest.
pub(super) trait ExecTool: ProviderWords + Send + Sync {
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
            let kill = frame.kill_text(decoder.pid());
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
