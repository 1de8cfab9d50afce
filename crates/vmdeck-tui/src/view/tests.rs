//! Every pane and state at two sizes, with styles: a picture is its text, then a letter for each cell's look.

use crate::{
    code_watch::CodeWatch,
    errors::{ErrorPlace, ErrorRow},
    fixture::{TestCockpit, guest},
    green_diff::DiffLine,
    host_state::{Capacity, LockRow, LockState, Usage},
    logs::LogSource,
    model::{Model, RecordSource},
    msg::Msg,
    past_runs::{BootRow, CaseHistory, PastRunRow},
    role::StyleRole,
    theme::{BUILT_IN, Depth, Theme},
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    style::{Color, Style},
};
use std::collections::BTreeMap;
use vmdeck_model::{
    error::Fault,
    event::{EventKind, Finding, Holder, Phase, Severity},
    exit::RunExit,
    lifecycle::MachineState,
    outcome::Verdict,
};
use vmdeck_model::{
    machine::{MachineInfo, OwnedMachine, Owner},
    memory::{MemoryStanding, PromisedMemory},
};

fn buffer(model: &Model) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(model.size.0, model.size.1)).expect("terminal");
    terminal.draw(|frame| super::view(model, frame)).expect("drawn");
    terminal.backend().buffer().clone()
}

/// Text and styles.
fn picture(model: &Model) -> String {
    let buffer = buffer(model);
    let (mut text, mut looks) = (String::new(), String::new());
    let mut letters: Vec<(Style, char)> = Vec::new();
    for y in 0..buffer.area.height {
        let (mut line, mut look) = (String::new(), String::new());
        for x in 0..buffer.area.width {
            let cell = &buffer[(x, y)];
            line.push_str(cell.symbol());
            let style = cell.style();
            let next = char::from(b'a' + u8::try_from(letters.len()).expect("few looks"));
            let letter = if let Some((_, letter)) = letters.iter().find(|(s, _)| *s == style) {
                *letter
            } else {
                letters.push((style, next));
                next
            };
            look.push(letter);
        }
        text.push_str(line.trim_end());
        text.push('\n');
        // Runs of one look are written as a number and the letter.
        let mut runs: Vec<(char, usize)> = Vec::new();
        for c in look.chars() {
            match runs.last_mut() {
                Some((last, count)) if *last == c => *count += 1,
                _ => runs.push((c, 1)),
            }
        }
        looks.push_str(&runs.iter().map(|(c, n)| format!("{n}{c} ")).collect::<String>());
        looks.push('\n');
    }
    let shown =
        |s: &Style| format!("{:?} on {:?} {:?}", s.fg.unwrap_or_default(), s.bg.unwrap_or_default(), s.add_modifier);
    let legend: String = letters.iter().map(|(s, c)| format!("{c} = {}\n", shown(s))).collect();
    format!("{text}---\n{looks}---\n{legend}")
}

