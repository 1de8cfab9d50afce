//! Restarts of the guest that a case may ask for: the same case begins again in the guest that has come up.
//!
//! A script asks for one by `"$VMDECK_REBOOT" [MARK]`, which never returns, or restarts the guest in its own way.

use super::{boot_id, command_log::CommandLog, supervise::End};
use crate::{
    backend,
    command::{Collected, CommandExit, RemoteCommand, Shell, powershell, sh_quote},
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
    suite::{Case, RebootPolicy, RunAs, Suite},
};

/// Most restarts of one attempt.
const MOST: u32 = 10;
/// How long a guest may take to go down once it was told to.
const GOES_DOWN: Duration = Duration::from_mins(2);
/// How long the restart of a command that ended well may still take to begin.
const LINGERS: Duration = Duration::from_secs(20);
/// How long preparing the folder of a case in the guest may take.
const PREPARE: Duration = Duration::from_mins(1);
/// How long until a guest is looked at again that still answers although it was told to restart.
const AGAIN: Duration = Duration::from_secs(1);
/// What the guest runs to ask for a restart, before [`DOWN`].
const HELPER: &str = r#"#!/bin/sh
# Made by vmdeck: restarts the guest; the case begins again once it is up, with VMDECK_REBOOT_COUNT and VMDECK_REBOOT_MARK.
echo "vmdeck: restart, mark: ${1-}" >&2
"#;
/// What restarts the guest.
const DOWN: &str = r#"sync
# Users often have no such folders on their path, and sudo may look there.
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ]; then reboot || exit 1; else sudo -n reboot || exit 1; fi
# The guest goes down under this.
while :; do sleep 60; done
"#;
/// The same in Windows.
const HELPER_WINDOWS: &str = r"param([string]$mark='')
# Made by vmdeck: restarts the guest; the case begins again once it is up, with VMDECK_REBOOT_COUNT and VMDECK_REBOOT_MARK.
[Console]::Error.WriteLine('vmdeck: restart, mark: '+$mark)
";
/// What restarts it there.
const DOWN_WINDOWS: &str = r"Restart-Computer -Force -ErrorAction Stop
# The guest goes down under this.
while($true){Start-Sleep -Seconds 60}
";

/// The restarts of one attempt.
pub(super) struct Reboots<'a> {
    context: &'a RunContext,
    guest: &'a Guest,
    policy: RebootPolicy,
    /// A folder in the guest that lives as long as its disk, below the one for such things.
    folder: String,
    count: u32,
    mark: String,
    /// What the guest said of its boot before the command, where nobody else tells of a restart.
    boot: Option<String>,
}

impl<'a> Reboots<'a> {
    pub(super) fn new(context: &'a RunContext, guest: &'a Guest, suite: &Suite, case: &Case) -> Self {
        let folder = format!("vmdeck-{}/{}/{}", context.plan.run.short(), suite.id, case.id.folder());
        Self { context, guest, policy: case.reboot, folder, count: 0, mark: String::new(), boot: None }
    }

    /// Returns the one restart that a step of the case is.
    pub(super) fn asked_for(context: &'a RunContext, guest: &'a Guest, suite: &Suite, case: &Case) -> Self {
        Self { policy: RebootPolicy::Expected, ..Self::new(context, guest, suite, case) }
    }

    /// Returns how a case ends whose guest could not be made ready for a restart.
    pub(super) fn unprepared(fault: Fault) -> End {
        if fault.blame() == Blame::User { End::Refused(fault) } else { End::Lost(fault) }
    }

    /// Returns the command that restarts the guest; `base` = one of its case.
    pub(super) async fn order(&mut self, machine: &LeasedMachine, base: RemoteCommand) -> Result<RemoteCommand> {
        self.look(machine).await?;
        let script = match machine.shell() {
            Shell::Posix => DOWN,
            Shell::PowerShell => DOWN_WINDOWS,
        };
        Ok(RemoteCommand { run_as: RunAs::Root, env: base.env, ..RemoteCommand::new(script) })
    }

