//! Messages in, state changed, effects out. No terminal, no clock, no process: all of that is the loop's.

mod actions;
mod events;
mod keys;
mod logs;
mod mouse;
mod overlays;

use super::{
    console::Console,
    logs::Source,
    model::{LockState, Model, Pane, Watch},
    msg::{Effect, Msg, Opened},
    overlay::{Confirm, Overlay, Question},
    theme::Depth,
};
use vmdeck_model::{
    error::{Blame, Fault},
    event::{Event, Severity},
    exit::Exit,
    run_view::RunView,
};

pub(super) use mouse::first_row;

/// Events that are older than this when they come are history, milliseconds.
const OLD_MS: i64 = 60_000;

/// The clocks at a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Milliseconds since the cockpit was opened.
    pub ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// Takes a message in.
pub fn update(model: &mut Model, now: Now, msg: Msg) -> Vec<Effect> {
    (model.now_ms, model.wall_ms) = (now.ms, now.wall_ms);
    let mut out = Vec::new();
    match msg {
        Msg::Key(key) => keys::key(model, key, &mut out),
        Msg::Mouse(mouse) => mouse::mouse(model, mouse),
        Msg::Paste(text) => keys::paste(model, &text, &mut out),
        Msg::Resize(columns, rows) => model.size = (columns, rows),
        Msg::Focus(has) => model.unfocused = !has,
        Msg::Tick => tick(model, &mut out),
        Msg::LogGrew => model.logs.refresh(),
        Msg::Opened(opened) => open(model, opened),
        Msg::Events(events) => take_events(model, &events, &mut out),
        Msg::EngineEnded { exit, words } => engine_ended(model, exit, &words, &mut out),
        Msg::NotStarted(fault) => {
            model.is_starting = false;
            model.watch = Watch::Nothing;
            read(model, "the run did not start", &fault);
        }
        Msg::Setup(Ok(setup)) => {
            set_up(model, &setup);
            out.push(Effect::Recheck);
            if let Some(theme) = setup
                .cockpit
                .text("theme")
                .filter(|t| *t != model.look.theme.name && model.look.theme.depth != Depth::Mono)
            {
                out.push(Effect::LoadTheme(theme.to_owned()));
            }
        }
        Msg::Setup(Err(fault)) => {
            no_setup(model, &fault);
            if model.setup.is_none() {
                out.push(Effect::Recheck);
            }
        }
        Msg::Theme(Ok(theme)) => model.look.theme = theme,
        Msg::Theme(Err(fault)) => model.say(Severity::Warn, format!("{fault}; the colours stay as they were")),
        Msg::Machines(Ok(rows)) => model.inventory = rows,
        Msg::Machines(Err(fault)) => model.say(Severity::Warn, fault.to_string()),
        Msg::Usage(usage) => model.usage = usage,
        Msg::Locks(rows) => {
            let is_held = rows.iter().any(|row| row.state == LockState::Held);
            model.locks = rows;
            if matches!(model.watch, Watch::Other { .. }) && model.view.exit.is_none() && !is_held {
                model.watch = Watch::Own { ended: true };
                model.say(
                    Severity::Warn,
                    "that run is gone without a word; what it left is removed by its guardian, or by clean-up",
                );
            }
        }
        Msg::Findings(findings, capacity) => (model.findings, model.capacity) = (findings, capacity),
        Msg::Orphans(lines) => ask_clean_up(model, lines),
        Msg::ConsoleOpened(guest, before) => {
            let path = model.dir.join("guests").join(guest.as_str()).join("console.log");
            let source = Source { guest: guest.clone(), label: "console".into(), path };
            if model.logs.source.as_ref() != Some(&source) {
                // What is left when the console is: this guest's, not another's.
                let _ = model.logs.open(Some(source));
            }
            let mut console = Console::new(guest, 80, 24);
            console.feed(&before);
            model.console = Some(console);
            model.focus = Pane::Logs;
        }
        Msg::ConsoleBytes(bytes) => {
            if let Some(console) = &mut model.console {
                console.feed(&bytes);
            }
        }
        Msg::ConsoleClosed(why) => {
            if model.console.take().is_some() || !why.is_empty() {
                model.say(Severity::Warn, format!("the console is closed: {why}"));
            }
        }
        Msg::Said(severity, text) => model.say(severity, text),
        Msg::Read { title, text } => model.overlay = Some(Overlay::Message { title, text }),
        Msg::ThemeChanged => out.push(Effect::LoadTheme(model.look.theme.name.clone())),
        Msg::Do(Effect::Start(wish)) => actions::begin(model, wish, &mut out),
        // Looked for before a run of our own began: that one is shown now.
        Msg::Do(Effect::Watch { .. }) if model.is_starting || model.watch != Watch::Nothing => {}
        Msg::Do(effect) => out.push(effect),
        Msg::Signal => {
            // The engine's input ends with us: it cleans up by itself.
            out.push(Effect::Quit);
        }
    }
    out
}

fn tick(model: &mut Model, out: &mut Vec<Effect>) {
    if model.toast.as_ref().is_some_and(|t| t.until_ms <= model.now_ms) {
        model.toast = None;
    }
    if matches!(model.watch, Watch::Other { .. }) && model.is_live() && (model.now_ms / 1000).is_multiple_of(10) {
        // A process that was killed writes no last event; its lock tells.
        out.push(Effect::LookAtLock { attach: false });
    }
    if model.view.run.is_none()
        && let Some(player) = &model.player
    {
        let at = player.now_ms();
        seek(model, at);
    }
    let events = model.player.as_mut().map(|player| player.tick(model.now_ms)).unwrap_or_default();
    if model.player.is_some() {
        for event in &events {
            events::event(model, event, out);
        }
        model.logs.until_ms = model.player.as_ref().map(super::replay::Player::now_ms);
        model.logs.refresh();
    }
}