/// Returns the states that are worth a look, by name.
fn states() -> Vec<(&'static str, TestCockpit)> {
    let mut out = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut TestCockpit)| {
        let mut case = TestCockpit::with_run();
        case.model.host.capacity = Capacity {
            disk_free: 70 << 30,
            disk_min: 10 << 30,
            disk_warn: 20 << 30,
            memory_need: 5 << 30,
            disk_need: 10 << 30,
        };
        case.model.host.memory = MemoryStanding {
            total: Some(16 << 30),
            free: Some(6 << 30),
            reserve: 2 << 30,
            left: Some(4 << 30),
            left_alone: Some(4 << 30),
            ..MemoryStanding::default()
        };
        change(&mut case);
        case.model.toast = case.model.toast.take().filter(|_| name == "paused");
        out.push((name, case));
    };
    add("booting", &|c| {
        c.state(100, "deb", MachineState::NotCreated, MachineState::Created).phase(
            100,
            "deb",
            Phase::Firmware,
            Some(900),
        );
        c.phase_end(1400, "deb", Phase::Firmware, true).phase(1400, "deb", Phase::Kernel, Some(2000));
        c.output(1500, "deb", "[    0.000000] Linux version 6.1").output(1600, "deb", "[    0.1] Booting");
        c.phase(1500, "win", Phase::Firmware, None).at(2600).msg(Msg::Tick);
    });
    add("quiet", &|c| {
        c.phase(100, "deb", Phase::Kernel, Some(2000)).output(200, "deb", "last words").at(40_200).msg(Msg::Tick);
    });
    add("testing", &|c| {
        c.up(1000)
            .case(5000, "deb", "install", Verdict::Failed)
            .case_begins(5100, "deb", "remove")
            .at(7100)
            .msg(Msg::Tick);
        let usage = Usage { memory: 260 << 20, cpu_ms: 900, cpu_percent: 87, disk: 12 << 20 };
        c.msg(Msg::Usage([("vmdeck-abcdef01-deb".to_owned(), usage)].into()));
        c.keys("5 down down");
    });
    add("paused", &|c| {
        c.up(1000).case(5000, "deb", "install", Verdict::Failed).case(6000, "deb", "remove", Verdict::Flaky);
        c.phase(6100, "deb", Phase::Pause, Some(120_000)).keys("i");
    });
    add("ended", &|c| {
        c.up(1000).case(5000, "deb", "install", Verdict::Passed).case(6000, "deb", "remove", Verdict::Skipped);
        c.state(7000, "deb", MachineState::Running, MachineState::Terminated);
        let proofs = vec!["process 7 was collected".into()];
        c.event(
            7100,
            EventKind::CleanupEnded {
                guest: guest("deb"),
                proofs,
                left: Vec::new(),
                kept: false,
                adopted: false,
                freed: None,
            },
        );
        c.phase(7200, "win", Phase::Kernel, None).phase_end(7300, "win", Phase::Kernel, false);
        c.state(7400, "win", MachineState::Running, MachineState::Terminated).case(
            7500,
            "win",
            "install",
            Verdict::Infra,
        );
        c.ended(8000, RunExit::Infra).msg(Msg::EngineEnded { exit: Some(RunExit::Infra), words: String::new() });
    });
    add("lock", &|c| {
        let holder = Holder {
            pid: Some(4711),
            host: Some("build7".into()),
            since: Some("2026-11-18T10:06:40Z".into()),
            phase: Some("testing in deb".into()),
            run: Some("1234567890abcdef".into()),
            command: Some("vmdeck --ci \u{1b}[31mevil".into()),
        };
        let path = "/tmp/vmdeck.lock.d".to_owned();
        c.event(500, EventKind::LockWaiting { path: path.clone(), holder: holder.clone(), waited_ms: 400 });
        let stale = LockRow { path: format!("{path}.1"), state: LockState::Stale, holder: None };
        c.msg(Msg::Locks(vec![LockRow { path, state: LockState::Held, holder: Some(holder.clone()) }, stale]));
        let own = Holder { run: c.model.shown.view.run.clone(), ..holder.clone() };
        let since = Some("2026-11-18T11:05:00Z".into());
        c.msg(Msg::Queue(vec![Holder { pid: Some(77), since, run: None, ..holder }, own])).keys("2");
        let one = |guest: &str, memory: u64, used: u64| PromisedMemory {
            run: Some("1234567890abcdef".into()),
            guests: vec![guest.into()],
            memory: memory << 30,
            used: used << 30,
        };
        c.model.host.memory.promised = vec![one("deb", 4, 1)];
        c.model.host.memory.waiting = vec![one("win", 8, 0)];
    });
    add("preflight", &|c| {
        let finding = |check: &str, severity, text: &str, hint: Option<&str>| {
            EventKind::PreflightFinding(Finding {
                check: check.into(),
                severity,
                text: text.into(),
                hint: hint.map(str::to_owned),
                fix: None,
            })
        };
        c.event(10, finding("disk", Severity::Ok, "70GiB free", None));
        c.event(
            20,
            finding("memory", Severity::Fatal, "6GiB available, 5GiB needed", Some("lower a guest's `memory`")),
        );
        c.keys("3");
    });
    add("remedies", &|c| {
        let finding = |check: &str, severity, text: &str, hint: &str, fix: Option<&str>| Finding {
            check: check.into(),
            severity,
            text: text.into(),
            hint: Some(hint.into()),
            fix: fix.map(|words| words.split(' ').map(str::to_owned).collect()),
        };
        let findings = vec![
            finding("disk", Severity::Ok, "70GiB free", "nothing", None),
            finding("key", Severity::Fatal, "others can read it", "take their rights away", Some("chmod 600 key")),
            finding("lock", Severity::Warn, "a lock of a dead process", "the next run removes it", None),
        ];
        let capacity = c.model.host.capacity;
        c.msg(Msg::Findings(findings, capacity));
        let path = "/tmp/vmdeck.lock.d".to_owned();
        c.msg(Msg::Locks(vec![LockRow { path, state: LockState::Stale, holder: None }]));
        c.ended(100, RunExit::Infra).keys("3 enter down");
    });
    add("logs", &|c| {
        for n in 0..40 {
            c.output(
                100 * n,
                if n % 3 == 0 { "win" } else { "deb" },
                &format!("line {n} with a needle and more of it"),
            );
        }
        c.keys("4 /").type_in("needle").keys("enter up up t m v up");
    });
    add("machines", &|c| {
        c.up(1000);
        let row = |name: &str, owner, run: Option<&str>| OwnedMachine {
            machine: MachineInfo {
                name: name.into(),
                backend: "qemu",
                state: "running".into(),
                id: None,
                address: Some("127.0.0.1:5000".into()),
            },
            run: run.map(str::to_owned),
            owner,
            guest: None,
        };
        c.msg(Msg::Machines(Ok(vec![
            row("vmdeck-abcdef01-deb", Owner::Running, Some("abcdef0123456789")),
            row("vmdeck-00000000-aa", Owner::Dead, Some("0000000011111111")),
            row("vmdeck-22222222-bb", Owner::Kept, Some("2222222233333333")),
            row("somebody's own", Owner::NotOurs, None),
        ])));
        c.keys("space");
    });
    add("help", &|c| {
        c.keys("?").type_in("lock");
    });
    add("tour", &|c| {
        c.keys("? ?");
    });
    add("palette", &|c| {
        c.keys(":").type_in("rer");
    });
    add("kill", &|c| {
        c.up(10).keys("X");
    });
    add("cleanup", &|c| {
        c.msg(Msg::Orphans(vec!["vmdeck-1 (qemu) of guest deb: 12MiB".into()])).type_in("del");
    });
    add("reused", &|c| {
        c.event(
            90,
            EventKind::Reused {
                guest: guest("deb"),
                machine: "vmdeck-abcdef01-deb".into(),
                run: "5bba".into(),
                times: 3,
            },
        );
        c.up(100).case(200, "deb", "install", Verdict::Failed).case(300, "deb", "remove", Verdict::Passed).keys("5");
        let of = |case: &str, verdicts: &[Verdict]| {
            let results = verdicts.iter().enumerate().map(|(n, verdict)| (*verdict, 100 * (n as u64 % 3) + 100));
            (format!("smoke/{case}@deb"), results.collect())
        };
        let (ok, bad, flaky) = (Verdict::Passed, Verdict::Failed, Verdict::Flaky);
        let past = [of("install", &[ok, ok, bad, bad]), of("remove", &[bad, ok, ok, flaky, ok, ok, ok, ok, ok])];
        c.msg(Msg::CaseHistory(CaseHistory { cases: past.into(), boots: [].into() }));
        c.model.code_watch =
            Some(CodeWatch { last: Some(RunExit::TestFailed), count: 7, ..CodeWatch::new(Vec::new()) });
    });
    add("cluster", &|c| {
        let placed = |machine: &str, on: &str| EventKind::MachinePlaced {
            guest: guest("deb"),
            machine: machine.into(),
            on: on.into(),
        };
        c.event(90, placed("vmdeck-1", "node-b\u{1b}[2J"));
        c.up(100).case(200, "deb", "install", Verdict::Passed);
    });
    add("boots", &|c| {
        let boot = |run: &str, kernel: u64, boot_ms| BootRow {
            run: run.into(),
            phases: vec![(Phase::Firmware, 800), (Phase::Kernel, kernel), (Phase::Userspace, 900)],
            boot_ms,
        };
        let boots = vec![
            boot("5bba0001", 1000, Some(2700)),
            boot("5bba0002", 2400, None),
            boot("5bba0003", 1100, Some(2800)),
            boot("5bba0004", 1000, Some(2600)),
        ];
        c.msg(Msg::CaseHistory(CaseHistory { cases: [].into(), boots: [(guest("deb"), boots)].into() }));
        c.up(1000);
        for n in 0..20 {
            let usage = Usage { memory: (200 + 3 * n) << 20, cpu_ms: 900, cpu_percent: 5 * n, disk: 12 << 20 };
            c.msg(Msg::Usage([("vmdeck-abcdef01-deb".to_owned(), usage)].into()));
        }
        c.at(2000).msg(Msg::Tick).keys("i");
    });
    add("history", &|c| {
        let row = |n: u32, exit, is_running, what: &str| PastRunRow {
            dir: "/r".into(),
            line: format!("5bba890{n}  2026-11-21 08:00:0{n}     3.3s  155cfe7000+ {what}"),
            exit,
            is_running,
        };
        let rows = vec![
            row(4, None, true, "running: 1 passed                unit/*"),
            row(3, Some(RunExit::TestFailed), false, "exit 1: 5 passed, 1 failed       everything"),
            row(2, Some(RunExit::Passed), false, "exit 0: 6 passed                 everything (pinned)"),
            row(1, None, false, "died: no tests run               everything"),
        ];
        c.msg(Msg::PastRuns(rows)).keys("down");
    });
    add("errors", &|c| {
        let log = LogSource { guest: guest("deb"), label: "smoke/install stdout".into(), path: "/l".into() };
        let row = |text: &str, place| ErrorRow { text: text.into(), place };
        c.msg(Msg::Errors(vec![
            row("win: did not boot: it failed in kernel", ErrorPlace::Console(guest("win"))),
            row("deb: smoke/install failed: exit 3: expected 4, got 5", ErrorPlace::Case("smoke/install@deb".into())),
            row("not ok 61 - adds numbers", ErrorPlace::Line(log.clone(), 60)),
            row("expected 4, got 5", ErrorPlace::Line(log, 61)),
            row("not cleaned up: vmdeck-1", ErrorPlace::Run),
        ]))
        .keys("down");
    });
    add("comparison", &|c| {
        let line = |role, text: &str| DiffLine { role, text: text.into() };
        let lines = vec![
            line(StyleRole::StateOk, "- passed in run 5bba890d of 2026-11-29 10:00, at 155cfe7"),
            line(StyleRole::StateBad, "+ failed: exit 3: expected 4, got 5"),
            line(StyleRole::UiText, "took 1.2s, then 0.9s"),
            line(StyleRole::UiTitle, "stdout: - then, + now"),
            line(StyleRole::UiDim, "  ok 60"),
            line(StyleRole::StateOk, "- ok 61"),
            line(StyleRole::StateBad, "+ not ok 61 - adds numbers"),
        ];
        c.msg(Msg::Compared { title: "smoke/install@deb".into(), lines });
    });
    add("quit", &|c| {
        c.keys("q");
    });
    add("themes", &|c| {
        c.keys("T down");
    });
    add("welcome", &|c| {
        c.model.shown.record = RecordSource::Nothing;
        let fault =
            Fault::user("cannot find a config").because("there is no ./vmdeck.toml").hint("`vmdeck init` writes one");
        c.msg(Msg::Setup(Err(fault)));
    });
    add("replay", &|c| {
        let record = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/records/mixed.jsonl");
        let player = crate::replay::Player::load(&record).expect("record");
        c.model.shown.record = RecordSource::Replay;
        c.model.shown.player = Some(player);
        c.model.logs.is_chosen = true;
        c.model.shown.view = vmdeck_model::run_view::RunView::default();
        c.msg(Msg::Tick).keys("F");
    });
    add("console", &|c| {
        c.up(10).msg(Msg::ConsoleOpened(guest("deb"), b"\x1b[1;32mdeb\x1b[0m login: ".to_vec()));
    });
    out
}

