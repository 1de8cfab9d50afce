//! `summary.json`: the state of the run at its end; `receipt.json`: what was made, and how its absence was proven.
//!
//! Both are folds of the events; nothing is in them that the record does not hold.

use super::ReportSink;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use std::{io, path::PathBuf};
use vmdeck_model::{
    event::{Event, EventKind},
    ids::GuestId,
    run_view::{GuestView, RunView},
};

/// Writes both files into the record at the end.
pub struct Summary {
    dir: PathBuf,
}

impl Summary {
    /// Makes the report; `dir` is the folder of the run's record.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl ReportSink for Summary {
    fn name(&self) -> String {
        "summary.json and receipt.json".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        let EventKind::RunEnded { took_ms, .. } = event.kind else { return Ok(()) };
        let write = |name: &str, value: &Value| {
            let text = format!("{}\n", serde_json::to_string_pretty(value)?);
            vmdeck_files::write(&self.dir.join(name), text.as_bytes())
        };
        write("summary.json", &summary(view, took_ms))?;
        write("receipt.json", &receipt(view))
    }
}

fn summary(view: &RunView, took_ms: u64) -> Value {
    let guests: Vec<Value> = view
        .guests
        .iter()
        .map(|(id, guest)| {
            let phases: serde_json::Map<String, Value> =
                guest.done.iter().map(|(p, ms)| (p.as_str().replace(' ', "_"), json!(ms))).collect();
            json!({ "guest": id, "backend": guest.backend, "isolated": guest.isolated, "state": guest.state,
                "reused": guest.reused.as_ref().map(|reused| reused.times),
                "boot_ms": guest.boot_ms(), "phases_ms": phases, "tally": guest.tally })
        })
        .collect();
    let cases: Vec<Value> = view
        .cases
        .iter()
        .map(|c| {
            json!({ "guest": c.guest, "suite": c.suite, "case": c.case, "round": c.round, "verdict": c.verdict, "quarantined": c.quarantined,
                "exit": c.exit, "took_ms": c.took_ms, "message": c.message,
                "subtests": c.subtests.as_ref().map(|subtests| subtests.tally) })
        })
        .collect();
    json!({ "run": view.run, "began": view.began.map(millis), "selection": view.selection, "config": view.config, "revision": view.revision,
            "exit": view.exit, "took_ms": took_ms, "origins": view.origins, "planned": view.planned, "tally": view.tally,
            "subtests": view.subtests, "cancelled": view.cancelled, "guests": guests, "cases": cases, "warnings": view.warnings.iter().map(|warning| &warning.text).collect::<Vec<_>>(),
            "artifacts": { "files": view.artifacts.0, "bytes": view.artifacts.1 }, "skipped_output": view.skipped_output })
}

fn millis(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn receipt(view: &RunView) -> Value {
    // In a merged record a guest may have had machines only under the names of the runs that made them.
    let is_told = |(id, guest): &(&GuestId, &GuestView)| {
        let has_own = !guest.proofs.is_empty() || !guest.left.is_empty() || guest.kept;
        has_own || !view.guests.values().any(|other| other.one_more_of.as_ref() == Some(id))
    };
    let resources: Vec<Value> = view.guests.iter().filter(is_told).map(|(id, guest)| {
        json!({ "guest": id, "backend": guest.backend, "gone": guest.proofs, "left": guest.left, "kept": guest.kept })
    }).collect();
    json!({ "run": view.run, "clean": view.left().next().is_none(), "resources": resources })
}
