//! The tests whose failure is known and does not make a run red, for a time, with a reason that somebody else can read.
//!
//! Reading the file is the program's matter; what is never excused is decided in `engine::cases`.

use super::{
    ids::{CaseId, GuestId, SuiteId},
    select::Selector,
};
use chrono::NaiveDate;
use globset::{Glob, GlobMatcher};

/// The name of the file, beside the config.
pub const QUARANTINE_FILE: &str = "vmdeck.quarantine.toml";
/// How many days ahead an end may be at most.
pub const MOST_DAYS: i64 = 90;

/// One test of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct QuarantinedTest {
    /// The name as it was written: `suite/case`, or `suite/case > sub-test`.
    pub name: String,
    /// The cases.
    pub cases: Selector,
    /// The name or glob of the sub-test of it; unset: the case as a whole.
    pub subtest: Option<String>,
    /// Where it is explained.
    pub issue: String,
    /// The last day on which it is excused.
    pub until: NaiveDate,
    /// The line in the file, from 1.
    pub line: usize,
}

impl QuarantinedTest {
    /// Reads a name and where it holds: a guest, with values of axes behind a `:`.
    pub fn parse(name: &str, on: Option<&str>) -> Result<(Selector, Option<String>), String> {
        let (case, subtest) = name.split_once(" > ").map_or((name, None), |(case, test)| (case, Some(test.to_owned())));
        if case.contains(['@', ':']) {
            return Err(format!("`{case}`: the guest and the values of axes stand in `on`"));
        }
        if !case.contains('/') {
            return Err(format!("`{case}` is no case: write SUITE/CASE, or SUITE/CASE > SUB-TEST"));
        }
        if on.is_some_and(|on| on.trim().is_empty()) {
            return Err("`on` is empty: leave it out where the test is excused everywhere".to_owned());
        }
        let (guest, values) =
            on.unwrap_or("*").split_once(':').map_or((on.unwrap_or("*"), None), |(g, v)| (g, Some(v)));
        let values = values.map(|values| format!(":{values}")).unwrap_or_default();
        Ok((Selector::parse(&format!("{case}{values}@{guest}"))?, subtest))
    }

    fn is_about(&self, suite: &SuiteId, case: &CaseId, guest: &GuestId) -> bool {
        self.cases.matches(suite, case, &[guest])
    }
}

/// The tests that are excused in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quarantine(pub Vec<QuarantinedTest>);

impl Quarantine {
    /// Returns where the failure of a case is explained, if it is excused.
    pub fn of_case(&self, suite: &SuiteId, case: &CaseId, guest: &GuestId) -> Option<&str> {
        let mut of_case = self.0.iter().filter(|test| test.subtest.is_none());
        of_case.find(|test| test.is_about(suite, case, guest)).map(|test| test.issue.as_str())
    }

    /// Returns the names and globs of the sub-tests of a case that are excused, each with where it is explained.
    pub fn of_subtests(&self, suite: &SuiteId, case: &CaseId, guest: &GuestId) -> ExcusedSubtests {
        let about = self.0.iter().filter(|test| test.is_about(suite, case, guest));
        ExcusedSubtests(
            about.filter_map(|test| Some(ExcusedName::new(test.subtest.clone()?, test.issue.clone()))).collect(),
        )
    }
}

/// The sub-tests of a case that are excused.
#[derive(Clone, Debug, Default)]
pub struct ExcusedSubtests(Vec<ExcusedName>);

/// A name or glob of a sub-test, with where its failure is explained.
#[derive(Clone, Debug)]
struct ExcusedName {
    name: String,
    /// What it fits besides itself.
    glob: Option<GlobMatcher>,
    issue: String,
}

impl ExcusedName {
    fn new(name: String, issue: String) -> Self {
        // Names of tests have brackets and braces of their own: only `*` and `?` stand for others.
        let escape = |c: char| match c {
            '[' | '{' | '}' => format!("[{c}]"),
            '\\' => "\\\\".to_owned(),
            c => c.to_string(),
        };
        let escaped: String = name.chars().map(escape).collect();
        let glob = Glob::new(&escaped).ok().map(|glob| glob.compile_matcher());
        Self { name, glob, issue }
    }
}

impl ExcusedSubtests {
    /// Returns whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns where the failure of a sub-test is explained, if it is excused.
    pub fn issue(&self, name: &str) -> Option<&str> {
        let fits = |of: &&ExcusedName| of.name == name || of.glob.as_ref().is_some_and(|glob| glob.is_match(name));
        self.0.iter().find(fits).map(|of| of.issue.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_excused_where_its_name_and_place_say_so() {
        let entry = |name: &str, on: Option<&str>| {
            let (cases, subtest) = QuarantinedTest::parse(name, on).unwrap_or_else(|why| panic!("{why}"));
            let until = NaiveDate::from_ymd_opt(2026, 12, 31).expect("day");
            QuarantinedTest { name: name.into(), cases, subtest, issue: format!("of {name}"), until, line: 1 }
        };
        let list = Quarantine(vec![
            entry("api/up*", Some("deb*:db=pg")),
            entry("api/unit > closes [twice]", None),
            entry("api/unit > net/*", None),
        ]);
        let names = |case: &str, guest: &str| {
            let case = CaseId::try_from(case.to_owned()).expect("id");
            (SuiteId::new("api").expect("name"), case, GuestId::new(guest).expect("name"))
        };
        for (case, guest, excused) in [
            ("upgrade:go=1,db=pg", "deb12", true),
            ("upgrade:go=1,db=my", "deb12", false),
            ("upgrade:db=pg", "win", false),
            ("down:db=pg", "deb12", false),
            ("unit", "deb12", false),
        ] {
            let (suite, case, guest) = names(case, guest);
            assert_eq!(list.of_case(&suite, &case, &guest).is_some(), excused, "{case}@{guest}");
        }
        let (suite, case, guest) = names("unit", "any");
        let subtests = list.of_subtests(&suite, &case, &guest);
        assert_eq!(subtests.issue("net/opens"), Some("of api/unit > net/*"));
        assert!(subtests.issue("closes [twice]").is_some() && subtests.issue("opens").is_none());
        assert!(subtests.issue("closes t").is_none(), "a bracket is a bracket");
        for bad in ["api", "api/x@deb", "api/x:go=1 > y", "[/x"] {
            assert!(QuarantinedTest::parse(bad, None).is_err(), "{bad}");
        }
    }
}
