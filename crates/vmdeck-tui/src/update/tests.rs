use super::*;
use crate::fixture::{BEGAN, TestCockpit, guest};
use crate::{
    code_watch::CodeWatch,
    host_state::{LockRow, LockState},
    keymap::{ACTIONS, Privilege},
    model::{RunRequest, Whose},
    past_runs::PastRunRow,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use vmdeck_model::{
    command::{Command, KernelKey},
    event::{Event, EventKind, Phase},
    ids::{CaseId, GuestId, SuiteId},
    outcome::{CancelReason, Tally, Verdict},
};

#[test]
fn what_destroys_is_never_done_by_the_key_that_asks() {
    let mut case = TestCockpit::with_run();
    case.up(100).keys("X X X");
    assert_eq!(case.commands(), [], "pressing it again is no yes");
    case.keys("enter");
    assert!(case.model.overlay.is_none() && case.commands().is_empty(), "Enter is no");
    case.keys("X y");
    assert_eq!(case.commands(), [Command::Kill { guest: guest("deb") }]);
    case.keys("ctrl-x enter ctrl-x esc ctrl-x n");
    assert_eq!(case.commands(), []);
    case.keys("ctrl-x y");
    assert_eq!(case.commands(), [Command::Cancel { reason: CancelReason::User }]);
}

#[test]
fn a_live_holder_must_be_named_by_its_pid() {
    let holder = vmdeck_model::event::Holder { pid: Some(4711), ..Default::default() };
    let row = |state| LockRow { path: "/l".into(), state, holder: Some(holder.clone()) };
    let mut case = TestCockpit::new();
    case.msg(Msg::Locks(vec![row(LockState::Held)])).keys("U y enter");
    assert_eq!(case.sent(), [], "`y` is not its pid");
    assert!(case.toast().contains("type `4711`"), "{}", case.toast());
    case.keys("esc U").type_in("4711").keys("enter");
    assert_eq!(case.sent(), [Effect::BreakLock { path: "/l".into(), pid: Some(4711) }]);
    case.msg(Msg::Locks(vec![row(LockState::Stale)])).keys("U y");
    assert_eq!(case.sent(), [Effect::BreakLock { path: "/l".into(), pid: None }]);
    case.msg(Msg::Locks(vec![row(LockState::Free)])).keys("U");
    assert!(case.model.overlay.is_none());
}

#[test]
fn cleaning_up_shows_first_what_it_would_take() {
    let mut case = TestCockpit::new();
    case.keys("C");
    assert_eq!(case.sent(), [Effect::ListOrphans]);
    case.msg(Msg::Orphans(vec!["a".into(), "b".into()])).type_in("delete 1").keys("enter");
    assert_eq!(case.sent(), []);
    case.keys("esc C").msg(Msg::Orphans(vec!["a".into(), "b".into()])).type_in("delete 2").keys("enter");
    assert_eq!(case.sent(), [Effect::ListOrphans, Effect::CleanUp]);
    case.msg(Msg::Orphans(Vec::new()));
    assert!(case.model.overlay.is_none() && case.toast().contains("nothing to clean up"));
}

#[test]
fn read_only_replay_and_the_runs_of_others_change_nothing() {
    let forbid: [fn(&mut TestCockpit); 3] = [
        |c| c.model.read_only = true,
        |c| c.model.shown.record = RecordSource::Replay,
        |c| c.model.shown.record = RecordSource::Other { who: "process 7".into() },
    ];
    for (index, forbid) in forbid.into_iter().enumerate() {
        for row in ACTIONS.iter().filter(|r| r.privilege != Privilege::Look) {
            let mut case = TestCockpit::with_run();
            case.up(100);
            forbid(&mut case);
            case.effects.clear();
            let mut out = Vec::new();
            dispatch::dispatch(&mut case.model, row.action, &mut out);
            assert_eq!(out, [], "{} in state {index}", row.name);
            assert!(case.model.overlay.is_none(), "{} in state {index}", row.name);
            assert!(!case.toast().is_empty(), "{} in state {index}: it says why", row.name);
        }
    }
}

#[test]
fn a_question_that_was_asked_before_is_not_carried_out_in_a_cockpit_that_may_only_look() {
    let mut case = TestCockpit::with_run();
    case.up(100).keys("X");
    assert!(case.model.overlay.is_some(), "it was asked while it was allowed");
    case.model.shown.record = RecordSource::Other { who: "process 7".into() };
    case.keys("y");
    assert_eq!(case.commands(), []);
    assert!(case.toast().contains("view only"), "{}", case.toast());
}

#[tokio::test]
async fn enter_on_a_case_opens_exactly_its_log() {
    let record = tempfile::tempdir().expect("tempdir");
    let log = |case: &str, name: &str, text: &str| {
        let folder = record.path().join("guests/deb/smoke").join(case);
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join(name), text).expect("log");
    };
    // A name that begins with the other's.
    log("install-all", "stderr.log", "the other's");
    let mut case = TestCockpit::with_run();
    case.model.shown.dir = record.path().to_owned();
    case.case(10, "deb", "install", Verdict::Failed).keys("5 j j enter");
    assert!(case.model.logs.source.is_none() && case.toast().contains("no log of smoke/install"), "{}", case.toast());
    log("install", "stdout.log", "");
    log("install", "stderr.log", "why it failed");
    case.keys("5 enter");
    let shown = case.model.logs.source.as_ref().expect("a log").path.clone();
    assert_eq!(shown, record.path().join("guests/deb/smoke/install/stderr.log"));
}

