//! One QEMU machine from its first byte to its proven absence.
//!
//! Its command line is made in `argv`, its control protocol is spoken in `qmp`.

use super::{
    argv::Files,
    dump::MemoryDump,
    exit_watch::{self, Migration, Told},
    guest_agent::GuestAgent,
    helper::Helper,
    kernel_keys::QemuKernelKeys,
    owner::{Ask, RunningProcess, kill_and_wait, own, own_other},
    process,
    qmp::{self, Qmp, QmpEvent},
    snapshot::{self, Freezer, GuestMemory, ResumeRecipe},
    tdx,
};
use crate::{
    assets::seed::MachineLogin,
    backend::{
        contract::{
            Console, CopyDisk, DumpStacks, Freeze, GuestPort, KeepState, KernelKeys, Machine, MachineExit, PowerButton,
            SaveMemory, SharedFolder, Stats,
        },
        discovery::{AddressCandidate, AddressDiscovery, DiscoveryMethod},
        guest_exec::GuestExec,
        proof::Proof,
        record::MachineId,
        request::{CreateRequest, Lifetime, Service},
    },
    context::CallContext,
    host::{
        clock, files, pids,
        process::{Child, Spawner, Spec, Streams},
    },
};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::{Mutex, OnceCell, mpsc, watch},
};
use vmdeck_model::error::{Blame, Fault, Result};

/// How long QEMU may take to open its control socket.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end after `quit`.
const QUIT: Duration = Duration::from_secs(3);

pub(super) struct QemuMachine {
    spawner: Spawner,
    name: String,
    uuid: String,
    dir: PathBuf,
    files: Files,
    spec: Spec,
    helpers: Vec<Helper>,
    folders: Vec<SharedFolder>,
    login: Option<MachineLogin>,
    errors: PathBuf,
    exit: watch::Sender<Option<MachineExit>>,
    restarts: watch::Sender<u32>,
    running: Option<RunningQemu>,
    lifetime: Lifetime,
    /// What keeps its memory promised to it as long as its process lives.
    held_open: Option<OwnedFd>,
    dump: Option<MemoryDump>,
    guest_agent: Option<Arc<GuestAgent>>,
    /// Whether the guest's own agent has its port open.
    agent_open: watch::Sender<bool>,
    userspace: watch::Sender<bool>,
    ends_by_restart: bool,
    /// How another one goes on from its state.
    recipe: Option<Arc<ResumeRecipe>>,
    /// The guest's memory, where it can be frozen.
    memory: Option<Arc<GuestMemory>>,
    /// The snapshot that it goes on from.
    goes_on_from: Option<PathBuf>,
    migration: watch::Sender<Migration>,
    /// The open port to the program that renews it.
    renewal: OnceCell<GuestPort>,
}

/// What exists only once the machine was started.
struct RunningQemu {
    qmp: Arc<Qmp>,
    process: RunningProcess,
}

impl QemuMachine {
    /// Returns the keys of the machine while it runs.
    fn keys(&self) -> Result<QemuKernelKeys> {
        Ok(QemuKernelKeys { qmp: Arc::clone(&self.running()?.qmp), console: self.files.console.clone() })
    }

    pub(super) fn new(
        spawner: Spawner,
        request: &CreateRequest<'_>,
        spec: Spec,
        files: Files,
        helpers: Vec<Helper>,
        folders: Vec<SharedFolder>,
    ) -> Self {
        let agent_open = watch::channel(false).0;
        let agent = |socket: &PathBuf| Arc::new(GuestAgent::of(request.guest, socket.clone(), agent_open.subscribe()));
        Self {
            guest_agent: files.guest_agent.as_ref().map(agent),
            agent_open,
            userspace: watch::channel(false).0,
            spawner,
            name: request.name.to_owned(),
            uuid: request.uuid.to_owned(),
            dir: request.private_dir.to_owned(),
            files,
            spec,
            helpers,
            folders,
            login: MachineLogin::of(request.private_dir),
            errors: request.record_dir.join("qemu.log"),
            exit: watch::channel(None).0,
            restarts: watch::channel(0).0,
            running: None,
            lifetime: request.lifetime,
            held_open: request.memory.and_then(|fd| fd.try_clone().ok()),
            dump: MemoryDump::of(request.guest),
            ends_by_restart: tdx::is_wanted(request.guest),
            recipe: None,
            memory: None,
            goes_on_from: None,
            migration: watch::channel(Migration::Open).0,
            renewal: OnceCell::new(),
        }
    }

