//! Everything about a guest: its boot as a timeline against earlier ones, its machine, what was tried, what went wrong.

use super::{guest, paint::span, sparkline, symbols, window};
use crate::{host_state::Usage, keymap::Action, model::Model, past_runs::BootRow, role::StyleRole};
use ratatui::{Frame, text::Line};
use vmdeck_model::{
    event::Phase,
    ids::GuestId,
    quantity::{show_count, show_size},
    run_view::GuestView,
    text::Clean,
};

/// How many earlier boots are shown.
const BOOTS: usize = 5;
/// Cells of the longest bar.
const CELLS: usize = 30;

/// Draws the details of a guest.
pub(super) fn draw(model: &Model, id: &GuestId, frame: &mut Frame<'_>) {
    let mut lines: Vec<Line<'static>> = Vec::new();
    if let Some(g) = model.setup.as_ref().and_then(|s| s.guest_named(id.as_str())) {
        let size = match &g.address {
            // How large it is, nobody here knows.
            Some(address) => format!("at {address}"),
            None => format!(
                "{}, {} memory, {} disk",
                show_count(g.cpus as usize, "cpu"),
                show_size(g.memory),
                show_size(g.disk)
            ),
        };
        let what = format!("{} {}, {size}, by {}", g.backend, g.os, g.transports.join(" then "));
        lines.push(fact(model, "guest", what));
    }
    match model.shown.view.guests.get(id) {
        Some(view) => of_run(model, id, view, &mut lines),
        None => lines.push(fact(model, "state", "not started".into())),
    }
    let key = |action| model.appearance.keymap.key(action);
    let hints = [
        (key(Action::Details), "close"),
        (key(Action::Shell), "shell"),
        (key(Action::Attach), "console"),
        (format!("{} {}", key(Action::Down), key(Action::Up)), "other guest"),
    ];
    lines.push(Line::default());
    let spans = hints
        .into_iter()
        .flat_map(|(k, w)| [span(model, StyleRole::UiKey, k), span(model, StyleRole::UiDim, format!(" {w}   "))]);
    lines.push(Line::from(spans.collect::<Vec<_>>()));
    window::show(model, frame, &format!("guest {id}"), lines, 96);
}

fn fact(model: &Model, word: &str, text: String) -> Line<'static> {
    Line::from(vec![span(model, StyleRole::UiDim, format!("{word:<11}")), span(model, StyleRole::UiText, text)])
}

fn of_run(model: &Model, id: &GuestId, view: &GuestView, lines: &mut Vec<Line<'static>>) {
    let now = model.run_ms();
    let (doing, role) = guest::doing(model, view, now);
    lines.push(Line::from(vec![
        span(model, StyleRole::UiDim, "state      "),
        span(model, role, format!("{:?}: {doing}", view.state)),
    ]));
    if let Some(machine) = &view.machine {
        let on = view.placed.as_deref().map(|on| format!(" on {on}")).unwrap_or_default();
        lines.push(fact(model, "machine", Clean::from_text(&format!("{machine}{on}")).into_string()));
    }
    if let Some((transport, address)) = &view.reached {
        lines.push(fact(
            model,
            "reached",
            format!("{transport} {}", address.as_deref().unwrap_or("without a network")),
        ));
    }
    for sought in &view.sought {
        let found = sought.address.as_deref().unwrap_or("nothing");
        let why = if sought.why.is_empty() { String::new() } else { format!(": {}", sought.why) };
        lines.push(fact(model, "searched", format!("{} {found}{why}", sought.way)));
    }
    usage(model, view, lines);
    lines.push(Line::default());
    timeline(model, view, now, lines);
    waterfall(model, id, lines);
    let own = model.shown.view.warnings.iter().filter(|warning| warning.guest.as_ref() == Some(id));
    let warnings: Vec<&String> = own.map(|warning| &warning.text).collect();
    if !warnings.is_empty() {
        lines.push(Line::default());
        for text in warnings.iter().rev().take(4).rev() {
            lines.extend(text.lines().take(6).map(|l| Line::from(span(model, StyleRole::StateWarn, l.to_owned()))));
        }
    }
    let bad = model.shown.view.cases.iter().filter(|c| c.guest == *id && c.verdict.is_failure());
    for case in bad.take(6) {
        let (sign, role) = symbols::verdict(model, case.verdict);
        let why = case.message.lines().next().unwrap_or_default();
        lines.push(Line::from(span(
            model,
            role,
            format!("{sign} {}/{} {}: {why}", case.suite, case.case, case.verdict),
        )));
    }
    if !view.left.is_empty() {
        lines.extend(
            view.left.iter().map(|l| Line::from(span(model, StyleRole::StateBad, format!("LEFT BEHIND: {l}")))),
        );
    }
    lines.extend(view.proofs.iter().map(|p| Line::from(span(model, StyleRole::UiDim, p.clone()))));
    if !model.shown.dir.as_os_str().is_empty() {
        let home = model.shown.dir.join("guests").join(id.as_str());
        lines.push(fact(model, "record", home.display().to_string()));
    }
}

/// What the machine used in the last minute.
fn usage(model: &Model, view: &GuestView, lines: &mut Vec<Line<'static>>) {
    let Some(name) = view.machine.as_deref().filter(|name| model.host.usage.contains_key(*name)) else { return };
    let now = model.host.usage[name];
    let mut row = |word: &str, figure: fn(&Usage) -> u64, top: u64, text: String| {
        let values = model.host.lately(name, figure);
        let top = top.max(values.iter().max().copied().unwrap_or(0));
        lines.push(fact(model, word, format!("{} {text}", sparkline::bars(model, &values, top, CELLS))));
    };
    row("processor", |u| u.cpu_percent, 100, format!("{}%", now.cpu_percent));
    row("memory", |u| u.memory, 1, show_size(now.memory));
    row("disk", |u| u.disk, 1, show_size(now.disk));
}

