//! What a person controls of each guest while the run is in progress: stop it, kill it, keep it, end its pause.
//!
//! The dispatcher sets it, the guest's job obeys it; the run's own end is the token that all of these hang on.

use super::kernel_reach::KernelReach;
use crate::host::clock;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    command::{Command, KernelKey},
    ids::GuestId,
    plan::Keep,
};

/// The controls of one guest.
#[derive(Debug)]
pub(super) struct GuestControl {
    /// Cancelled when everything of this guest must end; a child of the run's own.
    pub(super) cancel: CancellationToken,
    /// Cancelled when no further case may begin.
    pub(super) stop: CancellationToken,
    /// Ends the pause that is on, if one is.
    pause: Mutex<Option<(CancellationToken, clock::Instant)>>,
    /// Takes the answer to the question that its case is, while there is one.
    question: Mutex<Option<oneshot::Sender<bool>>>,
    /// Whether a person is in the guest.
    in_use: watch::Sender<bool>,
    keep: AtomicBool,
    killed: AtomicBool,
    /// The way to its kernel, while there is one.
    kernel: Mutex<Option<KernelReach>>,
}

impl GuestControl {
    /// Begins a pause; returns a token that is cancelled when it is over, by a person or with the guest.
    pub(super) fn begin_pause(&self) -> CancellationToken {
        let over = self.stop.child_token();
        *self.pause.lock() = Some((over.clone(), clock::now()));
        over
    }

    /// Begins to wait for an answer of a person; returns where it comes.
    pub(super) fn ask(&self) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        *self.question.lock() = Some(answer);
        answered
    }

    /// Returns whether a person is in the guest, as it changes.
    pub(super) fn in_use(&self) -> watch::Receiver<bool> {
        self.in_use.subscribe()
    }

    /// Ends the pause; returns whether there was one.
    fn end_pause(&self) -> bool {
        let over = self.pause.lock().take();
        over.inspect(|(over, _)| over.cancel()).is_some()
    }
}

/// How a guest comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestEnd {
    /// Nothing in the guest failed.
    Well,
    /// The guest did not boot, or a case in it failed or was infra.
    Failed,
}

/// The controls of all guests.
#[derive(Debug)]
pub(super) struct RunControls {
    controls: BTreeMap<GuestId, GuestControl>,
    keep_failed: AtomicBool,
}

impl RunControls {
    /// Returns the controls for the guests of a run, job by job: what ends one guest of a job ends all of them.
    pub(super) fn new<'a, J>(jobs: impl Iterator<Item = J>, run: &CancellationToken, keep_failed: bool) -> Self
    where
        J: Iterator<Item = &'a GuestId>,
    {
        let mut controls = BTreeMap::new();
        for guests in jobs {
            let cancel = run.child_token();
            let stop = cancel.child_token();
            controls.extend(guests.map(|guest| {
                let control = GuestControl {
                    stop: stop.clone(),
                    cancel: cancel.clone(),
                    pause: Mutex::default(),
                    question: Mutex::default(),
                    in_use: watch::channel(false).0,
                    keep: AtomicBool::default(),
                    killed: AtomicBool::default(),
                    kernel: Mutex::default(),
                };
                (guest.clone(), control)
            }));
        }
        Self { controls, keep_failed: AtomicBool::new(keep_failed) }
    }

    /// Returns the controls of a guest; every guest of the plan has them.
    pub(super) fn of(&self, guest: &GuestId) -> Option<&GuestControl> {
        self.controls.get(guest)
    }

    /// Takes a command about guests; the error is a sentence.
    pub(super) fn apply(&self, command: &Command) -> Result<(), String> {
        let control = |guest: &GuestId| self.of(guest).ok_or_else(|| format!("guest `{guest}` is not in this run"));
        match command {
            Command::Stop { guest } => control(guest)?.stop.cancel(),
            Command::Kill { guest } => {
                let control = control(guest)?;
                control.killed.store(true, Ordering::Relaxed);
                control.cancel.cancel();
            }
            Command::Proceed { guest } => {
                if !control(guest)?.end_pause() {
                    return Err(format!("guest `{guest}` is not held for inspection"));
                }
            }
            Command::Answer { guest, passed } => {
                let question = control(guest)?.question.lock().take();
                let is_heard = question.is_some_and(|question| question.send(*passed).is_ok());
                if !is_heard {
                    return Err(format!("guest `{guest}` has no question that could be answered"));
                }
            }
            Command::InUse { guest, on } => drop(control(guest)?.in_use.send_replace(*on)),
            Command::Keep { guest, on } => {
                let control = control(guest)?;
                control.keep.store(*on, Ordering::Relaxed);
                if *on {
                    // The wait was for this decision.
                    control.end_pause();
                }
            }
            Command::Press { key: KernelKey::SysRq { key }, .. } if !key.is_ascii_alphanumeric() => {
                return Err(format!("`{}` is no key for SysRq: it is a letter or a digit", key.escape_default()));
            }
            Command::Press { guest, key } => {
                let reach = control(guest)?.kernel.lock().clone();
                let reach = reach.ok_or_else(|| format!("the kernel of guest `{guest}` cannot be reached now"))?;
                tokio::spawn(reach.press(*key));
            }
            Command::KeepFailed { on } => self.keep_failed.store(*on, Ordering::Relaxed),
            Command::Cancel { .. } => {}
        }
        Ok(())
    }

