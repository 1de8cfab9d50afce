//! `[defaults.case]`: keys for the cases of all suites. A suite and a case may say something else; `env` and `tags` add up.

/// The table's name below `defaults`.
pub(super) const TABLE: &str = "case";

/// What a case has to say itself: what it is, and how often it is run.
const OWN: &[&str] = &[
    "name",
    "run",
    "script",
    "steps",
    "discover",
    "manual",
    "on",
    "needs",
    "matrix",
    "exclude",
    "include",
    "background",
    "ready",
];

/// What a suite has as well, with another meaning.
const NOT_OF_SUITE: &[&str] = &["artifacts"];

/// Returns whether a key of a case may stand in the table.
pub(super) fn is_known(key: &str) -> bool {
    !OWN.contains(&key)
}

/// Returns where the value for a key of a suite or of a case is found where neither says it; `has` = whether there is such a key.
///
/// A key that suites have is a suite's, so that what a suite says goes before it.
pub(super) fn path_of(pattern: &str, has: impl Fn(&str) -> bool) -> Option<String> {
    let rest = pattern.strip_prefix("suites.*.")?;
    let key = match rest.strip_prefix("cases.[].") {
        Some(key) if NOT_OF_SUITE.contains(&key) || !has(&format!("suites.*.{key}")) => key,
        None if has(&format!("suites.*.cases.[].{rest}")) && !NOT_OF_SUITE.contains(&rest) => rest,
        _ => return None,
    };
    is_known(key).then(|| format!("defaults.{TABLE}.{key}"))
}
