//! The `local` backend: a guest is a private folder and a process group on this very host. It is not isolated, and says
//! so.
//!
//! It exists so that the demo, a first try and the engine's own tests work where no hypervisor does.

use super::{
    capabilities::Capabilities,
    child,
    contract::{Backend, Machine, MachineExit},
    deps::BackendDeps,
    guest_exec::GuestExec,
    proof::Proof,
    record::{MachineId, MachineRecord},
    request::CreateRequest,
};
use crate::{
    command::{
        CommandExit, OutputSink, RemoteCommand, Shell,
        frame::{self, Frame},
        kill::TAG,
        own_output::OwnOutput,
    },
    context::CallContext,
    host::{
        clock, files, pids,
        process::{Child, Spawner, Spec, Streams},
    },
};
use futures_util::future::BoxFuture;
use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::machine::MachineInfo;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{Finding, Severity, Stream},
    guest::Guest,
    key::Key,
    suite::RunAs,
};

/// The config keys of the backend: none.
pub const KEYS: &[Key] = &[];

/// The variable in the environment of every process of such a guest, by which leftovers are recognised.
const MARK: &str = "VMDECK_MACHINE";
/// How long a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How long all processes may take to end after SIGKILL: on a host under load the kernel takes its time.
const KILL: Duration = Duration::from_secs(10);

/// What the backend can do.
pub const CAPABILITIES: Capabilities = Capabilities { guest_exec: true, ..Capabilities::NONE };

/// The backend; see the module.
#[derive(Debug)]
pub struct Local {
    spawner: Spawner,
}

impl Local {
    /// Makes the backend; it needs nothing of the host.
    pub fn new(deps: &BackendDeps) -> Self {
        Self { spawner: deps.spawner.clone() }
    }

    fn handle(&self, request: &CreateRequest<'_>) -> LocalMachine {
        let (name, dir) = (request.name.to_owned(), request.private_dir.to_owned());
        let exec = Arc::new(LocalExec { spawner: self.spawner.clone(), name: name.clone(), home: dir.join("home") });
        LocalMachine { name, dir, exec, exit: watch::channel(None).0 }
    }
}

impl Backend for Local {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move {
            let Some(guest) = guest else { return Ok(Vec::new()) };
            Ok(vec![Finding {
                check: "local".into(),
                severity: Severity::Warn,
                text: format!("guest `{}` is not isolated: its commands run on this host as you", guest.id),
                hint: Some("use a `qemu` guest for anything that changes the system".into()),
                fix: None,
            }])
        })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        // A folder and a process group are no machine that somebody else could have made.
        Box::pin(async { Ok(Vec::new()) })
    }

    fn create<'a>(&'a self, request: CreateRequest<'a>, _: CallContext<'a>) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let home = request.private_dir.join("home");
            files::private_dir(request.private_dir).and_then(|()| files::private_dir(&home)).map_err(|e| {
                Fault::host(format!("cannot make the folder of guest `{}`", request.guest.id)).because(e)
            })?;
            Ok(Box::new(self.handle(&request)) as Box<dyn Machine>)
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move { Proof::gone(destroy(&record.name, &record.dir).await) })
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            // A folder and a process group need no connection: what is there can be used again.
            let there = record.dir.join("home").is_dir();
            Ok(there.then(|| Box::new(self.handle(&record.request(guest))) as Box<dyn Machine>))
        })
    }

    fn take_over<'a>(
        &'a self,
        request: CreateRequest<'a>,
        record: &'a MachineRecord,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        // There is no more control of one than that.
        self.reattach(request.guest, record, context)
    }
}

struct LocalMachine {
    name: String,
    dir: PathBuf,
    exec: Arc<LocalExec>,
    exit: watch::Sender<Option<MachineExit>>,
}

impl Machine for LocalMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> MachineId {
        MachineId::default()
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { kill_marked(&self.name).await })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async { Ok(vec![Proof::Gone(destroy(&self.name, &self.dir).await?)]) })
    }

    fn detach(self: Box<Self>) {}

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        Some(Arc::clone(&self.exec) as Arc<dyn GuestExec>)
    }
}

async fn kill_marked(name: &str) -> Result<()> {
    kill_all(&format!("{MARK}={name}"))
        .await
        .map_err(|fault| Fault::new(Blame::Leftover, format!("cannot end the local guest `{name}`")).caused_by(fault))
}

/// Kills every process that has this variable, again and again until none is left: what forks while it is being killed leaves a
/// child that was not on the list.
async fn kill_all(mark: &str) -> Result<()> {
    let none_left = async {
        loop {
            let found = pids::with_env(mark);
            if found.is_empty() {
                return Ok(());
            }
            for process in found {
                pids::kill_exactly(process.pid, |p| pids::has_env(p.pid, mark), KILL)
                    .await
                    .map_err(|e| cannot_kill(process.pid).because(e))?;
            }
        }
    };
    match clock::within(KILL, none_left).await {
        Some(done) => done,
        None => match pids::with_env(mark).first() {
            Some(process) => Err(cannot_kill(process.pid).because("it does not end")),
            None => Ok(()),
        },
    }
}

