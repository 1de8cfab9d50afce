//! What each action does.

use super::{busy_slot, keys, logs, overlays};
use crate::{
    keymap::Action,
    layout::Layout,
    model::{LockState, Model, Pane, Watch, Wish},
    msg::Effect,
    overlay::{Chooser, Confirm, Overlay, Question},
    prompt::{Line, Prompt, Purpose},
    tree::Node,
};
use std::time::Duration;
use tui_logger::TuiWidgetEvent;
use vmdeck_model::{command::Command, event::Severity, ids::GuestId, machine::Owner, outcome::Verdict, plan::Setup};

/// How far `seek-forward` and `seek-back` go, milliseconds.
const SEEK_MS: u64 = 10_000;
/// Countdown where the config sets none.
const PAUSE: Duration = Duration::from_mins(5);
/// Columns of a sideways scroll.
const COLUMNS: i64 = 8;

/// Does it.
pub(super) fn act(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    match action {
        Action::Help => model.overlay = Some(Overlay::Help(Chooser::default())),
        Action::Palette => model.overlay = Some(Overlay::Palette(Chooser::default())),
        Action::Quit => quit(model, out),
        Action::Back => back(model),
        Action::NextPane => step_pane(model, 1),
        Action::PrevPane => step_pane(model, -1),
        Action::PaneMachines => focus(model, Pane::Machines),
        Action::PaneLock => focus(model, Pane::Lock),
        Action::PanePreflight => focus(model, Pane::Preflight),
        Action::PaneLogs => focus(model, Pane::Logs),
        Action::PaneRun => focus(model, Pane::Run),
        Action::PaneEvents => focus(model, Pane::Events),
        Action::Zoom => model.zoom = !model.zoom,
        Action::Up => step(model, -1),
        Action::Down => step(model, 1),
        Action::PageUp => page(model, -1),
        Action::PageDown => page(model, 1),
        Action::Top => step(model, i64::MIN / 2),
        Action::Bottom => bottom(model),
        Action::Left => sideways(model, -1),
        Action::Right => sideways(model, 1),
        Action::Enter => enter(model),
        Action::Search => begin_search(model),
        Action::NextMatch => model.logs.next_match(true),
        Action::PrevMatch => model.logs.next_match(false),
        Action::Copy => copy(model, out),
        Action::Theme => overlays::open_themes(model),
        Action::Mouse => {
            model.look.mouse = !model.look.mouse;
            out.push(Effect::Mouse(model.look.mouse));
            model.say(Severity::Ok, if model.look.mouse { "mouse on" } else { "mouse off: the terminal selects text" });
        }
        Action::Redraw => out.push(Effect::Redraw),
        Action::Suspend => out.push(Effect::Suspend),
        Action::EditConfig => out.push(Effect::EditConfig),
        Action::Reload => {
            let attach = model.watch == Watch::Nothing;
            out.extend([Effect::LoadSetup, Effect::ListMachines, Effect::LookAtLock { attach }]);
        }
        Action::Recheck => {
            model.say(Severity::Ok, "checking the host ...");
            out.extend([Effect::Recheck, Effect::LookAtLock { attach: false }]);
        }
        Action::KeepFailed => toggle_keep_failed(model, out),
        Action::PauseFailed => toggle_pause(model),
        Action::Cancel => ask_cancel(model),
        Action::CleanUp => out.push(Effect::ListOrphans),
        Action::BreakLock => ask_break(model),
        Action::Mark | Action::MarkAll => mark(model, action),
        Action::Details => model.overlay = model.guest().map(Overlay::Details),
        Action::Start => start_guests(model, out),
        Action::Stop => for_each_running(model, out, |guest| Command::Stop { guest }, "stop after the current case"),
        Action::Kill => ask_kill(model),
        Action::Run => run_selected(model, out),
        Action::RerunFailed => rerun_failed(model, out),
        Action::KeepGuest => keep_guest(model, out),
        Action::Proceed => for_each_running(model, out, |guest| Command::Proceed { guest }, "go on"),
        Action::Shell => shell(model, out),
        Action::Attach => match model.guest() {
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

fn quit(model: &mut Model, out: &mut Vec<Effect>) {
    if model.zoom {
        model.zoom = false;
    } else if model.is_running() {
        model.overlay = Some(Overlay::Quit);
    } else {
        out.push(Effect::Quit);
    }
}

fn back(model: &mut Model) {
    if model.focus == Pane::Logs {
        if model.logs.selected_from.take().is_none() {
            model.logs.search_for("");
        }
    } else if model.focus == Pane::Events {
        model.events.transition(TuiWidgetEvent::EscapeKey);
    } else {
        let list = if model.focus == Pane::Run { &mut model.run } else { &mut model.machines };
        list.filter.clear();
        model.marks.clear();
        model.is_tree_stale = true;
    }
}

fn focus(model: &mut Model, pane: Pane) {
    model.focus = pane;
}

fn step_pane(model: &mut Model, by: i64) {
    let now = Pane::ALL.iter().position(|p| *p == model.focus).unwrap_or(0);
    let count = i64::try_from(Pane::ALL.len()).unwrap_or(1);
    let next = (i64::try_from(now).unwrap_or(0) + by).rem_euclid(count);
    model.focus = Pane::ALL[usize::try_from(next).unwrap_or(0)];
}

/// Moves in the pane that has the keys.
pub(super) fn step(model: &mut Model, by: i64) {
    match model.focus {
        Pane::Machines => {
            let rows = model.shown_guests().len() + model.other_machines().len();
            model.machines.step(by, rows);
        }
        Pane::Run => model.run.step(by, model.tree.len()),
        Pane::Logs => model.logs.step(by),
        Pane::Events => model.events.transition(if by < 0 { TuiWidgetEvent::UpKey } else { TuiWidgetEvent::DownKey }),
        Pane::Lock | Pane::Preflight => {
            let at = model.scroll.entry(model.focus).or_default();
            *at = at.saturating_add_signed(isize::try_from(by).unwrap_or(isize::MIN)).min(500);
        }
    }
}

fn page(model: &mut Model, by: i64) {
    if model.focus == Pane::Events {
        let key = if by < 0 { TuiWidgetEvent::PrevPageKey } else { TuiWidgetEvent::NextPageKey };
        return model.events.transition(key);
    }
    let rows = Layout::of(model).area(model.focus).map_or(10, |area| area.height.saturating_sub(3).max(1));
    step(model, by * i64::from(rows));
}

fn bottom(model: &mut Model) {
    match model.focus {
        Pane::Logs => model.logs.set_follow(true),
        Pane::Events => model.events.transition(TuiWidgetEvent::EscapeKey),
        _ => step(model, i64::MAX / 2),
    }
}

fn sideways(model: &mut Model, by: i64) {
    match model.focus {
        Pane::Logs => model.logs.sideways(by * COLUMNS),
        Pane::Events => {
            model.events.transition(if by < 0 { TuiWidgetEvent::LeftKey } else { TuiWidgetEvent::RightKey });
        }
        Pane::Run => fold(model, by < 0),
        _ => {}
    }
}

/// Folds the row of the run pane in or out; a case folds its suite.
fn fold(model: &mut Model, closed: bool) {
    let Some(node) = model.tree.get(model.run.at) else { return };
    let mut head = node.clone();
    head.case = None;
    let word = head.selector();
    if closed {
        model.folded.insert(word.clone());
        let of_head = |n: &crate::tree::Node| n.case.is_none() && n.selector() == word;
        model.run.at = model.tree.iter().position(of_head).unwrap_or(model.run.at);
    } else {
        model.folded.remove(&word);
    }
    model.is_tree_stale = true;
}

fn enter(model: &mut Model) {
    match model.focus {
        Pane::Machines => {
            if let Some(guest) = model.guest() {
                logs::open_first(model, &guest, "console");
                model.focus = Pane::Logs;
            }
        }
        Pane::Run => match model.tree.get(model.run.at).cloned() {
            Some(node) if node.case.is_some() => {
                let prefix = format!("{}/{}", node.suite.unwrap_or_default(), node.case.unwrap_or_default());
                logs::open_first(model, &node.guest, &prefix);
                model.focus = Pane::Logs;
            }
            Some(node) => fold(model, !node.folded),
            None => {}
        },
        _ => {}
    }
}

fn begin_search(model: &mut Model) {
    let (purpose, text) = match model.focus {
        Pane::Machines => (Purpose::Filter, model.machines.filter.clone()),
        Pane::Run => (Purpose::Filter, model.run.filter.clone()),
        _ => {
            model.focus = Pane::Logs;
            (Purpose::Search, model.logs.search.as_ref().map(|s| s.query.text.clone()).unwrap_or_default())
        }
    };
    model.prompt = Some(Prompt { purpose, line: Line::new(&text) });
}

fn copy(model: &mut Model, out: &mut Vec<Effect>) {
    let text = match model.focus {
        Pane::Machines => model.guest().map(|g| {
            let view = model.view.guests.get(&g);
            let address = view.and_then(|v| v.reached.as_ref()).and_then(|(_, address)| address.clone());
            address.map_or_else(|| g.to_string(), |a| format!("{g} {a}"))
        }),
        Pane::Run => model.tree.get(model.run.at).map(crate::tree::Node::selector),
        _ => Some(model.logs.text(model.logs.selection())),
    };
    model.logs.selected_from = None;
    if let Some(text) = text.filter(|t| !t.is_empty()) {
        out.push(Effect::Copy(text));
    }
}

fn toggle_keep_failed(model: &mut Model, out: &mut Vec<Effect>) {
    model.keep_failed = !model.keep_failed;
    if model.is_running() {
        out.push(Effect::Send(Command::KeepFailed { on: model.keep_failed }));
    }
    let word = if model.keep_failed { "stay at the end" } else { "are removed" };
    model.say(Severity::Ok, format!("guests with a failed case {word}"));
}

fn toggle_pause(model: &mut Model) {
    model.pause = match model.pause {
        Some(_) => None,
        None => Some(
            model.setup.as_ref().and_then(|s| s.cockpit.duration("pause")).filter(|p| !p.is_zero()).unwrap_or(PAUSE),
        ),
    };
    match model.pause {
        Some(time) => {
            model.say(Severity::Ok, format!("in the next run a failed guest stands for {} s", time.as_secs()));
        }
        None => model.say(Severity::Ok, "in the next run failed guests are taken down at once"),
    }
}

fn ask_cancel(model: &mut Model) {
    if !model.is_running() {
        return model.say(Severity::Warn, "no run of this cockpit goes on");
    }
    let left = model.view.planned.saturating_sub(model.view.tally.total() as usize);
    let lines = vec![format!("{left} cases have not ended"), "every guest is taken down and proven gone".into()];
    model.overlay = Some(Overlay::Confirm(Confirm::new(Question::Cancel, "cancel the run?", lines)));
}

fn ask_kill(model: &mut Model) {
    let on: Vec<GuestId> = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no marked guest is in a run of this cockpit");
    }
    let lines = on.iter().map(|g| format!("{g}: its case is ended, nothing is collected")).collect();
    let title = format!("kill {} now?", if on.len() == 1 { on[0].to_string() } else { format!("{} guests", on.len()) });
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
            format!("its holder is ALIVE: {holder}"),
            "a vmdeck notices that and ends its run as infra; others go on, and two runs may meet".into(),
        ];
        let title = "take the lock away from a process that lives?";
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
        model.marks =
            if model.marks.len() == all.len() { std::collections::BTreeSet::new() } else { all.into_iter().collect() };
        return;
    }
    let Some(guest) = model.guest() else { return };
    if !model.marks.remove(&guest) {
        model.marks.insert(guest);
    }
    step(model, 1);
}

