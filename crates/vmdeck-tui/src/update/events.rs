//! What the record says next: folded into the view, shown, logged, and reported to a person who looks elsewhere.

use super::{logs, watch};
use crate::{
    keymap::Action,
    logs::{LogSource, merged::MergedLine},
    model::{Model, RecordSource},
    msg::Effect,
};
use std::time::Duration;
use vmdeck_model::{
    event::{Event, EventKind, PatternKind, Phase, Severity},
    exit::RunExit,
    lifecycle::MachineState,
    memory::WaitingMemory,
    outcome::Verdict,
    quantity::{show_artifacts, show_count, show_duration},
    text::{Clean, is_deceptive},
};

/// Takes one event of the record in.
pub(super) fn event(model: &mut Model, event: &Event, out: &mut Vec<Effect>) {
    fold(model, event);
    if matches!(event.kind, EventKind::Output { .. }) {
        if model.logs.source.is_none() {
            model.logs.refresh();
        }
        return;
    }
    react(model, event, out);
    if let Some((severity, target, text)) = line(&event.kind) {
        let text = format!("{:>8} {text}", show_duration(Duration::from_millis(event.elapsed_ms)));
        out.push(Effect::Log { severity, target, text });
    }
}

/// Takes an event into what is shown, without notifying anybody.
pub(super) fn fold(model: &mut Model, event: &Event) {
    model.shown.view.apply(event);
    let EventKind::Output { guest, suite, case, stream, line } = &event.kind else {
        if let EventKind::RunStarted { .. } = &event.kind {
            model.shown.began_wall_ms = Some(event.at.timestamp_millis());
        }
        model.is_tree_stale = true;
        return;
    };
    let from = match (suite, case) {
        (Some(suite), Some(case)) => format!("{suite}/{case}"),
        (Some(suite), None) => suite.to_string(),
        _ => "console".to_owned(),
    };
    let (ms, guest) = (event.elapsed_ms, guest.clone());
    // Our engine's lines are clean; a record may be anybody's.
    let text = if is_clean(line) { line.clone() } else { Clean::from_text(line).into_string() };
    model.logs.merged.push(MergedLine { ms, guest, from, stream: *stream, text });
}

fn is_clean(line: &str) -> bool {
    line.bytes().all(|b| (0x20..0x7f).contains(&b)) || !line.chars().any(|c| c.is_control() || is_deceptive(c))
}

fn react(model: &mut Model, event: &Event, out: &mut Vec<Effect>) {
    watch::begun(model, &event.kind);
    match &event.kind {
        EventKind::LockWaiting { .. }
        | EventKind::LockHeld { .. }
        | EventKind::LockLost { .. }
        | EventKind::PhaseStarted { phase: Phase::Create | Phase::Tests | Phase::Hold, .. } => {
            out.push(Effect::LookAtLock { attach: false });
        }
        EventKind::GuestState { guest, to: MachineState::Created, .. } => {
            // The console log of the machine before was set aside: this name is a new file now.
            let source = model.logs.source.clone().filter(|s| s.guest == *guest && s.label == "console");
            if source.is_some() && model.shown.player.is_none() {
                let _ = model.logs.open(source);
            }
        }
        EventKind::PhaseStarted { guest, phase: Phase::Launch | Phase::Firmware | Phase::FirstCommand, .. } => {
            show_console(model, guest);
        }
        EventKind::PhaseEnded { guest, phase: Phase::FirstCommand, ok: true, .. } => {
            out.push(Effect::ListMachines);
            if model.pending.shell_when_up.as_ref() == Some(guest) {
                model.pending.shell_when_up = None;
                out.push(Effect::Shell(guest.clone(), None));
            }
            tell(model, format!("{guest} is up"), out);
        }
        EventKind::PhaseEnded { guest, phase, ok: false, .. } if phase.is_boot() => {
            if model.pending.shell_when_up.as_ref() == Some(guest) {
                model.pending.shell_when_up = None;
            }
            model.say(Severity::Warn, format!("{guest} did not boot: it failed in {}", phase.as_str()));
            tell(model, format!("{guest} did not boot"), out);
        }
        EventKind::PhaseStarted { guest, phase: Phase::Pause, usual_ms, .. } => {
            let seconds = usual_ms.unwrap_or(0) / 1000;
            let key = |action| model.appearance.keymap.key(action);
            let way = if model.shown.view.guests.get(guest).is_some_and(|v| v.boot_failed) {
                format!("{} console", key(Action::Attach))
            } else {
                format!("{} shell", key(Action::Shell))
            };
            let (keep, release) = (key(Action::KeepGuest), key(Action::Proceed));
            let held = show_duration(Duration::from_secs(seconds));
            let has_failed = model.shown.view.guests.get(guest).is_some_and(|v| v.boot_failed)
                || model.shown.view.cases.iter().any(|case| case.guest == *guest && case.verdict.is_failure());
            // One that stands by for another of its suite is held with that, which has been told.
            if has_failed {
                let text = format!("{guest} failed; held for {held}: {way}, {keep} keep, {release} release");
                model.say(Severity::Warn, text);
                tell(model, format!("{guest} failed and is held for inspection"), out);
            }
        }
        EventKind::Asked { guest, question, .. } => {
            let key = model.appearance.keymap.key(Action::Answer);
            model.say(Severity::Warn, format!("{guest} asks: {question} ({key} answers)"));
            tell(model, format!("a case in {guest} asks: {question}"), out);
        }
        EventKind::CaseEnded { .. } if model.shown.view.planned > 0 => {
            let done = u64::from(model.shown.view.tally.total()) * 100 / model.shown.view.planned as u64;
            out.push(Effect::Progress(u8::try_from(done.min(100)).ok()));
        }
        EventKind::CleanupEnded { guest, .. } => {
            model.pending.kept.remove(guest);
            out.push(Effect::ListMachines);
        }
        EventKind::RunEnded { exit, error, hint, .. } => {
            out.push(Effect::LookAtLock { attach: false });
            show_failure(model);
            let text = result(model, Some(*exit));
            if let Some(error) = error {
                let hint = hint.as_ref().map(|h| format!("\n\nhint: {h}")).unwrap_or_default();
                let text = format!("{error}{hint}");
                model.overlay = Some(crate::overlay::Overlay::Message { title: "the run ended early".into(), text });
            }
            model.say(if *exit == RunExit::Passed { Severity::Ok } else { Severity::Warn }, text.clone());
            tell(model, text, out);
        }
        _ => {}
    }
}

