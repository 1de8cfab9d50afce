//! A cockpit under test: messages and events go in by words, effects are collected. For unit tests alone.

use crate::{
    keymap::Keymap,
    logs::file::Waker,
    look::KeptLook,
    model::{Appearance, Model, RecordSource, Whose},
    msg::{Effect, Msg, Opened},
    theme::{Depth, Theme},
    update::{Now, update},
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmdeck_model::{
    command::Command,
    event::{Event, EventKind, Phase, PlannedGuest, Stream},
    exit::RunExit,
    ids::{CaseId, GuestId, RunId, SuiteId},
    key::Options,
    lifecycle::MachineState,
    outcome::{Tally, Verdict},
    subtest::{Subtest, SubtestStatus, SubtestTally},
};

/// When the runs of these tests began.
pub(crate) const BEGAN: i64 = 1_795_000_000_000;

pub(crate) fn guest(name: &str) -> GuestId {
    GuestId::new(name).expect("name")
}

/// Returns a cockpit with nothing in it.
pub(crate) fn empty() -> Model {
    let theme = Theme::load("dark", None, Depth::True).expect("theme");
    let keymap = Keymap::new(&Options::default()).0;
    let look = Appearance {
        keymap,
        theme,
        theme_folder: None,
        ascii: false,
        mouse: false,
        ascii_only: false,
        fitting_theme: "dark",
        look: KeptLook::default(),
    };
    Model::new(look, Waker::new(|| true), crate::host::tests::host(), (80, 24))
}

/// A cockpit under test, with what it wanted done.
pub(crate) struct TestCockpit {
    pub(crate) model: Model,
    pub(crate) now: Now,
    pub(crate) effects: Vec<Effect>,
}

impl TestCockpit {
    pub(crate) fn new() -> Self {
        Self { model: empty(), now: Now { ms: 0, wall_ms: BEGAN }, effects: Vec::new() }
    }

    /// With a run of its own over two guests: `deb` with two cases, `win` with one.
    pub(crate) fn with_run() -> Self {
        let mut case = Self::new();
        case.begin(&[]);
        case
    }

    /// A run of its own begins, with these words that selected its cases.
    pub(crate) fn begin(&mut self, selection: &[String]) {
        self.msg(Msg::Opened(Opened {
            dir: "/rec".into(),
            record: RecordSource::Own { ended: false },
            whose: Whose::Ours,
        }));
        let planned = |name: &str, names: &[&str]| PlannedGuest {
            guest: guest(name),
            backend: "qemu".into(),
            os: "linux".into(),
            isolated: true,
            cases: names.len(),
            one_more_of: None,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let guests = vec![planned("deb", &["smoke/install", "smoke/remove"]), planned("win", &["smoke/install"])];
        let run = RunId::from_bits(0xabcd_ef01_2345_6789);
        let (version, host, dir) = ("0.1.0".into(), "h".into(), "/rec".into());
        self.event(
            0,
            EventKind::RunStarted {
                run,
                version,
                host,
                dir,
                selection: selection.to_vec(),
                config: None,
                guests,
                cases: 3,
                part: vmdeck_model::shard::RunPart::default(),
                origins: Vec::new(),
            },
        );
    }

    pub(crate) fn msg(&mut self, msg: Msg) -> &mut Self {
        let out = update(&mut self.model, self.now, msg);
        self.effects.extend(out.into_iter().filter(|e| !matches!(e, Effect::Log { .. })));
        crate::derive::derive(&mut self.model);
        self
    }

    pub(crate) fn event(&mut self, ms: u64, kind: EventKind) -> &mut Self {
        let at = chrono::DateTime::from_timestamp_millis(BEGAN + ms.cast_signed()).expect("time");
        self.at(ms);
        self.msg(Msg::Events(vec![Event { seq: ms, at, elapsed_ms: ms, origin: None, kind }]))
    }

    /// It is this many milliseconds after the beginning.
    pub(crate) fn at(&mut self, ms: u64) -> &mut Self {
        self.now = Now { ms, wall_ms: BEGAN + ms.cast_signed() };
        self
    }

    pub(crate) fn phase(&mut self, ms: u64, name: &str, phase: Phase, usual: Option<u64>) -> &mut Self {
        let (guest, rest_ms, quiet_ms) = (guest(name), usual.map(|u| u * 2), usual.map(|_| 900));
        self.event(ms, EventKind::PhaseStarted { guest, phase, usual_ms: usual, rest_ms, quiet_ms })
    }

    pub(crate) fn phase_end(&mut self, ms: u64, name: &str, phase: Phase, ok: bool) -> &mut Self {
        self.event(ms, EventKind::PhaseEnded { guest: guest(name), phase, ok, took_ms: ms / 2 })
    }

    pub(crate) fn state(&mut self, ms: u64, name: &str, from: MachineState, to: MachineState) -> &mut Self {
        let machine = Some(format!("vmdeck-abcdef01-{name}"));
        self.event(ms, EventKind::GuestState { guest: guest(name), from, to, why: "w".into(), machine })
    }

    pub(crate) fn case(&mut self, ms: u64, name: &str, case: &str, verdict: Verdict) -> &mut Self {
        let (suite, id) = (SuiteId::new("smoke").expect("name"), CaseId::new(case).expect("name"));
        // As the engine counts what it has told.
        let told = self.model.shown.view.guests.get(&guest(name)).map(|g| g.subtests.list.clone()).unwrap_or_default();
        let subtests = (!told.is_empty()).then(|| {
            let mut tally = SubtestTally::default();
            for subtest in &told {
                tally.add(subtest.status, 1);
            }
            tally
        });
        self.event(
            ms,
            EventKind::CaseEnded {
                guest: guest(name),
                suite,
                case: id,
                round: 1,
                verdict,
                exit: Some(3),
                took_ms: 1234,
                message: if verdict == Verdict::Passed { String::new() } else { "exit 3".into() },
                stdout_tail: String::new(),
                stderr_tail: String::new(),
                cause: None,
                earlier: Vec::new(),
                subtests,
                by_subtests: false,
                quarantined: None,
            },
        )
    }

    pub(crate) fn subtest(
        &mut self,
        ms: u64,
        name: &str,
        case: &str,
        subtest: &str,
        status: SubtestStatus,
    ) -> &mut Self {
        let (suite, case) = (SuiteId::new("smoke").expect("name"), CaseId::new(case).expect("name"));
        let subtest = Subtest {
            name: subtest.to_owned(),
            class: None,
            status,
            took_ms: Some(12),
            file: None,
            line: None,
            message: if status.is_failure() { "expected 4, got 5".into() } else { String::new() },
            flaky: false,
            quarantined: None,
        };
        self.event(ms, EventKind::SubtestEnded { guest: guest(name), suite, case, round: 1, attempt: 1, subtest })
    }

    pub(crate) fn case_begins(&mut self, ms: u64, name: &str, case: &str) -> &mut Self {
        let (suite, case) = (SuiteId::new("smoke").expect("name"), CaseId::new(case).expect("name"));
        self.event(
            ms,
            EventKind::CaseStarted {
                guest: guest(name),
                suite,
                case,
                round: 1,
                attempt: 1,
                only: None,
                background: false,
            },
        )
    }

    pub(crate) fn case_goes_on(&mut self, ms: u64, name: &str, case: &str) -> &mut Self {
        let (suite, case) = (SuiteId::new("smoke").expect("name"), CaseId::new(case).expect("name"));
        let guest = guest(name);
        self.event(
            ms,
            EventKind::CaseStarted { guest, suite, case, round: 1, attempt: 1, only: None, background: true },
        )
    }

    pub(crate) fn output(&mut self, ms: u64, name: &str, line: &str) -> &mut Self {
        let (guest, stream) = (guest(name), Stream::Console);
        self.event(ms, EventKind::Output { guest, suite: None, case: None, stream, line: line.into() })
    }

    pub(crate) fn ended(&mut self, ms: u64, exit: RunExit) -> &mut Self {
        let kind = EventKind::RunEnded {
            tally: Tally::default(),
            exit,
            took_ms: ms,
            skipped_output: 0,
            error: None,
            hint: None,
        };
        self.event(ms, kind)
    }

    /// `deb` is up and reached.
    pub(crate) fn up(&mut self, ms: u64) -> &mut Self {
        self.state(ms, "deb", MachineState::NotCreated, MachineState::Created);
        self.phase(ms, "deb", Phase::FirstCommand, None);
        let (transport, address) = ("ssh".to_owned(), Some("127.0.0.1:34567".to_owned()));
        let (guest, why) = (guest("deb"), String::new());
        let kind = EventKind::RouteTried { guest, transport, way: None, ok: true, why, took_ms: 1, address };
        self.event(ms + 1, kind);
        self.phase_end(ms + 2, "deb", Phase::FirstCommand, true);
        self.state(ms + 3, "deb", MachineState::Created, MachineState::Running)
    }

    /// Keys as in the config, each a word.
    pub(crate) fn keys(&mut self, words: &str) -> &mut Self {
        for word in words.split(' ') {
            self.msg(Msg::Key(key(word)));
        }
        self
    }

    pub(crate) fn type_in(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            self.msg(Msg::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)));
        }
        self
    }

    pub(crate) fn sent(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn commands(&mut self) -> Vec<Command> {
        let all = self.sent().into_iter();
        all.filter_map(|e| if let Effect::Send(command) = e { Some(command) } else { None }).collect()
    }

    pub(crate) fn toast(&self) -> &str {
        self.model.toast.as_ref().map_or("", |t| &t.text)
    }
}

pub(crate) fn key(word: &str) -> KeyEvent {
    let (mods, name) = match word.strip_prefix("ctrl-") {
        Some(rest) => (KeyModifiers::CONTROL, rest),
        None => (KeyModifiers::NONE, word),
    };
    let code = match name {
        "enter" => KeyCode::Enter,
        "esc" => KeyCode::Esc,
        "tab" => KeyCode::Tab,
        "space" => KeyCode::Char(' '),
        "down" => KeyCode::Down,
        "up" => KeyCode::Up,
        "left" => KeyCode::Left,
        "right" => KeyCode::Right,
        "pgup" => KeyCode::PageUp,
        name => KeyCode::Char(name.chars().next().expect("key")),
    };
    KeyEvent::new(code, mods)
}
