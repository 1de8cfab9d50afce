//! Where the program writes: data, diagnostics, and whether colours are wanted.

use crate::cli::Color;
use std::io::{IsTerminal, Write};

/// Writes for a person or a program; `main` decides where to.
pub struct Io<'a> {
    /// Data and the headless report.
    pub out: &'a mut (dyn Write + Send),
    /// Diagnostics.
    pub err: &'a mut (dyn Write + Send),
}

impl Io<'_> {
    /// Writes a line of data; a closed pipe is no error.
    pub(super) fn say(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// Writes a line of diagnostics.
    pub(super) fn warn(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// Returns whether colours are wanted on standard output.
pub(super) fn use_color(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}
