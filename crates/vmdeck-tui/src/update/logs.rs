//! What the actions of the logs pane do, and which logs a guest has.

use crate::{
    keymap::Action,
    logs::LogSource,
    model::Model,
    msg::Effect,
    record_logs,
    run_node::{NodeState, RunNode},
};
use std::path::Path;
use vmdeck_model::{
    event::Severity,
    evidence::{ERRORS, WARNINGS},
    ids::GuestId,
};

/// Does an action of the logs pane.
pub(super) fn act(model: &mut Model, action: Action, out: &mut Vec<Effect>) {
    let logs = &mut model.logs;
    match action {
        Action::Follow => {
            let on = !logs.follow;
            logs.set_follow(on);
        }
        Action::NextSource => next_source(model, 1),
        Action::PrevSource => next_source(model, -1),
        Action::Merged => merged(model),
        Action::Wrap => logs.wrap = !logs.wrap,
        Action::Times => logs.next_times(),
        Action::Raw => logs.next_line_style(),
        Action::Only => logs.only = !logs.only && logs.search.is_some(),
        Action::NextError => logs.next_like(ERRORS, true),
        Action::PrevError => logs.next_like(ERRORS, false),
        Action::NextWarning => logs.next_like(WARNINGS, true),
        Action::PrevWarning => logs.next_like(WARNINGS, false),
        Action::Bookmark => logs.bookmark(),
        Action::NextBookmark => logs.next_bookmark(true),
        Action::PrevBookmark => logs.next_bookmark(false),
        Action::Select => {
            logs.selected_from = if logs.selected_from.is_some() { None } else { Some(logs.at) };
            if logs.selected_from.is_some() {
                logs.follow = false;
            }
        }
        Action::Save => save(model, out),
        Action::Open | Action::OpenEditor => match logs.path() {
            Some(path) => {
                let (path, line) = (path.to_owned(), logs.at + 1);
                out.push(Effect::Open { path, line, editor: action == Action::OpenEditor });
            }
            None => model.say(Severity::Warn, "the merged view is not a file; choose a single log first"),
        },
        _ => {}
    }
}

/// Shows the console of a guest.
pub(super) fn open_console(model: &mut Model, guest: &GuestId) {
    let console =
        record_logs::of_guest(&model.shown.dir, guest).into_iter().find(|source| source.label == record_logs::CONSOLE);
    match console {
        Some(source) => show(model, Some(source)),
        None => model.say(Severity::Warn, format!("there is no console log of {guest} yet")),
    }
}

/// Shows the log of exactly this case: of one that failed the one that says why, at that line.
pub(super) fn open_case(model: &mut Model, node: &RunNode) {
    let (Some(suite), Some(case)) = (&node.suite, &node.case) else { return };
    if !show_case(model, node) {
        model.say(Severity::Warn, format!("there is no log of {suite}/{case} on {} yet", node.guest));
    }
}

/// Shows the output of the selected case beside it, where there is some.
pub(super) fn show_selected(model: &mut Model) {
    if let Some(node) = model.tree.get(model.panes.run.at).filter(|node| node.state != NodeState::Waiting).cloned() {
        show_case(model, &node);
    }
}

/// Shows the output of the first case that failed, unless the person is looking at something of their own.
pub(super) fn show_first_failure(model: &mut Model) {
    let failed = model.tree.iter().find(|node| node.is_case() && node.has_failed()).cloned();
    if let Some(node) = failed.filter(|_| !model.logs.is_chosen) {
        show_case(model, &node);
        model.logs.is_chosen = false;
    }
}

/// Shows the log of a case; returns whether there is one.
fn show_case(model: &mut Model, node: &RunNode) -> bool {
    let logs = of_case(model, node);
    let evidence = model.shown.view.last_end(&node.guest, node.suite.as_deref(), node.case.as_deref());
    let of_case = evidence.and_then(|case| case.evidence.clone());
    // A sub-test is told by its reason, else by its name.
    let told = node.subtest.iter().flat_map(|subtest| [subtest.message.as_str(), subtest.title()]);
    let told = told.filter(|text| !text.is_empty()).find(|text| record_logs::with_line(&logs, Some(text)).is_some());
    let evidence = told.map(str::to_owned).or(of_case);
    let Some(source) = record_logs::with_line(&logs, evidence.as_deref()).or(logs.first()).cloned() else {
        return false;
    };
    let is_shown = model.logs.source.as_ref() == Some(&source);
    if !is_shown || node.has_failed() {
        show(model, Some(source));
    }
    if node.has_failed() || node.subtest.is_some() {
        model.logs.show_evidence(evidence.as_deref());
    }
    true
}

/// Returns the logs of exactly this case, those of its last attempt first.
pub(super) fn of_case(model: &Model, node: &RunNode) -> Vec<LogSource> {
    match (&node.suite, &node.case) {
        (Some(suite), Some(case)) => record_logs::of_case(&model.shown.dir, &node.guest, suite, case),
        _ => Vec::new(),
    }
}

/// Shows a log at one of its lines.
pub(super) fn show_line(model: &mut Model, source: LogSource, line: u64) {
    show(model, Some(source));
    model.logs.show_line(line);
}

fn show(model: &mut Model, source: Option<LogSource>) {
    let opened = model.logs.open(source);
    model.logs.is_chosen = true;
    if let Err(e) = opened {
        model.say(Severity::Warn, format!("cannot follow this log: {e}"));
    }
}

fn next_source(model: &mut Model, by: isize) {
    let guest = model.logs.source.as_ref().map(|s| s.guest.clone()).or_else(|| model.current_guest());
    let Some(guest) = guest else { return };
    let all = record_logs::of_guest(&model.shown.dir, &guest);
    let now = all.iter().position(|s| Some(&s.path) == model.logs.source.as_ref().map(|n| &n.path));
    let count = all.len().cast_signed();
    if count == 0 {
        return model.say(Severity::Warn, format!("there is no log of {guest} yet"));
    }
    let next = now.map_or(0, |n| (n.cast_signed() + by).rem_euclid(count));
    show(model, all.into_iter().nth(next.cast_unsigned()));
}

fn merged(model: &mut Model) {
    if model.logs.source.is_some() {
        return show(model, None);
    }
    if let Some(guest) = model.current_guest() {
        open_console(model, &guest);
    }
}

fn save(model: &mut Model, out: &mut Vec<Effect>) {
    let label = model.logs.source.as_ref().map_or("merged".to_owned(), |s| format!("{}-{}", s.guest, s.label));
    let name: String = label.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let folder = model.shown.dir.join("saved");
    let free = (1..10_000).map(|n| folder.join(format!("{name}-{n}.txt"))).find(|p| !p.exists());
    let Some(to) = free else { return model.say(Severity::Warn, format!("cannot save: {} is full", folder.display())) };
    out.push(Effect::Save { log: model.logs.path().map(Path::to_owned), to, what: model.logs.part() });
}
