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
        Ended, Existing, Fut, GuestExec, Identity, Lead, Order, Power, Vm, Way,
        tool::{self, Carrier, Tool, one_line},
    },
    command::{Exec, Exit, Sink},
    host::{clock, files, pids, process::Child, tail::Tail},
};
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
};

/// How often it is asked whether the machine is still up.
const STILL_UP: Duration = Duration::from_secs(5);
/// How long a start that is under way is waited for before the machine is put back.
const STARTING: Duration = Duration::from_secs(25);
/// How long the end of a launch is waited for when the machine is not wanted any more.
const HALF_BORN: Duration = Duration::from_secs(45);

pub(super) struct MultipassVm {
    client: Client,
    /// The name that the journal knows.
    name: String,
    /// The name that Multipass knows: the same, or the adopted machine's.
    machine: String,
    adopted: Option<Existing>,
    launch: Vec<OsString>,
    /// How long Multipass may take to start it.
    limit: Duration,
    snapshot: Option<String>,
    log: PathBuf,
    ended: watch::Sender<Option<Ended>>,
    /// The client that waits for the daemon to launch.
    launching: Option<Child>,
    watcher: Option<tokio::task::AbortHandle>,
}

impl MultipassVm {
    pub(super) fn new(client: Client, order: &Order<'_>) -> Self {
        let options = &order.guest.options;
        let limit = options.duration("launch_timeout").unwrap_or(order.guest.boot_timeout);
        Self {
            client,
            name: order.name.to_owned(),
            machine: order.adopt.map_or(order.name, |existing| &existing.name).to_owned(),
            adopted: order.adopt.cloned(),
            launch: launch_args(order, options, client_limit(limit)),
            limit,
            snapshot: options.text("snapshot").map(str::to_owned),
            log: order.record.join("console.log"),
            ended: watch::channel(None).0,
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
            Some(existing) => self.power_on_adopted(&existing).await.map_err(|fault| failed().caused_by(fault))?,
        }
        let (client, name) = (self.client.clone(), self.machine.clone());
        let ask = move || {
            let (client, name) = (client.clone(), name.clone());
            async move { end_of(client.state(&name).await.ok()?.as_deref()) }
        };
        self.watcher = Some(tokio::spawn(tool::watch_end(self.ended.clone(), STILL_UP, ask)).abort_handle());
        Ok(())
    }

    async fn power_on_adopted(&mut self, existing: &Existing) -> Result<()> {
        if let Some(snapshot) = self.snapshot.clone() {
            self.rewind(&snapshot, existing).await?;
        }
        if existing.was != Power::On {
            let limit = client_limit(self.limit).to_string();
            let words = ["start", &self.machine, "--timeout", &limit].map(OsString::from).to_vec();
            self.run_to_end(words, "start").await?;
        }
        Ok(())
    }

    /// Puts an adopted machine to its snapshot; takes it where there is none yet.
    async fn rewind(&self, snapshot: &str, existing: &Existing) -> Result<()> {
        if existing.was != Power::Off {
            return Err(Fault::user(format!("cannot use the snapshot `{snapshot}` of `{}`", self.machine))
                .because("the machine is not stopped, and Multipass restores only stopped ones")
                .hint(format!("`multipass stop {}`", self.machine))
                .lasting());
        }
        if self.client.snapshots(&self.machine).await?.iter().any(|known| known == snapshot) {
            let full = format!("{}.{snapshot}", self.machine);
            return self.client.change(&["restore", &full, "--destructive"]).await;
        }
        self.client.change(&["snapshot", &self.machine, "--name", snapshot]).await
    }

    /// Runs a command that takes long, with its progress in the log. It goes on when this is dropped, and when we die: the
    /// daemon does too, and only the client's end tells when. That is why its outputs are files and not pipes.
    async fn run_to_end(&mut self, args: Vec<OsString>, verb: &str) -> Result<()> {
        let failed = |e: std::io::Error| Fault::infra(format!("cannot follow `multipass {verb}`")).because(e);
        let (out, err) = (self.log.with_file_name("multipass.out"), self.log.with_file_name("multipass.err"));
        let (stdout, stderr) = (File::create(&out).map_err(failed)?, File::create(&err).map_err(failed)?);
        let mut tail = Tail::follow(&out).map_err(failed)?;
        let log = File::options().create(true).append(true).open(&self.log).ok();
        let mut progress = Progress { log, spinner: Spinner::default() };
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
            Some(existing) => put_back(&self.client, existing).await,
            // `delete --purge` powers it off.
            None => Ok(()),
        }
    }

    async fn release(&mut self) -> Result<Vec<String>> {
        if let Some(existing) = &self.adopted {
            return settled(&self.client, existing).await.map(|proof| vec![proof]);
        }
        let gone = destroy(&self.client, &self.machine).await?;
        self.launching = None;
        Ok(vec![gone])
    }
}

