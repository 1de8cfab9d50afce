//! A mistake in the config: where it is, what is wrong, and what to do.

use std::fmt;

/// A mistake in the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place of the mistake: `vmdeck.toml:12`, `--set`, `VMDECK_X`.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.text)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
