//! What each action does. Only the dispatch may call it: it has asked whether the action may be done.

use crate::{
    host_state::{LockRow, LockState},
    keymap::Action,
    model::{Model, Pane, RecordSource, RunRequest},
    msg::Effect,
    notices,
    overlay::{Chooser, Confirm, Overlay, Question},
    prompt::{InputLine, Prompt, Purpose},
    run_node::RunNode,
    theme, tree,
    update::{evidence, logs, moves, rewind, sizes, start, watch},
};
use std::time::Duration;
use tui_logger::TuiWidgetEvent;
use vmdeck_model::{
    command::{Command, KernelKey},
    event::Severity,
    ids::GuestId,
    machine::Owner,
    outcome::CancelReason,
    plan::Setup,
    quantity::show_count,
    run_view::LockView,
};

/// How far `seek-forward` and `seek-back` go, milliseconds.
const SEEK_MS: u64 = 10_000;
/// How long a failed guest is held where the config does not say.
const PAUSE: Duration = Duration::from_mins(5);

/// Does what the action says.
pub(super) fn act(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    match action {
        Action::Help => model.overlay = Some(Overlay::Help(Chooser::default())),
        Action::Palette => model.overlay = Some(Overlay::Palette(Chooser::default())),
        Action::Quit => quit(model, out),
        Action::Back => back(model),
        Action::NextPane => moves::step_pane(model, 1),
        Action::PrevPane => moves::step_pane(model, -1),
        Action::PaneMachines => model.panes.focus = Pane::Machines,
        Action::PaneLock => model.panes.focus = Pane::Lock,
        Action::PanePreflight => model.panes.focus = Pane::Preflight,
        Action::PaneLogs => model.panes.focus = Pane::Logs,
        Action::PaneRun => model.panes.focus = Pane::Run,
        Action::PaneEvents => model.panes.focus = Pane::Events,
        Action::Zoom => model.panes.zoom = !model.panes.zoom,
        Action::Grow => sizes::step(model, 1),
        Action::Shrink => sizes::step(model, -1),
        Action::Up => moves::step(model, -1),
        Action::Down => moves::step(model, 1),
        Action::PageUp => moves::page(model, -1),
        Action::PageDown => moves::page(model, 1),
        Action::Top => moves::step(model, i64::MIN / 2),
        Action::Bottom => moves::bottom(model),
        Action::Left => moves::sideways(model, -1),
        Action::Right => moves::sideways(model, 1),
        Action::Enter => enter(model),
        Action::Search => begin_search(model),
        Action::NextMatch => model.logs.next_match(true),
        Action::PrevMatch => model.logs.next_match(false),
        Action::Copy => evidence::copy(model, out),
        Action::Theme => open_themes(model),
        Action::Mouse => {
            model.appearance.mouse = !model.appearance.mouse;
            out.push(Effect::Mouse(model.appearance.mouse));
            model.say(
                Severity::Ok,
                if model.appearance.mouse { "mouse on" } else { "mouse off: the terminal selects text" },
            );
        }
        Action::Redraw => out.push(Effect::Redraw),
        Action::Suspend => out.push(Effect::Suspend),
        Action::EditConfig => out.push(Effect::EditConfig),
        Action::Reload => {
            let attach = model.shown.record == RecordSource::Nothing;
            out.extend([Effect::LoadSetup, Effect::ListMachines, Effect::LookAtLock { attach }]);
        }
        Action::Recheck => {
            model.say(Severity::Ok, "checking the host ...");
            out.extend([Effect::Recheck, Effect::LookAtLock { attach: false }]);
        }
        Action::KeepFailed => toggle_keep_failed(model, out),
        Action::PauseFailed => toggle_pause(model),
        Action::History => out.push(Effect::ListRuns),
        Action::Order => {
            let look = &mut model.appearance.look;
            look.order = look.order.next();
            model.is_tree_stale = true;
        }
        Action::NextFailed => evidence::next_failed(model),
        Action::Errors => out.push(Effect::ListErrors),
        Action::Compare => evidence::compare(model, out),
        Action::OpenEditor => evidence::open_editor(model, out),
        Action::LeaveQueue => leave_queue(model, out),
        Action::Watch if model.code_watch.is_some() => watch::toggle(model, Vec::new(), out),
        Action::Watch => {
            if let Some(select) = selection(model) {
                watch::toggle(model, select, out);
            }
        }
        Action::Answer => answer(model),
        Action::Cancel => ask_cancel(model),
        Action::CleanUp => out.push(Effect::ListOrphans),
        Action::BreakLock => ask_break(model),
        Action::Mark | Action::MarkAll => mark(model, action),
        Action::Details => model.overlay = model.current_guest().map(Overlay::Details),
        Action::Start => start_guests(model, out),
        Action::Stop => for_each_running(model, out, |guest| Command::Stop { guest }, "stop after the current case"),
        Action::Kill => ask_kill(model),
        Action::Run => {
            if let Some(select) = selection(model) {
                start::begin(model, RunRequest { select, ..RunRequest::default() }, out);
            }
        }
        Action::RerunFailed => rerun_failed(model, out),
        Action::KeepGuest => keep_guest(model, out),
        Action::SysRq => {
            if one_running(model).is_some() {
                model.prompt = Some(Prompt { purpose: Purpose::SysRq, line: InputLine::default() });
            }
        }
        Action::Nmi => {
            if let Some(guest) = one_running(model) {
                model.say(Severity::Ok, format!("a non-maskable interrupt for {guest}: its console has the answer"));
                out.push(Effect::Send(Command::Press { guest, key: KernelKey::Nmi }));
            }
        }
        Action::Proceed => for_each_running(model, out, |guest| Command::Proceed { guest }, "released"),
        Action::Shell => shell(model, out),
        Action::Attach => match model.current_guest() {
            Some(guest) => out.push(Effect::Attach(guest)),
            None => model.say(Severity::Warn, "there is no guest here"),
        },
        Action::Levels => model.events.transition(TuiWidgetEvent::HideKey),
        Action::Play
        | Action::Faster
        | Action::Slower
        | Action::SeekForward
        | Action::SeekBack
        | Action::StepForward
        | Action::StepBack
        | Action::NextFailure
        | Action::SeekTo => replay(model, action),
        _ => logs::act(model, action, out),
    }
}

