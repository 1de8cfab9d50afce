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

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
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
                Self::new(&text)
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
    GuestId
);
name_type!(
    /// A suite's name in the config.
    SuiteId
);
name_type!(
    /// The part that a guest has in a suite with several: `server`, `client`.
    RoleId
);
name_type!(
    /// A case's name within its suite.
    CaseId
);

impl GuestId {
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

    proptest! {
        #[test]
        fn machine_names_are_safe_and_never_match_the_old_scripts_pattern(run: u64, random: u32) {
            let name = machine_name(&RunId::from_bits(run), random);
            prop_assert!(GuestId::new(&name).is_ok());
            prop_assert!(!name.starts_with("test-") && !name.starts_with("redoubt-"));
            prop_assert!(is_machine_name(&name));
        }
    }
}
