//! What can happen in a run: one plain record for each fact, the only thing that leaves the engine.
//!
//! Events carry facts, never display policy. The JSON form is a contract: one object per line, `kind` names the variant,
//! readers ignore unknown kinds and fields.

use super::{
    error::Fault,
    exit::RunExit,
    ids::{CaseId, GuestId, RunId, SuiteId},
    lifecycle::MachineState,
    memory::PromisedMemory,
    outcome::{CancelReason, Tally, Verdict},
    shard::{RunOrigin, RunPart},
    subtest::{Subtest, SubtestProgress, SubtestTally},
    text::Clean,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest line of a record that can be an event, in bytes: the first one names every case of the plan.
pub const LINE_MAX: usize = 16 << 20;

/// One fact with its place in the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The number of the event, from 1 and without gaps: `output` lines that are skipped for a slow reader get none.
    pub seq: u64,
    /// The wall-clock time.
    #[serde(serialize_with = "millis")]
    pub at: DateTime<Utc>,
    /// The milliseconds since the run started, by a clock that never jumps.
    pub elapsed_ms: u64,
    /// The run that told it, in a record that was merged from several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
    /// The fact itself.
    #[serde(flatten)]
    pub kind: EventKind,
}

fn millis<S: serde::Serializer>(at: &DateTime<Utc>, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// A step on a guest's way; a pair of `phase_started` and `phase_ended` frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The guest waits until this host has memory for it.
    WaitForMemory,
    /// The backend makes the machine.
    Create,
    /// A machine is begun from a snapshot, until it runs.
    Restore,
    /// The time from the request to start until the machine answers, where there is no console to watch.
    Launch,
    /// The time from power-on to the kernel's first line.
    Firmware,
    /// The time from the kernel's first line to the first process.
    Kernel,
    /// The time from the first process to the ready pattern, or to the first answer of a service.
    Userspace,
    /// The wait until the login service shows its banner.
    #[serde(rename = "sshd", alias = "service")]
    Service,
    /// The wait until a command has been run and has answered.
    FirstCommand,
    /// A restored guest gets the time of this host, random numbers and names of its own.
    Renew,
    /// The source is copied into the guest.
    Source,
    /// The machine is frozen into a snapshot.
    Freeze,
    /// The cases of the suites are run.
    Tests,
    /// The guest is up for a person, with no case to run.
    Hold,
    /// The guest failed and is held for inspection before it is taken down; `usual_ms` is the countdown.
    Pause,
    /// The machine is taken down and its absence proven.
    Cleanup,
}

impl Phase {
    /// Returns the word used in events and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::WaitForMemory => "wait for memory",
            Phase::Create => "create",
            Phase::Restore => "restore",
            Phase::Launch => "launch",
            Phase::Firmware => "firmware",
            Phase::Kernel => "kernel",
            Phase::Userspace => "userspace",
            Phase::Service => "sshd",
            Phase::FirstCommand => "first command",
            Phase::Renew => "renew",
            Phase::Source => "source",
            Phase::Freeze => "freeze",
            Phase::Tests => "tests",
            Phase::Hold => "hold",
            Phase::Pause => "pause",
            Phase::Cleanup => "cleanup",
        }
    }

    /// The phases of a boot, or of what stands for one, in their order.
    pub const BOOT: [Phase; 7] = [
        Phase::Restore,
        Phase::Launch,
        Phase::Firmware,
        Phase::Kernel,
        Phase::Userspace,
        Phase::Service,
        Phase::FirstCommand,
    ];

    /// Returns whether the phase is part of the boot.
    pub fn is_boot(self) -> bool {
        Self::BOOT.contains(&self)
    }
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The host is as it should be.
    Ok,
    /// Something was wrong and has been put right.
    Fixed,
    /// A person should inspect it.
    Warn,
    /// The run cannot start.
    Fatal,
}

impl Severity {
    /// Returns the word in front of a finding; all have the same width.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok   ",
            Severity::Fixed => "fixed",
            Severity::Warn => "warn ",
            Severity::Fatal => "FATAL",
        }
    }
}

/// A check of the host and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the check: `disk`, `memory`, `qemu`.
    pub check: String,
    /// How serious the finding is.
    pub severity: Severity,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// The command that does it, as words; not in the record, which tells of another time and perhaps another host.
    #[serde(skip)]
    pub fix: Option<Vec<String>>,
}

impl Finding {
    /// Returns a fault as the finding of a check.
    pub fn of_fault(check: &str, severity: Severity, fault: &Fault) -> Self {
        Self {
            check: check.to_owned(),
            severity,
            text: fault.to_string(),
            hint: fault.remedy().map(str::to_owned),
            fix: fault.fix().map(<[String]>::to_vec),
        }
    }
}

