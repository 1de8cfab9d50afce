//! Starting processes: in their own group, tied to this process's life, with everything they started killed at the end.
//!
//! Secrets never come here: an argv and an environment can be read by others.

#![expect(clippy::disallowed_methods, reason = "this is the place")]

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command, sync::oneshot};
use vmdeck_model::outcome::Signal;

/// The hidden subcommand of the vmdeck binary that ties a program to its parent; see [`exec_tethered`].
pub const TETHER: &str = "__exec";

/// A process to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The program, looked up on the search path.
    pub program: OsString,
    /// The arguments of the program.
    pub args: Vec<OsString>,
    /// The working directory.
    pub dir: Option<PathBuf>,
    /// The variables added to the environment; secrets never belong here.
    pub env: Vec<(OsString, OsString)>,
    /// Whether the environment holds only what finding programs and files needs.
    pub bare_env: bool,
    /// Whether the process is killed when its handle is dropped.
    pub kill_on_drop: bool,
    /// Whether the process gets a process group of its own; without one it stays in the terminal's foreground.
    pub own_group: bool,
}

impl Spec {
    /// Returns a program without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            dir: None,
            env: Vec::new(),
            bare_env: false,
            kill_on_drop: true,
            own_group: true,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Lets the process live on when its handle is dropped.
    #[must_use]
    pub fn outliving(mut self) -> Self {
        self.kill_on_drop = false;
        self
    }

    /// Lets the process share our terminal: it gets no process group of its own.
    #[must_use]
    pub fn foreground(mut self) -> Self {
        self.own_group = false;
        self
    }

    /// Cuts its environment to what finding programs and files needs.
    #[must_use]
    pub fn bare_env(mut self) -> Self {
        self.bare_env = true;
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if self.bare_env {
            command.env_clear().envs(bare_env());
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v))).kill_on_drop(self.kill_on_drop);
        if self.own_group {
            command.process_group(0);
        }
    }
}

/// Where a child's three streams go.
#[derive(Debug)]
pub struct Streams {
    /// The standard input.
    pub stdin: Stdio,
    /// The standard output.
    pub stdout: Stdio,
    /// The standard error.
    pub stderr: Stdio,
}

impl Streams {
    /// Returns streams with an empty input, and both outputs to be read by us.
    pub fn piped_out() -> Self {
        Self { stdin: Stdio::null(), stdout: Stdio::piped(), stderr: Stdio::piped() }
    }

    /// Returns streams that are all written or read by us.
    pub fn piped() -> Self {
        Self { stdin: Stdio::piped(), ..Self::piped_out() }
    }
}

/// A running child: leader of its own process group.
///
/// Dropping it kills the leader only; call [`Child::kill_group`] on every path that must leave nothing behind.
#[derive(Debug)]
pub struct Child {
    /// The child itself; its three streams are to be taken from it.
    pub inner: tokio::process::Child,
    pid: u32,
}

impl Child {
    /// Returns the pid of the child, also after it ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the child.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.inner.wait().await
    }

    /// Sends SIGTERM to the child alone.
    pub fn terminate(&self) {
        self.signal(Signal::Terminate);
    }

    /// Sends a signal to the child alone.
    pub fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Hangup => rustix::process::Signal::HUP,
            Signal::Quit => rustix::process::Signal::QUIT,
        };
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, number);
        }
    }

    /// Sends SIGTERM to the child's whole group.
    pub fn terminate_group(&self) {
        signal_group(self.pid, rustix::process::Signal::TERM);
    }

    /// Kills the child's whole group and reaps the leader.
    pub async fn kill_group(&mut self) -> io::Result<ExitStatus> {
        signal_group(self.pid, rustix::process::Signal::KILL);
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it was killed but did not end within 10 s");
        super::clock::within(Duration::from_secs(10), self.inner.wait()).await.unwrap_or_else(|| Err(late()))
    }
}