/// The chosen guests that are in a run of ours.
fn running(model: &Model) -> Vec<GuestId> {
    let all = if model.is_running() { model.chosen() } else { Vec::new() };
    all.into_iter().filter(|g| model.view.guests.contains_key(g)).collect()
}

fn for_each_running(model: &mut Model, out: &mut Vec<Effect>, command: impl Fn(GuestId) -> Command, what: &str) {
    let on = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no marked guest is in a run of this cockpit");
    }
    let names: Vec<String> = on.iter().map(ToString::to_string).collect();
    out.extend(on.into_iter().map(|guest| Effect::Send(command(guest))));
    model.say(Severity::Ok, format!("{}: {what}", names.join(", ")));
}

fn start_guests(model: &mut Model, out: &mut Vec<Effect>) {
    let chosen = model.chosen();
    if chosen.is_empty() {
        return model.say(Severity::Warn, "there is no guest to start; the config has none");
    }
    let select = chosen.iter().map(|g| format!("@{g}")).collect();
    begin(model, Wish { select, hold: true, ..Wish::default() }, out);
}

/// Starts a run, or puts it behind the one that goes on.
pub(super) fn begin(model: &mut Model, wish: Wish, out: &mut Vec<Effect>) {
    let wish = Wish { keep_failed: model.keep_failed, pause: model.pause, ..wish };
    if !model.is_running() {
        model.say(Severity::Ok, format!("starting: {}", words(&wish)));
        model.is_starting = true;
        return out.push(Effect::Start(wish));
    }
    let only_held = model.view.guests.values().all(|g| g.planned == 0);
    if only_held {
        // Guests that are only kept up make room.
        let on: Vec<GuestId> = model.view.guests.keys().cloned().collect();
        out.extend(on.into_iter().map(|guest| Effect::Send(Command::Stop { guest })));
    }
    model.say(Severity::Ok, format!("after the current run: {}", words(&wish)));
    model.next = Some(wish);
}

