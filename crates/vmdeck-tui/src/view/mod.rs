//! Draws the state. Nothing is decided or changed here; one file for each pane.

mod details;
mod events;
mod evidence;
mod footer;
mod guest;
mod header;
mod host;
mod logs;
mod machines;
mod overlays;
mod paint;
mod remedies;
mod run;
mod sparkline;
mod symbols;
mod text;
mod tour;
mod window;

use super::{
    layout::Layout,
    model::{Model, Pane},
};
use ratatui::Frame;

pub(super) use footer::track_start;

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame<'_>) {
    let layout = Layout::of(model);
    header::draw(model, frame, layout.header);
    for (pane, area) in &layout.panes {
        match pane {
            Pane::Machines => machines::draw(model, frame, *area),
            Pane::Lock => host::lock(model, frame, *area),
            Pane::Preflight => host::preflight(model, frame, *area),
            Pane::Logs => logs::draw(model, frame, *area),
            Pane::Run => run::draw(model, frame, *area),
            Pane::Events => events::draw(model, frame, *area),
        }
    }
    if let Some(bar) = layout.bar {
        footer::replay(model, frame, bar);
    }
    footer::draw(model, frame, layout.footer);
    overlays::draw(model, frame);
}

#[cfg(test)]
mod tests;
