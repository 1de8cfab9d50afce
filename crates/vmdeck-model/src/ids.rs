//! Names and ids as types: a name that exists is safe in a path, an argv and a host name.
//!
//! Quoting is not done here: these names need none, which is the point.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The longest name of a guest, suite or case, in bytes.
pub const NAME_MAX: usize = 64;

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: use 1 to 64 of a-z A-Z 0-9 . _ - and begin with a letter or digit")]
pub struct BadName {
    /// The text as it was given.
    pub text: String,
}

fn checked(text: &str) -> Result<Arc<str>, BadName> {
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good { Ok(text.into()) } else { Err(BadName { text: text.to_owned() }) }
}

/// Checks the name of a guest in a record: in one that was merged, `GUEST@ORIGIN` is the machine that the run `ORIGIN` had for `GUEST`.
fn checked_in_record(text: &str) -> Result<Arc<str>, BadName> {
    match text.split_once('@') {
        Some((guest, origin)) if checked(guest).is_ok() && checked(origin).is_ok() => Ok(text.into()),
        _ => checked(text),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $read:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text`; see [`BadName`] for the rule.
            pub fn new(text: &str) -> Result<Self, BadName> {
                checked(text).map(Self)
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                $read(&text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }
    };
}

name_type!(
    /// A guest's name in the config.
    GuestId,
    checked_in_record
);
name_type!(
    /// A suite's name in the config.
    SuiteId,
    checked
);
name_type!(
    /// The part that a guest has in a suite with several: `server`, `client`.
    RoleId,
    checked
);
/// The longest id of a case, in bytes: it is the name of a folder as well.
pub const CASE_MAX: usize = 200;

/// A case within its suite: `NAME`, of one of several `NAME:axis=value,axis=value`, and of one that was found `NAME/found`.
///
/// Values hold only what a selection and a folder can take: [`CaseId::variant`] makes them so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaseId(Arc<str>);

impl CaseId {
    /// Checks the name of a case, as a config gives it; see [`BadName`] for the rule.
    pub fn new(text: &str) -> Result<Self, BadName> {
        checked(text).map(Self)
    }

    /// Returns the case of this one with these values of its axes; the error holds an id that would be too long.
    pub fn variant(&self, values: &[(String, String)]) -> Result<Self, BadName> {
        let values: Vec<String> = values.iter().map(|(axis, value)| format!("{axis}={}", plain_value(value))).collect();
        Self::try_from(format!("{self}:{}", values.join(",")))
    }

    /// Returns the case that was found for this one under a name that may be any text. `::` is `/`; what an id cannot hold is `_`, and then
    /// a mark tells the name apart from others.
    #[must_use]
    pub fn found(&self, name: &str) -> Self {
        let is_kept = |c: char| is_plain(c) || c == '/';
        let name = &name.replace("::", "/");
        let mut plain: String = name.chars().map(|c| if is_kept(c) { c } else { '_' }).collect();
        let room = CASE_MAX.saturating_sub(self.0.len() + 2 + MARK);
        plain.truncate(room);
        let parts: Vec<&str> =
            plain.split('/').map(|part| part.trim_start_matches('.')).filter(|p| !p.is_empty()).collect();
        let mut found = parts.join("/");
        if found != *name || found.is_empty() {
            let mark = short_hash(name);
            found = if found.is_empty() { mark } else { format!("{found}-{mark}") };
        }
        let (path, values) = self.0.split_once(':').map_or((&*self.0, None), |(path, values)| (path, Some(values)));
        let values = values.map(|values| format!(":{values}")).unwrap_or_default();
        Self(format!("{path}/{found}{values}").into())
    }

    /// Returns the case for which this one was found, if it was found for one.
    pub fn parent(&self) -> Option<Self> {
        let name = self.name();
        let values = self.0.split_once(':').map_or(String::new(), |(_, values)| format!(":{values}"));
        (self.path() != name).then(|| Self(format!("{name}{values}").into()))
    }

    /// Returns the id as text: a SELECT word names the case by it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the case in the config.
    pub fn name(&self) -> &str {
        self.0.split(['/', ':']).next().unwrap_or_default()
    }

    /// Returns the id without the values of its axes.
    pub fn path(&self) -> &str {
        self.0.split_once(':').map_or(&*self.0, |(path, _)| path)
    }

    /// Returns each axis with its value, in the order in which they were written.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        let values = self.0.split_once(':').map_or("", |(_, values)| values);
        values.split(',').filter_map(|value| value.split_once('='))
    }

    /// Returns the id as people are shown it: `upgrade (go 1.24, db pg)`.
    pub fn shown(&self) -> String {
        let values: Vec<String> = self.values().map(|(axis, value)| format!("{axis} {value}")).collect();
        if values.is_empty() { self.0.to_string() } else { format!("{} ({})", self.path(), values.join(", ")) }
    }

    /// Returns the name of the case's folder in a record. The services that keep records refuse a `:` in it.
    pub fn folder(&self) -> String {
        self.0.replace(['/', ':'], ",")
    }

    /// Returns the case whose folder has this name.
    pub fn of_folder(name: &str) -> Option<Self> {
        let (values, path): (Vec<&str>, Vec<&str>) = name.split(',').partition(|part| part.contains('='));
        let id = if values.is_empty() { path.join("/") } else { format!("{}:{}", path.join("/"), values.join(",")) };
        Self::try_from(id).ok().filter(|id| id.folder() == name)
    }
}

/// How many characters tell names apart that an id cannot hold, with the `-` before them.
const MARK: usize = 9;

/// Returns a few characters that differ for names that differ.
fn short_hash(text: &str) -> String {
    // FNV-1a: the same in each build, for ids are remembered.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:08x}", (hash ^ (hash >> 32)) & 0xffff_ffff)
}

/// Returns a value of an axis as an id holds it: with `_` for what neither a selection nor a folder can take.
pub fn plain_value(value: &str) -> String {
    value.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// Returns whether a character stands for itself in a selection, a folder and a shell.
pub fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._+-".contains(c)
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CaseId {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        let is_good = |text: &str| {
            let (path, values) = text.split_once(':').map_or((text, None), |(path, values)| (path, Some(values)));
            let (name, found) = path.split_once('/').map_or((path, None), |(name, found)| (name, Some(found)));
            let is_value = |value: &str| {
                value
                    .split_once('=')
                    .is_some_and(|(axis, value)| !axis.is_empty() && (axis.chars().chain(value.chars())).all(is_plain))
            };
            let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain);
            text.len() <= CASE_MAX
                && checked(name).is_ok()
                && found.is_none_or(|found| found.split('/').all(is_part))
                && values.is_none_or(|values| values.split(',').all(is_value))
        };
        if is_good(&text) { Ok(Self(text.into())) } else { Err(BadName { text }) }
    }
}

impl From<CaseId> for String {
    fn from(id: CaseId) -> String {
        id.0.to_string()
    }
}

impl GuestId {
    /// Returns the name that the machine of this guest has in a merged record, where several runs had one for it: `GUEST@ORIGIN`. The
    /// error says that it is too long.
    pub fn of_origin(&self, origin: &str) -> Result<Self, BadName> {
        let (guest, inner) = self.0.split_once('@').map_or((&*self.0, None), |(guest, inner)| (guest, Some(inner)));
        let origin = origin.replace('/', ".");
        let inner = inner.map(|inner| format!(".{inner}")).unwrap_or_default();
        checked_in_record(&format!("{guest}@{origin}{inner}")).map(Self)
    }

    /// Returns the name in a run of the guest that fills a role of a suite: `SUITE.ROLE`; the error says that it is too long.
    pub fn of_role(suite: &str, role: &RoleId) -> Result<Self, BadName> {
        Self::new(&format!("{suite}.{role}"))
    }
}

impl RoleId {
    /// Returns the role as a part of a variable's name: in capitals, with `_` for what such a name cannot have.
    pub fn as_variable(&self) -> String {
        self.0.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    }
}

/// One run of vmdeck: 64 random bits as 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(Arc<str>);

impl RunId {
    /// Makes an id of these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}").into())
    }

    /// Returns all 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first eight digits, which the names of machines and run folders hold.
    pub fn short(&self) -> &str {
        short_run(&self.0)
    }
}

/// Returns the first eight digits of a run's id, by which people are told of it; all of a shorter word.
pub fn short_run(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a name is one that [`machine_name`] makes.
pub fn is_machine_name(name: &str) -> bool {
    let hex = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts = name.strip_prefix("vmdeck-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(run, random)| hex(run) && hex(random))
}

/// Returns the name a created machine gets: `vmdeck-<run8>-<rand8>`.
///
/// It never begins with `test-` or `redoubt-`: the old scripts' preflight deletes those.
pub fn machine_name(run: &RunId, random: u32) -> String {
    format!("vmdeck-{}-{random:08x}", run.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_would_be_options_or_paths_are_refused() {
        for bad in ["", "-x", ".hidden", "a/b", "a b", "..", "a\n", "ü", &"x".repeat(65)] {
            assert!(GuestId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "ci-debian", "x.y_z-1", &"x".repeat(64)] {
            assert!(GuestId::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ids_of_cases_hold_what_was_found_and_the_values_of_axes() {
        let id = |text: &str| CaseId::try_from(text.to_owned());
        let whole = id("unit/net/ping.sh:go=1.24,db=").expect("good");
        assert_eq!((whole.name(), whole.path()), ("unit", "unit/net/ping.sh"));
        assert_eq!(whole.values().collect::<Vec<_>>(), [("go", "1.24"), ("db", "")]);
        assert_eq!(whole.folder(), "unit,net,ping.sh,go=1.24,db=");
        for text in ["a", "a/b", "a:b=1", "unit/net/ping.sh:go=1.24,db="] {
            let id = id(text).expect("good");
            assert_eq!(CaseId::of_folder(&id.folder()), Some(id));
        }
        assert_eq!(CaseId::of_folder("+setup"), None);
        let values = [("go".to_owned(), "1.24".to_owned()), ("db".to_owned(), "a b/é".to_owned())];
        let variant = CaseId::new("up").expect("name").variant(&values).expect("short");
        assert_eq!((variant.as_str(), variant.shown().as_str()), ("up:go=1.24,db=a_b__", "up (go 1.24, db a_b__)"));
        assert_eq!(CaseId::new("up").expect("name").shown(), "up");
        for bad in ["a:", "a:b", "a:=1", "a:b=1,", "a:b=1 2", "a/", "a//b", "a/../b", "a/.b", "/a", "-a/b", "a:b=@"] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert!(id(&format!("a:b={}", "x".repeat(CASE_MAX))).is_err() && CaseId::new("a:b=1").is_err());
    }

    #[test]
    fn what_was_found_has_an_id_whatever_it_is_called() {
        let unit = CaseId::new("unit").expect("name");
        assert_eq!(unit.found("net/ping.sh").as_str(), "unit/net/ping.sh");
        let other = unit.variant(&[("go".to_owned(), "1".to_owned())]).expect("short").found("a");
        assert_eq!((other.as_str(), other.parent().expect("found").as_str()), ("unit/a:go=1", "unit:go=1"));
        assert_eq!(unit.parent(), None);
        assert_eq!(unit.found("net::tcp::opens").as_str(), "unit/net/tcp/opens");
        let marked = unit.found("test_a.py::test_x[1]");
        assert!(marked.as_str().starts_with("unit/test_a.py/test_x_1_-"), "{marked}");
        assert_ne!(marked, unit.found("test_a.py::test_x[1)"));
    }

    proptest! {
        #[test]
        fn found_ids_are_good_and_differ(name in "\\PC{0,300}", other in "[a-c/. ]{0,6}", third in "[a-c/. ]{0,6}") {
            let unit = CaseId::new("unit").expect("name");
            for name in [&name, &other, &third] {
                let id = unit.found(name);
                prop_assert!(CaseId::try_from(id.to_string()).is_ok(), "{id}");
                prop_assert_eq!(CaseId::of_folder(&id.folder()), Some(id));
            }
            prop_assert!(other == third || unit.found(&other) != unit.found(&third), "{} {}", other, third);
        }

        #[test]
        fn machine_names_are_safe_and_never_match_the_old_scripts_pattern(run: u64, random: u32) {
            let name = machine_name(&RunId::from_bits(run), random);
            prop_assert!(GuestId::new(&name).is_ok());
            prop_assert!(!name.starts_with("test-") && !name.starts_with("redoubt-"));
            prop_assert!(is_machine_name(&name));
        }
    }
}
