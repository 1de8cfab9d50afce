//! Why something failed: the next failure, all errors in one list, the comparison with the last time that it passed, the place in
//! the code.

use super::{list_keys::moved, logs};
use crate::{
    case_report,
    errors::{ErrorPlace, ErrorRow},
    green_diff::DiffLine,
    keymap::Action,
    logs::LogPane,
    model::{Model, Pane},
    msg::Effect,
    overlay::Overlay,
    record_logs,
    run_node::RunNode,
    source_place,
};
use crossterm::event::{KeyCode, KeyEvent};
use std::path::PathBuf;
use vmdeck_model::{event::Severity, guest::Source, ids::GuestId, select::Selector};

/// Goes to the next case that failed, round and round, and shows what it wrote.
pub(super) fn next_failed(model: &mut Model) {
    let is_bad = |node: &RunNode| node.case.is_some() && node.has_failed();
    // From the row that is current, wherever the keys go: from the log of one failure to that of the next.
    let after = model.panes.run.at + usize::from(model.tree.get(model.panes.run.at).is_some_and(is_bad));
    let count = model.tree.len();
    let next = (0..count).map(|n| (after + n) % count).find(|at| is_bad(&model.tree[*at]));
    let Some(at) = next else { return model.say(Severity::Ok, "no case has failed, as far as it is shown") };
    model.panes.run.at = at;
    if model.panes.focus != Pane::Logs {
        model.panes.focus = Pane::Run;
    }
    let node = model.tree[at].clone();
    logs::open_case(model, &node);
}

/// Returns the case whose log is shown.
pub(super) fn case_of_log(model: &Model) -> Option<RunNode> {
    let shown = model.logs.source.as_ref()?;
    let (suite, case) = record_logs::case_of(&model.shown.dir, shown)?;
    let is_it = |node: &&RunNode| {
        node.guest == shown.guest && node.suite.as_deref() == Some(&suite) && node.case.as_deref() == Some(&case)
    };
    model.tree.iter().find(is_it).cloned()
}

/// Compares the case that is current, in the run pane or by its log, with the last time that it passed.
pub(super) fn compare(model: &mut Model, out: &mut Vec<Effect>) {
    let node = match model.panes.focus {
        Pane::Run => model.tree.get(model.panes.run.at).cloned(),
        _ => case_of_log(model),
    };
    match node.filter(|node| node.case.is_some()) {
        Some(node) if model.shown.view.last_end(&node.guest, node.suite.as_deref(), node.case.as_deref()).is_some() => {
            out.push(Effect::Compare(node.selector()));
        }
        Some(node) => model.say(Severity::Warn, format!("{} has not ended yet", node.selector())),
        None => model.say(Severity::Warn, "no case is selected: choose one in the run pane"),
    }
}

/// Takes a key in the list of errors: Enter shows one in its log.
pub(super) fn errors_key(model: &mut Model, rows: Vec<ErrorRow>, at: usize, key: KeyEvent) -> Option<Overlay> {
    match key.code {
        KeyCode::Esc | KeyCode::Char('q' | 'E') => return None,
        KeyCode::Enter => {
            open_error(model, &rows.get(at)?.place);
            return None;
        }
        _ => {}
    }
    let at = moved(at, rows.len(), key);
    Some(Overlay::Errors { rows, at })
}

fn open_error(model: &mut Model, place: &ErrorPlace) {
    match place {
        ErrorPlace::Case(word) => {
            // It may be folded away, or filtered out: its log is there all the same.
            let at = model.tree.iter().position(|node| node.case.is_some() && node.selector() == *word);
            let node = at.and_then(|at| model.tree.get(at)).cloned().or_else(|| node_of(word));
            model.panes.run.at = at.unwrap_or(model.panes.run.at);
            if let Some(node) = node {
                logs::open_case(model, &node);
            }
        }
        ErrorPlace::Line(source, line) => logs::show_line(model, source.clone(), *line),
        ErrorPlace::Console(guest) => logs::open_console(model, guest),
        ErrorPlace::Run => return,
    }
    model.panes.focus = Pane::Logs;
}

