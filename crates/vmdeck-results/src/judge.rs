//! What the command's end and the results of its tests say together. Neither is believed alone: reports of well-known tools are green
//! where tests were killed, and well-known tools exit with 0 where no test was run.

use crate::summary::ResultSummary;

/// What a case is by its results, where its command ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing speaks against it.
    Passed,
    /// It failed, for this reason.
    Failed(String),
    /// Every test was skipped.
    Skipped,
}

/// Judges the results of a command that ended; `exit` is how it did, in words, and `as_expected` whether it should end so.
pub fn judge(summary: &ResultSummary, exit: &str, as_expected: bool, allow_empty: bool) -> Judgement {
    let (failures, total) = (summary.tally.failures(), summary.tally.total());
    let mut reasons = Vec::new();
    if failures > 0 {
        let tests = if total == 1 { "test" } else { "tests" };
        let count = format!("{failures} of {total} {tests} failed");
        reasons.push(if as_expected { format!("{exit}, but {count}") } else { format!("{exit}: {count}") });
    }
    if !summary.incomplete.is_empty() {
        reasons.push(format!("results: {}", summary.incomplete.join("; ")));
    }
    if !reasons.is_empty() {
        if failures == 0 && !as_expected {
            reasons.insert(0, exit.to_owned());
        }
        return Judgement::Failed(reasons.join("; "));
    }
    if !as_expected {
        let unexpected = match &summary.unexpected[..] {
            [] => String::new(),
            names => format!("; passed unexpectedly: {}", names.join(", ")),
        };
        if total == 0 {
            return Judgement::Failed(format!("{exit}, and no test ran"));
        }
        return Judgement::Failed(format!("{exit}, although no test failed{unexpected}"));
    }
    if total == 0 {
        return if allow_empty {
            Judgement::Passed
        } else {
            Judgement::Failed(format!("{exit}, but no test ran (`allow_empty = true` if that is well)"))
        };
    }
    if summary.tally.skipped == total { Judgement::Skipped } else { Judgement::Passed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::subtest::SubtestTally;

    #[test]
    fn neither_the_exit_nor_the_results_are_believed_alone() {
        let of = |passed, failed, skipped, xpass, incomplete: &[&str]| ResultSummary {
            tally: SubtestTally { passed, failed, skipped, xpass, ..SubtestTally::default() },
            incomplete: incomplete.iter().map(|text| (*text).to_owned()).collect(),
            unexpected: if xpass > 0 { vec!["lucky".to_owned()] } else { Vec::new() },
            ..ResultSummary::default()
        };
        let failed = |text: &str| Judgement::Failed(text.to_owned());
        let rows = [
            (of(2, 0, 0, 0, &[]), "exit 0", true, Judgement::Passed),
            (of(2, 0, 1, 0, &[]), "exit 0", true, Judgement::Passed),
            (of(1, 2, 0, 0, &[]), "exit 0", true, failed("exit 0, but 2 of 3 tests failed")),
            (of(1, 2, 0, 0, &[]), "exit 1", false, failed("exit 1: 2 of 3 tests failed")),
            (of(2, 0, 0, 0, &[]), "exit 1", false, failed("exit 1, although no test failed")),
            (
                of(2, 0, 0, 1, &[]),
                "exit 1",
                false,
                failed("exit 1, although no test failed; passed unexpectedly: lucky"),
            ),
            (of(2, 0, 0, 0, &["no plan"]), "exit 0", true, failed("results: no plan")),
            (of(2, 0, 0, 0, &["no plan"]), "exit 9", false, failed("exit 9; results: no plan")),
            (of(0, 0, 3, 0, &[]), "exit 0", true, Judgement::Skipped),
        ];
        for (summary, exit, as_expected, want) in rows {
            assert_eq!(judge(&summary, exit, as_expected, false), want, "{summary:?}");
        }
        assert!(matches!(judge(&of(0, 0, 0, 0, &[]), "exit 0", true, false), Judgement::Failed(_)));
        assert_eq!(judge(&of(0, 0, 0, 0, &[]), "exit 0", true, true), Judgement::Passed);
    }
}
