//! The machines pane: the guests of the config or the run, then every other machine that a backend sees.

use super::{
    guest,
    paint::{frame_of, paint, span, style},
    sparkline, symbols,
    text::{cut, fit},
};
use crate::{
    host_state::Usage,
    layout::first_row,
    model::{Model, Pane},
    role::StyleRole,
};
use ratatui::{Frame, layout::Rect, text::Line};
use vmdeck_model::machine::{OwnedMachine, Owner};
use vmdeck_model::{
    ids::GuestId,
    lifecycle::MachineState,
    quantity::{show_count, show_size},
    text::Clean,
};

/// The columns of a figure's last minute, with a space.
const SPARKS: usize = 9;

/// Draws the machines pane.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    // In a very low pane the guests matter more than the titles of their columns.
    let has_head = area.height >= 4;
    let rows = usize::from(area.height.saturating_sub(2 + u16::from(has_head)));
    let guests = model.shown_guests();
    let others = model.other_machines();
    let places = guests.iter().filter_map(|id| model.shown.view.guests.get(id)?.placed.as_deref());
    let columns = Columns::of(width, places.map(str::len).max().unwrap_or(0));
    let mut lines = if has_head { vec![columns.head(model)] } else { Vec::new() };
    let all = guests.len() + others.len();
    let first = first_row(model.panes.machines.at, rows, all);
    for index in first..all.min(first + rows) {
        let line = match guests.get(index) {
            Some(id) => guest_line(model, id, &columns),
            None => other_line(model, others[index - guests.len()], &columns),
        };
        let is_current = index == model.panes.machines.at && model.panes.focus == Pane::Machines;
        lines.push(if is_current { line.style(style(model, StyleRole::UiSelection)) } else { line });
    }
    if all == 0 {
        let text = if model.panes.machines.filter.is_empty() {
            "no guests: the config has none"
        } else {
            "no guest matches the filter"
        };
        lines.push(Line::from(span(model, StyleRole::UiDim, text)));
    }
    let mut extra = Vec::new();
    if !model.panes.machines.filter.is_empty() {
        extra.push(span(model, StyleRole::UiBadge, format!(" /{} ", model.panes.machines.filter)));
    }
    if !model.panes.selected.is_empty() {
        extra.push(span(model, StyleRole::UiMark, format!(" {} marked ", model.panes.selected.len())));
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
    /// The member of a cluster; only where there are any.
    place: usize,
    address: usize,
    cells: usize,
}

impl Columns {
    /// Returns the columns for this width; `longest` is the length of the longest name of a member.
    fn of(width: usize, longest: usize) -> Self {
        let name = (width / 5).clamp(8, 20);
        let results = match width {
            70.. => 13,
            40.. => 10,
            _ => 0,
        };
        let boot = if width >= 54 { 19 } else { 0 };
        let doing = width.saturating_sub(name + results + boot + 6).clamp(6, 26);
        let mut rest = width.saturating_sub(name + doing + results + boot + 6);
        // With room, the last minute of the processor and of the memory stand beside the figures.
        let usage = match rest {
            62.. => 23 + 2 * SPARKS,
            23.. => 23,
            _ => 0,
        };
        rest -= usage;
        let place = if longest == 0 { 0 } else { longest.clamp(5, 12) + 1 };
        // Which member it is matters more than the address.
        let place = if rest > place { place } else { 0 };
        rest -= place;
        Self { name, doing, boot, results, usage, place, address: rest.saturating_sub(1), cells: 8 }
    }

    fn head(&self, model: &Model) -> Line<'static> {
        let ascii = model.appearance.ascii;
        let mut text = format!("    {} {}", fit("guest", self.name, ascii), fit("state", self.doing, ascii));
        for (width, title) in [
            (self.boot, "boot"),
            (self.results, "cases"),
            (
                self.usage,
                if self.usage > 23 { " cpu            memory              disk" } else { " cpu   memory     disk" },
            ),
            (self.place, "where"),
            (self.address, "address"),
        ] {
            if width > 0 {
                text.push(' ');
                text.push_str(&fit(title, width.saturating_sub(1), ascii));
            }
        }
        Line::from(span(model, StyleRole::UiDim, text))
    }
}

