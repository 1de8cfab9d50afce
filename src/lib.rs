//! vmdeck boots virtual machines, waits for them, puts the code in, runs the tests inside, reports, and leaves nothing
//! behind.
//!
//! # A walk through the crate
//!
//! Read it from the left to the right of this line; each layer imports only from layers to its left, and a test
//! (`tests/architecture.rs`) holds that up:
//!
//! `error < model < { host, config, report } < backend < transport < engine < { headless, attach } < app`
//!
//! - [`error`]: the one error type that a person sees, with its remedy.
//! - [`model`]: plain data and pure functions. Start with [`model::plan`] (what is to be done), [`model::event`] (what can
//!   happen), [`model::run_view`] (how things stand, folded from events) and [`model::lifecycle`] (the five states).
//! - [`host`]: the only code that touches the operating system.
//! - [`config`]: TOML, environment and flags to a checked setup, every mistake at once.
//! - [`report`]: sinks over events: text, JSON lines, `JUnit`, GitHub, summary and receipt.
//! - [`backend`]: makes, starts, stops and destroys machines; one row each in [`backend::BACKENDS`].
//! - [`transport`]: talks into a machine that is up; one row each in [`transport::TRANSPORTS`].
//! - [`engine`]: lock, preflight, reap, boot, test, clean up. Commands go in, events come out.
//! - [`headless`] and [`attach`]: front ends. [`cli`] and [`app`]: the command line, and where everything is put together.
//!
//! # How a run goes
//!
//! [`app`] turns arguments and config into a [`model::plan::Plan`] and starts the engine with [`engine::start`]. Its
//! conductor takes the host lock, checks the host, reaps what dead runs left, opens the journal and starts the guardian.
//! A worker for each guest launches a machine through the [VM controller](engine::controller), runs the cases over a
//! [session](transport::Session) and takes the machine down again, whatever happened. Everything is told as
//! [events](model::event::EventKind); the dispatcher numbers them, and the front end folds them.

pub mod app;
pub mod attach;
pub mod backend;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod headless;
pub mod host;
pub mod model;
pub mod report;
pub mod transport;
pub mod tui;
