//! The cockpit put together: its services over the engine, the config and the host, and its beginning and end.
//!
//! A run of the cockpit is a process of its own: this binary with `--ci --commands`. So a cockpit that dies does not take
//! the run with it, and one that is left can be opened again.

use super::{Io, demo, deps, init, run, settings};
use crate::{
    backend::{self, BACKENDS},
    cli::{ConfigArgs, KeepArg, LookArgs, RunArgs},
    engine::{
        cleanup, inventory,
        lock::{self, Standing},
        preflight, reap, shell,
    },
    error::{Fault, Result},
    headless::DETACH,
    host::{
        capacity, clock, files, pids,
        process::{self, Spawner},
        signal::{self, Signal},
    },
    model::{
        event::Finding,
        exit::Exit,
        ids::{GuestId, RunId},
        plan::Setup,
        text::Clean,
    },
    tui::{
        self, Desk,
        deck::Deck,
        keymap::Keymap,
        model::{Capacity, LockRow, LockState, Look, Model, Usage, Watch, Wish},
        msg::Effect,
        replay::Player,
        screen::{self, Tty},
        services::{Cleaned, Engine, Fut, Services},
        theme::{Depth, Theme},
    },
};
use futures_util::FutureExt;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::IsTerminal,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
};

/// Messages that may wait for the loop.
const QUEUE: usize = 256;

/// `vmdeck` in a terminal.
pub(super) async fn open(args: &RunArgs, config: &ConfigArgs, look: &LookArgs, io: &mut Io<'_>) -> Result<Exit> {
    if args.hold || args.events.as_deref() == Some(Path::new("-")) {
        let (what, hint) = if args.hold {
            ("--hold", "in the cockpit `s` boots the marked guests and keeps them up")
        } else {
            ("--events -", "give a file, or use --ci")
        };
        return Err(Fault::user(format!("cannot use `{what}` in the cockpit")).because("it is for --ci").hint(hint));
    }
    let words = args.select.join(" ");
    if words.is_empty() {
        need_terminal("open the cockpit", "`vmdeck --ci` runs without a screen")?;
    } else {
        let hint = format!("it is no subcommand; `vmdeck --ci {words}` runs that selection without a screen");
        need_terminal(&format!("do `{words}` in the cockpit"), &hint)?;
    }
    let setup = settings::load(config);
    if let Ok(setup) = &setup
        && !args.select.is_empty()
    {
        // A mistyped subcommand is a selection that matches nothing: told now, not in a screen full of other things.
        let (mut out, mut err) = (std::io::sink(), std::io::sink());
        run::make_plan(setup.clone(), args, &mut Io { out: &mut out, err: &mut err })?;
    }
    let first = vec![Effect::ListMachines, Effect::LookAtLock { attach: true }];
    show(args, config, look, setup, None, first, io).await
}

/// `vmdeck replay`.
pub(super) async fn replay(path: &Path, config: &ConfigArgs, look: &LookArgs, io: &mut Io<'_>) -> Result<Exit> {
    let player = Player::load(path)?;
    need_terminal(
        "replay a record",
        "its events.jsonl can be read as text, and junit.xml and summary.json are beside it",
    )?;
    let args = RunArgs { read_only: true, ..RunArgs::default() };
    show(&args, config, look, settings::load(config), Some(player), Vec::new(), io).await
}

fn need_terminal(what: &str, hint: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return Ok(());
    }
    let stream = if std::io::stdin().is_terminal() { "output" } else { "input" };
    Err(Fault::user(format!("cannot {what}")).because(format!("standard {stream} is no terminal")).hint(hint))
}

