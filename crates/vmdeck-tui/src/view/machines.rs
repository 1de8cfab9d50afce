//! The machines pane: the guests of the config or the run, then every other machine that a backend sees.

use super::{cut, fit, frame_of, guest, paint, span, style, symbols};
use crate::{
    model::{Model, Pane},
    update::first_row,
};
use ratatui::{Frame, layout::Rect, text::Line};
use vmdeck_model::machine::{OwnedMachine, Owner};
use vmdeck_model::{ids::GuestId, lifecycle::State, quantity::show_size, text::Clean};

/// Draws it.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    // In a very low pane the guests matter more than the titles of their columns.
    let has_head = area.height >= 4;
    let rows = usize::from(area.height.saturating_sub(2 + u16::from(has_head)));
    let guests = model.shown_guests();
    let others = model.other_machines();
    let columns = Columns::of(width);
    let mut lines = if has_head { vec![columns.head(model)] } else { Vec::new() };
    let all = guests.len() + others.len();
    let first = first_row(model.machines.at, rows, all);
    for index in first..all.min(first + rows) {
        let line = match guests.get(index) {
            Some(id) => guest_line(model, id, &columns),
            None => other_line(model, others[index - guests.len()], &columns),
        };
        let is_current = index == model.machines.at && model.focus == Pane::Machines;
        lines.push(if is_current { line.style(style(model, "ui.selection")) } else { line });
    }
    if all == 0 {
        let text =
            if model.machines.filter.is_empty() { "no guests: the config has none" } else { "nothing fits the filter" };
        lines.push(Line::from(span(model, "ui.dim", text)));
    }
    let mut extra = Vec::new();
    if !model.machines.filter.is_empty() {
        extra.push(span(model, "ui.badge", format!(" /{} ", model.machines.filter)));
    }
    if !model.marks.is_empty() {
        extra.push(span(model, "ui.mark", format!(" {} marked ", model.marks.len())));
    }
    paint(frame, area, frame_of(model, Pane::Machines, extra), lines);
}

/// The widths of the columns; the later ones go first where there is no room.
struct Columns {
    name: usize,
    doing: usize,
    boot: usize,
    results: usize,
    usage: usize,
    address: usize,
    cells: usize,
}

impl Columns {
    fn of(width: usize) -> Self {
        let name = (width / 5).clamp(8, 20);
        let results = if width >= 40 { 10 } else { 0 };
        let boot = if width >= 54 { 19 } else { 0 };
        let doing = width.saturating_sub(name + results + boot + 6).clamp(6, 26);
        let mut rest = width.saturating_sub(name + doing + results + boot + 6);
        let usage = if rest >= 23 { 23 } else { 0 };
        rest -= usage;
        Self { name, doing, boot, results, usage, address: rest.saturating_sub(1), cells: 8 }
    }

    fn head(&self, model: &Model) -> Line<'static> {
        let ascii = model.look.ascii;
        let mut text = format!("    {} {}", fit("guest", self.name, ascii), fit("state", self.doing, ascii));
        for (width, title) in [
            (self.boot, "boot"),
            (self.results, "cases"),
            (self.usage, " cpu   memory     disk"),
            (self.address, "address"),
        ] {
            if width > 0 {
                text.push(' ');
                text.push_str(&fit(title, width.saturating_sub(1), ascii));
            }
        }
        Line::from(span(model, "ui.dim", text))
    }
}

