//! QEMU processes of this host: who they are, and the end of those that a dead run left.

use super::{
    argv::{agent_socket, guest_agent_socket},
    guest_agent::GuestAgent,
    helper::PROGRAMS,
};
use crate::{
    assets::seed::MachineLogin,
    backend::{
        contract::{Machine, MachineExit},
        discovery::{AddressCandidate, AddressDiscovery, DiscoveryMethod},
        guest_exec::GuestExec,
        proof::Proof,
        record::{MachineId, MachineRecord},
        request::Service,
    },
    context::CallContext,
    host::{files, pids},
};
use futures_util::future::BoxFuture;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    guest::Guest,
    machine::MachineInfo,
};

/// Returns every QEMU machine of this host.
pub(super) fn list() -> Vec<MachineInfo> {
    processes().into_iter().filter(QemuProcess::is_qemu).map(QemuProcess::info).collect()
}

/// A QEMU process of this host.
struct QemuProcess {
    process: pids::Process,
    name: Option<String>,
    uuid: Option<String>,
}

impl QemuProcess {
    /// Returns whether the program's name is QEMU's; a wrapper or another name is not recognised, and not needed for
    /// ours.
    fn is_qemu(&self) -> bool {
        let program = self.process.argv.first().map(Path::new).and_then(Path::file_name);
        program.is_some_and(|name| name.to_string_lossy().starts_with("qemu-system-"))
    }

    fn info(self) -> MachineInfo {
        MachineInfo {
            name: self.name.unwrap_or_else(|| format!("pid {}", self.process.pid)),
            backend: "qemu",
            state: "running".into(),
            id: self.uuid,
            address: None,
        }
    }
}

/// Returns every process with what QEMU calls a name and an id, whatever its program is called.
fn processes() -> Vec<QemuProcess> {
    let after = |argv: &[std::ffi::OsString], flag: &str| {
        let at = argv.iter().position(|a| a == flag)?;
        argv.get(at + 1).map(|v| v.to_string_lossy().into_owned())
    };
    pids::all()
        .into_iter()
        .map(|process| {
            let name = after(&process.argv, "-name")
                .map(|n| n.split(',').next().unwrap_or_default().trim_start_matches("guest=").to_owned());
            let uuid = after(&process.argv, "-uuid");
            QemuProcess { process, name, uuid }
        })
        .collect()
}

/// Both proofs: the journal names the machine, and the process shows its generated name *and* its UUID.
pub(super) async fn reap(record: &MachineRecord) -> Result<String> {
    let leftover = |what: String| Fault::new(Blame::Leftover, what);
    let uuid = record.id.uuid.clone().unwrap_or_default();
    let ours = |r: &QemuProcess| r.name.as_deref() == Some(&record.name) && r.uuid.as_deref() == Some(&uuid);
    let mut killed = Vec::new();
    for running in processes().into_iter().filter(ours) {
        let pid = running.process.pid;
        let gone = pids::kill_exactly(pid, |p| p.has_arg(&uuid), Duration::from_secs(10)).await;
        match gone {
            Ok(true) => killed.push(pid.to_string()),
            Ok(false) => return Err(leftover(format!("cannot kill QEMU process {pid} of `{}`", record.name))),
            Err(e) => return Err(leftover(format!("cannot kill QEMU process {pid} of `{}`", record.name)).because(e)),
        }
    }
    if processes().iter().any(ours) {
        return Err(leftover(format!("a QEMU process of `{}` is still running", record.name)));
    }
    end_helpers(&record.dir).await?;
    files::remove_dir(&record.dir)
        .map_err(|e| leftover(format!("cannot remove `{}`", record.dir.display())).because(e))?;
    let process = if killed.is_empty() {
        "no process has its UUID".to_owned()
    } else {
        format!("killed pid {}", killed.join(", "))
    };
    Ok(format!("{process}; its folder is gone"))
}

