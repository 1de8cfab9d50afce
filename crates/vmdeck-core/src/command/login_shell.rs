//! What a login shell does with the text that it is given: found out by giving it one, never by its name alone.
//!
//! Where it is proven that quoted text arrives as it is, a command goes as one text, which is quickest; elsewhere it goes the way
//! that needs no quoting (see `frame`).

use super::{CommandExit, sh_quote};
use memchr::memmem;

/// What is known about a login shell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoginShell {
    /// A POSIX shell that runs a text as it is.
    Posix,
    /// Hands quoted text on as it is: a POSIX shell can be started with one.
    Quotes,
    /// Nothing is proven: it may read quotes in its own way, or start something else.
    #[default]
    Unknown,
}

/// Everything that some shell reads in its own way within quotes, or at their edge.
const TOUCHSTONE: &str =
    "'\\' \\\\ \\n \"$0\" `id` $(id) !! !x ^a^b^ {a,b} ~ * ? [a] # ; & | < >\n\t\u{e9}\u{1F980} %s \\'";

/// The status with which the probe ends: no usual one, so that a made-up status is not taken for it.
pub const STATUS: i32 = 37;

/// A text that tells what a login shell is.
#[derive(Clone, Debug)]
pub struct ShellProbe {
    nonce: String,
}

impl ShellProbe {
    /// Returns a probe with this nonce.
    pub fn new(nonce: String) -> Self {
        Self { nonce }
    }

    /// Returns the text for the login shell.
    pub fn text(&self) -> String {
        let print = format!("printf %s {}; printf '[err-%s]' {} >&2; exit {STATUS}", sh_quote(TOUCHSTONE), self.nonce);
        format!("printf '[shell-%s %s]' {} \"$0\"; exec /bin/sh -c {}", self.nonce, sh_quote(&print))
    }

    /// Returns what the shell is that wrote this to its two outputs and ended so: one that mixes them, or that loses the status
    /// on its way, is nothing to rely on.
    pub fn read(&self, stdout: &[u8], stderr: &[u8], exit: Option<&CommandExit>) -> LoginShell {
        let said = memmem::find(stderr, format!("[err-{}]", self.nonce).as_bytes()).is_some();
        if !said || exit != Some(&CommandExit::Code(STATUS)) {
            return LoginShell::Unknown;
        }
        let mark = format!("[shell-{} ", self.nonce);
        let Some(at) = memmem::find(stdout, mark.as_bytes()) else { return LoginShell::Unknown };
        let after = &stdout[at + mark.len()..];
        let Some(end) = memchr::memchr(b']', after) else { return LoginShell::Unknown };
        if after[end + 1..] != *TOUCHSTONE.as_bytes() {
            return LoginShell::Unknown;
        }
        let name = String::from_utf8_lossy(&after[..end]).into_owned();
        let base = name.rsplit('/').next().unwrap_or_default().trim_start_matches('-');
        if matches!(base, "sh" | "ash" | "dash") { LoginShell::Posix } else { LoginShell::Quotes }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn each_shell_shows_what_it_is() {
        let rows: [(&[&str], LoginShell); 7] = [
            (&["/bin/dash"], LoginShell::Posix),
            (&["/bin/sh"], LoginShell::Posix),
            (&["/bin/bash"], LoginShell::Quotes),
            (&["/usr/bin/zsh"], LoginShell::Quotes),
            (&["/usr/bin/fish"], LoginShell::Unknown),
            (&["/usr/bin/tcsh"], LoginShell::Unknown),
            (&["/bin/false"], LoginShell::Unknown),
        ];
        for (words, wanted) in rows.into_iter().filter(|row| std::path::Path::new(row.0[0]).exists()) {
            let probe = ShellProbe::new("0123456789abcdef".into());
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["-c", &probe.text()]).stdin(Stdio::null());
            let out = command.output().expect("shell");
            let exit = out.status.code().map(CommandExit::Code);
            let read = |stdout: &[u8]| probe.read(stdout, &out.stderr, exit.as_ref());
            assert_eq!(read(&out.stdout), wanted, "{words:?} {}", String::from_utf8_lossy(&out.stdout));
            let noisy = [b"Welcome!\n", &out.stdout[..]].concat();
            assert_eq!(read(&noisy), wanted, "noise before it is noise");
            let cut = &out.stdout[..out.stdout.len().saturating_sub(1)];
            assert_eq!(read(cut), LoginShell::Unknown, "{words:?}: less than all is nothing");
            assert_eq!(probe.read(&out.stdout, &out.stderr, Some(&CommandExit::Code(0))), LoginShell::Unknown);
            assert_eq!(probe.read(&out.stdout, b"", exit.as_ref()), LoginShell::Unknown, "its outputs are mixed");
        }
    }
}