fn node_of(word: &str) -> Option<RunNode> {
    let selector = Selector::parse(word).ok()?;
    let (rest, guest) = word.rsplit_once('@')?;
    let (suite, case) = rest.split_once('/')?;
    let guest = GuestId::new(guest).ok().filter(|guest| selector.takes(guest))?;
    Some(RunNode::of_failure(guest, suite, case))
}

/// Takes a key in the comparison.
pub(super) fn comparison_key(
    model: &Model,
    title: String,
    lines: Vec<DiffLine>,
    top: usize,
    key: KeyEvent,
    out: &mut Vec<Effect>,
) -> Option<Overlay> {
    let rows = usize::from(model.size.1.saturating_sub(4)).max(1);
    let last = lines.len().saturating_sub(rows);
    let top = match key.code {
        KeyCode::Up | KeyCode::Char('k') => top.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => top + 1,
        KeyCode::PageUp => top.saturating_sub(rows),
        KeyCode::PageDown | KeyCode::Char(' ') => top + rows,
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => last,
        KeyCode::Char('y') => {
            let text = lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
            out.push(Effect::Copy(format!("{title}\n{text}")));
            top
        }
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | 'd') => return None,
        _ => top,
    };
    Some(Overlay::Comparison { title, lines, top: top.min(last) })
}

/// Opens the code that the current line of the log names in the editor, else the log itself.
pub(super) fn open_editor(model: &mut Model, out: &mut Vec<Effect>) {
    match place_of_subtest(model).or_else(|| place_in_code(model)) {
        Some((path, line)) => out.push(Effect::Open { path, line, editor: true }),
        None => logs::act(model, Action::OpenEditor, out),
    }
}

/// Returns the file of this host, and its line, where the sub-test of the current row failed.
fn place_of_subtest(model: &Model) -> Option<(PathBuf, u64)> {
    let node = Some(model.tree.get(model.panes.run.at)?).filter(|_| model.panes.focus == Pane::Run)?;
    let subtest = node.subtest.as_ref()?;
    let setup = model.setup.as_ref()?;
    let source = setup.guest_named(node.guest.as_str())?.source?;
    let dirs: Vec<&str> = setup.suites.iter().filter_map(|suite| suite.dir.as_deref()).collect();
    let place = source_place::NamedPlace { path: subtest.file.clone()?, line: u64::from(subtest.line.unwrap_or(1)) };
    Some((source_place::on_host(&place, &source, &dirs)?, place.line))
}

/// Returns the file of this host, and its line, that the current line of the log names, or one just below or above it.
fn place_in_code(model: &Model) -> Option<(PathBuf, u64)> {
    let guest = model.logs.source.as_ref().map(|source| &source.guest)?;
    let setup = model.setup.as_ref()?;
    let source = setup.guest_named(guest.as_str())?.source?;
    let dirs: Vec<&str> = setup.suites.iter().filter_map(|suite| suite.dir.as_deref()).collect();
    place_near(&model.logs, &source, &dirs)
}

fn place_near(logs: &LogPane, source: &Source, dirs: &[&str]) -> Option<(PathBuf, u64)> {
    let at = logs.at;
    let (after, before) = source_place::AROUND;
    let order = (at..=at + after).chain((at.saturating_sub(before)..at).rev());
    order.filter(|line| *line < logs.range().1).find_map(|line| {
        let places = source_place::named(&logs.text((line, line)));
        places.iter().find_map(|place| Some((source_place::on_host(place, source, dirs)?, place.line)))
    })
}

