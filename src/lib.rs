//! The vmdeck program: its command line and its composition root.
//!
//! `vmdeck-model` says what a run is, `vmdeck-core` carries it out, `vmdeck-tui` shows it. This
//! package knows all three and puts them together; none of them knows it.

pub mod app;
pub mod cli;
