//! The state of the cockpit: what the record says, what the host says, and what the person looks at.
//!
//! Plain state. `update` is the only one that changes it, `view` only reads it.

use super::{
    code_watch::CodeWatch,
    console::AttachedConsole,
    host::Host,
    host_state::HostState,
    keymap::Keymap,
    logs::{LogPane, file::Waker},
    look::{Edge, KeptLook},
    overlay::Overlay,
    past_runs::CaseHistory,
    prompt::Prompt,
    replay::Player,
    run_node::RunNode,
    theme::Theme,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};
use tui_logger::TuiWidgetState;
use vmdeck_model::machine::OwnedMachine;
use vmdeck_model::{
    event::Severity, exit::RunExit, ids::GuestId, plan::Setup, run_view::RunView, select::Selector, text::Clean,
};

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pane {
    /// The pane of guests and every other machine.
    Machines,
    /// Who holds the host lock.
    Lock,
    /// The checks of the host.
    Preflight,
    /// Logs, or a console that is typed into.
    Logs,
    /// Suites and cases.
    Run,
    /// What vmdeck itself does.
    Events,
}

impl Pane {
    /// All panes, in the order of their keys.
    pub const ALL: [Pane; 6] = [Pane::Machines, Pane::Lock, Pane::Preflight, Pane::Logs, Pane::Run, Pane::Events];

    /// Returns the name of the pane in its title.
    pub fn title(self) -> &'static str {
        match self {
            Pane::Machines => "machines",
            Pane::Lock => "lock",
            Pane::Preflight => "preflight",
            Pane::Logs => "logs",
            Pane::Run => "run",
            Pane::Events => "events",
        }
    }
}

/// Which record is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordSource {
    /// No record is shown yet.
    #[default]
    Nothing,
    /// The record of a run of this cockpit.
    Own {
        /// Whether the engine of the run has ended.
        ended: bool,
    },
    /// The record of another process's run: view only.
    Other {
        /// The owner of the run, in words.
        who: String,
    },
    /// A record that is over, played again.
    Replay,
}

/// Whose run it is that is shown, where this cockpit may steer it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// This cockpit has begun it.
    #[default]
    Ours,
    /// Somebody else has begun it, and this cockpit has joined it; in words.
    Joined(String),
    /// It was over before it was opened here.
    Earlier,
}

/// What a run is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// The SELECT words; none = everything.
    pub select: Vec<String>,
    /// The record of the run of which only what failed is run, down to the tests that cases ran themselves.
    pub rerun_of: Option<std::path::PathBuf>,
    /// Whether the guests are only booted and held up.
    pub hold: bool,
    /// Whether guests with a failed case are kept.
    pub keep_failed: bool,
    /// Whether every guest is kept.
    pub keep_all: bool,
    /// How long a failed guest is held before it is taken down.
    pub pause: Option<std::time::Duration>,
}

/// A list with a current row and a filter.
#[derive(Clone, Debug, Default)]
pub struct ListState {
    /// The current row.
    pub at: usize,
    /// The text of the filter; empty = no filter.
    pub filter: String,
}

impl ListState {
    /// Moves the current row, within this many rows.
    pub fn step(&mut self, by: i64, rows: usize) {
        let last = rows.saturating_sub(1);
        self.at = self.at.saturating_add_signed(isize::try_from(by).unwrap_or(0)).min(last);
    }

    /// Returns whether a row with this text is shown: `x`, `!x` (without x), `~x` (fuzzy).
    pub fn shows(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let filter = self.filter.to_lowercase();
        match (filter.strip_prefix('!'), filter.strip_prefix('~')) {
            (Some(""), _) => true,
            (Some(without), _) => !text.contains(without),
            (_, Some(letters)) => {
                let mut rest = text.chars();
                letters.chars().all(|l| rest.any(|c| c == l))
            }
            _ => text.contains(&filter),
        }
    }
}

/// A short message over the footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toast {
    /// The text of the message.
    pub text: String,
    /// How serious the message is.
    pub severity: Severity,
    /// When the message disappears, on the cockpit's clock.
    pub until_ms: u64,
}

/// How the cockpit looks, from the config and the keys.
#[derive(Clone, Debug)]
pub struct Appearance {
    /// Which key does what.
    pub keymap: Keymap,
    /// The colours.
    pub theme: Theme,
    /// Where the user's themes are.
    pub theme_folder: Option<PathBuf>,
    /// Whether only ASCII is drawn.
    pub ascii: bool,
    /// Whether only ASCII is certain to be shown here.
    pub ascii_only: bool,
    /// The theme that fits the terminal.
    pub fitting_theme: &'static str,
    /// What was chosen of it before.
    pub look: KeptLook,
    /// Whether the mouse is on.
    pub mouse: bool,
}

