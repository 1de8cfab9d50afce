//! The event loop: messages go to `update`, effects to the effect runner, the state to the screen. It sleeps until
//! something happens.
//!
//! Everything that has come is taken in before anything is drawn, and what changed is drawn at most 60 times a second.

use super::{
    clock, derive,
    effect_runner::{EffectRunner, TerminalAction},
    host::Host,
    model::Model,
    msg::{Effect, Msg},
    screen::Screen,
    services::Services,
    update::{self, Now},
};
use crossterm::event::Event as TermEvent;
use std::{ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Severity,
    outcome::Signal,
};

/// The shortest time between two pictures.
const FRAME: Duration = Duration::from_millis(16);
/// How many messages are taken in before a picture is due.
const BATCH: usize = 256;

/// The cockpit while it is open.
pub struct App<S> {
    model: Model,
    screen: S,
    effects: EffectRunner,
    host: Arc<dyn Host>,
    messages: mpsc::Receiver<Msg>,
    signals: Option<mpsc::UnboundedReceiver<Signal>>,
    opened: clock::Instant,
    drawn: Option<clock::Instant>,
    is_dirty: bool,
    is_done: bool,
    /// The signal that ended the cockpit.
    pub last_signal: Option<Signal>,
    /// The files of the theme, and the watcher of them.
    theme: (Vec<PathBuf>, Option<Box<dyn Send>>),
    send: mpsc::Sender<Msg>,
    /// How many pictures were drawn, for the benchmark.
    pub frames: u64,
}

impl<S: Screen> App<S> {
    /// Returns a cockpit on a screen; must be called within a runtime. `channel` is the one that the model's waker sends to.
    pub fn new(
        model: Model,
        screen: S,
        services: Arc<dyn Services>,
        host: Arc<dyn Host>,
        channel: (mpsc::Sender<Msg>, mpsc::Receiver<Msg>),
        signals: Option<mpsc::UnboundedReceiver<Signal>>,
    ) -> Self {
        let (send, messages) = channel;
        Self {
            model,
            screen,
            effects: EffectRunner::new(services, Arc::clone(&host), send.clone()),
            theme: (Vec::new(), None),
            send,
            host,
            messages,
            signals,
            opened: clock::now(),
            drawn: None,
            is_dirty: true,
            is_done: false,
            last_signal: None,
            frames: 0,
        }
    }

    /// Returns the state of the cockpit.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the screen, for tests.
    pub fn screen(&mut self) -> &mut S {
        &mut self.screen
    }

    /// Runs until the person leaves, or the terminal is gone; begins with these effects.
    pub async fn run(&mut self, first: Vec<Effect>) -> Result<()> {
        (self.model.size.0, self.model.size.1) = self.screen.size();
        self.take(Msg::Tick).await?;
        for effect in first {
            self.effect(effect).await?;
        }
        while !self.is_done {
            self.draw_if_due()?;
            self.turn().await?;
        }
        Ok(())
    }

    /// Waits for one thing and takes it in with everything else that has come.
    async fn turn(&mut self) -> Result<()> {
        let wait = self.wait();
        tokio::select! {
            biased;
            signal = next_signal(&mut self.signals) => {
                self.last_signal = Some(signal);
                self.take(Msg::Signal).await?;
            }
            event = self.screen.next() => match event {
                Some(event) => self.term(event).await?,
                // The terminal is gone: the engine's input ends with us, and it cleans up.
                None => self.is_done = true,
            },
            Some(msg) = self.messages.recv() => self.take(msg).await?,
            () = sleep(wait) => self.take_tick().await?,
        }
        for _ in 0..BATCH {
            let Ok(msg) = self.messages.try_recv() else { break };
            self.take(msg).await?;
        }
        Ok(())
    }

    /// Returns the time until the next picture is due, or something changes by itself; `None` = until something comes.
    fn wait(&self) -> Option<Duration> {
        let picture = self.is_dirty.then(|| self.until_frame());
        let change = self.model.next_change_ms().map(Duration::from_millis);
        [picture, change].into_iter().flatten().min()
    }

    fn until_frame(&self) -> Duration {
        self.drawn.map_or(Duration::ZERO, |at| FRAME.saturating_sub(at.elapsed()))
    }

