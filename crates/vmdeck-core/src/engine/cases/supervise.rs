//! Runs one command in a machine while watching everything that can end it.

use super::{
    command_log::CommandLog,
    host_program::{HostEnd, HostRun},
    peers::{self, PeerWatch},
    relay::RelayState,
};
use crate::{
    command::{CommandExit, RemoteCommand},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, recv_once},
    },
    host::clock,
};
use std::{path::Path, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    guest::Guest,
    outcome::CancelReason,
    suite::HostProgram,
};

/// How long the machine's own end may come after the connection's.
const LAG: Duration = Duration::from_millis(500);
/// How long a command that was cancelled may take to end, with all that it started.
const GRACE: Duration = Duration::from_secs(30);

/// How a command came to its end.
pub(super) enum End {
    /// The command ended by itself.
    Exit(CommandExit),
    /// The command took too long; with the reason why it may still run in the guest.
    Timeout(Option<Fault>),
    /// The run or the guest was stopped.
    Cancelled,
    /// The command was never started, and the machine is well: a folder or a right to use sudo is missing.
    Refused(Fault),
    /// An error pattern was found on the console while the machine lives on: the code made the system complain.
    Complaint {
        fault: Fault,
        /// Whether nothing in the machine can be trusted any more.
        spoils: bool,
    },
    /// A program of this host ended well, and something is wrong all the same; the machine is not used any more.
    Wrong(Fault),
    /// The system in the machine panicked, restarted or powered itself off.
    Crashed(Fault),
    /// Another machine that the command cannot do without was lost.
    PeerLost(Fault),
    /// The machine or the connection to it was lost, and nothing says that the guest itself is the cause.
    Lost(Fault),
}

/// What is run.
#[derive(Clone, Copy)]
pub(super) enum CaseWork<'a> {
    /// A command in the guest.
    Guest(&'a RemoteCommand),
    /// A program of this host that drives the guest, with the folder of its case in the record.
    Host(&'a HostProgram, &'a Path),
}

/// A command to be watched, and where it belongs.
pub(super) struct Watched<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) machine: &'a LeasedMachine,
    pub(super) work: CaseWork<'a>,
    /// How long it may take.
    pub(super) limit: Duration,
    /// The kinds and categories of trouble that the console may show meanwhile.
    pub(super) trouble_ignore: &'a [String],
    /// The other machines that it cannot do without.
    pub(super) peers: &'a [PeerWatch],
}