#[test]
fn stop_proceed_and_keep_go_to_the_marked_guests_of_the_run() {
    let mut case = TestCockpit::with_run();
    case.up(100).keys("A x");
    let both = |f: fn(GuestId) -> Command| vec![f(guest("deb")), f(guest("win"))];
    assert_eq!(case.commands(), both(|guest| Command::Stop { guest }));
    case.keys("p");
    assert_eq!(case.commands(), both(|guest| Command::Proceed { guest }));
    case.keys("A h h");
    let keep = |on| Command::Keep { guest: guest("deb"), on };
    assert_eq!(case.commands(), [keep(true), keep(false)]);
    case.keys("K");
    assert_eq!(case.commands(), [Command::KeepFailed { on: true }]);
    case.ended(200, RunExit::Passed).msg(Msg::EngineEnded { exit: Some(RunExit::Passed), words: String::new() });
    case.sent();
    case.keys("x");
    assert_eq!(case.commands(), [], "a run that is over takes no commands");
}

#[test]
fn a_letter_for_sysrq_goes_to_the_selected_guest() {
    let mut case = TestCockpit::with_run();
    case.up(100).keys("ctrl-k w enter");
    let press = |key| Command::Press { guest: guest("deb"), key };
    assert_eq!(case.commands(), [press(KernelKey::SysRq { key: 'w' })]);
    case.keys("ctrl-k enter ctrl-k w w enter ctrl-k w esc");
    assert_eq!(case.commands(), [], "one letter, or none is sent");
    case.keys("I");
    assert_eq!(case.commands(), [press(KernelKey::Nmi)]);
}

#[test]
fn what_failed_is_run_again_and_only_that() {
    let mut case = TestCockpit::with_run();
    case.case(10, "deb", "install", Verdict::Failed).case(20, "deb", "remove", Verdict::Passed);
    case.case(30, "win", "install", Verdict::Infra).case(40, "win", "install", Verdict::Passed);
    case.ended(50, RunExit::TestFailed).msg(Msg::EngineEnded { exit: Some(RunExit::TestFailed), words: String::new() });
    case.sent();
    case.keys("R");
    let select = vec!["smoke/install@deb".to_owned()];
    assert_eq!(
        case.sent(),
        [Effect::Start(RunRequest { select, ..RunRequest::default() })],
        "the last verdict of each counts"
    );
}

#[test]
fn a_run_that_is_asked_for_during_another_waits_for_its_end() {
    let mut case = TestCockpit::with_run();
    case.case(10, "deb", "install", Verdict::Failed).keys("R");
    assert_eq!(case.sent().len(), 1, "only the progress: {:?}", case.effects);
    assert!(case.model.pending.next.is_some());
    case.ended(50, RunExit::TestFailed).sent();
    case.msg(Msg::EngineEnded { exit: Some(RunExit::TestFailed), words: String::new() });
    assert!(case.sent().iter().any(|e| matches!(e, Effect::Start(_))));
}