    /// Notes how its state is written out.
    pub(super) fn writable(self, recipe: Option<ResumeRecipe>, memory: Option<GuestMemory>) -> Self {
        Self { recipe: recipe.map(Arc::new), memory: memory.map(Arc::new), ..self }
    }

    /// Returns what writes its state out; `memory` = the guest's, where that is saved apart.
    fn writer(&self, memory: Option<Arc<GuestMemory>>) -> Option<Box<Freezer>> {
        Some(Box::new(Freezer {
            qmp: Arc::clone(&self.running.as_ref()?.qmp),
            spawner: self.spawner.clone(),
            recipe: Arc::clone(self.recipe.as_ref()?),
            memory,
            dir: self.dir.clone(),
            overlay: self.files.overlay.clone(),
            migration: self.migration.clone(),
        }))
    }

    /// Notes that it goes on from a snapshot.
    pub(super) fn going_on_from(self, folder: &Path) -> Self {
        Self { goes_on_from: Some(folder.to_owned()), ..self }
    }

    fn failed(&self) -> Fault {
        Fault::infra(format!("cannot start `{}`", self.name))
    }

    async fn power_on(&mut self) -> Result<()> {
        let errors = vmdeck_files::create(&self.errors).map_err(|e| self.failed().because(e))?;
        self.start_helpers().await?;
        // It reads nothing there, and could not: the descriptor is only for writing.
        let held = self.held_open.as_ref().map(OwnedFd::try_clone).transpose().map_err(|e| self.failed().because(e))?;
        let stdin = held.map_or_else(Stdio::null, Stdio::from);
        let child = self.spawn(&self.spec, stdin, errors).await.map_err(|e| self.failed().because(e))?;
        let pid = child.pid();
        let (kill, kills) = mpsc::channel(1);
        let (collected_in, collected) = watch::channel(false);
        tokio::spawn(own(child, kills, collected_in));
        let connected = self.connect(collected.clone()).await;
        let (qmp, events) = match connected {
            Ok(both) => both,
            Err(fault) => {
                kill_and_wait(&kill).await;
                return Err(fault);
            }
        };
        let started = pids::lookup(pid).map(|p| p.started);
        let qmp = self.follow(qmp, events, RunningProcess { pid, started, kill, collected });
        if let Some(from) = &self.goes_on_from {
            // Open before the guest goes on: to what waits at its other end nothing has happened.
            let _ = self.renewal_port().await;
            let mut gone = self.running()?.process.collected.clone();
            tokio::select! {
                taken = snapshot::take_in(&qmp, from, &self.dir, self.migration.subscribe()) => taken?,
                _ = gone.wait_for(|gone| *gone) => return Err(self.explain()),
            }
            // Its programs run since the machine that was frozen.
            self.userspace.send_replace(true);
        }
        if self.files.gdb.is_some() {
            // The debugger starts it.
            return Ok(());
        }
        // It was started stopped, so that no event is missed; now it runs.
        qmp.execute("cont", json!({})).await.map(drop)
    }

    /// Takes control of the process of a machine that lives on; an error where its guest does not run any more.
    pub(super) async fn take_over(&mut self, pid: u32, started: u64) -> Result<()> {
        let (kill, kills) = mpsc::channel(1);
        let (collected_in, collected) = watch::channel(false);
        tokio::spawn(own_other(pid, started, self.uuid.clone(), kills, collected_in));
        let (qmp, events) = self.connect(collected.clone()).await?;
        let status = qmp.execute("query-status", json!({})).await?;
        if status["status"] != "running" {
            let how = status["status"].as_str().unwrap_or("in an unknown state");
            return Err(Fault::infra(format!("cannot use `{}` again", self.name)).because(format!("it is {how}")));
        }
        // Both were told long ago.
        self.agent_open.send_replace(self.guest_agent.is_some());
        self.userspace.send_replace(true);
        self.follow(qmp, events, RunningProcess { pid, started: Some(started), kill, collected });
        Ok(())
    }

