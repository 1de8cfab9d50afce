//! What a person wants of each guest while the run goes on: stop it, kill it, keep it, do not wait.
//!
//! The dispatcher sets it, the guest's worker looks at it; the run's own end is the token that all of these hang on.

use crate::model::{command::Command, ids::GuestId};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio_util::sync::CancellationToken;

/// One guest's wishes.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Cancelled when nothing more of this guest may go on; a child of the run's own.
    pub(super) cancel: CancellationToken,
    /// Cancelled when no further case may begin.
    pub(super) stop: CancellationToken,
    /// Cancelled when a pause is over.
    pub(super) proceed: CancellationToken,
    keep: AtomicBool,
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
            Wheel { proceed: stop.child_token(), stop, cancel, keep: AtomicBool::new(false) }
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
            Command::Kill { guest } => wheel(guest)?.cancel.cancel(),
            Command::Proceed { guest } => wheel(guest)?.proceed.cancel(),
            Command::Keep { guest, on } => {
                let wheel = wheel(guest)?;
                wheel.keep.store(*on, Ordering::Relaxed);
                if *on {
                    // The wait was for this decision.
                    wheel.proceed.cancel();
                }
            }
            Command::KeepFailed { on } => self.keep_failed.store(*on, Ordering::Relaxed),
            Command::Cancel { .. } => {}
        }
        Ok(())
    }

    /// Whether a guest is to stay; `bad` = it has a failed case.
    pub(super) fn keeps(&self, guest: &GuestId, bad: bool) -> bool {
        let wanted = self.of(guest).is_some_and(|wheel| wheel.keep.load(Ordering::Relaxed));
        wanted || (bad && self.keep_failed.load(Ordering::Relaxed))
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
        assert!(wheel.stop.is_cancelled() && wheel.proceed.is_cancelled() && !wheel.cancel.is_cancelled());
        assert!(!all.of(&win).expect("wheel").proceed.is_cancelled());
        run.cancel();
        assert!(all.of(&win).expect("wheel").stop.is_cancelled(), "the run's end is every guest's end");
    }

    #[test]
    fn keeping_can_be_taken_back_and_an_unknown_guest_is_told() {
        let deb = GuestId::new("deb").expect("name");
        let all = Steering::new(std::iter::once(&deb), &CancellationToken::new(), false);
        all.obey(&Command::Keep { guest: deb.clone(), on: true }).expect("legal");
        assert!(all.keeps(&deb, false));
        all.obey(&Command::Keep { guest: deb.clone(), on: false }).expect("legal");
        assert!(!all.keeps(&deb, true));
        all.obey(&Command::KeepFailed { on: true }).expect("legal");
        assert!(all.keeps(&deb, true) && !all.keeps(&deb, false));
        let other = GuestId::new("mars").expect("name");
        assert_eq!(all.obey(&Command::Kill { guest: other }), Err("guest `mars` is not in this run".into()));
    }
}
