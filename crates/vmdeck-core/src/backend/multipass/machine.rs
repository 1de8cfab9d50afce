//! One Multipass machine: launched with a name of ours and deleted again, or adopted and put back to how it was.
//!
//! `launch` makes and boots in one command, so that a machine exists only from `start` on.

use super::{
    client::{Client, explain, refusal},
    reply,
    spinner::Spinner,
};
use crate::{
    backend::{
        contract::{Console, Machine, MachineExit},
        discovery::{AddressCandidate, AddressDiscovery, DiscoveryMethod},
        framed::ProviderWords,
        guest_exec::GuestExec,
        proof::Proof,
        record::{AdoptTarget, MachineId, PowerState},
        request::{CreateRequest, Service},
        tool::{self, ExecTool, Tool},
    },
    command::{CommandExit, OutputSink, RemoteCommand},
    context::CallContext,
    host::{clock, files, pids, process::Child, tail::Tail},
};
use futures_util::future::BoxFuture;
use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    key::Options,
    quantity::show_duration,
    text::one_line,
};

/// How often it is asked whether the machine is still up.
const STILL_UP: Duration = Duration::from_secs(5);
/// How long a start that is under way is waited for before the machine is put back.
const STARTING: Duration = Duration::from_secs(25);
/// How long the end of a launch is waited for when the machine is not wanted any more.
const HALF_BORN: Duration = Duration::from_secs(45);

pub(super) struct MultipassMachine {
    client: Client,
    /// The name that the journal knows.
    name: String,
    /// The name that Multipass knows: the same, or the adopted machine's.
    machine: String,
    adopted: Option<AdoptTarget>,
    launch: Vec<OsString>,
    /// How long Multipass may take to start it.
    limit: Duration,
    snapshot: Option<String>,
    log: PathBuf,
    exit: watch::Sender<Option<MachineExit>>,
    /// The client that waits for the daemon to launch.
    launching: Option<Child>,
    watcher: Option<tokio::task::AbortHandle>,
}

impl MultipassMachine {
    pub(super) fn new(client: Client, request: &CreateRequest<'_>, target: Option<&AdoptTarget>) -> Self {
        let options = &request.guest.options;
        let limit = options.duration("launch_timeout").unwrap_or(request.guest.boot_timeout);
        Self {
            client,
            name: request.name.to_owned(),
            machine: target.map_or(request.name, |target| &target.name).to_owned(),
            adopted: target.cloned(),
            launch: launch_args(request, options, client_limit(limit)),
            limit,
            snapshot: options.text("snapshot").map(str::to_owned),
            log: request.record_dir.join("console.log"),
            exit: watch::channel(None).0,
            launching: None,
            watcher: None,
        }
    }

    async fn power_on(&mut self) -> Result<()> {
        let name = self.machine.clone();
        let failed = || Fault::infra(format!("cannot start `{name}`"));
        match self.adopted.clone() {
            None => {
                let launched = self.run_to_end(self.launch.clone(), "launch").await;
                launched.map_err(|fault| failed().caused_by(fault))?;
            }
            Some(target) => self.power_on_adopted(&target).await.map_err(|fault| failed().caused_by(fault))?,
        }
        let (client, name) = (self.client.clone(), self.machine.clone());
        let ask = move || {
            let (client, name) = (client.clone(), name.clone());
            async move { end_of(client.state(&name).await.ok()?.as_deref()) }
        };
        self.watcher = Some(tokio::spawn(tool::watch_end(self.exit.clone(), STILL_UP, ask)).abort_handle());
        Ok(())
    }

    async fn power_on_adopted(&mut self, target: &AdoptTarget) -> Result<()> {
        if let Some(snapshot) = self.snapshot.clone() {
            self.rewind(&snapshot, target).await?;
        }
        if target.was != PowerState::On {
            let limit = client_limit(self.limit).to_string();
            let words = ["start", &self.machine, "--timeout", &limit].map(OsString::from).to_vec();
            self.run_to_end(words, "start").await?;
        }
        Ok(())
    }

