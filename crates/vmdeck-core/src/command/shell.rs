//! The languages that guests' commands are written in, and how a list of words becomes a command in each.

use super::{powershell, sh_quote};

/// The language that a guest's commands are written in. The session says which one its guest has; nobody guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Commands are for `sh` as POSIX defines it.
    Posix,
    /// Commands are for PowerShell, from version 5.1 on.
    PowerShell,
}

impl Shell {
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