    /// Ends the pause that began last, of those in whose guest nobody is; returns the guest.
    pub(super) fn end_youngest_pause(&self) -> Option<GuestId> {
        let paused = self.controls.iter().filter(|(_, control)| !*control.in_use.borrow());
        let since = |control: &GuestControl| {
            control.pause.lock().as_ref().filter(|(over, _)| !over.is_cancelled()).map(|(_, since)| *since)
        };
        let (id, control, _) =
            paused.filter_map(|(id, control)| Some((id, control, since(control)?))).max_by_key(|found| found.2)?;
        control.end_pause().then(|| id.clone())
    }

    /// Notes the way to the kernel of a guest; `None` = there is none any more.
    pub(super) fn reach_kernel(&self, guest: &GuestId, reach: Option<KernelReach>) {
        if let Some(control) = self.of(guest) {
            *control.kernel.lock() = reach;
        }
    }

    /// Returns whether a guest is to stay after its last case, by the run's options or a person's request. One that was
    /// killed never stays.
    pub(super) fn keeps(&self, guest: &GuestId, of_run: Keep, end: GuestEnd) -> bool {
        let always = of_run == Keep::Always;
        let Some(control) = self.of(guest) else { return always };
        if control.killed.load(Ordering::Relaxed) {
            return false;
        }
        let failed = end == GuestEnd::Failed && self.keep_failed.load(Ordering::Relaxed);
        always || control.keep.load(Ordering::Relaxed) || failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_pause_and_leaves_the_current_case_alone() {
        let (deb, win) = (GuestId::new("deb").expect("name"), GuestId::new("win").expect("name"));
        let run = CancellationToken::new();
        let all = RunControls::new([&deb, &win].map(std::iter::once).into_iter(), &run, false);
        all.apply(&Command::Stop { guest: deb.clone() }).expect("legal");
        let control = all.of(&deb).expect("control");
        assert!(control.begin_pause().is_cancelled() && !control.cancel.is_cancelled());
        assert!(!all.of(&win).expect("control").begin_pause().is_cancelled());
        run.cancel();
        assert!(all.of(&win).expect("control").stop.is_cancelled(), "the run's end is every guest's end");
    }

    #[test]
    fn what_ends_one_guest_of_a_job_ends_the_others() {
        let names = ["ha.db", "ha.web", "deb"].map(|name| GuestId::new(name).expect("name"));
        let jobs = [&names[..2], &names[2..]];
        let all = RunControls::new(jobs.iter().map(|job| job.iter()), &CancellationToken::new(), false);
        all.apply(&Command::Kill { guest: names[1].clone() }).expect("legal");
        let ended: Vec<bool> = names.iter().map(|id| all.of(id).expect("control").stop.is_cancelled()).collect();
        assert_eq!(ended, [true, true, false]);
        assert!(all.keeps(&names[0], Keep::Always, GuestEnd::Failed), "only the other one was killed");
    }

    #[test]
    fn keeping_can_be_taken_back_and_an_unknown_guest_is_told() {
        let deb = GuestId::new("deb").expect("name");
        let all = RunControls::new(std::iter::once(std::iter::once(&deb)), &CancellationToken::new(), false);
        all.apply(&Command::Keep { guest: deb.clone(), on: true }).expect("legal");
        assert!(all.keeps(&deb, Keep::Never, GuestEnd::Well));
        all.apply(&Command::Keep { guest: deb.clone(), on: false }).expect("legal");
        assert!(!all.keeps(&deb, Keep::Never, GuestEnd::Failed));
        all.apply(&Command::KeepFailed { on: true }).expect("legal");
        assert!(all.keeps(&deb, Keep::Never, GuestEnd::Failed) && !all.keeps(&deb, Keep::Never, GuestEnd::Well));
        all.apply(&Command::Kill { guest: deb.clone() }).expect("legal");
        assert!(!all.keeps(&deb, Keep::Always, GuestEnd::Failed), "a kill takes it down");
        let other = GuestId::new("mars").expect("name");
        assert_eq!(all.apply(&Command::Kill { guest: other }), Err("guest `mars` is not in this run".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn of_all_pauses_the_youngest_ends_first_and_none_with_a_person_in_it() {
        let names = ["a", "b", "c"].map(|name| GuestId::new(name).expect("name"));
        let all = RunControls::new(names.iter().map(std::iter::once), &CancellationToken::new(), false);
        assert_eq!(all.end_youngest_pause(), None);
        for name in &names {
            all.of(name).expect("control").begin_pause();
            clock::sleep(std::time::Duration::from_secs(1)).await;
        }
        all.apply(&Command::InUse { guest: names[2].clone(), on: true }).expect("legal");
        assert_eq!(all.end_youngest_pause().as_ref(), Some(&names[1]));
        assert_eq!(all.end_youngest_pause().as_ref(), Some(&names[0]));
        assert_eq!(all.end_youngest_pause(), None, "somebody is in the last one");
    }

    #[test]
    fn each_pause_is_ended_on_its_own() {
        let deb = GuestId::new("deb").expect("name");
        let all = RunControls::new(std::iter::once(std::iter::once(&deb)), &CancellationToken::new(), false);
        let proceed = Command::Proceed { guest: deb.clone() };
        assert!(all.apply(&proceed).is_err(), "there is none: the next one is not ended before it began");
        for _ in 0..2 {
            let pause = all.of(&deb).expect("control").begin_pause();
            assert!(!pause.is_cancelled());
            all.apply(&proceed).expect("legal");
            assert!(pause.is_cancelled());
        }
    }
}
