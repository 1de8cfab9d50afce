//! One QEMU machine from its first byte to its proven absence.
//!
//! Its command line is made in `argv`, its control protocol is spoken in `qmp`.

use super::{
    argv::Files,
    qmp::{self, Qmp, QmpEvent},
};
use crate::{
    backend::{Ended, Fut, Identity, Lead, Order, Stats, Update, Vm, Way},
    host::{
        clock, files, pids,
        process::{Child, Spawner, Spec, Streams},
    },
};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
};
use vmdeck_model::error::{Blame, Fault, Result};

/// How long QEMU may take to open its control socket.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end after `quit`.
const QUIT: Duration = Duration::from_secs(3);

pub(super) struct QemuVm {
    spawner: Spawner,
    name: String,
    uuid: String,
    dir: PathBuf,
    files: Files,
    spec: Spec,
    errors: PathBuf,
    ended: watch::Sender<Option<Ended>>,
    running: Option<Running>,
    may_stay: bool,
}

/// What the owner of the process is asked.
enum Ask {
    /// Kill it and collect it; the answer is that this was done.
    Kill(oneshot::Sender<()>),
    /// Let go of it.
    Leave,
}

/// What exists only once it was started.
struct Running {
    qmp: Arc<Qmp>,
    pid: u32,
    started: Option<u64>,
    /// Asks the owner of the process.
    kill: mpsc::Sender<Ask>,
    /// Set when the process was collected.
    collected: watch::Receiver<bool>,
}

impl QemuVm {
    pub(super) fn new(spawner: Spawner, order: &Order<'_>, spec: Spec, files: Files) -> Self {
        Self {
            spawner,
            name: order.name.to_owned(),
            uuid: order.uuid.to_owned(),
            dir: order.dir.to_owned(),
            files,
            spec,
            errors: order.record.join("qemu.log"),
            ended: watch::channel(None).0,
            running: None,
            may_stay: order.may_stay,
        }
    }

    fn failed(&self) -> Fault {
        Fault::infra(format!("cannot start `{}`", self.name))
    }

