//! The watch on the code: each change of it runs the same cases again.

use vmdeck_model::exit::RunExit;

/// What is run after each change, and how that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeWatch {
    /// The SELECT words of what is run.
    pub select: Vec<String>,
    /// How many of its runs have ended.
    pub count: u32,
    /// How the last of them ended that a change did not make stale.
    pub last: Option<RunExit>,
    /// Whether the run in progress is one of its own.
    pub is_running: bool,
}

impl CodeWatch {
    /// Returns a watch that runs these.
    pub fn new(select: Vec<String>) -> Self {
        Self { select, count: 0, last: None, is_running: false }
    }

    /// Notes how a run of it ended; returns what is news about that.
    pub fn ended(&mut self, exit: RunExit) -> Option<&'static str> {
        self.is_running = false;
        self.count += 1;
        exit.turn_from(self.last.replace(exit))
    }

    /// Returns the watch in a few words, for the header.
    pub fn badge(&self) -> String {
        let how = match self.last {
            None => String::new(),
            Some(RunExit::Passed) => " green".to_owned(),
            Some(_) => " RED".to_owned(),
        };
        format!("WATCH #{}{how}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_turn_is_news() {
        let mut watch = CodeWatch::new(Vec::new());
        assert_eq!(watch.badge(), "WATCH #0");
        let said: Vec<Option<&str>> =
            [1, 0, 0, 5, 1].map(|code| watch.ended(RunExit::try_from(code).expect("code"))).into();
        assert_eq!(said, [None, Some("green again"), None, Some("RED now"), None]);
        assert_eq!(watch.badge(), "WATCH #5 RED");
    }
}
