//! A script around the cases of a suite that failed, and what that says about them.

use super::command_log::RecordedOutput;
use vmdeck_model::outcome::Verdict;

/// A setup or teardown that failed.
pub(super) struct ScriptFailure {
    /// What it says about the cases: failed where the author's own command did, infra where the guest was lost.
    pub(super) verdict: Verdict,
    /// The reason as a sentence.
    pub(super) reason: String,
    /// What it wrote.
    pub(super) output: RecordedOutput,
}