fn check(columns: u16, rows: u16) {
    for (name, mut case) in states() {
        case.msg(Msg::Resize(columns, rows));
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!(format!("{name}-{columns}x{rows}"), picture(&case.model));
        });
    }
}

#[test]
fn every_state_at_80x24() {
    check(80, 24);
}

#[test]
fn every_state_at_160x50() {
    check(160, 50);
}

#[test]
fn every_state_is_whole_in_ascii_and_without_colours() {
    for size in [(80, 24), (160, 50)] {
        for (name, mut case) in states() {
            case.model.size = size;
            case.model.appearance.ascii = true;
            case.model.appearance.theme = Theme::load("mono", None, Depth::Mono).expect("theme");
            crate::derive::derive(&mut case.model);
            let buffer = buffer(&case.model);
            let odd: String =
                buffer.content.iter().map(ratatui::buffer::Cell::symbol).filter(|s| !s.is_ascii()).collect();
            assert_eq!(odd, "", "{name} at {size:?}");
            let coloured = |cell: &&ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
            assert_eq!(buffer.content.iter().find(coloured), None, "{name} at {size:?}");
        }
    }
}

#[test]
fn nothing_breaks_at_any_size_in_any_theme() {
    for (name, mut case) in states() {
        for (columns, rows) in [
            (0, 0),
            (60, 10),
            (60, 12),
            (120, 12),
            (160, 13),
            (80, 14),
            (1, 1),
            (20, 5),
            (5, 20),
            (49, 11),
            (51, 13),
            (80, 24),
            (120, 40),
            (300, 90),
            (1, 60),
        ] {
            for zoom in [false, true] {
                case.model.panes.zoom = zoom;
                case.msg(Msg::Resize(columns, rows));
                for pane in crate::model::Pane::ALL {
                    case.model.panes.focus = pane;
                    crate::derive::derive(&mut case.model);
                    buffer(&case.model);
                }
            }
        }
        for (theme, _) in BUILT_IN {
            case.model.appearance.theme = Theme::load(theme, None, Depth::Ansi16).expect(name);
            case.model.appearance.ascii = true;
            case.msg(Msg::Resize(100, 30));
            let text = buffer(&case.model).content.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
            assert!(text.is_ascii(), "{name}: ascii symbols only: {:?}", text.chars().find(|c| !c.is_ascii()));
        }
    }
}

