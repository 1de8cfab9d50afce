//! Judges a case by its exit status alone, and by the output that it must have.

use crate::command::CommandExit;
use vmdeck_model::{outcome::Verdict, suite::Expect};

/// Returns the verdict on a command that ended, with the reason; `stdout_matches` says whether the wanted output came.
pub(super) fn judge(expect: &Expect, exit: &CommandExit, stdout_matches: bool) -> (Verdict, String) {
    match exit {
        CommandExit::Code(code) if Some(*code) == expect.skip => {
            (Verdict::Skipped, format!("exit {code} means skipped"))
        }
        CommandExit::Code(code) if *code != expect.exit => {
            let wanted = if expect.exit == 0 { String::new() } else { format!(", expected {}", expect.exit) };
            (Verdict::Failed, format!("exit {code}{wanted}"))
        }
        CommandExit::Code(_) if !stdout_matches => {
            let wanted = expect.stdout.as_ref().map_or("", |p| p.source());
            (Verdict::Failed, format!("no line of stdout matches `{wanted}`"))
        }
        CommandExit::Code(_) => (Verdict::Passed, String::new()),
        CommandExit::Signal(_) => (Verdict::Failed, exit.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::pattern::Pattern;

    #[test]
    fn only_the_exit_status_and_the_pattern_decide() {
        let expect = Expect { exit: 3, skip: Some(77), stdout: Pattern::parse("/ok/").ok() };
        let check = |exit: CommandExit, stdout, verdict| assert_eq!(judge(&expect, &exit, stdout).0, verdict, "{exit}");
        check(CommandExit::Code(3), true, Verdict::Passed);
        check(CommandExit::Code(3), false, Verdict::Failed);
        check(CommandExit::Code(0), true, Verdict::Failed);
        check(CommandExit::Code(77), false, Verdict::Skipped);
        check(CommandExit::Code(255), true, Verdict::Failed);
        check(CommandExit::Signal("KILL".into()), true, Verdict::Failed);
    }
}
