//! The `utmctl` program: its commands as functions, and its failures, most of which it leaves with exit code 0.
//!
//! Success is exit code 0 *and* no Apple event's error on standard error (facts of UTM 5.0.3: `UTMCtl.swift`,
//! `UTMScriptable.swift`). The words of such an error come in the user's language, so that only its number is read.

use crate::{
    backend::{deps::BackendDeps, record::PowerState, tool::Tool},
    host::{clock, process::Output},
};
use regex::Regex;
use std::{os::unix::process::ExitStatusExt, path::Path, sync::LazyLock, time::Duration};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    guest::Guest,
    text::one_line,
};

/// What to do where UTM is missing.
pub(super) const INSTALL: &str =
    "install UTM (https://mac.getutm.app) in /Applications, or set `host.tools.utmctl` or VMDECK_UTMCTL";
/// The key of `[host.tools]`, and the program.
pub(super) const PROGRAM: &str = "utmctl";
const USUAL: &[&str] = &["/Applications/UTM.app/Contents/MacOS/utmctl"];
/// How long a question may take: UTM itself may have to start first.
const ASK: Duration = Duration::from_secs(30);
/// How long a start may take.
const START: Duration = Duration::from_mins(2);
/// How long another change of state may take: a clean-up must have time for it.
const CHANGE: Duration = Duration::from_secs(25);
/// How long copying a machine may take.
const COPY: Duration = Duration::from_mins(20);
/// How often a command is tried while the connection to UTM fails in passing.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// The number in an Apple event's error, whatever language it is in.
static EVENT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"OSStatus[^-\d\n]*(-\d+)").unwrap_or_else(|_| unreachable!("built in")));

/// What a failure means for what is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The machine is in a state in which this cannot be done, such as already started.
    NotAvailable,
    /// This kind of machine can never do it.
    NotSupported,
    /// The machine does not run.
    NotRunning,
    /// The machine runs, and must not.
    MustBeStopped,
    /// The guest agent does not answer, yet or at all.
    NoAgent,
    /// An argument was wrong.
    BadArgument,
    /// macOS forbids it: no permission to automate, an SSH session, no login.
    Forbidden,
    /// The connection to UTM failed in passing.
    Passing,
    /// `utmctl` could not be run, or did not answer in time.
    Late,
    /// There is no such machine, or none that may be seen.
    NotFound,
    /// Anything else.
    Other,
}

/// A failure of `utmctl`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) fault: Fault,
    /// The rows that `list` printed all the same: good to choose from, and no proof that there are no others.
    pub(crate) seen: Vec<Row>,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        failure.fault
    }
}

/// Returns whether these words hold an Apple event's error.
pub(super) fn has_event_error(words: &str) -> bool {
    EVENT.is_match(words)
}

/// Whether each command hides the window of UTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hide {
    /// Each command hides the window, and is tried again without hiding where that fails.
    Auto,
    Always,
    Never,
}

/// A row of `list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) uuid: String,
    /// UTM's own word.
    pub(crate) status: String,
    pub(crate) name: String,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Utmctl {
    pub(super) tool: Tool,
    pub(super) hide: Hide,
    /// Carries each command into the graphical session, where this one may not talk to UTM.
    by_terminal: Option<Tool>,
}

impl Utmctl {
    /// Returns the program with this guest's settings; the error is a sentence.
    pub(super) fn find(deps: &BackendDeps, guest: Option<&Guest>) -> Result<Self, String> {
        let tool = Tool::find(deps, PROGRAM, USUAL)?;
        let option = |key| guest.and_then(|guest| guest.options.text(key));
        let hide = match option("hide") {
            Some("always") => Hide::Always,
            Some("never") => Hide::Never,
            _ => Hide::Auto,
        };
        let by_terminal =
            if option("terminal") == Some("never") { None } else { super::applescript_relay::relay(deps, &tool) };
        Ok(Self { tool, hide, by_terminal })
    }

    /// Returns the program, or a fault where it is missing.
    pub(super) fn required(deps: &BackendDeps, guest: Option<&Guest>) -> Result<Self> {
        Self::find(deps, guest).map_err(|why| Fault::host("cannot use UTM").because(why).hint(INSTALL).permanent())
    }