#[test]
fn what_is_bad_is_said_in_words_and_not_by_colour_alone() {
    for (name, word) in [("testing", "failed"), ("paused", "flaky"), ("ended", "did not boot"), ("lock", "STALE")] {
        let (_, mut case) = states().into_iter().find(|(n, _)| *n == name).expect("state");
        case.model.appearance.theme = Theme::load("dark", None, Depth::Mono).expect("mono");
        case.msg(Msg::Resize(160, 50));
        let buffer = buffer(&case.model);
        let text: String = buffer.content.iter().map(ratatui::buffer::Cell::symbol).collect();
        assert!(text.contains(word), "{name}: {word}");
        let colours = buffer
            .content
            .iter()
            .filter(|c| c.fg != ratatui::style::Color::Reset || c.bg != ratatui::style::Color::Reset);
        assert_eq!(colours.count(), 0, "{name}: mono has no colour");
    }
}

#[test]
fn what_a_guest_or_another_program_wrote_cannot_reach_the_terminal() {
    let (_, mut case) = states().into_iter().find(|(n, _)| *n == "lock").expect("state");
    case.output(600, "deb", "x\u{202e}y");
    case.msg(Msg::Resize(160, 50));
    case.keys("4").msg(Msg::ConsoleOpened(guest("deb"), "a\u{202e}b".into()));
    for console in [true, false] {
        if !console {
            case.model.console = None;
        }
        let buffer = buffer(&case.model);
        let is_failure = |c: char| c.is_control() || vmdeck_model::text::is_deceptive(c);
        assert!(buffer.content.iter().all(|cell| !cell.symbol().chars().any(is_failure)), "console: {console}");
    }
}

#[tokio::test]
async fn headless_and_cockpit_fold_the_same_events_to_the_same_numbers() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/records/mixed.jsonl"))
        .expect("record");
    let events: Vec<vmdeck_model::event::Event> =
        text.lines().map(|line| serde_json::from_str(line).expect("event")).collect();
    let mut fanout = vmdeck_model::run_view::RunView::default();
    for event in &events {
        fanout.apply(event);
    }
    let mut case = TestCockpit::new();
    case.msg(Msg::Events(events));
    assert_eq!(case.model.shown.view.tally, fanout.tally);
    assert_eq!(case.model.shown.view, fanout);
    let by_guest = |view: &vmdeck_model::run_view::RunView| -> BTreeMap<String, u32> {
        view.guests.iter().map(|(id, g)| (id.to_string(), g.tally.total())).collect()
    };
    assert_eq!(by_guest(&case.model.shown.view), by_guest(&fanout));
}
