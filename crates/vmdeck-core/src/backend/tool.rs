//! A hypervisor's own command-line tool: found, run within a limit, and used to carry commands into its guests.
//!
//! What its words mean is its backend's matter. No exit status of such a tool is taken for the guest command's: the marks of
//! `model::wrap` are.

use super::{Deps, child};
use crate::{
    command::frame::{self, Ending, Mark, Marks, Sudo},
    command::{Exec, Exit, Input, Sink},
    host::{
        clock, info,
        process::{Child, Output, Spawner, Spec, Streams},
    },
};
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
    text::Clean,
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
    pub(super) fn find(deps: &Deps, name: &str, usual: &[&str]) -> Result<Self, String> {
        let configured = deps.tools.get(name);
        let wanted = configured.map_or(name, String::as_str);
        let usual = usual.iter().filter(|_| configured.is_none());
        let program = info::find_program(wanted).or_else(|| usual.clone().find_map(|p| info::find_program(p)));
        let looked: Vec<String> = std::iter::once(wanted).chain(usual.copied()).map(|p| format!("`{p}`")).collect();
        match program {
            Some(program) => Ok(Self { spawner: deps.spawner.clone(), program }),
            None => Err(format!("there is no program {}", looked.join(" or "))),
        }
    }

    /// This very program.
    pub(super) fn at(deps: &Deps, program: &std::path::Path) -> Self {
        Self { spawner: deps.spawner.clone(), program: program.to_owned() }
    }

    /// Where it is.
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

    /// The same with other streams, such as a file to read or to print to.
    pub(super) async fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        streams: Streams,
        limit: Duration,
    ) -> Result<Output> {
        let spec = self.spec(args);
        self.spawner.output_of(&spec, streams, limit).await.map_err(|e| self.failed(&spec).because(e))
    }

    /// Starts it with files for its two outputs; it lives on when it is dropped, and when we die.
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

/// What a tool is told to run a command in one guest, and what its words mean.
pub(super) trait Carrier: Send + Sync {
    /// The tool.
    fn tool(&self) -> &Tool;
    /// Its arguments for this text of a POSIX shell.
    fn args(&self, text: &str) -> Vec<OsString>;
    /// The command as it is to be run, where the guest's own rights ask for a change.
    fn adapt(&self, exec: &Exec) -> Exec {
        exec.clone()
    }
    /// Who may end the processes of a command that runs as this user.
    fn killer(&self, run_as: RunAs) -> RunAs {
        run_as
    }
    /// Whether the machine is up; some tools start one that is not, only to end a command in it.
    fn is_up(&self) -> super::Fut<'_, bool> {
        Box::pin(async { Ok(true) })
    }
    /// What the tool says when it did not do it: `before` the command began, or after.
    fn fault(&self, words: &str, before: bool) -> Fault;
    /// Whether these words after a command's end are a failure of the tool.
    fn is_failure(&self, words: &str) -> bool;
}

