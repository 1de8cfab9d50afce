//! A machine that is up and belongs to one job for a while.

use super::{ConsoleError, controller::Controller};
use crate::backend::contract::MachineExit;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A machine that is up.
pub(in crate::engine) struct LeasedMachine {
    /// The generated name.
    pub(in crate::engine) name: String,
    pub(in crate::engine) controller: Controller,
    /// Holds how the machine ended, once it has.
    pub(in crate::engine) exit: watch::Receiver<Option<MachineExit>>,
    /// Holds the error that its console showed, once it has.
    pub(in crate::engine) console_error: watch::Receiver<Option<ConsoleError>>,
    /// Set when a command outside of a case showed that the machine cannot be used any more.
    unusable: AtomicBool,
}

impl LeasedMachine {
    pub(super) fn new(
        name: String,
        controller: Controller,
        exit: watch::Receiver<Option<MachineExit>>,
        console_error: watch::Receiver<Option<ConsoleError>>,
    ) -> Self {
        Self { name, controller, exit, console_error, unusable: AtomicBool::new(false) }
    }

    /// Returns whether the machine cannot be used any more.
    pub(in crate::engine) fn is_lost(&self) -> bool {
        self.unusable.load(Ordering::Relaxed) || self.exit.borrow().is_some() || self.console_error.borrow().is_some()
    }

    /// Notes that the machine cannot be used any more.
    pub(in crate::engine) fn give_up(&self) {
        self.unusable.store(true, Ordering::Relaxed);
    }
}

/// Returns the value of a place that is filled once, as soon as it is; `None` = nobody is left to fill it.
pub(in crate::engine) async fn recv_once<T: Clone>(place: &mut watch::Receiver<Option<T>>) -> Option<T> {
    place.wait_for(Option::is_some).await.ok().and_then(|now| now.clone())
}
