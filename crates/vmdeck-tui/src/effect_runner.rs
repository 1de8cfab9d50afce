//! Carries effects out: each is begun here, and what comes of it is a message later. Only this file talks to the services.

use super::{
    clock, errors, green_diff,
    host::Host,
    host_state::LockState,
    logs::{self, file::Waker},
    model::{Model, RecordSource, RunRequest, Whose},
    msg::{Effect, Msg, Opened},
    record, record_logs,
    services::{Engine, SerialConsole, Services},
    theme::{Depth, Theme},
    user_program::{env, program},
};
use parking_lot::Mutex;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    command::{Command, DETACH},
    event::Severity,
    ids::GuestId,
    lifecycle::MachineState,
    outcome::Verdict,
    plan::Setup,
    quantity::show_count,
    select::word_of_case,
    text::Clean,
};

/// How often the usage of machines is measured during a run.
const USAGE: Duration = Duration::from_secs(2);
/// How long the last events of a run may take to be read.
const READ: Duration = Duration::from_secs(10);

/// Carries effects out; see the module.
pub struct EffectRunner {
    services: Arc<dyn Services>,
    host: Arc<dyn Host>,
    messages: mpsc::Sender<Msg>,
    /// Takes commands for the engine of our run.
    engine: Option<mpsc::UnboundedSender<String>>,
    /// Ends following the record that is shown.
    watch: CancellationToken,
    /// Ends watching the code.
    code_watch: CancellationToken,
    /// Tells when the lock has changed.
    lock_watch: Option<Box<dyn Send>>,
    /// Takes what is typed into the console.
    console: Option<mpsc::Sender<Vec<u8>>>,
    usage_before: Arc<Mutex<std::collections::BTreeMap<String, (u64, clock::Instant)>>>,
}

/// What only the loop can do, because it needs the terminal.
#[derive(Debug, PartialEq)]
pub enum TerminalAction {
    /// Run a program on the whole terminal.
    Program {
        /// The program and its arguments.
        words: Vec<std::ffi::OsString>,
        /// What is done when it has ended.
        then: Option<Effect>,
    },
    /// Write bytes to the terminal.
    Write(Vec<u8>),
    /// Turn the mouse on or off.
    Mouse(bool),
    /// Redraw the whole screen.
    Redraw,
    /// Stop until the shell continues us.
    Suspend,
    /// Leave the cockpit.
    Quit,
}

impl EffectRunner {
    /// Makes a runner that sends the outcomes of effects to `messages`.
    pub fn new(services: Arc<dyn Services>, host: Arc<dyn Host>, messages: mpsc::Sender<Msg>) -> Self {
        Self {
            services,
            host,
            messages,
            engine: None,
            watch: CancellationToken::new(),
            code_watch: CancellationToken::new(),
            lock_watch: None,
            console: None,
            usage_before: Arc::default(),
        }
    }

    /// Wakes the loop when the log that is shown has grown.
    pub fn waker(messages: mpsc::Sender<Msg>) -> Waker {
        Waker::new(move || messages.try_send(Msg::LogGrew).is_ok())
    }

    /// Does something in a task, with a message at its end.
    fn spawn(&self, work: impl Future<Output = Option<Msg>> + Send + 'static) {
        let messages = self.messages.clone();
        tokio::spawn(async move {
            if let Some(msg) = work.await {
                // Nobody listens any more only when we leave.
                let _ = messages.send(msg).await;
            }
        });
    }

    /// Does something that blocks in a thread, with a message at its end.
    fn spawn_blocking(&self, work: impl FnOnce(&dyn Services) -> Option<Msg> + Send + 'static) {
        let services = Arc::clone(&self.services);
        self.spawn(async move { tokio::task::spawn_blocking(move || work(services.as_ref())).await.ok().flatten() });
    }

    fn say(&self, severity: Severity, text: impl Into<String>) {
        let text = text.into();
        self.spawn(async move { Some(Msg::Said(severity, text)) });
    }

