//! The cockpit put together: its services over the engine, the config and the host, and its beginning and end.
//!
//! A run of the cockpit is a process of its own: this binary with `--ci --commands`. So a cockpit that dies does not take
//! the run with it, and one that is left can be opened again.

mod appearance;
mod engine_process;
mod host;
mod services;

use super::{Io, plan, settings, trust};
use crate::cli::{ConfigArgs, KeepArg, OutputArgs, RunArgs};
use futures_util::FutureExt;
use std::{
    io::IsTerminal,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;
use vmdeck_core::host::signal;
use vmdeck_model::{
    error::{Fault, Result},
    event::Severity,
    exit::RunExit,
    key::Options,
    plan::Setup,
    text::Clean,
};
use vmdeck_tui::{
    effect_runner::EffectRunner,
    event_loop::App,
    keymap::Keymap,
    look::AUTO,
    model::{Appearance, Model, RecordSource, RunRequest, Whose},
    msg::{Effect, Msg},
    replay::Player,
    screen::{self, Tty},
    services::Services,
    theme::{self, Theme},
};

pub use host::LocalHost;

/// How many messages may wait for the loop.
const QUEUE: usize = 256;

/// Opens the cockpit: `vmdeck` in a terminal.
pub(super) async fn open(args: &RunArgs, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    if args.hold || args.report.events.as_deref() == Some(Path::new("-")) {
        let (what, hint) = if args.hold {
            ("--hold", "in the cockpit `s` boots the marked guests and keeps them up")
        } else {
            ("--events -", "give a file, or use --ci")
        };
        return Err(Fault::user(format!("cannot use `{what}` in the cockpit"))
            .because("it works only with --ci")
            .hint(hint));
    }
    let mut args = args.clone();
    if let Some(word) = args.rerun_failed.take() {
        // The cases that are shown, and run.
        args.select.extend(plan::failed_of(&word, io)?);
    }
    let args = &args;
    let words = args.select.join(" ");
    if words.is_empty() {
        need_terminal("open the cockpit", "`vmdeck --ci` runs without a screen")?;
    } else {
        let hint = format!("`{words}` is not a subcommand; to run it as a selection: `vmdeck --ci {words}`");
        need_terminal(&format!("open the cockpit for `{words}`"), &hint)?;
    }
    if !args.read_only {
        // The question comes before the screen; a config with a mistake is told on it.
        let _ = trust::ask(config, io);
    }
    let setup = services::load(args, config);
    if let Ok(setup) = &setup
        && !args.select.is_empty()
    {
        // A mistyped subcommand is a selection that matches nothing: told now, not in a screen full of other things.
        let (mut out, mut err) = (std::io::sink(), std::io::sink());
        plan::make_plan(setup.clone(), args, &mut Io { out: &mut out, err: &mut err })?;
    }
    let first = vec![Effect::ListMachines, Effect::LookAtLock { attach: true }, Effect::LoadHistory];
    show(args, config, look, setup, None, first, io).await
}

/// Opens the cockpit on the demo's config, and runs it: `vmdeck demo` in a terminal.
pub(super) async fn demo(config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let args = RunArgs { repeat: 1, ..RunArgs::default() };
    let first = vec![Effect::ListMachines, Effect::LookAtLock { attach: false }, Effect::Start(RunRequest::default())];
    show(&args, config, look, services::load(&args, config), None, first, io).await
}

/// Opens a recorded run in the cockpit: `vmdeck replay`.
pub(super) async fn replay(path: &Path, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let player = Player::load(path)?;
    need_terminal("replay a record", "read its events.jsonl as text, or the junit.xml and summary.json beside it")?;
    let args = RunArgs { read_only: true, ..RunArgs::default() };
    show(&args, config, look, services::load(&args, config), Some(player), Vec::new(), io).await
}

/// Opens the cockpit on a run that is in progress: `vmdeck attach`.
pub(super) async fn attach(
    record: PathBuf,
    allow_control: bool,
    config: &ConfigArgs,
    look: &OutputArgs,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    need_terminal("join a run", "follow its events.jsonl as text")?;
    let args = RunArgs { allow_control, repeat: 1, ..RunArgs::default() };
    let first = vec![Effect::ListMachines, Effect::Watch { dir: record, who: "another vmdeck".into() }];
    show(&args, config, look, services::load(&args, config), None, first, io).await
}

fn need_terminal(what: &str, hint: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return Ok(());
    }
    let stream = if std::io::stdin().is_terminal() { "output" } else { "input" };
    Err(Fault::user(format!("cannot {what}")).because(format!("standard {stream} is not a terminal")).hint(hint))
}