/// What the client is told to wait, in seconds: longer than we do. So it lives for as long as the daemon works, and its end
/// tells that nothing will appear any more.
fn client_limit(limit: Duration) -> u64 {
    (limit + Duration::from_hours(1)).as_secs()
}

fn late(verb: &str, limit: Duration) -> Fault {
    Fault::infra(format!("cannot run `multipass {verb}`"))
        .because(format!("it took longer than {}", show_duration(limit)))
        .hint("raise `multipass.launch_timeout`, or look at the host's load and network")
}

/// Deletes a machine of ours, whichever run made it. As long as a client waits for the daemon, "not listed" says nothing.
pub(super) async fn destroy(client: &Client, name: &str) -> Result<String> {
    client.destroy_half_born(name, || is_launching(name), HALF_BORN).await
}

/// Whether a client still waits for the daemon to launch or start a machine of this name.
fn is_launching(name: &str) -> bool {
    pids::with_arg(name).iter().any(|process| process.argv.iter().any(|arg| arg == "launch" || arg == "start"))
}

/// The command that makes and boots a machine.
fn launch_args(order: &Order<'_>, options: &Options, timeout: u64) -> Vec<OsString> {
    let guest = order.guest;
    let mut out: Vec<OsString> = vec!["launch".into()];
    // An option's name cannot come from a name of ours; an image's is checked before.
    out.extend(options.text("image").map(OsString::from));
    let pairs = [
        ("--name", order.name.to_owned()),
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

/// The end of a launch as a fault, from what it wrote.
fn failure(verb: &str, stdout: &Path, stderr: &Path, status: ExitStatus) -> Fault {
    let mut words = one_line(&String::from_utf8_lossy(&files::read_tail(stderr, 4096)));
    if words.is_empty() {
        let shown = files::read_tail(stdout, 4096);
        Spinner::default().feed(&[&shown[..], b"\n"].concat(), |line| line.clone_into(&mut words));
    }
    explain(verb, if words.is_empty() { "it ended without a word" } else { &words }, status.code())
}

/// What a state means for a machine that should run; Multipass calls one whose ssh does not answer `Unknown`, which is no end.
fn end_of(state: Option<&str>) -> Option<Ended> {
    match state {
        None => Some(Ended::Crashed("Multipass lists it no more".into())),
        Some(state) if reply::power(state) != Power::On => Some(Ended::Shutdown(format!("Multipass says `{state}`"))),
        Some(_) => None,
    }
}

/// An adopted machine is as it was found.
pub(super) async fn settled(client: &Client, existing: &Existing) -> Result<String> {
    let leftover = || {
        let name = &existing.name;
        Fault::new(Blame::Leftover, format!("cannot put the machine `{name}` back to how it was found"))
            .hint(format!("look at it with `multipass info {name}`"))
    };
    let state = client.state(&existing.name).await.map_err(|fault| leftover().caused_by(fault))?;
    match state {
        // Stopped is always good: the tests may have shut it down.
        Some(state) if existing.was == Power::On || [existing.was, Power::Off].contains(&reply::power(&state)) => {
            Ok(format!("`{}` is not ours and stays; Multipass says `{state}`", existing.name))
        }
        Some(state) => Err(leftover().because(format!("Multipass says `{state}`"))),
        None => Ok(format!("`{}` is not ours, and Multipass lists it no more", existing.name)),
    }
}

/// Puts an adopted machine back to how it was found.
pub(super) async fn put_back(client: &Client, existing: &Existing) -> Result<()> {
    let name = &existing.name;
    // A start that is under way would undo what is done here.
    let started = async {
        while is_launching(name) {
            clock::sleep(Duration::from_millis(200)).await;
        }
    };
    let _ = clock::within(STARTING, started).await;
    let Some(now) = client.state(name).await? else { return Ok(()) };
    match (existing.was, reply::power(&now)) {
        (was, now) if was == now => Ok(()),
        (Power::Off, _) => match client.change(&["stop", name]).await {
            // A suspended machine, or one that is just starting, refuses a polite word.
            Err(fault) if fault.to_string().contains("Use --force") => client.change(&["stop", "--force", name]).await,
            done => done,
        },
        (Power::Suspended, Power::On) => client.change(&["suspend", name]).await,
        // It was up and is not: the tests stopped it, and starting it again is its owner's choice.
        _ => Ok(()),
    }
}

/// The progress of a long command, as lines in the guest's console log. Without a log the work goes on all the same.
struct Progress {
    log: Option<File>,
    spinner: Spinner,
}

impl Progress {
    fn show(&mut self, bytes: &[u8]) {
        let log = &mut self.log;
        self.spinner.feed(bytes, |line| {
            if let Some(log) = log {
                let _ = writeln!(log, "{line}");
            }
        });
    }
}

impl Vm for MultipassVm {
    fn name(&self) -> &str {
        &self.name
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn exists(&self) -> Fut<'_, bool> {
        Box::pin(async { Ok(self.client.state(&self.machine).await?.is_some()) })
    }

    fn identity(&self) -> Identity {
        // Multipass has no ids besides the name, which is why ours holds a nonce.
        Identity::default()
    }

    fn console(&self) -> Option<&Path> {
        Some(&self.log)
    }

    fn start(&mut self) -> Fut<'_, ()> {
        Box::pin(self.power_on())
    }

    fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn adopted(&self) -> bool {
        self.adopted.is_some()
    }

    fn ways(&self) -> &[Way] {
        &[Way { name: "info" }]
    }

    fn seek<'a>(&'a self, _: &'a Way, port: u16) -> Fut<'a, Vec<Lead>> {
        Box::pin(async move {
            let found = self.client.info(&self.machine).await?.ipv4;
            let lead = |ip: IpAddr| Lead { address: SocketAddr::new(ip, port), proven: true };
            Ok(found.iter().filter_map(|ip| ip.parse().ok()).map(lead).collect())
        })
    }

    fn disk_used(&self) -> Fut<'_, Option<u64>> {
        Box::pin(async { Ok(self.client.info(&self.machine).await?.disk_used) })
    }

    fn terminate(&mut self) -> Fut<'_, ()> {
        Box::pin(self.take_down())
    }

    fn close(&mut self) -> Fut<'_, Vec<String>> {
        Box::pin(self.release())
    }

    fn leave(self: Box<Self>) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        Some(Arc::new(MultipassExec { client: self.client.clone(), name: self.machine.clone() }))
    }

    fn diagnose(&self) -> Fut<'_, String> {
        Box::pin(async {
            let out = self.client.tool.run(["info", &self.machine], Duration::from_secs(9)).await?;
            if out.status.success() { Ok(out.stdout) } else { Err(refusal("info", &out)) }
        })
    }
}