/// The boots of earlier runs below each other on one scale, each phase by its letter; the newest first.
fn waterfall(model: &Model, id: &GuestId, lines: &mut Vec<Line<'static>>) {
    let all = model.history.boots.get(id).map_or(&[][..], Vec::as_slice);
    let shown: Vec<&BootRow> = all.iter().rev().take(BOOTS).collect();
    let total = |boot: &BootRow| boot.phases.iter().map(|(_, ms)| ms).sum::<u64>();
    let Some(scale) = shown.iter().map(|boot| total(boot)).max().filter(|most| *most > 0) else { return };
    lines.push(Line::default());
    lines.push(Line::from(span(
        model,
        StyleRole::UiDim,
        "earlier boots: l launch, f firmware, k kernel, u userspace, s sshd, c first command",
    )));
    for boot in shown {
        let cells = |ms: u64| usize::try_from(ms * CELLS as u64 / scale).unwrap_or(CELLS);
        let mut bar = String::new();
        let mut at = 0;
        for (phase, ms) in &boot.phases {
            at += ms;
            let letter = match phase {
                Phase::FirstCommand => "c",
                phase => &phase.as_str()[..1],
            };
            bar.push_str(&letter.repeat(cells(at).saturating_sub(bar.len())));
        }
        let (end, role) = match boot.boot_ms {
            Some(ms) => (format!("{:>7}", guest::time(ms)), StyleRole::UiText),
            None => (format!("{} failed", symbols::pick(model, "✗", "x")), StyleRole::StateBad),
        };
        lines.push(Line::from(vec![
            span(model, StyleRole::UiDim, format!("{:<11}", boot.run)),
            span(model, StyleRole::GaugeFull, format!("{bar:<CELLS$} ")),
            span(model, role, end),
        ]));
    }
    let mut times: Vec<u64> = all.iter().filter_map(|boot| boot.boot_ms).collect();
    times.sort_unstable();
    if let (Some(median), Some(late)) = (times.get(times.len() / 2), times.get(times.len() * 9 / 10)) {
        let text = format!(
            "{}: median {}, nine of ten within {}",
            show_count(times.len(), "boot"),
            guest::time(*median),
            guest::time(*late)
        );
        lines.push(Line::from(span(model, StyleRole::UiDim, text)));
    }
}

/// Each phase with its time, and what it usually takes.
fn timeline(model: &Model, view: &GuestView, now: u64, lines: &mut Vec<Line<'static>>) {
    let mut rows: Vec<(Phase, u64, Option<u64>, bool)> = Vec::new();
    for (phase, ms) in &view.done {
        rows.push((*phase, *ms, view.usual.get(phase).copied(), false));
    }
    for open in &view.open {
        rows.push((open.phase, now.saturating_sub(open.since_ms), open.usual_ms, true));
    }
    // A pause or a long test would make the boot too small to see.
    let boots = || rows.iter().filter(|(phase, ..)| phase.is_boot());
    let scale = boots().map(|(_, ms, usual, _)| (*ms).max(usual.unwrap_or(0))).max().unwrap_or(1).max(1);
    for (phase, ms, usual, is_open) in rows {
        let cells =
            |ms: u64| if phase.is_boot() { usize::try_from(ms * CELLS as u64 / scale).unwrap_or(CELLS) } else { 0 };
        let usual = usual.filter(|_| phase.is_boot());
        let usual_cells = usual.map_or(0, cells);
        let (taken, over) = (cells(ms).min(usual_cells.max(usize::from(usual.is_none()) * CELLS)), cells(ms));
        let (full, rest) = (symbols::pick(model, "█", "#"), symbols::pick(model, "░", "-"));
        let mut spans = vec![
            span(
                model,
                if is_open { StyleRole::StateBusy } else { StyleRole::UiText },
                format!("{:<14}", phase.as_str()),
            ),
            span(model, StyleRole::UiText, format!("{:>7} ", guest::time(ms))),
            span(model, StyleRole::GaugeFull, full.repeat(taken)),
            span(model, StyleRole::GaugeOver, full.repeat(over.saturating_sub(taken))),
            span(model, StyleRole::GaugeUsual, rest.repeat(usual_cells.saturating_sub(over))),
        ];
        if let Some(usual) = usual {
            spans.push(span(model, StyleRole::UiDim, format!(" usual {}", guest::time(usual))));
            if ms > usual * 3 / 2 && ms > usual + 1000 {
                spans.push(span(model, StyleRole::StateWarn, " slower than usual"));
            }
        }
        lines.push(Line::from(spans));
    }
    if let Some(boot) = guest::boot(view, now)
        && let (Some(usual), Some(left)) = (boot.usual_ms, boot.left_ms)
    {
        let text = format!(
            "boot: {} of the usual {}, about {} left",
            guest::time(boot.took_ms),
            guest::time(usual),
            guest::time(left)
        );
        lines.push(Line::from(span(model, StyleRole::StateBusy, text)));
    }
    if let Some(quiet) = guest::quiet(view, now) {
        lines.push(Line::from(span(model, StyleRole::StateWarn, quiet)));
    }
}
