//! The `exec` transport: the backend's own way to run commands in its machine.
//!
//! Which backend has one is in its `Caps`.

use super::{Session, Step, Target, Terminal, Transport};
use crate::{
    backend::{Fut, GuestExec},
    command::{Collected, Exec, Exit, Sink},
    host::clock,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Fault, Result};

/// First pause between two tries; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

pub(super) struct ByBackend;

impl Transport for ByBackend {
    fn suits(&self, target: &Target<'_>) -> Result<(), String> {
        match target.vm.guest_exec() {
            Some(_) => Ok(()),
            None => Err(format!("the backend `{}` cannot run commands by itself", target.guest.backend)),
        }
    }

    fn connect<'a>(&'a self, target: &'a Target<'a>) -> Fut<'a, Box<dyn Session>> {
        Box::pin(async move {
            let inner = target.vm.guest_exec().ok_or_else(|| Fault::infra("cannot run commands by the backend"))?;
            let mut pause = PAUSES.0;
            loop {
                let mut out = Collected::default();
                let why = match inner.exec(&Exec::new(":"), &mut out, &CancellationToken::new()).await {
                    Ok(Exit::Code(0)) => break,
                    Ok(exit) => return Err(Fault::infra("cannot run a first command").because(exit).lasting()),
                    Err(fault) if !fault.is_worth_a_retry() => return Err(fault),
                    Err(fault) => fault.to_string(),
                };
                // The guest's agent starts late in its boot, and nothing tells when.
                (target.progress)(Step::Waiting(why));
                clock::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            (target.progress)(Step::Spoken);
            Ok(Box::new(BackendSession(inner)) as Box<dyn Session>)
        })
    }
}

struct BackendSession(Arc<dyn GuestExec>);

impl Session for BackendSession {
    fn kind(&self) -> &'static str {
        "exec"
    }

    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit> {
        self.0.exec(exec, sink, cancel)
    }

    fn attach(&self, _: Terminal) -> Fut<'_, Exit> {
        let hint = match self.0.shell_hint() {
            Some(command) => format!("`{command}`, or give a command: `vmdeck shell GUEST -- COMMAND`"),
            None => "give a command: `vmdeck shell GUEST -- COMMAND`".to_owned(),
        };
        Box::pin(async move {
            Err(Fault::user("cannot open a shell").because("the transport `exec` has no terminal").hint(hint))
        })
    }

    fn puller(&self) -> Option<&dyn GuestExec> {
        (!self.0.takes_all()).then_some(self.0.as_ref())
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