fn words(wish: &Wish) -> String {
    let what = if wish.select.is_empty() { "everything".to_owned() } else { wish.select.join(" ") };
    if wish.hold { format!("{what}, to stay up") } else { what }
}

fn run_selected(model: &mut Model, out: &mut Vec<Effect>) {
    let Some(setup) = model.setup.clone() else {
        return model.say(Severity::Warn, "there is no config; ctrl-o edits one");
    };
    let node = (model.focus == Pane::Run).then(|| model.tree.get(model.run.at).cloned()).flatten();
    let select = match node {
        // What is selected in the run pane, on each marked guest.
        Some(node) if !model.marks.is_empty() => {
            let word = node.selector();
            let what = word.split('@').next().unwrap_or_default();
            model.marks.iter().map(|g| format!("{what}@{g}")).filter(|w| exists(&setup, w)).collect()
        }
        Some(node) if node.case.is_some() || is_whole(model) => vec![node.selector()],
        Some(node) => cases_of(model, &node),
        None if !model.marks.is_empty() => model.marks.iter().map(|g| format!("@{g}")).collect(),
        None if is_whole(model) => model.guest().map(|g| format!("@{g}")).into_iter().collect::<Vec<_>>(),
        None => match model.guest() {
            Some(guest) => of_guest(model, &guest),
            None => Vec::new(),
        },
    };
    if !select.iter().any(|w| exists(&setup, w)) {
        return model.say(Severity::Warn, "the config has no case for this guest");
    }
    begin(model, Wish { select, ..Wish::default() }, out);
}

