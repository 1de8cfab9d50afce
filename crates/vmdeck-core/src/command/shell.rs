//! The languages that guests' commands are written in, and how a list of words becomes a command in each.

use super::{frame::Frame, kill, powershell, sh_quote};
use std::time::Duration;

/// The language that a guest's commands are written in. The session says which one its guest has; nobody guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Commands are for `sh` as POSIX defines it.
    Posix,
    /// Commands are for PowerShell, from version 5.1 on.
    PowerShell,
}

impl Shell {
    /// Returns the text that ends a command with everything that it started; `None` = one of this language cannot be named before it
    /// has said that it runs.
    pub fn kill_text(self, frame: &Frame, pid: Option<u32>) -> Option<String> {
        match self {
            Shell::Posix => Some(frame.kill_text(pid)),
            Shell::PowerShell => pid.map(powershell::kill_text),
        }
    }

    /// Returns how long that text may take.
    pub fn kill_limit(self) -> Duration {
        match self {
            Shell::Posix => kill::LIMIT,
            Shell::PowerShell => powershell::KILL_LIMIT,
        }
    }

    /// Returns the command that runs a program with these arguments, each as it is.
    pub fn words(self, words: &[String]) -> String {
        match self {
            Shell::Posix => words.iter().map(|word| sh_quote(word)).collect::<Vec<_>>().join(" "),
            Shell::PowerShell => {
                let words: Vec<String> = words.iter().map(|word| powershell::argument(word)).collect();
                format!("& {}", words.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_in_each_language() {
        let words = ["echo".to_owned(), "it's $x".to_owned()];
        assert_eq!(Shell::Posix.words(&words), r"echo 'it'\''s $x'");
        assert_eq!(Shell::PowerShell.words(&words), "& 'echo' 'it''s $x'");
    }
}
