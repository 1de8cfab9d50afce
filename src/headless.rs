//! The front end without a screen: events go to the report sinks, the engine's exit code comes back.
//!
//! It sends one command only: when a report cannot be written, the run is cancelled rather than lost.

use crate::{
    engine::Handle,
    model::{command::Command, event::EventKind, exit::Exit, outcome::CancelReason},
    report::Fanout,
};
use std::time::Duration;

/// How often a live line is looked at again.
pub const LIVE: Duration = Duration::from_millis(100);
/// How often without one: heartbeats and gathered output only.
pub const QUIET: Duration = Duration::from_secs(1);

/// Follows a run to its end; `broken` hears of reports that could not be written.
pub async fn follow(mut run: Handle, fanout: &mut Fanout, tick: Duration, mut broken: impl FnMut(&str)) -> Exit {
    let start = tokio::time::Instant::now();
    let mut timer = tokio::time::interval(tick);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut lost = false;
    loop {
        let failed = tokio::select! {
            event = run.events.next() => match event {
                Some(event) => {
                    let last = matches!(event.kind, EventKind::RunEnded { .. });
                    let failed = fanout.event(&event);
                    lost |= !failed.is_empty();
                    if last {
                        report(&failed, &run, &mut broken);
                        break;
                    }
                    failed
                }
                None => break,
            },
            _ = timer.tick() => fanout.idle(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)),
        };
        lost |= !failed.is_empty();
        report(&failed, &run, &mut broken);
    }
    let exit = run.done.await.unwrap_or(Exit::Bug);
    // A run whose report was asked for and lost is not green.
    if lost && exit == Exit::Passed { Exit::Infra } else { exit }
}

fn report(failed: &[String], run: &Handle, broken: &mut impl FnMut(&str)) {
    for why in failed {
        broken(why);
        // Full only while the engine ends anyway.
        let _ = run.commands.try_send(Command::Cancel { reason: CancelReason::ReportFailed });
    }
}
