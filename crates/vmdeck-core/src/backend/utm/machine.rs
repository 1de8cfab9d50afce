//! One machine of UTM: a copy of a template that is deleted again, or adopted and put back to how it was.

use super::{
    addresses::AddressFinder,
    exec::UtmExec,
    utmctl::{Failure, FailureKind, Row, Utmctl, power},
};
use crate::{
    backend::{
        contract::{Machine, MachineExit},
        deps::BackendDeps,
        discovery::AddressDiscovery,
        guest_exec::GuestExec,
        proof::Proof,
        record::{AdoptTarget, MachineId, PowerState},
        request::CreateRequest,
        tool,
    },
    context::CallContext,
    host::{clock, files, pids},
};
use futures_util::future::BoxFuture;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    quantity::show_duration,
};

/// How often it is asked whether the machine is still up; each question is an Apple event to UTM.
const STILL_UP: Duration = Duration::from_secs(10);
/// The first pause between two checks of a status that is changing; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a guest may take to follow a polite request to shut down.
const POLITE: Duration = Duration::from_secs(20);
/// How long a copy that is being made is waited for before it is deleted.
const COPYING: Duration = Duration::from_secs(45);
/// How long UTM may take to stop a machine by force.
const FORCE: Duration = Duration::from_secs(20);

pub(super) struct UtmMachine {
    utmctl: Utmctl,
    /// The name that the journal knows.
    name: String,
    uuid: String,
    /// The name that UTM knows.
    machine: String,
    /// What is put back at the end; `None` = it is ours.
    adopted: Option<AdoptTarget>,
    disposable: bool,
    /// How long UTM may take until it says `started`.
    limit: Duration,
    /// Set where UTM may not be asked: the machine is then taken as it is and nothing about it is changed.
    unasked: bool,
    finder: AddressFinder,
    exec: Arc<UtmExec>,
    bundle: Option<PathBuf>,
    exit: watch::Sender<Option<MachineExit>>,
    watcher: Option<tokio::task::AbortHandle>,
}

impl UtmMachine {
    /// Returns a machine that exists, by UTM's own id and name.
    pub(super) fn new(
        deps: &BackendDeps,
        utmctl: Utmctl,
        request: &CreateRequest<'_>,
        row: &Row,
        target: Option<&AdoptTarget>,
    ) -> Self {
        let (uuid, name) = (row.uuid.as_str(), row.name.as_str());
        let user = request.guest.options.text("agent_user").map(str::to_owned);
        let exec = Arc::new(UtmExec::new(utmctl.clone(), uuid.to_owned(), user));
        let finder =
            AddressFinder::new(deps, &utmctl, request.guest, (uuid, name), Arc::clone(&exec) as Arc<dyn GuestExec>);
        Self {
            name: request.name.to_owned(),
            uuid: uuid.to_owned(),
            adopted: target.cloned(),
            disposable: request.guest.options.flag("disposable"),
            limit: request.guest.boot_timeout,
            unasked: false,
            machine: name.to_owned(),
            bundle: finder.folder().map(Path::to_owned),
            finder,
            exec,
            utmctl,
            exit: watch::channel(None).0,
            watcher: None,
        }
    }

    async fn power_on(&mut self) -> Result<()> {
        let failed = || Fault::infra(format!("cannot start `{}`", self.name));
        // What was found running is not started by us: then it would be nobody's to stop.
        let may_start = self.adopted.as_ref().is_none_or(|target| target.was != PowerState::On);
        match clock::within(self.limit, start(&self.utmctl, &self.uuid, may_start, self.disposable)).await {
            Some(Ok(true)) => {}
            // Without the right to talk to UTM every id is "not found": whoever named it has it running already.
            Some(Err(failure)) if self.may_go_unasked(&failure) => self.unasked = true,
            Some(Err(failure)) => return Err(failed().caused_by(failure.fault)),
            Some(Ok(false)) => {
                return Err(failed().because("it was running when it was adopted, but no longer is"));
            }
            None => {
                return Err(
                    failed().because(format!("UTM did not report `started` within {}", show_duration(self.limit)))
                );
            }
        }
        if !self.unasked {
            let (utmctl, uuid) = (self.utmctl.clone(), self.uuid.clone());
            let ask = move || {
                let (utmctl, uuid) = (utmctl.clone(), uuid.clone());
                async move {
                    let status = utmctl.status(&uuid).await.ok()?;
                    (power(&status) != PowerState::On).then(|| MachineExit::Shutdown(format!("UTM says `{status}`")))
                }
            };
            self.watcher = Some(tokio::spawn(tool::watch_end(self.exit.clone(), STILL_UP, ask)).abort_handle());
        }
        Ok(())
    }

