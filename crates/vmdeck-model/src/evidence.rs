//! Which line of a failed command's output tells best why it failed.
//!
//! It decides no verdict: a person reads it first, and the rest of the output after it.

use regex::{Regex, RegexSet};
use std::sync::LazyLock;

/// The expression for a line that reports an error.
pub const ERRORS: &str = r"(?i)\b(error|errors|fail|failed|failure|fatal|panic|panicked|oops|segfault|traceback|exception)\b|\bnot ok\b|AssertionError|Kernel panic|Call Trace|\w(Error|Exception)\b";
/// The expression for a line that reports a warning.
pub const WARNINGS: &str = r"(?i)\bwarn(ing)?s?\b|\bdeprecated\b";

/// What a line may be, the most telling first: an assertion or a thrown error, a named failure, a shell's own complaint.
const TELLING: [&str; 3] = [
    r"(?i)\bassert(ion)?\b.*\b(fail|failed)\b|\bassert\w*\(|\bassert\w* .*(==|!=|<|>| in | is )|^E\s{2,}\S|\bpanicked at\b|\bexpected\b.*\b(got|but|actual|found)\b|^\s*(\w+\.)*\w*(Error|Exception)\b:?|\bkernel panic\b",
    r"(?i)\b(fatal|error)\b\s*(\[\w+\])?:|\bnot ok\b|^\s*-*\s*FAIL(ED)?\b|\bsegfault\b|\bsegmentation fault\b",
    r"(?i):\s*(command not found|not found|no such file or directory|permission denied|cannot \w+|can't \w+|unable to \w+|connection refused|timed out)",
];
/// A line that only sums up, or says that there was no error.
const SUM: &str =
    r"(?i)\b(no|0|zero) (errors?|failures?|failed)\b|\b\d+ (failed|failures?|errors?|passed)\b|test result:|\bhow to\b";

static BY_WORTH: LazyLock<Option<RegexSet>> = LazyLock::new(|| RegexSet::new(TELLING).ok());
static SUMS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(SUM).ok());
static ANY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(ERRORS).ok());

/// Returns the line that tells best why a command failed: the first of the most telling kind, of standard error before standard
/// output; `None` = no line says anything of the sort.
pub fn telling_line<'a>(stdout: &'a str, stderr: &'a str) -> Option<&'a str> {
    let lines = stderr.lines().chain(stdout.lines()).map(str::trim).filter(|line| !line.is_empty());
    let ranked = lines.filter_map(|line| Some((worth(line)?, line)));
    // Of equals the first: what follows an error is often its echo.
    ranked.min_by_key(|(worth, _)| *worth).map(|(_, line)| line)
}

/// Returns how telling a line is, 0 the most; `None` = not at all.
fn worth(line: &str) -> Option<usize> {
    if SUMS.as_ref().is_some_and(|sums| sums.is_match(line)) {
        return None;
    }
    let kind = BY_WORTH.as_ref().and_then(|kinds| kinds.matches(line).iter().next());
    kind.or_else(|| ANY.as_ref().is_some_and(|any| any.is_match(line)).then_some(TELLING.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assertion_comes_before_its_echo_and_its_sum() {
        // The output of real tools, shortened.
        let rows = [
            (
                "ok 60\nnot ok 61 - adds numbers\nerror: assertion failed: expected 4, got 5\n",
                "",
                Some("error: assertion failed: expected 4, got 5"),
            ),
            ("ok 60\nnot ok 61 - adds numbers\n# 1 failed\n", "", Some("not ok 61 - adds numbers")),
            (
                "running 1 test\ntest adds ... FAILED\n",
                "thread 'adds' panicked at src/lib.rs:9:5:\nassertion `left == right` failed\n",
                Some("thread 'adds' panicked at src/lib.rs:9:5:"),
            ),
            ("test result: FAILED. 3 passed; 1 failed; 0 ignored\n", "", None),
            (
                "    def test():\n>       assert add(2, 2) == 5\nE       assert 4 == 5\n1 failed in 0.02s\n",
                "",
                Some(">       assert add(2, 2) == 5"),
            ),
            (
                "",
                "Traceback (most recent call last):\n  File \"x.py\", line 3, in <module>\nValueError: bad thing\n",
                Some("ValueError: bad thing"),
            ),
            (
                "--- FAIL: TestAdd (0.00s)\n    add_test.go:9: got 5, want 4\nFAIL\n",
                "",
                Some("--- FAIL: TestAdd (0.00s)"),
            ),
            ("", "sh: 1: frobnicate: not found\n", Some("sh: 1: frobnicate: not found")),
            ("all went well\n0 errors, no failures\n", "warning: something\n", None),
            ("", "", None),
            (
                "fatal: not a git repository\n",
                "make: *** [Makefile:3: test] Error 1\n",
                Some("fatal: not a git repository"),
            ),
            ("oops\n", "x\n", Some("oops")),
        ];
        for (stdout, stderr, want) in rows {
            assert_eq!(telling_line(stdout, stderr), want, "{stdout:?} {stderr:?}");
        }
        assert!(BY_WORTH.is_some() && SUMS.is_some() && ANY.is_some());
        assert!(Regex::new(WARNINGS).is_ok());
    }
}