/// Shows why the first case failed, at the end of a run that is not played again.
fn show_failure(model: &mut Model) {
    if model.shown.player.is_none() {
        crate::derive::derive(model);
        logs::show_first_failure(model);
    }
}

/// Shows the console of a guest that boots, unless the person is looking at something else.
pub(super) fn show_console(model: &mut Model, guest: &vmdeck_model::ids::GuestId) {
    // The first guest that boots; the others, and the merged log, are one key away.
    if model.logs.source.is_some() || model.logs.is_chosen {
        return;
    }
    let path = model.shown.dir.join("guests").join(guest.as_str()).join("console.log");
    let source = LogSource { guest: guest.clone(), label: "console".into(), path };
    let _ = model.logs.open(Some(source));
}

/// Notifies a person who looks elsewhere; in a replay nothing happens now.
fn tell(model: &Model, text: String, out: &mut Vec<Effect>) {
    if model.unfocused && model.shown.record != RecordSource::Replay {
        out.push(Effect::Notify { text });
    }
}

/// Returns one line about how a run ended.
pub(super) fn result(model: &Model, exit: Option<RunExit>) -> String {
    let run = model.run_name().unwrap_or_else(|| "?".into());
    let took = show_duration(Duration::from_millis(model.shown.view.now_ms));
    let code = exit.map_or("no exit".to_owned(), |e| format!("exit {}", e.code()));
    format!("run {run}: {} in {took} ({code})", model.shown.view.tally)
}

