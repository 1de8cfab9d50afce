//! What lies over the panes: help, palette, questions, details. Its state and its rows; what its keys do is in `update`.

use super::{
    errors::ErrorRow,
    green_diff::DiffLine,
    keymap::{ACTIONS, Action, ActionDef},
    past_runs::PastRunRow,
    prompt::InputLine,
    theme::Theme,
};
use nucleo_matcher::{
    Config, Matcher,
    pattern::{CaseMatching, Normalization, Pattern},
};
use vmdeck_model::ids::GuestId;

/// A question that is asked before something is destroyed, or that a case asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// End these guests now.
    Kill(Vec<GuestId>),
    /// Say whether the case that asks in this guest has passed.
    Answer(GuestId, bool),
    /// Cancel the run.
    Cancel,
    /// Remove what dead runs left.
    CleanUp,
    /// Run this command, which mends what preflight found.
    Mend(Vec<String>),
    /// Release this slot of the lock; with the pid of a holder that lives.
    BreakLock(std::path::PathBuf, Option<u32>),
}

/// A question with what is needed for yes.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// What is to be destroyed.
    pub question: Question,
    /// The question in words.
    pub title: String,
    /// The details, a line each.
    pub lines: Vec<String>,
    /// What the key `n` does, where that is more than to go back.
    pub no: Option<Question>,
    /// The word that must be typed for yes; `None` = the key `y`.
    pub word: Option<String>,
    /// What has been typed.
    pub typed: InputLine,
}

/// A list to choose from by typing.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    /// What has been typed.
    pub line: InputLine,
    /// The current row.
    pub at: usize,
}

/// What lies over the panes; see the module.
#[derive(Debug)]
pub enum Overlay {
    /// The help: every key.
    Help(Chooser),
    /// The tour: what a person does here all day, on one page.
    Tour,
    /// The palette: every action by name.
    Palette(Chooser),
    /// The themes; the one that was on before comes back on Esc.
    Themes {
        /// The names of the themes.
        names: Vec<String>,
        /// The current row.
        at: usize,
        /// The theme that was on before.
        before: Box<Theme>,
    },
    /// The runs of this folder.
    History {
        /// The runs, the newest first.
        rows: Vec<PastRunRow>,
        /// The current row.
        at: usize,
    },
    /// The errors of the run.
    Errors {
        /// The errors, those of one case together.
        rows: Vec<ErrorRow>,
        /// The current row.
        at: usize,
    },
    /// What is different from the last time that a case passed.
    Comparison {
        /// The case.
        title: String,
        /// The comparison.
        lines: Vec<DiffLine>,
        /// The first line that is seen.
        top: usize,
    },
    /// What preflight found, with what to do about each; the current row.
    Remedies(usize),
    /// Everything about a guest.
    Details(GuestId),
    /// The question before something is destroyed.
    Confirm(Confirm),
    /// The choice when leaving while a run is in progress.
    Quit,
    /// The welcome where there is no config.
    Welcome(String),
    /// A message to read.
    Message {
        /// The title.
        title: String,
        /// The text.
        text: String,
    },
}

/// Returns the actions that match what was typed, best first.
pub fn matching(line: &InputLine) -> Vec<&'static ActionDef> {
    let text = line.text();
    if text.trim().is_empty() {
        return ACTIONS.iter().collect();
    }
    let pattern = Pattern::parse(&text, CaseMatching::Ignore, Normalization::Smart);
    let mut matcher = Matcher::new(Config::DEFAULT);
    let mut buffer = Vec::new();
    let mut score = |row: &ActionDef| {
        let text = format!("{} {}", row.name, row.doc);
        // A hit in the name is worth more than one in its explanation.
        let name = pattern.score(nucleo_matcher::Utf32Str::new(row.name, &mut buffer), &mut matcher);
        let all = pattern.score(nucleo_matcher::Utf32Str::new(&text, &mut buffer), &mut matcher)?;
        Some(all + 2 * name.unwrap_or(0))
    };
    let mut hits: Vec<(u32, &ActionDef)> = ACTIONS.iter().filter_map(|row| Some((score(row)?, row))).collect();
    hits.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    hits.into_iter().map(|(_, row)| row).collect()
}

/// Returns the action on the current row of the help or the palette.
pub fn chosen(chooser: &Chooser) -> Option<Action> {
    matching(&chooser.line).get(chooser.at).map(|row| row.action)
}

impl Overlay {
    /// Returns whether keys are typed into what is open.
    pub fn is_typing(&self) -> bool {
        match self {
            Overlay::Help(_) | Overlay::Palette(_) => true,
            Overlay::Confirm(confirm) => confirm.word.is_some(),
            _ => false,
        }
    }
}

impl Confirm {
    /// Makes a question that asks for the key `y`.
    pub fn new(question: Question, title: impl Into<String>, lines: Vec<String>) -> Self {
        Self { question, title: title.into(), lines, no: None, word: None, typed: InputLine::default() }
    }

    /// Gives the key `n` a meaning of its own.
    #[must_use]
    pub fn or_no(self, no: Question) -> Self {
        Self { no: Some(no), ..self }
    }

    /// Makes the question ask for a word to be typed.
    #[must_use]
    pub fn typed(self, word: impl Into<String>) -> Self {
        Self { word: Some(word.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_finds_by_parts_of_the_name_and_by_the_explanation() {
        let first = |text: &str| matching(&InputLine::new(text)).first().map(|row| row.name);
        assert_eq!(first("rerun"), Some("rerun-failed"));
        assert_eq!(first("brklk"), Some("break-lock"));
        assert_eq!(first("serial"), Some("attach"));
        assert_eq!(first("zzzzqq"), None);
        assert_eq!(matching(&InputLine::default()).len(), ACTIONS.len());
    }
}
