//! The keys of suites and their cases.
//!
//! A default here is the only place where it is written down.

use vmdeck_model::{
    key::{Key, Kind},
    suite::{CoverageKind, FlakyPolicy, RebootPolicy, RunAs},
};

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

/// Every key below `suites`.
pub(super) const SUITES: &[Key] = &[
    key(
        "suites.*.guests",
        Kind::Texts,
        Some("[\"*\"]"),
        "names or globs of the guests that the suite runs on, each by itself; with `!` before it, one takes away: [\"*\", \"!win*\"]",
    ),
    key(
        "suites.*.matrix",
        Kind::Axes,
        None,
        "axes with their values: { go = [\"1.24\", \"1.25\"], db = [\"pg\", \"my\"] }; each case is run once for each combination, which its \
         commands see as VMDECK_MATRIX_GO, and texts as {{go}}",
    ),
    key(
        "suites.*.exclude",
        Kind::Rows,
        None,
        "combinations that are left out: [{ go = \"1.24\", db = \"my\" }]; some of the axes are enough",
    ),
    key(
        "suites.*.include",
        Kind::Rows,
        None,
        "combinations besides those of the axes: [{ go = \"1.26\", db = \"pg\", tip = \"yes\" }]; a further key is empty in all others",
    ),
    key(
        "suites.*.when",
        Kind::Text,
        None,
        "where its cases are run: \"os == 'linux' and matrix.db in ['pg', 'my']\"; of os, guest, backend, arch, role, tags, matrix.AXIS and \
         env.NAME (vmdeck's own); ==, !=, in, not in, ~ (glob), and, or, not",
    ),
    key("suites.*.tags", Kind::Texts, Some("[]"), "words by which --tag selects its cases"),
    key(
        "suites.*.roles",
        Kind::Map,
        None,
        "instead of `guests`: the guests that the suite needs together, by the part that each has: { server = \"deb\", client = \"deb\" }; \
         each role is a machine of its own, called SUITE.ROLE; its commands see VMDECK_ROLE and VMDECK_SERVER_ADDR",
    ),
    key(
        "suites.*.network",
        Kind::Choice(&["auto", "private", "none"]),
        Some("\"auto\""),
        "how the machines of the roles reach each other: private = one more interface in a network that only they are in, where the \
         roles are host names (QEMU); none = by the addresses that they have anyway; auto = private where all of them can",
    ),
    key(
        "suites.*.requires.[].cmd",
        Kind::Text,
        None,
        "command that succeeds where something is there that the suite needs, such as \"go version\"; required",
    ),
    key("suites.*.requires.[].at_least", Kind::Text, None, "least version: the first numbers that the command writes"),
    key(
        "suites.*.requires.[].install",
        Kind::Map,
        None,
        "what installs it, by system: { linux = \"..\", windows = \"..\", macos = \"..\" }; unset: its lack is an error",
    ),
    key(
        "suites.*.setup",
        Kind::Text,
        None,
        "command before the first case; if it fails, no case is run, and the suite is reported as `setup failed`",
    ),
    key(
        "suites.*.setup_inputs",
        Kind::Texts,
        None,
        "globs of files of the source on which the setup depends: in a machine that is used again (--reuse) it is run again only if one of \
         them, or the setup, has changed; [] = never; unset: always",
    ),
    key(
        "suites.*.setup_timeout",
        Kind::Duration,
        Some("\"30m\""),
        "for the setup, and for each before_each, after_each and on_failure",
    ),
    key(
        "suites.*.before_each",
        Kind::Text,
        None,
        "command before each attempt at a case; if it fails, the case has failed, and is not run",
    ),
    key(
        "suites.*.after_each",
        Kind::Text,
        None,
        "command after each attempt at a case, also where it failed, took too long or was cancelled; if it fails, a case that passed has \
         failed, and the next one gets a new machine",
    ),
    key(
        "suites.*.on_failure",
        Kind::Text,
        None,
        "command after each attempt that failed, before after_each: what it writes is in the record (+on_failure), and changes no verdict",
    ),
    key("suites.*.teardown", Kind::Text, None, "command after the last case; if it fails, a warning"),
    key("suites.*.teardown_timeout", Kind::Duration, Some("\"30m\""), "for the teardown"),
    key("suites.*.shell", Kind::Shell, None, "for this suite; default: the guest's"),
    key("suites.*.env", Kind::Map, Some("{}"), "environment of every command"),
    key(
        "suites.*.dir",
        Kind::Text,
        None,
        "working directory; default: where the source was put, else the login directory",
    ),
    key(
        "suites.*.run_as",
        Kind::Choice(RunAs::WORDS),
        Some("\"user\""),
        "who runs the commands; root by sudo; in Windows both other words want the rights of an administrator",
    ),
    key(
        "suites.*.artifacts",
        Kind::Texts,
        Some("[]"),
        "globs of files to fetch after the last case: *, ?, [..], {a,b}, **",
    ),
    key(
        "suites.*.artifacts_required",
        Kind::Bool,
        Some("false"),
        "whether an artifact that does not come makes the suite fail",
    ),
    key(
        "suites.*.artifacts_timeout",
        Kind::Duration,
        Some("\"30m\""),
        "for fetching the artifacts; what came until then is kept",
    ),
    key(
        "suites.*.artifacts_size",
        Kind::Size,
        Some("\"2GiB\""),
        "how much is fetched at most; the files that came before that are kept",
    ),
    key(
        "suites.*.trouble_ignore",
        Kind::Texts,
        Some("[]"),
        "kinds or categories of trouble that the console may show during the suite, besides the guest's own",
    ),
    key("suites.*.timeout", Kind::Duration, None, "for each case; default: the guest's case_timeout"),
    key(
        "suites.*.flaky",
        Kind::Choice(FlakyPolicy::WORDS),
        Some("\"report\""),
        "what a case is that failed and passed when it was tried again: report = flaky, which is not red; fail = failed; quarantine = only what \
         vmdeck.quarantine.toml lists is tried again, and then is flaky",
    ),
    key("suites.*.retries", Kind::Int(0, 20), Some("0"), "how often a failed case is tried again"),
    key(
        "suites.*.rerun",
        Kind::Text,
        None,
        "command that runs only those of a case's own tests that failed, for `retries`, --rerun-failed and R in the cockpit; unset: the whole \
         case. One of pytest, cargo, nextest, go, ctest, bats, meson, prove, or a command with {names} (each quoted), {titles} (without what \
         they are part of), {ids} (pytest's), {regex}, {filter} (GoogleTest's), {files}, {nextest} or {go}",
    ),
    key(
        "suites.*.results",
        Kind::Texts,
        Some("[]"),
        "where the results are of the tests that a case runs itself; each becomes a sub-test with a verdict of its own. A word is the \
         format of standard output: auto, tap, ktap, junit, gotest, libtest, libtest-json, nextest, pytest, ctest, meson, automake, gtest, \
         catch2, jest, prove, subunit, trx, nunit (also bats, kselftest, vitest); anything with `/`, `*` or `.` is a glob of files in the \
         guest, whose content tells the format",
    ),
    key(
        "suites.*.allow_empty",
        Kind::Bool,
        Some("false"),
        "whether it is well that no test was run; otherwise a case whose results hold no test has failed",
    ),
    key("suites.*.cases.[].name", Kind::Text, None, "name; required"),
    key(
        "suites.*.cases.[].on",
        Kind::Texts,
        None,
        "in a suite with roles: where it is run; several roles run it at once; required there",
    ),
    key("suites.*.cases.[].run", Kind::Text, None, "text for the shell; several lines stop at the first that fails"),
    key("suites.*.cases.[].shell", Kind::Shell, None, "for this case; default: the suite's"),
    key(
        "suites.*.cases.[].steps",
        Kind::Steps,
        None,
        "in place of `run`: several commands, each with a log of its own, and restarts of the guest between them: [{ run = \"./install\" }, \
         { reboot = true }, { run = \"./check\" }]; the first that fails ends the case",
    ),
    key(
        "suites.*.cases.[].discover",
        Kind::Discover,
        None,
        "in place of `run`: each of the tests that are found in the guest, after the setup, is a case NAME/TEST of its own: pytest, go, cargo, \
         nextest, ctest, bats, kselftest, autopkgtest, or { glob = \"tests/*.sh\", run = \"sh {path}\" }, or { command = \"./list\", run = \
         \"./run {name}\" }; if none is found, it has failed",
    ),
    key(
        "suites.*.cases.[].manual",
        Kind::Text,
        None,
        "in place of `run`: a question that a person answers in the cockpit, such as \"Does the screen show the logo?\"; yes = passed. Without a \
         cockpit (--ci) it is skipped; `timeout` is how long it waits, unset: an hour",
    ),
    key("suites.*.cases.[].script", Kind::Path, None, "file of this host that is sent and run"),
    key(
        "suites.*.coverage",
        Kind::Choice(CoverageKind::WORDS),
        Some("\"off\""),
        "gcov: which lines were run of programs that were built with --coverage; coverage.info in the record, for lcov",
    ),
    key("suites.*.cases.[].timeout", Kind::Duration, None, "for this case"),
    key("suites.*.cases.[].flaky", Kind::Choice(FlakyPolicy::WORDS), None, "for this case"),
    key("suites.*.cases.[].retries", Kind::Int(0, 20), None, "for this case"),
    key("suites.*.cases.[].trouble_ignore", Kind::Texts, None, "the same for this case, besides the suite's"),
    key(
        "suites.*.cases.[].reboot",
        Kind::Choice(RebootPolicy::WORDS),
        Some("\"forbidden\""),
        "what a restart of the guest during it says: forbidden = it crashed; allowed = the case begins again in the guest that has come up, with VMDECK_REBOOT_COUNT; expected = the same, and without one it has failed",
    ),
    key("suites.*.cases.[].rerun", Kind::Text, None, "for this case"),
    key("suites.*.cases.[].results", Kind::Texts, None, "for this case, in place of the suite's"),
    key("suites.*.cases.[].allow_empty", Kind::Bool, None, "for this case"),
    key(
        "suites.*.cases.[].needs",
        Kind::Texts,
        Some("[]"),
        "names of cases of the suite, all before it: where one of them did not pass, it is skipped; they are selected with it",
    ),
    key("suites.*.cases.[].before_each", Kind::Text, None, "for this case, in place of the suite's"),
    key("suites.*.cases.[].after_each", Kind::Text, None, "for this case, in place of the suite's"),
    key("suites.*.cases.[].on_failure", Kind::Text, None, "for this case, in place of the suite's"),
    key("suites.*.cases.[].matrix", Kind::Axes, None, "for this case, in place of the suite's; {} = none"),
    key("suites.*.cases.[].exclude", Kind::Rows, None, "for this case"),
    key("suites.*.cases.[].include", Kind::Rows, None, "for this case"),
    key("suites.*.cases.[].when", Kind::Text, None, "where it is run, in place of the suite's"),
    key(
        "suites.*.cases.[].explicit",
        Kind::Bool,
        Some("false"),
        "whether it is run only where it is asked for: by a SELECT word that names it, or by --tag with one of its tags",
    ),
    key(
        "suites.*.cases.[].fresh",
        Kind::Bool,
        Some("false"),
        "whether it gets a new machine, in which nothing has been run but the suite's setup",
    ),
    key(
        "suites.*.cases.[].background",
        Kind::Choice(&["until-end"]),
        None,
        "until-end = it goes on beside the cases behind it, to the end of the suite; that it ends before fails it, and those are skipped",
    ),
    key(
        "suites.*.cases.[].ready",
        Kind::Ready,
        None,
        "when the case behind one that goes on begins: a line of its output, \"/listening on/\", or a port in its guest, { port = 8080 }; `timeout` is \
         how long that may take; unset: at once",
    ),
    key(
        "suites.*.cases.[].exclusive",
        Kind::Bool,
        Some("false"),
        "whether no other case of the run is run meanwhile, in no guest: for what measures, or needs the host's attention",
    ),
    key(
        "suites.*.cases.[].artifacts",
        Kind::Texts,
        Some("[]"),
        "globs of files to fetch after each attempt at it, relative to its working directory; also where it failed",
    ),
    key("suites.*.cases.[].tags", Kind::Texts, Some("[]"), "words by which --tag selects it, besides the suite's"),
    key("suites.*.cases.[].env", Kind::Map, Some("{}"), "environment, besides the suite's"),
    key("suites.*.cases.[].dir", Kind::Text, None, "working directory; a relative one is below the suite's"),
    key("suites.*.cases.[].run_as", Kind::Choice(RunAs::WORDS), None, "who runs it; default: as the suite says"),
    key("suites.*.cases.[].skip", Kind::Text, None, "why it is not run"),
    key(
        "suites.*.cases.[].expect",
        Kind::Expect,
        Some("{ exit = 0 }"),
        "what makes it pass: exit; stdout and stderr = \"/regex/\" that a line has to match, or several, or \"\" = nothing is written; \
         not_stdout and not_stderr that none may match; files that are there then; skip = exit code that means skipped",
    ),
];