    /// Restores an adopted machine to its snapshot; takes the snapshot where there is none yet.
    async fn rewind(&self, snapshot: &str, target: &AdoptTarget) -> Result<()> {
        if target.was != PowerState::Off {
            return Err(Fault::user(format!("cannot use the snapshot `{snapshot}` of `{}`", self.machine))
                .because("the machine is not stopped, and Multipass restores only stopped ones")
                .hint(format!("`multipass stop {}`", self.machine))
                .permanent());
        }
        if self.client.snapshots(&self.machine).await?.iter().any(|known| known == snapshot) {
            let full = format!("{}.{snapshot}", self.machine);
            return self.client.change(&["restore", &full, "--destructive"]).await;
        }
        self.client.change(&["snapshot", &self.machine, "--name", snapshot]).await
    }

    /// Runs a command that takes long, with its progress in the log. It continues when this is dropped, and when we
    /// die: the daemon does too, and only the client's end shows when it is finished. That is why its outputs are files
    /// and not pipes.
    async fn run_to_end(&mut self, args: Vec<OsString>, verb: &str) -> Result<()> {
        let failed = |e: std::io::Error| Fault::infra(format!("cannot follow `multipass {verb}`")).because(e);
        let (out, err) = (self.log.with_file_name("multipass.out"), self.log.with_file_name("multipass.err"));
        let (stdout, stderr) =
            (vmdeck_files::create(&out).map_err(failed)?, vmdeck_files::create(&err).map_err(failed)?);
        let mut tail = Tail::follow(&out).map_err(failed)?;
        let log = files::open_private(&self.log).ok();
        let mut progress = LaunchProgress { log, spinner: Spinner::default() };
        let child = self.launching.insert(self.client.tool.start(args, stdout, stderr).await?);
        let work = async {
            loop {
                tokio::select! {
                    status = child.wait() => return status.map_err(failed),
                    Ok(bytes) = tail.next() => progress.show(bytes),
                }
            }
        };
        let Some(status) = clock::within(self.limit, work).await else {
            return Err(late(verb, self.limit));
        };
        let status = status?;
        self.launching = None;
        progress.show(tail.now().unwrap_or_default());
        progress.show(b"\n");
        if status.success() {
            return Ok(());
        }
        Err(failure(verb, &out, &err, status))
    }

    async fn take_down(&mut self) -> Result<()> {
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
        match &self.adopted {
            Some(target) => put_back(&self.client, target).await,
            // `delete --purge` powers it off.
            None => Ok(()),
        }
    }

    async fn release_all(&mut self) -> Result<Vec<Proof>> {
        if let Some(target) = &self.adopted {
            return settled(&self.client, target).await.map(|how| vec![Proof::PutBack(how)]);
        }
        let gone = destroy(&self.client, &self.machine).await?;
        self.launching = None;
        Ok(vec![Proof::Gone(gone)])
    }
}

/// Returns how long the client is to wait, in seconds: longer than we do. So it lives for as long as the daemon works,
/// and its end tells that nothing will appear any more.
fn client_limit(limit: Duration) -> u64 {
    (limit + Duration::from_hours(1)).as_secs()
}

fn late(verb: &str, limit: Duration) -> Fault {
    Fault::infra(format!("cannot run `multipass {verb}`"))
        .because(format!("it took longer than {}", show_duration(limit)))
        .hint("raise `multipass.launch_timeout`, or check the host's load and network")
}

/// Deletes a machine of ours, whichever run made it. As long as a client waits for the daemon, "not listed" says nothing.
pub(super) async fn destroy(client: &Client, name: &str) -> Result<String> {
    client.destroy_half_born(name, || is_launching(name), HALF_BORN).await
}

/// Returns whether a client still waits for the daemon to launch or start a machine of this name.
fn is_launching(name: &str) -> bool {
    pids::with_arg(name).iter().any(|process| process.argv.iter().any(|arg| arg == "launch" || arg == "start"))
}