#[test]
fn a_guest_that_is_held_is_kept_for_the_run_that_wants_it() {
    let mut case = TestCockpit::with_run();
    case.up(5).case(10, "deb", "install", Verdict::Failed).phase(20, "deb", Phase::Pause, Some(120_000));
    case.sent();
    case.keys("R");
    assert_eq!(case.commands(), [Command::Keep { guest: guest("deb"), on: true }], "and that ends its pause");
    let next = case.model.pending.next.clone().expect("queued");
    assert_eq!(next.select, ["smoke/install@deb"]);
    let mut other = TestCockpit::with_run();
    other.up(5).case(10, "win", "install", Verdict::Failed).phase(20, "deb", Phase::Pause, Some(120_000));
    other.sent();
    other.keys("R");
    assert_eq!(other.commands(), [], "the run is for another guest");
}

#[test]
fn each_change_of_the_code_runs_the_same_again_and_ends_what_is_stale() {
    let select = vec!["smoke/install@deb".to_owned()];
    let wanted = Effect::Start(RunRequest { select: select.clone(), keep_all: true, ..RunRequest::default() });
    let changed = || Msg::CodeChanged(vec!["src/a.c".into()]);
    let over = |exit| Msg::EngineEnded { exit: Some(exit), words: String::new() };
    let mut case = TestCockpit::with_run();
    case.model.code_watch = Some(CodeWatch::new(select.clone()));
    case.up(3).msg(changed());
    assert_eq!(case.commands(), [], "another run is not ended for it");
    case.ended(5, RunExit::Passed).msg(over(RunExit::Passed));
    assert!(case.sent().contains(&wanted), "it was queued");
    // A guest that boots is let boot.
    case.begin(&select);
    case.phase(6, "deb", Phase::Kernel, None).msg(changed());
    assert_eq!(case.commands(), []);
    case.phase_end(7, "deb", Phase::Kernel, true).up(8).msg(changed());
    assert_eq!(case.commands(), [Command::Cancel { reason: CancelReason::Stale }]);
    case.event(14, EventKind::CancelBegan { reason: CancelReason::Stale }).ended(15, RunExit::Interrupted);
    case.msg(over(RunExit::Interrupted));
    assert!(case.sent().contains(&wanted));
    assert_eq!(case.model.code_watch.as_ref().map(CodeWatch::badge).as_deref(), Some("WATCH #0"), "no verdict");
    for (exit, news) in [(RunExit::TestFailed, ""), (RunExit::Passed, "green again"), (RunExit::TestFailed, "RED now")]
    {
        case.begin(&select);
        case.up(20).ended(30, exit).msg(over(exit));
        assert!(case.toast().contains(news), "{}", case.toast());
        case.sent();
        case.msg(changed());
        assert!(case.sent().contains(&wanted));
    }
    case.keys("w");
    assert!(case.sent().contains(&Effect::WatchCode(false)));
    case.msg(changed());
    assert_eq!(case.sent(), [], "nobody wants it any more");
}

#[test]
fn failures_are_gone_through_round_and_round() {
    let mut case = TestCockpit::with_run();
    case.keys("F");
    assert!(case.toast().contains("no case has failed"));
    case.case(10, "deb", "remove", Verdict::Failed).case(20, "win", "install", Verdict::Infra);
    let mut seen = Vec::new();
    for _ in 0..3 {
        case.keys("F");
        let node = &case.model.tree[case.model.panes.run.at];
        seen.push(node.selector());
    }
    assert_eq!(seen, ["smoke/remove@deb", "smoke/install@win", "smoke/remove@deb"]);
}

#[test]
fn an_earlier_run_is_opened_unless_one_is_in_progress() {
    let row = |name: &str, is_running| PastRunRow { dir: name.into(), line: name.into(), exit: None, is_running };
    let rows = || Msg::PastRuns(vec![row("/now", true), row("/then", false)]);
    let mut case = TestCockpit::with_run();
    case.keys("H");
    assert_eq!(case.sent(), [Effect::ListRuns]);
    case.msg(rows()).keys("down enter");
    assert!(case.sent().is_empty() && case.toast().contains("is in progress") && case.model.overlay.is_some());
    let mut idle = TestCockpit::new();
    idle.msg(rows()).keys("down enter");
    assert_eq!(idle.sent(), [Effect::OpenRun("/then".into())]);
    idle.msg(rows()).keys("enter");
    assert!(matches!(&idle.sent()[..], [Effect::Watch { dir, .. }] if dir.ends_with("now")));
    idle.msg(rows()).keys("esc");
    assert!(idle.model.overlay.is_none());
}