impl Watched<'_> {
    /// Runs the command; `cancel` ends it in the guest.
    pub(super) async fn run(&self, log: &mut CommandLog, cancel: &CancellationToken) -> End {
        let machine = self.machine;
        let untold =
            |why: &dyn std::fmt::Display| End::Lost(Fault::infra("cannot tell what the console showed").because(why));
        match machine.console.open_window(self.trouble_ignore).await {
            // Nobody's fault that anybody could name: a predecessor is judged already.
            Ok(Some(before)) => {
                let text = format!("between two commands: {}", before.to_fault());
                self.context.events.warn(Some(&self.guest.id), text, None);
            }
            Ok(None) => {}
            Err(behind) => return untold(&behind),
        }
        let end = match self.work {
            CaseWork::Guest(command) => self.follow(command, log, cancel).await,
            CaseWork::Host(program, record) => self.follow_host(program, record, log, cancel).await,
        };
        if machine.console.error_now().is_some_and(|found| found.ends_run) {
            // At once, so that no further case begins before the dispatcher has heard of it.
            self.context.cancel_run(CancelReason::Trouble);
        }
        match end {
            End::Exit(exit) => {
                if let Err(fault) = self.check_peers(&exit).await {
                    return End::PeerLost(fault);
                }
                // The console may be behind the status.
                let seen = machine.console.catch_up().await;
                match (machine.console.error_now(), machine.console.lost(), seen) {
                    (Some(found), ..) if found.is_panic() => End::Crashed(found.to_fault()),
                    (Some(found), ..) => End::Complaint { fault: found.to_fault(), spoils: true },
                    (None, Some(why), _) => untold(&why),
                    (None, None, Err(behind)) => untold(&behind),
                    (None, None, Ok(())) => match machine.console.take_complaint() {
                        Some(found) => End::Complaint { fault: found.to_fault(), spoils: false },
                        None => End::Exit(exit),
                    },
                }
            }
            End::Lost(fault) => explain(machine, fault).await,
            End::Complaint { fault, spoils } => {
                let down = is_down(machine).await;
                // What belongs to it is told before the verdict.
                let _ = machine.console.catch_up().await;
                if down {
                    machine.crash().map_or(End::Lost(fault), End::Crashed)
                } else {
                    End::Complaint { fault, spoils }
                }
            }
            end => end,
        }
    }

    /// Looks whether the others are still there. What a command misses may tell of a loss before the loss itself does.
    async fn check_peers(&self, exit: &CommandExit) -> Result<()> {
        if !self.peers.is_empty()
            && *exit != CommandExit::Code(0)
            && let Some(fault) = clock::within(LAG, peers::lost(self.peers)).await
        {
            return Err(fault);
        }
        peers::check(self.peers)
    }

    async fn follow(&self, command: &RemoteCommand, log: &mut CommandLog, cancel: &CancellationToken) -> End {
        let Self { machine, limit, .. } = *self;
        let token = cancel.child_token();
        let (mut exit, mut error) = (machine.exit.clone(), machine.console.error());
        let run = machine.controller.run(command, log, &token);
        tokio::pin!(run);
        tokio::select! {
            // The exit comes first: a case that ended and a guest that powers off after it is no loss.
            biased;
            result = &mut run => match result {
                Ok(exit) => End::Exit(exit),
                Err(fault) if fault.blame() == Blame::Cancelled || cancel.is_cancelled() => End::Cancelled,
                Err(fault) if fault.blame() == Blame::User => End::Refused(fault),
                Err(fault) => End::Lost(fault),
            },
            Some(found) = recv_once(&mut error) => End::Complaint { fault: found.to_fault(), spoils: true },
            Some(how) = recv_once(&mut exit) => End::Lost(Fault::infra("cannot finish the command").because(how)),
            () = machine.restarted() => End::Lost(Fault::infra("cannot finish the command").because("the guest restarted")),
            fault = peers::lost(self.peers) => {
                token.cancel();
                let _ = clock::within(GRACE, &mut run).await;
                End::PeerLost(fault)
            }
            () = clock::sleep(limit) => {
                token.cancel();
                let late = || Fault::infra("cannot end the command in the guest").because("nothing answers");
                End::Timeout(match clock::within(GRACE, &mut run).await {
                    Some(Err(fault)) if fault.blame() == Blame::User => return End::Refused(fault),
                    Some(Err(fault)) if fault.blame() != Blame::Cancelled => Some(fault),
                    Some(_) => None,
                    None => Some(late()),
                })
            }
        }
    }

    /// Follows a program of this host. That the guest goes down is no loss where the program has asked for it.
    async fn follow_host(
        &self,
        program: &HostProgram,
        record: &Path,
        log: &mut CommandLog,
        cancel: &CancellationToken,
    ) -> End {
        let Self { context, guest, machine, limit, .. } = *self;
        let token = cancel.child_token();
        let state = RelayState::default();
        let mut error = machine.console.error();
        let host = HostRun { context, guest, machine, program, record };
        let run = host.run(&state, log, &token);
        tokio::pin!(run);
        let end = tokio::select! {
            biased;
            result = &mut run => match result {
                Ok(HostEnd::Exit(exit)) => return End::Exit(exit),
                Ok(HostEnd::Complaint(fault)) => return End::Wrong(fault),
                Err(fault) if fault.blame() == Blame::Cancelled || cancel.is_cancelled() => return End::Cancelled,
                Err(fault) => return End::Lost(fault),
            },
            Some(found) = recv_once(&mut error) => End::Complaint { fault: found.to_fault(), spoils: true },
            fault = went_down(machine, &state) => End::Lost(fault),
            () = clock::sleep(limit) => End::Timeout(None),
        };
        // The program and what it began in the guest end before anything else is done there.
        token.cancel();
        let _ = clock::within(GRACE, run).await;
        end
    }
}

/// Waits for an end of the guest that nobody asked for.
async fn went_down(machine: &LeasedMachine, state: &RelayState) -> Fault {
    let mut exit = machine.exit.clone();
    let how = tokio::select! {
        Some(how) = recv_once(&mut exit) => how.to_string(),
        () = machine.restarted() => "the guest restarted".to_owned(),
    };
    if state.is_closing() {
        std::future::pending::<()>().await;
    }
    Fault::infra("cannot finish the program").because(how)
}

/// Returns whether the error on the console was the machine's last: it ended, or its kernel says that it has stopped.
async fn is_down(machine: &LeasedMachine) -> bool {
    machine.crash().is_some() || clock::within(LAG, machine.down()).await.is_some()
}

/// Returns what a lost connection was: what the console or the machine says shortly after explains more than the socket does.
async fn explain(machine: &LeasedMachine, fault: Fault) -> End {
    let mut error = machine.console.error();
    let sign = async {
        tokio::select! {
            _ = recv_once(&mut error) => {}
            () = machine.down() => {}
        }
    };
    let _ = clock::within(LAG, sign).await;
    // A panic is on the console before the hypervisor tells of it.
    let _ = machine.console.catch_up().await;
    if let Some(crash) = machine.crash() {
        return End::Crashed(crash);
    }
    if let Some(found) = machine.console.error_now() {
        return End::Lost(found.to_fault());
    }
    End::Lost(match machine.exit.borrow().as_ref() {
        Some(how) => Fault::infra("cannot finish the command").because(how),
        None => fault,
    })
}