/// Returns the command that makes and boots a machine.
fn launch_args(request: &CreateRequest<'_>, options: &Options, timeout: u64) -> Vec<OsString> {
    let guest = request.guest;
    let mut out: Vec<OsString> = vec!["launch".into()];
    // An option's name cannot come from a name of ours; an image's is checked before.
    out.extend(options.text("image").map(OsString::from));
    let pairs = [
        ("--name", request.name.to_owned()),
        ("--cpus", guest.cpus.to_string()),
        ("--memory", guest.memory.to_string()),
        ("--disk", guest.disk.to_string()),
        ("--timeout", timeout.to_string()),
    ];
    out.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
    if let Some(file) = options.path("cloud_init") {
        out.extend(["--cloud-init".into(), file.into()]);
    }
    for mount in options.texts("mounts") {
        out.extend(["--mount".into(), mount.into()]);
    }
    for network in options.texts("networks") {
        out.extend(["--network".into(), network.into()]);
    }
    out
}

/// Returns the end of a launch as a fault, from what it wrote.
fn failure(verb: &str, stdout: &Path, stderr: &Path, status: ExitStatus) -> Fault {
    let mut words = one_line(&String::from_utf8_lossy(&vmdeck_files::read_tail(stderr, 4096)));
    if words.is_empty() {
        let shown = vmdeck_files::read_tail(stdout, 4096);
        Spinner::default().feed(&[&shown[..], b"\n"].concat(), |line| line.clone_into(&mut words));
    }
    explain(verb, if words.is_empty() { "it gave no reason" } else { &words }, status.code())
}

/// Returns what a state means for a machine that should run; Multipass calls one whose ssh does not answer `Unknown`, which is no end.
fn end_of(state: Option<&str>) -> Option<MachineExit> {
    match state {
        None => Some(MachineExit::Crashed("Multipass no longer lists it".into())),
        Some(state) if reply::power(state) != PowerState::On => {
            Some(MachineExit::Shutdown(format!("Multipass says `{state}`")))
        }
        Some(_) => None,
    }
}

/// Proves that an adopted machine is as it was found.
pub(super) async fn settled(client: &Client, target: &AdoptTarget) -> Result<String> {
    let leftover = || {
        let name = &target.name;
        Fault::new(Blame::Leftover, format!("cannot put the machine `{name}` back to how it was found"))
            .hint(format!("inspect it with `multipass info {name}`"))
    };
    let state = client.state(&target.name).await.map_err(|fault| leftover().caused_by(fault))?;
    match state {
        // Stopped is always good: the tests may have shut it down.
        Some(state)
            if target.was == PowerState::On || [target.was, PowerState::Off].contains(&reply::power(&state)) =>
        {
            Ok(format!("`{}` is not ours and stays; Multipass says `{state}`", target.name))
        }
        Some(state) => Err(leftover().because(format!("Multipass says `{state}`"))),
        None => Ok(format!("`{}` is not ours, and Multipass no longer lists it", target.name)),
    }
}

/// Puts an adopted machine back to how it was found.
pub(super) async fn put_back(client: &Client, target: &AdoptTarget) -> Result<()> {
    let name = &target.name;
    // A start that is under way would undo what is done here.
    let started = async {
        while is_launching(name) {
            clock::sleep(Duration::from_millis(200)).await;
        }
    };
    let _ = clock::within(STARTING, started).await;
    let Some(now) = client.state(name).await? else { return Ok(()) };
    match (target.was, reply::power(&now)) {
        (was, now) if was == now => Ok(()),
        (PowerState::Off, _) => match client.change(&["stop", name]).await {
            // A suspended machine, or one that is just starting, refuses a polite word.
            Err(fault) if fault.to_string().contains("Use --force") => client.change(&["stop", "--force", name]).await,
            done => done,
        },
        (PowerState::Suspended, PowerState::On) => client.change(&["suspend", name]).await,
        // It was up and is not: the tests stopped it, and starting it again is its owner's choice.
        _ => Ok(()),
    }
}