/// Who holds the host lock, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process id of the holder.
    pub pid: Option<u32>,
    /// The id of the holder's run.
    pub run: Option<String>,
    /// The command line of the holder.
    pub command: Option<String>,
    /// The name of the holder's host.
    pub host: Option<String>,
    /// Since when the lock is held, as RFC 3339.
    pub since: Option<String>,
    /// What the holder is doing.
    pub phase: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("an unknown process")?,
        }
        for (word, value) in [("on", &self.host), ("run", &self.run), ("since", &self.since), ("now", &self.phase)] {
            if let Some(value) = value {
                // Another program wrote it.
                write!(f, ", {word} {}", Clean::from_text(value))?;
            }
        }
        Ok(())
    }
}

/// What a console line meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternKind {
    /// The ready pattern was found.
    Ready,
    /// A warning pattern was found.
    Warning,
    /// An error pattern, or a panic, was found.
    Error,
}

/// A guest in the list of `run_started`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedGuest {
    /// The name of the guest.
    pub guest: GuestId,
    /// The backend of the guest.
    pub backend: String,
    /// The operating system of the guest.
    pub os: String,
    /// Whether the backend isolates the guest from this host.
    pub isolated: bool,
    /// How many cases will run in the guest.
    pub cases: usize,
    /// The names of the cases, `suite/case`, in order and without repetitions.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub names: Vec<String>,
    /// The guest of which this is a further machine: its cases are told under that name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub one_more_of: Option<GuestId>,
}

/// Which stream an output line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The standard output of a command.
    Stdout,
    /// The standard error of a command.
    Stderr,
    /// The serial console.
    Console,
}

impl Stream {
    /// Returns the stream's word, as events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Console => "console",
        }
    }
}

/// What a verdict comes from, if not from the case itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseCause {
    /// The setup of its suite failed.
    Setup,
    /// Artifacts of its suite that had to come did not; no case of the config.
    Artifacts,
    /// The run ended before anything of it began.
    NotBegun,
    /// No record of those that were merged tells how it ended.
    Untold,
}

/// A case that was found in its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundCase {
    /// Its id.
    pub case: CaseId,
    /// Its name, as whoever listed it has it, where the id cannot hold that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

/// How one attempt at a case went, where there were several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The verdict of the attempt.
    pub verdict: Verdict,
    /// The exit code of the command, if it had one.
    pub exit: Option<i32>,
    /// How long the attempt took, in milliseconds.
    pub took_ms: u64,
    /// Why the attempt did not pass.
    pub message: String,
    /// The last lines of standard output.
    pub stdout_tail: String,
    /// The last lines of standard error.
    pub stderr_tail: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are named after what they hold; each variant says what happened")]
