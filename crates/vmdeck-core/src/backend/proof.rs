//! What became of something that was to be gone: three answers, since "not proven" is not "gone".

use std::fmt;
use vmdeck_model::error::{Fault, Result};

/// What is known about a machine that was to be destroyed or put back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Proof {
    /// The machine is gone, proven in this way.
    Gone(String),
    /// The machine is somebody else's and is as it was found, proven in this way.
    PutBack(String),
    /// Nothing can be said now: the machine may still be there, and must be tried again.
    Unknown(Fault),
}

impl Proof {
    /// Returns the proof of a destruction: an error proves nothing.
    pub fn gone(result: Result<String>) -> Self {
        result.map_or_else(Proof::Unknown, Proof::Gone)
    }

    /// Returns the proof of a machine that was put back: an error proves nothing.
    pub fn put_back(result: Result<String>) -> Self {
        result.map_or_else(Proof::Unknown, Proof::PutBack)
    }

    /// Returns how it was proven, or why nothing can be said.
    pub fn into_result(self) -> Result<String> {
        match self {
            Proof::Gone(how) | Proof::PutBack(how) => Ok(how),
            Proof::Unknown(fault) => Err(fault),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Gone(how) | Proof::PutBack(how) => f.write_str(how),
            Proof::Unknown(fault) => write!(f, "not proven: {fault}"),
        }
    }
}