    /// Runs a command that may be repeated. `verb` has one or two words; its options follow them.
    async fn run(&self, verb: &[&str], rest: &[&str], limit: Duration) -> Result<String, Failure> {
        let mut tries = 1;
        loop {
            let failure = match self.once(verb, rest, limit).await {
                Ok(stdout) => return Ok(stdout),
                Err(failure) => failure,
            };
            if failure.kind != FailureKind::Passing || tries >= TRIES {
                return Err(failure);
            }
            tries += 1;
            clock::sleep(PAUSE).await;
        }
    }

    async fn once(&self, verb: &[&str], rest: &[&str], limit: Duration) -> Result<String, Failure> {
        let hidden = [verb, &["--hide"], rest].concat();
        let plain = [verb, rest].concat();
        let first = if self.hide == Hide::Never { &plain } else { &hidden };
        let failure = match read(verb, self.tool.run(first, limit).await) {
            Err(failure) => failure,
            done => return done,
        };
        match (failure.kind, &self.by_terminal) {
            // Two further events are behind `--hide`, and they may be what is refused.
            (FailureKind::Other | FailureKind::Passing, _) if self.hide == Hide::Auto => {
                read(verb, self.tool.run(&plain, limit).await)
            }
            (FailureKind::Forbidden, Some(terminal)) => read(verb, terminal.run(&plain, limit).await),
            // Without the permission every id is "not found" as well.
            (FailureKind::NotFound, Some(terminal)) if self.is_forbidden().await => {
                read(verb, terminal.run(&plain, limit).await)
            }
            _ => Err(failure),
        }
    }

    /// Returns whether this process may not talk to UTM: only `list` says so.
    async fn is_forbidden(&self) -> bool {
        read(&["list"], self.tool.run(["list"], ASK).await).is_err_and(|f| f.kind == FailureKind::Forbidden)
    }

    /// Returns the program that can talk to UTM from here: itself, or through the graphical session.
    pub(super) async fn able(&self) -> &Tool {
        match &self.by_terminal {
            Some(terminal) if self.is_forbidden().await => terminal,
            _ => &self.tool,
        }
    }

    /// Returns every machine that UTM shows. A header without rows beside an error is no empty list.
    pub(super) async fn list(&self) -> Result<Vec<Row>, Failure> {
        self.run(&["list"], &[], ASK).await.map(|text| rows(&text))
    }

    /// Returns the status of a machine, in UTM's own word.
    pub(super) async fn status(&self, id: &str) -> Result<String, Failure> {
        let text = self.run(&["status"], &[id], ASK).await?;
        Ok(text.trim().to_owned())
    }

    pub(super) async fn start(&self, id: &str, disposable: bool) -> Result<(), Failure> {
        let rest: &[&str] = if disposable { &["--disposable", id] } else { &[id] };
        self.run(&["start"], rest, START).await.map(drop)
    }

    pub(super) async fn stop(&self, id: &str, how: &str) -> Result<(), Failure> {
        self.run(&["stop"], &[how, id], CHANGE).await.map(drop)
    }

    pub(super) async fn suspend(&self, id: &str) -> Result<(), Failure> {
        self.run(&["suspend"], &[id], CHANGE).await.map(drop)
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), Failure> {
        self.run(&["delete"], &[id], CHANGE).await.map(drop)
    }

    /// Copies a machine; never repeated, since a copy whose answer was lost would be made twice. It continues when this
    /// is dropped, and when we die: UTM does too, and only its end shows when it is finished. `scratch` holds what it
    /// says.
    pub(super) async fn clone_machine(&self, id: &str, name: &str, scratch: &Path) -> Result<(), Failure> {
        let failed = |e: std::io::Error| {
            let fault = Fault::host(format!("cannot write `{}`", scratch.display())).because(e);
            Failure { kind: FailureKind::Other, fault, seen: Vec::new() }
        };
        let (out, err) = (scratch.with_extension("out"), scratch.with_extension("err"));
        let (stdout, stderr) =
            (vmdeck_files::create(&out).map_err(failed)?, vmdeck_files::create(&err).map_err(failed)?);
        let hide: &[&str] = if self.hide == Hide::Never { &[] } else { &["--hide"] };
        let args = [&["clone"], hide, &[id, "--name", name]].concat();
        let late = |fault| Failure { kind: FailureKind::Late, fault, seen: Vec::new() };
        let mut child = self.able().await.start(args, stdout, stderr).await.map_err(late)?;
        let status = clock::within(COPY, child.wait()).await;
        let status =
            status.ok_or_else(|| late(Fault::infra("cannot copy a machine").because("UTM took longer than 20 min")))?;
        let read_file = |path: &Path| String::from_utf8_lossy(&vmdeck_files::read_tail(path, 4096)).into_owned();
        let output = Output { status: status.map_err(failed)?, stdout: read_file(&out), stderr: read_file(&err) };
        read(&["clone"], Ok(output)).map(drop)
    }

