//! Every action of the cockpit in one table: its name, its keys, what it does, where it works, whether it is dangerous.
//!
//! The footer, the help, the palette, the config keys `[keys]` and the key map itself all come from these rows. What an
//! action does is in `update`.

use std::collections::BTreeMap;
use vmdeck_model::{
    chord::Chord,
    key::{Key, Kind, Options},
};

/// Where an action works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// It works everywhere.
    Global,
    /// It works in the machines and run panes, and acts on guests.
    Guests,
    /// It works in the logs pane.
    Logs,
    /// It works in the lock, preflight and events panes, and acts on the host.
    Host,
    /// It works only while a record is replayed.
    Replay,
}

/// What an action may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It changes nothing but the screen.
    Look,
    /// It changes something; it is off with `--read-only`.
    Change,
    /// It destroys something: it is confirmed by another key first, and off with `--read-only`.
    Danger,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ActionDef {
    /// The action.
    pub action: Action,
    /// The name in the palette and in `[keys]`.
    pub name: &'static str,
    /// Where the action works.
    pub scope: Scope,
    /// What the action may do.
    pub privilege: Privilege,
    /// What the action does, in one line.
    pub doc: &'static str,
    /// The keys if the config sets none.
    pub keys: &'static [&'static str],
}

macro_rules! actions {
    ($($action:ident $name:literal $scope:ident $privilege:ident [$first:literal $(, $rest:literal)*] $doc:literal;)+) => {
        /// Something that a person can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each is explained in its row of the table")]
        pub enum Action { $($action),+ }

        /// Every action.
        pub const ACTIONS: &[ActionDef] = &[$(ActionDef {
            action: Action::$action,
            name: $name,
            scope: Scope::$scope,
            privilege: Privilege::$privilege,
            doc: $doc,
            keys: &[$first $(, $rest)*],
        }),+];

        /// The rows of `[keys]` for the config.
        pub const KEYS: &[Key] = &[$(Key {
            path: concat!("keys.", $name),
            kind: Kind::Chords,
            default: Some(concat!("[\"", $first, "\"" $(, ", \"", $rest, "\"")*, "]")),
            doc: $doc,
        }),+];
    };
}