#[test]
fn leaving_asks_while_a_run_goes_on() {
    let mut case = TestCockpit::with_run();
    case.keys("q esc");
    assert_eq!(case.sent(), []);
    case.keys("q ctrl-d");
    assert_eq!(case.sent(), [], "ctrl-d is no d");
    case.keys("d");
    assert_eq!(case.sent(), [Effect::Detach, Effect::Quit]);
    case.keys("q s");
    assert_eq!(case.commands(), [Command::Cancel { reason: CancelReason::User }]);
    case.ended(50, RunExit::Interrupted);
    case.sent();
    case.msg(Msg::EngineEnded { exit: Some(RunExit::Interrupted), words: String::new() });
    assert!(case.sent().contains(&Effect::Quit), "it leaves when everything is gone");
    let mut over = TestCockpit::with_run();
    over.ended(50, RunExit::Passed);
    over.sent();
    over.keys("q");
    assert_eq!((over.sent(), over.model.overlay.is_none()), (Vec::new(), true), "there is nothing to ask any more");
    over.msg(Msg::EngineEnded { exit: Some(RunExit::Passed), words: String::new() });
    assert!(over.sent().contains(&Effect::Quit));
    let mut idle = TestCockpit::new();
    idle.keys("q");
    assert_eq!(idle.sent(), [Effect::Quit]);
}

#[test]
fn ctrl_c_asks_then_stops_then_leaves() {
    let mut case = TestCockpit::with_run();
    case.at(1000).keys("ctrl-c");
    assert!(matches!(case.model.overlay, Some(Overlay::Quit)));
    case.at(2000).keys("ctrl-c");
    assert_eq!(case.commands(), [Command::Cancel { reason: CancelReason::User }]);
    case.at(2500).keys("ctrl-c");
    assert_eq!(case.sent(), [Effect::Quit]);
    let mut slow = TestCockpit::with_run();
    slow.at(1000).keys("ctrl-c").at(9000).keys("ctrl-c");
    assert_eq!(slow.sent(), [], "much later it is the first again");
}

#[test]
fn a_stale_slot_is_offered_before_one_whose_holder_lives() {
    let row = |path: &str, state| LockRow { path: path.into(), state, holder: None };
    let mut case = TestCockpit::new();
    case.msg(Msg::Locks(vec![row("/l", LockState::Held), row("/l.1", LockState::Stale)])).keys("U y");
    assert_eq!(case.sent(), [Effect::BreakLock { path: "/l.1".into(), pid: None }]);
}

#[test]
fn a_run_that_was_just_asked_for_counts_as_going_on() {
    let mut case = TestCockpit::with_run();
    case.case(10, "deb", "install", Verdict::Failed).ended(50, RunExit::TestFailed);
    case.msg(Msg::EngineEnded { exit: Some(RunExit::TestFailed), words: String::new() });
    case.sent();
    case.keys("R R");
    let starts = case.sent().iter().filter(|e| matches!(e, Effect::Start(_))).count();
    assert_eq!(starts, 1, "the second one waits for the first");
    case.msg(Msg::Do(Effect::Watch { dir: "/other".into(), who: "process 7".into() }));
    assert_eq!(case.sent(), [], "a late look at the lock does not hide it");
}

#[test]
fn somebody_who_reads_a_log_is_not_taken_away_from_it() {
    let mut case = TestCockpit::with_run();
    case.output(10, "deb", "one");
    case.model.logs.is_chosen = true;
    case.phase(20, "deb", Phase::Firmware, None);
    assert!(case.model.logs.source.is_none(), "the merged log was chosen");
}

#[test]
fn a_shell_opens_at_once_or_as_soon_as_the_guest_is_up() {
    let mut case = TestCockpit::with_run();
    case.phase(10, "deb", Phase::Kernel, None).keys("S");
    assert_eq!(case.sent().iter().filter(|e| matches!(e, Effect::Shell(..))).count(), 0);
    assert!(case.toast().contains("opens when it is up"), "{}", case.toast());
    case.up(100);
    assert!(case.sent().contains(&Effect::Shell(guest("deb"), None)));
    case.keys("S");
    assert_eq!(case.sent(), [Effect::Shell(guest("deb"), None)]);
    case.keys("5 j S");
    assert_eq!(
        case.sent(),
        [Effect::Shell(guest("deb"), Some("smoke".into()))],
        "what is selected has its environment"
    );
}

