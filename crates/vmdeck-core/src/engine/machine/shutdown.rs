//! Lets a guest shut down by itself before its machine is taken down, where the config wants that.
//!
//! Taking it down, whatever came of this, is `take_down`'s work.

use super::{LeasedMachine, recv_once};
use crate::{
    backend::contract::Machine,
    command::{Collected, RemoteCommand, Shell},
    engine::context::RunContext,
    host::clock,
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::{Guest, Shutdown},
    quantity::show_duration,
    suite::RunAs,
};

/// What ends a Linux system in order.
const POWER_OFF: &str = "if [ -d /run/systemd/system ]; then systemctl poweroff; else poweroff || shutdown -h now; fi";
/// The same for a guest that knows no power-off: its restart ends the machine.
const RESTART: &str = "systemctl reboot --reboot-argument=now || reboot -f";

/// The same in Windows.
const STOP_COMPUTER: &str = "Stop-Computer -Force";

/// Asks the guest to shut down, and waits for that. A run that is cancelled does not wait, and a machine of others is left as it is.
pub(super) async fn shut_down(context: &RunContext, guest: &Guest, machine: &LeasedMachine) {
    let is_ours = machine.controller.machine().is_some_and(|machine| !machine.is_adopted());
    if guest.shutdown == Shutdown::Quit || !is_ours || machine.is_lost() || context.cancel.is_cancelled() {
        return;
    }
    let (mut exit, mut error) = (machine.exit.clone(), machine.console.error());
    let ends = async {
        tokio::select! {
            biased;
            Some(found) = recv_once(&mut error) => Err(found.to_fault()),
            Some(how) = recv_once(&mut exit) => {
                if how.is_orderly() { Ok(()) } else { Err(Fault::infra("it did not shut down").because(how)) }
            }
        }
    };
    // The connection goes before the machine does, so what becomes of the wish is seen by the machine's end alone.
    let wish = async {
        let asked = ask(guest, machine).await;
        if let Err(fault) = asked
            && !machine.is_lost()
            && guest.shutdown == Shutdown::Powerdown
        {
            return fault;
        }
        std::future::pending().await
    };
    let limit = guest.shutdown_timeout;
    let both = async {
        tokio::select! {
            ended = ends => ended,
            fault = wish => Err(fault),
            () = context.cancel.cancelled() => Ok(()),
        }
    };
    let late = || Fault::infra(format!("it took longer than {}", show_duration(limit)));
    let ended = clock::within(limit, both).await.unwrap_or_else(|| Err(late()));
    let handed = ended.and_then(|()| hand_over(guest, machine));
    if let Err(fault) = handed {
        let text = format!("guest `{}` did not shut down well, and is ended: {fault}", guest.id);
        context.events.warn(Some(&guest.id), context.redactor.text(&text), None);
    }
}

/// Keeps the disk of a guest that has shut down, where somebody wants it.
fn hand_over(guest: &Guest, machine: &LeasedMachine) -> Result<()> {
    let Some(to) = &guest.save_disk else { return Ok(()) };
    match machine.controller.machine().and_then(Machine::disk) {
        Some(disk) => disk.hand_over(to),
        None => Err(Fault::infra("cannot keep its disk").because("its backend cannot do that")),
    }
}

async fn ask(guest: &Guest, machine: &LeasedMachine) -> Result<()> {
    if guest.shutdown == Shutdown::Powerdown {
        return match machine.controller.machine().and_then(Machine::power_button) {
            Some(button) => button.press().await,
            None => Err(Fault::user("its backend has no power button").hint("set `shutdown = \"command\"`")),
        };
    }
    let ends_by_restart = machine.controller.machine().is_some_and(Machine::ends_by_restart);
    let script = match machine.shell() {
        Shell::PowerShell => STOP_COMPUTER,
        Shell::Posix if ends_by_restart => RESTART,
        Shell::Posix => POWER_OFF,
    };
    let command = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(script) };
    let never = tokio_util::sync::CancellationToken::new();
    machine.controller.run(&command, &mut Collected::default(), &never).await.map(drop)
}
