//! Runs one command in a machine while watching everything that can end it.

use super::command_log::CommandLog;
use crate::{
    command::{CommandExit, RemoteCommand},
    engine::machine::{ConsoleError, LeasedMachine, recv_once},
    host::clock,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Blame, Fault};

/// How long the machine's own end may come after the connection's.
const LAG: Duration = Duration::from_millis(500);
/// How long a command that was cancelled may take to end.
const GRACE: Duration = Duration::from_secs(15);

/// How a command came to its end.
pub(super) enum End {
    /// It ended by itself.
    Exit(CommandExit),
    /// It took too long; with the reason why it may still run in the guest.
    Timeout(Option<Fault>),
    /// The run or the guest was stopped.
    Cancelled,
    /// It was never started, and the machine is well: a folder or a right to use sudo is missing.
    Refused(Fault),
    /// An error pattern was found on the console while the machine lives on: the code made the system complain.
    Complaint(Fault),
    /// The machine or the connection to it was lost.
    Lost(Fault),
}

/// Runs a command of at most this length; `cancel` ends it in the guest.
pub(super) async fn supervise(
    machine: &LeasedMachine,
    command: &RemoteCommand,
    log: &mut CommandLog,
    limit: Duration,
    cancel: &CancellationToken,
) -> End {
    let token = cancel.child_token();
    let (mut exit, mut error) = (machine.exit.clone(), machine.console_error.clone());
    let end = {
        let run = machine.controller.run(command, log, &token);
        tokio::pin!(run);
        tokio::select! {
            // The exit comes first: a case that ended and a guest that powers off after it is no loss.
            biased;
            result = &mut run => match result {
                Ok(exit) => match machine.console_error.borrow().as_ref() {
                    // The console was faster than the status.
                    Some(found) => End::Complaint(found.to_fault()),
                    None => End::Exit(exit),
                },
                Err(fault) if fault.blame() == Blame::Cancelled => End::Cancelled,
                Err(fault) if fault.blame() == Blame::User => End::Refused(fault),
                Err(fault) => End::Lost(fault),
            },
            Some(found) = recv_once(&mut error) => End::Complaint(found.to_fault()),
            Some(how) = recv_once(&mut exit) => End::Lost(Fault::infra("cannot finish the command").because(how)),
            () = clock::sleep(limit) => {
                token.cancel();
                let late = || Fault::infra("cannot end the command in the guest").because("nothing answers");
                End::Timeout(match clock::within(GRACE, &mut run).await {
                    Some(Err(fault)) if fault.blame() != Blame::Cancelled => Some(fault),
                    Some(_) => None,
                    None => Some(late()),
                })
            }
        }
    };
    match end {
        End::Lost(fault) => End::Lost(explain(machine, fault).await),
        End::Complaint(fault) if is_down(machine).await => End::Lost(fault),
        end => end,
    }
}

/// Returns whether the error on the console was the machine's last: it ended, or its kernel says that it has stopped.
async fn is_down(machine: &LeasedMachine) -> bool {
    let panicked = machine.console_error.borrow().as_ref().is_some_and(ConsoleError::is_panic);
    let mut exit = machine.exit.clone();
    panicked || clock::within(LAG, recv_once(&mut exit)).await.is_some()
}

/// Returns the reason of a lost connection: what the console or the machine says shortly after explains more than the socket
/// does.
async fn explain(machine: &LeasedMachine, fault: Fault) -> Fault {
    let mut error = machine.console_error.clone();
    if let Some(Some(found)) = clock::within(LAG, recv_once(&mut error)).await {
        return found.to_fault();
    }
    match machine.exit.borrow().as_ref() {
        Some(how) => Fault::infra("cannot finish the command").because(how),
        None => fault,
    }
}
