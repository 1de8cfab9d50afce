//! A person's terminal as streams: raw mode, window size, and restoring it whatever happens.
//!
//! Only for `vmdeck shell`; the guest's side is a transport's.

use bytes::Bytes;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{IsTerminal, Read, Write};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use vmdeck_core::transport::session::TerminalStreams;
use vmdeck_model::error::{Fault, Result};

/// Returns whether a person sits at both ends.
pub(super) fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The terminal in raw mode; restored when dropped.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Result<Self> {
        let cannot = |e: rustix::io::Errno| Fault::user("cannot use this terminal").because(e);
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin, OptionalActions::Now, &raw).map_err(cannot)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // What a program in the guest may have left on: other screen, hidden cursor, colours, mouse, bracketed paste.
        let mut out = std::io::stdout();
        let _ = out.write_all(b"\x1b[?1047l\x1b[?25h\x1b[0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l");
        let _ = out.flush();
        // Nothing better can be done than trying.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

fn size() -> (u16, u16) {
    termios::tcgetwinsize(rustix::stdio::stdout()).map_or((80, 24), |s| (s.ws_col.max(1), s.ws_row.max(1)))
}

/// Puts the terminal into raw mode and connects it; the first part must be kept until the end.
pub(super) fn terminal() -> Result<(RawMode, TerminalStreams)> {
    let raw = RawMode::enter()?;
    let (type_in, input) = mpsc::channel(16);
    // A thread of its own: a blocking read of a terminal cannot be cancelled, and must not hold the runtime's end up.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if type_in.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                break;
            }
        }
    });
    let (output, mut shown) = mpsc::channel::<Bytes>(64);
    tokio::spawn(async move {
        let mut out = std::io::stdout();
        while let Some(bytes) = shown.recv().await {
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
    });
    let (size_in, size_out) = watch::channel(size());
    let mut resized =
        signal(SignalKind::window_change()).map_err(|e| Fault::bug("cannot watch the window's size").because(e))?;
    tokio::spawn(async move { while resized.recv().await.is_some() && size_in.send(size()).is_ok() {} });
    let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
    Ok((raw, TerminalStreams { input, output, size: size_out, kind, command: None }))
}