actions! {
    Help "help" Global Look ["?", "f1"] "show all keys; Enter runs the one on the line";
    Palette "palette" Global Look [":", "ctrl-p"] "find an action by its name";
    Quit "quit" Global Look ["q"] "back, or quit";
    Back "back" Global Look ["esc"] "close what is open, or end the search";
    NextPane "next-pane" Global Look ["tab"] "next pane";
    PrevPane "prev-pane" Global Look ["shift-tab"] "previous pane";
    PaneMachines "pane-machines" Global Look ["1"] "machines";
    PaneLock "pane-lock" Global Look ["2"] "lock";
    PanePreflight "pane-preflight" Global Look ["3"] "preflight";
    PaneLogs "pane-logs" Global Look ["4"] "logs";
    PaneRun "pane-run" Global Look ["5"] "run";
    PaneEvents "pane-events" Global Look ["6"] "events";
    Zoom "zoom" Global Look ["z"] "this pane alone, or all of them";
    Grow "grow" Global Look ["+"] "more room for this pane: the machines, the run or the logs";
    Shrink "shrink" Global Look ["-"] "less room for this pane";
    Up "up" Global Look ["up", "k"] "up";
    Down "down" Global Look ["down", "j"] "down";
    PageUp "page-up" Global Look ["pgup", "ctrl-u"] "a page up";
    PageDown "page-down" Global Look ["pgdn", "ctrl-d"] "a page down";
    Top "top" Global Look ["home", "g"] "to the top";
    Bottom "bottom" Global Look ["end", "G"] "to the end; in logs, follow";
    Left "left" Global Look ["left"] "left; in logs, scroll";
    Right "right" Global Look ["right"] "right; in logs, scroll";
    Enter "enter" Global Look ["enter"] "open the selected line";
    Search "search" Global Look ["/"] "search the log; filter a list (!x without x, ~x fuzzy, is:failed)";
    NextMatch "next-match" Global Look ["n"] "next match";
    PrevMatch "prev-match" Global Look ["N"] "previous match";
    Copy "copy" Global Look ["y"] "copy the line, or the selection; of a failed case, a report for an issue tracker";
    Theme "theme" Global Look ["T"] "choose the colours, with a preview";
    Mouse "mouse" Global Look ["f2"] "mouse on or off";
    Redraw "redraw" Global Look ["ctrl-l"] "redraw the screen";
    Suspend "suspend" Global Look ["ctrl-z"] "back to the shell for a while; machines keep running";
    EditConfig "edit-config" Global Change ["ctrl-o"] "edit the config, then read it again";
    Reload "reload" Global Look ["f5"] "read the config and the machines again";
    Recheck "recheck" Global Look ["ctrl-r"] "check the host again";
    KeepFailed "keep-failed" Global Change ["K"] "keep guests with a failed case in this run";
    PauseFailed "pause-failed" Global Change ["P"] "in the next run, hold a failed guest for inspection";
    History "history" Global Look ["H"] "the runs of this folder; Enter opens one as if it had just ended";
    Run "run" Global Change ["r"] "run what is selected in the run pane, or whose log is shown, on the marked guests, else all";
    RerunFailed "rerun-failed" Global Change ["R"] "run what failed again";
    NextFailed "next-failed" Global Look ["F"] "to the next case that failed, with its output";
    Errors "errors" Global Look ["E"] "all errors of the run in one list; Enter shows one in its log";
    Compare "compare" Global Look ["d"] "what is different from the last time that the case passed";
    Answer "answer" Global Change ["Y"] "answer the question that a case asks";
    Watch "watch" Global Change ["w"] "run the selected cases again after each change of the code, or end that";
    LeaveQueue "leave-queue" Global Change ["Q"] "leave the queue for the lock, or drop the run that is queued";
    Cancel "cancel" Global Danger ["ctrl-x"] "cancel the run: end its cases, clean up";
    CleanUp "clean-up" Global Danger ["C"] "remove what dead runs left; lists it first";
    BreakLock "break-lock" Global Danger ["U"] "release a stale lock";

    Mark "mark" Guests Look ["space"] "mark the guest, or take the mark off";
    MarkAll "mark-all" Guests Look ["A"] "mark or unmark all guests";
    Details "details" Guests Look ["i"] "boot timeline and everything else about the guest";
    Start "start" Guests Change ["s"] "boot the marked guests and keep them up";
    Stop "stop" Guests Change ["x"] "stop the marked guests after their current case";
    Kill "kill" Guests Danger ["X"] "end the marked guests now";
    Order "order" Guests Look ["D"] "order of the cases: as planned, failed first, slowest first";
    KeepGuest "keep-guest" Guests Change ["h"] "keep the marked guests after the run, or not; ends a hold";
    SysRq "sysrq" Guests Change ["ctrl-k"] "SysRq and a letter for the guest's kernel";
    Nmi "nmi" Guests Danger ["I"] "a non-maskable interrupt for the guest's kernel";
    Proceed "proceed" Guests Change ["p"] "release the held guests and remove them";
    Shell "shell" Guests Change ["S"] "a shell in the guest, on the whole terminal";
    Attach "attach" Guests Change ["a"] "the serial console in this pane; ctrl-] leaves";

    Follow "follow" Logs Look ["f"] "follow the end, or stay on the current line";
    NextSource "next-source" Logs Look ["]"] "next log of this guest";
    PrevSource "prev-source" Logs Look ["["] "previous log of this guest";
    Merged "merged" Logs Look ["M"] "merged log, or a single log";
    Wrap "wrap" Logs Look ["W"] "toggle line wrapping";
    Times "times" Logs Look ["t"] "times: off, clock, since power-on, since the line before";
    Raw "raw" Logs Look ["c"] "colours, plain, or raw bytes";
    Only "only" Logs Look ["&"] "only the lines that match";
    NextError "next-error" Logs Look ["e"] "next error";
    PrevError "prev-error" Logs Look ["ctrl-e"] "previous error";
    NextWarning "next-warning" Logs Look ["."] "next warning";
    PrevWarning "prev-warning" Logs Look [","] "previous warning";
    Bookmark "bookmark" Logs Look ["m"] "bookmark the line";
    NextBookmark "next-bookmark" Logs Look ["b"] "next bookmark";
    PrevBookmark "prev-bookmark" Logs Look ["B"] "previous bookmark";
    Select "select" Logs Look ["v"] "begin or end a selection of lines";
    Save "save" Logs Look ["ctrl-s"] "save the log, or the selection, or the matches";
    Open "open" Logs Look ["o"] "open the log in $PAGER at this line";
    OpenEditor "open-editor" Logs Look ["O"] "open the file and line that this line names in $EDITOR, else the log";

    Levels "levels" Host Look ["L"] "events: which levels are shown";

    Play "play" Replay Look ["space"] "play or pause the record";
    Faster "faster" Replay Look [">"] "play faster";
    Slower "slower" Replay Look ["<"] "play slower";
    SeekForward "seek-forward" Replay Look ["}"] "forward 10 s";
    SeekBack "seek-back" Replay Look ["{"] "back 10 s";
    StepForward "step-forward" Replay Look [")"] "next event";
    StepBack "step-back" Replay Look ["("] "previous event";
    NextFailure "next-failure" Replay Look ["F"] "to the next failure";
    SeekTo "seek-to" Replay Look ["@"] "go to a time, like 1m30s";
}

