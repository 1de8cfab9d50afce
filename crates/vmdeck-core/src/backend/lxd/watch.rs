//! Notices the end of an instance, asked or unasked: a stop, a restart, a move, a member that dies.
//!
//! Facts: each start changes `last_used_at`. An event without a requestor is the guest's own doing; during a restart of its own it
//! reads as stopped for a moment. A member that comes back starts its instances again by itself: another boot than the one that was
//! connected. So the events only hurry and tell who it was; what counts is what the daemon says of the instance.

use super::{
    answer::{self, LxdEvent, LxdInstance, LxdLifecycle, status},
    client::LxdClient,
    error::LxdError,
    http::LxdStream,
};
use crate::{
    backend::contract::{MachineExit, Stats, note_exit},
    host::clock,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle};
use tokio_tungstenite::tungstenite::Message;

/// How often the daemon is asked without an event.
const LOOK: Duration = Duration::from_secs(2);
/// How long a state must last that may be one moment of a restart, or of a member that is slow.
const LASTS: Duration = Duration::from_secs(3);
/// The same where the guest's own shutdown was heard of: what follows in a restart follows at once.
const SHUTDOWN_LASTS: Duration = Duration::from_secs(1);
/// How often the daemon is asked in such a state.
const DOUBT: Duration = Duration::from_millis(250);
/// Stands for an instance that is not there, beside the daemon's numbers of states.
const GONE: u16 = 0;
/// How long the daemon may be silent.
const SILENT: Duration = Duration::from_mins(1);

/// What the watch tells.
#[derive(Clone, Debug)]
pub(super) struct WatchOutput {
    /// How the machine ended.
    pub(super) exit: watch::Sender<Option<MachineExit>>,
    /// How often the guest has restarted by itself.
    pub(super) restarts: watch::Sender<u32>,
    /// What it uses.
    pub(super) stats: Arc<Mutex<Option<Stats>>>,
}

impl WatchOutput {
    /// Returns an output that nothing was told to.
    pub(super) fn new() -> Self {
        Self { exit: watch::channel(None).0, restarts: watch::channel(0).0, stats: Arc::default() }
    }
}

/// Watches an instance that has just been started, until its end or until it is aborted.
pub(super) fn follow(client: LxdClient, started: LxdInstance, output: WatchOutput) -> AbortHandle {
    let work = async move {
        let mut judge = BootJudge::new(started);
        let mut events = client.events().await.ok();
        let mut answered = clock::now();
        loop {
            if events.is_none() {
                events = client.events().await.ok();
            }
            let next = clock::now() + if judge.doubtful.is_some() { DOUBT } else { LOOK };
            if let Some(event) = until(next, &mut events, &judge.path).await {
                judge.hear(&event);
            }
            let mut now = client.glance(&judge.boot.name).await;
            if matches!(now, Ok(None)) {
                // Under another name, if at all.
                let uuid = judge.boot.uuid();
                now = client
                    .instances()
                    .await
                    .map(|all| all.into_iter().find(|other| uuid.is_some() && other.uuid() == uuid));
            }
            let silent = clock::now().duration_since(answered);
            let seen = match now {
                Ok(now) => {
                    answered = clock::now();
                    judge.see(now.as_ref(), client.flavour.name)
                }
                Err(error) if silent >= SILENT => Observed::Ended(silence(&error, silent)),
                Err(_) => Observed::Nothing,
            };
            match seen {
                Observed::Nothing => {}
                Observed::Restarted => output.restarts.send_modify(|count| *count += 1),
                Observed::Ended(how) => return note_exit(&output.exit, how),
            }
            // A member that has just died answers late, and the next look must not wait for it.
            if judge.doubtful.is_none()
                && let Some(Ok(state)) = clock::within(LOOK, client.state(&judge.boot.name)).await
            {
                let positive = |n: i64| u64::try_from(n).unwrap_or_default();
                let stats =
                    Stats { memory: positive(state.memory.usage), cpu_ms: positive(state.cpu.usage) / 1_000_000 };
                *output.stats.lock() = Some(stats);
            }
        }
    };
    tokio::spawn(work).abort_handle()
}

fn silence(error: &LxdError, silent: Duration) -> MachineExit {
    MachineExit::TakenAway(format!("nothing was heard of it for {} s: {}", silent.as_secs(), error.words()))
}

