//! Plain data and pure functions: what a run is, what can happen in it, and how things stand.
//!
//! No I/O, no clock, no async and no terminal in here; everything is total and can be tested with plain values.

pub mod chord;
pub mod command;
pub mod event;
pub mod exec;
pub mod exit;
pub mod guest;
pub mod ids;
pub mod key;
pub mod lifecycle;
pub mod outcome;
pub mod pattern;
pub mod plan;
pub mod quantity;
pub mod run_view;
pub mod secret;
pub mod select;
pub mod suite;
pub mod text;
pub mod wrap;