#[test]
fn an_engine_that_says_nothing_is_told_with_its_own_words() {
    let mut case = TestCockpit::new();
    case.msg(Msg::Opened(Opened {
        dir: "/rec".into(),
        record: RecordSource::Own { ended: false },
        whose: Whose::Ours,
    }));
    case.msg(Msg::EngineEnded { exit: Some(RunExit::Usage), words: "error: no such guest\n".into() });
    let Some(Overlay::Message { text, .. }) = &case.model.overlay else { panic!("a message") };
    assert_eq!(text, "error: no such guest");
    let mut died = TestCockpit::with_run();
    died.msg(Msg::EngineEnded { exit: None, words: String::new() });
    let Some(Overlay::Message { title, .. }) = &died.model.overlay else { panic!("a message") };
    assert_eq!(title, "the engine died");
}

#[test]
fn who_looks_elsewhere_is_told_and_who_looks_here_is_not() {
    let notices = |case: &mut TestCockpit| case.sent().iter().filter(|e| matches!(e, Effect::Notify { .. })).count();
    let mut case = TestCockpit::with_run();
    case.up(100).phase_end(200, "win", Phase::Kernel, false).ended(300, RunExit::Passed);
    assert_eq!(notices(&mut case), 0);
    let mut case = TestCockpit::with_run();
    case.msg(Msg::Focus(false)).up(100).phase_end(200, "win", Phase::Kernel, false).ended(300, RunExit::Passed);
    assert_eq!(notices(&mut case), 3, "up, did not boot, ended");
}

#[test]
fn what_happened_before_somebody_came_is_shown_and_not_told() {
    let mut case = TestCockpit::new();
    let at = chrono::DateTime::from_timestamp_millis(BEGAN - 600_000).expect("time");
    let kind = EventKind::Warning { guest: None, text: "old".into(), hint: None };
    let ended = EventKind::RunEnded {
        tally: Tally::default(),
        exit: RunExit::Infra,
        took_ms: 9,
        skipped_output: 0,
        error: Some("it broke".into()),
        hint: None,
    };
    let event = |seq, kind| Event { seq, at, elapsed_ms: seq, origin: None, kind };
    case.msg(Msg::Events(vec![event(1, kind), event(2, ended)]));
    assert_eq!((case.model.shown.view.warnings.len(), case.model.shown.view.exit), (1, Some(RunExit::Infra)));
    assert!(case.model.overlay.is_none() && case.toast().is_empty() && case.sent().is_empty());
}

#[test]
fn a_mistake_in_the_config_or_the_theme_keeps_what_was_good() {
    let mut case = TestCockpit::new();
    let fault = || Fault::user("cannot use the config").because("vmdeck.toml:3: bad");
    case.msg(Msg::Setup(Err(fault())));
    assert!(matches!(case.model.overlay, Some(Overlay::Welcome(_))), "a first start");
    case.sent();
    case.keys("i");
    assert_eq!(case.sent(), [Effect::Init]);
    case.keys("d d");
    assert_eq!(case.sent(), [Effect::Demo], "a second press begins no second one");
    case.msg(Msg::Theme(Err(Fault::user("cannot use the theme").because("mine.toml:2: bad"))));
    assert!(case.toast().contains("mine.toml:2") && case.model.appearance.theme.name == "dark");
}

#[test]
fn filters_fold_and_marks() {
    let mut case = TestCockpit::with_run();
    case.keys("/").type_in("!deb");
    assert_eq!(case.model.shown_guests(), [guest("win")]);
    case.keys("esc");
    assert_eq!(case.model.shown_guests().len(), 2);
    case.keys("5");
    let rows = case.model.tree.len();
    assert_eq!(rows, 2 + 2 + 3);
    case.keys("left");
    assert_eq!(case.model.tree.len(), rows - 3, "the guest's suite and cases are folded in");
    case.keys("right /").type_in("remove").keys("enter");
    assert_eq!(case.model.tree.iter().filter(|n| n.case.is_some()).count(), 1);
}

#[test]
fn nothing_moves_when_nothing_happens() {
    let mut case = TestCockpit::new();
    assert_eq!(case.model.next_change_ms(), None, "an idle cockpit sleeps");
    case.begin(&[]);
    assert_eq!(case.model.next_change_ms(), Some(1000), "a run shows its seconds");
    case.model.toast = None;
    case.ended(10, RunExit::Passed);
    case.model.toast = None;
    assert_eq!(case.model.next_change_ms(), None);
}