    /// Follows what QEMU tells of a machine that is under control from now on.
    fn follow(&mut self, qmp: Qmp, events: mpsc::UnboundedReceiver<QmpEvent>, process: RunningProcess) -> Arc<Qmp> {
        let dumped = self.dump.as_ref().map(|dump| dump.done.clone());
        let told = Told {
            exit: self.exit.clone(),
            restarts: self.restarts.clone(),
            agent: self.agent_open.clone(),
            userspace: self.userspace.clone(),
            dumped,
            migration: self.migration.clone(),
        };
        tokio::spawn(exit_watch::watch_events(events, process.collected.clone(), told, self.errors.clone()));
        let qmp = Arc::new(qmp);
        self.running = Some(RunningQemu { qmp: Arc::clone(&qmp), process });
        qmp
    }

    /// Starts a process that lives as long as the machine may.
    async fn spawn(&self, spec: &Spec, stdin: Stdio, errors: std::fs::File) -> std::io::Result<Child> {
        let streams = Streams { stdin, stdout: Stdio::null(), stderr: errors.into() };
        // Nothing of our environment: it may hold passwords.
        let mut spec = spec.clone().bare_env();
        spec.dir.get_or_insert_with(|| self.dir.clone());
        if self.lifetime == Lifetime::MayOutliveUs {
            self.spawner.spawn(&spec.outliving(), streams).await
        } else {
            self.spawner.spawn_tethered(&spec, streams).await
        }
    }

    /// Starts the processes beside QEMU.
    async fn start_helpers(&self) -> Result<()> {
        for Helper { purpose, spec, socket, log } in &self.helpers {
            let cannot = || Fault::infra(format!("cannot {purpose}"));
            let log = self.errors.with_file_name(log);
            let errors = vmdeck_files::create(&log).map_err(|e| cannot().because(e))?;
            let mut child = self.spawn(spec, Stdio::null(), errors).await.map_err(|e| cannot().because(e))?;
            let listens = async {
                // The socket appears within tens of milliseconds, and nothing tells when.
                while !socket.exists() {
                    clock::sleep(Duration::from_millis(2)).await;
                }
            };
            let ended = tokio::select! {
                there = clock::within(START, listens) => there.is_none(),
                _ = child.wait() => true,
            };
            if ended {
                let _ = child.kill_group().await;
                let said = String::from_utf8_lossy(&vmdeck_files::read_tail(&log, 1024)).into_owned();
                let said =
                    said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why").to_owned();
                return Err(cannot().because(format!("its process did not start: {said}")).permanent());
            }
            tokio::spawn(async move { child.wait().await });
        }
        Ok(())
    }

    /// Waits for the control socket, or for QEMU to give up before it.
    async fn connect(&self, mut collected: watch::Receiver<bool>) -> Result<(Qmp, mpsc::UnboundedReceiver<QmpEvent>)> {
        let opened = async {
            // The socket appears within tens of milliseconds, and nothing tells when.
            while !self.files.qmp.exists() {
                clock::sleep(Duration::from_millis(2)).await;
            }
            Qmp::connect(&self.files.qmp).await
        };
        let mut gone = collected.clone();
        let fault = tokio::select! {
            opened = clock::within(START, opened) => match opened {
                Some(Ok(both)) => return Ok(both),
                Some(Err(fault)) => fault,
                None => self.failed().because(format!("QEMU opened no control socket within {} s", START.as_secs())),
            },
            _ = gone.wait_for(|gone| *gone) => return Err(self.explain()),
        };
        // A connection that ended is how it looks when QEMU gives up just now: then its own words tell more.
        match clock::within(QUIT, collected.wait_for(|gone| *gone)).await {
            Some(_) => Err(self.explain()),
            None => Err(fault),
        }
    }

