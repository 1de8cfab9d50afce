//! `vmdeck attach --plain`: a run that is in progress as lines of text, without a screen: for screen readers, and for terminals that
//! have none.

use super::{control, execute};
use crate::cli::OutputArgs;
use std::{path::Path, time::Duration};
use vmdeck_core::{
    host::{clock, signal, tail::Tail},
    report::{ReportSink, plan_index::PlanIndex, text::Text},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Event, EventKind},
    exit::RunExit,
    run_view::RunView,
};

/// How often it is looked whether somebody carries the run out while nothing is told.
const LOOK: Duration = Duration::from_secs(2);
/// The longest line of a record that can be an event, in bytes.
const LINE_MAX: usize = 1 << 20;

/// Tells what a run does until its end, and returns how it ended. Ctrl-C leaves it alone.
pub(super) async fn run(record: &Path, look: &OutputArgs) -> Result<RunExit> {
    let cannot = |e: std::io::Error| Fault::host(format!("cannot follow `{}`", record.display())).because(e);
    let mut signals = signal::listen().map_err(cannot)?;
    let mut tail = Tail::follow(&record.join("events.jsonl")).map_err(cannot)?;
    let mut text = Text::new(Box::new(std::io::stdout()), execute::style(look, false), PlanIndex::default());
    let (mut view, mut rest, mut heard) = (RunView::default(), Vec::new(), clock::now());
    loop {
        tokio::select! {
            bytes = tail.next() => {
                rest.extend_from_slice(bytes.map_err(cannot)?);
                heard = clock::now();
                for event in events(&mut rest) {
                    view.apply(&event);
                    text.event(&event, &view).map_err(cannot)?;
                    if let EventKind::RunEnded { exit, .. } = event.kind {
                        return Ok(exit);
                    }
                }
            }
            Some(signal) = signals.recv() => return Ok(RunExit::of_signal(signal)),
            () = clock::sleep(LOOK) => {
                text.idle(view.now_ms + clock::ms_since(heard), &view).map_err(cannot)?;
                if !is_alive(record).await {
                    return Err(Fault::infra("cannot follow the run to its end")
                        .because("its engine exited without reporting")
                        .hint("`vmdeck cleanup` removes what it left, if its guardian has not"));
                }
            }
        }
    }
}

async fn is_alive(record: &Path) -> bool {
    let record = record.to_owned();
    tokio::task::spawn_blocking(move || control::answers(&record)).await.unwrap_or(true)
}

/// Takes the whole lines of what was read; what is no event is left out.
fn events(rest: &mut Vec<u8>) -> Vec<Event> {
    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
        if rest.len() > LINE_MAX {
            rest.clear();
        }
        return Vec::new();
    };
    let whole: Vec<u8> = rest.drain(..=end).collect();
    whole.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_lines_and_nothing_else() {
        let line = br#"{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"warning","text":"x"}"#;
        let mut rest = line[..20].to_vec();
        assert!(events(&mut rest).is_empty());
        rest.extend_from_slice(&line[20..]);
        rest.extend_from_slice(b"\nno event\n{\"torn");
        assert_eq!(events(&mut rest).len(), 1);
        assert_eq!(rest, b"{\"torn");
        rest.resize(LINE_MAX + 1, b'x');
        assert!(events(&mut rest).is_empty() && rest.is_empty(), "an endless line is no event");
    }
}
