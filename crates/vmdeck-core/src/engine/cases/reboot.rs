//! Restarts of the guest that a case may ask for: the same case begins again in the guest that has come up.
//!
//! A script asks for one by `"$VMDECK_REBOOT" [MARK]`, which never returns, or restarts the guest in its own way.

use super::{command_log::CommandLog, supervise::End};
use crate::{
    command::{Collected, RemoteCommand, Shell},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, recv_once},
    },
    host::clock,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::EventKind,
    guest::Guest,
    suite::{Case, RebootPolicy, Suite},
};

/// Most restarts of one attempt.
const MOST: u32 = 10;
/// How long a guest may take to go down once it was told to.
const GOES_DOWN: Duration = Duration::from_mins(2);
/// How long the restart of a command that ended well may still take to begin.
const LINGERS: Duration = Duration::from_secs(20);
/// How long preparing the folder of a case in the guest may take.
const PREPARE: Duration = Duration::from_mins(1);
/// What the guest runs to ask for a restart.
const HELPER: &str = r#"#!/bin/sh
# Made by vmdeck: restarts the guest; the case begins again once it is up, with VMDECK_REBOOT_COUNT and VMDECK_REBOOT_MARK.
echo "vmdeck: restart, mark: ${1-}" >&2
sync
if [ "$(id -u)" = 0 ]; then reboot || exit 1; else sudo -n reboot || exit 1; fi
# The guest goes down under this.
while :; do sleep 60; done
"#;

/// The restarts of one attempt.
pub(super) struct Reboots<'a> {
    context: &'a RunContext,
    guest: &'a Guest,
    policy: RebootPolicy,
    /// A folder in the guest that lives as long as its disk.
    folder: String,
    count: u32,
    mark: String,
}

impl<'a> Reboots<'a> {
    pub(super) fn new(context: &'a RunContext, guest: &'a Guest, suite: &Suite, case: &Case) -> Self {
        let folder = format!("/var/tmp/vmdeck-{}/{}/{}", context.plan.run.short(), suite.id, case.id);
        Self { context, guest, policy: case.reboot, folder, count: 0, mark: String::new() }
    }

    /// Puts the helper into the guest, and says so to the command.
    pub(super) async fn prepare(&self, machine: &LeasedMachine, command: &mut RemoteCommand) -> Result<()> {
        if self.policy == RebootPolicy::Forbidden {
            return Ok(());
        }
        if machine.shell() != Shell::Posix {
            return Err(Fault::user("cannot prepare the case for a restart")
                .because("this version follows restarts of Windows only between cases")
                .hint("remove `reboot` from the case"));
        }
        let folder = crate::command::sh_quote(&self.folder);
        let helper = crate::command::sh_quote(HELPER);
        let script = format!(
            "umask 022; mkdir -p {folder} && printf %s {helper} > {folder}/reboot && chmod 755 {folder}/reboot"
        );
        run(machine, RemoteCommand { run_as: command.run_as, ..RemoteCommand::new(script) }).await?;
        for (name, value) in [
            ("VMDECK_REBOOT", format!("{}/reboot", self.folder)),
            ("VMDECK_STATE", self.folder.clone()),
            ("VMDECK_REBOOT_COUNT", self.count.to_string()),
            ("VMDECK_REBOOT_MARK", self.mark.clone()),
        ] {
            command.env.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// Looks at how the command ended. `None` = the guest has come up again, and the case is to be begun again.
    pub(super) async fn after(&mut self, end: End, machine: &mut LeasedMachine, log: &mut CommandLog) -> Option<End> {
        if self.policy == RebootPolicy::Forbidden {
            return Some(end);
        }
        let is_over = match &end {
            // A shutdown that goes on in the background outlives the command that began it.
            End::Exit(_) if self.policy == RebootPolicy::Expected && self.count == 0 => {
                !goes_down(machine, LINGERS).await
            }
            End::Exit(_) => !machine.only_restarted(),
            // The connection is the first that goes.
            End::Lost(_) | End::Crashed(_) => !(machine.only_restarted() || goes_down(machine, GOES_DOWN).await),
            _ => true,
        };
        if is_over {
            let never_came = matches!(end, End::Exit(_)) && self.policy == RebootPolicy::Expected && self.count == 0;
            return Some(if never_came {
                let fault = Fault::infra("the guest was to restart and did not (`reboot = \"expected\"`)");
                End::Complaint { fault, spoils: false }
            } else {
                end
            });
        }
        if self.count == MOST {
            let fault = Fault::infra(format!("the guest restarted more than {MOST} times in one case"));
            return Some(End::Complaint { fault, spoils: true });
        }
        self.count += 1;
        match machine.come_back(&self.context.cancel).await {
            Ok(()) => {}
            Err(fault) if fault.blame() == Blame::Cancelled => return Some(End::Cancelled),
            // It went down well and did not come up: the system is what is tested.
            Err(fault) => return Some(End::Crashed(fault)),
        }
        self.mark = log.take_mark().unwrap_or_default();
        let text = format!("guest `{}` has restarted as its case wanted ({})", self.guest.id, self.count);
        self.context.events.send(EventKind::Progress { guest: Some(self.guest.id.clone()), text });
        None
    }
}

/// Runs a short command of ours.
async fn run(machine: &LeasedMachine, command: RemoteCommand) -> Result<()> {
    let never = CancellationToken::new();
    let mut seen = Collected::default();
    let ended = clock::within(PREPARE, machine.controller.run(&command, &mut seen, &never)).await;
    match ended {
        Some(Ok(exit)) if exit.code() == Some(0) => Ok(()),
        Some(Ok(exit)) => {
            let said = vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stderr));
            Err(Fault::user("cannot prepare the case for a restart").because(format!("{exit}: {said}")))
        }
        Some(Err(fault)) => Err(fault),
        None => Err(Fault::infra("cannot prepare the case for a restart").because("the guest does not answer")),
    }
}

/// Waits for a restart; returns whether it came, and nothing worse did.
async fn goes_down(machine: &LeasedMachine, limit: Duration) -> bool {
    let mut error = machine.console.error();
    let down = async {
        tokio::select! {
            biased;
            _ = recv_once(&mut error) => {}
            () = machine.down() => {}
        }
    };
    clock::within(limit, down).await.is_some() && machine.only_restarted()
}
