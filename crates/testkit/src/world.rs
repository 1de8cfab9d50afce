//! A place of its own for each test: folder, state, lock, config; and the real binary run in it.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Returns the vmdeck binary that was built with the running test or benchmark: it lies two folders above it.
///
/// # Panics
/// Where it is not there: tests of the root package build it.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let binary = own.ancestors().skip(1).map(|dir| dir.join("vmdeck")).find(|path| path.is_file());
    binary.unwrap_or_else(|| panic!("no vmdeck beside or above {}", own.display()))
}

/// A scratch world; it is removed with this value.
pub struct World {
    /// Everything of the world lies in here.
    pub home: tempfile::TempDir,
    /// What a user has set besides.
    pub env: Vec<(String, String)>,
}

impl World {
    /// Makes a world with this config, whose lock, limits and state are its own.
    pub fn new(config: &str) -> Self {
        let home = tempfile::tempdir().expect("tempdir");
        let lock = home.path().join("lock.d");
        let head = format!(
            "[host]\nlock = \"{}\"\nmin_free_disk = \"1MiB\"\nwarn_free_disk = \"1MiB\"\nmin_free_memory = \"1MiB\"\n",
            lock.display()
        );
        fs::write(home.path().join("vmdeck.toml"), head + config).expect("config");
        Self { home, env: Vec::new() }
    }

    /// Returns a path in the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Returns the state folder.
    pub fn state(&self) -> PathBuf {
        self.path("state/vmdeck")
    }

    /// Returns the binary in this world; environment that could change its ways is taken out.
    pub fn vmdeck(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.home.path()).env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_CONFIG_HOME", self.path("config")).stdin(Stdio::null());
        command.env("VMDECK_SNAPSHOTS_CACHE", self.path("snapshots"));
        let of_ci = [
            "GITHUB_RUN_ID",
            "CI_PIPELINE_ID",
            "BUILDKITE_BUILD_ID",
            "CIRCLE_WORKFLOW_ID",
            "BUILD_BUILDID",
            "BUILD_TAG",
        ];
        let others = ["GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "NO_COLOR", "CI", "SSH_AUTH_SOCK"];
        for name in of_ci.into_iter().chain(others) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.vmdeck(args).output().expect("vmdeck runs"))
    }

    /// `--ci` with the record in `record`.
    pub fn ci(&self, args: &[&str]) -> Ran {
        self.run(&[&["--ci", "--run-dir", "record"], args].concat())
    }

    /// Runs the binary in namespaces of its own (the options of `unshare`), after some shell commands in there; `$0` is the
    /// binary.
    pub fn inside(&self, namespaces: &[&str], before: &str, args: &[&str]) -> Ran {
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-ec", &format!("{before}\nexec \"$0\" \"$@\"")]).arg(binary()).args(args);
        for (name, value) in self.vmdeck(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ran::of(&command.current_dir(self.home.path()).stdin(Stdio::null()).output().expect("unshare runs"))
    }

    /// Starts the binary with both outputs piped.
    pub fn start(&self, args: &[&str]) -> Child {
        self.vmdeck(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vmdeck starts")
    }

    /// Starts a run that takes commands, as a cockpit's engine does; its record is in `record`.
    pub fn controlled(&self, args: &[&str]) -> (Child, ChildStdin) {
        let mut command = self.vmdeck(&[&["--ci", "--commands", "--run-dir", "record"], args].concat());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("vmdeck starts");
        let stdin = child.stdin.take().expect("piped");
        (child, stdin)
    }

    /// Waits for an event with this text in its line.
    #[track_caller]
    pub fn until_event(&self, text: &str) {
        let read = || fs::read_to_string(self.path("record/events.jsonl")).unwrap_or_default();
        eventually(text, Duration::from_secs(30), || read().lines().any(|line| line.contains(text)));
    }

    /// Returns a file of the record as text.
    pub fn record(&self, name: &str) -> String {
        fs::read_to_string(self.path("record").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Returns a file of the record as JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.record(name)).expect("json")
    }

    /// Returns every event of the record.
    pub fn events(&self) -> Vec<Value> {
        self.record("events.jsonl").lines().map(|l| serde_json::from_str(l).expect("event")).collect()
    }

    /// Returns the events of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|e| e["kind"] == kind).collect()
    }

    /// `suite/case` and verdict of every case that ended.
    pub fn verdicts(&self) -> Vec<(String, String)> {
        let name = |e: &Value, key: &str| e[key].as_str().expect("text").to_owned();
        let pair = |e: &Value| (format!("{}/{}", name(e, "suite"), name(e, "case")), name(e, "verdict"));
        self.of_kind("case_ended").iter().map(pair).collect()
    }

    /// Returns the verdict of a case, `suite/case`.
    pub fn verdict_of(&self, case: &str) -> String {
        let all = self.verdicts();
        all.iter().find(|(name, _)| name == case).unwrap_or_else(|| panic!("{case} in {all:?}")).1.clone()
    }

    /// Asserts that exactly these cases ended, in this order and with these verdicts.
    #[track_caller]
    pub fn assert_verdicts(&self, wanted: &[(&str, &str)]) {
        let seen = self.verdicts();
        let pairs: Vec<(&str, &str)> = seen.iter().map(|(name, verdict)| (name.as_str(), verdict.as_str())).collect();
        assert_eq!(pairs, wanted);
    }

    /// Nothing of a run may stay: no journal, no machine, no lock, no process that names this world.
    pub fn assert_nothing_left(&self) {
        let entries = |path: PathBuf| -> Vec<String> {
            let list = fs::read_dir(path).into_iter().flatten().flatten();
            list.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
        };
        // A guardian may still be about its last deed, such as removing the lock that it has set aside.
        let start = Instant::now();
        while !self.processes().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5), "processes: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(entries(self.state().join("machines")), Vec::<String>::new(), "machines");
        assert_eq!(entries(self.state().join("runs")), Vec::<String>::new(), "journals");
        let locks: Vec<String> =
            entries(self.home.path().to_owned()).into_iter().filter(|n| n.starts_with("lock.d")).collect();
        assert_eq!(locks, Vec::<String>::new(), "locks");
    }

    /// Command lines of processes that name this world's folder, and of local guests made in it.
    pub fn processes(&self) -> Vec<String> {
        let home = self.home.path().to_string_lossy().into_owned();
        let read = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
        let all = fs::read_dir("/proc")
            .expect("proc")
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
        all.map(|e| e.path())
            .filter(|p| *p != Path::new("/proc").join(std::process::id().to_string()))
            .filter(|p| {
                let marked = read(p.join("environ")).split(' ').any(|v| v.starts_with("VMDECK_MACHINE="));
                read(p.join("cmdline")).contains(&home) || (marked && read(p.join("environ")).contains(&home))
            })
            .map(|p| read(p.join("cmdline")))
            .filter(|line| !line.is_empty())
            .collect()
    }
}