    /// Returns the text that UTM prints about the machine's addresses.
    pub(super) async fn addresses(&self, id: &str) -> Result<String, Failure> {
        self.run(&["ip-address"], &[id], ASK).await
    }
}

/// Returns the outcome of one call.
fn read(verb: &[&str], out: Result<Output>) -> Result<String, Failure> {
    let out = out.map_err(|fault| Failure { kind: FailureKind::Late, fault, seen: Vec::new() })?;
    if out.status.success() && !has_event_error(&out.stderr) {
        return Ok(out.stdout);
    }
    let code = out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0));
    let failure = explain(&verb.join(" "), &out.stderr, code);
    Err(Failure { seen: rows(&out.stdout), ..failure })
}

/// Returns a failure in the tool's own words, with what to do about those that are known.
pub(crate) fn explain(command: &str, words: &str, code: i32) -> Failure {
    let number: Option<i64> = EVENT.captures(words).and_then(|found| found[1].parse().ok());
    let shown =
        if words.trim().is_empty() { format!("it exited with {code} and gave no reason") } else { one_line(words) };
    let make = |kind, blame| Failure {
        kind,
        fault: Fault::new(blame, format!("cannot run `utmctl {command}`")).because(&shown),
        seen: Vec::new(),
    };
    let hinted = |kind, blame, hint: &str| {
        let failure = make(kind, blame);
        Failure { fault: failure.fault.hint(hint).permanent(), ..failure }
    };
    let says = |text: &str| words.contains(text);
    match number {
        Some(-1743) => hinted(FailureKind::Forbidden, Blame::Host, AUTOMATION),
        Some(-600) => hinted(
            FailureKind::Other,
            Blame::Host,
            "UTM is not running for this user: do not use sudo, and log in to the desktop first",
        ),
        Some(-10004) => hinted(
            FailureKind::Other,
            Blame::Host,
            "macOS denied permission: run vmdeck as the user who owns the machines",
        ),
        Some(-609 | -1712) => make(FailureKind::Passing, Blame::Infra),
        Some(-2700) if says("Operation not available") => make(FailureKind::NotAvailable, Blame::Infra),
        Some(-2700) if says("not supported by the backend") => hinted(
            FailureKind::NotSupported,
            Blame::Infra,
            "machines of Apple's virtualization have no guest agent: set `ssh.host`, or let vmdeck search for the address",
        ),
        Some(-2700) if says("must be stopped before") => make(FailureKind::MustBeStopped, Blame::Infra),
        Some(-2700) if says("is not running.") && !says("guest agent") => make(FailureKind::NotRunning, Blame::Infra),
        Some(-2700) if says("guest agent") || says("Timed out waiting for RPC") => {
            make(FailureKind::NoAgent, Blame::Infra)
        }
        Some(-2700) if says("missing or invalid") => {
            hinted(FailureKind::BadArgument, Blame::Bug, "this is a bug in vmdeck")
        }
        Some(_) => make(FailureKind::Other, Blame::Infra),
        None if says("Virtual machine not found") => hinted(
            FailureKind::NotFound,
            Blame::Infra,
            "`utmctl list` shows the machines; without permission to automate UTM, every machine is `not found`",
        ),
        None if says("Application not found") => hinted(FailureKind::Other, Blame::Host, INSTALL),
        None if code == 64 => {
            hinted(FailureKind::BadArgument, Blame::Bug, "this version of utmctl has a different command line")
        }
        None if matches!(code, 133 | 134) => hinted(FailureKind::Forbidden, Blame::Host, AUTOMATION),
        None => make(FailureKind::Other, Blame::Infra),
    }
}

const AUTOMATION: &str = "macOS does not let this process talk to UTM: allow it in System Settings > Privacy & Security > Automation; \
                          from SSH or before login, run vmdeck as a LaunchAgent of the logged-in user, or set `ssh.host` and start the machine by hand";