async fn show(
    args: &RunArgs,
    config: &ConfigArgs,
    look: &LookArgs,
    setup: Result<Setup>,
    player: Option<Player>,
    first: Vec<Effect>,
    io: &mut Io<'_>,
) -> Result<Exit> {
    let signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let services = Arc::new(Real::new(args, config)?);
    let theme_folder = settings::theme_folder();
    let depth = match look.color {
        crate::cli::Color::Never => Depth::Mono,
        crate::cli::Color::Always => Depth::True,
        crate::cli::Color::Auto => Depth::from_env(|name| std::env::var(name).ok()),
    };
    let wanted = setup.as_ref().ok().and_then(|s| s.cockpit.text("theme")).unwrap_or("dark").to_owned();
    let (theme, complaint) = match Theme::load(&wanted, theme_folder.as_deref(), depth) {
        Ok(theme) => (theme, None),
        Err(fault) => (Theme::load("dark", None, depth)?, Some(fault)),
    };
    let (send, receive) = mpsc::channel(QUEUE);
    let mouse = setup.as_ref().is_ok_and(|s| s.cockpit.flag("mouse"));
    let look = Look {
        keymap: Keymap::new(&crate::model::key::Options::default()).0,
        theme,
        theme_folder,
        ascii: false,
        mouse,
    };
    let mut model = Model::new(look, Desk::waker(send.clone()), (80, 24));
    model.read_only = args.read_only;
    model.pause = args.pause;
    model.select = args.selectors();
    model.keep_failed = args.keep == Some(KeepArg::Failed);
    if let Some(fault) = complaint {
        model.say(crate::model::event::Severity::Warn, fault.to_string());
    }
    if let Some(player) = player {
        player.dir().clone_into(&mut model.dir);
        model.watch = Watch::Replay;
        model.player = Some(player);
    }
    // Read once, and taken in first of all; the queue is empty yet.
    let _ = send.try_send(tui::msg::Msg::Setup(setup.map(Arc::new)));
    let elsewhere = send.clone();
    screen::restore_on_panic(move |text| {
        let text = format!("a task of vmdeck panicked, which is a bug: {text}");
        let _ = elsewhere.try_send(tui::msg::Msg::Said(crate::model::event::Severity::Fatal, text));
    });
    let tty = Tty::take(mouse).map_err(|e| Fault::host("cannot use this terminal").because(e))?;
    let mut deck = Deck::new(model, tty, Arc::clone(&services) as Arc<dyn Services>, (send, receive), Some(signals));
    let ran = AssertUnwindSafe(deck.run(first)).catch_unwind().await;
    let _ = std::panic::take_hook();
    let (farewell, last) = (farewell(deck.model()), deck.model().results.last().map(|(_, exit)| *exit));
    let signal = deck.last_signal;
    drop(deck);
    screen::restore();
    for line in &farewell {
        // Messages hold what guests wrote, and this is the normal screen.
        io.say(Clean::from_text(line).as_str());
    }
    let hung_up = services.hang_up(io).await;
    match ran {
        Ok(result) => result?,
        Err(_) => return Err(Fault::bug("cannot go on with the cockpit").because("it panicked; see above")),
    }
    Ok(match signal {
        // What could not be cleaned up, or a bug, says more than the signal.
        _ if matches!(hung_up, Some(Exit::Leftover | Exit::Bug)) => hung_up.unwrap_or(Exit::Bug),
        Some(Signal::Interrupt | Signal::Quit) => Exit::Interrupted,
        Some(_) => Exit::Terminated,
        None => hung_up.or(last).unwrap_or(Exit::Passed),
    })
}

/// What is worth saying once the normal screen is back.
fn farewell(model: &Model) -> Vec<String> {
    let mut lines: Vec<String> = model.results.iter().map(|(line, _)| line.clone()).collect();
    match model.watch {
        Watch::Own { ended: false } => {
            let run = model.run_name().unwrap_or_default();
            lines.push(if model.is_detached {
                format!("run {run} has not ended: it goes on; `vmdeck` shows it, `vmdeck lock status` names its process (kill -INT ends it)")
            } else {
                format!("run {run} has not ended")
            });
        }
        Watch::Own { ended: true } if !model.results.is_empty() => {
            for case in model.view.cases.iter().filter(|c| c.verdict.is_bad()) {
                let why = case.message.lines().next().unwrap_or_default();
                lines.push(format!("  {} {}/{}@{}: {why}", case.verdict, case.suite, case.case, case.guest));
            }
            lines.extend(model.view.left().map(|left| format!("  NOT CLEANED UP: {left}")));
        }
        _ => {}
    }
    if !lines.is_empty() {
        lines.push(format!("  record: {}", model.dir.display()));
    }
    lines
}

