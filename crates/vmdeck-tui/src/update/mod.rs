//! Messages in, state changed, effects out. No terminal, no clock, no process: all of that is the loop's.

mod dispatch;
mod events;
mod evidence;
mod keys;
mod list_keys;
mod logs;
mod mouse;
mod moves;
mod overlays;
mod presence;
mod remedies;
mod rewind;
mod sizes;
mod start;
mod watch;

use super::{
    console::AttachedConsole,
    logs::LogSource,
    model::{Model, Pane, RecordSource},
    msg::{Effect, Msg, Opened},
    overlay::{Confirm, Overlay, Question},
    theme::Depth,
};
use vmdeck_model::{
    error::{Blame, Fault},
    event::{Event, Severity},
    exit::RunExit,
    run_view::LockView,
};

/// Events that are older than this when they come are history, milliseconds.
const OLD_MS: i64 = 60_000;

/// The clocks at a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// The milliseconds since the cockpit was opened.
    pub ms: u64,
    /// The milliseconds since 1970.
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
            model.shown.is_starting = false;
            model.shown.record = RecordSource::Nothing;
            read(model, "the run did not start", &fault);
        }
        Msg::Setup(Ok(setup)) => {
            set_up(model, &setup);
            out.push(Effect::Recheck);
            let look = &model.appearance;
            let theme = setup.cockpit.text("theme").map(|config| look.look.theme_for(config, look.fitting_theme));
            if let Some(theme) = theme.filter(|name| *name != look.theme.name && look.theme.depth != Depth::Mono) {
                out.push(Effect::LoadTheme(theme));
            }
        }
        Msg::Setup(Err(fault)) => {
            no_setup(model, &fault);
            if model.setup.is_none() {
                out.push(Effect::Recheck);
            }
        }
        Msg::Theme(Ok(theme)) => model.appearance.theme = theme,
        Msg::Theme(Err(fault)) => model.say(Severity::Warn, format!("{fault}; the colours were not changed")),
        Msg::Machines(Ok(rows)) => model.host.inventory = rows,
        Msg::Machines(Err(fault)) => model.say(Severity::Warn, fault.to_string()),
        Msg::Usage(usage) => model.host.measured(usage),
        Msg::Memory(memory) => model.host.memory = memory,
        Msg::Locks(rows) => model.host.locks = rows,
        Msg::Queue(queue) => model.host.queue = queue,
        Msg::PastRuns(rows) => model.overlay = Some(Overlay::History { rows, at: 0 }),
        Msg::CaseHistory(history) => model.history = history,
        Msg::Errors(rows) if rows.is_empty() => model.say(Severity::Ok, "this run has no errors"),
        Msg::Errors(rows) => model.overlay = Some(Overlay::Errors { rows, at: 0 }),
        Msg::Compared { title, lines } => model.overlay = Some(Overlay::Comparison { title, lines, top: 0 }),
        Msg::CodeChanged(names) => watch::changed(model, &names, &mut out),
        Msg::NotWatched(fault) => {
            model.code_watch = None;
            read(model, "the code is not watched", &fault);
        }
        Msg::Abandoned => {
            if matches!(model.shown.record, RecordSource::Other { .. }) && model.shown.view.exit.is_none() {
                model.shown.record = RecordSource::Own { ended: true };
                model.say(
                    Severity::Warn,
                    "the engine of that run exited without reporting; its guardian, or clean-up, removes what it left",
                );
            }
        }
        Msg::Findings(findings, capacity) => {
            (model.host.findings, model.host.capacity) = (findings, capacity);
            greet(model);
        }
        Msg::Orphans(lines) => ask_clean_up(model, lines),
        Msg::ConsoleOpened(guest, before) => {
            let path = model.shown.dir.join("guests").join(guest.as_str()).join("console.log");
            let source = LogSource { guest: guest.clone(), label: "console".into(), path };
            if model.logs.source.as_ref() != Some(&source) {
                // What is left when the console is: this guest's, not another's.
                let _ = model.logs.open(Some(source));
            }
            presence::tell(model, &guest, true, &mut out);
            let mut console = AttachedConsole::new(guest, 80, 24);
            console.feed(&before);
            model.console = Some(console);
            model.panes.focus = Pane::Logs;
        }
        Msg::ConsoleBytes(bytes) => {
            if let Some(console) = &mut model.console {
                console.feed(&bytes);
            }
        }
        Msg::ConsoleClosed(why) => {
            let console = model.console.take();
            if let Some(console) = &console {
                presence::tell(model, &console.guest, false, &mut out);
            }
            if console.is_some() || !why.is_empty() {
                model.say(Severity::Warn, format!("the console is closed: {why}"));
            }
        }
        Msg::Said(severity, text) => model.say(severity, text),
        Msg::Read { title, text } => model.overlay = Some(Overlay::Message { title, text }),
        Msg::ThemeChanged => out.push(Effect::LoadTheme(model.appearance.theme.name.clone())),
        Msg::Do(Effect::Start(request)) => start::begin(model, request, &mut out),
        // Looked for before a run of our own began: that one is shown now.
        Msg::Do(Effect::Watch { .. }) if model.shown.is_starting || model.shown.record != RecordSource::Nothing => {}
        Msg::Do(effect) => out.push(effect),
        Msg::Signal => {
            // The engine's input ends with us: it cleans up by itself.
            out.push(Effect::Quit);
        }
    }
    out
}

