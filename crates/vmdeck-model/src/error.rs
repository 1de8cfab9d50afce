//! The one error type that a user may see: what failed, why, what to do, and whose fault it is.
//!
//! Errors of single modules stay beside their module; they become a [`Fault`] where a person would read them.

use std::fmt;

/// A result whose error a person can act on.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// Who has to act on a [`Fault`]; this decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The command line or the config is wrong (exit 2).
    User,
    /// The host is not ready: a tool, disk, memory or permission is missing (exit 3).
    Host,
    /// The host lock could not be acquired in time (exit 4).
    Lock,
    /// A guest could not be launched, booted or reached, or its connection was lost (exit 5).
    Infra,
    /// Something could not be proven to be cleaned up (exit 6).
    Leftover,
    /// vmdeck itself is wrong (exit 70).
    Bug,
    /// A person or a signal ended the work (exit 130 or 143).
    Cancelled,
}

/// What mends something on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What to do, for a person.
    pub hint: String,
    /// The command that does it, as words.
    pub command: Option<Vec<String>>,
}

/// A user-facing error: `cannot <verb> <thing>`, the causes from the outside in, and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    what: String,
    causes: Vec<String>,
    remedy: Option<Box<Remedy>>,
    blame: Blame,
    permanent: bool,
}

impl Fault {
    /// Returns a fault that reads ``cannot <verb> <thing>``; add the cause with [`Fault::because`].
    pub fn new(blame: Blame, what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), remedy: None, blame, permanent: false }
    }

    /// Returns a fault of the command line or the config.
    pub fn user(what: impl Into<String>) -> Self {
        Self::new(Blame::User, what)
    }

    /// Returns a fault of the host.
    pub fn host(what: impl Into<String>) -> Self {
        Self::new(Blame::Host, what)
    }

    /// Returns a fault of a guest, or of the way to it.
    pub fn infra(what: impl Into<String>) -> Self {
        Self::new(Blame::Infra, what)
    }

    /// Returns a fault of vmdeck itself.
    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Blame::Bug, what)
    }

    /// Returns the fault of work that was cancelled from outside.
    pub fn cancelled(what: impl Into<String>) -> Self {
        Self::new(Blame::Cancelled, what)
    }

    /// Adds a cause to the end of the chain of causes.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        let cause = cause.to_string();
        if !cause.is_empty() {
            self.causes.push(cause);
        }
        self
    }

    /// Makes `inner` the cause of this fault; its hint is kept unless this fault has one.
    #[must_use]
    pub fn caused_by(mut self, inner: Fault) -> Self {
        self.causes.push(inner.what);
        self.causes.extend(inner.causes);
        self.remedy = self.remedy.or(inner.remedy);
        self.permanent |= inner.permanent;
        self
    }

    /// Sets the remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.remedy = Some(Box::new(Remedy { hint: hint.into(), command: None }));
        self
    }

    /// Sets the remedy that a host has for this, with the command that carries it out.
    #[must_use]
    pub fn remedied(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(Box::new(remedy));
        self
    }

    /// Marks the fault as one that another try cannot mend: a wrong key stays wrong.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Returns whether another try can mend it.
    pub fn is_worth_a_retry(&self) -> bool {
        !self.permanent && self.blame == Blame::Infra
    }

    /// Returns who has to act.
    pub fn blame(&self) -> Blame {
        self.blame
    }

    /// Returns the remedy, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_ref().map(|remedy| remedy.hint.as_str())
    }

    /// Returns the command of the remedy, as words, if one is known.
    pub fn fix(&self) -> Option<&[String]> {
        self.remedy.as_ref()?.command.as_deref()
    }

    /// Returns the text on one line, with the remedy in brackets where one is known.
    pub fn with_remedy(&self) -> String {
        let hint = self.remedy().map(|h| format!(" ({h})")).unwrap_or_default();
        format!("{self}{hint}")
    }

    /// Returns the text for a terminal: ``error: cannot …: cause``, a blank line, ``hint: …``.
    pub fn render(&self) -> String {
        let hint = self.remedy().map(|h| format!("\n\nhint: {h}")).unwrap_or_default();
        format!("error: {self}{hint}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_from_the_outside_in_and_keeps_the_inner_hint() {
        let inner = Fault::host("cannot open `x`").because("No such file or directory").hint("create `x`");
        let outer = Fault::infra("cannot start guest `deb`").caused_by(inner);
        assert_eq!(
            outer.render(),
            "error: cannot start guest `deb`: cannot open `x`: No such file or directory\n\nhint: create `x`"
        );
        assert_eq!(outer.blame(), Blame::Infra);
    }
}
