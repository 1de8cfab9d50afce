//! Commands in a guest by the QEMU guest agent (`qemu-ga`), over a virtio-serial port of its own: no network, no login.
//!
//! Facts: the agent runs as root, in Windows as SYSTEM. It tells nothing by itself, so that a command is asked after. What it would keep
//! of a command's output comes only at the end and is cut at 16 MiB; so a command writes to files of the guest, which are read while
//! they grow, and it reads from one.

mod client;
mod command;
#[cfg(test)]
mod tests;

use crate::{
    backend::guest_exec::GuestExec,
    command::{CommandExit, OutputSink, RemoteCommand, Shell},
    host::clock,
};
use client::{AgentClient, AgentError};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::{path::PathBuf, time::Duration};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// How long one attempt waits for the agent to open its port.
const OPEN: Duration = Duration::from_secs(2);
/// What the agent calls Windows.
const WINDOWS: &str = "mswindows";
/// What to do where it does not answer.
const INSTALL: &str = "install `qemu-guest-agent` in the guest (Windows: from virtio-win), or take `exec` out of the guest's `transports`";
/// What to do where it refuses to run commands.
const ALLOW: &str = "allow `guest-exec`, `guest-exec-status` and `guest-file-*` in the guest: `BLOCK_RPCS` or `FILTER_RPC_ARGS` in \
                     /etc/sysconfig/qemu-ga, `block-rpcs` in /etc/qemu/qemu-ga.conf";

/// The agent of one guest.
pub(super) struct GuestAgent {
    client: AgentClient,
    /// Whether the agent has its port open, as QEMU tells it.
    open: watch::Receiver<bool>,
    language: OnceCell<Shell>,
    /// Who runs the commands in a POSIX guest; `None` = the agent's own user.
    user: Option<String>,
}

impl GuestAgent {
    /// Returns the agent of this guest, behind this socket of QEMU.
    pub(super) fn of(guest: &Guest, socket: PathBuf, open: watch::Receiver<bool>) -> Self {
        let user = guest.options.text("agent_user").map(str::to_owned);
        Self { client: AgentClient::new(socket), open, language: OnceCell::new(), user }
    }

    /// Asks the agent which system it runs in.
    async fn find_language(&self) -> Result<Shell> {
        let mut open = self.open.clone();
        // Where nobody tells any more, the agent itself is asked.
        let is_closed = clock::within(OPEN, open.wait_for(|open| *open)).await.is_none();
        if is_closed {
            return Err(cannot("reach the guest agent").because("it has not opened its port").hint(INSTALL));
        }
        match self.client.call("guest-get-osinfo", json!({})).await {
            Ok(info) if info["id"] == WINDOWS => Ok(Shell::PowerShell),
            // An agent before 2.10, or one that may not say it: those of Windows can.
            Ok(_) | Err(AgentError::Refused(_)) => Ok(Shell::Posix),
            Err(error) => Err(error.fault("reach the guest agent")),
        }
    }
}

fn cannot(what: &str) -> Fault {
    Fault::infra(format!("cannot {what}"))
}

impl AgentError {
    /// Returns the fault of something that could not be done.
    fn fault(self, what: &str) -> Fault {
        match self {
            AgentError::Silent(why) => cannot(what).because(why).hint(INSTALL),
            AgentError::Refused(why) => cannot(what).because(format!("the guest agent says: {why}")),
            AgentError::Forbidden(why) => {
                cannot(what).because(format!("the guest agent says: {why}")).hint(ALLOW).permanent()
            }
        }
    }
}

impl GuestExec for GuestAgent {
    fn language(&self) -> BoxFuture<'_, Result<Shell>> {
        Box::pin(async { self.language.get_or_try_init(|| self.find_language()).await.copied() })
    }

    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            let language = self.language().await?;
            let closed = async {
                // Where nobody tells any more, the silence does.
                if self.open.clone().wait_for(|open| !*open).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ran = command::run(&self.client, language, self.user.as_deref(), command, sink, cancel) => ran,
                () = closed => Err(command::lost(AgentError::Silent("the guest agent has closed its port".into()))),
            }
        })
    }
}