/// Whether every case of the config is shown.
fn is_whole(model: &Model) -> bool {
    model.select.is_empty() && model.run.filter.is_empty()
}

/// The shown cases of a guest.
fn of_guest(model: &Model, guest: &GuestId) -> Vec<String> {
    let rows = crate::tree::rows(model);
    rows.iter().filter(|row| row.case.is_some() && row.guest == *guest).map(Node::selector).collect()
}

/// The cases below a row, where a filter or the command line shows a part of them.
fn cases_of(model: &Model, head: &Node) -> Vec<String> {
    let below = |row: &&Node| {
        row.case.is_some() && row.guest == head.guest && (head.suite.is_none() || row.suite == head.suite)
    };
    crate::tree::rows(model).iter().filter(below).map(Node::selector).collect()
}

fn exists(setup: &Setup, word: &str) -> bool {
    vmdeck_model::select::Selector::parse(word).is_ok_and(|s| !vmdeck_model::plan::select(setup, &[s], None).is_empty())
}

fn rerun_failed(model: &mut Model, out: &mut Vec<Effect>) {
    let mut failed: Vec<String> = Vec::new();
    for case in &model.view.cases {
        let word = format!("{}/{}@{}", case.suite, case.case, case.guest);
        failed.retain(|w| *w != word);
        if matches!(case.verdict, Verdict::Failed | Verdict::Infra) {
            failed.push(word);
        }
    }
    if failed.is_empty() {
        return model.say(Severity::Ok, "nothing has failed");
    }
    begin(model, Wish { select: failed, ..Wish::default() }, out);
}

