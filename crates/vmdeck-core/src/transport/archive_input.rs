//! Runs the command of a guest that unpacks the archive on its standard input.

use super::session::CommandRunner;
use crate::command::{Collected, CommandExit, RemoteCommand};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Fault, Result};

/// Runs the command to its end. An exit other than 0 is a fault that says what the guest complained of.
pub(super) async fn run_unpack(
    runner: &dyn CommandRunner,
    command: &RemoteCommand,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut output = Collected::default();
    match runner.run(command, &mut output, cancel).await? {
        CommandExit::Code(0) => Ok(()),
        exit => Err(Fault::infra("cannot unpack the archive in the guest")
            .because(exit)
            .because(String::from_utf8_lossy(&output.stderr).trim())),
    }
}