/// What the person has asked for and has not happened yet.
#[derive(Debug, Default)]
pub struct Pending {
    /// The run to be started when the current one has ended.
    pub next: Option<RunRequest>,
    /// The guests that are kept at the end of this run.
    pub kept: BTreeSet<GuestId>,
    /// The guest whose shell is wanted as soon as it is up.
    pub shell_when_up: Option<GuestId>,
    /// When Ctrl-C was last pressed, and how often in a row.
    pub interrupts: (u64, u32),
    /// Whether the run was detached, to continue without the cockpit.
    pub is_detached: bool,
    /// Whether the cockpit closes when its run has ended.
    pub is_leaving: bool,
}

/// The record that is shown.
#[derive(Default)]
pub struct ShownRecord {
    /// Which record is shown.
    pub record: RecordSource,
    /// Whose run it is.
    pub whose: Whose,
    /// The folder of the record.
    pub dir: PathBuf,
    /// The fold of its events.
    pub view: RunView,
    /// When the run began, in milliseconds since 1970.
    pub began_wall_ms: Option<i64>,
    /// The player of a record that is over.
    pub player: Option<Player>,
    /// Whether a run was asked for and has no record yet.
    pub is_starting: bool,
}

/// The state of the panes: which one gets the keys, and the current rows.
#[derive(Debug)]
pub struct Panes {
    /// The pane that gets the keys.
    pub focus: Pane,
    /// Whether that pane is alone on the screen.
    pub zoom: bool,
    /// The machines pane.
    pub machines: ListState,
    /// The run pane.
    pub run: ListState,
    /// The first rows of the panes that only scroll.
    pub scroll: BTreeMap<Pane, usize>,
    /// The line between two panes that is being dragged.
    pub dragged: Option<Edge>,
    /// The guests that are marked.
    pub selected: BTreeSet<GuestId>,
    /// The rows of the run pane that are folded, by their path.
    pub folded: BTreeSet<String>,
    /// The cases of which every sub-test is shown, and not only those that failed.
    pub unfolded: BTreeSet<String>,
}

/// The state of the cockpit; see the module.
#[expect(clippy::struct_excessive_bools, reason = "independent facts and switches")]
pub struct Model {
    /// The cockpit's clock, in milliseconds since it was opened.
    pub now_ms: u64,
    /// The wall-clock time, in milliseconds since 1970.
    pub wall_ms: i64,
    /// The columns and rows of the terminal.
    pub size: (u16, u16),
    /// How the cockpit looks.
    pub appearance: Appearance,
    /// Whether every action that changes something is off.
    pub read_only: bool,
    /// Whether the terminal says that the person looks elsewhere.
    pub unfocused: bool,
    /// The config.
    pub setup: Option<Arc<Setup>>,
    /// The record that is shown.
    pub shown: ShownRecord,
    /// What was asked for and has not happened yet.
    pub pending: Pending,
    /// What this host has and does.
    pub host: HostState,
    /// The state of the panes.
    pub panes: Panes,
    /// The rows of the run pane.
    pub tree: Vec<RunNode>,
    /// Whether `tree` must be rebuilt.
    pub is_tree_stale: bool,
    /// The logs pane.
    pub logs: LogPane,
    /// The console that is typed into.
    pub console: Option<AttachedConsole>,
    /// The events pane's own state.
    pub events: TuiWidgetState,
    /// The selection from the command line: only these cases are shown and run; none = all.
    pub select: Vec<Selector>,
    /// What lies over the panes.
    pub overlay: Option<Overlay>,
    /// What is being typed in the footer.
    pub prompt: Option<Prompt>,
    /// The short message over the footer.
    pub toast: Option<Toast>,
    /// Whether guests with a failed case are kept.
    pub keep_failed: bool,
    /// How long a failed guest is held in the next run.
    pub pause: Option<std::time::Duration>,
    /// What the last runs said of each case.
    pub history: CaseHistory,
    /// What is run after each change of the code, while somebody wants that.
    pub code_watch: Option<CodeWatch>,
    /// The runs of this cockpit that have ended: a line for the normal screen, and the exit code.
    pub results: Vec<(String, RunExit)>,
}

impl Default for Panes {
    fn default() -> Self {
        Self {
            focus: Pane::Machines,
            zoom: false,
            machines: ListState::default(),
            run: ListState::default(),
            scroll: BTreeMap::new(),
            dragged: None,
            selected: BTreeSet::new(),
            folded: BTreeSet::new(),
            unfolded: BTreeSet::new(),
        }
    }
}

impl Model {
    /// Returns an empty cockpit.
    pub fn new(appearance: Appearance, waker: Waker, host: Arc<dyn Host>, size: (u16, u16)) -> Self {
        Self {
            now_ms: 0,
            wall_ms: 0,
            size,
            appearance,
            read_only: false,
            unfocused: false,
            setup: None,
            shown: ShownRecord::default(),
            pending: Pending::default(),
            host: HostState::default(),
            panes: Panes::default(),
            tree: Vec::new(),
            is_tree_stale: true,
            logs: LogPane::new(waker, host),
            console: None,
            events: TuiWidgetState::new(),
            select: Vec::new(),
            overlay: None,
            prompt: None,
            toast: None,
            keep_failed: false,
            pause: None,
            history: CaseHistory::default(),
            code_watch: None,
            results: Vec::new(),
        }
    }