/// The services over the real engine and host.
struct Real {
    config: Mutex<ConfigArgs>,
    args: RunArgs,
    deps: backend::Deps,
    /// Those who serve the engines, so that the last of these can be waited for.
    engines: Mutex<Vec<tokio::task::JoinHandle<Option<Exit>>>>,
}

impl Real {
    fn new(args: &RunArgs, config: &ConfigArgs) -> Result<Self> {
        // A config with a mistake is told elsewhere.
        let tools = settings::load_host(config).map(|host| host.tools).unwrap_or_default();
        let config = Mutex::new(config.clone());
        Ok(Self { config, args: args.clone(), deps: deps(&tools)?, engines: Mutex::new(Vec::new()) })
    }

    fn config(&self) -> ConfigArgs {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for engines that clean up because we go, and returns how the last of them ended; those that were let go on are
    /// not among them.
    async fn hang_up(&self, io: &mut Io<'_>) -> Option<Exit> {
        let engines = std::mem::take(&mut *self.engines.lock().unwrap_or_else(PoisonError::into_inner));
        let mut last = None;
        for mut engine in engines.into_iter().filter(|e| !e.is_finished()) {
            // One that was just let go on ends within a moment.
            if let Some(ended) = clock::within(Duration::from_millis(300), &mut engine).await {
                last = ended.ok().flatten().or(last);
                continue;
            }
            io.warn("the run is being ended and cleaned up ...");
            match clock::within(Duration::from_mins(2), engine).await {
                Some(ended) => {
                    last = ended.ok().flatten().or(last);
                    if let Some(exit) = last {
                        io.warn(&format!("it has ended: exit {}", exit.code()));
                    }
                }
                None => io.warn("it still is; `vmdeck lock status` shows it"),
            }
        }
        last
    }

    /// The config as arguments of another process of ours.
    fn config_args(&self) -> Vec<OsString> {
        let config = self.config();
        let mut out: Vec<OsString> = Vec::new();
        if let Some(file) = config.file {
            out.extend(["--config".into(), file.into()]);
        }
        for word in config.set {
            out.extend(["--set".into(), word.into()]);
        }
        out
    }

    /// The arguments of an engine's process.
    fn engine_args(&self, wish: &Wish, run: &RunId, dir: &Path) -> Vec<OsString> {
        let mut out: Vec<OsString> =
            ["--ci", "--commands", "--run-id", run.as_str(), "--run-dir"].map(Into::into).into();
        out.push(dir.into());
        out.extend(self.config_args());
        if wish.hold {
            out.push("--hold".into());
        }
        if let Some(pause) = wish.pause {
            out.extend(["--pause".into(), format!("{}ms", pause.as_millis()).into()]);
        }
        let keep = match self.args.keep {
            Some(KeepArg::Always) => "always",
            _ if wish.keep_failed => "failed",
            _ => "never",
        };
        out.extend(["--keep".into(), keep.into()]);
        if let Some(time) = self.args.lock_timeout {
            out.extend(["--lock-timeout".into(), format!("{}ms", time.as_millis()).into()]);
        }
        if let Some(retries) = self.args.retries {
            out.extend(["--retries".into(), retries.to_string().into()]);
        }
        for (on, flag) in [(self.args.no_lock, "--no-lock"), (self.args.fail_fast, "--fail-fast")] {
            if on {
                out.push(flag.into());
            }
        }
        for (file, flag) in [(&self.args.junit, "--junit"), (&self.args.events, "--events")] {
            if let Some(file) = file {
                out.extend([flag.into(), file.into()]);
            }
        }
        if let Some(shard) = self.args.shard {
            out.extend(["--shard".into(), format!("{}/{}", shard.index, shard.count).into()]);
        }
        if self.args.repeat > 1 {
            out.extend(["--repeat".into(), self.args.repeat.to_string().into()]);
        }
        let select = if wish.select.is_empty() { &self.args.select } else { &wish.select };
        out.push("--".into());
        out.extend(select.iter().map(Into::into));
        out
    }
}

impl Services for Real {
    fn setup(&self) -> Result<Setup> {
        settings::load(&self.config())
    }

