//! Consumers of events: each writes one kind of report. They see facts and the fold of them, never the engine.
//!
//! Guest text arrives clean; what a format needs beyond that (XML, workflow commands, Markdown) is done in its own file.

pub mod github;
pub mod html;
pub mod jsonl;
pub mod junit;
mod junit_subtests;
mod junit_xml;
pub mod launcher;
pub mod markdown;
pub mod plan_index;
pub mod progress;
pub mod summary;
pub mod text;

use std::io;
use vmdeck_model::{event::Event, run_view::RunView};

/// Writes a report.
pub trait ReportSink: Send {
    /// Returns the name of the report, for the message when it fails.
    fn name(&self) -> String;
    /// Takes one event; `view` already includes it.
    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()>;
    /// Notes that time has passed without an event; only a live report does something here.
    fn idle(&mut self, _now_ms: u64, _view: &RunView) -> io::Result<()> {
        Ok(())
    }
}

/// Hands every event to every sink; one that fails is dropped and reported, the others continue.
#[derive(Default)]
pub struct Fanout {
    sinks: Vec<Box<dyn ReportSink>>,
    /// The fold that all of them share.
    pub view: RunView,
}

impl Fanout {
    /// Adds a sink.
    pub fn add(&mut self, sink: Box<dyn ReportSink>) {
        self.sinks.push(sink);
    }

    /// Takes an event; returns what failed.
    pub fn event(&mut self, event: &Event) -> Vec<String> {
        self.view.apply(event);
        let view = &self.view;
        keep_working(&mut self.sinks, |sink| sink.event(event, view))
    }

    /// Passes on to the live reports that time has passed.
    pub fn idle(&mut self, now_ms: u64) -> Vec<String> {
        let view = &self.view;
        keep_working(&mut self.sinks, |sink| sink.idle(now_ms, view))
    }
}

fn keep_working(
    sinks: &mut Vec<Box<dyn ReportSink>>,
    mut call: impl FnMut(&mut dyn ReportSink) -> io::Result<()>,
) -> Vec<String> {
    let mut failed = Vec::new();
    sinks.retain_mut(|sink| match call(sink.as_mut()) {
        Ok(()) => true,
        Err(e) => {
            // A reader who closed the pipe (`| head`) has seen enough; that is no failure.
            if e.kind() != io::ErrorKind::BrokenPipe {
                failed.push(format!("cannot write {}: {e}", sink.name()));
            }
            false
        }
    });
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::event::EventKind;

    struct Failing;

    impl ReportSink for Failing {
        fn name(&self) -> String {
            "the broken one".into()
        }
        fn event(&mut self, _: &Event, _: &RunView) -> io::Result<()> {
            Err(io::Error::other("disk full"))
        }
    }

    #[test]
    fn a_sink_that_fails_is_told_once_and_the_others_go_on() {
        let buffer = jsonl::Shared::default();
        let mut fanout = Fanout::default();
        fanout.add(Box::new(Failing));
        fanout.add(Box::new(jsonl::Jsonl::new("copy".into(), Box::new(buffer.clone()))));
        let event =
            Event { seq: 1, at: chrono::DateTime::UNIX_EPOCH, elapsed_ms: 0, origin: None, kind: EventKind::Unknown };
        assert_eq!(fanout.event(&event), ["cannot write the broken one: disk full"]);
        assert!(fanout.event(&event).is_empty());
        assert_eq!(buffer.text().lines().count(), 2);
    }
}