    /// Begins an effect; returns what the loop itself must do.
    pub fn run(&mut self, model: &Model, effect: Effect) -> Option<TerminalAction> {
        match effect {
            Effect::Start(request) => self.start(&request),
            Effect::Send(command) => {
                let line = serde_json::to_string(&command).unwrap_or_default();
                self.tell_engine(line);
            }
            Effect::Detach => self.tell_engine(DETACH.to_owned()),
            Effect::ListMachines => {
                let services = Arc::clone(&self.services);
                self.spawn(async move { Some(Msg::Machines(services.machines().await)) });
            }
            Effect::Recheck => {
                let (services, setup) = (Arc::clone(&self.services), model.setup.clone());
                self.spawn(async move {
                    let (findings, capacity) = services.findings(setup).await;
                    Some(Msg::Findings(findings, capacity))
                });
            }
            Effect::LookAtLock { attach } => {
                if self.lock_watch.is_none() {
                    // From now on it is looked at when something changes.
                    let messages = self.messages.clone();
                    let look = move || drop(messages.try_send(Msg::Do(Effect::LookAtLock { attach: false })));
                    self.lock_watch = Some(self.services.watch_lock(Box::new(look)));
                }
                let watched = matches!(model.shown.record, RecordSource::Other { .. }).then(|| model.shown.dir.clone());
                self.look_at_lock(attach && model.shown.record == RecordSource::Nothing, watched);
            }
            Effect::Watch { dir, who } => match self.services.join(&dir) {
                Ok(engine) => self.follow(engine, Whose::Joined(who)),
                // It can be seen all the same.
                Err(_) => drop(self.show(dir, RecordSource::Other { who }, Whose::Ours)),
            },
            Effect::BreakLock { path, pid } => self.spawn_blocking(move |services| {
                Some(match services.break_lock(&path, pid) {
                    Ok(text) => Msg::Said(Severity::Ok, text),
                    Err(fault) => Msg::Read { title: "the lock was not released".into(), text: fault.render() },
                })
            }),
            Effect::ListOrphans => self.spawn_blocking(|services| Some(Msg::Orphans(services.orphans()))),
            Effect::CleanUp => {
                let services = Arc::clone(&self.services);
                let messages = self.messages.clone();
                self.spawn(async move {
                    let cleaned = services.clean_up().await;
                    let _ = messages.send(Msg::Machines(services.machines().await)).await;
                    Some(if cleaned.left.is_empty() {
                        Msg::Said(Severity::Ok, format!("{} removed (verified)", cleaned.gone))
                    } else {
                        Msg::Read { title: "not everything could be removed".into(), text: cleaned.left.join("\n\n") }
                    })
                });
            }
            Effect::Shell(guest, suite) => {
                let machine = machine_of(model, &guest);
                let words = self.services.shell(&guest, machine.as_deref(), suite.as_deref());
                // Its pause must not run out under the person.
                let in_use = |on| Effect::Send(Command::InUse { guest: guest.clone(), on });
                let is_ours = machine.is_some() && model.is_running();
                if is_ours {
                    self.run(model, in_use(true));
                }
                return Some(TerminalAction::Program { words, then: is_ours.then(|| in_use(false)) });
            }
            Effect::Attach(guest) => match machine_of(model, &guest) {
                Some(machine) => self.attach(guest, machine),
                None => self.say(Severity::Warn, format!("{guest} has no running machine; start it first")),
            },
            Effect::Save { log, to, what } => self.spawn_blocking(move |_| {
                Some(match logs::save::save(&log, &to, &what) {
                    Ok(count) => Msg::Said(
                        Severity::Ok,
                        format!(
                            "{} saved in {}",
                            show_count(usize::try_from(count).unwrap_or(usize::MAX), "line"),
                            to.display()
                        ),
                    ),
                    Err(e) => Msg::Said(Severity::Warn, format!("cannot save: {e}")),
                })
            }),
            Effect::Type(bytes) => {
                // A line that takes nothing any more loses what is typed, as a real one does.
                let _ = self.console.as_ref().map(|line| line.try_send(bytes));
            }
            Effect::Unattach => self.console = None,
            Effect::Open { path, line, editor } => {
                return Some(TerminalAction::Program { words: program(editor, &path, line), then: None });
            }
            Effect::ListRuns => self.spawn_blocking(|services| Some(Msg::PastRuns(services.past_runs()))),
            Effect::LoadHistory => self.spawn_blocking(|services| Some(Msg::CaseHistory(services.case_history()))),
            Effect::ListErrors => {
                let (dir, view) = (model.shown.dir.clone(), model.shown.view.clone());
                self.spawn_blocking(move |_| Some(Msg::Errors(errors::collect(&dir, &view))));
            }
            Effect::Compare(word) => self.compare(model, word),
            Effect::OpenRun(dir) => drop(self.show(dir, RecordSource::Own { ended: true }, Whose::Earlier)),
            Effect::WatchCode(on) => {
                self.code_watch.cancel();
                if let Some(setup) = model.setup.clone().filter(|_| on) {
                    self.watch_code(setup);
                }
            }
            Effect::Mend(words) => {
                let words = words.into_iter().map(Into::into).collect();
                return Some(TerminalAction::Program { words, then: Some(Effect::Recheck) });
            }
            Effect::EditConfig => {
                let words = program(true, &self.services.config_file(), 1);
                return Some(TerminalAction::Program { words, then: Some(Effect::LoadSetup) });
            }
            Effect::LoadSetup => self.spawn_blocking(|services| Some(Msg::Setup(services.setup().map(Arc::new)))),
            Effect::Init => self.spawn_blocking(|services| {
                Some(match services.init() {
                    Ok(_) => Msg::Setup(services.setup().map(Arc::new)),
                    Err(fault) => Msg::Setup(Err(fault)),
                })
            }),
            Effect::Demo => self.demo(),
            Effect::LoadTheme(name) => {
                let (folder, depth) = (model.appearance.theme_folder.clone(), model.appearance.theme.depth);
                self.load_theme(name, folder, depth);
            }
            Effect::Copy(text) => return self.copy(text),
            Effect::Mouse(on) => return Some(TerminalAction::Mouse(on)),
            Effect::Redraw => return Some(TerminalAction::Redraw),
            Effect::Suspend => return Some(TerminalAction::Suspend),
            Effect::Notify { text } => {
                let way = model.setup.as_ref().and_then(|s| s.cockpit.text("notify").map(str::to_owned));
                return Some(TerminalAction::Write(super::notify::bytes(way.as_deref().unwrap_or("auto"), &text, env)));
            }
            Effect::Progress(percent) => return super::notify::progress(percent, env).map(TerminalAction::Write),
            Effect::Log { severity, target, text } => log(severity, target, &text),
            Effect::Quit => return Some(TerminalAction::Quit),
        }
        None
    }