    /// Returns the time of the shown run now, in milliseconds.
    pub fn run_ms(&self) -> u64 {
        if let Some(player) = &self.shown.player {
            return player.now_ms();
        }
        let by_clock = self.shown.began_wall_ms.and_then(|began| u64::try_from(self.wall_ms - began).ok());
        match by_clock {
            Some(now) if self.is_live() => now.max(self.shown.view.now_ms),
            _ => self.shown.view.now_ms,
        }
    }

    /// Returns the shown run's name in short.
    pub fn run_name(&self) -> Option<String> {
        // A record may be anybody's: no id is trusted to have eight bytes, or to be one line.
        self.shown.view.run.as_ref().map(|run| Clean::from_text(run).as_str().chars().take(8).collect())
    }

    /// Returns whether the shown run is in progress.
    pub fn is_live(&self) -> bool {
        let is_over = self.shown.view.exit.is_some()
            || matches!(self.shown.record, RecordSource::Own { ended: true } | RecordSource::Replay);
        self.shown.view.run.is_some() && !is_over
    }

    /// Returns whether the engine of the shown run is gone without having ended it.
    pub fn is_orphaned(&self) -> bool {
        self.shown.view.run.is_some()
            && self.shown.view.exit.is_none()
            && self.shown.record == (RecordSource::Own { ended: true })
    }

    /// Returns whether a run of this cockpit is in progress, or about to begin.
    pub fn is_running(&self) -> bool {
        self.shown.is_starting || self.shown.record == RecordSource::Own { ended: false }
    }

    /// Returns why nothing may be changed, if that is so.
    pub fn forbidden(&self) -> Option<String> {
        match &self.shown.record {
            _ if self.read_only => Some("this cockpit is read-only".into()),
            RecordSource::Replay => Some("this is a replay: nothing can be changed".into()),
            RecordSource::Other { who } if self.shown.view.exit.is_none() => {
                Some(format!("view only; `vmdeck attach --allow-control` steers it (a run of {who})"))
            }
            _ => None,
        }
    }

    /// Returns the guests: those of the run, else those of the config.
    pub fn guests(&self) -> Vec<GuestId> {
        let mut all: Vec<GuestId> = self.setup.iter().flat_map(|setup| setup.machine_names()).collect();
        if matches!(self.shown.record, RecordSource::Other { .. } | RecordSource::Replay) {
            all.clear();
        }
        all.extend(self.shown.view.guests.keys().filter(|id| !all.contains(id)).cloned().collect::<Vec<_>>());
        all
    }

    /// Returns the guests that the machines pane shows.
    pub fn shown_guests(&self) -> Vec<GuestId> {
        self.guests().into_iter().filter(|id| self.panes.machines.shows(id.as_str())).collect()
    }

    /// Returns the machines that are not of a guest that is shown: of other runs, kept, or not ours.
    pub fn other_machines(&self) -> Vec<&OwnedMachine> {
        let ours: BTreeSet<&str> = self.shown.view.guests.values().filter_map(|g| g.machine.as_deref()).collect();
        let is_other = |row: &&OwnedMachine| {
            !ours.contains(row.machine.name.as_str()) && self.panes.machines.shows(&row.machine.name)
        };
        self.host.inventory.iter().filter(is_other).collect()
    }

    /// Returns the guest that is meant: the current row of the run pane if that has the keys, else of the machines pane.
    pub fn current_guest(&self) -> Option<GuestId> {
        if self.panes.focus == Pane::Run
            && let Some(node) = self.tree.get(self.panes.run.at)
        {
            return Some(node.guest.clone());
        }
        let all = self.shown_guests();
        all.get(self.panes.machines.at).or(all.last()).cloned()
    }

    /// Returns the marked guests, else the current one.
    pub fn selected_guests(&self) -> Vec<GuestId> {
        if self.panes.selected.is_empty() {
            self.current_guest().into_iter().collect()
        } else {
            self.panes.selected.iter().cloned().collect()
        }
    }

    /// Returns whether keys are typed into something.
    pub fn is_typing(&self) -> bool {
        self.overlay.as_ref().is_some_and(Overlay::is_typing) || self.prompt.is_some()
    }

    /// Returns when the screen changes without a message, in milliseconds from now; `None` = never, and then nothing
    /// runs.
    pub fn next_change_ms(&self) -> Option<u64> {
        let toast = self.toast.as_ref().map(|t| t.until_ms.saturating_sub(self.now_ms).max(1));
        let moving = self.shown.player.as_ref().is_some_and(Player::is_playing);
        let live = self.shown.player.is_none() && self.is_live();
        let second = (live || self.pending.is_leaving).then_some(1000);
        [toast, moving.then_some(50), second].into_iter().flatten().min()
    }

    /// Shows a message for a few seconds.
    pub fn say(&mut self, severity: Severity, text: impl Into<String>) {
        let text = text.into();
        let until_ms = self.now_ms + 4000 + 40 * text.len() as u64;
        self.toast = Some(Toast { text, severity, until_ms });
    }
}