/// Shows the question of the selected guest's case, or of the first that asks.
fn answer(model: &mut Model) {
    let asks = |guest: &GuestId| model.shown.view.guests.get(guest)?.question.clone();
    let selected = model.current_guest().filter(|guest| asks(guest).is_some());
    let guest = selected.or_else(|| model.shown.view.guests.keys().find(|guest| asks(guest).is_some()).cloned());
    let Some((guest, question)) = guest.and_then(|guest| Some((guest.clone(), asks(&guest)?))) else {
        return model.say(Severity::Warn, "no case asks anything");
    };
    let title = format!("a case in {guest} asks");
    let lines = question.lines().map(str::to_owned).collect();
    let confirm = Confirm::new(Question::Answer(guest.clone(), true), title, lines);
    model.overlay = Some(Overlay::Confirm(confirm.or_no(Question::Answer(guest, false))));
}

fn quit(model: &mut Model, out: &mut Vec<Effect>) {
    if model.panes.zoom {
        model.panes.zoom = false;
    } else if model.is_running() && model.shown.view.exit.is_some() {
        // It is over, and its process about to say so.
        model.pending.is_leaving = true;
    } else if model.is_running() {
        model.overlay = Some(Overlay::Quit);
    } else {
        out.push(Effect::Quit);
    }
}

fn back(model: &mut Model) {
    if model.panes.focus == Pane::Logs {
        if model.logs.selected_from.take().is_none() {
            model.logs.search_for("");
        }
    } else if model.panes.focus == Pane::Events {
        model.events.transition(TuiWidgetEvent::EscapeKey);
    } else {
        let list = if model.panes.focus == Pane::Run { &mut model.panes.run } else { &mut model.panes.machines };
        list.filter.clear();
        model.panes.selected.clear();
        model.is_tree_stale = true;
    }
}

fn enter(model: &mut Model) {
    match model.panes.focus {
        Pane::Machines => {
            if let Some(guest) = model.current_guest() {
                logs::open_console(model, &guest);
                model.panes.focus = Pane::Logs;
            }
        }
        Pane::Run => match model.tree.get(model.panes.run.at).cloned() {
            Some(node) if node.case.is_some() => {
                logs::open_case(model, &node);
                model.panes.focus = Pane::Logs;
            }
            Some(node) => moves::fold(model, !node.folded),
            None => {}
        },
        Pane::Preflight if notices::findings(model).is_empty() => {
            model.say(Severity::Ok, "the host was not checked yet");
        }
        Pane::Preflight => model.overlay = Some(Overlay::Remedies(0)),
        _ => {}
    }
}

