//! One remote machine, and how it is put back to how it was found.

use super::power::Power;
use crate::{
    backend::{
        contract::{Machine, MachineExit},
        proof::Proof,
        record::{AdoptTarget, MachineId, PowerState},
        request::CreateRequest,
    },
    context::CallContext,
    host::files,
};
use futures_util::future::BoxFuture;
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use vmdeck_model::error::{Blame, Fault, Result};

/// A machine that others run.
pub(super) struct RemoteMachine {
    name: String,
    target: AdoptTarget,
    power: Power,
    dir: PathBuf,
    /// Whether it is used for a run, and not only looked at.
    is_used: bool,
    exit: watch::Sender<Option<MachineExit>>,
}

impl RemoteMachine {
    pub(super) fn new(power: Power, request: &CreateRequest<'_>, target: &AdoptTarget, is_used: bool) -> Self {
        Self {
            name: request.name.to_owned(),
            target: target.clone(),
            power,
            dir: request.private_dir.to_owned(),
            is_used,
            exit: watch::channel(None).0,
        }
    }
}

impl Machine for RemoteMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn provider_name(&self) -> &str {
        &self.target.name
    }

    fn id(&self) -> MachineId {
        MachineId::default()
    }

    fn is_adopted(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        self.is_used
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.target.was == PowerState::Off {
                self.power.switch_on().await?;
            }
            Ok(())
        })
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if self.target.was == PowerState::Off {
                self.power.switch_off().await?;
            }
            Ok(())
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async { Ok(vec![Proof::PutBack(settled(&self.power, &self.target, &self.dir).await?)]) })
    }

    fn detach(self: Box<Self>) {}

    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async {
            Ok(match self.power.is_on().await? {
                Some(true) => "`power.status` says that it is on".to_owned(),
                Some(false) => "`power.status` says that it is off".to_owned(),
                None => String::new(),
            })
        })
    }
}

/// Puts a machine back to how it was found, and says how that is known.
pub(super) async fn put_back(power: &Power, target: &AdoptTarget, dir: &Path) -> Proof {
    if target.was == PowerState::Off
        && let Err(fault) = power.switch_off().await
    {
        return Proof::Unknown(fault);
    }
    Proof::put_back(settled(power, target, dir).await)
}

/// Returns how it is known that the machine is as it was found, and removes what was noted about it here.
async fn settled(power: &Power, target: &AdoptTarget, dir: &Path) -> Result<String> {
    let name = &target.name;
    let text = match target.was {
        PowerState::Off if power.has_off() => match power.once_off().await? {
            Some(true) => {
                return Err(Fault::new(Blame::Leftover, format!("cannot switch `{name}` off again"))
                    .because("`power.status` says that it is on")
                    .hint("switch it off by hand; it was off when the run began"));
            }
            Some(false) => format!("`{name}` is not ours and is off again, as it was found"),
            None => format!("`{name}` is not ours; `power.off` has ended well"),
        },
        PowerState::Off => format!("`{name}` is not ours; it was off and stays on: there is no `power.off`"),
        PowerState::On | PowerState::Suspended => {
            format!("`{name}` is not ours; nothing about its power was changed")
        }
    };
    files::remove_dir(dir)
        .map_err(|e| Fault::new(Blame::Leftover, format!("cannot remove `{}`", dir.display())).because(e))?;
    Ok(text)
}