    fn config_file(&self) -> PathBuf {
        settings::find(&self.config()).unwrap_or_else(|| "vmdeck.toml".into())
    }

    fn init(&self) -> Result<PathBuf> {
        let (mut out, mut err) = (std::io::sink(), std::io::sink());
        init::run(false, &mut Io { out: &mut out, err: &mut err })?;
        Ok("vmdeck.toml".into())
    }

    fn demo<'a>(&'a self, told: &'a (dyn Fn(String) + Send + Sync)) -> Fut<'a, Result<()>> {
        Box::pin(async move {
            let file = demo::prepare(told).await?;
            self.config.lock().unwrap_or_else(PoisonError::into_inner).file = Some(file);
            Ok(())
        })
    }

    fn start(&self, wish: &Wish) -> Result<Engine> {
        let cannot = |e: std::io::Error| Fault::host("cannot start the engine").because(e);
        let id = RunId::from_bits(fastrand::u64(..));
        let home = self.args.run_dir.as_deref().unwrap_or(Path::new(run::RECORDS));
        let dir = home.join(run::record_name(&id));
        let dir = std::path::absolute(dir).map_err(cannot)?;
        std::fs::create_dir_all(&dir).map_err(cannot)?;
        let words = dir.join("engine.log");
        let log = files::append_private(&words).map_err(cannot)?;
        let binary = std::env::current_exe().map_err(cannot)?;
        let child = process::spawn_apart(&binary, &self.engine_args(wish, &id, &dir), log).map_err(cannot)?;
        let (commands, lines) = mpsc::unbounded_channel();
        let (done, ended) = oneshot::channel();
        let task = tokio::spawn(serve(child.inner, lines, words, done));
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(Engine { dir, commands, ended })
    }

    fn machines(&self) -> Fut<'_, Result<Vec<inventory::Row>>> {
        Box::pin(async {
            let mut seen = inventory::list(&self.deps).await;
            // What can be seen is worth more than the reason why the rest cannot.
            match seen.unseen.pop().filter(|_| seen.rows.is_empty()) {
                Some(fault) => Err(fault),
                None => Ok(seen.rows),
            }
        })
    }

    fn usage(&self) -> BTreeMap<String, Usage> {
        reap::histories(&self.deps.state)
            .flat_map(|h| h.open)
            .filter_map(|(name, made)| {
                let (memory, cpu_ms) = pids::usage(made.remnant.identity.pid?)?;
                let disk = files::disk_usage(&made.remnant.dir);
                Some((name, Usage { memory, cpu_ms, cpu_percent: 0, disk }))
            })
            .collect()
    }