/// Commands by `multipass exec`.
pub(super) struct MultipassExec {
    pub(super) client: Client,
    pub(super) name: String,
}

impl Carrier for MultipassExec {
    fn tool(&self) -> &Tool {
        &self.client.tool
    }

    fn args(&self, text: &str) -> Vec<OsString> {
        // Without the mapping of folders: it would ask the daemon once more, and `cd` where this host's folder is mounted.
        ["exec", &self.name, "--no-map-working-directory", "--", "/bin/sh", "-c", text].map(OsString::from).to_vec()
    }

    fn is_up(&self) -> Fut<'_, bool> {
        Box::pin(async { Ok(end_of(self.client.state(&self.name).await?.as_deref()).is_none()) })
    }

    fn fault(&self, words: &str, before: bool) -> Fault {
        let words = one_line(words);
        if before {
            let words = if words.is_empty() { "it ended before the command began" } else { &words };
            return explain("exec", words, None);
        }
        Fault::infra("cannot finish the command")
            .because(if words.is_empty() {
                "the machine or the connection to it ended without a word".to_owned()
            } else {
                format!("`multipass exec` lost it: {words}")
            })
            .hint("the guest may have rebooted, run out of memory, or lost its network")
    }

    fn is_failure(&self, words: &str) -> bool {
        words.contains("exec failed: ")
    }
}

impl GuestExec for MultipassExec {
    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit> {
        Box::pin(async move {
            // A machine that is not up would be started by `exec`, as if nothing had happened to it.
            let state = self.client.state(&self.name).await?;
            if let Some(how) = end_of(state.as_deref()) {
                return Err(Fault::infra(format!("cannot run a command in `{}`", self.name)).because(how));
            }
            tool::carry(self, exec, sink, cancel).await
        })
    }

    fn shell_hint(&self) -> Option<String> {
        Some(format!("multipass shell {}", self.name))
    }
}