/// What the record says next. What happened long ago, before somebody attached, is shown and not told again.
fn take_events(model: &mut Model, events: &[Event], out: &mut Vec<Effect>) {
    let mut has_old = false;
    for event in events {
        if event.at.timestamp_millis() < model.wall_ms - OLD_MS {
            events::fold(model, event);
            has_old = true;
        } else {
            events::event(model, event, out);
        }
    }
    if has_old {
        show_any_console(model);
    }
}

/// The console of a guest that was powered on, where no log is shown yet.
fn show_any_console(model: &mut Model) {
    let on = model.view.guests.iter().find(|(_, guest)| guest.powered_ms.is_some());
    if let Some(guest) = on.map(|(id, _)| id.clone()) {
        events::show_console(model, &guest);
    }
}

/// Shows another record from its beginning.
fn open(model: &mut Model, opened: Opened) {
    model.watch = match opened.who {
        Some(who) => Watch::Other { who },
        None => Watch::Own { ended: false },
    };
    model.is_starting = false;
    model.logs.is_chosen = false;
    model.dir = opened.dir;
    forget_run(model);
    // A log that cannot be followed is shown empty; the record has it.
    let _ = model.logs.open(None);
}

/// Forgets everything of the run that was shown.
fn forget_run(model: &mut Model) {
    model.view = RunView::default();
    model.began_wall_ms = None;
    model.is_tree_stale = true;
    model.kept.clear();
    model.usage.clear();
    model.logs.merged.clear();
}

/// Folds a replay anew from its first event to a time.
fn seek(model: &mut Model, to_ms: u64) {
    let now = model.now_ms;
    let Some(player) = &mut model.player else { return };
    let events = player.seek(to_ms, now);
    forget_run(model);
    // What happened then is not told again.
    for event in &events {
        events::fold(model, event);
    }
    show_any_console(model);
    model.logs.until_ms = Some(to_ms);
    model.logs.refresh();
}

fn engine_ended(model: &mut Model, exit: Option<Exit>, words: &str, out: &mut Vec<Effect>) {
    if let Watch::Own { ended } = &mut model.watch {
        *ended = true;
    }
    model.console = None;
    if model.view.run.is_none() {
        let text = if words.trim().is_empty() {
            "the engine ended without a word".to_owned()
        } else {
            words.trim().to_owned()
        };
        model.overlay = Some(Overlay::Message { title: "the run did not start".into(), text });
    } else if model.view.exit.is_none() {
        let text = "the engine of this run is gone; what it left is removed by its guardian, or by clean-up".to_owned();
        model.overlay =
            Some(Overlay::Message { title: "the engine died".into(), text: format!("{text}\n\n{}", words.trim()) });
    }
    let line = events::result(model, exit);
    model.results.push((line, exit.unwrap_or(Exit::Bug)));
    out.push(Effect::Progress(None));
    if model.is_leaving {
        out.push(Effect::Quit);
        return;
    }
    model.shell_when_up = model.shell_when_up.take().filter(|_| model.next.is_some());
    if let Some(wish) = model.next.take() {
        model.is_starting = true;
        out.push(Effect::Start(wish));
        return;
    }
    out.extend([Effect::ListMachines, Effect::LookAtLock { attach: false }]);
}

fn set_up(model: &mut Model, setup: &std::sync::Arc<vmdeck_model::plan::Setup>) {
    let (keymap, problems) = super::keymap::Keymap::new(&setup.keys);
    model.look.keymap = keymap;
    model.look.ascii = setup.cockpit.text("symbols") == Some("ascii");
    let notes: Vec<&String> = setup.notes.iter().chain(&problems).collect();
    if let Some(first) = notes.first() {
        let more = if notes.len() > 1 {
            format!(" (and {} more; `vmdeck config check` shows them)", notes.len() - 1)
        } else {
            String::new()
        };
        model.say(Severity::Warn, format!("{first}{more}"));
    }
    if model.setup.is_none() {
        model.pause = model.pause.or(setup.cockpit.duration("pause")).filter(|p| !p.is_zero());
        model.look.mouse = setup.cockpit.flag("mouse");
    }
    model.setup = Some(std::sync::Arc::clone(setup));
    model.is_tree_stale = true;
    if matches!(model.overlay, Some(Overlay::Welcome(_))) {
        model.overlay = None;
    }
}

fn no_setup(model: &mut Model, fault: &Fault) {
    if model.setup.is_some() {
        // A mistake while it is edited: the last good one stays.
        read(model, "the config stays as it was", fault);
    } else if model.player.is_none() && !matches!(model.watch, Watch::Other { .. }) {
        model.overlay = Some(Overlay::Welcome(fault.render()));
    }
}

fn read(model: &mut Model, title: &str, fault: &Fault) {
    if fault.blame() != Blame::Cancelled {
        model.overlay = Some(Overlay::Message { title: title.into(), text: fault.render() });
    }
}

fn ask_clean_up(model: &mut Model, lines: Vec<String>) {
    if lines.is_empty() {
        return model.say(Severity::Ok, "nothing is left behind by runs that have ended");
    }
    let count = lines.len();
    let title = format!("remove what dead runs left ({count})?");
    model.overlay =
        Some(Overlay::Confirm(Confirm::new(Question::CleanUp, title, lines).typed(format!("delete {count}"))));
}

/// The slot of the lock to release: a stale one, else the first that is held.
fn busy_slot(model: &Model) -> Option<&super::model::LockRow> {
    let of = |state| move |row: &&super::model::LockRow| row.state == state;
    model.locks.iter().find(of(LockState::Stale)).or_else(|| model.locks.iter().find(of(LockState::Held)))
}

#[cfg(test)]
mod tests;
