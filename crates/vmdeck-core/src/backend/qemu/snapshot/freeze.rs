//! Freezes a machine: its devices, its memory, its disk and the files of its folder.

use super::{
    super::{
        argv,
        exit_watch::Migration,
        qemu_img,
        qmp::{Qmp, established},
    },
    DISK, EMPTY_DISK, GuestMemory, ResumeRecipe, STATE,
};
use crate::{
    backend::contract::{Freeze, KeepState},
    host::{clock, process::Spawner},
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::UnixListener, sync::watch};
use vmdeck_model::error::{Fault, Result};

/// How long connections that were closed may take to go.
const CLOSES: Duration = Duration::from_secs(1);
/// Pause between two looks at them: nothing tells when the last one is gone.
const LOOK: Duration = Duration::from_millis(2);
/// How long writing the state of the devices may take.
const WRITES: Duration = Duration::from_mins(2);
/// The most bytes a second for the state: it is written to a socket of this host.
const BANDWIDTH: u64 = 100 << 30;

/// The power to write out a machine that runs.
pub(in super::super) struct Freezer {
    pub(in super::super) qmp: Arc<Qmp>,
    pub(in super::super) spawner: Spawner,
    pub(in super::super) recipe: Arc<ResumeRecipe>,
    /// The guest's memory, where it is a file that can be saved apart from the state.
    pub(in super::super) memory: Option<Arc<GuestMemory>>,
    /// The machine's private folder.
    pub(in super::super) dir: PathBuf,
    pub(in super::super) overlay: Option<PathBuf>,
    pub(in super::super) migration: watch::Sender<Migration>,
}

/// Returns the capabilities that leave the guest's memory out of its state, if it is `apart`, and that tell of how it goes.
pub(super) fn capabilities(apart: bool) -> Value {
    let set = |name: &str, state: bool| json!({ "capability": name, "state": state });
    json!({ "capabilities": [set("x-ignore-shared", apart), set("events", true)] })
}

impl Freezer {
    /// Waits until no connection into the guest is open: the guest would go on with its end of one that is gone.
    async fn closed(&self) {
        let closed = async {
            while self.qmp.human("info usernet").await.is_ok_and(|text| established(&text)) {
                clock::sleep(LOOK).await;
            }
        };
        let _ = clock::within(CLOSES, closed).await;
    }

    async fn write_out(&self, to: &Path, place: &Path) -> Result<()> {
        self.write_state(to).await?;
        if let Some(memory) = self.memory.clone() {
            let folder = to.to_owned();
            // It copies hundreds of megabytes.
            let saved = tokio::task::spawn_blocking(move || memory.save(&folder)).await;
            saved
                .map_err(|e| Fault::bug("saving the guest's memory panicked").because(e))?
                .map_err(|e| failed("save the guest's memory", &e))?;
        }
        if let Some(overlay) = &self.overlay {
            self.save_disk(overlay, to, place).await?;
        }
        self.save_files(to).map_err(|e| failed("copy the files of the machine", &e))?;
        self.recipe.write(to).map_err(|e| failed("write how it is started", &e))
    }

