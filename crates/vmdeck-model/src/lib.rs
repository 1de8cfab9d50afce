//! What a run is, what can happen in it, and the state it is in: plain data and pure functions.
//!
//! No I/O, no clock, no async and no terminal in here; everything is total and can be tested with plain values. Other
//! programs may read the records of runs with it: start with [`event`] and [`run_view`].

mod case_end;
pub mod catalogue;
pub mod chord;
pub mod command;
pub mod digest;
pub mod discover;
pub mod division;
pub mod error;
pub mod event;
pub mod evidence;
pub mod exit;
pub mod found_view;
pub mod guest;
mod guest_view;
pub mod ids;
pub mod image;
pub mod job;
pub mod key;
pub mod lifecycle;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod pattern;
pub mod plan;
pub mod quantity;
pub mod quarantine;
pub mod requirement;
pub mod run_state;
pub mod run_view;
pub mod secret;
pub mod select;
pub mod shard;
pub mod snapshot;
pub mod subtest;
pub mod suite;
pub mod tag_expr;
pub mod text;
pub mod times;
pub mod trouble;
pub mod when;
pub mod workers;