fn signal_group(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // ESRCH means that all of it is gone already, which is what was wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

type SpawnJob = (Command, oneshot::Sender<io::Result<tokio::process::Child>>);

/// Starts processes from one thread that lives as long as this value's last copy.
///
/// Linux sends a parent-death signal when the *thread* that forked ends, not the process: children of a pool thread
/// were seen to be killed after ten idle seconds.
#[derive(Clone, Debug)]
pub struct Spawner {
    jobs: mpsc::Sender<SpawnJob>,
    tether: Option<PathBuf>,
    /// The variables that no process gets: they hold secrets.
    hidden: Arc<[String]>,
}

impl Spawner {
    /// Starts the spawner; must be called within a runtime. `tether` is the vmdeck binary; without it children are not
    /// tied to our life.
    pub fn new(tether: Option<PathBuf>) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<SpawnJob>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            while let Ok((mut command, reply)) = todo.recv() {
                let _inside = runtime.enter();
                // A caller that gave up drops the child, and that kills it.
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self { jobs, tether, hidden: Arc::default() })
    }

    /// Keeps these variables of our environment from every process that it starts: they hold secrets.
    #[must_use]
    pub fn hiding(self, names: &[String]) -> Self {
        Self { hidden: names.into(), ..self }
    }

    /// Starts a process that dies with vmdeck, however vmdeck dies.
    pub async fn spawn_tethered(&self, spec: &Spec, streams: Streams) -> io::Result<Child> {
        let command = match &self.tether {
            Some(vmdeck) if cfg!(target_os = "linux") => {
                let mut command = Command::new(vmdeck);
                command.arg(TETHER).arg(std::process::id().to_string()).arg(&spec.program).args(&spec.args);
                spec.dress(&mut command);
                command
            }
            _ => spec.command(),
        };
        self.start(command, streams).await
    }

    /// Starts a process.
    pub async fn spawn(&self, spec: &Spec, streams: Streams) -> io::Result<Child> {
        self.start(spec.command(), streams).await
    }

    async fn start(&self, mut command: Command, streams: Streams) -> io::Result<Child> {
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        for name in self.hidden.iter() {
            command.env_remove(name);
        }
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread is gone");
        self.jobs.send((command, reply)).map_err(|_| gone())?;
        let inner = started.await.map_err(|_| gone())??;
        let pid = inner.id().ok_or_else(|| io::Error::other("the process ended before it had a pid"))?;
        Ok(Child { inner, pid })
    }

    /// Runs a short tool to its end; both outputs are cut at 1 MiB.
    pub async fn output(&self, spec: &Spec, limit: Duration) -> io::Result<Output> {
        self.output_of(spec, Streams::piped_out(), limit).await
    }

    /// Runs a short tool with other streams; those that are not pipes are not read.
    pub async fn output_of(&self, spec: &Spec, streams: Streams, limit: Duration) -> io::Result<Output> {
        let mut child = self.spawn(spec, streams).await?;
        let (stdout, stderr) = (child.inner.stdout.take(), child.inner.stderr.take());
        let work = async {
            let (stdout, stderr) = tokio::join!(read_capped(stdout), read_capped(stderr));
            child.inner.wait().await.map(|status| Output { status, stdout, stderr })
        };
        let ended = super::clock::within(limit, work).await;
        if let Some(result) = ended {
            return result;
        }
        child.kill_group().await?;
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs())))
    }
}

/// The outcome of a short tool.
#[derive(Clone, Debug)]
pub struct Output {
    /// How the tool ended.
    pub status: ExitStatus,
    /// What the tool printed on standard output.
    pub stdout: String,
    /// What the tool printed on standard error.
    pub stderr: String,
}

async fn read_capped(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(1 << 20).read_to_end(&mut kept).await;
        // Drain the rest: a full pipe would stop the tool.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Starts a process that outlives us, in our process group until it leaves it: with a pipe to its standard input and with
/// the other two streams as given. Its environment is cut to what finding files needs.
pub fn spawn_detached(
    program: &Path,
    args: &[OsString],
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<tokio::process::Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(stdout).stderr(stderr).env_clear().current_dir("/");
    command.envs(bare_env()).kill_on_drop(false);
    command.spawn()
}

/// Starts a process of ours in our folder and environment, with a pipe to its standard input, until it leaves our session.
/// `log` takes its standard error, its standard output goes nowhere.
pub fn spawn_apart(program: &Path, args: &[OsString], log: std::fs::File) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    let inner = command.spawn()?;
    let pid = inner.id().unwrap_or(0);
    Ok(Child { inner, pid })
}