fn guest_line(model: &Model, id: &GuestId, columns: &Columns) -> Line<'static> {
    let ascii = model.appearance.ascii;
    let now = model.run_ms();
    let mut spans = vec![if model.panes.selected.contains(id) {
        span(model, StyleRole::UiMark, format!("{} ", symbols::pick(model, "●", "*")))
    } else {
        span(model, StyleRole::UiText, "  ")
    }];
    let Some(view) = model.shown.view.guests.get(id) else {
        let setup = model.setup.as_ref().and_then(|s| s.guest_named(id.as_str()));
        let what = setup.map_or_else(String::new, |g| match &g.address {
            // How large it is, nobody here knows.
            Some(address) => format!("{} {}, {address}", g.backend, g.os),
            None => format!("{} {}, {}, {}", g.backend, g.os, show_count(g.cpus as usize, "cpu"), show_size(g.memory)),
        });
        spans.push(span(model, StyleRole::StateIdle, format!("{} ", symbols::pick(model, "○", "o"))));
        spans.push(span(model, StyleRole::UiText, format!("{} ", fit(id.as_str(), columns.name, ascii))));
        spans.push(span(model, StyleRole::UiDim, what));
        return Line::from(spans);
    };
    let (doing, role) = guest::doing(model, view, now);
    let sign = match role {
        StyleRole::StateOk => symbols::pick(model, "●", "O"),
        StyleRole::StateBusy => symbols::pick(model, "◐", "@"),
        StyleRole::StateBad => symbols::pick(model, "✗", "x"),
        StyleRole::StateWarn => "!",
        StyleRole::StateKept => symbols::pick(model, "◆", "k"),
        _ => symbols::pick(model, "○", "o"),
    };
    spans.push(span(model, role, format!("{sign} ")));
    let local = if view.isolated { "" } else { " NOT ISOLATED" };
    spans.push(span(model, StyleRole::UiText, format!("{} ", fit(&format!("{id}{local}"), columns.name, ascii))));
    if let Some(quiet) = guest::quiet(view, now) {
        // It takes the room of both columns: nothing else matters now.
        let text = format!("{doing}: {quiet}");
        spans.push(span(model, StyleRole::StateWarn, fit(&text, columns.doing + columns.boot, ascii)));
    } else {
        spans.push(span(model, role, fit(&doing, columns.doing, ascii)));
        if columns.boot > 0 {
            boot(model, view, now, columns, &mut spans);
        }
    }
    if columns.results > 0 {
        let bad = view.tally.failed + view.tally.infra > 0;
        let role = if bad { StyleRole::StateBad } else { StyleRole::UiText };
        spans.push(span(model, role, format!(" {}", fit(&guest::results(view), columns.results - 1, ascii))));
    }
    if columns.usage > 0 {
        let is_up = model.is_live() && view.state != MachineState::Terminated;
        let usage = view.machine.as_ref().filter(|_| is_up).and_then(|m| model.host.usage.get(m));
        let text = usage.map_or_else(String::new, |u| {
            let sparks = |figure: fn(&Usage) -> u64, top: u64| {
                let values = view.machine.as_ref().map(|name| model.host.lately(name, figure)).unwrap_or_default();
                let top = top.max(values.iter().max().copied().unwrap_or(0));
                sparkline::bars(model, &values, top, SPARKS - 1)
            };
            let (cpu, memory, disk) = (u.cpu_percent, show_size(u.memory), show_size(u.disk));
            if columns.usage == 23 {
                return format!("{cpu:>3}% {memory:>8} {disk:>8}");
            }
            let (busy, full) = (sparks(|u| u.cpu_percent, 100), sparks(|u| u.memory, 1));
            format!("{cpu:>3}% {busy} {memory:>8} {full} {disk:>8}")
        });
        spans.push(span(model, StyleRole::UiDim, format!(" {}", fit(&text, columns.usage - 1, ascii))));
    }
    if columns.place > 0 {
        let place = Clean::from_text(view.placed.as_deref().unwrap_or_default()).into_string();
        spans.push(span(model, StyleRole::UiDim, format!(" {}", fit(&place, columns.place - 1, ascii))));
    }
    if columns.address > 0 {
        let text = match (&view.reached, model.pending.kept.contains(id)) {
            (_, true) => "stays at the end".to_owned(),
            (Some((transport, Some(address))), _) => format!("{transport} {address}"),
            (Some((transport, None)), _) => transport.clone(),
            _ => view.backend.clone(),
        };
        spans.push(span(model, StyleRole::UiDim, format!(" {}", cut(&text, columns.address - 1, ascii))));
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
    let ascii = model.appearance.ascii;
    spans.push(span(model, StyleRole::UiText, " "));
    match guest::boot(view, now) {
        Some(guest::BootProgress { took_ms, usual_ms: Some(usual), left_ms }) => {
            let (full, rest) = symbols::bar(model, took_ms, usual, columns.cells);
            let is_late = took_ms > usual;
            spans.push(span(model, if is_late { StyleRole::GaugeOver } else { StyleRole::GaugeFull }, full));
            spans.push(span(model, StyleRole::GaugeUsual, rest));
            let left = match left_ms {
                _ if is_late => format!(" +{}", guest::time(took_ms - usual)),
                Some(left) => format!(" ~{} left", guest::time(left)),
                None => String::new(),
            };
            spans.push(span(model, StyleRole::UiDim, fit(&left, width - columns.cells, ascii)));
        }
        Some(boot) => {
            spans.push(span(
                model,
                StyleRole::UiDim,
                fit(&format!("booting {}", guest::time(boot.took_ms)), width, ascii),
            ));
        }
        None => {
            let text = match &view.reused {
                Some(reused) => reused.to_string().replace('×', symbols::pick(model, "×", "x")),
                None => view
                    .boot_ms()
                    .map(|ms| format!("{} in {}", view.came_up_short(), guest::time(ms)))
                    .unwrap_or_default(),
            };
            spans.push(span(model, StyleRole::UiDim, fit(&text, width, ascii)));
        }
    }
}

fn other_line(model: &Model, row: &OwnedMachine, columns: &Columns) -> Line<'static> {
    let ascii = model.appearance.ascii;
    let (sign, role) = match row.owner {
        Owner::Kept => (symbols::pick(model, "◆", "k"), StyleRole::StateKept),
        Owner::Dead => ("!", StyleRole::StateWarn),
        Owner::Running => (symbols::pick(model, "●", "O"), StyleRole::StateBusy),
        Owner::NotOurs => (symbols::pick(model, "○", "o"), StyleRole::StateIdle),
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
        span(model, StyleRole::UiDim, format!("{} ", fit(&name, columns.name, ascii))),
        span(model, role, text),
    ])
}
