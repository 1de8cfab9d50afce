//! The terminal itself: taken over, given back, written to. Whatever happens, it is given back as it was.

use super::{model::Model, view};
use crossterm::{
    cursor, event, execute,
    terminal::{self, EnterAlternateScreen, LeaveAlternateScreen},
};
use futures_util::StreamExt;
use ratatui::{Terminal, backend::CrosstermBackend};
use std::{
    io::{self, Stdout, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// Where the cockpit is drawn and where its keys come from; tests have one without a terminal.
pub trait Screen {
    /// Draws the state.
    fn draw(&mut self, model: &Model) -> io::Result<()>;
    /// Returns the next event; `None` = the terminal is gone.
    fn next(&mut self) -> impl Future<Output = Option<event::Event>>;
    /// Gives the terminal back for another program, or for good.
    fn leave(&mut self);
    /// Takes the terminal again.
    fn enter(&mut self) -> io::Result<()>;
    /// Writes bytes that are not part of the picture.
    fn write(&mut self, bytes: &[u8]);
    /// Turns the mouse on or off.
    fn mouse(&mut self, on: bool);
    /// Returns the columns and rows of the screen.
    fn size(&self) -> (u16, u16);
}

/// Whether the terminal is ours now, for the panic hook.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back, from wherever it is called; does nothing if it is not ours.
pub fn restore() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    let mut out = io::stdout();
    // Each of these is tried: a terminal that is gone refuses them all.
    let _ = execute!(
        out,
        event::DisableMouseCapture,
        event::DisableBracketedPaste,
        event::DisableFocusChange,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = terminal::disable_raw_mode();
    let _ = out.flush();
}

/// Gives the terminal back before a panic of this thread, the loop's, is printed; `elsewhere` gets one of any other
/// thread, which must not write over the picture.
pub fn restore_on_panic(elsewhere: impl Fn(String) + Send + Sync + 'static) {
    let before = std::panic::take_hook();
    let main = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == main {
            restore();
            before(info);
        } else {
            elsewhere(info.to_string());
        }
    }));
}

/// A person's terminal.
pub struct Tty {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    events: Option<event::EventStream>,
    mouse: bool,
}

impl Tty {
    /// Takes over the terminal.
    pub fn take(mouse: bool) -> io::Result<Self> {
        // NO_COLOR is answered by the theme: crossterm's own answer would also take bold and reverse away.
        crossterm::style::force_color_output(true);
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        let mut tty = Self { terminal, events: None, mouse };
        tty.enter()?;
        Ok(tty)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        restore();
    }
}

impl Screen for Tty {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        if self.size() != model.size {
            // Its new size is about to be told; a picture for the old one would not fit.
            return Ok(());
        }
        let mut out = io::stdout();
        execute!(out, terminal::BeginSynchronizedUpdate)?;
        let drawn = self.terminal.draw(|frame| view::view(model, frame)).map(drop);
        execute!(out, terminal::EndSynchronizedUpdate)?;
        drawn
    }

    async fn next(&mut self) -> Option<event::Event> {
        match &mut self.events {
            Some(events) => events.next().await?.ok(),
            None => std::future::pending().await,
        }
    }

    fn leave(&mut self) {
        // The reader must not take the keys of the program that comes now.
        self.events = None;
        restore();
    }

    fn enter(&mut self) -> io::Result<()> {
        terminal::enable_raw_mode()?;
        TAKEN.store(true, Ordering::Release);
        execute!(
            io::stdout(),
            EnterAlternateScreen,
            event::EnableBracketedPaste,
            event::EnableFocusChange,
            cursor::Hide
        )?;
        if self.mouse {
            execute!(io::stdout(), event::EnableMouseCapture)?;
        }
        self.events = Some(event::EventStream::new());
        // Drawn anew without asking the terminal anything: its answer would be mixed with keys.
        let size = self.terminal.size()?;
        self.terminal.resize(ratatui::layout::Rect::new(0, 0, size.width, size.height))
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut out = io::stdout();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn mouse(&mut self, on: bool) {
        self.mouse = on;
        let mut out = io::stdout();
        let _ = if on { execute!(out, event::EnableMouseCapture) } else { execute!(out, event::DisableMouseCapture) };
    }

    fn size(&self) -> (u16, u16) {
        terminal::size().unwrap_or((80, 24))
    }
}