/// Shows first of all what to do where this host cannot run anything yet.
fn greet(model: &mut Model) {
    let is_first = !std::mem::replace(&mut model.host.is_known, true);
    let is_unfit = model.host.findings.iter().any(|finding| finding.severity == Severity::Fatal);
    let is_idle = model.shown.record == RecordSource::Nothing && !model.shown.is_starting && model.overlay.is_none();
    if is_first && is_unfit && is_idle && model.setup.is_some() {
        model.overlay = Some(Overlay::Remedies(0));
    }
}

fn tick(model: &mut Model, out: &mut Vec<Effect>) {
    if model.toast.as_ref().is_some_and(|t| t.until_ms <= model.now_ms) {
        model.toast = None;
    }
    let is_other = matches!(model.shown.record, RecordSource::Other { .. });
    let is_waiting = matches!(model.shown.view.lock, LockView::Waiting(_));
    // A process that was killed writes no last event; its lock and its socket tell. Those who wait move up and go.
    let every = if is_waiting { 2 } else { 10 };
    if (is_other || is_waiting) && model.is_live() && (model.now_ms / 1000).is_multiple_of(every) {
        out.push(Effect::LookAtLock { attach: false });
    }
    if model.shown.view.run.is_none()
        && let Some(player) = &model.shown.player
    {
        let at = player.now_ms();
        rewind::seek(model, at);
    }
    let events = model.shown.player.as_mut().map(|player| player.tick(model.now_ms)).unwrap_or_default();
    if model.shown.player.is_some() {
        for event in &events {
            events::event(model, event, out);
        }
        model.logs.until_ms = model.shown.player.as_ref().map(super::replay::Player::now_ms);
        model.logs.refresh();
    }
}

/// Takes what the record says next. What happened long ago, before somebody attached, is shown but not reported again.
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
        rewind::show_any_console(model);
    }
}

/// Shows another record from its beginning.
fn open(model: &mut Model, opened: Opened) {
    (model.shown.record, model.shown.whose) = (opened.record, opened.whose);
    model.shown.is_starting = false;
    model.logs.is_chosen = false;
    model.shown.dir = opened.dir;
    rewind::forget_run(model);
    // A log that cannot be followed is shown empty; the record has it.
    let _ = model.logs.open(None);
}

fn engine_ended(model: &mut Model, exit: Option<RunExit>, words: &str, out: &mut Vec<Effect>) {
    if let RecordSource::Own { ended } = &mut model.shown.record {
        *ended = true;
    }
    model.console = None;
    if let Some(Overlay::Confirm(confirm)) = &model.overlay
        && matches!(confirm.question, Question::Cancel | Question::Kill(_))
    {
        // There is nothing left to end.
        model.overlay = None;
    }
    if matches!(model.overlay, Some(Overlay::Quit)) {
        // There is nothing left to ask, and an answer that comes now must not be taken for another key.
        model.overlay = None;
        model.pending.is_leaving = true;
    }
    if model.shown.view.run.is_none() {
        let text = if words.trim().is_empty() {
            "the engine exited without reporting".to_owned()
        } else {
            words.trim().to_owned()
        };
        model.overlay = Some(Overlay::Message { title: "the run did not start".into(), text });
    } else if model.shown.view.exit.is_none() {
        let text = "the engine of this run is gone; its guardian, or clean-up, removes what it left".to_owned();
        model.overlay =
            Some(Overlay::Message { title: "the engine died".into(), text: format!("{text}\n\n{}", words.trim()) });
    }
    watch::ended(model, exit, out);
    out.push(Effect::LoadHistory);
    let line = events::result(model, exit);
    model.results.push((line, exit.unwrap_or(RunExit::Bug)));
    out.push(Effect::Progress(None));
    if model.pending.is_leaving {
        out.push(Effect::Quit);
        return;
    }
    model.pending.shell_when_up = model.pending.shell_when_up.take().filter(|_| model.pending.next.is_some());
    if let Some(request) = model.pending.next.take() {
        model.shown.is_starting = true;
        out.push(Effect::Start(request));
        return;
    }
    out.extend([Effect::ListMachines, Effect::LookAtLock { attach: false }]);
}

fn set_up(model: &mut Model, setup: &std::sync::Arc<vmdeck_model::plan::Setup>) {
    let (keymap, problems) = super::keymap::Keymap::new(&setup.keys);
    model.appearance.keymap = keymap;
    model.appearance.ascii = match setup.cockpit.text("symbols") {
        Some("ascii") => true,
        Some("unicode") => false,
        _ => model.appearance.ascii_only,
    };
    let left_out = (!setup.left_out.is_empty()).then(|| {
        let list = setup.left_out.join(", ");
        if model.read_only {
            format!("not started, because this cockpit only looks: {list}")
        } else {
            format!("not started, because this project's config is not trusted: {list}; `vmdeck --trust` starts them")
        }
    });
    let notes: Vec<&String> = left_out.iter().chain(&setup.notes).chain(&problems).collect();
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
        model.appearance.mouse = setup.cockpit.flag("mouse");
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
        read(model, "config not reloaded", fault);
    } else if model.shown.player.is_none() && !matches!(model.shown.record, RecordSource::Other { .. }) {
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
        return model.say(Severity::Ok, "nothing to clean up");
    }
    let count = lines.len();
    let title = format!("remove what dead runs left ({count})?");
    model.overlay =
        Some(Overlay::Confirm(Confirm::new(Question::CleanUp, title, lines).typed(format!("delete {count}"))));
}

#[cfg(test)]
mod tests;
