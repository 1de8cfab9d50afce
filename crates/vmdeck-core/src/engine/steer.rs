//! What a person wants of each guest while the run goes on: stop it, kill it, keep it, do not wait.
//!
//! The dispatcher sets it, the guest's worker looks at it; the run's own end is the token that all of these hang on.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{command::Command, ids::GuestId};

/// One guest's wishes.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Cancelled when nothing more of this guest may go on; a child of the run's own.
    pub(super) cancel: CancellationToken,
    /// Cancelled when no further case may begin.
    pub(super) stop: CancellationToken,
    /// Ends the pause that is on, if one is.
    pause: Mutex<Option<CancellationToken>>,
    keep: AtomicBool,
    killed: AtomicBool,
}

impl Wheel {
    /// A pause begins: what is cancelled when it is over, by a person or with the guest.
    pub(super) fn begin_pause(&self) -> CancellationToken {
        let over = self.stop.child_token();
        *self.pause.lock() = Some(over.clone());
        over
    }

    /// Whether there was a pause to end.
    fn end_pause(&self) -> bool {
        let over = self.pause.lock().take();
        over.inspect(CancellationToken::cancel).is_some()
    }
}

/// All guests' wishes.
#[derive(Debug)]
pub(super) struct Steering {
    wheels: BTreeMap<GuestId, Wheel>,
    keep_failed: AtomicBool,
}

impl Steering {
    /// For these guests of a run.
    pub(super) fn new<'a>(
        guests: impl Iterator<Item = &'a GuestId>,
        run: &CancellationToken,
        keep_failed: bool,
    ) -> Self {
        let wheel = || {
            let cancel = run.child_token();
            let stop = cancel.child_token();
            Wheel { stop, cancel, pause: Mutex::default(), keep: AtomicBool::default(), killed: AtomicBool::default() }
        };
        Self {
            wheels: guests.map(|guest| (guest.clone(), wheel())).collect(),
            keep_failed: AtomicBool::new(keep_failed),
        }
    }

    /// A guest's own wishes; every guest of the plan has them.
    pub(super) fn of(&self, guest: &GuestId) -> Option<&Wheel> {
        self.wheels.get(guest)
    }

    /// Takes a command about guests; the error is a sentence.
    pub(super) fn obey(&self, command: &Command) -> Result<(), String> {
        let wheel = |guest: &GuestId| self.of(guest).ok_or_else(|| format!("guest `{guest}` is not in this run"));
        match command {
            Command::Stop { guest } => wheel(guest)?.stop.cancel(),
            Command::Kill { guest } => {
                let wheel = wheel(guest)?;
                wheel.killed.store(true, Ordering::Relaxed);
                wheel.cancel.cancel();
            }
            Command::Proceed { guest } => {
                if !wheel(guest)?.end_pause() {
                    return Err(format!("guest `{guest}` does not stand paused"));
                }
            }
            Command::Keep { guest, on } => {
                let wheel = wheel(guest)?;
                wheel.keep.store(*on, Ordering::Relaxed);
                if *on {
                    // The wait was for this decision.
                    wheel.end_pause();
                }
            }
            Command::KeepFailed { on } => self.keep_failed.store(*on, Ordering::Relaxed),
            Command::Cancel { .. } => {}
        }
        Ok(())
    }

    /// Whether a guest is to stay; `always` = the run keeps them all, `bad` = it has a failed case. One that was killed
    /// never stays.
    pub(super) fn keeps(&self, guest: &GuestId, always: bool, bad: bool) -> bool {
        let Some(wheel) = self.of(guest) else { return always };
        if wheel.killed.load(Ordering::Relaxed) {
            return false;
        }
        always || wheel.keep.load(Ordering::Relaxed) || (bad && self.keep_failed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_pause_and_leaves_the_current_case_alone() {
        let (deb, win) = (GuestId::new("deb").expect("name"), GuestId::new("win").expect("name"));
        let run = CancellationToken::new();
        let all = Steering::new([&deb, &win].into_iter(), &run, false);
        all.obey(&Command::Stop { guest: deb.clone() }).expect("legal");
        let wheel = all.of(&deb).expect("wheel");
        assert!(wheel.begin_pause().is_cancelled() && !wheel.cancel.is_cancelled());
        assert!(!all.of(&win).expect("wheel").begin_pause().is_cancelled());
        run.cancel();
        assert!(all.of(&win).expect("wheel").stop.is_cancelled(), "the run's end is every guest's end");
    }

    #[test]
    fn keeping_can_be_taken_back_and_an_unknown_guest_is_told() {
        let deb = GuestId::new("deb").expect("name");
        let all = Steering::new(std::iter::once(&deb), &CancellationToken::new(), false);
        all.obey(&Command::Keep { guest: deb.clone(), on: true }).expect("legal");
        assert!(all.keeps(&deb, false, false));
        all.obey(&Command::Keep { guest: deb.clone(), on: false }).expect("legal");
        assert!(!all.keeps(&deb, false, true));
        all.obey(&Command::KeepFailed { on: true }).expect("legal");
        assert!(all.keeps(&deb, false, true) && !all.keeps(&deb, false, false));
        all.obey(&Command::Kill { guest: deb.clone() }).expect("legal");
        assert!(!all.keeps(&deb, true, true), "a kill takes it down");
        let other = GuestId::new("mars").expect("name");
        assert_eq!(all.obey(&Command::Kill { guest: other }), Err("guest `mars` is not in this run".into()));
    }

    #[test]
    fn each_pause_is_ended_on_its_own() {
        let deb = GuestId::new("deb").expect("name");
        let all = Steering::new(std::iter::once(&deb), &CancellationToken::new(), false);
        let proceed = Command::Proceed { guest: deb.clone() };
        assert!(all.obey(&proceed).is_err(), "there is none: the next one is not ended before it began");
        for _ in 0..2 {
            let pause = all.of(&deb).expect("wheel").begin_pause();
            assert!(!pause.is_cancelled());
            all.obey(&proceed).expect("legal");
            assert!(pause.is_cancelled());
        }
    }
}
