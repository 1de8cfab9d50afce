//! Where the cases come from that a case stands for: files of the guest, or what a tool lists.
//!
//! Reading such a list is `vmdeck-results`' matter, asking for it `engine::cases`'.

use super::{
    ids::{CaseId, GuestId, SuiteId},
    select::Selector,
};

/// Most cases that one may become in a guest.
pub const MOST_FOUND: usize = 10_000;

/// The cases that a case stands for. They are found in the guest, after the setup of its suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// Where they come from.
    pub source: DiscoverySource,
    /// What wants only some of them; empty = all are wanted.
    pub wanted: Vec<Selector>,
}

/// Where found cases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverySource {
    /// The files that a glob names, relative to the working directory; each is run by a script in which `{path}` stands for it.
    Files {
        /// The glob.
        glob: String,
        /// The script.
        run: String,
    },
    /// The lines that a command writes; each is run by a script in which `{name}` stands for it.
    Command {
        /// The command.
        command: String,
        /// The script.
        run: String,
    },
    /// The list of a tool whose word is one of [`Discovery::TOOLS`].
    Tool(String),
}

impl Discovery {
    /// The words of the tools whose lists are known.
    pub const TOOLS: &'static [&'static str] =
        &["autopkgtest", "bats", "cargo", "ctest", "go", "kselftest", "nextest", "pytest"];
    /// The name of a file in a script.
    pub const PATH: &'static str = "{path}";
    /// The name of a test in a script.
    pub const NAME: &'static str = "{name}";

    /// Returns whether a case that was found is one of those that are wanted.
    pub fn wants(&self, suite: &SuiteId, case: &CaseId, guest: &GuestId) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|word| word.matches(suite, case, &[guest]))
    }

    /// Returns the words that name one test each, of which none was found.
    pub fn unfound<'a>(&'a self, suite: &SuiteId, found: &[CaseId], guest: &GuestId) -> Vec<&'a str> {
        let is_found = |word: &Selector| found.iter().any(|case| word.matches(suite, case, &[guest]));
        let missing = self.wanted.iter().filter(|word| word.is_exact() && !is_found(word));
        missing.map(Selector::text).collect()
    }
}