fn cannot_kill(pid: u32) -> Fault {
    Fault::infra(format!("cannot kill process {pid}")).hint(format!("inspect it with `ps -p {pid}`"))
}

async fn destroy(name: &str, dir: &Path) -> Result<String> {
    kill_marked(name).await?;
    files::remove_dir(dir)
        .map_err(|e| Fault::new(Blame::Leftover, format!("cannot remove `{}`", dir.display())).because(e))?;
    let left = pids::with_env(&format!("{MARK}={name}"));
    if !left.is_empty() || dir.exists() {
        return Err(Fault::new(Blame::Leftover, format!("a process or the folder of `{name}` is still there")));
    }
    Ok(format!("no process carries {MARK}={name}, its folder is gone"))
}

struct LocalExec {
    spawner: Spawner,
    name: String,
    home: PathBuf,
}

impl GuestExec for LocalExec {
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            let frame = Frame::new();
            let mut child = self.start(command, &frame).await?;
            let mut output = LocalOutput { own: OwnOutput::new(&frame.nonce, Shell::Posix), sink };
            let result = self.drive(&mut child, command, &mut output, cancel).await;
            // Whatever the command left running in its group ends with it.
            let _ = child.kill_group().await;
            match result? {
                Some(exit) if output.own.pid().is_some() => Ok(exit),
                Some(exit) => Err(frame::refused(command, &exit, &output.own.complaint(), 0)),
                None => {
                    // What left the group, too.
                    kill_all(&format!("{TAG}={}", frame.tag)).await?;
                    Err(Fault::cancelled("cannot finish the command").because("it was cancelled"))
                }
            }
        })
    }
}

impl LocalExec {
    async fn start(&self, command: &RemoteCommand, frame: &Frame) -> Result<Child> {
        if command.run_as == RunAs::Root && !rustix::process::getuid().is_root() {
            // A process of root's could be neither ended nor found again by us.
            return Err(Fault::user("cannot run a command as root in a local guest")
                .because("vmdeck itself does not run as root")
                .hint("use a `qemu` guest for what needs root"));
        }
        let spec = Spec::new("/bin/sh").args(["-c", &frame.body(command)]).env("HOME", &self.home);
        let spec = spec.env(MARK, &self.name).dir(&self.home);
        self.spawner
            .spawn_tethered(&spec, Streams::piped())
            .await
            .map_err(|e| Fault::user(format!("cannot run a command in the local guest `{}`", self.name)).because(e))
    }

    /// Follows the command to its end; `None` = it was cancelled.
    async fn drive(
        &self,
        child: &mut Child,
        command: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<CommandExit>> {
        let Some(status) = child::follow(child, &command.stdin, sink, cancel).await? else {
            // Listed before the first signal: once a parent is gone its children cannot be told from others.
            let below = pids::below(child.pid());
            child.terminate_group();
            if clock::within(GRACE, child.wait()).await.is_none() {
                let _ = child.kill_group().await;
            }
            for process in below {
                let same = |p: &pids::Process| p.started == process.started;
                pids::kill_exactly(process.pid, same, KILL).await.map_err(|e| cannot_kill(process.pid).because(e))?;
            }
            return Ok(None);
        };
        match (status.code(), status.signal()) {
            (Some(code), _) => Ok(Some(CommandExit::Code(code))),
            (None, Some(signal)) => Ok(Some(CommandExit::of_signal(signal))),
            (None, None) => Err(Fault::infra("cannot tell how a local command ended")),
        }
    }
}

/// Passes on what the command writes itself.
struct LocalOutput<'a> {
    own: OwnOutput,
    sink: &'a mut dyn OutputSink,
}

impl OutputSink for LocalOutput<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.own.pass(stream, bytes, self.sink);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn what_forks_while_it_is_killed_is_killed_too() {
        let name = "vmdeck-test-forks-on-and-on";
        // Each process starts the next one and ends, so a list of them is soon old.
        let chain = "f() { sleep 0.1; f & }; f; f; f";
        let mut first =
            Command::new("/bin/sh").args(["-c", chain]).env(MARK, name).stdin(Stdio::null()).spawn().expect("sh");
        let home = tempfile::tempdir().expect("tempdir");
        let dir = home.path().join("machine");
        files::private_dir(&dir).expect("folder");
        destroy(name, &dir).await.expect("nothing is left");
        first.wait().expect("collected");
        assert!(pids::with_env(&format!("{MARK}={name}")).is_empty() && !dir.exists());
    }

    #[tokio::test]
    async fn what_is_gone_already_counts_as_gone() {
        let home = tempfile::tempdir().expect("tempdir");
        let dir = home.path().join("never-made");
        for _ in 0..2 {
            destroy("vmdeck-test-never-was", &dir).await.expect("nothing is there");
        }
    }
}
