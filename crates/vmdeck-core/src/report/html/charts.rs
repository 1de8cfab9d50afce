//! The pictures of the page: when what ran, and what a boot was made of.

use maud::{Markup, html};
use std::collections::BTreeMap;
use vmdeck_model::{
    event::{Event, EventKind, Phase},
    ids::GuestId,
    quantity::show_duration,
};

/// The width of a picture and of the names at its left, in its own units.
const WIDTH: u64 = 12_000;
const NAMES: u64 = 1_900;
/// The height of a row.
const ROW: u64 = 220;
/// Most bars of one guest: more cannot be told apart.
const MOST: usize = 2_000;

/// A time in which something ran in a guest.
#[derive(Clone, Debug)]
pub(super) struct ChartSpan {
    pub(super) label: String,
    /// The class by which it is coloured: `phase` or a verdict.
    pub(super) class: &'static str,
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
}

/// What ran when, by guest.
#[derive(Debug, Default)]
pub(super) struct Spans {
    of: BTreeMap<GuestId, Vec<ChartSpan>>,
    /// When the running case of a guest began.
    begun: BTreeMap<GuestId, u64>,
}

impl Spans {
    /// Takes one event.
    pub(super) fn take(&mut self, event: &Event) {
        let now = event.elapsed_ms;
        match &event.kind {
            EventKind::PhaseEnded { guest, phase, took_ms, .. } if *phase != Phase::Tests => {
                self.add(guest, phase.as_str().to_owned(), "phase", (now.saturating_sub(*took_ms), now));
            }
            EventKind::CaseStarted { guest, attempt: 1, .. } => {
                self.begun.insert(guest.clone(), now);
            }
            EventKind::CaseEnded { guest, suite, case, verdict, .. } => {
                let Some(from) = self.begun.remove(guest) else { return };
                self.add(guest, format!("{suite}/{}", case.shown()), verdict.as_str(), (from, now));
            }
            _ => {}
        }
    }

    fn add(&mut self, guest: &GuestId, label: String, class: &'static str, (from_ms, to_ms): (u64, u64)) {
        let list = self.of.entry(guest.clone()).or_default();
        if list.len() < MOST {
            list.push(ChartSpan { label, class, from_ms, to_ms });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Returns the picture: a row for each guest, from the run's beginning to its end.
    pub(super) fn picture(&self, end_ms: u64) -> Markup {
        let rows: Vec<(String, &[ChartSpan])> =
            self.of.iter().map(|(guest, spans)| (guest.to_string(), &spans[..])).collect();
        picture("Timeline of the run", &rows, end_ms)
    }
}

/// Returns bars in rows over an axis of time.
pub(super) fn picture(label: &str, rows: &[(String, &[ChartSpan])], end_ms: u64) -> Markup {
    let x = |ms: u64| NAMES + (WIDTH - NAMES).saturating_mul(ms) / end_ms.max(1);
    let height = ROW * (rows.len() as u64 + 1);
    let ticks: Vec<u64> = (0..=4).map(|n| end_ms * n / 4).collect();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(label) {
            @for tick in &ticks {
                line.axis x1=(x(*tick)) x2=(x(*tick)) y1="0" y2=(height - ROW) {}
                text x=(x(*tick)) y=(height - 60) text-anchor=(if *tick == end_ms { "end" } else { "start" }) {
                    (show_duration(std::time::Duration::from_millis(*tick)))
                }
            }
            @for (at, (name, spans)) in rows.iter().enumerate() {
                text x="0" y=(ROW * at as u64 + 150) { (short(name)) }
                @for span in *spans {
                    @let took = span.to_ms.saturating_sub(span.from_ms);
                    rect class=(span.class) x=(x(span.from_ms)) y=(ROW * at as u64 + 30)
                        width=((x(span.to_ms) - x(span.from_ms)).max(10)) height=(ROW - 60) {
                        title { (span.label) " " (show_duration(std::time::Duration::from_millis(took))) }
                    }
                }
            }
        }
    }
}

/// Returns a name that fits beside its row.
fn short(name: &str) -> String {
    let most = 26;
    if name.chars().count() <= most { name.to_owned() } else { name.chars().take(most - 1).chain(['…']).collect() }
}