    fn draw_if_due(&mut self) -> Result<()> {
        if !self.is_dirty || !self.until_frame().is_zero() {
            return Ok(());
        }
        derive::derive(&mut self.model);
        self.screen.draw(&self.model).map_err(|e| Fault::host("cannot draw on this terminal").because(e))?;
        self.frames += 1;
        self.drawn = Some(clock::now());
        self.is_dirty = false;
        Ok(())
    }

    async fn take_tick(&mut self) -> Result<()> {
        // A picture that was only late is no tick: then nothing has changed by itself.
        if self.is_dirty { Ok(()) } else { self.take(Msg::Tick).await }
    }

    async fn term(&mut self, event: TermEvent) -> Result<()> {
        let msg = match event {
            TermEvent::Key(key) => Msg::Key(key),
            TermEvent::Mouse(mouse) => Msg::Mouse(mouse),
            TermEvent::Paste(text) => Msg::Paste(text),
            TermEvent::Resize(columns, rows) => Msg::Resize(columns, rows),
            TermEvent::FocusGained => Msg::Focus(true),
            TermEvent::FocusLost => Msg::Focus(false),
        };
        self.take(msg).await
    }

    /// Takes a message in and begins what comes of it.
    pub async fn take(&mut self, msg: Msg) -> Result<()> {
        let now = Now { ms: clock::ms_since(self.opened), wall_ms: clock::wall_ms() };
        let effects = update::update(&mut self.model, now, msg);
        self.is_dirty = true;
        self.watch_theme();
        for effect in effects {
            // Each may need the terminal, one after the other.
            Box::pin(self.effect(effect)).await?;
        }
        Ok(())
    }

    /// Watches the files of the current theme.
    fn watch_theme(&mut self) {
        let files = &self.model.appearance.theme.files;
        if self.theme.0 != *files {
            let send = self.send.clone();
            // Full = a message is there that makes the loop look anyway, and editors write more than once.
            let on_change = move || drop(send.try_send(Msg::ThemeChanged));
            self.theme = (files.clone(), Some(self.host.watch(files, Box::new(on_change))));
        }
    }

    async fn effect(&mut self, effect: Effect) -> Result<()> {
        match self.effects.run(&self.model, effect) {
            None => {}
            Some(TerminalAction::Write(bytes)) => self.screen.write(&bytes),
            Some(TerminalAction::Mouse(on)) => self.screen.mouse(on),
            Some(TerminalAction::Quit) => self.is_done = true,
            Some(TerminalAction::Redraw) => {
                self.screen.leave();
                self.enter()?;
            }
            Some(TerminalAction::Suspend) => {
                self.screen.leave();
                self.host.suspend().await;
                self.enter()?;
            }
            Some(TerminalAction::Program { words, then }) => {
                self.program(&words).await?;
                if let Some(effect) = then {
                    self.effects.run(&self.model, effect);
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<()> {
        self.screen.enter().map_err(|e| Fault::host("cannot return to the cockpit").because(e))?;
        // It may have another size by now.
        self.model.size = self.screen.size();
        self.is_dirty = true;
        self.drawn = None;
        Ok(())
    }

    /// Gives the whole terminal to a program until it ends.
    async fn program(&mut self, words: &[OsString]) -> Result<()> {
        let Some(program) = words.first() else { return Ok(()) };
        self.screen.leave();
        let ended = self.foreground(words).await;
        self.enter()?;
        // What came meanwhile may have been more than could wait.
        self.model.logs.refresh();
        let shown = program.to_string_lossy().into_owned();
        let what = match ended {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => format!("{shown}: {status}"),
            Err(e) => format!("cannot run {shown}: {e}"),
        };
        self.model.say(Severity::Warn, what);
        Ok(())
    }

    async fn foreground(&mut self, words: &[OsString]) -> io::Result<std::process::ExitStatus> {
        let end = CancellationToken::new();
        let host = Arc::clone(&self.host);
        let mut program = host.run_foreground(words, end.clone());
        loop {
            tokio::select! {
                status = &mut program => return status,
                // Ctrl-C is the program's; an end is ours as well, and the program goes with us.
                signal = next_signal(&mut self.signals) => if signal != Signal::Interrupt && signal != Signal::Quit {
                    end.cancel();
                    self.last_signal = Some(signal);
                    self.is_done = true;
                },
            }
        }
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => clock::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn next_signal(signals: &mut Option<mpsc::UnboundedReceiver<Signal>>) -> Signal {
    match signals {
        Some(stream) => match stream.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
