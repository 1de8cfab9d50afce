//! A case of several steps: commands, and restarts of the guest between them, which vmdeck itself asks for.

use super::{
    case_run::CaseRun,
    command_log::CommandLog,
    peers::PeerWatch,
    reboot::Reboots,
    supervise::{CaseWork, End, Watched},
};
use crate::{command::CommandExit, engine::machine::LeasedMachine, host::clock};
use std::time::Duration;
use vmdeck_model::{event::EventKind, suite::CaseStep};

/// How a case came to its end.
pub(super) struct CaseEnd {
    pub(super) end: End,
    /// The step at which it did, where it has steps.
    pub(super) step: Option<StepPlace>,
}

/// A step among those of its case.
pub(super) struct StepPlace {
    /// Its number, as people are told: `step 2 of 3`.
    pub(super) name: String,
    /// Whether none comes after it.
    pub(super) is_last: bool,
}

impl CaseRun<'_> {
    /// Runs one step after the other, as long as they end well; the limit is for all of them together, without the restarts.
    pub(super) async fn watch_steps(
        &self,
        steps: &[CaseStep],
        machine: &mut LeasedMachine,
        (attempt, limit): (u32, Duration),
        peers: &[PeerWatch],
        log: &mut CommandLog,
    ) -> CaseEnd {
        let Self { context, guest, suite, case, .. } = *self;
        let mut left = limit;
        let mut last = CaseEnd { end: End::Exit(CommandExit::Code(0)), step: None };
        for (at, step) in steps.iter().enumerate() {
            let is_last = at + 1 == steps.len();
            let name = format!("step {} of {}", at + 1, steps.len());
            let text = format!("case `{}/{}`: {name}", suite.id, case.id);
            context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
            let end = match step {
                CaseStep::Run(script) => {
                    let dir = self.dir(attempt).join(format!("+step-{}", at + 1));
                    log.begin_step(&dir, context.plan.host.log_size);
                    let start = clock::now();
                    let end = self.watch(machine, (attempt, Some(script)), left, peers, log).await;
                    left = left.saturating_sub(start.elapsed());
                    end
                }
                CaseStep::Reboot => match self.restart(machine, peers, log).await {
                    None => End::Exit(CommandExit::Code(0)),
                    Some(end) => end,
                },
            };
            let goes_on = matches!(&end, End::Exit(exit) if exit.code() == Some(0));
            last = CaseEnd { end, step: Some(StepPlace { name, is_last }) };
            if !goes_on {
                break;
            }
        }
        last
    }

    /// Restarts the guest and waits until it is up again; returns how the case ends where it did not come to that.
    async fn restart(&self, machine: &mut LeasedMachine, peers: &[PeerWatch], log: &mut CommandLog) -> Option<End> {
        let Self { context, guest, suite, case, .. } = *self;
        let mut reboots = Reboots::asked_for(context, guest, suite, case);
        let command = match reboots.order(machine, self.base_command()).await {
            Ok(command) => command,
            Err(fault) => return Some(Reboots::unprepared(fault)),
        };
        let (work, limit) = (CaseWork::Guest(&command), guest.boot_timeout);
        let watched = Watched { context, guest, machine, work, limit, trouble_ignore: &case.trouble_ignore, peers };
        let end = watched.run(log, &context.cancel).await;
        reboots.after(end, machine, log).await
    }
}
