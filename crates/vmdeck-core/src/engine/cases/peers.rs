//! The other machines of a job, while a case runs in one: where one of them is lost, nothing can be said about the case.

use crate::engine::machine::{ConsoleError, LeasedMachine, recv_once};
use futures_util::future::select_all;
use tokio::sync::watch;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// What is watched of another machine.
#[derive(Clone)]
pub(super) struct PeerWatch {
    guest: String,
    exit: watch::Receiver<Option<crate::backend::contract::MachineExit>>,
    error: watch::Receiver<Option<ConsoleError>>,
    /// The restarts that nobody asked for, and how many there were before the case; `None` = its own case may restart it.
    restarts: Option<(watch::Receiver<u32>, u32)>,
}

impl PeerWatch {
    pub(super) fn of(guest: &Guest, machine: &LeasedMachine, may_restart: bool) -> Self {
        let restarts = machine.restarts.clone();
        let before = *restarts.borrow();
        Self {
            guest: guest.id.to_string(),
            exit: machine.exit.clone(),
            error: machine.console.error(),
            restarts: (!may_restart).then_some((restarts, before)),
        }
    }

    /// Returns why the machine is lost, if it is.
    fn check(&self) -> Result<()> {
        let lost = || Fault::infra(format!("guest `{}`, which takes part in the suite, was lost", self.guest));
        if let Some(found) = self.error.borrow().as_ref() {
            return Err(lost().caused_by(found.to_fault()));
        }
        if let Some(how) = self.exit.borrow().as_ref() {
            return Err(lost().because(how));
        }
        match &self.restarts {
            Some((count, before)) if *count.borrow() > *before => Err(lost().because("it restarted")),
            _ => Ok(()),
        }
    }

    /// Waits until the machine is lost; returns why.
    async fn lost(&self) -> Fault {
        let (mut exit, mut error) = (self.exit.clone(), self.error.clone());
        let restarted = async {
            if let Some((count, before)) = &self.restarts
                && count.clone().wait_for(|now| now > before).await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            Some(_) = recv_once(&mut exit) => {}
            Some(_) = recv_once(&mut error) => {}
            () = restarted => {}
            else => std::future::pending().await,
        }
        self.check().err().unwrap_or_else(|| Fault::infra(format!("guest `{}` was lost", self.guest)))
    }
}

/// Returns why one of them is lost, if one is.
pub(super) fn check(peers: &[PeerWatch]) -> Result<()> {
    peers.iter().try_for_each(PeerWatch::check)
}

/// Waits until one of them is lost; returns why.
pub(super) async fn lost(peers: &[PeerWatch]) -> Fault {
    if peers.is_empty() {
        return std::future::pending().await;
    }
    select_all(peers.iter().map(|peer| Box::pin(peer.lost()))).await.0
}