fn begin_search(model: &mut Model) {
    let (purpose, text) = match model.panes.focus {
        Pane::Machines => (Purpose::Filter, model.panes.machines.filter.clone()),
        Pane::Run => (Purpose::Filter, model.panes.run.filter.clone()),
        _ => {
            model.panes.focus = Pane::Logs;
            (Purpose::Search, model.logs.search.as_ref().map(|s| s.query.text.clone()).unwrap_or_default())
        }
    };
    model.prompt = Some(Prompt { purpose, line: InputLine::new(&text) });
}

fn toggle_keep_failed(model: &mut Model, out: &mut Vec<Effect>) {
    model.keep_failed = !model.keep_failed;
    if model.is_running() {
        out.push(Effect::Send(Command::KeepFailed { on: model.keep_failed }));
    }
    let word = if model.keep_failed { "will be kept" } else { "will be removed" };
    model.say(Severity::Ok, format!("guests with a failed case {word}"));
}

/// Returns how long the config holds a guest that failed; where it says never, a person who asks for it has a time of ours.
fn wanted_pause(model: &Model) -> Duration {
    let configured = model.setup.as_ref().and_then(|setup| setup.cockpit.duration("pause"));
    configured.filter(|pause| !pause.is_zero()).unwrap_or(PAUSE)
}

fn toggle_pause(model: &mut Model) {
    model.pause = match model.pause {
        Some(_) => None,
        None => Some(wanted_pause(model)),
    };
    match model.pause {
        Some(time) => {
            model.say(Severity::Ok, format!("in the next run a failed guest is held for {} s", time.as_secs()));
        }
        None => model.say(Severity::Ok, "from the next run on, failed guests are removed at once"),
    }
}

fn leave_queue(model: &mut Model, out: &mut Vec<Effect>) {
    if model.pending.next.take().is_some() {
        model.say(Severity::Ok, "the queued run was dropped");
    } else if model.is_running() && matches!(model.shown.view.lock, LockView::Waiting(_)) {
        model.say(Severity::Ok, "leaving the queue for the lock");
        out.push(Effect::Send(Command::Cancel { reason: CancelReason::User }));
    } else {
        model.say(Severity::Ok, "no run of this cockpit waits");
    }
}

fn ask_cancel(model: &mut Model) {
    if !model.is_running() {
        return model.say(Severity::Warn, "no run of this cockpit is in progress");
    }
    let left = model.shown.view.planned.saturating_sub(model.shown.view.tally.total() as usize);
    let lines = vec![
        format!("{} not ended", show_count(left, "case")),
        "every guest is taken down and checked to be gone, unless it is kept".into(),
    ];
    model.overlay = Some(Overlay::Confirm(Confirm::new(Question::Cancel, "cancel the run?", lines)));
}

fn ask_kill(model: &mut Model) {
    let on: Vec<GuestId> = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no running guest is selected");
    }
    let lines = on.iter().map(|g| format!("{g}: a running case is aborted, no artifacts are fetched")).collect();
    let title = format!("kill {} now?", if on.len() == 1 { on[0].to_string() } else { show_count(on.len(), "guest") });
    model.overlay = Some(Overlay::Confirm(Confirm::new(Question::Kill(on), title, lines)));
}

fn ask_break(model: &mut Model) {
    let Some(row) = busy_slot(model) else {
        return model.say(Severity::Ok, "the lock is free");
    };
    let holder = row.holder.as_ref().map(ToString::to_string).unwrap_or_default();
    let confirm = if let (LockState::Held, Some(pid)) = (row.state, row.holder.as_ref().and_then(|h| h.pid)) {
        let lines = vec![
            row.path.clone(),
            format!("its holder is still running: {holder}"),
            "a vmdeck process notices and ends its run as infra; any other program continues, and two runs may overlap"
                .into(),
        ];
        let title = "take the lock from a running process?";
        Confirm::new(Question::BreakLock(row.path.clone().into(), Some(pid)), title, lines).typed(pid.to_string())
    } else {
        let lines = vec![row.path.clone(), format!("its holder is gone: {holder}")];
        Confirm::new(Question::BreakLock(row.path.clone().into(), None), "release the stale lock?", lines)
    };
    model.overlay = Some(Overlay::Confirm(confirm));
}