    async fn power_on(&mut self) -> Result<()> {
        let errors = std::fs::File::create(&self.errors).map_err(|e| self.failed().because(e))?;
        let streams = Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: errors.into() };
        // Nothing of our environment: it may hold passwords.
        let spec = self.spec.clone().dir(&self.dir).bare_env();
        let spawned = if self.may_stay {
            self.spawner.spawn(&spec.outliving(), streams).await
        } else {
            self.spawner.spawn_tethered(&spec, streams).await
        };
        let child = spawned.map_err(|e| self.failed().because(e))?;
        let pid = child.pid();
        let (kill, kills) = mpsc::channel(1);
        let (collected_in, collected) = watch::channel(false);
        tokio::spawn(own(child, kills, collected_in));
        let connected = self.connect(collected.clone()).await;
        let (qmp, events) = match connected {
            Ok(both) => both,
            Err(fault) => {
                kill_and_wait(&kill).await;
                return Err(fault);
            }
        };
        tokio::spawn(watch_events(events, collected.clone(), self.ended.clone(), self.errors.clone()));
        let started = pids::lookup(pid).map(|p| p.started);
        let qmp = Arc::new(qmp);
        self.running = Some(Running { qmp: Arc::clone(&qmp), pid, started, kill, collected });
        // It was started stopped, so that no event is missed; now it runs.
        qmp.execute("cont", json!({})).await.map(drop)
    }

    /// Waits for the control socket, or for QEMU to give up before it.
    async fn connect(&self, mut collected: watch::Receiver<bool>) -> Result<(Qmp, mpsc::UnboundedReceiver<QmpEvent>)> {
        let opened = async {
            // The socket appears within tens of milliseconds, and nothing tells when.
            while !self.files.qmp.exists() {
                clock::sleep(Duration::from_millis(2)).await;
            }
            loop {
                match Qmp::connect(&self.files.qmp).await {
                    // Bound and not listening yet.
                    Err(e) if e.to_string().contains("refused") => clock::sleep(Duration::from_millis(2)).await,
                    other => return other,
                }
            }
        };
        let mut gone = collected.clone();
        let fault = tokio::select! {
            opened = clock::within(START, opened) => match opened {
                Some(Ok(both)) => return Ok(both),
                Some(Err(fault)) => fault,
                None => self.failed().because(format!("QEMU opened no control socket within {} s", START.as_secs())),
            },
            _ = gone.wait_for(|gone| *gone) => return Err(self.explain()),
        };
        // A connection that ended is how it looks when QEMU gives up just now: then its own words tell more.
        match clock::within(QUIT, collected.wait_for(|gone| *gone)).await {
            Some(_) => Err(self.explain()),
            None => Err(fault),
        }
    }

    /// QEMU's own last words as a fault.
    fn explain(&self) -> Fault {
        let text = String::from_utf8_lossy(&files::read_tail(&self.errors, 4096)).into_owned();
        let last =
            text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("QEMU ended without a word").trim().to_owned();
        let hint = if last.contains("write\" lock") || text.contains("Is another process using the image") {
            Some("another machine uses this disk image; stop it, or give each guest an image of its own")
        } else if last.contains("Cannot allocate memory") {
            Some("the host has not enough memory; lower `guests.NAME.memory`")
        } else if text.contains("not supported by KVM") || text.contains("failed to initialize kvm") {
            Some("set `qemu.accel = \"tcg\"` or `\"auto\"`")
        } else {
            None
        };
        let fault = self.failed().because(last);
        hint.map(|h| fault.clone().hint(h)).unwrap_or(fault)
    }

    fn running(&self) -> Result<&Running> {
        self.running
            .as_ref()
            .ok_or_else(|| Fault::bug(format!("cannot ask `{}` anything", self.name)).because("it was never started"))
    }

    async fn take_down(&mut self) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let mut collected = running.collected.clone();
        if !*collected.borrow() {
            // The answer may be lost in the end of the process, so only that end counts.
            let _ = clock::within(QUIT, running.qmp.execute("quit", json!({}))).await;
            if clock::within(QUIT, collected.wait_for(|gone| *gone)).await.is_none() {
                kill_and_wait(&running.kill).await;
            }
        }
        if *running.collected.borrow() {
            return Ok(());
        }
        Err(Fault::new(Blame::Leftover, format!("cannot end the QEMU process {} of `{}`", running.pid, self.name))
            .hint(format!("look at it with `ps -p {}`", running.pid)))
    }

    async fn release(&mut self) -> Result<Vec<String>> {
        let mut proofs = Vec::new();
        if self.running.is_some() {
            self.take_down().await?;
        }
        if let Some(running) = &self.running {
            proofs.push(format!("QEMU process {} of `{}` was collected", running.pid, self.name));
        }
        if let Some(process) = pids::with_arg(&self.uuid).first() {
            return Err(Fault::new(
                Blame::Leftover,
                format!("process {} of `{}` is still there", process.pid, self.name),
            ));
        }
        files::remove_dir(&self.dir)
            .map_err(|e| Fault::new(Blame::Leftover, format!("cannot remove `{}`", self.dir.display())).because(e))?;
        proofs.push(format!("folder `{}` with sockets and overlay is gone", self.dir.display()));
        Ok(proofs)
    }

    async fn describe(&self) -> Result<String> {
        let qmp = &self.running()?.qmp;
        let status = qmp.execute("query-status", json!({})).await?;
        let mut out = format!("state: {}\n", status["status"].as_str().unwrap_or("?"));
        for line in ["info registers", "info usernet"] {
            out.push_str(&format!("\n== {line}\n{}", qmp.human(line).await?.replace('\r', "")));
        }
        Ok(out)
    }

    /// `SysRq` over the serial line: a break, then `l` (processors) and `w` (blocked tasks).
    async fn sysrq(&self) -> Result<bool> {
        let running = self.running()?;
        let failed = |e: std::io::Error| Fault::infra("cannot write to the console").because(e);
        let mut console = tokio::net::UnixStream::connect(&self.files.console).await.map_err(failed)?;
        let mut answered = false;
        for key in ["l", "w"] {
            let answer = running.qmp.human("chardev-send-break console").await?;
            if !answer.trim().is_empty() {
                return Ok(false);
            }
            console.write_all(key.as_bytes()).await.map_err(failed)?;
            // Until it is quiet: an unread console stalls the guest, and a second break before the key has been taken
            // would call the first one off.
            let mut sink = [0; 4096];
            let mut patience = Duration::from_secs(2);
            while matches!(clock::within(patience, console.read(&mut sink)).await, Some(Ok(1..))) {
                patience = Duration::from_millis(300);
                answered = true;
            }
        }
        Ok(answered)
    }
}

/// Holds the process: collects it when it ends, kills its group when asked or when the machine is dropped.
async fn own(mut child: Child, mut asks: mpsc::Receiver<Ask>, collected: watch::Sender<bool>) {
    let asked = tokio::select! {
        _ = child.wait() => None,
        asked = asks.recv() => Some(asked),
    };
    match asked {
        Some(Some(Ask::Leave)) => return,
        Some(Some(Ask::Kill(reply))) => {
            let _ = child.kill_group().await;
            collected.send_replace(true);
            let _ = reply.send(());
        }
        Some(None) => drop(child.kill_group().await),
        None => {}
    }
    collected.send_replace(true);
}

async fn kill_and_wait(kill: &mpsc::Sender<Ask>) {
    let (reply, done) = oneshot::channel();
    // A closed channel means that the process was collected already.
    if kill.send(Ask::Kill(reply)).await.is_ok() {
        let _ = clock::within(Duration::from_secs(10), done).await;
    }
}

