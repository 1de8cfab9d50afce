//! The tour: what a person does in the cockpit all day, on one page. The keys are those that are bound.

use super::{paint::span, text::fit, window::show};
use crate::{keymap::Action as A, model::Model, role::StyleRole};
use ratatui::{Frame, text::Line};

/// What is done, its keys, in the order of a day.
const STOPS: [(&str, &[(A, &str)]); 8] = [
    ("run", &[(A::Run, "what is selected"), (A::RerunFailed, "what failed"), (A::Watch, "after each change")]),
    ("choose", &[(A::PaneRun, "suites and cases"), (A::Mark, "mark guests"), (A::Search, "filter, or search")]),
    (
        "why?",
        &[(A::NextFailed, "next failure"), (A::Errors, "all errors"), (A::Compare, "beside the last time it passed")],
    ),
    (
        "read",
        &[
            (A::PaneLogs, "the log"),
            (A::NextError, "next error"),
            (A::Open, "pager"),
            (A::OpenEditor, "the code in the editor"),
        ],
    ),
    ("look inside", &[(A::Shell, "a shell in the guest"), (A::Attach, "its serial console"), (A::Details, "its boot")]),
    (
        "a held guest",
        &[(A::KeepGuest, "keep it"), (A::Proceed, "release it"), (A::RerunFailed, "run again in it, no boot")],
    ),
    ("stop", &[(A::Stop, "after this case"), (A::Kill, "now"), (A::Cancel, "all"), (A::Quit, "leave, or detach")]),
    ("earlier", &[(A::History, "runs of this folder"), (A::Copy, "a report of a failure"), (A::Theme, "colours")]),
];

/// Draws the tour.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let mut lines: Vec<Line<'static>> = vec![
        Line::from(span(
            model,
            StyleRole::UiText,
            "Guests boot, get the code, run the tests, and are removed. A guest in which",
        )),
        Line::from(span(model, StyleRole::UiText, "something failed waits for you a while.")),
        Line::default(),
    ];
    for (word, stops) in STOPS {
        let mut spans = vec![span(model, StyleRole::UiTitle, fit(word, 13, model.appearance.ascii))];
        for (action, what) in stops.iter().filter(|(action, _)| !model.appearance.keymap.key(*action).is_empty()) {
            spans.push(span(model, StyleRole::UiKey, model.appearance.keymap.key(*action)));
            spans.push(span(model, StyleRole::UiText, format!(" {what}  ")));
        }
        lines.push(Line::from(spans));
    }
    let rest = |text: &str| Line::from(span(model, StyleRole::UiDim, text.to_owned()));
    lines.extend([
        Line::default(),
        rest("1-6 choose a pane, tab the next one, z shows it alone."),
        rest("! = what destroys something asks for another key first."),
        rest("? all keys    Esc closes"),
    ]);
    show(model, frame, "the tour", lines, 100);
}