/// Copies what is current: the line or the selection of a log, a guest with its address, a case, of a failed one the report.
pub(super) fn copy(model: &mut Model, out: &mut Vec<Effect>) {
    let text = match model.panes.focus {
        Pane::Machines => model.current_guest().map(|g| {
            let view = model.shown.view.guests.get(&g);
            let address = view.and_then(|v| v.reached.as_ref()).and_then(|(_, address)| address.clone());
            address.map_or_else(|| g.to_string(), |a| format!("{g} {a}"))
        }),
        Pane::Run => model.tree.get(model.panes.run.at).map(|node| {
            // What somebody wants of a failure is a report, of anything else its name.
            let report = || case_report::markdown(model, node, &logs::of_case(model, node));
            Some(node).filter(|node| node.has_failed()).and_then(|_| report()).unwrap_or_else(|| node.selector())
        }),
        _ => Some(model.logs.text(model.logs.selection())),
    };
    model.logs.selected_from = None;
    if let Some(text) = text.filter(|t| !t.is_empty()) {
        out.push(Effect::Copy(text));
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        clock,
        errors::ErrorPlace,
        fixture::{TestCockpit, guest},
        model::{Pane, RunRequest},
        msg::{Effect, Msg},
        overlay::Overlay,
    };
    use std::{path::Path, time::Duration};
    use vmdeck_model::{
        command::Command,
        event::{EventKind, Holder},
        guest::Source,
        ids::{CaseId, SuiteId},
        outcome::{CancelReason, Verdict},
    };

    fn write(record: &Path, name: &str, text: &str) {
        let path = record.join("guests").join(name);
        std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        std::fs::write(path, text).expect("log");
    }

    /// A run whose case `install` failed at line 61 of its output, and whose case `remove` passed.
    fn failed(record: &Path) -> TestCockpit {
        let lines = |from, to| (from..to).map(|n| format!("ok {n}\n")).collect::<String>();
        let output = format!("{}error: expected 4, got 5\n   at tests/math.sh:12\n{}", lines(0, 60), lines(62, 200));
        write(record, "deb/smoke/install/stdout.log", &output);
        write(record, "deb/smoke/install/stderr.log", "a note\n");
        write(record, "deb/smoke/remove/stdout.log", "removed\n");
        let mut case = TestCockpit::with_run();
        case.model.shown.dir = record.to_owned();
        let ended = EventKind::CaseEnded {
            guest: guest("deb"),
            suite: SuiteId::new("smoke").expect("name"),
            case: CaseId::new("install").expect("name"),
            round: 1,
            verdict: Verdict::Failed,
            exit: Some(3),
            took_ms: 5,
            message: "exit 3".into(),
            stdout_tail: output,
            stderr_tail: "a note\n".into(),
            cause: None,
            earlier: Vec::new(),
            subtests: None,
            by_subtests: false,
            quarantined: None,
        };
        case.event(10, ended).case(20, "deb", "remove", Verdict::Passed).sent();
        case
    }

    async fn settle(case: &mut TestCockpit) {
        let stays = async {
            // The line may be found before all errors are counted.
            while case.model.logs.error_count().is_none() {
                case.msg(Msg::LogGrew);
                tokio::task::yield_now().await;
            }
        };
        clock::within(Duration::from_secs(20), stays).await.expect("found");
    }

    fn shown_log(case: &TestCockpit) -> String {
        case.model.logs.source.as_ref().map(|source| source.label.clone()).unwrap_or_default()
    }

    #[tokio::test]
    async fn the_output_of_what_is_selected_is_beside_it_at_the_line_that_says_why() {
        let record = tempfile::tempdir().expect("tempdir");
        let mut case = failed(record.path());
        case.keys("5 j j");
        assert_eq!(case.model.tree[case.model.panes.run.at].message, "exit 3: error: expected 4, got 5");
        assert_eq!(shown_log(&case), "smoke/install stdout", "the log that has the line, not the first");
        settle(&mut case).await;
        let logs = &case.model.logs;
        assert_eq!((logs.at, logs.error_count().as_deref()), (60, Some("error 1 of 1")));
        let (above, below) = (logs.at - logs.top, logs.top + logs.height as u64 - logs.at);
        assert!(above.abs_diff(below) <= 1, "in the middle: {above} above, {below} below");
        case.keys("j");
        assert_eq!((shown_log(&case).as_str(), case.model.logs.follow), ("smoke/remove stdout", true));
        case.case(30, "win", "install", Verdict::Failed).keys("1 F");
        assert_eq!(
            (case.model.panes.focus, case.model.tree[case.model.panes.run.at].selector().as_str()),
            (Pane::Run, "smoke/install@win")
        );
        case.keys("4 F");
        assert_eq!(
            (case.model.panes.focus, shown_log(&case).as_str()),
            (Pane::Logs, "smoke/install stdout"),
            "round and round"
        );
        case.keys("5 j");
        case.keys("j");
        assert_eq!(shown_log(&case), "smoke/remove stdout", "a guest has no output of its own");
    }

    #[tokio::test]
    async fn the_list_of_errors_leads_into_the_logs() {
        let record = tempfile::tempdir().expect("tempdir");
        let mut case = failed(record.path());
        case.keys("E");
        assert_eq!(case.sent(), [Effect::ListErrors]);
        case.msg(Msg::Errors(crate::errors::collect(record.path(), &case.model.shown.view)));
        let Some(Overlay::Errors { rows, .. }) = &case.model.overlay else { panic!("a list") };
        assert_eq!(rows.len(), 2, "the case, and its line");
        assert!(matches!(&rows[1].place, ErrorPlace::Line(_, 60)));
        case.keys("j enter");
        settle(&mut case).await;
        assert_eq!((case.model.panes.focus, case.model.logs.at), (Pane::Logs, 60));
        // Folded away, a case has no row; its log is opened all the same.
        case.keys("5 up up up left E").sent();
        case.msg(Msg::Errors(crate::errors::collect(record.path(), &case.model.shown.view))).keys("enter");
        assert_eq!(shown_log(&case), "smoke/install stdout");
        case.msg(Msg::Errors(Vec::new()));
        assert!(case.model.overlay.is_none() && case.toast().contains("no errors"));
    }

    #[tokio::test]
    async fn a_case_is_compared_from_its_row_and_from_its_log() {
        let record = tempfile::tempdir().expect("tempdir");
        let mut case = failed(record.path());
        case.keys("d");
        assert!(case.sent().is_empty() && case.toast().contains("no case is selected"), "{}", case.toast());
        let wanted = Effect::Compare("smoke/install@deb".into());
        case.keys("5 j j d");
        assert_eq!(case.sent(), std::slice::from_ref(&wanted));
        case.keys("4 d");
        assert_eq!(case.sent(), [wanted]);
        let line = |n| crate::green_diff::DiffLine { role: crate::role::StyleRole::UiText, text: format!("{n}") };
        case.msg(Msg::Compared { title: "t".into(), lines: (0..100).map(line).collect() }).keys("j j k G");
        let Some(Overlay::Comparison { top, .. }) = &case.model.overlay else { panic!("it is open") };
        assert_eq!(*top, 80, "the end is seen, and no further");
        case.keys("y q");
        assert!(matches!(&case.sent()[..], [Effect::Copy(text)] if text.starts_with("t\n0\n1")));
        assert!(case.model.overlay.is_none());
    }

    #[tokio::test]
    async fn the_editor_opens_the_code_that_the_log_names() {
        let (record, code) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        std::fs::create_dir(code.path().join("tests")).expect("folder");
        std::fs::write(code.path().join("tests/math.sh"), "").expect("file");
        let mut case = failed(record.path());
        case.keys("5 j j");
        settle(&mut case).await;
        let source = Source { path: code.path().to_owned(), to: "/app".into(), exclude: Vec::new() };
        let path = code.path().canonicalize().expect("path").join("tests/math.sh");
        assert_eq!(super::place_near(&case.model.logs, &source, &[]), Some((path, 12)), "a line below the error");
        case.keys("4 g");
        assert_eq!(super::place_near(&case.model.logs, &source, &[]), None);
        case.sent();
        case.keys("O");
        let path = record.path().join("guests/deb/smoke/install/stdout.log");
        assert_eq!(case.sent(), [Effect::Open { path, line: 1, editor: true }], "no place near: the log itself");
    }

    #[test]
    fn who_waits_leaves_the_queue_at_once_and_who_has_the_lock_does_not() {
        let mut case = TestCockpit::with_run();
        case.keys("Q");
        assert_eq!(case.commands(), [], "{}", case.toast());
        case.event(10, EventKind::LockWaiting { path: "/l".into(), holder: Holder::default(), waited_ms: 1 });
        case.keys("Q");
        assert_eq!(case.commands(), [Command::Cancel { reason: CancelReason::User }]);
        case.event(20, EventKind::LockHeld { path: "/l".into(), waited_ms: 1 });
        case.model.pending.next = Some(RunRequest::default());
        assert!(case.model.pending.next.is_some(), "queued behind this one");
        case.keys("Q");
        assert!(case.model.pending.next.is_none() && case.commands().is_empty(), "{}", case.toast());
    }
}
