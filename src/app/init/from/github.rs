//! A workflow of GitHub Actions: its jobs, their matrix and the commands of their steps.
//!
//! Facts, of GitHub's documentation: a step is run by `bash -e`; `strategy.matrix` makes a job for each combination; `include` adds to
//! those that fit or makes one of its own; `${{ }}` holds expressions, of which only `matrix.NAME` and `env.NAME` are plain.

use super::{
    draft::{CaseDraft, ConfigDraft, SuiteDraft},
    yaml::{self, entries, list, scalar, texts},
};
use crate::app::init::guest::CODE;
use regex::{Captures, Regex};
use serde_json::Value;
use std::path::Path;
use vmdeck_core::command::sh_quote;
use vmdeck_model::error::Result;

/// The keys of a job that are taken over, or mean nothing for a run.
const JOB: &[&str] = &["name", "runs-on", "strategy", "steps", "env", "timeout-minutes", "permissions", "defaults"];

/// Takes the jobs over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let workflow = yaml::read(path)?;
    for (id, value) in entries(&workflow["jobs"]) {
        job(&workflow, id, value, draft);
    }
    Ok(())
}

fn job(workflow: &Value, id: &str, value: &Value, draft: &mut ConfigDraft<'_>) {
    draft.leftovers(value, JOB, &format!("the job `{id}`"));
    let matrix = &value["strategy"]["matrix"];
    let runner = scalar(&value["runs-on"]).or_else(|| texts(&value["runs-on"]).into_iter().next()).unwrap_or_default();
    // The axis that chooses the system is the guests of the suite.
    let axis = Regex::new(r"^\$\{\{\s*matrix\.([A-Za-z0-9_-]+)\s*\}\}$").ok();
    let axis = axis.and_then(|regex| Some(regex.captures(runner.trim())?[1].to_owned()));
    let runners = axis.as_ref().map_or_else(|| vec![runner.clone()], |axis| texts(&matrix[axis.as_str()]));
    let mut guests: Vec<String> = Vec::new();
    for runner in &runners {
        match system(runner) {
            Some(system) => {
                let guest = draft.guest_once(&system, CODE);
                if !guests.contains(&guest) {
                    guests.push(guest);
                }
            }
            None => draft.note(format!("the runner `{runner}` of the job `{id}`: only those of Linux are guests here")),
        }
    }
    if guests.is_empty() {
        return draft.note(format!("the job `{id}`: none of its runners is a guest here"));
    }
    let JobMatrix { axes, exclude, include } = matrix_of(id, matrix, axis.as_ref(), draft);
    let mut steps = Vec::new();
    for (at, step) in list(&value["steps"]).into_iter().enumerate() {
        steps.extend(one_step(id, at + 1, value, step, draft));
    }
    if steps.is_empty() {
        return draft.note(format!("the job `{id}` runs no command of its own"));
    }
    let mut env = Vec::new();
    for (name, value) in entries(&workflow["env"]).chain(entries(&value["env"])) {
        match scalar(value).filter(|value| !value.contains("${{")) {
            Some(value) => env.push((name.clone(), value)),
            None => draft.note(format!("the variable `{name}` of the job `{id}`, which GitHub computes")),
        }
    }
    let minutes = scalar(&value["timeout-minutes"]).and_then(|text| text.parse::<u64>().ok());
    draft.suite(SuiteDraft {
        name: id.to_owned(),
        guests,
        env,
        shell: &["bash"],
        timeout: Some(format!("{}m", minutes.unwrap_or(360))),
        cases: vec![CaseDraft { name: "steps".into(), steps, matrix: axes, exclude, include, ..CaseDraft::default() }],
        ..SuiteDraft::default()
    });
}

/// One row: the names of axes and of further keys, with their values.
type MatrixPairs = Vec<(String, String)>;

/// The matrix of a job, without the axis that chooses the system.
struct JobMatrix {
    axes: Vec<(String, Vec<String>)>,
    exclude: Vec<MatrixPairs>,
    include: Vec<MatrixPairs>,
}

