//! The front end without a screen: events go to the report sinks, the engine's exit code comes back.
//!
//! It sends one command only: when a report cannot be written, the run is cancelled rather than lost.

use super::control::ControlSocket;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    sync::mpsc,
};
use vmdeck_core::{engine::Handle, host::clock, report::Fanout};
use vmdeck_model::{
    command::{Command, DETACH},
    event::EventKind,
    exit::RunExit,
    outcome::CancelReason,
};

/// How often a live line is drawn again.
pub(super) const LIVE: Duration = Duration::from_millis(100);
/// How often reports are updated without a live line: only for heartbeats and gathered output.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Follows a run to its end; `broken` is called with each report that could not be written.
pub(super) async fn follow(
    mut run: Handle,
    fanout: &mut Fanout,
    tick: Duration,
    mut broken: impl FnMut(&str),
) -> RunExit {
    let start = clock::now();
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
            _ = timer.tick() => fanout.idle(clock::ms_since(start)),
        };
        lost |= !failed.is_empty();
        report(&failed, &run, &mut broken);
    }
    let exit = run.done.await.unwrap_or(RunExit::Bug);
    // A run whose report was asked for and lost is not green.
    if lost && exit == RunExit::Passed { RunExit::Infra } else { exit }
}

/// Passes the commands of another process on, one line of JSON each. Its end without [`DETACH`] is that of a terminal: the run ends and
/// cleans up. `orphaned` = but only if nobody joins it by its control socket for so long: the other process has died.
pub(super) async fn obey(
    input: impl AsyncBufRead + Unpin,
    commands: mpsc::Sender<Command>,
    orphaned: Option<(Arc<ControlSocket>, Duration)>,
) {
    let mut lines = input.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == DETACH {
            return;
        }
        // A word of another version is left alone: it cannot be answered here.
        if let Ok(command) = serde_json::from_str(&line) {
            let _ = commands.send(command).await;
        }
    }
    if let Some((control, limit)) = orphaned {
        while clock::within(limit, control.until_attached()).await.is_some() {
            control.until_alone().await;
            if control.was_let_go() {
                return;
            }
        }
    }
    let _ = commands.send(Command::Cancel { reason: CancelReason::Hangup }).await;
}

fn report(failed: &[String], run: &Handle, broken: &mut impl FnMut(&str)) {
    for why in failed {
        broken(why);
        // Full only while the engine ends anyway.
        let _ = run.commands.try_send(Command::Cancel { reason: CancelReason::ReportFailed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::ids::GuestId;

    #[tokio::test]
    async fn an_end_is_a_hangup_and_a_detach_is_not() {
        let stop = Command::Stop { guest: GuestId::new("deb").expect("name") };
        let hangup = Command::Cancel { reason: CancelReason::Hangup };
        for (text, expected) in [
            ("{\"command\":\"stop\",\"guest\":\"deb\"}\ndetach\n", vec![stop]),
            ("{\"command\":\"dance\"}\nnonsense\n", vec![hangup.clone()]),
            ("", vec![hangup]),
        ] {
            let (send, mut receive) = mpsc::channel(8);
            obey(text.as_bytes(), send, None).await;
            let mut got = Vec::new();
            while let Ok(command) = receive.try_recv() {
                got.push(command);
            }
            assert_eq!(got, expected, "{text}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_whose_cockpit_has_died_ends_unless_somebody_joins_it() {
        use crate::app::control;
        let home = tempfile::tempdir().expect("tempdir");
        let (limit, run) = (Duration::from_millis(50), vmdeck_model::ids::RunId::from_bits(7));
        let (send, mut receive) = mpsc::channel(8);
        let socket = Arc::new(ControlSocket::open(home.path(), &run, true, send.clone()).expect("open"));
        obey(&b""[..], send.clone(), Some((Arc::clone(&socket), limit))).await;
        let hangup = Command::Cancel { reason: CancelReason::Hangup };
        assert_eq!(receive.try_recv(), Ok(hangup.clone()), "nobody came");
        // One that comes and goes without a word has died as well.
        let joined = control::join(home.path(), false).expect("joined");
        socket.until_attached().await;
        let obeying = tokio::spawn(obey(&b""[..], send.clone(), Some((Arc::clone(&socket), limit))));
        tokio::task::yield_now().await;
        drop(joined);
        obeying.await.expect("no panic");
        assert_eq!(receive.try_recv(), Ok(hangup));
        let joined = control::join(home.path(), false).expect("joined");
        socket.until_attached().await;
        let obeying = tokio::spawn(obey(&b""[..], send, Some((Arc::clone(&socket), limit))));
        // It sees that somebody is there before that one goes.
        tokio::task::yield_now().await;
        joined.lines.send(DETACH.to_owned()).expect("sent");
        obeying.await.expect("no panic");
        assert!(receive.try_recv().is_err(), "it goes on alone, as somebody wants");
    }
}