fn guest_line(model: &Model, id: &GuestId, columns: &Columns) -> Line<'static> {
    let ascii = model.look.ascii;
    let now = model.run_ms();
    let mut spans = vec![if model.marks.contains(id) {
        span(model, "ui.mark", format!("{} ", symbols::pick(model, "●", "*")))
    } else {
        span(model, "ui.text", "  ")
    }];
    let Some(view) = model.view.guests.get(id) else {
        let setup = model.setup.as_ref().and_then(|s| s.guests.iter().find(|g| g.id == *id));
        let what = setup
            .map_or_else(String::new, |g| format!("{} {}, {} cpus, {}", g.backend, g.os, g.cpus, show_size(g.memory)));
        spans.push(span(model, "state.idle", format!("{} ", symbols::pick(model, "○", "o"))));
        spans.push(span(model, "ui.text", format!("{} ", fit(id.as_str(), columns.name, ascii))));
        spans.push(span(model, "ui.dim", what));
        return Line::from(spans);
    };
    let (doing, role) = guest::doing(model, view, now);
    let sign = match role {
        "state.ok" => symbols::pick(model, "●", "O"),
        "state.busy" => symbols::pick(model, "◐", "@"),
        "state.bad" => symbols::pick(model, "✗", "x"),
        "state.warn" => "!",
        "state.kept" => symbols::pick(model, "◆", "k"),
        _ => symbols::pick(model, "○", "o"),
    };
    spans.push(span(model, role, format!("{sign} ")));
    let local = if view.isolated { "" } else { " NOT ISOLATED" };
    spans.push(span(model, "ui.text", format!("{} ", fit(&format!("{id}{local}"), columns.name, ascii))));
    if let Some(quiet) = guest::quiet(view, now) {
        // It takes the room of both columns: nothing else matters now.
        let text = format!("{doing}: {quiet}");
        spans.push(span(model, "state.warn", fit(&text, columns.doing + columns.boot, ascii)));
    } else {
        spans.push(span(model, role, fit(&doing, columns.doing, ascii)));
        if columns.boot > 0 {
            boot(model, view, now, columns, &mut spans);
        }
    }
    if columns.results > 0 {
        let bad = view.tally.failed + view.tally.infra > 0;
        let role = if bad { "state.bad" } else { "ui.text" };
        spans.push(span(model, role, format!(" {}", fit(&guest::results(view), columns.results - 1, ascii))));
    }
    if columns.usage > 0 {
        let is_up = model.is_live() && view.state != State::Terminated;
        let usage = view.machine.as_ref().filter(|_| is_up).and_then(|m| model.usage.get(m));
        let text = usage.map_or_else(String::new, |u| {
            format!("{:>3}% {:>8} {:>8}", u.cpu_percent, show_size(u.memory), show_size(u.disk))
        });
        spans.push(span(model, "ui.dim", format!(" {}", fit(&text, columns.usage - 1, ascii))));
    }
    if columns.address > 0 {
        let text = match (&view.reached, model.kept.contains(id)) {
            (_, true) => "stays at the end".to_owned(),
            (Some((transport, Some(address))), _) => format!("{transport} {address}"),
            (Some((transport, None)), _) => transport.clone(),
            _ => view.backend.clone(),
        };
        spans.push(span(model, "ui.dim", format!(" {}", cut(&text, columns.address - 1, ascii))));
    }
    Line::from(spans)
}

/// The progress of a boot, with what is left of it; or what it took.
fn boot(
    model: &Model,
    view: &vmdeck_model::run_view::GuestView,
    now: u64,
    columns: &Columns,
    spans: &mut Vec<ratatui::text::Span<'static>>,
) {
    let width = columns.boot - 1;
    let ascii = model.look.ascii;
    spans.push(span(model, "ui.text", " "));
    match guest::boot(view, now) {
        Some(guest::Boot { took_ms, usual_ms: Some(usual), left_ms }) => {
            let (full, rest) = symbols::bar(model, took_ms, usual, columns.cells);
            let is_late = took_ms > usual;
            spans.push(span(model, if is_late { "gauge.over" } else { "gauge.full" }, full));
            spans.push(span(model, "gauge.usual", rest));
            let left = match left_ms {
                _ if is_late => format!(" +{}", guest::time(took_ms - usual)),
                Some(left) => format!(" ~{} left", guest::time(left)),
                None => String::new(),
            };
            spans.push(span(model, "ui.dim", fit(&left, width - columns.cells, ascii)));
        }
        Some(boot) => {
            spans.push(span(model, "ui.dim", fit(&format!("booting {}", guest::time(boot.took_ms)), width, ascii)));
        }
        None => {
            let text = view.boot_ms().map(|ms| format!("booted in {}", guest::time(ms))).unwrap_or_default();
            spans.push(span(model, "ui.dim", fit(&text, width, ascii)));
        }
    }
}

fn other_line(model: &Model, row: &OwnedMachine, columns: &Columns) -> Line<'static> {
    let ascii = model.look.ascii;
    let (sign, role) = match row.owner {
        Owner::Kept => (symbols::pick(model, "◆", "k"), "state.kept"),
        Owner::Dead => ("!", "state.warn"),
        Owner::Running => (symbols::pick(model, "●", "O"), "state.busy"),
        Owner::NotOurs => (symbols::pick(model, "○", "o"), "state.idle"),
    };
    let owner = match (row.owner, row.short_run()) {
        (Owner::Dead, Some(run)) => format!("left by run {run}"),
        (Owner::Running, Some(run)) => format!("of run {run}"),
        (owner, _) => owner.to_string(),
    };
    let name = Clean::from_text(&row.machine.name).into_string();
    let address = row.machine.address.clone().unwrap_or_default();
    let text = format!("{owner}, {} ({}) {address}", row.machine.state, row.machine.backend);
    Line::from(vec![
        span(model, role, format!("  {sign} ")),
        span(model, "ui.dim", format!("{} ", fit(&name, columns.name, ascii))),
        span(model, role, text),
    ])
}