    fn may_go_unasked(&self, failure: &Failure) -> bool {
        let was_on = self.adopted.as_ref().is_some_and(|target| target.was == PowerState::On);
        was_on && matches!(failure.kind, FailureKind::Forbidden | FailureKind::NotFound)
    }

    async fn take_down(&mut self) -> Result<()> {
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
        match &self.adopted {
            Some(_) if self.unasked => Ok(()),
            Some(target) => put_back(&self.utmctl, &self.uuid, target).await,
            None => stop(&self.utmctl, &self.uuid, false).await,
        }
    }

    async fn release_all(&mut self) -> Result<Vec<Proof>> {
        match &self.adopted {
            Some(target) if self.unasked => Ok(vec![Proof::PutBack(format!(
                "`{}` is not ours; UTM could not be asked, so nothing about it was changed",
                target.name
            ))]),
            Some(target) => settled(&self.utmctl, &self.uuid, target).await.map(|how| vec![Proof::PutBack(how)]),
            None => destroy(&self.utmctl, &self.uuid, &self.name).await.map(|how| vec![Proof::Gone(how)]),
        }
    }
}

/// Brings it to `started`, from whatever it is in now; `false` = it would have to be started, and may not.
async fn start(utmctl: &Utmctl, uuid: &str, may_start: bool, disposable: bool) -> Result<bool, Failure> {
    let mut pause = PAUSES.0;
    loop {
        match utmctl.status(uuid).await?.as_str() {
            "started" => return Ok(true),
            "stopped" | "paused" if !may_start => return Ok(false),
            "stopped" | "paused" => match utmctl.start(uuid, disposable).await {
                // It is starting already, which the status will show.
                Err(failure) if failure.kind != FailureKind::NotAvailable => return Err(failure),
                _ => {}
            },
            _ => {
                clock::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// Waits for a status; returns whether it came in time.
async fn until(utmctl: &Utmctl, uuid: &str, wanted: &str, limit: Duration) -> Result<bool, Failure> {
    let work = async {
        let mut pause = PAUSES.0;
        while utmctl.status(uuid).await? != wanted {
            clock::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(true)
    };
    clock::within(limit, work).await.unwrap_or(Ok(false))
}

/// Stops it. Politely first, if that is wanted: the guest may need to write what it has in memory.
pub(super) async fn stop(utmctl: &Utmctl, uuid: &str, politely: bool) -> Result<()> {
    let status = utmctl.status(uuid).await?;
    if status == "stopped" {
        return Ok(());
    }
    if politely && status == "started" {
        // It returns at once, and the guest may ignore it.
        utmctl.stop(uuid, "--request").await?;
        if until(utmctl, uuid, "stopped", POLITE).await? {
            return Ok(());
        }
    }
    // A machine that is not `started` refuses everything but this.
    let how = if status == "started" { "--force" } else { "--kill" };
    match utmctl.stop(uuid, how).await {
        Err(failure) if failure.kind != FailureKind::NotRunning => return Err(failure.into()),
        _ => {}
    }
    if until(utmctl, uuid, "stopped", FORCE).await? {
        return Ok(());
    }
    Err(Fault::infra(format!("cannot stop the machine {uuid}"))
        .because(format!("UTM did not report `stopped` within {} s", FORCE.as_secs())))
}

/// Returns the list, once no `utmctl` copies a machine to this name any more: before that its absence says nothing.
pub(super) async fn list_once_copied(utmctl: &Utmctl, name: &str) -> Result<Vec<Row>> {
    let is_copying = || pids::with_arg(name).iter().any(|process| process.argv.iter().any(|arg| arg == "clone"));
    let ended = async {
        while is_copying() {
            clock::sleep(PAUSES.1).await;
        }
    };
    if clock::within(COPYING, ended).await.is_none() {
        return Err(Fault::new(Blame::Leftover, format!("cannot prove that the machine `{name}` is gone"))
            .because("UTM is still copying it")
            .hint("`vmdeck cleanup` deletes it once the copy is finished"));
    }
    Ok(utmctl.list().await?)
}

/// Returns whether UTM, which answers, has no such machine any more.
async fn is_deleted(utmctl: &Utmctl, uuid: &str) -> Result<bool> {
    Ok(!utmctl.list().await?.iter().any(|row| row.uuid == uuid))
}

/// Puts an adopted machine back to how it was found.
pub(super) async fn put_back(utmctl: &Utmctl, uuid: &str, target: &AdoptTarget) -> Result<()> {
    let now = match utmctl.status(uuid).await {
        Ok(status) => power(&status),
        Err(failure) if failure.kind == FailureKind::NotFound && is_deleted(utmctl, uuid).await? => return Ok(()),
        Err(failure) => return Err(failure.into()),
    };
    match target.was {
        PowerState::Off if now != PowerState::Off => stop(utmctl, uuid, true).await,
        PowerState::Suspended if now == PowerState::On => {
            utmctl.suspend(uuid).await?;
            until(utmctl, uuid, "paused", FORCE).await?;
            Ok(())
        }
        // It was up and is not: the tests stopped it, and starting it again is its owner's choice.
        _ => Ok(()),
    }
}

/// Proves that an adopted machine is as it was found.
pub(super) async fn settled(utmctl: &Utmctl, uuid: &str, target: &AdoptTarget) -> Result<String> {
    let name = &target.name;
    let leftover = || {
        Fault::new(Blame::Leftover, format!("cannot put the machine `{name}` back to how it was found"))
            .hint(format!("inspect it with `utmctl status {uuid}`"))
    };
    if target.was == PowerState::On {
        return Ok(format!("`{name}` is not ours and stays as it was found: running"));
    }
    let status = match utmctl.status(uuid).await {
        Ok(status) => status,
        Err(failure) if failure.kind == FailureKind::NotFound && is_deleted(utmctl, uuid).await? => {
            return Ok(format!("`{name}` is not ours, and UTM no longer lists it"));
        }
        Err(failure) => return Err(leftover().caused_by(failure.fault)),
    };
    if power(&status) == target.was || power(&status) == PowerState::Off {
        return Ok(format!("`{name}` is not ours and stays; UTM says `{status}`"));
    }
    Err(leftover().because(format!("UTM says `{status}`")))
}

/// Deletes a machine of ours, known by its id *and* its generated name, and proves that it is gone.
pub(super) async fn destroy(utmctl: &Utmctl, uuid: &str, name: &str) -> Result<String> {
    let leftover = || {
        Fault::new(Blame::Leftover, format!("cannot delete the UTM machine `{name}`"))
            .hint(format!("`utmctl stop --kill {uuid}`, then `utmctl delete {uuid}`"))
    };
    let is_it = |rows: Vec<Row>| rows.into_iter().any(|row| row.uuid == uuid && row.name == name);
    let is_there = async || utmctl.list().await.map(is_it).map_err(|failure| leftover().caused_by(failure.fault));
    if is_there().await? {
        stop(utmctl, uuid, false).await.map_err(|fault| leftover().caused_by(fault))?;
        let deleted = utmctl.delete(uuid).await;
        // What counts is whether it is gone: an answer that came too late is no failure.
        if is_there().await? {
            let why = deleted.err().map_or_else(|| Fault::infra("UTM still lists it"), |failure| failure.fault);
            return Err(leftover().caused_by(why));
        }
    }
    Ok(format!("UTM lists no machine {uuid} `{name}`"))
}

impl Machine for UtmMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn provider_name(&self) -> &str {
        &self.machine
    }

    fn id(&self) -> MachineId {
        MachineId { uuid: Some(self.uuid.clone()), ..MachineId::default() }
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.power_on())
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        Some(&self.finder)
    }

    fn disk_used(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(async { Ok(self.bundle.as_deref().map(files::disk_usage)) })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.take_down())
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(self.release_all())
    }

    fn detach(self: Box<Self>) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        (!self.unasked).then(|| Arc::clone(&self.exec) as Arc<dyn GuestExec>)
    }

    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async {
            let status = self.utmctl.status(&self.uuid).await?;
            let addresses = self.utmctl.addresses(&self.uuid).await.unwrap_or_else(|failure| failure.fault.to_string());
            Ok(format!("UTM says `{status}`\n\n== utmctl ip-address\n{addresses}"))
        })
    }
}
