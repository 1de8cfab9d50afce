//! Making a machine for a guest: intent first, then the provider, then the boot; what fails is taken down and tried again.
//!
//! Running cases in it is `worker`'s and `cases`' work.

use super::{
    conductor::Shared,
    controller::Controller,
    journal::{Made, Record},
    link::{self, ConsoleError, GuestLink},
    reap, retry,
};
use crate::{
    backend::{self, Backend, BackendDef, Ended, Existing, Identity, Order, Vm},
    host::{clock, files, lockdir},
    transport::Session,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, watch};
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Phase},
    guest::Guest,
    ids::machine_name,
    plan::Keep,
};

/// How long asking for the size of its disk may take: the figure is worth no more.
const MEASURE: Duration = Duration::from_secs(5);
/// How long taking a machine down may take, on a clock of its own: never on a cancelled one.
const CLEANUP: Duration = Duration::from_mins(1);

/// A machine that is up.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) controller: Controller,
    pub(super) ended: watch::Receiver<Option<Ended>>,
    pub(super) console_error: watch::Receiver<Option<ConsoleError>>,
    /// Set when a command outside of a case showed that it cannot be used any more.
    pub(super) lost: AtomicBool,
}

impl Machine {
    /// Whether it cannot be used any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.ended.borrow().is_some() || self.console_error.borrow().is_some()
    }
}