/// Returns the row of an action.
pub fn def(action: Action) -> &'static ActionDef {
    // The enum and the table are made from the same rows, in the same order.
    &ACTIONS[action as usize]
}

/// Which key does what.
#[derive(Clone, Debug)]
pub struct Keymap {
    by_chord: BTreeMap<(Scope, Chord), Action>,
    by_action: BTreeMap<Action, Vec<Chord>>,
}

impl Keymap {
    /// Makes the map from the config's `[keys]`; also returns what is wrong there. Of two actions on one key the first
    /// of the table keeps it.
    pub fn new(options: &Options) -> (Self, Vec<String>) {
        let mut map = Self { by_chord: BTreeMap::new(), by_action: BTreeMap::new() };
        let mut problems = Vec::new();
        for row in ACTIONS {
            let built_in: Vec<Chord> = row.keys.iter().filter_map(|k| Chord::parse(k).ok()).collect();
            let chords = options.chords(row.name).map_or(built_in, <[Chord]>::to_vec);
            for chord in chords {
                if let Some(other) = map.holder(row.scope, chord) {
                    let name = def(other).name;
                    problems.push(format!(
                        "the key `{chord}` is bound to both `{name}` and `{}`; it runs `{name}`",
                        row.name
                    ));
                    continue;
                }
                map.by_chord.insert((row.scope, chord), row.action);
                map.by_action.entry(row.action).or_default().push(chord);
            }
        }
        (map, problems)
    }

    /// Returns the action that has this key in a scope.
    fn holder(&self, scope: Scope, chord: Chord) -> Option<Action> {
        let overlaps = |other: Scope| match (scope, other) {
            // While a record is replayed its keys come first: there is nothing to mark then.
            (Scope::Replay, other) | (other, Scope::Replay) => other == Scope::Replay,
            (one, other) => one == other || one == Scope::Global || other == Scope::Global,
        };
        self.by_chord.iter().find(|((s, c), _)| *c == chord && overlaps(*s)).map(|(_, action)| *action)
    }

    /// Returns what a key does in these scopes, the first that knows it.
    pub fn find(&self, scopes: &[Scope], chord: Chord) -> Option<Action> {
        scopes.iter().find_map(|scope| self.by_chord.get(&(*scope, chord)).copied())
    }

    /// Returns the keys of an action.
    pub fn chords(&self, action: Action) -> &[Chord] {
        self.by_action.get(&action).map_or(&[], Vec::as_slice)
    }

    /// Returns the first key of an action as text; empty where it has none.
    pub fn key(&self, action: Action) -> String {
        self.chords(action).first().map(ToString::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::key::Value;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_has_no_clash() {
        for (index, row) in ACTIONS.iter().enumerate() {
            assert_eq!(row.action as usize, index, "{}", row.name);
        }
        let (map, problems) = Keymap::new(&Options::default());
        assert_eq!(problems, Vec::<String>::new());
        for row in ACTIONS {
            assert_eq!(map.chords(row.action).len(), row.keys.len(), "{}", row.name);
        }
    }

    #[test]
    fn a_key_means_one_thing_in_every_pane() {
        // A replay has keys of its own: nothing is run or marked there.
        let rows = ACTIONS.iter().filter(|row| row.scope != Scope::Replay);
        let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in rows {
            row.keys.iter().for_each(|key| by_key.entry(key).or_default().push(row.name));
        }
        let twice: Vec<_> = by_key.into_iter().filter(|(_, names)| names.len() > 1).collect();
        assert_eq!(twice, Vec::new());
    }

    #[test]
    fn what_destroys_needs_shift_or_ctrl() {
        for row in ACTIONS.iter().filter(|r| r.privilege == Privilege::Danger) {
            for key in row.keys {
                assert!(key.starts_with("ctrl-") || key.chars().all(char::is_uppercase), "{}", row.name);
            }
        }
    }

    #[test]
    fn keys_can_be_bound_anew_taken_away_and_a_clash_names_both() {
        let chord = |text: &str| Chord::parse(text).expect("chord");
        let mut options = Options::default();
        options.set("kill", Value::Chords(vec![chord("ctrl-b")]));
        options.set("wrap", Value::Chords(Vec::new()));
        options.set("zoom", Value::Chords(vec![chord("?")]));
        let (map, problems) = Keymap::new(&options);
        assert_eq!(map.find(&[Scope::Guests, Scope::Global], chord("ctrl-b")), Some(Action::Kill));
        assert_eq!(map.find(&[Scope::Guests, Scope::Global], chord("X")), None);
        assert_eq!(map.find(&[Scope::Logs, Scope::Global], chord("W")), None);
        assert_eq!(problems, ["the key `?` is bound to both `help` and `zoom`; it runs `help`"]);
        assert_eq!(map.find(&[Scope::Logs, Scope::Global], chord("z")), None, "the rest of the map stands");
    }
}