    /// QEMU's own last words as a fault.
    fn explain(&self) -> Fault {
        let text = String::from_utf8_lossy(&vmdeck_files::read_tail(&self.errors, 4096)).into_owned();
        let last =
            text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("QEMU exited without reporting").trim().to_owned();
        let hint = if last.contains("write\" lock") || text.contains("Is another process using the image") {
            Some("another machine uses this disk image; stop it, or give each guest an image of its own")
        } else if last.contains("Cannot allocate memory") {
            Some("the host does not have enough memory; lower `guests.NAME.memory`")
        } else if text.contains("not supported by KVM") || text.contains("failed to initialize kvm") {
            Some("set `qemu.accel = \"tcg\"` or `\"auto\"`")
        } else {
            None
        };
        let fault = self.failed().because(last);
        hint.map(|h| fault.clone().hint(h)).unwrap_or(fault)
    }

    fn running(&self) -> Result<&RunningQemu> {
        self.running
            .as_ref()
            .ok_or_else(|| Fault::bug(format!("cannot ask `{}` anything", self.name)).because("it was never started"))
    }

    async fn take_down(&mut self) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let mut collected = running.process.collected.clone();
        if !*collected.borrow() {
            // The answer may be lost in the end of the process, so only that end counts.
            let _ = clock::within(QUIT, running.qmp.execute("quit", json!({}))).await;
            if clock::within(QUIT, collected.wait_for(|gone| *gone)).await.is_none() {
                kill_and_wait(&running.process.kill).await;
            }
        }
        if *running.process.collected.borrow() {
            return Ok(());
        }
        Err(Fault::new(
            Blame::Leftover,
            format!("cannot end the QEMU process {} of `{}`", running.process.pid, self.name),
        )
        .hint(format!("inspect it with `ps -p {}`", running.process.pid)))
    }

    async fn release_all(&mut self) -> Result<Vec<Proof>> {
        let mut proofs = Vec::new();
        if self.running.is_some() {
            self.take_down().await?;
        }
        if let Some(running) = &self.running {
            proofs.push(Proof::Gone(format!("QEMU process {} of `{}` was reaped", running.process.pid, self.name)));
        }
        if let Some(process) = pids::with_arg(&self.uuid).first() {
            return Err(Fault::new(
                Blame::Leftover,
                format!("process {} of `{}` is still there", process.pid, self.name),
            ));
        }
        process::end_helpers(&self.dir).await?;
        files::remove_dir(&self.dir)
            .map_err(|e| Fault::new(Blame::Leftover, format!("cannot remove `{}`", self.dir.display())).because(e))?;
        proofs.push(Proof::Gone(format!("folder `{}` with sockets and overlay is gone", self.dir.display())));
        Ok(proofs)
    }

    async fn ask_state(&self) -> Result<String> {
        let qmp = &self.running()?.qmp;
        let status = qmp.execute("query-status", json!({})).await?;
        let mut out = format!("state: {}\n", status["status"].as_str().unwrap_or("?"));
        for line in ["info registers", "info usernet"] {
            out.push_str(&format!("\n== {line}\n{}", qmp.human(line).await?.replace('\r', "")));
        }
        Ok(out)
    }
}