/// Returns the tables of a suite `s` with these cases: name, command, further lines.
pub fn suite(cases: &[(&str, &str, &str)]) -> String {
    let mut out = "[suites.s]\n".to_owned();
    for (name, run, lines) in cases {
        out.push_str(&format!("[[suites.s.cases]]\nname = \"{name}\"\nrun = '''{run}'''\n{lines}\n"));
    }
    out
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or the negative number of the signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Returns what a finished process left.
    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code, showing everything if it differs.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    /// Asserts that standard output has this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text), "{text:?} not in\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    /// Asserts that standard error has this text.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} not in\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }
}

/// Tells a run that takes commands one line.
pub fn tell(stdin: &mut ChildStdin, line: &str) {
    writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("it reads");
}

/// Ends a child with a signal and collects what it wrote.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(status.expect("kill").success());
}

/// Waits for the end of a child whose outputs are piped.
pub fn finish(child: Child) -> Ran {
    Ran::of(&child.wait_with_output().expect("collected"))
}

/// Waits until something holds; for things that only the outside can see.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "{what} did not happen within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a child's standard output until a text has come; returns what was read.
#[track_caller]
pub fn read_until(child: &mut Child, text: &str) -> String {
    let out = child.stdout.as_mut().expect("piped");
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while out.read(&mut byte).is_ok_and(|n| n == 1) {
        seen.push(byte[0]);
        if seen.ends_with(text.as_bytes()) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
    panic!("{text:?} did not come; so far:\n{}", String::from_utf8_lossy(&seen));
}
