//! The `exec` transport: the backend's own way to run commands in its machine.
//!
//! Which backend has one is in its `Caps`.

use super::{Session, Step, Target, Transport};
use crate::{
    backend::{Fut, GuestExec},
    error::{Fault, Result},
    model::exec::{Collected, Exec, Exit, Sink},
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
            let probe = Exec::new(":");
            let exit = inner.exec(&probe, &mut Collected::default(), &CancellationToken::new()).await?;
            if exit != Exit::Code(0) {
                return Err(Fault::infra("cannot run a first command").because(exit));
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

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
