//! Judges a case by its exit status, by the output that it must have, and by the results of the tests that it ran itself.

use super::command_log::RecordedOutput;
use crate::command::CommandExit;
use vmdeck_model::{
    outcome::Verdict,
    suite::{Case, Expect, ResultSources},
};
use vmdeck_results::{Judgement, ResultSummary};

/// Returns the verdict on a command that ended, with the reason.
pub(super) fn judge(expect: &Expect, exit: &CommandExit, output: &RecordedOutput) -> (Verdict, String) {
    let (verdict, reason) = by_command(expect, exit, output);
    match &output.lost {
        // What nobody can read later proves nothing.
        Some(why) if !verdict.is_failure() => (Verdict::Infra, why.clone()),
        _ => (verdict, reason),
    }
}

/// What a command that ended was worth, with the results of its own tests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    pub(super) reason: String,
    /// Whether nothing but tests that failed speaks against it.
    pub(super) by_subtests: bool,
}

/// Returns the verdict once the results of the case's own tests are known. The command's own verdict comes first.
pub(super) fn judge_with_results(
    (verdict, reason): (Verdict, String),
    case: &Case,
    exit: &CommandExit,
    results: Option<&ResultSummary>,
) -> Judged {
    let judged = |(verdict, reason)| Judged { verdict, reason, by_subtests: false };
    let is_optional = case.results.files.is_empty() && case.results.streams.iter().any(|w| w == ResultSources::AUTO);
    let Some(results) = results.filter(|results| results.is_recognized || !is_optional) else {
        return judged((verdict, reason));
    };
    if verdict == Verdict::Infra {
        return judged((verdict, reason));
    }
    let as_expected = exit.code() == Some(case.expect.exit) || verdict == Verdict::Skipped;
    let by_results = vmdeck_results::judge(results, &exit.to_string(), as_expected, case.results.allow_empty);
    let outputs_are_well = verdict != Verdict::Failed || !as_expected;
    let by_subtests = outputs_are_well && results.tally.failures() > 0 && results.incomplete.is_empty();
    let (verdict, reason) = match (by_results, verdict) {
        // A status that means "skipped" is the command's own word, unless something failed.
        (Judgement::Failed(_), Verdict::Skipped) if results.tally.total() == 0 => (verdict, reason),
        (Judgement::Failed(why), Verdict::Failed) if as_expected => (Verdict::Failed, format!("{reason}; {why}")),
        (Judgement::Failed(why), _) => (Verdict::Failed, why),
        (Judgement::Skipped, Verdict::Passed) => (Verdict::Skipped, "every test was skipped".to_owned()),
        (Judgement::Passed | Judgement::Skipped, _) => (verdict, reason),
    };
    Judged { verdict, reason, by_subtests: by_subtests && verdict == Verdict::Failed }
}

/// Returns the reason why a command did not end by itself, with what its tests had come to.
pub(super) fn with_running(reason: String, results: Option<&ResultSummary>) -> String {
    let Some(results) = results.filter(|results| results.tally.total() > 0) else { return reason };
    match &results.unfinished[..] {
        [] => format!("{reason} (tests: {})", results.tally),
        names => format!("{reason}, in {} (tests: {})", names.join(", "), results.tally),
    }
}

fn by_command(expect: &Expect, exit: &CommandExit, output: &RecordedOutput) -> (Verdict, String) {
    match exit {
        CommandExit::Code(code) if Some(*code) == expect.skip => {
            (Verdict::Skipped, format!("exit {code} means skipped"))
        }
        CommandExit::Code(code) if *code != expect.exit => {
            let wanted = if expect.exit == 0 { String::new() } else { format!(", expected {}", expect.exit) };
            (Verdict::Failed, format!("exit {code}{wanted}"))
        }
        CommandExit::Code(_) => match &output.unmet {
            Some(why) => (Verdict::Failed, why.clone()),
            None => (Verdict::Passed, String::new()),
        },
        CommandExit::Signal(_) => (Verdict::Failed, exit.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exit_status_and_the_output_decide() {
        let expect = Expect { exit: 3, skip: Some(77), ..Expect::default() };
        let output = |unmet: Option<&str>, lost: Option<&str>| RecordedOutput {
            unmet: unmet.map(str::to_owned),
            lost: lost.map(str::to_owned),
            ..RecordedOutput::default()
        };
        let unmet = Some("no line of stdout matches `/ok/`");
        let rows = [
            (CommandExit::Code(3), output(None, None), Verdict::Passed, ""),
            (CommandExit::Code(3), output(unmet, None), Verdict::Failed, "no line of stdout matches `/ok/`"),
            (CommandExit::Code(0), output(None, None), Verdict::Failed, "exit 0, expected 3"),
            (CommandExit::Code(77), output(unmet, None), Verdict::Skipped, "exit 77 means skipped"),
            (CommandExit::Code(255), output(None, None), Verdict::Failed, "exit 255, expected 3"),
            (CommandExit::Signal("KILL".into()), output(None, None), Verdict::Failed, "killed by SIGKILL"),
            (CommandExit::Code(3), output(None, Some("full")), Verdict::Infra, "full"),
            (CommandExit::Code(77), output(None, Some("full")), Verdict::Infra, "full"),
            (CommandExit::Code(4), output(None, Some("full")), Verdict::Failed, "exit 4, expected 3"),
        ];
        for (exit, output, verdict, reason) in rows {
            assert_eq!(judge(&expect, &exit, &output), (verdict, reason.to_owned()), "{exit}");
        }
    }
}
