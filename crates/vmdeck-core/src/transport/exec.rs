//! The `exec` transport: the backend's own power to run commands in its machine.
//!
//! Which backend has that power is in its `Capabilities`.

use super::{
    contract::{ConnectError, ConnectTarget, Connector, Endpoint, Needs, Transport, Unusable},
    file_transfer,
    session::{CommandRunner, FileTransfer, NoTerminal, RemoteTerminal, Session},
};
use crate::{
    backend::{capabilities::Capabilities, guest_exec::GuestExec},
    command::{Collected, CommandExit, OutputSink, RemoteCommand, Shell},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// The word in the config.
pub(super) const KIND: &str = "exec";
/// First pause between two attempts; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// The `exec` transport.
pub(super) struct ByBackend;

impl Transport for ByBackend {
    fn usable(&self, guest: &Guest, capabilities: &Capabilities) -> Result<(), Unusable> {
        if !capabilities.guest_exec {
            let reason = format!("the backend `{}` cannot run commands by itself", guest.backend);
            return Err(Unusable::NotSupported(reason));
        }
        Ok(())
    }

    fn needs(&self, _: &Guest) -> Needs {
        Needs::GuestExec
    }

    fn has_terminal(&self) -> bool {
        false
    }

    fn connector<'a>(&'a self, _: &'a ConnectTarget<'a>) -> Result<Box<dyn Connector + 'a>> {
        Ok(Box::new(FirstCommand { pause: PAUSES.0 }))
    }
}

/// Tries a first command until it runs: the guest's agent starts late in its boot, and nothing says when.
struct FirstCommand {
    pause: Duration,
}

impl Connector for FirstCommand {
    fn proves_identity(&self) -> bool {
        true
    }

    fn connect(&mut self, endpoint: Endpoint) -> BoxFuture<'_, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            let Endpoint::GuestExec(power) = endpoint else {
                return Err(Fault::bug("the transport `exec` got a connection").into());
            };
            match first_command(&*power).await {
                Ok((language, CommandExit::Code(0))) => {
                    Ok(Box::new(BackendSession { power, language }) as Box<dyn Session>)
                }
                Ok((_, exit)) => Err(Fault::infra("cannot run a first command").because(exit).permanent().into()),
                // Another machine would say the same.
                Err(fault) if !fault.is_worth_a_retry() => Err(fault.permanent().into()),
                Err(fault) => {
                    let pause = self.pause;
                    self.pause = (pause * 2).min(PAUSES.1);
                    Err(ConnectError::NotYet { reason: fault.to_string(), pause })
                }
            }
        })
    }
}

/// Runs a command that does nothing, in the language of the guest.
async fn first_command(power: &dyn GuestExec) -> Result<(Shell, CommandExit)> {
    let language = power.language().await?;
    // Good in every language.
    let first = RemoteCommand::new("exit 0");
    let exit = power.run(&first, &mut Collected::default(), &CancellationToken::new()).await?;
    Ok((language, exit))
}

struct BackendSession {
    power: Arc<dyn GuestExec>,
    language: Shell,
}

impl CommandRunner for BackendSession {
    fn shell(&self) -> Shell {
        self.language
    }

    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        self.power.run(command, sink, cancel)
    }
}

impl Session for BackendSession {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn files(&self) -> Box<dyn FileTransfer + '_> {
        file_transfer::by_commands(self, self.power.copy_out())
    }

    fn terminal(&self) -> Result<&dyn RemoteTerminal, NoTerminal> {
        Err(NoTerminal { instead: self.power.shell_hint() })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