/// Waits for the next event about the object at this path; `None` = none came in time, or there are no events any more.
async fn until(end: clock::Instant, events: &mut Option<LxdStream>, path: &str) -> Option<LxdLifecycle> {
    loop {
        let rest = end.saturating_duration_since(clock::now());
        let Some(stream) = events else {
            clock::sleep(rest).await;
            return None;
        };
        match clock::within(rest, stream.next()).await {
            None => return None,
            Some(Some(Ok(Message::Text(text)))) => {
                let event = serde_json::from_str(&text).ok().and_then(|event| answer::read::<LxdEvent>(event).ok());
                if let Some(LxdEvent { metadata: event }) = event
                    && event.source.split('?').next() == Some(path)
                {
                    return Some(event);
                }
            }
            Some(Some(Ok(Message::Close(_)) | Err(_)) | None) => *events = None,
            Some(Some(Ok(_))) => {}
        }
    }
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
enum Observed {
    /// It is as it was.
    Nothing,
    /// The guest has restarted by itself.
    Restarted,
    /// It is no longer the machine that was started.
    Ended(MachineExit),
}

/// Decides whether an instance is still in the boot that was connected.
#[derive(Debug)]
struct BootJudge {
    boot: LxdInstance,
    path: String,
    /// Whether the guest has begun to shut down or restart by itself.
    by_guest: bool,
    /// Who else has asked for something.
    by_other: Option<String>,
    /// Since when it has been in a state that may pass.
    doubtful: Option<(u16, clock::Instant)>,
}

impl BootJudge {
    fn new(boot: LxdInstance) -> Self {
        let path = format!("/1.0/instances/{}", boot.name);
        Self { boot, path, by_guest: false, by_other: None, doubtful: None }
    }

    fn hear(&mut self, event: &LxdLifecycle) {
        let what = event.action.strip_prefix("instance-").unwrap_or(&event.action);
        // Our own start may be heard of late; one by others comes after a stop.
        if !matches!(what, "stopped" | "shutdown" | "restarted" | "deleted" | "renamed" | "paused" | "restored") {
            return;
        }
        match &event.requestor {
            Some(who) if !who.username.is_empty() => {
                let who: String = who.username.chars().filter(|c| !c.is_control()).take(64).collect();
                self.by_other = Some(format!("{what} by `{who}`"));
            }
            _ => self.by_guest |= matches!(what, "shutdown" | "restarted"),
        }
    }

    /// Returns for how long the instance has been in a state that may pass.
    fn doubt(&mut self, state: u16) -> Duration {
        let since = match self.doubtful {
            Some((doubted, since)) if doubted == state => since,
            _ => clock::now(),
        };
        self.doubtful = Some((state, since));
        clock::now().duration_since(since)
    }

    /// Judges what the daemon says; `None` = there is no such instance.
    fn see(&mut self, now: Option<&LxdInstance>, provider: &str) -> Observed {
        let taken = |why: String| Observed::Ended(MachineExit::TakenAway(why));
        let by = |by: Option<String>| by.map(|by| format!(": {by}")).unwrap_or_default();
        let Some(now) = now else {
            // Who it was is told a moment later.
            if self.doubt(GONE) < DOUBT {
                return Observed::Nothing;
            }
            return taken(format!("{provider} no longer has it{}", by(self.by_other.take())));
        };
        if now.name != self.boot.name {
            let to: String = now.name.chars().filter(|c| !c.is_control()).collect();
            return taken(format!("{provider}: it was renamed to `{to}`{}", by(self.by_other.take())));
        }
        match now.status_code {
            status::RUNNING => self.doubtful = None,
            state => {
                let doubted = self.doubt(state);
                let is_own = self.by_guest && self.by_other.is_none() && state == status::STOPPED;
                if doubted < if is_own { SHUTDOWN_LASTS } else { LASTS } {
                    return Observed::Nothing;
                }
                return match (state, self.by_other.take()) {
                    _ if is_own => Observed::Ended(MachineExit::Shutdown("guest-shutdown".into())),
                    (status::ERROR, _) => taken(format!("its member `{}` is away", now.location)),
                    (_, Some(by)) => taken(format!("{provider}: {by}")),
                    (_, None) => taken(format!("{provider} says that it is {}", now.status)),
                };
            }
        }
        if now.uuid() != self.boot.uuid() {
            return taken(format!("{provider} has another instance of its name"));
        }
        if now.location != self.boot.location {
            return taken(format!("it was moved from `{}` to `{}`", self.boot.location, now.location));
        }
        if now.last_used_at == self.boot.last_used_at {
            return Observed::Nothing;
        }
        self.boot.last_used_at.clone_from(&now.last_used_at);
        let by_guest = std::mem::take(&mut self.by_guest);
        match self.by_other.take() {
            Some(by) => taken(format!("{provider}: {by}")),
            None if by_guest => Observed::Restarted,
            None => taken(format!("{provider} has started it again, and the guest did not ask for that")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::answer::LxdRequestor, *};
    use std::collections::BTreeMap;

    fn instance(code: u16, started: &str, location: &str) -> LxdInstance {
        LxdInstance {
            name: "v-1".into(),
            status: "Word".into(),
            status_code: code,
            location: location.into(),
            config: BTreeMap::from([("volatile.uuid".to_owned(), "u1".to_owned())]),
            last_used_at: started.into(),
            ..LxdInstance::default()
        }
    }

    fn event(action: &str, by: Option<&str>) -> LxdLifecycle {
        LxdLifecycle {
            action: action.into(),
            source: "/1.0/instances/v-1".into(),
            requestor: by.map(|by| LxdRequestor { username: by.into() }),
        }
    }

    /// Lets a judge hear and see; a state that may pass is seen for as long as it takes.
    async fn judged(heard: &[LxdLifecycle], seen: &[Option<LxdInstance>]) -> Vec<Observed> {
        let mut judge = BootJudge::new(instance(103, "t1", "m1"));
        for event in heard {
            judge.hear(event);
        }
        let mut out = Vec::new();
        for now in seen {
            let mut last = judge.see(now.as_ref(), "LXD");
            if last == Observed::Nothing {
                clock::sleep(LASTS).await;
                last = judge.see(now.as_ref(), "LXD");
            }
            out.push(last);
        }
        out
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_guests_own_restart_is_one() {
        let restarted = event("instance-restarted", None);
        let down = event("instance-shutdown", None);
        let running = |started: &str| Some(instance(103, started, "m1"));
        assert_eq!(judged(&[down.clone(), restarted.clone()], &[running("t2")]).await, [Observed::Restarted]);
        assert_eq!(judged(&[], &[running("t1")]).await, [Observed::Nothing]);
        let ours = event("instance-started", Some("root"));
        assert_eq!(judged(&[ours, restarted.clone()], &[running("t2")]).await, [Observed::Restarted]);
        let rows = [
            // By others, by a member that came back, after a look that missed it all.
            (vec![event("instance-restarted", Some("root"))], running("t2"), "restarted by `root`"),
            (vec![event("instance-started", None)], running("t2"), "has started it again"),
            (vec![], running("t2"), "has started it again"),
            (vec![restarted, event("instance-stopped", Some("root"))], running("t2"), "stopped by `root`"),
            (vec![], Some(instance(103, "t1", "m2")), "moved from `m1` to `m2`"),
            (vec![event("instance-deleted", Some("eve\u{1b}[2J"))], None, "deleted by `eve[2J`"),
            (vec![], Some(instance(112, "t1", "m1")), "its member `m1` is away"),
            (
                vec![],
                Some(LxdInstance { name: "mine".into(), ..instance(102, "t1", "m1") }),
                "it was renamed to `mine`",
            ),
            (vec![event("instance-paused", Some("root"))], Some(instance(110, "t1", "m1")), "paused by `root`"),
            (vec![down.clone()], Some(instance(110, "t1", "m1")), "says that it is Word"),
            (vec![], Some(instance(102, "t1", "m1")), "says that it is Word"),
        ];
        for (heard, now, want) in rows {
            let seen = judged(&heard, &[now]).await;
            let Observed::Ended(how) = &seen[0] else { panic!("{want}: {seen:?}") };
            assert!(how.to_string().contains(want) && !how.is_by_guest(), "{want}: {how}");
        }
        let seen = judged(&[down], &[Some(instance(102, "t1", "m1"))]).await;
        assert!(matches!(&seen[0], Observed::Ended(how) if how.is_by_guest()), "{seen:?}");
        let seen = judged(&[event("instance-stopped", Some("root"))], &[Some(instance(102, "t1", "m1"))]).await;
        assert!(matches!(&seen[0], Observed::Ended(how) if !how.is_by_guest()), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_of_a_restart_is_no_end() {
        let mut judge = BootJudge::new(instance(103, "t1", "m1"));
        judge.hear(&event("instance-shutdown", None));
        assert_eq!(judge.see(Some(&instance(102, "t1", "m1")), "LXD"), Observed::Nothing);
        clock::sleep(SHUTDOWN_LASTS / 2).await;
        assert_eq!(judge.see(Some(&instance(103, "t2", "m1")), "LXD"), Observed::Restarted);
        clock::sleep(LASTS).await;
        assert_eq!(judge.see(Some(&instance(112, "t2", "m1")), "LXD"), Observed::Nothing, "each doubt begins anew");
    }
}