/// Returns an event as a line for the events pane; what is shown elsewhere in full is left out.
fn line(kind: &EventKind) -> Option<(Severity, &'static str, String)> {
    use Severity::{Fatal, Ok, Warn};
    Some(match kind {
        EventKind::RunStarted { run, cases, .. } => {
            (Ok, "engine::run", format!("run {run} began: {}", show_count(*cases, "case")))
        }
        EventKind::RunEnded { exit, .. } => (
            if *exit == RunExit::Passed { Ok } else { Warn },
            "engine::run",
            format!("the run ended: exit {}", exit.code()),
        ),
        EventKind::Revision { commit, dirty } => {
            let with = if *dirty { ", with uncommitted changes" } else { "" };
            (Ok, "engine::run", format!("the code is at {commit}{with}"))
        }
        EventKind::Asked { guest, suite, case, question } => {
            (Warn, "engine::cases", format!("{guest}: {suite}/{case} asks: {question}"))
        }
        EventKind::CasesFound { guest, suite, case, cases, .. } => {
            (Ok, "engine::cases", format!("{guest}: {suite}/{case}: {} found", show_count(cases.len(), "case")))
        }
        EventKind::ArtifactsFetched { guest, suite, case, files, bytes } => {
            let of = case.as_ref().map(|case| format!("/{case}")).unwrap_or_default();
            (Ok, "engine::cases", format!("{guest}: {suite}{of}: {} fetched", show_artifacts(*files, *bytes)))
        }
        EventKind::LockWaiting { holder, .. } => (Warn, "engine::lock", format!("waiting for {holder}")),
        EventKind::MemoryWaiting { guest, with, needs, left, place, promised, .. } => (
            Warn,
            "engine::admission",
            WaitingMemory { guest, with, needs: *needs, left: *left, place: *place, promised }.to_string(),
        ),
        EventKind::LockHeld { waited_ms, .. } => (Ok, "engine::lock", format!("held, after {waited_ms} ms")),
        EventKind::LockLost { why, .. } => (Fatal, "engine::lock", format!("LOST: {why}")),
        EventKind::PreflightFinding(f) => (f.severity, "engine::preflight", format!("{}: {}", f.check, f.text)),
        EventKind::Reaped { what, how, .. } => (Ok, "engine::reap", format!("{what}: {how}")),
        EventKind::GuestState { guest, from, to, why, .. } => {
            (Ok, "engine::vm", format!("{guest}: {from:?} -> {to:?}: {why}"))
        }
        EventKind::Reused { guest, machine, run, times } => {
            (Ok, "engine::vm", format!("{guest}: reused ×{times}: {machine}, kept by run {run}"))
        }
        EventKind::PhaseEnded { guest, phase, ok, took_ms } => {
            let word = if *ok { "took" } else { "FAILED after" };
            (if *ok { Ok } else { Warn }, "engine::vm", format!("{guest}: {} {word} {took_ms} ms", phase.as_str()))
        }
        EventKind::ConsoleMatch { guest, meaning, line, .. } => {
            let severity = if *meaning == PatternKind::Ready { Ok } else { Warn };
            (severity, "engine::console", format!("{guest}: {meaning:?}: {line}"))
        }
        EventKind::MachinePlaced { guest, machine, on } => (Ok, "engine::vm", format!("{guest}: {machine} is on {on}")),
        EventKind::RouteTried { guest, way: Some(way), ok, why, address, .. } => {
            let found = address.as_deref().unwrap_or("nothing");
            let how = if why.is_empty() { found.to_owned() } else { format!("{found}: {why}") };
            (if *ok { Ok } else { Warn }, "engine::address", format!("{guest}: {way}: {how}"))
        }
        EventKind::RouteTried { guest, transport, ok, why, .. } => {
            let how = if *ok { "connected".to_owned() } else { why.clone() };
            (if *ok { Ok } else { Warn }, "engine::route", format!("{guest}: {transport}: {how}"))
        }
        EventKind::CaseEnded { guest, suite, case, verdict, message, .. } => {
            let good = matches!(verdict, Verdict::Passed | Verdict::Skipped);
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            (if good { Ok } else { Warn }, "engine::cases", format!("{guest}: {suite}/{case} {verdict}{why}"))
        }
        EventKind::SubtestEnded { guest, suite, case, subtest, .. } => {
            if !subtest.status.is_failure() {
                return None;
            }
            let why = if subtest.message.is_empty() { String::new() } else { format!(": {}", subtest.message) };
            let text = format!("{guest}: {suite}/{case}: {} {}{why}", subtest.name, subtest.status);
            (Warn, "engine::cases", text)
        }
        EventKind::Retrying { what, attempt, of, why, .. } => {
            (Warn, "engine::retry", format!("{what}: attempt {attempt} of {of}: {why}"))
        }
        EventKind::CancelBegan { reason } => (Warn, "engine::run", format!("cancelled: {reason}")),
        EventKind::CleanupEnded { guest, left, kept, adopted, .. } => {
            let how = match (kept, left.is_empty()) {
                (true, _) => "kept".to_owned(),
                (_, true) if *adopted => "put back".to_owned(),
                (_, true) => "removed (verified)".to_owned(),
                _ => format!("LEFT BEHIND: {}", left.join("; ")),
            };
            (if left.is_empty() { Ok } else { Fatal }, "engine::cleanup", format!("{guest}: {how}"))
        }
        EventKind::Warning { text, .. } => (Warn, "engine::run", text.clone()),
        EventKind::Coverage { file, lines, hit } => {
            (Ok, "engine::coverage", format!("coverage: {hit} of {lines} lines were run: {file}"))
        }
        EventKind::Progress { guest, text } => {
            let who = guest.as_ref().map(|guest| format!("{guest}: ")).unwrap_or_default();
            (Ok, "engine::progress", format!("{who}{text}"))
        }
        EventKind::PhaseStarted { .. }
        | EventKind::CaseStarted { .. }
        | EventKind::CleanupBegan { .. }
        | EventKind::Output { .. }
        | EventKind::SubtestProgress { .. }
        | EventKind::Unknown => return None,
    })
}