/// Turns control events into the one fact of how the machine ended; the first cause wins.
async fn watch_events(
    mut events: mpsc::UnboundedReceiver<QmpEvent>,
    mut collected: watch::Receiver<bool>,
    ended: watch::Sender<Option<Ended>>,
    errors: PathBuf,
) {
    while let Some(event) = events.recv().await {
        if let Some(how) = meaning(&event) {
            set_first(&ended, how);
        }
    }
    let _ = collected.wait_for(|gone| *gone).await;
    let text = String::from_utf8_lossy(&files::read_tail(&errors, 1024)).into_owned();
    let why = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("without a word").trim().to_owned();
    set_first(&ended, Ended::Crashed(why));
}

fn set_first(ended: &watch::Sender<Option<Ended>>, how: Ended) {
    ended.send_if_modified(|now| {
        let first = now.is_none();
        now.get_or_insert(how);
        first
    });
}

fn meaning(event: &QmpEvent) -> Option<Ended> {
    match event.name.as_str() {
        "GUEST_PANICKED" => Some(Ended::Panicked("reported by pvpanic".into())),
        "SHUTDOWN" => match event.data["reason"].as_str().unwrap_or("?") {
            "guest-panic" => Some(Ended::Panicked("reported by QEMU".into())),
            "guest-reset" => Some(Ended::Rebooted),
            reason => Some(Ended::Shutdown(reason.to_owned())),
        },
        _ => None,
    }
}

impl Vm for QemuVm {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Identity {
        Identity {
            uuid: Some(self.uuid.clone()),
            pid: self.running.as_ref().map(|r| r.pid),
            started: self.running.as_ref().and_then(|r| r.started),
        }
    }

    fn console(&self) -> Option<&Path> {
        Some(&self.files.log)
    }

    fn console_socket(&self) -> Option<&Path> {
        Some(&self.files.console)
    }

    fn start(&mut self) -> Fut<'_, ()> {
        Box::pin(self.power_on())
    }

    fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn ways(&self) -> &[Way] {
        &[Way { name: "forward" }]
    }

    fn seek<'a>(&'a self, _: &'a Way, port: u16) -> Fut<'a, Vec<Lead>> {
        Box::pin(async move {
            let text = self.running()?.qmp.human("info usernet").await?;
            let lead = |port| Lead { address: (Ipv4Addr::LOCALHOST, port).into(), proven: true };
            Ok(qmp::forwarded_port(&text, port).map(lead).into_iter().collect())
        })
    }

    fn disk_used(&self) -> Fut<'_, Option<u64>> {
        Box::pin(async { Ok(Some(files::disk_usage(&self.dir))) })
    }

    fn terminate(&mut self) -> Fut<'_, ()> {
        Box::pin(self.take_down())
    }

    fn close(&mut self) -> Fut<'_, Vec<String>> {
        Box::pin(self.release())
    }

    fn leave(self: Box<Self>) {
        if let Some(running) = &self.running {
            // Full only if it is being killed already.
            let _ = running.kill.try_send(Ask::Leave);
        }
    }

    fn diagnose(&self) -> Fut<'_, String> {
        Box::pin(self.describe())
    }

    fn dump_stacks(&self) -> Fut<'_, bool> {
        Box::pin(self.sysrq())
    }

    fn stats(&self) -> Option<Stats> {
        pids::usage(self.running.as_ref()?.pid).map(|(memory, cpu_ms)| Stats { memory, cpu_ms })
    }

    fn update<'a>(&'a mut self, update: &'a Update) -> Fut<'a, ()> {
        Box::pin(async move {
            match update {
                Update::Memory(bytes) => {
                    self.running()?.qmp.execute("balloon", json!({ "value": bytes })).await.map(drop)
                }
                other => Err(Fault::user(format!("cannot apply {other:?}"))
                    .because("QEMU cannot change it while the guest runs")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_wins() {
        let (ended, now) = watch::channel(None);
        set_first(&ended, Ended::Panicked("a".into()));
        set_first(&ended, Ended::Shutdown("host-qmp-quit".into()));
        assert_eq!(*now.borrow(), Some(Ended::Panicked("a".into())));
    }

    #[test]
    fn events_and_not_exit_codes_tell_how_it_ended() {
        let event = |name: &str, data| QmpEvent { name: name.into(), data };
        let check = |e, how| assert_eq!(meaning(&e), how);
        check(
            event("SHUTDOWN", json!({"guest":true,"reason":"guest-shutdown"})),
            Some(Ended::Shutdown("guest-shutdown".into())),
        );
        check(event("SHUTDOWN", json!({"guest":true,"reason":"guest-reset"})), Some(Ended::Rebooted));
        check(
            event("SHUTDOWN", json!({"guest":true,"reason":"guest-panic"})),
            Some(Ended::Panicked("reported by QEMU".into())),
        );
        check(event("GUEST_PANICKED", json!({"action":"pause"})), Some(Ended::Panicked("reported by pvpanic".into())));
        check(event("STOP", json!({})), None);
    }
}