/// Runs one command in the guest. Nothing is ever sent twice: what has begun may have had its effect.
pub(super) async fn carry(
    carrier: &dyn Carrier,
    exec: &Exec,
    sink: &mut dyn Sink,
    cancel: &CancellationToken,
) -> Result<Exit> {
    let nonce = frame::nonce();
    let (asked, exec) = (exec, carrier.adapt(exec));
    let text = frame::framed(&exec, &nonce, Sudo::Silent);
    let tool = carrier.tool();
    let stdin = if exec.stdin == Input::Empty { Stdio::null() } else { Stdio::piped() };
    let spec = tool.spec(carrier.args(&text));
    let streams = Streams { stdin, ..Streams::piped_out() };
    let mut child = tool.spawner.spawn(&spec, streams).await.map_err(|e| tool.failed(&spec).because(e))?;
    let mut unframe = Unframe::new(&nonce, sink);
    let followed = child::follow(&mut child, &exec.stdin, &mut unframe, cancel).await;
    match followed {
        Ok(Some(_)) => unframe.outcome(carrier, asked),
        Ok(None) => {
            let kill = unframe.pid.map_or_else(|| frame::kill_by_nonce(&nonce), frame::kill_tree);
            let kill = Exec { run_as: carrier.killer(asked.run_as), ..Exec::new(kill) };
            let killed = end_in_guest(carrier, &kill).await;
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

/// Runs the text that ends a command, where there is something left to end.
async fn end_in_guest(carrier: &dyn Carrier, kill: &Exec) -> Result<()> {
    if !carrier.is_up().await? {
        return Ok(());
    }
    let nonce = frame::nonce();
    let text = frame::framed(&carrier.adapt(kill), &nonce, Sudo::Silent);
    let out = carrier.tool().run(carrier.args(&text), KILL).await?;
    let mut end = Ending::new(&nonce);
    end.feed(out.stdout.as_bytes());
    match end.finish().0 {
        Some(_) => Ok(()),
        None => Err(carrier.fault(&out.stderr, true)),
    }
}

/// Takes the marks out of what a framed command writes.
struct Unframe<'a> {
    sink: &'a mut dyn Sink,
    marks: Marks,
    pid: Option<u32>,
    out: Ending,
    err: Ending,
    last: Vec<u8>,
}

impl<'a> Unframe<'a> {
    fn new(nonce: &str, sink: &'a mut dyn Sink) -> Self {
        let (out, err) = (Ending::new(nonce), Ending::new(nonce));
        Self { sink, marks: Marks::new(nonce), pid: None, out, err, last: Vec::new() }
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

    /// The status that the guest itself gave, or the reason why there is none.
    fn outcome(mut self, carrier: &dyn Carrier, asked: &Exec) -> Result<Exit> {
        if self.pid.is_none() {
            // The shell around it may have come to its end all the same: then the guest is well, and said no.
            let said = self.err.feed(self.marks.seen());
            let complaint = one_line(&String::from_utf8_lossy(&said));
            return Err(match self.err.finish().0 {
                Some(status) => frame::refused(asked, &Exit::Code(status), &complaint, 0),
                None => carrier.fault(&self.marks.complaint(), true),
            });
        }
        let ((status, after), (proof, _)) = (self.err.finish(), self.out.finish());
        let after = String::from_utf8_lossy(&after).into_owned();
        match (status, proof) {
            (Some(_), Some(_)) if carrier.is_failure(&after) => Err(carrier.fault(&after, false)),
            (Some(status), Some(proof)) if status == proof => Ok(Exit::Code(status)),
            (Some(_), _) => Err(carrier.fault("the end of its standard output is missing", false).hint(
                "the guest agent passes a limited amount; write large output to a file and fetch it as an artifact",
            )),
            (None, _) => {
                let last = [&self.last[..], after.as_bytes()].concat();
                Err(carrier.fault(&String::from_utf8_lossy(&last), false))
            }
        }
    }
}

impl Sink for Unframe<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream != Stream::Stderr {
            let passed = self.out.feed(bytes);
            return self.pass(stream, &passed);
        }
        let bytes = match self.pid {
            Some(_) => bytes.to_vec(),
            None => match self.marks.feed(bytes) {
                Some(Mark::Running { pid, rest }) => {
                    self.pid = Some(pid);
                    rest
                }
                Some(Mark::Asked) | None => return,
            },
        };
        let passed = self.err.feed(&bytes);
        self.pass(stream, &passed);
    }
}

/// A tool's words on one clean line.
pub(super) fn one_line(words: &str) -> String {
    let lines = words.lines().map(|line| Clean::from_text(line.trim()).into_string());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Asks from time to time whether the machine is still up, and tells its end: such tools tell nothing by themselves.
pub(super) async fn watch_end<F: Future<Output = Option<super::Ended>>>(
    ended: tokio::sync::watch::Sender<Option<super::Ended>>,
    every: Duration,
    mut ask: impl FnMut() -> F,
) {
    loop {
        clock::sleep(every).await;
        if let Some(how) = ask().await {
            ended.send_if_modified(|now| {
                let first = now.is_none();
                now.get_or_insert(how);
                first
            });
            return;
        }
    }
}
