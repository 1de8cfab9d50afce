//! What the actions of the logs pane do, and which logs a guest has.

use crate::{
    keymap::Action,
    logs::{LogSource, search},
    model::Model,
    msg::Effect,
    run_node::RunNode,
};
use std::path::Path;
use vmdeck_model::{event::Severity, ids::GuestId};

/// The name of the log of a guest's newest machine.
const CONSOLE: &str = "console";

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
        Action::NextError => logs.next_like(search::ERRORS, true),
        Action::PrevError => logs.next_like(search::ERRORS, false),
        Action::NextWarning => logs.next_like(search::WARNINGS, true),
        Action::PrevWarning => logs.next_like(search::WARNINGS, false),
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
    let console = sources(&model.shown.dir, guest).into_iter().find(|source| source.label == CONSOLE);
    match console {
        Some(source) => show(model, Some(source)),
        None => model.say(Severity::Warn, format!("there is no console log of {guest} yet")),
    }
}

/// Shows the log of exactly this case; standard error first where it says why the case failed.
pub(super) fn open_case(model: &mut Model, node: &RunNode) {
    let (Some(suite), Some(case)) = (&node.suite, &node.case) else { return };
    match of_case(model, node).into_iter().next() {
        Some(source) => show(model, Some(source)),
        None => model.say(Severity::Warn, format!("there is no log of {suite}/{case} on {} yet", node.guest)),
    }
}

/// Returns the logs of exactly this case, those that are empty last.
pub(super) fn of_case(model: &Model, node: &RunNode) -> Vec<LogSource> {
    let (Some(suite), Some(case)) = (&node.suite, &node.case) else { return Vec::new() };
    let folder = model.shown.dir.join("guests").join(node.guest.as_str()).join(suite).join(case);
    let mut own = sources(&model.shown.dir, &node.guest);
    own.retain(|source| source.path.starts_with(&folder));
    let is_empty = |source: &LogSource| std::fs::metadata(&source.path).is_ok_and(|m| m.len() == 0);
    own.sort_by_key(is_empty);
    own
}

fn show(model: &mut Model, source: Option<LogSource>) {
    let opened = model.logs.open(source);
    model.logs.is_chosen = true;
    if let Err(e) = opened {
        model.say(Severity::Warn, format!("cannot follow this log: {e}"));
    }
}

/// Returns every log of a guest in a record, the console first.
pub(crate) fn sources(dir: &Path, guest: &GuestId) -> Vec<LogSource> {
    let home = dir.join("guests").join(guest.as_str());
    let mut files = Vec::new();
    collect(&home, 0, &mut files);
    let mut out: Vec<LogSource> = files
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(&home).ok()?.with_extension("");
            let label = match (name.parent(), name.file_name()) {
                (Some(parent), Some(file)) if !parent.as_os_str().is_empty() => {
                    format!("{} {}", parent.display(), file.to_string_lossy())
                }
                _ => name.display().to_string(),
            };
            Some(LogSource { guest: guest.clone(), label, path })
        })
        .collect();
    out.sort_by_key(|s| (s.label != "console", !s.label.starts_with("console"), s.label.clone()));
    out
}

fn collect(folder: &Path, depth: usize, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) && depth < 4 {
            collect(&path, depth + 1, out);
        } else if kind.is_ok_and(|k| k.is_file()) && path.extension().is_some_and(|e| e == "log" || e == "txt") {
            out.push(path);
        }
    }
}

fn next_source(model: &mut Model, by: isize) {
    let guest = model.logs.source.as_ref().map(|s| s.guest.clone()).or_else(|| model.current_guest());
    let Some(guest) = guest else { return };
    let all = sources(&model.shown.dir, &guest);
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