pub enum EventKind {
    /// The first event of every record.
    RunStarted {
        run: RunId,
        version: String,
        host: String,
        dir: String,
        selection: Vec<String>,
        /// The config file.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        config: Option<String>,
        guests: Vec<PlannedGuest>,
        cases: usize,
        #[serde(flatten)]
        part: RunPart,
        /// The runs from whose records this one was merged.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        origins: Vec<RunOrigin>,
    },
    /// It is known which revision of the code the config's folder has; `dirty` = with changes that no commit has.
    Revision { commit: String, dirty: bool },
    /// Another process holds the lock; repeated every 10 s.
    LockWaiting { path: String, holder: Holder, waited_ms: u64 },
    /// This run holds the lock.
    LockHeld { path: String, waited_ms: u64 },
    /// A guest waits until this host has the memory that it needs; repeated every 10 s. `left` = what can be promised now, `place` = 1
    /// for the one that is next.
    MemoryWaiting {
        guest: GuestId,
        /// The guests that get theirs together with it.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        with: Vec<GuestId>,
        needs: u64,
        left: u64,
        place: usize,
        /// The machines that have some.
        promised: Vec<PromisedMemory>,
        waited_ms: u64,
    },
    /// This run no longer holds the lock: the run ends as infra.
    LockLost { path: String, why: String },
    /// The host was checked.
    PreflightFinding(Finding),
    /// Something that a dead run left behind was removed.
    Reaped { run: String, what: String, how: String },
    /// A machine went from one state to another.
    GuestState {
        guest: GuestId,
        from: MachineState,
        to: MachineState,
        why: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        machine: Option<String>,
    },
    /// A machine is on this member of a cluster.
    MachinePlaced { guest: GuestId, machine: String, on: String },
    /// A guest got the machine that a run before kept for it; `times` counts the runs that have used it since.
    Reused { guest: GuestId, machine: String, run: String, times: u32 },
    /// A phase began; from earlier boots of this guest: `usual_ms` is what it took, `rest_ms` what the boot still took after
    /// it, `quiet_ms` the longest time without a console line in it.
    PhaseStarted {
        guest: GuestId,
        phase: Phase,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        usual_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rest_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        quiet_ms: Option<u64>,
    },
    /// A phase ended.
    PhaseEnded { guest: GuestId, phase: Phase, ok: bool, took_ms: u64 },
    /// A pattern was found on the console.
    ConsoleMatch {
        guest: GuestId,
        meaning: PatternKind,
        pattern: String,
        line: String,
        context: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        block: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        taint: Option<String>,
    },
    /// A transport was tried; with `way`, a way to find the address for it.
    RouteTried {
        guest: GuestId,
        transport: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        way: Option<String>,
        ok: bool,
        why: String,
        took_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        address: Option<String>,
    },
    /// A case is others, which were found in its guest; `round` counts the repetitions. Sent in parts where they are many.
    CasesFound {
        guest: GuestId,
        suite: SuiteId,
        case: CaseId,
        round: u32,
        /// Each of them, in order.
        cases: Vec<FoundCase>,
    },
    /// A case began.
    CaseStarted {
        guest: GuestId,
        suite: SuiteId,
        case: CaseId,
        round: u32,
        attempt: u32,
        /// How many of its own tests are run again, where it is not the whole case.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        only: Option<u32>,
        /// Whether it goes on beside the cases behind it.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        background: bool,
    },
    /// Files of a suite or of one of its cases have come from its guest.
    ArtifactsFetched {
        guest: GuestId,
        suite: SuiteId,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        case: Option<CaseId>,
        files: u64,
        bytes: u64,
    },
    /// A case is a question, and waits for the answer of a person.
    Asked { guest: GuestId, suite: SuiteId, case: CaseId, question: String },
    /// A case ended, after all its attempts.
    CaseEnded {
        guest: GuestId,
        suite: SuiteId,
        case: CaseId,
        round: u32,
        verdict: Verdict,
        exit: Option<i32>,
        took_ms: u64,
        message: String,
        stdout_tail: String,
        stderr_tail: String,
        /// What the verdict comes from, if not from the case itself.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        cause: Option<CaseCause>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        earlier: Vec<Attempt>,
        /// The counts of the tests that the last attempt ran itself, where the case says where their results are.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        subtests: Option<SubtestTally>,
        /// Whether nothing but those of them that failed speaks against the case.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        by_subtests: bool,
        /// Where the failure is explained, if the case is in quarantine: then it does not make the run red.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        quarantined: Option<String>,
    },
    /// A test that the case's command ran itself has ended, as the command's results say.
    SubtestEnded {
        guest: GuestId,
        suite: SuiteId,
        case: CaseId,
        round: u32,
        attempt: u32,
        #[serde(flatten)]
        subtest: Subtest,
    },
    /// How far such tests are, while the command runs; sent when it has changed, a few times in a second at most.
    SubtestProgress {
        guest: GuestId,
        suite: SuiteId,
        case: CaseId,
        #[serde(flatten)]
        progress: SubtestProgress,
    },
    /// A line that a guest wrote, made safe.
    Output {
        guest: GuestId,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        suite: Option<SuiteId>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        case: Option<CaseId>,
        stream: Stream,
        line: String,
    },
    /// Something is tried once more.
    Retrying {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        guest: Option<GuestId>,
        what: String,
        attempt: u32,
        of: u32,
        after_ms: u64,
        why: String,
    },
    /// The run is being cancelled.
    CancelBegan { reason: CancelReason },
    /// A guest is being taken down.
    CleanupBegan { guest: GuestId },
    /// A guest was taken down; `left` names what could not be proven gone, `adopted` says that the machine was put back to how
    /// it was found, `freed` the bytes of disk that came free.
    CleanupEnded {
        guest: GuestId,
        proofs: Vec<String>,
        left: Vec<String>,
        kept: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        adopted: bool,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        freed: Option<u64>,
    },
    /// The last event of every record.
    RunEnded {
        tally: Tally,
        exit: RunExit,
        took_ms: u64,
        skipped_output: u64,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        hint: Option<String>,
    },
    /// Something that a person should know.
    Warning {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        guest: Option<GuestId>,
        text: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        hint: Option<String>,
    },
    /// How far something has come that takes its time, such as a download.
    Progress {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        guest: Option<GuestId>,
        text: String,
    },
    /// It is known which lines of the user's programs were run so far.
    Coverage {
        /// The file in the record.
        file: String,
        /// The lines that can be run.
        lines: u64,
        /// Those of them that were.
        hit: u64,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flat_object_with_the_kind_in_it() {
        let event = Event {
            seq: 12,
            at: DateTime::from_timestamp_millis(1_795_000_000_123).expect("time"),
            elapsed_ms: 4511,
            origin: None,
            kind: EventKind::PhaseEnded {
                guest: GuestId::new("deb").expect("name"),
                phase: Phase::FirstCommand,
                ok: true,
                took_ms: 7,
            },
        };
        let line = serde_json::to_string(&event).expect("json");
        assert_eq!(
            line,
            r#"{"seq":12,"at":"2026-11-18T11:06:40.123Z","elapsed_ms":4511,"kind":"phase_ended","guest":"deb","phase":"first_command","ok":true,"took_ms":7}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).expect("back"), event);
    }

    #[test]
    fn an_unknown_kind_and_unknown_fields_are_read() {
        let line = r#"{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"teleported","to":"mars"}"#;
        let event: Event = serde_json::from_str(line).expect("readable");
        assert_eq!(event.kind, EventKind::Unknown);
        let line = r#"{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"warning","text":"x","new":3}"#;
        assert!(serde_json::from_str::<Event>(line).is_ok());
    }
}