    /// Writes the state of the devices.
    async fn write_state(&self, to: &Path) -> Result<()> {
        let socket = self.dir.join("state.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(|e| failed("listen for the state", &e))?;
        self.qmp.execute("migrate-set-capabilities", capabilities(self.memory.is_some())).await?;
        self.qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH })).await?;
        self.migration.send_replace(Migration::Open);
        let file = vmdeck_files::create_new(&to.join(STATE)).map_err(|e| failed("write the state", &e))?;
        let mut migration = self.migration.subscribe();
        let taken = async {
            let (mut stream, _) = listener.accept().await?;
            let mut file = tokio::fs::File::from_std(file);
            tokio::io::copy(&mut stream, &mut file).await?;
            file.flush().await
        };
        let taken = async { taken.await.map_err(|e| failed("write the state", &e)) };
        let asked = json!({ "uri": format!("unix:{}", socket.display()) });
        let written = async {
            // Where QEMU refuses, nothing comes.
            tokio::try_join!(self.qmp.execute("migrate", asked), taken)?;
            migration.wait_for(|now| now.has_ended()).await.map(|end| *end).map_err(|_| ended())
        };
        let end = clock::within(WRITES, written).await;
        let _ = fs::remove_file(&socket);
        match end {
            Some(Ok(Migration::Completed)) => Ok(()),
            Some(Ok(_)) => Err(self.why_failed().await),
            Some(Err(fault)) => Err(fault),
            None => Err(Fault::infra("cannot write the state of the machine").because("it took too long")),
        }
    }

    /// Returns QEMU's own words for why the state could not be written: some devices have none that could be.
    async fn why_failed(&self) -> Fault {
        let told = self.qmp.execute("query-migrate", json!({})).await.unwrap_or_default();
        let why = told["error-desc"].as_str().unwrap_or("QEMU did not say why").to_owned();
        Fault::infra("cannot write the state of the machine").because(why)
    }

    /// Keeps the disk, which nobody writes to any more, and makes the empty overlay that each machine begins with.
    async fn save_disk(&self, overlay: &Path, to: &Path, place: &Path) -> Result<()> {
        let disk = to.join(DISK);
        // One that goes on writes to its own; a link to another file system cannot be.
        let is_linked = self.memory.is_some() && fs::hard_link(overlay, &disk).is_ok();
        if !is_linked {
            let copied = vmdeck_files::open(overlay)
                .and_then(|from| crate::assets::snapshot::sparse::copy(&from, &vmdeck_files::create(&disk)?));
            copied.map_err(|e| failed("copy the disk", &e))?;
        }
        let base = place.join(DISK);
        let info = ["info", "-U", "--output=json"].map(str::to_owned).into_iter();
        let info = self.qemu_img(&info.chain([disk.display().to_string()]).collect::<Vec<_>>()).await?;
        let info: Value = serde_json::from_str(&info).map_err(|e| failed("read the size of the disk", &e.into()))?;
        let mut words = argv::overlay_arguments(&base, "qcow2", &to.join(EMPTY_DISK), info["virtual-size"].as_u64());
        // The base gets its name only when all is whole.
        words.insert(1, "-u".to_owned());
        self.qemu_img(&words).await.map(drop)
    }

    async fn qemu_img(&self, words: &[String]) -> Result<String> {
        let made = qemu_img::run(&self.spawner, words).await;
        made.map_err(|why| Fault::infra("cannot make the disk of a snapshot").because(why))
    }

    /// Copies what each machine has in its folder besides: keys, the seed, the firmware's variables.
    fn save_files(&self, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let is_disk = self.overlay.as_deref() == Some(&entry.path());
            if entry.file_type()?.is_file() && !is_disk {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }
}

fn failed(what: &str, error: &io::Error) -> Fault {
    let fault = Fault::infra(format!("cannot {what}")).because(error);
    if error.kind() == io::ErrorKind::StorageFull {
        return fault.hint("free disk space in the folder of the snapshots, or set `snapshots.cache`");
    }
    fault
}

fn ended() -> Fault {
    Fault::infra("cannot write the state of the machine").because("QEMU has ended")
}

impl Freeze for Freezer {
    fn freeze<'a>(&'a self, to: &'a Path, place: &'a Path) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.closed().await;
            self.qmp.execute("stop", json!({})).await?;
            let written = self.write_out(to, place).await;
            if written.is_err() {
                self.qmp.execute("cont", json!({})).await?;
            }
            written.map(|()| self.overlay.is_some())
        })
    }
}

impl KeepState for Freezer {
    fn keep_state<'a>(&'a self, to: &'a Path, place: &'a Path) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.qmp.execute("stop", json!({})).await?;
            let written = self.write_out(to, place).await;
            self.qmp.execute("cont", json!({})).await?;
            written.map(|()| self.overlay.is_some())
        })
    }
}