impl Machine for QemuMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> MachineId {
        MachineId {
            uuid: Some(self.uuid.clone()),
            // Its process is its provider.
            provider: None,
            pid: self.running.as_ref().map(|r| r.process.pid),
            started: self.running.as_ref().and_then(|r| r.process.started),
        }
    }

    fn console(&self) -> Option<Console<'_>> {
        Some(Console { log: &self.files.log, socket: Some(&self.files.console) })
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            match self.running {
                // It was taken over.
                Some(_) => Ok(()),
                None => self.power_on().await,
            }
        })
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn restarts(&self) -> Option<watch::Receiver<u32>> {
        Some(self.restarts.subscribe())
    }

    fn userspace(&self) -> Option<watch::Receiver<bool>> {
        Some(self.userspace.subscribe())
    }

    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        Some(self)
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        self.guest_agent.clone().map(|agent| agent as Arc<dyn GuestExec>)
    }

    fn agent_port(&self) -> Option<&Path> {
        self.files.agent.as_deref()
    }

    fn shared_folders(&self) -> &[SharedFolder] {
        &self.folders
    }

    fn login(&self) -> Option<&MachineLogin> {
        self.login.as_ref()
    }

    fn disk_used(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(async { Ok(Some(files::disk_usage(&self.dir))) })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.take_down())
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(self.release_all())
    }

    fn detach(self: Box<Self>) {
        if let Some(running) = &self.running {
            // Full only if it is being killed already.
            let _ = running.process.kill.try_send(Ask::Leave);
        }
    }

    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(self.ask_state())
    }

    fn stacks(&self) -> Option<&dyn DumpStacks> {
        Some(self)
    }

    fn kernel_keys(&self) -> Option<Arc<dyn KernelKeys>> {
        Some(Arc::new(self.keys().ok()?))
    }

    fn power_button(&self) -> Option<&dyn PowerButton> {
        Some(self)
    }

    fn ends_by_restart(&self) -> bool {
        self.ends_by_restart
    }

    fn memory(&self) -> Option<&dyn SaveMemory> {
        self.dump.as_ref().map(|_| self as &dyn SaveMemory)
    }

    fn disk(&self) -> Option<&dyn CopyDisk> {
        self.files.overlay.as_ref().map(|_| self as &dyn CopyDisk)
    }

    fn freezer(&self) -> Option<Box<dyn Freeze>> {
        let memory = self.memory.clone()?;
        self.writer(Some(memory)).map(|writer| writer as Box<dyn Freeze>)
    }

    fn checkpoint(&self) -> Option<Box<dyn KeepState>> {
        self.writer(None).map(|writer| writer as Box<dyn KeepState>)
    }

    fn renewal_port(&self) -> BoxFuture<'_, Option<GuestPort>> {
        Box::pin(async {
            if self.memory.is_none() && self.goes_on_from.is_none() {
                return None;
            }
            let connect =
                || async { UnixStream::connect(&self.files.renewal).await.map(|port| Arc::new(Mutex::new(port))) };
            self.renewal.get_or_try_init(connect).await.ok().cloned()
        })
    }

    fn stats(&self) -> Option<Stats> {
        pids::usage(self.running.as_ref()?.process.pid).map(|(memory, cpu_ms)| Stats { memory, cpu_ms })
    }
}

impl AddressDiscovery for QemuMachine {
    fn methods(&self) -> &[DiscoveryMethod] {
        &[DiscoveryMethod::PortForward]
    }

    fn discover<'a>(
        &'a self,
        _: DiscoveryMethod,
        service: &'a Service,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>> {
        Box::pin(async move {
            let text = self.running()?.qmp.human("info usernet").await?;
            let candidate = |port| AddressCandidate::proven((Ipv4Addr::LOCALHOST, port).into());
            Ok(qmp::forwarded_port(&text, service.port).map(candidate).into_iter().collect())
        })
    }
}

impl PowerButton for QemuMachine {
    fn press(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.running()?.qmp.execute("system_powerdown", json!({})).await.map(drop) })
    }
}

impl CopyDisk for QemuMachine {
    fn hand_over(&self, to: &Path) -> Result<()> {
        let cannot = || Fault::infra(format!("cannot keep the disk of `{}`", self.name));
        let overlay = self.files.overlay.as_deref().ok_or_else(|| cannot().because("it has none"))?;
        if std::fs::rename(overlay, to).is_ok() {
            return Ok(());
        }
        // To another file system.
        std::fs::copy(overlay, to)
            .map(drop)
            .map_err(|e| cannot().because(e).hint("free disk space in the cache folder"))
    }
}

impl SaveMemory for QemuMachine {
    fn save<'a>(&'a self, to: &'a Path) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match &self.dump {
                Some(dump) => dump.save(&self.running()?.qmp, to).await,
                None => Ok(()),
            }
        })
    }
}

impl DumpStacks for QemuMachine {
    fn dump(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let keys = self.keys()?;
            // The processors, what waits, and then all tasks, which is the longest.
            for (index, key) in ['l', 'w', 't'].into_iter().enumerate() {
                if !keys.sysrq(key).await? && index == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}