    fn findings(&self, setup: Option<Arc<Setup>>) -> Fut<'_, (Vec<Finding>, Capacity)> {
        Box::pin(async move {
            let Some(setup) = setup else {
                let host = settings::load_host(&ConfigArgs::default());
                let findings = match &host {
                    Ok(host) => preflight::bare(host, &self.deps).await,
                    Err(_) => Vec::new(),
                };
                return (findings, Capacity::default());
            };
            let findings = preflight::of_setup(&setup, &self.deps).await;
            (findings, self.capacity(&setup))
        })
    }

    fn locks(&self) -> Vec<LockRow> {
        let Ok(host) = settings::load_host(&self.config()) else { return Vec::new() };
        let row = |path: PathBuf| {
            let (state, holder) = match lock::look(&path).ok()? {
                Standing::Free => (LockState::Free, None),
                Standing::Live(holder) => (LockState::Held, Some(holder)),
                Standing::Dead { .. } => (LockState::Stale, None),
            };
            Some(LockRow { path: path.display().to_string(), state, holder })
        };
        lock::slot_paths(&host.lock, host.slots).filter_map(row).collect()
    }

    fn record_of(&self, run: &str) -> Option<PathBuf> {
        inventory::record_of(&self.deps, run)
    }

    fn break_lock(&self, path: &Path, pid: Option<u32>) -> Result<String> {
        if let Some(pid) = pid {
            return lock::take_away(path, pid).map(|holder| format!("taken away from {}", lock::describe(&holder)));
        }
        Ok(match lock::break_dead(path, false)? {
            Some(holder) => format!("removed the lock of {}", lock::describe(&holder)),
            None => "the lock is free".into(),
        })
    }

    fn orphans(&self) -> Vec<String> {
        cleanup::preview(&self.deps).iter().map(ToString::to_string).collect()
    }

    fn clean_up(&self) -> Fut<'_, Cleaned> {
        Box::pin(async {
            let mut cleaned = Cleaned::default();
            let Ok(host) = settings::load_host(&self.config()) else { return cleaned };
            cleanup::run(&self.deps, &host.lock, &mut |reaped| match reaped {
                reap::Reaped::Gone { .. } => cleaned.gone += 1,
                reap::Reaped::Left { what, fault } => cleaned.left.push(format!("{what}: {}", fault.render())),
            })
            .await;
            cleaned
        })
    }

    fn console(&self, guest: &GuestId, machine: &str) -> Result<(PathBuf, PathBuf)> {
        let cannot = || Fault::user(format!("cannot attach the console of `{guest}`"));
        let Some((made, dir)) = shell::open_machine(&self.deps.state, machine) else {
            return Err(cannot().because(format!("its machine `{machine}` is gone")));
        };
        let log = dir.join("guests").join(guest.as_str()).join("console.log");
        let caps = BACKENDS.iter().find(|row| row.kind == made.backend).map(|row| row.caps);
        match made.console {
            Some(socket) => Ok((socket, log)),
            None if caps.is_some_and(|c| c.console) => {
                Err(cannot().because("it has not been powered on yet, or takes no input"))
            }
            None => Err(cannot().because(format!("the backend `{}` has no serial console", made.backend))),
        }
    }

    fn shell(&self, guest: &GuestId, machine: Option<&str>) -> Vec<OsString> {
        let binary = std::env::current_exe().unwrap_or_else(|_| "vmdeck".into());
        let mut out: Vec<OsString> = vec![binary.into(), "shell".into(), guest.as_str().into()];
        if let Some(machine) = machine {
            out.extend(["--machine".into(), machine.into()]);
        }
        out.extend(self.config_args());
        out
    }

    fn spawner(&self) -> &Spawner {
        &self.deps.spawner
    }
}

impl Real {
    fn capacity(&self, setup: &Setup) -> Capacity {
        let guests = preflight::largest(setup.guests.iter(), setup.host.slots as usize);
        Capacity {
            disk_free: capacity::free_disk(&self.deps.state).unwrap_or(0),
            disk_min: setup.host.min_free_disk,
            disk_warn: setup.host.warn_free_disk,
            disk_need: guests.iter().filter(|g| g.options.path("image").is_some()).map(|g| g.disk).sum(),
            memory_free: capacity::available_memory().unwrap_or(0),
            memory_min: setup.host.min_free_memory,
            memory_need: guests.iter().map(|g| g.memory).sum(),
        }
    }
}

/// Passes commands to an engine and waits for its end; ends at once when it was told to go on alone.
async fn serve(
    mut child: tokio::process::Child,
    mut lines: mpsc::UnboundedReceiver<String>,
    words: PathBuf,
    done: oneshot::Sender<(Option<Exit>, String)>,
) -> Option<Exit> {
    let mut stdin = child.stdin.take();
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = status.ok().and_then(|s| s.code()).and_then(|c| u8::try_from(c).ok());
                let text = String::from_utf8_lossy(&files::read_tail(&words, 8192)).into_owned();
                let exit = code.and_then(|c| Exit::try_from(c).ok());
                // The cockpit may be gone.
                let _ = done.send((exit, text));
                return exit;
            }
            line = lines.recv(), if stdin.is_some() => match (line, &mut stdin) {
                (Some(line), Some(pipe)) => {
                    let written = pipe.write_all(format!("{line}\n").as_bytes()).await;
                    if line == DETACH || written.is_err() {
                        // Its end comes by itself; this one is not waited for.
                        if line == DETACH { return None }
                        stdin = None;
                    }
                }
                // The cockpit is gone: the end of its input tells the engine.
                _ => stdin = None,
            },
        }
    }
}
