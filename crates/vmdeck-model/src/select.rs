//! `suite[/case[:axis=value,..]][@guest]` with globs: which cases run where.
//!
//! Reading the words from the command line is `cli`'s work.

use super::ids::{CaseId, GuestId, SuiteId, is_plain};
use globset::{Glob, GlobMatcher};

/// One SELECT word.
#[derive(Clone, Debug)]
pub struct Selector {
    /// The word itself.
    text: String,
    suite: GlobMatcher,
    case: GlobMatcher,
    /// What the case must be for which one below it was found; absent where the word does not look that far.
    above: Option<GlobMatcher>,
    /// What the axes of the case must be, for those that are named.
    values: Vec<(String, GlobMatcher)>,
    guest: GlobMatcher,
    /// Whether the word says more of the case than that it is any.
    names_case: bool,
}

/// Returns the SELECT word of exactly this case in this guest.
pub fn word_of_case(suite: &SuiteId, case: &CaseId, guest: &GuestId) -> String {
    format!("{suite}/{case}@{guest}")
}

/// Returns the SELECT word of a whole suite in this guest.
pub fn word_of_suite(suite: &SuiteId, guest: &GuestId) -> String {
    format!("{suite}@{guest}")
}

/// Two words that are the same select the same.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Selector {
    /// Reads `trust-store`, `*/install@windows`, `api/upgrade:go=1.24`, `@debian`; an absent part is `*`.
    pub fn parse(word: &str) -> Result<Self, String> {
        let (path, guest) = word.split_once('@').map_or((word, "*"), |(path, guest)| (path, guest));
        let (suite, case) = path.split_once('/').map_or((path, "*"), |(suite, case)| (suite, case));
        let (case, values) = case.split_once(':').map_or((case, None), |(case, values)| (case, Some(values)));
        let glob = |part: &str| {
            let part = if part.is_empty() { "*" } else { part };
            Glob::new(part).map(|g| g.compile_matcher()).map_err(|e| format!("`{word}` is not a selection: {e}"))
        };
        if word.is_empty() {
            return Err("an empty word selects nothing; leave it out to select everything".into());
        }
        if suite.contains(':') {
            return Err(format!(
                "`{word}` is not a selection: `:axis=value` stands behind a case: `{suite}/CASE:AXIS=VALUE`"
            ));
        }
        let value = |text: &str| {
            let (axis, value) = text.split_once('=').filter(|(axis, _)| !axis.is_empty()).ok_or_else(|| {
                format!("`{word}` is not a selection: `{text}` is no axis with its value, such as `go=1.24`")
            })?;
            // Unlike an absent part, an empty value is one.
            // As an id holds it; what stands for other characters stays.
            let is_kept = |c: char| is_plain(c) || "*?[]{}!^".contains(c);
            let value: String = value.chars().map(|c| if is_kept(c) { c } else { '_' }).collect();
            let value = if value.is_empty() {
                Glob::new("").map_err(|e| e.to_string())?.compile_matcher()
            } else {
                glob(&value)?
            };
            Ok((axis.to_owned(), value))
        };
        let values =
            values.iter().flat_map(|values| values.split(',')).map(value).collect::<Result<Vec<_>, String>>()?;
        let above = case.split_once('/').map(|(above, _)| glob(above)).transpose()?;
        let names_case = !case.is_empty() && case != "*";
        Ok(Self {
            text: word.to_owned(),
            suite: glob(suite)?,
            case: glob(case)?,
            above,
            values,
            guest: glob(guest)?,
            names_case,
        })
    }

    /// Returns whether the selector selects anything on this guest.
    pub fn takes(&self, guest: &GuestId) -> bool {
        self.guest.is_match(guest.as_str())
    }

    /// Returns whether the selector selects this case on a guest that goes by any of these names.
    pub fn matches(&self, suite: &SuiteId, case: &CaseId, guest: &[&GuestId]) -> bool {
        self.is_around(suite, case, guest) && (self.case.is_match(case.path()) || self.case.is_match(case.name()))
    }

    /// Returns whether the selector may select some of the cases that are found for this one, but not all.
    pub fn matches_below(&self, suite: &SuiteId, case: &CaseId, guest: &[&GuestId]) -> bool {
        let is_above = self.above.as_ref().is_some_and(|above| above.is_match(case.name()));
        is_above && self.is_around(suite, case, guest) && !self.matches(suite, case, guest)
    }

    /// Returns whether all but the name of the case is as the selector wants it.
    fn is_around(&self, suite: &SuiteId, case: &CaseId, guest: &[&GuestId]) -> bool {
        let names_it = || guest.iter().any(|name| self.guest.is_match(name.as_str()));
        let has =
            |(axis, value): &(String, GlobMatcher)| case.values().any(|(own, of)| own == axis && value.is_match(of));
        self.suite.is_match(suite.as_str()) && self.values.iter().all(has) && names_it()
    }

    /// Returns the word.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether the word has no part that stands for others.
    pub fn is_exact(&self) -> bool {
        !self.text.contains(['*', '?', '[', '{'])
    }

    /// Returns whether the selector says more of the cases that it selects than that they are all of a suite.
    pub fn names_case(&self) -> bool {
        self.names_case
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(word: &str, path: (&str, &str, &str)) -> bool {
        let names = (
            SuiteId::new(path.0).expect("name"),
            CaseId::try_from(path.1.to_owned()).expect("name"),
            GuestId::new(path.2).expect("name"),
        );
        Selector::parse(word).expect("selector").matches(&names.0, &names.1, &[&names.2])
    }

    #[test]
    fn words() {
        let it = ("trust-store", "install", "windows");
        for yes in ["trust-store", "*/install@windows", "@windows", "trust*/in*", "trust-store/install@win*", "*"] {
            assert!(selects(yes, it), "{yes}");
        }
        for no in ["trust", "*/remove", "@debian", "trust-store/inst"] {
            assert!(!selects(no, it), "{no}");
        }
        assert!(Selector::parse("").is_err() && Selector::parse("[").is_err());
    }

    #[test]
    fn a_word_names_some_or_all_axes_of_a_case() {
        let it = ("api", "up:go=1.24,db=pg", "deb");
        for yes in [
            "api/up",
            "api/up:db=pg",
            "api/u*:db=pg,go=1.24@deb",
            "api/*:go=1.*",
            "api/:go=1.24",
            "api/up:go=1.24,db=pg",
        ] {
            assert!(selects(yes, it), "{yes}");
        }
        for no in ["api/up:go=1.2", "api/up:os=x", "api/up:go=1.24,db=my", "api/up:db=", "api/up:go=1.24@win"] {
            assert!(!selects(no, it), "{no}");
        }
        assert!(!selects("api/up:go=1", ("api", "up", "deb")), "a case without axes");
        assert!(selects("api/up:v=a b", ("api", "up:v=a_b", "deb")), "a value as it was written");
        for bad in ["api:go=1", "api/up:go", "api/up:", "api/up:=1", "api/up:go=[", ":go=1"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_found_is_named_by_its_case_and_by_itself() {
        let it = ("unit", "sh/net/ping.sh", "deb");
        for yes in ["unit", "unit/sh", "unit/sh/*", "unit/sh/net/ping.sh", "unit/s*"] {
            assert!(selects(yes, it), "{yes}");
        }
        assert!(!selects("unit/ping.sh", it) && !selects("unit/sh/net", it));
        let below = |word: &str, case: &str| {
            let names = (
                SuiteId::new("unit").expect("name"),
                CaseId::new(case).expect("name"),
                GuestId::new("g").expect("name"),
            );
            Selector::parse(word).expect("selector").matches_below(&names.0, &names.1, &[&names.2])
        };
        assert!(below("unit/sh/net/*", "sh") && below("unit/s*/x@g", "sh"));
        assert!(
            !below("unit/sh", "sh") && !below("unit", "sh") && !below("unit/b/x", "sh") && !below("unit/s*/x@h", "sh")
        );
        let names = |word: &str| Selector::parse(word).expect("selector").names_case();
        assert!(
            names("unit/sh")
                && names("*/sh")
                && names("unit/s*")
                && !names("unit")
                && !names("unit/*")
                && !names("@deb")
        );
    }
}
