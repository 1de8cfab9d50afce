//! What a guest says of its own boot: where no hypervisor tells of a restart, another answer is the proof of one.
//!
//! Facts: Linux makes a random id at each boot, which containers share with their host, so the start of the first process counts as
//! well; macOS has an id of its own; Windows knows when it started.

use crate::{
    command::{Collected, CommandExit, RemoteCommand, Shell},
    engine::machine::LeasedMachine,
    host::clock,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Fault, Result};

/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(20);
const POSIX: &str =
    "cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.bootsessionuuid 2>/dev/null || who -b
[ ! -r /proc/1/stat ] || cut -d' ' -f22 /proc/1/stat";
const WINDOWS: &str = "(Get-CimInstance Win32_OperatingSystem).LastBootUpTime.ToFileTimeUtc()";

/// Asks the guest which boot it is in.
pub(super) async fn ask(machine: &LeasedMachine) -> Result<String> {
    let cannot = || Fault::infra("cannot find out whether the guest has restarted");
    let command = RemoteCommand::new(match machine.shell() {
        Shell::Posix => POSIX,
        Shell::PowerShell => WINDOWS,
    });
    let (mut said, never) = (Collected::default(), CancellationToken::new());
    let asked = clock::within(ANSWER, machine.controller.run(&command, &mut said, &never)).await;
    let exit = asked.ok_or_else(|| cannot().because("it does not answer"))??;
    let id = vmdeck_model::text::one_line(&String::from_utf8_lossy(&said.stdout));
    if exit != CommandExit::Code(0) || id.is_empty() {
        return Err(cannot().because(format!("it does not say which boot it is in: {exit}")));
    }
    Ok(id)
}
