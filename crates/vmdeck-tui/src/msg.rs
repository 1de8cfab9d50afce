//! What can happen to the cockpit, and what it can want done: plain data on both sides of `update`.

use super::{
    logs::save::Part,
    model::{Capacity, LockRow, RunRequest, Usage},
    theme::Theme,
};
use crossterm::event::{KeyEvent, MouseEvent};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use vmdeck_model::machine::OwnedMachine;
use vmdeck_model::{
    command::Command,
    error::Fault,
    event::{Event, Finding, Severity},
    exit::RunExit,
    ids::GuestId,
    plan::Setup,
};

/// Something that happened.
#[derive(Debug)]
pub enum Msg {
    /// A key.
    Key(KeyEvent),
    /// The mouse.
    Mouse(MouseEvent),
    /// A text was pasted.
    Paste(String),
    /// The terminal has another size.
    Resize(u16, u16),
    /// The terminal has the person's eyes, or not.
    Focus(bool),
    /// Time has passed.
    Tick,
    /// The log that is shown has grown, or was searched.
    LogGrew,

    /// The record that is shown begins.
    Opened(Opened),
    /// What its record says next.
    Events(Vec<Event>),
    /// The engine of our run has ended, in whatever way; with what it said on its standard error.
    EngineEnded {
        /// The exit, if it ended by itself.
        exit: Option<RunExit>,
        /// The last words.
        words: String,
    },
    /// A run could not be started.
    NotStarted(Fault),

    /// The config was read.
    Setup(Result<Arc<Setup>, Fault>),
    /// The theme was read.
    Theme(Result<Theme, Fault>),
    /// The machines that the backends see.
    Machines(Result<Vec<OwnedMachine>, Fault>),
    /// What our machines use.
    Usage(BTreeMap<String, Usage>),
    /// How the lock stands.
    Locks(Vec<LockRow>),
    /// What the host's checks found, and what it has.
    Findings(Vec<Finding>, Capacity),
    /// What dead runs left: a line each.
    Orphans(Vec<String>),
    /// A console is attached; what it said before.
    ConsoleOpened(GuestId, Vec<u8>),
    /// What a console says.
    ConsoleBytes(Vec<u8>),
    /// It is not attached any more, and why.
    ConsoleClosed(String),
    /// Something was done, or could not be.
    Said(Severity, String),
    /// Something longer to read.
    Read {
        /// The title.
        title: String,
        /// The text.
        text: String,
    },
    /// A file of the theme has changed.
    ThemeChanged,
    /// Something is to be done that came of something else.
    Do(Effect),
    /// A signal: the cockpit is to end.
    Signal,
}

/// A record that is shown from now on.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The folder.
    pub dir: PathBuf,
    /// `None` = a run of our own; else whose.
    pub who: Option<String>,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start a run.
    Start(RunRequest),
    /// Tell the engine of our run.
    Send(Command),
    /// Let our run go on without us.
    Detach,
    /// Look at the machines.
    ListMachines,
    /// Check the host.
    Recheck,
    /// Look at the lock; where another run holds it and none of ours goes on, show its record.
    LookAtLock {
        /// Whether a record of another run is to be shown.
        attach: bool,
    },
    /// Show the record of another process's run.
    Watch {
        /// The folder.
        dir: PathBuf,
        /// Whose.
        who: String,
    },
    /// Release the lock; with the pid of a holder that lives.
    BreakLock {
        /// Which slot of it.
        path: PathBuf,
        /// Whom it is taken from.
        pid: Option<u32>,
    },
    /// List what dead runs left.
    ListOrphans,
    /// Remove it.
    CleanUp,
    /// A shell in a guest, on the whole terminal.
    Shell(GuestId),
    /// Attach a guest's console.
    Attach(GuestId),
    /// Type into it.
    Type(Vec<u8>),
    /// Let go of it.
    Unattach,
    /// Show a file in a program of the user's at a line, from 1.
    Open {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// In the editor, else in the pager.
        editor: bool,
    },
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
        /// The log; none = the text is given.
        log: Option<PathBuf>,
        /// The file.
        to: PathBuf,
        /// Which part.
        what: Part,
    },
    /// Put a text on the clipboard.
    Copy(String),
    /// Mouse on or off.
    Mouse(bool),
    /// Draw everything anew.
    Redraw,
    /// Back to the shell for a while.
    Suspend,
    /// Tell the person, who looks elsewhere.
    Notify {
        /// What happened.
        text: String,
    },
    /// Show on the terminal's own indicator how far the run is, per cent; `None` = no run.
    Progress(Option<u8>),
    /// A line for the events pane.
    Log {
        /// How serious.
        severity: Severity,
        /// What it is about: `engine::lock`.
        target: &'static str,
        /// The line.
        text: String,
    },
    /// Leave.
    Quit,
}
