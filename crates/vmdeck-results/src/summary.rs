//! What is known of all sub-tests once the tool has ended.

use vmdeck_model::subtest::SubtestTally;

/// Most names of each kind that a summary holds.
pub(crate) const NAMES: usize = 5;
/// Most reasons of each kind.
const REASONS: usize = 8;

/// What a stream, a file, or all of them together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultSummary {
    /// The counts; exact, also of those that are not shown one by one.
    pub tally: SubtestTally,
    /// Whether anything was there that is a report of tests.
    pub is_recognized: bool,
    /// Why what was read is not whole; empty = it is.
    pub incomplete: Vec<String>,
    /// What is odd, and decides nothing.
    pub warnings: Vec<String>,
    /// The names of the first that passed although they should fail.
    pub unexpected: Vec<String>,
    /// The names of the first that were running when it ended.
    pub unfinished: Vec<String>,
    /// The line with which the guest's kernel ended, where the stream is a console.
    pub kernel_panic: Option<String>,
    /// How many sub-tests are counted and not shown.
    pub not_shown: u64,
}

impl ResultSummary {
    /// Adds what another stream or file says.
    pub fn merge(&mut self, other: ResultSummary) {
        self.tally.merge(&other.tally);
        self.is_recognized |= other.is_recognized;
        self.not_shown += other.not_shown;
        self.kernel_panic = self.kernel_panic.take().or(other.kernel_panic);
        for (all, more, most) in [
            (&mut self.incomplete, other.incomplete, REASONS),
            (&mut self.warnings, other.warnings, REASONS),
            (&mut self.unexpected, other.unexpected, NAMES),
            (&mut self.unfinished, other.unfinished, NAMES),
        ] {
            let room = most.saturating_sub(all.len());
            all.extend(more.into_iter().take(room));
        }
    }

    /// Says why what was read is not whole.
    pub fn lacks(&mut self, why: impl Into<String>) {
        let why = why.into();
        if self.incomplete.len() < REASONS && !self.incomplete.contains(&why) {
            self.incomplete.push(why);
        }
    }

    /// Says what is odd.
    pub(crate) fn warn(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.warnings.len() < REASONS && !self.warnings.contains(&what) {
            self.warnings.push(what);
        }
    }
}