fn keep_guest(model: &mut Model, out: &mut Vec<Effect>) {
    let on = running(model);
    if on.is_empty() {
        return model.say(Severity::Warn, "no marked guest is in a run of this cockpit");
    }
    for guest in on {
        let on = !model.kept.remove(&guest);
        if on {
            model.kept.insert(guest.clone());
        }
        model.say(Severity::Ok, format!("{guest} {}", if on { "stays at the end" } else { "is removed at the end" }));
        out.push(Effect::Send(Command::Keep { guest, on }));
    }
}

fn shell(model: &mut Model, out: &mut Vec<Effect>) {
    let Some(guest) = model.guest() else {
        return model.say(Severity::Warn, "there is no guest here");
    };
    let reached = model.view.guests.get(&guest).and_then(|v| v.reached.clone());
    if let Some((transport, None)) = &reached {
        return model.say(Severity::Warn, format!("{guest} is reached by `{transport}`, which has no terminal"));
    }
    let is_up = reached.is_some();
    let was_kept = model.inventory.iter().any(|r| r.owner == Owner::Kept && r.guest.as_deref() == Some(guest.as_str()));
    if is_up || was_kept {
        return out.push(Effect::Shell(guest));
    }
    if model.view.guests.get(&guest).is_some_and(|v| v.boot_failed) && model.is_running() {
        let key = model.look.keymap.key(Action::Attach);
        return model.say(Severity::Warn, format!("{guest} did not boot: only its console may answer, {key}"));
    }
    if model.view.guests.get(&guest).is_some_and(|v| !v.open.is_empty()) && model.is_running() {
        model.say(Severity::Ok, format!("{guest} is booting: the shell opens when it is up"));
    } else {
        let select = vec![format!("@{guest}")];
        begin(model, Wish { select, hold: true, ..Wish::default() }, out);
        model.say(Severity::Ok, format!("starting {guest}: the shell opens when it is up"));
    }
    model.shell_when_up = Some(guest);
}

fn replay(model: &mut Model, action: Action) {
    let now = model.now_ms;
    let Some(player) = &mut model.player else { return };
    let at = player.now_ms();
    let to = match action {
        Action::Play => {
            if at >= player.total_ms && !player.is_playing() {
                super::seek(model, 0);
            }
            if let Some(player) = &mut model.player {
                player.toggle(now);
            }
            return;
        }
        Action::Faster => return player.change_speed(2.0, now),
        Action::Slower => return player.change_speed(0.5, now),
        Action::SeekTo => {
            model.prompt = Some(Prompt { purpose: Purpose::Seek, line: Line::default() });
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
    super::seek(model, to);
}

/// What the help or the palette chose: in the pane where it works.
pub(super) fn from_menu(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    use crate::keymap::{Scope, def};
    model.overlay = None;
    let pane = match def(action).scope {
        Scope::Guests if !matches!(model.focus, Pane::Machines | Pane::Run) => Some(Pane::Machines),
        Scope::Logs => Some(Pane::Logs),
        Scope::Host if !matches!(model.focus, Pane::Lock | Pane::Preflight) => Some(Pane::Events),
        _ => None,
    };
    model.focus = pane.unwrap_or(model.focus);
    keys::run(model, action, out);
}