    fn tell_engine(&mut self, line: String) {
        let told = self.engine.as_ref().is_some_and(|engine| engine.send(line).is_ok());
        if !told {
            self.say(Severity::Warn, "the run is over: no engine accepts commands");
        }
    }

    fn start(&mut self, request: &RunRequest) {
        let engine = match self.services.start(request) {
            Ok(engine) => engine,
            Err(fault) => return self.spawn(async move { Some(Msg::NotStarted(fault)) }),
        };
        self.follow(engine, Whose::Ours);
    }

    /// Shows the run of an engine, which takes our commands from now on.
    fn follow(&mut self, engine: Engine, whose: Whose) {
        let Engine { dir, commands, ended } = engine;
        self.engine = Some(commands);
        let over = self.show(dir, RecordSource::Own { ended: false }, whose);
        self.spawn(async move {
            // Nothing is told of an engine that was let go on alone.
            let (exit, words) = ended.await.ok()?;
            // The last events are on the disk by now; they are read before this is told. An engine that died wrote none.
            let limit = if exit.is_some() { READ } else { Duration::ZERO };
            let _ = clock::within(limit, over.cancelled()).await;
            Some(Msg::EngineEnded { exit, words })
        });
    }

    /// Shows a record from its beginning; the token is cancelled when its last event was read.
    fn show(&mut self, dir: PathBuf, record: RecordSource, whose: Whose) -> CancellationToken {
        self.watch.cancel();
        self.watch = CancellationToken::new();
        let (messages, watch, over) = (self.messages.clone(), self.watch.clone(), CancellationToken::new());
        let ended = over.clone();
        let usage = self.services_usage(watch.clone());
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            let opened = Opened { dir: dir.clone(), record, whose };
            if messages.send(Msg::Opened(opened)).await.is_err() {
                return;
            }
            if let Err(e) = record::follow(host.as_ref(), &dir, messages.clone(), watch.clone(), ended.clone()) {
                let text = format!("cannot follow the record {}: {e}", dir.display());
                let _ = messages.send(Msg::Said(Severity::Warn, text)).await;
            }
            tokio::select! {
                () = ended.cancelled() => {}
                () = usage => {}
            }
        });
        over
    }

    /// Measures what our machines use for as long as the record is shown and its run is in progress.
    fn services_usage(&self, watch: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (services, messages) = (Arc::clone(&self.services), self.messages.clone());
        let before = Arc::clone(&self.usage_before);
        async move {
            loop {
                tokio::select! {
                    () = watch.cancelled() => return,
                    () = clock::sleep(USAGE) => {}
                }
                let (services, before) = (Arc::clone(&services), Arc::clone(&before));
                let looked = tokio::task::spawn_blocking(move || {
                    let mut usage = services.usage();
                    let mut before = before.lock();
                    before.retain(|name, _| usage.contains_key(name));
                    for (name, now) in &mut usage {
                        if let Some((cpu, at)) = before.insert(name.clone(), (now.cpu_ms, clock::now())) {
                            now.cpu_percent = now.cpu_ms.saturating_sub(cpu) * 100 / clock::ms_since(at).max(1);
                        }
                    }
                    (usage, services.memory())
                });
                let Ok((usage, memory)) = looked.await else { return };
                for told in [Msg::Usage(usage), Msg::Memory(memory)] {
                    if messages.send(told).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Looks who holds the lock, and whether the run of another process that is watched is still carried out.
    fn look_at_lock(&self, attach: bool, watched: Option<PathBuf>) {
        let messages = self.messages.clone();
        self.spawn_blocking(move |services| {
            let rows = services.locks();
            let other = rows.iter().find(|r| r.state == LockState::Held).and_then(|r| r.holder.clone());
            let run = other.as_ref().and_then(|h| h.run.clone()).filter(|_| attach);
            let record = run.and_then(|run| services.record_of(&run));
            let is_abandoned = watched.is_some_and(|dir| other.is_none() && !services.is_alive(&dir));
            let _ = messages.blocking_send(Msg::Locks(rows));
            let _ = messages.blocking_send(Msg::Queue(services.queue()));
            let _ = messages.blocking_send(Msg::Memory(services.memory()));
            if is_abandoned {
                return Some(Msg::Abandoned);
            }
            let pid = other.and_then(|h| h.pid).map_or("another process".to_owned(), |p| format!("process {p}"));
            record.map(|dir| Msg::Do(Effect::Watch { dir, who: pid }))
        });
    }

    fn attach(&mut self, guest: GuestId, machine: String) {
        let (type_in, mut typed) = mpsc::channel::<Vec<u8>>(64);
        self.console = Some(type_in);
        let (services, messages) = (Arc::clone(&self.services), self.messages.clone());
        tokio::spawn(async move {
            let id = guest.clone();
            let found = tokio::task::spawn_blocking(move || services.console(&id, &machine)).await;
            let SerialConsole { socket, before } = match found {
                Ok(Ok(both)) => both,
                Ok(Err(fault)) => return drop(messages.send(Msg::ConsoleClosed(fault.to_string())).await),
                Err(e) => return drop(messages.send(Msg::ConsoleClosed(e.to_string())).await),
            };
            let mut line = match tokio::net::UnixStream::connect(&socket).await {
                Ok(line) => line,
                Err(e) => {
                    let why = format!("cannot reach the console of {guest}: {e}");
                    return drop(messages.send(Msg::ConsoleClosed(why)).await);
                }
            };
            let _ = messages.send(Msg::ConsoleOpened(guest, before)).await;
            let mut buffer = vec![0; 16 * 1024];
            let why = loop {
                tokio::select! {
                    read = line.read(&mut buffer) => match read {
                        Ok(0) => break "the machine is gone".to_owned(),
                        Ok(n) => if messages.send(Msg::ConsoleBytes(buffer[..n].to_vec())).await.is_err() { return },
                        Err(e) => break e.to_string(),
                    },
                    bytes = typed.recv() => match bytes {
                        Some(bytes) => if let Err(e) = line.write_all(&bytes).await { break e.to_string() },
                        // Let go of by the person.
                        None => return,
                    },
                }
            };
            let _ = messages.send(Msg::ConsoleClosed(why)).await;
        });
    }

    /// Tells of each change of the code until that is not wanted any more.
    fn watch_code(&mut self, setup: Arc<Setup>) {
        self.code_watch = CancellationToken::new();
        let (services, messages, over) = (Arc::clone(&self.services), self.messages.clone(), self.code_watch.clone());
        tokio::spawn(async move {
            let mut changes = match services.watch_code(setup).await {
                Ok(changes) => changes,
                Err(fault) => {
                    let _ = messages.send(Msg::NotWatched(fault)).await;
                    return;
                }
            };
            loop {
                let names = tokio::select! {
                    names = changes.next() => names,
                    () = over.cancelled() => return,
                };
                if messages.send(Msg::CodeChanged(names)).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Compares a case of the run that is shown with the last time that it passed.
    fn compare(&self, model: &Model, word: String) {
        let (dir, view) = (model.shown.dir.clone(), model.shown.view.clone());
        self.spawn_blocking(move |services| {
            let case = view.cases.iter().rev().find(|c| word_of_case(&c.suite, &c.case, &c.guest) == word)?;
            let Some(green) = services.last_passed(&word, &dir) else {
                let so_far =
                    if case.verdict == Verdict::Passed { "passed in this run, and not" } else { "has not passed" };
                let text = format!("{word} {so_far} before, as far as the records of this folder tell");
                return Some(Msg::Said(Severity::Warn, text));
            };
            let logs = record_logs::of_case(&dir, &case.guest, case.suite.as_str(), case.case.as_str());
            let lines = green_diff::compare(case, view.guests.get(&case.guest), &logs, &green);
            Some(Msg::Compared { title: word, lines })
        });
    }

    fn demo(&self) {
        let (services, messages) = (Arc::clone(&self.services), self.messages.clone());
        self.spawn(async move {
            let told = |text: String| drop(messages.try_send(Msg::Said(Severity::Ok, text)));
            if let Err(fault) = services.demo(&told).await {
                return Some(Msg::Setup(Err(fault)));
            }
            let _ = messages.send(Msg::Setup(services.setup().map(Arc::new))).await;
            Some(Msg::Do(Effect::Start(RunRequest::default())))
        });
    }

    fn load_theme(&self, name: String, folder: Option<PathBuf>, depth: Depth) {
        self.spawn_blocking(move |_| Some(Msg::Theme(Theme::load(&name, folder.as_deref(), depth))));
    }

    /// Copies a text with a program of this desktop where there is one, else through the terminal.
    fn copy(&self, text: String) -> Option<TerminalAction> {
        if let Some(words) = super::notify::clipboard_program(env, |name| self.host.has_program(name)) {
            let host = Arc::clone(&self.host);
            self.spawn(async move {
                let count = text.lines().count();
                Some(match host.feed(&words, text.as_bytes()).await {
                    Ok(()) => {
                        Msg::Said(Severity::Ok, format!("{} copied with {}", show_count(count, "line"), words[0]))
                    }
                    Err(e) => Msg::Said(Severity::Warn, format!("cannot copy with {}: {e}", words[0])),
                })
            });
            return None;
        }
        if let Some(bytes) = super::notify::osc52(&text) {
            self.say(
                Severity::Ok,
                format!("{} copied through the terminal (OSC 52)", show_count(text.lines().count(), "line")),
            );
            Some(TerminalAction::Write(bytes))
        } else {
            self.say(Severity::Warn, "too much for the terminal's clipboard: ctrl-s saves it to a file");
            None
        }
    }
}

/// Returns the machine of a guest in the run that is shown, once it runs.
fn machine_of(model: &Model, guest: &GuestId) -> Option<String> {
    let view = model.shown.view.guests.get(guest)?;
    let is_there = model.shown.view.exit.is_none() && view.powered_ms.is_some();
    view.machine.clone().filter(|_| is_there && view.state != MachineState::Terminated)
}

/// Adds a line to the events pane. Its text may have come from a guest.
fn log(severity: Severity, target: &str, text: &str) {
    let level = match severity {
        Severity::Ok => log::Level::Info,
        Severity::Fixed => log::Level::Info,
        Severity::Warn => log::Level::Warn,
        Severity::Fatal => log::Level::Error,
    };
    let text = Clean::from_text(text);
    tui_logger::Drain::new()
        .log(&log::Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    // Its ring between two moves is small; a burst of a run's end must not be lost.
    tui_logger::move_events();
}