/// The progress of a long command, as lines in the guest's console log. Without a log the work continues all the same.
struct LaunchProgress {
    log: Option<File>,
    spinner: Spinner,
}

impl LaunchProgress {
    fn show(&mut self, bytes: &[u8]) {
        let log = &mut self.log;
        self.spinner.feed(bytes, |line| {
            if let Some(log) = log {
                let _ = writeln!(log, "{line}");
            }
        });
    }
}

impl Machine for MultipassMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn provider_name(&self) -> &str {
        &self.machine
    }

    fn exists(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(self.client.state(&self.machine).await?.is_some()) })
    }

    fn id(&self) -> MachineId {
        // Multipass has no ids besides the name, which is why ours holds a nonce.
        MachineId::default()
    }

    fn console(&self) -> Option<Console<'_>> {
        Some(Console { log: &self.log, socket: None })
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.power_on())
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        Some(self)
    }

    fn disk_used(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(async { Ok(self.client.info(&self.machine).await?.disk_used) })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.take_down())
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(self.release_all())
    }

    fn detach(self: Box<Self>) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        Some(Arc::new(MultipassExec { client: self.client.clone(), name: self.machine.clone() }))
    }

    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async {
            let out = self.client.tool.run(["info", &self.machine], Duration::from_secs(9)).await?;
            if out.status.success() { Ok(out.stdout) } else { Err(refusal("info", &out)) }
        })
    }
}

impl AddressDiscovery for MultipassMachine {
    fn methods(&self) -> &[DiscoveryMethod] {
        &[DiscoveryMethod::Provider]
    }

    fn discover<'a>(
        &'a self,
        _: DiscoveryMethod,
        service: &'a Service,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>> {
        Box::pin(async move {
            let found = self.client.info(&self.machine).await?.ipv4;
            let candidate = |ip: IpAddr| AddressCandidate::proven(SocketAddr::new(ip, service.port));
            Ok(found.iter().filter_map(|ip| ip.parse().ok()).map(candidate).collect())
        })
    }
}

/// Commands by `multipass exec`.
pub(super) struct MultipassExec {
    pub(super) client: Client,
    pub(super) name: String,
}

impl ExecTool for MultipassExec {
    fn tool(&self) -> &Tool {
        &self.client.tool
    }

    fn args(&self, text: &str) -> Vec<OsString> {
        // Without the mapping of folders: it would ask the daemon once more, and `cd` where this host's folder is mounted.
        ["exec", &self.name, "--no-map-working-directory", "--", "/bin/sh", "-c", text].map(OsString::from).to_vec()
    }

    fn is_up(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(end_of(self.client.state(&self.name).await?.as_deref()).is_none()) })
    }
}

impl ProviderWords for MultipassExec {
    fn fault(&self, words: &str, before: bool) -> Fault {
        let words = one_line(words);
        if before {
            let words = if words.is_empty() { "it ended before the command began" } else { &words };
            return explain("exec", words, None);
        }
        Fault::infra("cannot finish the command")
            .because(if words.is_empty() {
                "the machine or the connection to it ended without giving a reason".to_owned()
            } else {
                format!("`multipass exec` lost the command: {words}")
            })
            .hint("the guest may have rebooted, run out of memory, or lost its network")
    }

    fn is_failure(&self, words: &str) -> bool {
        words.contains("exec failed: ")
    }
}

impl GuestExec for MultipassExec {
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            // A machine that is not up would be started by `exec`, as if nothing had happened to it.
            let state = self.client.state(&self.name).await?;
            if let Some(how) = end_of(state.as_deref()) {
                return Err(Fault::infra(format!("cannot run a command in `{}`", self.name)).because(how));
            }
            tool::run_framed(self, command, sink, cancel).await
        })
    }

    fn shell_hint(&self) -> Option<String> {
        Some(format!("multipass shell {}", self.name))
    }
}