#[test]
fn the_palette_does_what_it_says_where_it_works() {
    let mut case = TestCockpit::with_run();
    case.up(10).keys("4 :").type_in("kill").keys("enter");
    assert!(
        matches!(&case.model.overlay, Some(Overlay::Confirm(c)) if c.question == Question::Kill(vec![guest("deb")]))
    );
    case.keys("esc ? esc :").type_in("wrap").keys("enter");
    assert!(case.model.logs.wrap && case.model.overlay.is_none());
}

#[tokio::test]
async fn a_console_gets_every_key_but_one() {
    let mut case = TestCockpit::with_run();
    case.up(10).keys("a");
    assert_eq!(case.sent().last(), Some(&Effect::Attach(guest("deb"))));
    case.msg(Msg::ConsoleOpened(guest("deb"), b"login: ".to_vec())).keys("q ctrl-c enter");
    let in_use = |on| Effect::Send(Command::InUse { guest: guest("deb"), on });
    let typed: Vec<Effect> = case.sent();
    let [first, typed @ ..] = &typed[..] else { panic!("nothing was sent") };
    assert_eq!(first, &in_use(true), "its pause must not run out");
    assert_eq!(typed, [Effect::Type(b"q".to_vec()), Effect::Type(vec![3]), Effect::Type(b"\r".to_vec())]);
    case.keys("ctrl-]");
    assert_eq!(case.sent(), [in_use(false), Effect::Unattach]);
    case.msg(Msg::ConsoleClosed("the machine is gone".into()));
    assert!(case.toast().contains("the machine is gone"));
}

/// Any key in any state: no panic, and nothing is ever destroyed without the question having been answered.
fn any_key() -> impl Strategy<Value = KeyEvent> {
    let code = prop_oneof![
        prop::char::range('!', '~').prop_map(KeyCode::Char),
        Just(KeyCode::Enter),
        Just(KeyCode::Esc),
        Just(KeyCode::Tab),
        Just(KeyCode::Up),
        Just(KeyCode::Down),
        Just(KeyCode::PageDown),
        Just(KeyCode::End),
        Just(KeyCode::Backspace),
    ];
    (code, any::<bool>())
        .prop_map(|(code, ctrl)| KeyEvent::new(code, if ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE }))
}

proptest! {
    #[test]
    fn no_key_brings_it_down_or_destroys_unasked(
        keys in proptest::collection::vec(any_key(), 0..60), columns in 0u16..200, rows in 0u16..60
    ) {
        let mut case = TestCockpit::with_run();
        case.up(100).case(120, "deb", "install", Verdict::Failed).output(130, "deb", "hello ERROR");
        case.msg(Msg::Resize(columns, rows));
        for (index, key) in keys.into_iter().enumerate() {
            let asked = matches!(case.model.overlay, Some(Overlay::Confirm(_) | Overlay::Quit));
            let interrupted = case.model.pending.interrupts.1 > 0;
            case.effects.clear();
            case.at(1000 + 10 * index as u64).msg(Msg::Key(key));
            let destroys = case.effects.iter().any(|e| matches!(
                e,
                Effect::Send(Command::Kill { .. } | Command::Cancel { .. }) | Effect::CleanUp | Effect::BreakLock { .. }
            ));
            prop_assert!(!destroys || asked || interrupted);
        }
    }
}

#[test]
fn a_case_that_asks_is_answered_by_yes_or_no_and_by_nothing_else() {
    let asked = || {
        let mut case = TestCockpit::with_run();
        let question = "Does the screen show the logo?".to_owned();
        let (suite, id) = (SuiteId::new("smoke").expect("name"), CaseId::new("logo").expect("name"));
        case.event(10, EventKind::Asked { guest: guest("deb"), suite, case: id, question }).sent();
        case
    };
    for (keys, passed) in [("Y y", Some(true)), ("Y n", Some(false)), ("Y esc", None), ("Y enter", None), ("y n", None)]
    {
        let mut case = asked();
        assert!(
            case.toast().contains("deb asks: Does the screen") && case.toast().contains("Y answers"),
            "{}",
            case.toast()
        );
        case.keys(keys);
        let wanted: Vec<Command> =
            passed.map(|passed| Command::Answer { guest: guest("deb"), passed }).into_iter().collect();
        assert_eq!(case.commands(), wanted, "{keys}");
    }
    let mut none = TestCockpit::with_run();
    none.keys("Y");
    assert!(none.toast().contains("no case asks anything"));
}
