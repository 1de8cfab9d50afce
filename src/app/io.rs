//! Where the program writes: data, diagnostics, and whether colours are wanted.

use crate::cli::Color;
use std::io::{IsTerminal, Write};

/// Where the program writes, for a person or another program; `main` decides where that is.
pub struct Io<'a> {
    /// The stream for data and the headless report.
    pub out: &'a mut (dyn Write + Send),
    /// The stream for diagnostics.
    pub err: &'a mut (dyn Write + Send),
}

impl Io<'_> {
    /// Writes a line of data; a closed pipe is no error.
    pub(super) fn say(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// Writes a line of diagnostics; what would command the terminal is taken out, because a message may quote a stranger's file.
    pub(super) fn warn(&mut self, text: &str) {
        let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        let _ = writeln!(self.err, "{text}");
    }

    /// Asks a person; anything but a yes is a no.
    pub(super) fn confirmed(&mut self, question: &str) -> bool {
        let _ = write!(self.out, "{question} [y/N] ");
        let _ = self.out.flush();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

/// Returns whether colours are wanted on standard output: on a terminal that has them, unless `NO_COLOR` is set; with `CLICOLOR_FORCE`
/// anywhere.
pub(super) fn use_color(color: Color) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if is_set("NO_COLOR") => false,
        Color::Auto if is_set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| v != "0") => true,
        Color::Auto => std::io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb"),
    }
}