fn mark(model: &mut Model, action: Action) {
    if action == Action::MarkAll {
        let all = model.shown_guests();
        model.panes.selected = if model.panes.selected.len() == all.len() {
            std::collections::BTreeSet::new()
        } else {
            all.into_iter().collect()
        };
        return;
    }
    let Some(guest) = model.current_guest() else { return };
    if !model.panes.selected.remove(&guest) {
        model.panes.selected.insert(guest);
    }
    moves::step(model, 1);
}

/// Returns the chosen guests that are in a run of ours.
fn running(model: &Model) -> Vec<GuestId> {
    let all = if model.is_running() { model.selected_guests() } else { Vec::new() };
    all.into_iter().filter(|g| model.shown.view.guests.contains_key(g)).collect()
}

fn for_each_running(model: &mut Model, out: &mut Vec<Effect>, command: impl Fn(GuestId) -> Command, what: &str) {
    let on = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no running guest is selected");
    }
    let names: Vec<String> = on.iter().map(ToString::to_string).collect();
    out.extend(on.into_iter().map(|guest| Effect::Send(command(guest))));
    model.say(Severity::Ok, format!("{}: {what}", names.join(", ")));
}

fn start_guests(model: &mut Model, out: &mut Vec<Effect>) {
    let chosen = model.selected_guests();
    if chosen.is_empty() {
        return model.say(Severity::Warn, "there is no guest to start; the config has none");
    }
    let select = chosen.iter().map(|g| format!("@{g}")).collect();
    start::begin(model, RunRequest { select, hold: true, ..RunRequest::default() }, out);
}

/// Returns what is selected in the run pane on the marked guests, else all of it; where there is nothing, that is said.
fn selection(model: &mut Model) -> Option<Vec<String>> {
    let Some(setup) = model.setup.clone() else {
        let key = model.appearance.keymap.key(Action::EditConfig);
        model.say(Severity::Warn, format!("there is no config; {key} edits one"));
        return None;
    };
    let node = match model.panes.focus {
        Pane::Run => model.tree.get(model.panes.run.at).cloned(),
        Pane::Logs => evidence::case_of_log(model),
        _ => None,
    };
    let select = match node {
        // What is selected in the run pane, on each marked guest.
        Some(node) if !model.panes.selected.is_empty() => {
            let word = node.selector();
            let what = word.split('@').next().unwrap_or_default();
            model.panes.selected.iter().map(|g| format!("{what}@{g}")).filter(|w| exists(&setup, w)).collect()
        }
        Some(node) if node.case.is_some() || is_whole(model) => vec![node.selector()],
        Some(node) => cases_of(model, &node),
        None if !model.panes.selected.is_empty() => model.panes.selected.iter().map(|g| format!("@{g}")).collect(),
        None if is_whole(model) => model.current_guest().map(|g| format!("@{g}")).into_iter().collect::<Vec<_>>(),
        None => match model.current_guest() {
            Some(guest) => of_guest(model, &guest),
            None => Vec::new(),
        },
    };
    if !select.iter().any(|w| exists(&setup, w)) {
        model.say(Severity::Warn, "the config has no case for this guest");
        return None;
    }
    Some(select)
}

/// Returns whether every case of the config is shown.
fn is_whole(model: &Model) -> bool {
    model.select.is_empty() && model.panes.run.filter.is_empty()
}

/// Returns the shown cases of a guest.
fn of_guest(model: &Model, guest: &GuestId) -> Vec<String> {
    let rows = tree::rows(model);
    rows.iter().filter(|row| row.is_case() && row.guest == *guest).map(RunNode::selector).collect()
}

/// Returns the cases below a row, where a filter or the command line shows a part of them.
fn cases_of(model: &Model, head: &RunNode) -> Vec<String> {
    let below =
        |row: &&RunNode| row.is_case() && row.guest == head.guest && (head.suite.is_none() || row.suite == head.suite);
    tree::rows(model).iter().filter(below).map(RunNode::selector).collect()
}

fn exists(setup: &Setup, word: &str) -> bool {
    vmdeck_model::select::Selector::parse(word).is_ok_and(|s| !vmdeck_model::plan::select(setup, &[s]).is_empty())
}

fn rerun_failed(model: &mut Model, out: &mut Vec<Effect>) {
    let failed = model.shown.view.failed();
    if failed.is_empty() {
        return model.say(Severity::Ok, "nothing has failed in the run that is shown; H opens an earlier one");
    }
    let has_subtests = !model.shown.view.failed_subtests().is_empty();
    let rerun_of = has_subtests.then(|| model.shown.dir.clone()).filter(|dir| !dir.as_os_str().is_empty());
    start::begin(model, RunRequest { select: failed, rerun_of, ..RunRequest::default() }, out);
}