async fn show(
    args: &RunArgs,
    config: &ConfigArgs,
    look: &OutputArgs,
    setup: Result<Setup>,
    player: Option<Player>,
    first: Vec<Effect>,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    let signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let services = Arc::new(services::Real::new(args, config)?);
    let host: Arc<dyn vmdeck_tui::host::Host> = Arc::new(LocalHost::new(services.spawner()));
    let theme_folder = settings::theme_folder();
    let var = |name: &str| std::env::var(name).ok();
    let depth = appearance::depth(look.color, var);
    let chosen = appearance::load();
    let wanted = setup.as_ref().ok().and_then(|s| s.cockpit.text("theme").map(str::to_owned));
    let wanted = wanted.unwrap_or_else(|| AUTO.to_owned());
    // Only asked where it matters: a terminal may take its time.
    let is_asked = chosen.theme_for(&wanted, AUTO) == AUTO;
    let fitting_theme = if is_asked { appearance::fitting_theme(depth, var) } else { theme::DEFAULT };
    let wanted = chosen.theme_for(&wanted, fitting_theme);
    let (theme, complaint) = match Theme::load(&wanted, theme_folder.as_deref(), depth) {
        Ok(theme) => (theme, None),
        Err(fault) => (Theme::load(theme::DEFAULT, None, depth)?, Some(fault)),
    };
    let (send, receive) = mpsc::channel(QUEUE);
    let mouse = setup.as_ref().is_ok_and(|s| s.cockpit.flag("mouse"));
    let ascii_only = appearance::is_ascii_only(var);
    let before = chosen.clone();
    let look = Appearance {
        keymap: Keymap::new(&Options::default()).0,
        theme,
        theme_folder,
        ascii: ascii_only,
        ascii_only,
        fitting_theme,
        look: chosen,
        mouse,
    };
    let mut model = Model::new(look, EffectRunner::waker(send.clone()), Arc::clone(&host), (80, 24));
    model.read_only = args.read_only;
    model.pause = args.pause;
    model.select = args.selectors();
    model.keep_failed = args.keep == Some(KeepArg::Failed);
    if let Some(fault) = complaint {
        model.say(Severity::Warn, fault.to_string());
    }
    if let Some(player) = player {
        player.dir().clone_into(&mut model.shown.dir);
        if player.unreadable > 0 {
            let text = format!("lines of the record that are no events, and are left out: {}", player.unreadable);
            model.say(Severity::Warn, text);
        }
        model.shown.record = RecordSource::Replay;
        model.shown.player = Some(player);
    }
    // Read once, and taken in first of all; the queue is empty yet.
    let _ = send.try_send(Msg::Setup(setup.map(Arc::new)));
    let elsewhere = send.clone();
    screen::restore_on_panic(move |text| {
        let text = format!("a task of vmdeck panicked, which is a bug: {text}");
        let _ = elsewhere.try_send(Msg::Said(Severity::Fatal, text));
    });
    let tty = Tty::take(mouse).map_err(|e| Fault::host("cannot use this terminal").because(e))?;
    let handed: Arc<dyn Services> = Arc::clone(&services) as _;
    let mut app = App::new(model, tty, handed, host, (send, receive), Some(signals));
    let ran = AssertUnwindSafe(app.run(first)).catch_unwind().await;
    let _ = std::panic::take_hook();
    let look = app.model().appearance.look.clone();
    let (farewell, last) = (farewell(app.model()), app.model().results.last().map(|(_, exit)| *exit));
    let signal = app.last_signal;
    // The library panics where it cannot say on standard error that the terminal is gone; the run must hear of our end all the same.
    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(app)));
    screen::restore();
    if look != before
        && let Err(e) = appearance::save(&look)
    {
        io.warn(&format!("warning: sizes, order and colours are not kept: {e}"));
    }
    for line in &farewell {
        // Messages hold what guests wrote, and this is the normal screen.
        io.say(Clean::from_text(line).as_str());
    }
    let hung_up = services.engines.hang_up(io).await;
    match ran {
        Ok(result) => result?,
        Err(_) => return Err(Fault::bug("cannot continue the cockpit").because("it panicked; see above")),
    }
    Ok(match signal {
        // What could not be cleaned up, or a bug, says more than the signal.
        _ if matches!(hung_up, Some(RunExit::Leftover | RunExit::Bug)) => hung_up.unwrap_or(RunExit::Bug),
        Some(signal) => RunExit::of_signal(signal),
        None => hung_up.or(last).unwrap_or(RunExit::Passed),
    })
}

/// Returns what is worth saying once the normal screen is back.
fn farewell(model: &Model) -> Vec<String> {
    let mut lines: Vec<String> = model.results.iter().map(|(line, _)| line.clone()).collect();
    match model.shown.record {
        RecordSource::Own { ended: false } => {
            let run = model.run_name().unwrap_or_default();
            lines.push(if model.pending.is_detached {
                format!("run {run} has not ended: it continues; `vmdeck attach {run}` joins it again")
            } else {
                format!("run {run} has not ended")
            });
        }
        RecordSource::Own { ended: true } if !model.results.is_empty() && model.shown.whose != Whose::Earlier => {
            for case in model.shown.view.cases.iter().filter(|c| c.verdict.is_failure()) {
                lines.push(format!("  {} {}/{}@{}: {}", case.verdict, case.suite, case.case, case.guest, case.why()));
            }
            for (id, guest) in model.shown.view.guests.iter().filter(|(_, guest)| guest.kept) {
                let machine = guest.machine.as_deref().unwrap_or("its machine");
                lines.push(format!(
                    "  {id} was kept as `{machine}`: `vmdeck shell {id}` opens a shell, `vmdeck down {id}` removes it"
                ));
            }
            lines.extend(model.shown.view.left().map(|left| format!("  NOT CLEANED UP: {left}")));
        }
        _ => {}
    }
    if !lines.is_empty() {
        lines.push(format!("  record: {}", model.shown.dir.display()));
    }
    lines
}
