//! The parts of a run that is divided between several hosts: what each says of itself and of the whole.
//!
//! Which part has which cases is `division`'s matter.

use super::{
    exit::RunExit,
    ids::{CaseId, GuestId, SuiteId},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Part `index` of `count` parts of the selected cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    /// The index of the part, from 1.
    pub index: usize,
    /// The number of parts; at least `index`.
    pub count: usize,
}

impl Shard {
    /// Reads `I/N` with 1 <= I <= N.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a shard; write it like `2/5`: the second of five");
        let (index, count) = text.split_once('/').ok_or_else(bad)?;
        let shard = Self { index: index.parse().map_err(|_| bad())?, count: count.parse().map_err(|_| bad())? };
        if shard.index >= 1 && shard.index <= shard.count { Ok(shard) } else { Err(bad()) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// What makes the parts of a run alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardBy {
    /// The number of their cases.
    #[default]
    Count,
    /// The time that they take, as earlier runs tell.
    Time,
}

/// The part of a run that a record is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Which part of how many.
    #[serde(flatten)]
    pub shard: Shard,
    /// What makes the parts alike.
    pub by: ShardBy,
    /// The digest of the times by which the run was divided; `None` = it was divided by count.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub times: Option<String>,
}

/// What was selected in all, and which part of that one run has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPart {
    /// The part; `None` = all of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<PlannedShard>,
    /// The digest of what was selected: its cases, how often each is run, and the config that decides what they are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<String>,
    /// The names of all cases that were selected, `guest/suite/case`, in order; empty = those of the run's guests are all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub planned_all: Vec<String>,
    /// How often each case is to be run; absent = once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repeat: Option<u32>,
    /// The cases that have failed where they pass only when they are tried again, `guest/suite/case`: also by a later attempt of CI.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub flaky_fails: Vec<String>,
    /// What the parts have in common: the id that CI gives to all jobs of one run, or what `--group` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// Which attempt of CI this is, where it says so: a later one has a higher number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<u64>,
}

/// Returns the name of a case in a plan: `guest/suite/case`.
pub fn name_in_plan(guest: &GuestId, suite: &SuiteId, case: &CaseId) -> String {
    format!("{guest}/{suite}/{case}")
}

/// A run whose record was merged into another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrigin {
    /// Its name: the index of its shard, or the beginning of its id; `A/B` = it was `B` in the merged record `A`.
    pub origin: String,
    /// Its id.
    pub run: String,
    /// The name of its host.
    pub host: String,
    /// The version of its vmdeck.
    pub version: String,
    /// Which part it had.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<Shard>,
    /// The attempt of CI that it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<u64>,
    /// Whether a later attempt takes its place: its verdicts are told as earlier ones of that.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub superseded: bool,
    /// How it ended; `None` = it did not come to its end.
    pub exit: Option<RunExit>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How many cases of it have ended.
    pub cases: usize,
    /// How long its guests booted, all together, in milliseconds.
    pub boot_ms: u64,
    /// How long it waited for the host lock and for memory, in milliseconds.
    pub waited_ms: u64,
    /// The digest of its events.
    pub sha256: String,
}