/// Makes and boots one; tries again where that can help. One that will not be tried again stands for a while, if that is
/// wanted, and gives its place back.
pub(super) async fn launch(
    shared: &Shared,
    guest: &Arc<Guest>,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Result<Machine> {
    let mut attempt = 1;
    loop {
        let last = attempt >= guest.launch_retries;
        let fault = match launch_once(shared, guest, last, place).await {
            Ok(machine) => return Ok(machine),
            Err(fault) => fault,
        };
        if last || !fault.is_worth_a_retry() || shared.cancel.is_cancelled() {
            return Err(fault);
        }
        attempt += 1;
        let pause = retry::pause(attempt);
        shared.emit.fact(EventKind::Retrying {
            guest: Some(guest.id.clone()),
            what: "launch".into(),
            attempt,
            of: guest.launch_retries,
            after_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            why: fault.to_string(),
        });
        tokio::select! {
            () = clock::sleep(pause) => {}
            () = shared.cancel.cancelled() => return Err(fault),
        }
    }
}

/// What is about to be made or adopted, with its intent in the journal.
struct Intended {
    name: String,
    uuid: String,
    dir: PathBuf,
    adopted: Option<Existing>,
}

/// Decides whether a machine is made or one of others adopted, and makes the intent durable before the provider hears of it.
async fn intend(shared: &Shared, guest: &Guest, backend: &dyn Backend, row: &BackendDef) -> Result<Intended> {
    let adopted = tokio::select! {
        found = backend.existing(guest) => found?,
        () = shared.cancel.cancelled() => return Err(Fault::cancelled(format!("cannot create guest `{}`", guest.id)).because("it was cancelled")),
    };
    // Nobody may come between the question whether it is used and the note that it is.
    let _alone = match &adopted {
        Some(existing) => {
            let alone = only_one(&shared.backend.state).await?;
            refuse_if_used(shared, guest, existing)?;
            Some(alone)
        }
        None => None,
    };
    let name = machine_name(&shared.plan.run, fastrand::u32(..));
    let dir = shared.backend.state.join("machines").join(&name);
    let uuid = uuid();
    let known = match &adopted {
        Some(existing) => existing.id.clone(),
        None => row.caps.takes_uuid.then(|| uuid.clone()),
    };
    shared.journal.append(&Record::Intent {
        name: name.clone(),
        backend: guest.backend.clone(),
        guest: guest.id.clone(),
        dir: dir.clone(),
        identity: Identity { uuid: known, ..Identity::default() },
        adopted: adopted.clone(),
    })?;
    Ok(Intended { name, uuid, dir, adopted })
}

/// Waits until no other guest, of this run or of another, is about to adopt; the flock ends with the file.
async fn only_one(state: &std::path::Path) -> Result<std::fs::File> {
    let path = state.join("adopting");
    let cannot = |e: std::io::Error| Fault::host(format!("cannot lock `{}`", path.display())).because(e);
    let file = files::append_private(&path).map_err(cannot)?;
    let taken = async {
        while !lockdir::try_flock(&file)? {
            clock::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    let late = || Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "another vmdeck holds it"));
    clock::within(CLEANUP, taken).await.unwrap_or_else(late).map_err(cannot)?;
    Ok(file)
}

/// Two guests in one machine would spoil each other's tests, and the first to end would stop it under the other.
fn refuse_if_used(shared: &Shared, guest: &Guest, wanted: &Existing) -> Result<()> {
    let same = |made: &&Made| {
        let other = made.remnant.adopted.as_ref();
        made.backend == guest.backend && other.is_some_and(|other| other.id == wanted.id && other.name == wanted.name)
    };
    for (history, alive) in reap::histories_alive(&shared.backend.state) {
        if let Some(made) = history.open.values().chain(history.kept.values()).find(same) {
            let mine = history.run == shared.plan.run.as_str();
            let whose = if mine { "this run".to_owned() } else { format!("run {}", history.run) };
            let (state, hint) = if alive {
                ("uses it", "wait for that run, or give each guest a machine of its own")
            } else {
                ("kept it, or left it behind", "`vmdeck cleanup` puts it back")
            };
            return Err(Fault::host(format!("cannot adopt `{}` for guest `{}`", wanted.name, guest.id))
                .because(format!("guest `{}` of {whose} {state}", made.guest))
                .hint(hint)
                .lasting());
        }
    }
    Ok(())
}

async fn launch_once(
    shared: &Shared,
    guest: &Arc<Guest>,
    last: bool,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Result<Machine> {
    let row = backend::find(&guest.backend)?;
    let backend = (row.build)(&shared.backend);
    let record = shared.guest_dir(guest);
    std::fs::create_dir_all(&record).map_err(|e| {
        Fault::host(format!("cannot make `{}`", record.display())).because(e).hint("free disk space, or set --run-dir")
    })?;
    set_aside_console(&record);
    let Intended { name, uuid, dir, adopted } = intend(shared, guest, backend.as_ref(), row).await?;
    let link = GuestLink::new(Arc::clone(guest), shared.emit.clone(), shared.journal.clone(), &shared.backend.state);
    let console_error = link.console_error();
    let (emit, id, machine) = (shared.emit.clone(), guest.id.clone(), name.clone());
    let on_change = Box::new(move |from, to, why: &str| {
        let machine = Some(machine.clone());
        emit.fact(EventKind::GuestState { guest: id.clone(), from, to, why: why.to_owned(), machine });
    });
    let mut controller = Controller::new(Box::new(link), on_change);
    let may_stay = shared.plan.options.keep != Keep::Never || shared.plan.options.steered;
    let order =
        Order { guest, name: &name, uuid: &uuid, dir: &dir, record: &record, may_stay, adopt: adopted.as_ref() };
    let created = phase(shared, guest, Phase::Create, async {
        tokio::select! {
            made = controller.create(backend.create(order)) => made,
            () = shared.cancel.cancelled() => Err(Fault::cancelled(format!("cannot create guest `{}`", guest.id)).because("it was cancelled")),
        }
    });
    if let Err(fault) = created.await {
        discard_uncreated(shared, guest, &name, &dir, adopted).await;
        return Err(fault);
    }
    // What the provider chose itself, such as an id: from here on a reaper can be sure of it.
    let known = controller.identity().map(|identity| Record::Known { name: name.clone(), identity, console: None });
    if let Some(Err(fault)) = known.map(|known| shared.journal.append(&known)) {
        take_down(shared, guest, &mut controller, &name).await;
        return Err(fault);
    }
    let started = controller.start(&shared.cancel).await;
    let ended = controller.vm().map_or_else(|| watch::channel(None).1, Vm::ended);
    let mut machine = Machine { name, controller, ended, console_error, lost: AtomicBool::new(false) };
    let Err(fault) = started else { return Ok(machine) };
    diagnose(shared, guest, &machine.controller, &fault).await;
    if last || !fault.is_worth_a_retry() {
        // Nobody can look at what was never made.
        let was_made = exists(&machine.controller).await;
        if was_made {
            pause(shared, guest, place).await;
        }
        let is_there = was_made && machine.ended.borrow().is_none();
        if is_there && shared.steering.keeps(&guest.id, false, true) {
            keep(shared, guest, machine);
            return Err(fault);
        }
    }
    take_down(shared, guest, &mut machine.controller, &machine.name).await;
    Err(fault)
}

/// Whether there is a machine that could be kept.
async fn exists(controller: &Controller) -> bool {
    match controller.vm() {
        Some(vm) => matches!(clock::within(MEASURE, vm.exists()).await, Some(Ok(true))),
        None => false,
    }
}

/// Keeps the console of an earlier machine of this guest: every machine writes a log of its own.
fn set_aside_console(record: &std::path::Path) {
    let current = record.join("console.log");
    let free = (1..1000).map(|n| record.join(format!("console-{n}.log"))).find(|p| !p.exists());
    if let Some(free) = free.filter(|_| current.exists()) {
        // If it stays, the new machine's lines follow the old ones; nothing is lost.
        let _ = std::fs::rename(&current, &free);
        let _ = std::fs::rename(current.with_extension("times"), free.with_extension("times"));
    }
}

/// Frames work with a phase's two events.
pub(super) async fn phase<T>(
    shared: &Shared,
    guest: &Guest,
    phase: Phase,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let start = clock::now();
    begin(shared, guest, phase, None);
    let result = work.await;
    let ok = result.is_ok();
    shared.emit.fact(EventKind::PhaseEnded { guest: guest.id.clone(), phase, ok, took_ms: clock::ms_since(start) });
    result
}

fn begin(shared: &Shared, guest: &Guest, phase: Phase, usual_ms: Option<u64>) {
    let guest = guest.id.clone();
    shared.emit.fact(EventKind::PhaseStarted { guest, phase, usual_ms, rest_ms: None, quiet_ms: None });
}

/// Lets a person look at a guest that failed, for as long as the plan says or until they have seen enough.
pub(super) async fn pause(shared: &Shared, guest: &Guest, place: &mut Option<OwnedSemaphorePermit>) {
    let Some(limit) = shared.plan.options.pause.filter(|_| !shared.cancel.is_cancelled()) else { return };
    let Some(wheel) = shared.steering.of(&guest.id) else { return };
    drop(place.take());
    shared.note(&format!("{} failed and stands for a look", guest.id));
    let start = clock::now();
    begin(shared, guest, Phase::Pause, u64::try_from(limit.as_millis()).ok());
    let over = wheel.begin_pause();
    let _ = clock::within(limit, over.cancelled()).await;
    end(shared, guest, Phase::Pause, start);
}

/// Keeps a guest up until somebody stops it, or it ends by itself.
pub(super) async fn hold(shared: &Shared, guest: &Guest, machine: &Machine) {
    let Some(wheel) = shared.steering.of(&guest.id) else { return };
    shared.note(&format!("holding {}", guest.id));
    let start = clock::now();
    begin(shared, guest, Phase::Hold, None);
    let (mut ended, mut error) = (machine.ended.clone(), machine.console_error.clone());
    tokio::select! {
        () = wheel.stop.cancelled() => {}
        Some(how) = link::told(&mut ended) => {
            shared.emit.infra();
            shared.emit.warn(Some(&guest.id), format!("guest `{}`: {how}", guest.id), None);
        }
        Some(found) = link::told(&mut error) => {
            shared.emit.infra();
            shared.emit.warn(Some(&guest.id), link::console_fault(&found).to_string(), None);
        }
    }
    end(shared, guest, Phase::Hold, start);
}

fn end(shared: &Shared, guest: &Guest, phase: Phase, start: clock::Instant) {
    let took_ms = clock::ms_since(start);
    shared.emit.fact(EventKind::PhaseEnded { guest: guest.id.clone(), phase, ok: true, took_ms });
}

/// A creation that failed may have made half a machine: the reaper's way finds and removes it.
async fn discard_uncreated(
    shared: &Shared,
    guest: &Guest,
    name: &str,
    dir: &std::path::Path,
    adopted: Option<Existing>,
) {
    let uuid = adopted.as_ref().and_then(|existing| existing.id.clone());
    let identity = Identity { uuid, ..Identity::default() };
    let remnant = backend::Remnant { name: name.to_owned(), identity, dir: dir.to_owned(), adopted };
    let reaped = match backend::find(&guest.backend) {
        Ok(row) => clock::within(CLEANUP, (row.build)(&shared.backend).reap(&remnant)).await,
        Err(fault) => Some(Err(fault)),
    };
    match reaped.unwrap_or_else(|| Err(too_long(name))) {
        Ok(proof) => drop(shared.journal.append(&Record::Gone { name: name.to_owned(), proof })),
        Err(fault) => left_behind(shared, guest, name, &fault),
    }
}

/// Writes down what can still be known about a machine that will not come up, or hangs.
pub(super) async fn diagnose(shared: &Shared, guest: &Guest, controller: &Controller, fault: &Fault) {
    let mut text = format!("{fault}\n\n");
    let asked = clock::within(Duration::from_secs(10), controller.diagnose()).await;
    match asked {
        Some(Ok(words)) => text.push_str(&words),
        Some(Err(e)) => text.push_str(&format!("the hypervisor does not answer: {e}\n")),
        None => text.push_str("the hypervisor does not answer within 10 s\n"),
    }
    let path = shared.guest_dir(guest).join("diagnostics.txt");
    // The fault itself is told in any case.
    let _ = std::fs::write(path, shared.redactor.text(&text));
}

/// Takes a machine down and proves it; tells what is left. A second try is made where the first one fails.
pub(super) async fn take_down(shared: &Shared, guest: &Guest, controller: &mut Controller, name: &str) {
    let start = clock::now();
    let id = guest.id.clone();
    shared.emit.fact(EventKind::CleanupBegan { guest: id.clone() });
    begin(shared, guest, Phase::Cleanup, None);
    let adopted = controller.vm().is_some_and(Vm::adopted);
    let freed = match controller.vm() {
        Some(vm) if !adopted => clock::within(MEASURE, vm.disk_used()).await.and_then(Result::ok).flatten(),
        _ => None,
    };
    let work = async {
        match controller.terminate("the run is done with it").await {
            Err(_) => controller.terminate("tried again").await,
            done => done,
        }
    };
    let result = clock::within(CLEANUP, work).await;
    let result = result.unwrap_or_else(|| Err(too_long(name)));
    for fault in controller.swallowed() {
        shared.emit.warn(Some(&id), fault.to_string(), None);
    }
    let ok = result.is_ok();
    let left = match result {
        Ok(()) => {
            let proof = controller.proofs().join("; ");
            if let Err(fault) = shared.journal.append(&Record::Gone { name: name.to_owned(), proof }) {
                shared.emit.warn(Some(&id), fault.to_string(), fault.remedy().map(str::to_owned));
            }
            Vec::new()
        }
        Err(fault) => vec![format!("{name}: {fault}")],
    };
    shared.emit.fact(EventKind::PhaseEnded {
        guest: id.clone(),
        phase: Phase::Cleanup,
        ok,
        took_ms: clock::ms_since(start),
    });
    let freed = freed.filter(|_| ok);
    let proofs = controller.proofs().to_vec();
    shared.emit.fact(EventKind::CleanupEnded { guest: id, proofs, left, kept: false, adopted, freed });
}

fn too_long(name: &str) -> Fault {
    Fault::new(vmdeck_model::error::Blame::Leftover, format!("cannot take `{name}` down"))
        .because("it took longer than 60 s")
}

fn left_behind(shared: &Shared, guest: &Guest, name: &str, fault: &Fault) {
    let left = vec![format!("{name}: {fault}")];
    let (guest, proofs) = (guest.id.clone(), Vec::new());
    shared.emit.fact(EventKind::CleanupEnded { guest, proofs, left, kept: false, adopted: false, freed: None });
}

/// Leaves a machine in place on a person's wish.
pub(super) fn keep(shared: &Shared, guest: &Guest, mut machine: Machine) {
    let name = machine.name;
    let mut adopted = false;
    let mut shown = name.clone();
    let address = machine.controller.session().and_then(Session::peer);
    if let Some(vm) = machine.controller.leave() {
        adopted = vm.adopted();
        vm.machine().clone_into(&mut shown);
        let host_key = machine.controller.host_key();
        if let Err(fault) = shared.journal.append(&Record::Kept { name: name.clone(), address, host_key }) {
            shared.emit.warn(Some(&guest.id), fault.to_string(), None);
        }
        vm.leave();
    }
    shared.emit.warn(
        Some(&guest.id),
        format!("guest `{}` was kept as `{shown}`", guest.id),
        Some(format!(
            "`vmdeck shell {}` goes in (with `-- COMMAND` where only `exec` can); `vmdeck cleanup` {}",
            guest.id,
            if adopted { "puts it back" } else { "removes it" }
        )),
    );
    shared.emit.fact(EventKind::CleanupEnded {
        guest: guest.id.clone(),
        proofs: Vec::new(),
        left: Vec::new(),
        kept: true,
        adopted,
        freed: None,
    });
}

/// A random UUID of version 4.
fn uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The folder of a guest in a run's record.
pub(super) fn guest_dir(run: &std::path::Path, guest: &Guest) -> PathBuf {
    run.join("guests").join(guest.id.as_str())
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_have_their_form() {
        for _ in 0..100 {
            let uuid = super::uuid();
            let bytes = uuid.as_bytes();
            assert_eq!((uuid.len(), bytes[14]), (36, b'4'));
            assert!(b"89ab".contains(&bytes[19]), "{uuid}");
        }
    }
}