/// Ends the processes beside a machine's QEMU. They end by themselves with QEMU; who does not is known by the machine's
/// private folder, which holds its generated name, among its arguments.
pub(super) async fn end_helpers(dir: &Path) -> Result<()> {
    let is_below = |argument: &std::ffi::OsString| {
        let text = argument.to_string_lossy();
        Path::new(text.rsplit('=').next().unwrap_or_default()).starts_with(dir)
    };
    // The tether of one has the same arguments, and ends with it.
    let serves =
        |process: &pids::Process| process.argv.len() > 1 && process.argv.iter().any(is_below) && is_helper(process);
    for daemon in pids::all().into_iter().filter(serves) {
        let gone = pids::kill_exactly(daemon.pid, serves, Duration::from_secs(10)).await;
        if !gone.as_ref().is_ok_and(|gone| *gone) {
            return Err(Fault::new(
                Blame::Leftover,
                format!("cannot kill process {} of the machine in `{}`", daemon.pid, dir.display()),
            ));
        }
    }
    Ok(())
}

/// Returns whether a process runs a program that machines have beside them, or becomes one.
fn is_helper(process: &pids::Process) -> bool {
    let runs =
        |word: &std::ffi::OsString| Path::new(word).file_name().is_some_and(|name| PROGRAMS.iter().any(|p| name == *p));
    process.argv.iter().any(runs)
}

/// Returns the pid of a machine's process and when it began, if it lives.
pub(super) fn of_record(record: &MachineRecord) -> Option<(u32, u64)> {
    let process = record.id.pid.and_then(pids::lookup)?;
    let is_it = record.id.uuid.as_ref().is_some_and(|uuid| process.has_arg(uuid));
    is_it.then_some((process.pid, process.started))
}

/// Returns a handle on a machine whose process lives, at the address where its run reached it or at the port of its agent.
pub(super) fn reattach(guest: &Guest, record: &MachineRecord) -> Option<Box<dyn Machine>> {
    let is_it = of_record(record).is_some();
    let agent = Some(agent_socket(&record.dir)).filter(|socket| socket.exists());
    let guest_agent = Some(guest_agent_socket(&record.dir)).filter(|socket| socket.exists());
    if !is_it || (record.address.is_none() && agent.is_none() && guest_agent.is_none()) {
        return None;
    }
    let (name, id, address) = (record.name.clone(), record.id.clone(), record.address);
    let login = MachineLogin::of(&record.dir);
    // It was open when the machine was reached; now nobody tells.
    let open = watch::channel(true).1;
    let guest_agent = guest_agent.map(|socket| Arc::new(GuestAgent::of(guest, socket, open)));
    Some(Box::new(Reattached { name, id, address, agent, guest_agent, login, exit: watch::channel(None).0 }))
}

/// A machine of another run: it can be reached and nothing else.
struct Reattached {
    name: String,
    id: MachineId,
    address: Option<SocketAddr>,
    agent: Option<PathBuf>,
    guest_agent: Option<Arc<GuestAgent>>,
    login: Option<MachineLogin>,
    exit: watch::Sender<Option<MachineExit>>,
}

impl Machine for Reattached {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> MachineId {
        self.id.clone()
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        Some(self)
    }

    fn agent_port(&self) -> Option<&Path> {
        self.agent.as_deref()
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        self.guest_agent.clone().map(|agent| agent as Arc<dyn GuestExec>)
    }

    fn login(&self) -> Option<&MachineLogin> {
        self.login.as_ref()
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn detach(self: Box<Self>) {}
}

impl AddressDiscovery for Reattached {
    fn methods(&self) -> &[DiscoveryMethod] {
        &[DiscoveryMethod::Journal]
    }

    fn discover<'a>(
        &'a self,
        _: DiscoveryMethod,
        _: &'a Service,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>> {
        Box::pin(async { Ok(self.address.map(AddressCandidate::proven).into_iter().collect()) })
    }
}
