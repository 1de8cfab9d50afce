//! The control socket of a run: other processes of the same user watch the record, and steer the run by it.
//!
//! A client gets one line, the [`Greeting`], and writes commands, a line of JSON each, as an engine reads them from its standard input. What
//! becomes of them is in the record. A connection that ends lets the run go on.

mod client;
mod server;

pub(super) use client::{Control, answers, join};
pub(super) use server::ControlSocket;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use vmdeck_core::engine::reap::CONTROL;

/// The longest path of a Unix socket on the systems that vmdeck runs on (macOS: 104 with the final NUL).
const PATH_MAX: usize = 103;

/// The first line that a client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// The run.
    run: String,
    /// Whether it is meant to be steered: by a cockpit, or because `--allow-control` says so.
    steered: bool,
}

/// Returns the path by which the socket of a record is reached: its own where that is short enough, else what the link there names.
fn address(record: &Path) -> PathBuf {
    let path = record.join(CONTROL);
    std::fs::read_link(&path).unwrap_or(path)
}
