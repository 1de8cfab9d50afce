//! The `local` backend: a guest is a private folder and a process group on this very host. Not isolated, and it says so.
//!
//! It exists so that the demo, a first try and the engine's own tests work where no hypervisor does.

use super::{Backend, Caps, Deps, Ended, Fut, GuestExec, Identity, Order, Remnant, Vm, child};
use crate::{
    command::{Exec, Exit, Sink},
    host::{
        clock, files, pids,
        process::{Child, Spawner, Spec, Streams},
    },
};
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
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::Guest,
    key::Key,
    suite::RunAs,
};

/// It has no keys of its own.
pub const KEYS: &[Key] = &[];

/// Variable that every process of such a guest carries: how leftovers are recognised.
const MARK: &str = "VMDECK_MACHINE";
/// How long a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// What it can do.
pub const CAPS: Caps = Caps {
    isolated: false,
    network: false,
    guest_exec: true,
    console: false,
    dump_stacks: false,
    live_memory: false,
    adopts: false,
    sized: false,
    takes_uuid: false,
};

/// See the module.
#[derive(Debug)]
pub struct Local {
    spawner: Spawner,
}

impl Local {
    /// Needs nothing of the host.
    pub fn new(deps: &Deps) -> Self {
        Self { spawner: deps.spawner.clone() }
    }
}

impl Backend for Local {
    fn probe<'a>(&'a self, guest: Option<&'a Guest>) -> Fut<'a, Vec<Finding>> {
        Box::pin(async move {
            let Some(guest) = guest else { return Ok(Vec::new()) };
            Ok(vec![Finding {
                check: "local".into(),
                severity: Severity::Warn,
                text: format!("guest `{}` is not isolated: its commands run on this host as you", guest.id),
                hint: Some("use a `qemu` guest for anything that changes the system".into()),
            }])
        })
    }

    fn list(&self) -> Fut<'_, Vec<MachineInfo>> {
        // A folder and a process group are no machine that somebody else could have made.
        Box::pin(async { Ok(Vec::new()) })
    }

    fn create<'a>(&'a self, order: Order<'a>) -> Fut<'a, Box<dyn Vm>> {
        Box::pin(async move {
            let home = order.dir.join("home");
            files::private_dir(order.dir)
                .and_then(|()| files::private_dir(&home))
                .map_err(|e| Fault::host(format!("cannot make the folder of guest `{}`", order.guest.id)).because(e))?;
            let (ended, _) = watch::channel(None);
            let exec = Arc::new(LocalExec { spawner: self.spawner.clone(), name: order.name.to_owned(), home });
            let vm = LocalVm { name: order.name.to_owned(), dir: order.dir.to_owned(), exec, ended };
            Ok(Box::new(vm) as Box<dyn Vm>)
        })
    }

    fn reap<'a>(&'a self, remnant: &'a Remnant) -> Fut<'a, String> {
        Box::pin(async move { destroy(&remnant.name, &remnant.dir).await })
    }
}

struct LocalVm {
    name: String,
    dir: PathBuf,
    exec: Arc<LocalExec>,
    ended: watch::Sender<Option<Ended>>,
}

impl Vm for LocalVm {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn console(&self) -> Option<&Path> {
        None
    }

    fn start(&mut self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn terminate(&mut self) -> Fut<'_, ()> {
        Box::pin(async { kill_marked(&self.name).await })
    }

    fn close(&mut self) -> Fut<'_, Vec<String>> {
        Box::pin(async { Ok(vec![destroy(&self.name, &self.dir).await?]) })
    }

    fn leave(self: Box<Self>) {}

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        Some(Arc::clone(&self.exec) as Arc<dyn GuestExec>)
    }
}

async fn kill_marked(name: &str) -> Result<()> {
    let mark = format!("{MARK}={name}");
    for process in pids::with_env(&mark) {
        let same = |p: &pids::Process| p.started == process.started;
        let gone = pids::kill_exactly(process.pid, same, GRACE).await;
        if !matches!(gone, Ok(true)) {
            return Err(Fault::new(
                vmdeck_model::error::Blame::Leftover,
                format!("cannot kill process {} of the local guest `{name}`", process.pid),
            )
            .hint(format!("look at it with `ps -p {}`", process.pid)));
        }
    }
    Ok(())
}

async fn destroy(name: &str, dir: &Path) -> Result<String> {
    kill_marked(name).await?;
    files::remove_dir(dir).map_err(|e| {
        Fault::new(vmdeck_model::error::Blame::Leftover, format!("cannot remove `{}`", dir.display())).because(e)
    })?;
    let left = pids::with_env(&format!("{MARK}={name}"));
    if !left.is_empty() || dir.exists() {
        return Err(Fault::new(vmdeck_model::error::Blame::Leftover, format!("something of `{name}` is still there")));
    }
    Ok(format!("no process carries {MARK}={name}, its folder is gone"))
}

struct LocalExec {
    spawner: Spawner,
    name: String,
    home: PathBuf,
}

impl GuestExec for LocalExec {
    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit> {
        Box::pin(async move {
            let mut child = self.start(exec).await?;
            let result = self.drive(&mut child, exec, sink, cancel).await;
            // Whatever the command left running in its group ends with it.
            let _ = child.kill_group().await;
            result
        })
    }
}

impl LocalExec {
    async fn start(&self, exec: &Exec) -> Result<Child> {
        let mut spec = match exec.run_as {
            RunAs::User => Spec::new("/bin/sh").args(["-c", &exec.script]),
            RunAs::Root if rustix::process::getuid().is_root() => Spec::new("/bin/sh").args(["-c", &exec.script]),
            // A process of root's could be neither ended nor found again by us.
            RunAs::Root => {
                return Err(Fault::user("cannot run a command as root in a local guest")
                    .because("vmdeck itself does not run as root")
                    .hint("use a `qemu` guest for what needs root"));
            }
        };
        for (name, value) in &exec.env {
            spec = spec.env(name, value);
        }
        let dir = exec.dir.as_ref().map_or_else(|| self.home.clone(), |dir| self.home.join(dir));
        let spec = spec.env("HOME", &self.home).env(MARK, &self.name).dir(&dir);
        self.spawner.spawn_tethered(&spec, Streams::piped()).await.map_err(|e| {
            Fault::user(format!("cannot run a command in the local guest `{}`", self.name))
                .because(e)
                .hint(format!("does the folder `{}` exist?", dir.display()))
        })
    }

    async fn drive(
        &self,
        child: &mut Child,
        exec: &Exec,
        sink: &mut dyn Sink,
        cancel: &CancellationToken,
    ) -> Result<Exit> {
        let Some(status) = child::follow(child, &exec.stdin, sink, cancel).await? else {
            child.terminate_group();
            if clock::within(GRACE, child.wait()).await.is_none() {
                let _ = child.kill_group().await;
            }
            return Err(Fault::cancelled("cannot finish the command").because("it was cancelled"));
        };
        match (status.code(), status.signal()) {
            (Some(code), _) => Ok(Exit::Code(code)),
            (None, Some(signal)) => Ok(Exit::Signal(signal_name(signal))),
            (None, None) => Err(Fault::infra("cannot tell how a local command ended")),
        }
    }
}

fn signal_name(number: i32) -> String {
    let known = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (4, "ILL"),
        (6, "ABRT"),
        (8, "FPE"),
        (9, "KILL"),
        (11, "SEGV"),
        (13, "PIPE"),
        (14, "ALRM"),
        (15, "TERM"),
    ];
    known.iter().find(|row| row.0 == number).map_or_else(|| number.to_string(), |row| row.1.to_owned())
}