fn matrix_of(id: &str, matrix: &Value, axis: Option<&String>, draft: &mut ConfigDraft<'_>) -> JobMatrix {
    let mut axes: Vec<(String, Vec<String>)> = Vec::new();
    let mut rows: [Vec<MatrixPairs>; 2] = Default::default();
    for (name, values) in entries(matrix).filter(|(name, _)| Some(*name) != axis) {
        match name.as_str() {
            "include" | "exclude" => {
                for row in list(values) {
                    let pairs: MatrixPairs =
                        entries(row).filter_map(|(name, value)| Some((name.clone(), scalar(value)?))).collect();
                    if pairs.iter().any(|(name, _)| Some(name) == axis) {
                        draft.note(format!("a row of `{name}` of the job `{id}` that names the system"));
                    } else {
                        rows[usize::from(name == "include")].push(pairs);
                    }
                }
            }
            _ if list(values).iter().all(|value| scalar(value).is_some()) && values.is_array() => {
                axes.push((name.clone(), texts(values)));
            }
            _ => draft.note(format!("the axis `{name}` of the job `{id}`, whose values are no plain texts")),
        }
    }
    let [exclude, include] = rows;
    let is_whole = |row: &MatrixPairs| axes.iter().all(|(axis, _)| row.iter().any(|(name, _)| name == axis));
    let (include, partial): (Vec<_>, Vec<_>) = include.into_iter().partition(is_whole);
    if !partial.is_empty() || (axes.is_empty() && !include.is_empty()) {
        draft.note(format!("rows of `include` of the job `{id}` that only add to combinations"));
    }
    let is_known = |row: &MatrixPairs| {
        row.iter().all(|(name, value)| axes.iter().any(|(axis, values)| axis == name && values.contains(value)))
    };
    let (exclude, strange): (Vec<_>, Vec<_>) = exclude.into_iter().partition(is_known);
    if !strange.is_empty() {
        draft.note(format!("rows of `exclude` of the job `{id}` that fit nothing"));
    }
    // Without axes there is nothing that a row could be one of.
    let include = if axes.is_empty() { Vec::new() } else { include };
    JobMatrix { axes, exclude, include }
}

/// Returns the command of a step.
fn one_step(id: &str, number: usize, job: &Value, step: &Value, draft: &mut ConfigDraft<'_>) -> Option<String> {
    let name = scalar(&step["name"]).unwrap_or_else(|| format!("step {number}"));
    if let Some(action) = scalar(&step["uses"]) {
        // The code is there already.
        if !action.starts_with("actions/checkout@") {
            draft.note(format!("the action `{action}` of the job `{id}`"));
        }
        return None;
    }
    let run = scalar(&step["run"]).filter(|run| !run.trim().is_empty())?;
    for key in ["if", "shell", "continue-on-error", "id", "timeout-minutes"] {
        if !step[key].is_null() {
            draft.note(format!("`{key}` of `{name}` in the job `{id}`"));
        }
    }
    let folder = scalar(&step["working-directory"]).or_else(|| scalar(&job["defaults"]["run"]["working-directory"]));
    let mut lines: Vec<String> = folder.iter().map(|folder| format!("cd {}", sh_quote(folder))).collect();
    for (key, value) in entries(&step["env"]) {
        lines.extend(scalar(value).map(|value| format!("export {key}={}", shell_text(&value))));
    }
    lines.push(run.trim_end().to_owned());
    Some(plain_expressions(&lines.join("\n"), id, &name, draft))
}

/// Returns a value as the shell reads it, with what an expression in it stands for.
fn shell_text(value: &str) -> String {
    if value.contains("${{") { format!("\"{value}\"") } else { sh_quote(value) }
}

/// Returns a script in which the plain expressions are variables of the shell; all others are told.
fn plain_expressions(script: &str, id: &str, step: &str, draft: &mut ConfigDraft<'_>) -> String {
    let Ok(expression) = Regex::new(r"\$\{\{\s*([^}]*?)\s*\}\}") else { return script.to_owned() };
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let variable = |found: &Captures<'_>| match found[1].split_once('.') {
        Some(("matrix", name)) if is_name(name) => {
            format!("${{VMDECK_MATRIX_{}}}", name.to_ascii_uppercase().replace('-', "_"))
        }
        Some(("env", name)) if is_name(name) => format!("${{{name}}}"),
        _ => {
            draft.note(format!("the expression `{}` of `{step}` in the job `{id}`", &found[1]));
            format!("${{UNKNOWN:?{}}}", found[1].replace(['}', '"', '\'', '`', '$'], " "))
        }
    };
    expression.replace_all(script, variable).into_owned()
}

/// Returns the image of a runner; `None` = it is none of Linux.
fn system(runner: &str) -> Option<String> {
    match runner {
        "ubuntu-latest" => Some("ubuntu-24.04".to_owned()),
        _ if runner.starts_with("ubuntu-") => Some(runner.trim_end_matches("-arm").to_owned()),
        "self-hosted" | "linux" => Some("debian-13".to_owned()),
        _ => None,
    }
}