/// Returns the rows of `list`: `UUID STATUS NAME`, the name may contain blanks.
pub(crate) fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let (uuid, rest) = line.trim_end().split_at_checked(36)?;
        let good = uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && uuid.contains('-');
        let (status, name) = rest.strip_prefix(' ')?.split_once(' ')?;
        let name = name.trim_start();
        let row = || Row { uuid: uuid.to_owned(), status: status.to_owned(), name: name.to_owned() };
        (good && !status.is_empty() && !name.is_empty()).then(row)
    };
    text.lines().filter_map(row).collect()
}

/// Returns the machine that a person means: by its UUID, else by its whole name.
pub(crate) fn named<'a>(rows: &'a [Row], wanted: &str) -> Option<&'a Row> {
    let by_id = rows.iter().find(|row| row.uuid.eq_ignore_ascii_case(wanted));
    by_id.or_else(|| rows.iter().find(|row| row.name == wanted))
}

/// Returns what a status word means for whether the machine is up.
pub(crate) fn power(status: &str) -> PowerState {
    match status {
        "stopped" | "stopping" => PowerState::Off,
        "paused" | "pausing" => PowerState::Suspended,
        _ => PowerState::On,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "UUID                                 Status   Name\n\
                        FC379EA4-195C-499E-BDC9-066470BCA5C9 started  macOS (blank backup)\n\
                        0C379EA4-195C-499E-BDC9-066470BCA5C9 stopped  ci-linux\n";

    #[test]
    fn the_list_is_read_without_its_header() {
        let found = rows(TEXT);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].status.as_str(), found[0].name.as_str()), ("started", "macOS (blank backup)"));
    }

    /// Trap 2 of the tool: one number, six meanings.
    #[test]
    fn trap_02_the_second_line_tells_what_2700_means() {
        let check = |text: &str, is| {
            let words =
                format!("Error from event: The operation couldn’t be completed. (OSStatus error -2700.)\n{text}");
            assert_eq!(explain("x", &words, 0).kind, is, "{text}");
        };
        check("Operation not available.", FailureKind::NotAvailable);
        check("Operation not supported by the backend.", FailureKind::NotSupported);
        check("The virtual machine is not running.", FailureKind::NotRunning);
        check(
            "The virtual machine must be stopped before this operation can be performed.",
            FailureKind::MustBeStopped,
        );
        check("The QEMU guest agent is not running or not installed on the guest.", FailureKind::NoAgent);
        check("One or more required parameters are missing or invalid.", FailureKind::BadArgument);
        check("Timed out waiting for RPC.", FailureKind::NoAgent);
        check("The virtual machine is in an invalid state.", FailureKind::Other);
    }

    #[test]
    fn the_other_numbers_tell_whose_matter_it_is() {
        for (number, kind, blame, again) in [
            (-1743, FailureKind::Forbidden, Blame::Host, false),
            (-600, FailureKind::Other, Blame::Host, false),
            (-10004, FailureKind::Other, Blame::Host, false),
            (-609, FailureKind::Passing, Blame::Infra, true),
            (-1712, FailureKind::Passing, Blame::Infra, true),
            (-50, FailureKind::Other, Blame::Infra, true),
        ] {
            for words in [
                format!("Error from event: x (OSStatus error {number}.)"),
                format!("操作を完了できませんでした。（OSStatusエラー{number}）"),
            ] {
                let Failure { kind: found, fault, .. } = explain("list", &words, 0);
                assert_eq!((found, fault.blame(), fault.is_worth_a_retry()), (kind, blame, again), "{words}");
            }
        }
        for (code, words, kind) in [
            (1, "Error: Virtual machine not found.", FailureKind::NotFound),
            (64, "Error: Unknown option '--foo'", FailureKind::BadArgument),
            (133, "Trace/BPT trap: 5", FailureKind::Forbidden),
            (7, "", FailureKind::Other),
        ] {
            assert_eq!(explain("x", words, code).kind, kind, "{words}");
        }
    }

    #[test]
    fn every_status_has_its_meaning() {
        for (word, is) in [
            ("stopped", PowerState::Off),
            ("starting", PowerState::On),
            ("started", PowerState::On),
            ("pausing", PowerState::Suspended),
            ("paused", PowerState::Suspended),
            ("resuming", PowerState::On),
            ("stopping", PowerState::Off),
            ("unknown", PowerState::On),
        ] {
            assert_eq!(power(word), is, "{word}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in ".{0,300}") {
            let _ = (rows(&text), explain("x", &text, 0));
        }
    }
}
