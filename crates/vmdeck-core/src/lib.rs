//! The engine of vmdeck: what it needs of the host, how machines are made and reached, how a run is carried out and
//! reported. It knows no screen, reads no keyboard and prints nothing.
//!
//! Each layer imports only from layers to its left; `tests/architecture.rs` checks that:
//!
//! `command < { host, config, report, history, trouble } < merge`, and `< backend < transport < engine`
//!
//! - [`command`]: a command for a guest, its text, and the marks around its output.
//! - [`host`]: the only code that touches the operating system.
//! - [`config`]: TOML, environment and flags to a checked setup, every mistake at once.
//! - [`trouble`]: the kinds of trouble that a console tells.
//! - [`coverage`]: which lines of programs were run.
//! - [`report`]: sinks over events: text, JSON lines, `JUnit`, GitHub, summary and receipt.
//! - [`history`]: the records of earlier runs.
//! - [`merge`]: the records of several runs made into one.
//! - [`backend`]: makes, starts, stops and destroys machines; one row each in [`backend::BACKENDS`].
//! - [`transport`]: talks into a machine that is up; one row each in [`transport::TRANSPORTS`].
//! - [`engine`]: lock, preflight, reap, boot, test, clean up. Commands go in, events come out.

pub mod assets;
pub mod backend;
pub mod command;
pub mod config;
pub mod context;
pub mod coverage;
pub mod engine;
#[doc(hidden)]
pub mod fuzz;
pub mod history;
pub mod host;
pub mod merge;
pub mod report;
pub mod transport;
pub mod trouble;
