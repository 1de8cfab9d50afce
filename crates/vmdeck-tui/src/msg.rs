//! What can happen to the cockpit, and what it can want done: plain data on both sides of `update`.

use super::{
    errors::ErrorRow,
    green_diff::DiffLine,
    host_state::{Capacity, LockRow, Usage},
    logs::save::Part,
    model::{RecordSource, RunRequest, Whose},
    past_runs::{CaseHistory, PastRunRow},
    theme::Theme,
};
use crossterm::event::{KeyEvent, MouseEvent};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use vmdeck_model::{
    command::Command,
    error::Fault,
    event::{Event, Finding, Holder, Severity},
    exit::RunExit,
    ids::GuestId,
    plan::Setup,
};
use vmdeck_model::{machine::OwnedMachine, memory::MemoryStanding};

/// Something that happened.
#[derive(Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse was moved or clicked.
    Mouse(MouseEvent),
    /// A text was pasted.
    Paste(String),
    /// The terminal has another size.
    Resize(u16, u16),
    /// The terminal has gained or lost focus.
    Focus(bool),
    /// Time has passed.
    Tick,
    /// The log that is shown has grown, or a search in it has advanced.
    LogGrew,

    /// Another record is shown from now on.
    Opened(Opened),
    /// The record that is shown has these further events.
    Events(Vec<Event>),
    /// The engine of our run has ended, in whatever way.
    EngineEnded {
        /// The exit code, if the engine ended by itself.
        exit: Option<RunExit>,
        /// What the engine wrote to its standard error.
        words: String,
    },
    /// A run could not be started.
    NotStarted(Fault),

    /// The config was read.
    Setup(Result<Arc<Setup>, Fault>),
    /// The theme was read.
    Theme(Result<Theme, Fault>),
    /// The machines that the backends see were listed.
    Machines(Result<Vec<OwnedMachine>, Fault>),
    /// The usage of our machines was measured.
    Usage(BTreeMap<String, Usage>),
    /// It was looked how the host's memory stands.
    Memory(MemoryStanding),
    /// The lock was checked.
    Locks(Vec<LockRow>),
    /// Who waits for the lock, the first first.
    Queue(Vec<Holder>),
    /// The runs of this folder, the newest first.
    PastRuns(Vec<PastRunRow>),
    /// What the last runs said of each case.
    CaseHistory(CaseHistory),
    /// The errors of the run that is shown.
    Errors(Vec<ErrorRow>),
    /// What is different from the last time that a case passed.
    Compared {
        /// The case.
        title: String,
        /// The comparison.
        lines: Vec<DiffLine>,
    },
    /// The code cannot be watched.
    NotWatched(Fault),
    /// The code has changed: these files.
    CodeChanged(Vec<String>),
    /// The run of another process that is shown is not carried out by anybody any more.
    Abandoned,
    /// The host was checked.
    Findings(Vec<Finding>, Capacity),
    /// The leftovers of dead runs were listed, a line each.
    Orphans(Vec<String>),
    /// A console is attached; the bytes are what it wrote before.
    ConsoleOpened(GuestId, Vec<u8>),
    /// The attached console wrote these bytes.
    ConsoleBytes(Vec<u8>),
    /// The console is no longer attached, for this reason.
    ConsoleClosed(String),
    /// Something was done, or could not be.
    Said(Severity, String),
    /// There is something longer to read.
    Read {
        /// The title.
        title: String,
        /// The text.
        text: String,
    },
    /// A file of the theme has changed.
    ThemeChanged,
    /// An effect has a further effect.
    Do(Effect),
    /// A signal came: the cockpit is to end.
    Signal,
}

/// A record that is shown from now on.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The folder.
    pub dir: PathBuf,
    /// Which record it is.
    pub record: RecordSource,
    /// Whose run it is.
    pub whose: Whose,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start a run.
    Start(RunRequest),
    /// Send a command to the engine of our run.
    Send(Command),
    /// Let our run continue without the cockpit.
    Detach,
    /// List the machines.
    ListMachines,
    /// Check the host.
    Recheck,
    /// Check the lock; where another run holds it and none of ours is in progress, show its record.
    LookAtLock {
        /// Whether a record of another run is to be shown.
        attach: bool,
    },
    /// Show the record of another process's run.
    Watch {
        /// The folder.
        dir: PathBuf,
        /// The owner of the run, in words.
        who: String,
    },
    /// Release the lock; with the pid of a holder that lives.
    BreakLock {
        /// The directory of the slot.
        path: PathBuf,
        /// The process that the lock is taken from.
        pid: Option<u32>,
    },
    /// List what dead runs left.
    ListOrphans,
    /// Remove what dead runs left.
    CleanUp,
    /// Open a shell in a guest, on the whole terminal, with the environment of a suite.
    Shell(GuestId, Option<String>),
    /// Attach a guest's console.
    Attach(GuestId),
    /// Type into the attached console.
    Type(Vec<u8>),
    /// Detach the console.
    Unattach,
    /// Show a file in a program of the user's at a line, from 1.
    Open {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// Whether to use the editor instead of the pager.
        editor: bool,
    },
    /// List the runs of this folder.
    ListRuns,
    /// Look up what the last runs said of each case.
    LoadHistory,
    /// List the errors of the run that is shown.
    ListErrors,
    /// Compare a case of the run that is shown, by its SELECT word, with the last time that it passed.
    Compare(String),
    /// Show a run that is over.
    OpenRun(PathBuf),
    /// Begin to watch the code, or end it.
    WatchCode(bool),
    /// Run a command that mends what preflight found on the whole terminal, then check the host again.
    Mend(Vec<String>),
    /// Edit the config, then read it.
    EditConfig,
    /// Read the config.
    LoadSetup,
    /// Write a config from what this host has.
    Init,
    /// Make the demo's config and use it.
    Demo,
    /// Read a theme.
    LoadTheme(String),
    /// Write a part of a log to a file.
    Save {
        /// The log; `None` = the part is a text.
        log: Option<PathBuf>,
        /// The file.
        to: PathBuf,
        /// The part of the log.
        what: Part,
    },
    /// Put a text on the clipboard.
    Copy(String),
    /// Turn the mouse on or off.
    Mouse(bool),
    /// Redraw the whole screen.
    Redraw,
    /// Stop until the shell continues the cockpit.
    Suspend,
    /// Notify the person, who looks elsewhere.
    Notify {
        /// What happened.
        text: String,
    },
    /// Show on the terminal's own indicator how far the run is, per cent; `None` = no run.
    Progress(Option<u8>),
    /// Add a line to the events pane.
    Log {
        /// How serious the line is.
        severity: Severity,
        /// What the line is about, such as `engine::lock`.
        target: &'static str,
        /// The line.
        text: String,
    },
    /// Leave the cockpit.
    Quit,
}