/// Returns the guest that is selected, where it runs; else says so.
fn one_running(model: &mut Model) -> Option<GuestId> {
    let guest = model.current_guest().filter(|guest| running(model).contains(guest));
    if guest.is_none() {
        model.say(Severity::Warn, "no running guest is selected");
    }
    guest
}

fn keep_guest(model: &mut Model, out: &mut Vec<Effect>) {
    let on = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no running guest is selected");
    }
    for guest in on {
        let on = !model.pending.kept.remove(&guest);
        if on {
            model.pending.kept.insert(guest.clone());
        }
        model.say(Severity::Ok, format!("{guest} {}", if on { "stays at the end" } else { "is removed at the end" }));
        out.push(Effect::Send(Command::Keep { guest, on }));
    }
}

fn shell(model: &mut Model, out: &mut Vec<Effect>) {
    let Some(guest) = model.current_guest() else {
        return model.say(Severity::Warn, "there is no guest here");
    };
    let reached = model.shown.view.guests.get(&guest).and_then(|v| v.reached.clone());
    if let Some((transport, None)) = &reached {
        return model.say(Severity::Warn, format!("{guest} is reached by `{transport}`, which has no terminal"));
    }
    let is_up = reached.is_some();
    let was_kept =
        model.host.inventory.iter().any(|r| r.owner == Owner::Kept && r.guest.as_deref() == Some(guest.as_str()));
    if is_up || was_kept {
        let node = model.tree.get(model.panes.run.at).filter(|_| model.panes.focus == Pane::Run);
        return out.push(Effect::Shell(guest, node.and_then(|node| node.suite.clone())));
    }
    if model.shown.view.guests.get(&guest).is_some_and(|v| v.boot_failed) && model.is_running() {
        let key = model.appearance.keymap.key(Action::Attach);
        return model.say(Severity::Warn, format!("{guest} did not boot: only its console ({key}) may answer"));
    }
    if model.shown.view.guests.get(&guest).is_some_and(|v| !v.open.is_empty()) && model.is_running() {
        model.say(Severity::Ok, format!("{guest} is booting: the shell opens when it is up"));
    } else {
        let select = vec![format!("@{guest}")];
        start::begin(model, RunRequest { select, hold: true, ..RunRequest::default() }, out);
        model.say(Severity::Ok, format!("starting {guest}: the shell opens when it is up"));
    }
    model.pending.shell_when_up = Some(guest);
}

fn replay(model: &mut Model, action: Action) {
    let now = model.now_ms;
    let Some(player) = &mut model.shown.player else { return };
    let at = player.now_ms();
    let to = match action {
        Action::Play => {
            if at >= player.total_ms && !player.is_playing() {
                rewind::seek(model, 0);
            }
            if let Some(player) = &mut model.shown.player {
                player.toggle(now);
            }
            return;
        }
        Action::Faster => return player.change_speed(2.0, now),
        Action::Slower => return player.change_speed(0.5, now),
        Action::SeekTo => {
            model.prompt = Some(Prompt { purpose: Purpose::Seek, line: InputLine::default() });
            return;
        }
        Action::SeekForward => at + SEEK_MS,
        Action::SeekBack => at.saturating_sub(SEEK_MS),
        Action::StepForward => player.neighbour(true),
        Action::StepBack => player.neighbour(false),
        _ => match player.next_failure() {
            Some(ms) => ms,
            None => return model.say(Severity::Ok, "nothing failed in this run"),
        },
    };
    rewind::seek(model, to);
}

/// Opens the choice of themes.
fn open_themes(model: &mut Model) {
    let names = theme::names(model.appearance.theme_folder.as_deref());
    let at = names.iter().position(|n| *n == model.appearance.theme.name).unwrap_or(0);
    model.overlay = Some(Overlay::Themes { names, at, before: Box::new(model.appearance.theme.clone()) });
}

/// Returns the slot of the lock to release: a stale one, else the first that is held.
fn busy_slot(model: &Model) -> Option<&LockRow> {
    let of = |state| move |row: &&LockRow| row.state == state;
    model.host.locks.iter().find(of(LockState::Stale)).or_else(|| model.host.locks.iter().find(of(LockState::Held)))
}
