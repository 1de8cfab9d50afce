//! A command for a guest, and how it ended.
//!
//! How it gets there is a transport's or backend's work.

pub mod frame;
pub mod input_feed;
pub mod kill;
pub mod login_shell;
pub mod marks;
pub mod own_output;
pub mod powershell;
mod shell;

pub use shell::Shell;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Seek},
    path::PathBuf,
    sync::Arc,
};
use vmdeck_model::{
    error::Fault,
    event::Stream,
    suite::{RunAs, ScriptShell},
};

/// A command to run in a guest.
#[derive(Clone, Debug, Default)]
pub struct RemoteCommand {
    /// The text for its shell.
    pub script: String,
    /// The shell, and what it does about a line that fails.
    pub shell: ScriptShell,
    /// Text of a POSIX shell that comes first: where it fails, the command has not begun, and what it writes to standard error
    /// says why. It may read standard input.
    pub prepare: String,
    /// Variables to set.
    pub env: BTreeMap<String, String>,
    /// The working directory; unset: the login directory.
    pub dir: Option<String>,
    /// Who runs the command.
    pub run_as: RunAs,
    /// What the command reads.
    pub stdin: Input,
    /// Whether the command gets a terminal; this excludes a separate standard error.
    pub terminal: bool,
    /// Whether standard error is wanted apart from standard output.
    pub separate_stderr: bool,
}

/// What a command reads from its standard input.
#[derive(Clone, Debug, Default)]
pub enum Input {
    /// The input is empty.
    #[default]
    Empty,
    /// The input is a regular file of this host, streamed.
    File(PathBuf),
    /// The input is our own standard input, which may be anything.
    Stdin,
    /// The input is one end of a pipe or socket of ours, read once.
    Pipe(Arc<File>),
    /// The input is a file that has no name, from its beginning: what dies with us leaves nothing.
    Unnamed(Arc<File>),
}

impl Input {
    /// Opens what is to be read; `None` = there is nothing.
    pub fn open(&self) -> io::Result<Option<File>> {
        match self {
            Input::Empty => Ok(None),
            Input::File(path) => vmdeck_files::open(path).map(Some),
            Input::Stdin => rustix::io::dup(rustix::stdio::stdin()).map(|fd| Some(fd.into())).map_err(io::Error::from),
            Input::Pipe(file) => file.try_clone().map(Some),
            Input::Unnamed(file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(Some(file))
            }
        }
    }

    /// Returns whether there is nothing to be read.
    pub fn is_empty(&self) -> bool {
        matches!(self, Input::Empty)
    }

    /// Returns the fault of an input that cannot be read.
    pub fn unreadable(&self, error: &io::Error) -> Fault {
        let what = match self {
            Input::File(path) => format!("`{}`, the input of the command", path.display()),
            Input::Stdin => "standard input".to_owned(),
            Input::Empty | Input::Pipe(_) | Input::Unnamed(_) => "the input of the command".to_owned(),
        };
        Fault::user(format!("cannot read {what}")).because(error)
    }
}

impl RemoteCommand {
    /// Returns a command of the logged-in user with both outputs apart, for a shell that stops at nothing.
    pub fn new(script: impl Into<String>) -> Self {
        Self { script: script.into(), shell: ScriptShell::Plain, separate_stderr: true, ..Self::default() }
    }
}

/// How a command ended; there is no "unknown": a lost status is a fault, never an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandExit {
    /// The command exited with this code.
    Code(i32),
    /// The command was killed by a signal of this name, without `SIG`.
    Signal(String),
}

impl CommandExit {
    /// Returns the end by a signal of Linux's number for it; one without a name here keeps the number.
    pub fn of_signal(number: i32) -> Self {
        let known = [
            (1, "HUP"),
            (2, "INT"),
            (3, "QUIT"),
            (4, "ILL"),
            (6, "ABRT"),
            (8, "FPE"),
            (9, "KILL"),
            (11, "SEGV"),
            (13, "PIPE"),
            (14, "ALRM"),
            (15, "TERM"),
        ];
        let name = known.iter().find(|row| row.0 == number);
        CommandExit::Signal(name.map_or_else(|| number.to_string(), |row| row.1.to_owned()))
    }

    /// Returns the code; `None` for a signal.
    pub fn code(&self) -> Option<i32> {
        if let CommandExit::Code(code) = self { Some(*code) } else { None }
    }
}

impl fmt::Display for CommandExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandExit::Code(code) => write!(f, "exit {code}"),
            CommandExit::Signal(name) => write!(f, "killed by SIG{name}"),
        }
    }
}

/// Takes what a command writes, as it comes; an implementation must be quick and must not block.
pub trait OutputSink: Send {
    /// Takes a piece of output, raw.
    fn write(&mut self, stream: Stream, bytes: &[u8]);
}

impl<F: FnMut(Stream, &[u8]) + Send> OutputSink for F {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self(stream, bytes);
    }
}

/// Collects a command's output for a caller that only wants the whole, up to 1 MiB a stream.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The standard output.
    pub stdout: Vec<u8>,
    /// The standard error.
    pub stderr: Vec<u8>,
}

impl OutputSink for Collected {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let into = if stream == Stream::Stderr { &mut self.stderr } else { &mut self.stdout };
        let room = (1usize << 20).saturating_sub(into.len());
        into.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Quotes a text for a POSIX shell: what comes out is one word with exactly these bytes.
pub fn sh_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with(['~', '=']) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_quoted_text_survives_every_shell_here(text in "[^\u{0}]{0,40}") {
            for shell in ["/bin/sh", "/bin/bash"] {
                if !std::path::Path::new(shell).exists() {
                    continue;
                }
                let script = format!("printf %s {}", sh_quote(&text));
                let out = Command::new(shell).args(["-c", &script]).output().expect("shell");
                prop_assert_eq!(String::from_utf8_lossy(&out.stdout), &*text);
            }
        }
    }
}