    /// Notes which boot it is, where nobody else tells of a restart. A guest that is this host is never restarted.
    async fn look(&mut self, machine: &LeasedMachine) -> Result<()> {
        if !backend::capabilities_of(&self.guest.backend).isolated {
            let cannot = Fault::user(format!("cannot let guest `{}` restart", self.guest.id));
            return Err(cannot
                .because("its machine is this host")
                .hint("run the case in a guest with a machine of its own"));
        }
        if !machine.tells_restarts() {
            self.boot = Some(boot_id::ask(machine).await?);
        }
        Ok(())
    }

    /// Puts the helper into the guest, and says so to the command.
    pub(super) async fn prepare(&mut self, machine: &LeasedMachine, command: &mut RemoteCommand) -> Result<()> {
        if self.policy == RebootPolicy::Forbidden {
            return Ok(());
        }
        self.look(machine).await?;
        let (state, helper) = match machine.shell() {
            Shell::Posix => {
                let (below, text) = (sh_quote(&self.folder), sh_quote(&format!("{HELPER}{DOWN}")));
                // Both live as long as the disk.
                let script = format!(
                    "umask 022; for d in /var/tmp \"$HOME\"; do f=$d/{below}\n\
                     mkdir -p \"$f\" 2>/dev/null && printf %s {text} >\"$f/reboot\" && chmod 755 \"$f/reboot\" && printf %s \"$f\" && exit\n\
                     done; echo \"neither /var/tmp nor $HOME can be written to\" >&2; exit 1"
                );
                let folder =
                    run(machine, RemoteCommand { run_as: command.run_as, ..RemoteCommand::new(script) }).await?;
                (folder.clone(), format!("{folder}/reboot"))
            }
            Shell::PowerShell => {
                let text = powershell::quote(&format!("{HELPER_WINDOWS}{DOWN_WINDOWS}"));
                let below = powershell::quote(&self.folder);
                let script = format!(
                    "$f=[IO.Path]::Combine($env:ProgramData,{below});[void][IO.Directory]::CreateDirectory($f)\n\
                     [IO.File]::WriteAllText([IO.Path]::Combine($f,'reboot.ps1'),{text});[Console]::Out.Write($f)"
                );
                let folder = run(machine, RemoteCommand::new(script)).await?;
                (folder.clone(), format!("{folder}\\reboot.ps1"))
            }
        };
        for (name, value) in [
            ("VMDECK_REBOOT", helper),
            ("VMDECK_STATE", state),
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
        let is_back = match &self.boot {
            None => self.told_by_its_hypervisor(&end, machine).await,
            Some(before) => self.told_by_the_guest(&end, before, machine).await,
        };
        match is_back {
            Ok(true) => {}
            Ok(false) => {
                let never_came = matches!(end, End::Exit(_)) && self.is_due();
                return Some(if never_came {
                    let fault = Fault::infra("the guest should have restarted, and did not");
                    End::Complaint { fault, spoils: false }
                } else {
                    end
                });
            }
            Err(end) => return Some(end),
        }
        self.count += 1;
        self.mark = log.take_mark().unwrap_or_default();
        let text = format!("guest `{}` has restarted as its case wanted ({})", self.guest.id, self.count);
        self.context.events.send(EventKind::Progress { guest: Some(self.guest.id.clone()), text });
        None
    }

    /// Looks how a program ended that has to make the guest begin again: where the guest is up anew, all is well, whatever the program
    /// says, since it may have lost the guest on the way.
    pub(super) async fn after_program(&mut self, end: End, machine: &mut LeasedMachine) -> End {
        if matches!(end, End::Cancelled | End::Refused(_) | End::PeerLost(_)) {
            return end;
        }
        if !machine.only_restarted() && !goes_down(machine, GOES_DOWN).await {
            let fault = Fault::infra("the guest was to begin again and did not");
            return machine.crash().map_or(End::Complaint { fault, spoils: true }, End::Crashed);
        }
        if let Err(end) = self.comes_up(machine).await {
            return end;
        }
        let text = format!("guest `{}` has begun again", self.guest.id);
        self.context.events.send(EventKind::Progress { guest: Some(self.guest.id.clone()), text });
        End::Exit(CommandExit::Code(0))
    }

    /// Waits until a guest is up that went down well; where it does not come up, the system is what is tested.
    async fn comes_up(&self, machine: &mut LeasedMachine) -> Result<(), End> {
        machine.come_back(&self.context.cancel).await.map_err(|fault| match fault.blame() {
            Blame::Cancelled => End::Cancelled,
            _ => End::Crashed(fault),
        })
    }

    /// Returns whether a restart has to come that has not come yet.
    fn is_due(&self) -> bool {
        self.policy == RebootPolicy::Expected && self.count == 0
    }

    /// Returns how a case ends that restarts its guest once more than it may.
    fn too_many(&self) -> Result<(), End> {
        if self.count < MOST {
            return Ok(());
        }
        let fault = Fault::infra(format!("the guest restarted more than {MOST} times in one case"));
        Err(End::Complaint { fault, spoils: true })
    }

    /// Returns whether the guest has restarted and is up again, by what its hypervisor says of restarts.
    async fn told_by_its_hypervisor(&self, end: &End, machine: &mut LeasedMachine) -> Result<bool, End> {
        let is_over = match end {
            // A shutdown that goes on in the background outlives the command that began it.
            End::Exit(_) if self.is_due() => !goes_down(machine, LINGERS).await,
            End::Exit(_) => !machine.only_restarted(),
            // The connection is the first that goes.
            End::Lost(_) | End::Crashed(_) => !(machine.only_restarted() || goes_down(machine, GOES_DOWN).await),
            _ => true,
        };
        if is_over {
            return Ok(false);
        }
        self.too_many()?;
        self.comes_up(machine).await.map(|()| true)
    }

    /// Returns whether the guest has restarted and is up again, by what it says of its boot: nobody else tells.
    async fn told_by_the_guest(&self, end: &End, before: &str, machine: &mut LeasedMachine) -> Result<bool, End> {
        match end {
            End::Exit(_) if self.is_due() && falls_silent(machine).await => {}
            End::Lost(_) | End::Crashed(_) => {}
            _ => return Ok(false),
        }
        let mut unchanged: Option<clock::Instant> = None;
        loop {
            match machine.come_back(&self.context.cancel).await {
                Ok(()) => {}
                Err(fault) if fault.blame() == Blame::Cancelled => return Err(End::Cancelled),
                // Nothing proves that it restarted: the loss stays what it is.
                Err(fault) => return Err(End::Lost(fault)),
            }
            match boot_id::ask(machine).await {
                Ok(now) if now != before => return self.too_many().map(|()| true),
                Ok(_) if unchanged.get_or_insert_with(clock::now).elapsed() > LINGERS => return Ok(false),
                // It is about to go down, and still answers.
                Ok(_) => {}
                Err(_) => unchanged = None,
            }
            clock::sleep(AGAIN).await;
        }
    }
}

/// Waits for a guest that goes down in the background of a command that has ended; returns whether it did.
async fn falls_silent(machine: &LeasedMachine) -> bool {
    let silent = async {
        while boot_id::ask(machine).await.is_ok() {
            clock::sleep(AGAIN).await;
        }
    };
    clock::within(LINGERS, silent).await.is_some()
}

/// Runs a short command of ours; returns what it says.
async fn run(machine: &LeasedMachine, command: RemoteCommand) -> Result<String> {
    let never = CancellationToken::new();
    let mut seen = Collected::default();
    let ended = clock::within(PREPARE, machine.controller.run(&command, &mut seen, &never)).await;
    match ended {
        Some(Ok(exit)) if exit.code() == Some(0) => {
            Ok(vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stdout)))
        }
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