/// Returns the variables that finding programs and files needs; passwords are kept elsewhere.
fn bare_env() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = ["PATH", "HOME", "XDG_STATE_HOME", "TMPDIR", "LANG"];
    names.into_iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value)))
}

/// Keeps this process's memory off the disk, however it ends, and out of the sight of debuggers.
pub fn leave_no_core() {
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Core).maximum,
    };
    // Neither can fail for oneself.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Leaves the terminal and its signals: what the child of [`spawn_detached`] and [`spawn_apart`] does first.
pub fn leave_session() {
    // Fails only where it was done already.
    let _ = rustix::process::setsid();
}

/// What git said.
pub enum GitAnswer {
    /// It did what it was asked, and wrote this.
    Said(Vec<u8>),
    /// It refused, in these words.
    Refused(String),
}

/// Asks git about the repository that `dir` is in, whatever a hook around us has set, and without running a program that the
/// repository's own config names.
pub fn git(dir: &Path, args: &[&str]) -> io::Result<GitAnswer> {
    let mut command = std::process::Command::new("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE"] {
        command.env_remove(name);
    }
    command.args(["-c", "core.fsmonitor=false"]).args(args).env("LC_ALL", "C");
    let out = command.current_dir(dir).stdin(Stdio::null()).output()?;
    Ok(if out.status.success() {
        GitAnswer::Said(out.stdout)
    } else {
        GitAnswer::Refused(String::from_utf8_lossy(&out.stderr).into_owned())
    })
}

/// Runs a program that needs no runtime around it to its end, with its complaints on our own standard error; returns its
/// status and what it printed.
pub fn read_output(program: &str, args: &[String]) -> io::Result<(ExitStatus, Vec<u8>)> {
    let out = std::process::Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    Ok((out.status, out.stdout))
}

/// Runs the other end of [`TETHER`]: asks to die with the parent, then becomes the program. Returns only on failure.
///
/// A second small process instead of a hook between fork and exec: that hook would need `unsafe`.
pub fn exec_tethered(parent: u32, program: &OsStr, args: &[OsString]) -> io::Error {
    #[cfg(target_os = "linux")]
    {
        if let Err(e) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
            return e.into();
        }
        // The parent may have died before the line above; then no signal will come.
        let current = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if current.and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
            return io::Error::other("the parent is gone");
        }
    }
    let _ = parent;
    exec(program, args)
}

/// Becomes another program. Returns only on failure.
pub(super) fn exec(program: &OsStr, args: &[OsString]) -> io::Error {
    std::process::Command::new(program).args(args).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn killing_the_group_leaves_no_grandchild() {
        let spawner = Spawner::new(None).expect("spawner");
        let spec = Spec::new("sh").args(["-c", "sleep 32.25 & sleep 32.25 & echo up; wait"]);
        let mut child = spawner.spawn(&spec, Streams::piped_out()).await.expect("spawn");
        let mut byte = [0; 3];
        child.inner.stdout.as_mut().expect("pipe").read_exact(&mut byte).await.expect("up");
        // The shell says "up" before both of them have become `sleep`.
        while super::super::pids::with_arg("32.25").len() < 2 {
            tokio::task::yield_now().await;
        }
        child.kill_group().await.expect("killed");
        let gone = async {
            while !super::super::pids::with_arg("32.25").is_empty() {
                tokio::task::yield_now().await;
            }
        };
        assert!(super::super::clock::within(Duration::from_secs(5), gone).await.is_some());
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_ended() {
        let spawner = Spawner::new(None).expect("spawner");
        let spec = Spec::new("sleep").args(["33.5"]);
        let error = spawner.output(&spec, Duration::from_millis(50)).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn both_outputs_and_the_status_come_back() {
        let spawner = Spawner::new(None).expect("spawner");
        let spec = Spec::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]);
        let out = spawner.output(&spec, Duration::from_secs(5)).await.expect("ran");
        assert_eq!((out.stdout.as_str(), out.stderr.as_str(), out.status.code()), ("out\n", "err\n", Some(3)));
    }
}
