//! The run's end of its control socket.

use super::{CONTROL, Greeting, PATH_MAX};
use std::{
    io,
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use vmdeck_core::host::{files, info};
use vmdeck_model::{
    command::{Command, DETACH},
    ids::RunId,
};

/// The longest line of a client, in bytes.
const LINE_MAX: u64 = 64 * 1024;

/// The control socket of a run; it is gone with this value.
pub(in crate::app) struct ControlSocket {
    files: Vec<PathBuf>,
    clients: watch::Receiver<Clients>,
    _open: DropGuard,
}

/// Who is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Clients {
    /// How many clients are connected.
    count: usize,
    /// Whether one of them has said that the run is to go on alone.
    has_let_go: bool,
}

/// What every connection needs.
#[derive(Clone)]
struct Serving {
    greeting: String,
    commands: mpsc::Sender<Command>,
    clients: watch::Sender<Clients>,
}

impl ControlSocket {
    /// Opens the socket in the record of a run, whose engine takes these commands.
    pub(in crate::app) fn open(
        record: &Path,
        run: &RunId,
        steered: bool,
        commands: mpsc::Sender<Command>,
    ) -> io::Result<Self> {
        let path = record.join(CONTROL);
        let mut files = vec![path.clone()];
        let mut place = path.clone();
        if path.as_os_str().len() > PATH_MAX {
            let folder = info::state_dir().join("sockets");
            files::private_dir(&folder)?;
            sweep(&folder);
            place = folder.join(format!("{}.sock", run.as_str()));
            std::os::unix::fs::symlink(&place, &path)?;
            files.push(place.clone());
        }
        let listener = UnixListener::bind(&place)?;
        // Whoever was faster than this is asked who they are.
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600))?;
        let greeting = Greeting { run: run.as_str().to_owned(), steered };
        let greeting = serde_json::to_string(&greeting)? + "\n";
        let (sender, clients) = watch::channel(Clients::default());
        let closed = CancellationToken::new();
        let serving = Serving { greeting, commands, clients: sender };
        tokio::spawn(accept(listener, serving, closed.clone()));
        Ok(Self { files, clients, _open: closed.drop_guard() })
    }

    /// Waits until somebody is connected.
    pub(in crate::app) async fn until_attached(&self) {
        self.until(|clients| clients.count > 0).await;
    }

    /// Waits until nobody is connected.
    pub(in crate::app) async fn until_alone(&self) {
        self.until(|clients| clients.count == 0).await;
    }

    /// Returns whether somebody has said that the run is to go on alone.
    pub(in crate::app) fn was_let_go(&self) -> bool {
        self.clients.borrow().has_let_go
    }

    async fn until(&self, holds: impl Fn(&Clients) -> bool) {
        if self.clients.clone().wait_for(holds).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Removes sockets that nobody listens on: of runs that were killed.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_dead =
            BlockingStream::connect(entry.path()).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if is_dead {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

async fn accept(listener: UnixListener, serving: Serving, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        // Out of descriptors: those who are there may leave.
        let Ok((stream, _)) = accepted else {
            vmdeck_core::host::clock::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        if is_ours(&stream) {
            let (serving, closed) = (serving.clone(), closed.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(stream, serving) => {}
                    () = closed.cancelled() => {}
                }
            });
        }
    }
}

/// Returns whether the other end is this user, or root.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Counts a client for as long as it lives.
struct Counted<'a>(&'a watch::Sender<Clients>);

impl<'a> Counted<'a> {
    fn new(clients: &'a watch::Sender<Clients>) -> Self {
        clients.send_modify(|now| now.count += 1);
        Self(clients)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|now| now.count -= 1);
    }
}

async fn serve(stream: UnixStream, serving: Serving) {
    let (read, mut write) = stream.into_split();
    if write.write_all(serving.greeting.as_bytes()).await.is_err() {
        return;
    }
    let _counted = Counted::new(&serving.clients);
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            // Longer than any command, or torn by the end of the connection.
            Ok(_) if line.last() != Some(&b'\n') => return,
            Ok(_) => {}
        }
        if line.trim_ascii() == DETACH.as_bytes() {
            serving.clients.send_modify(|now| now.has_let_go = true);
            return;
        }
        // A word of another version is left alone.
        if let Ok(command) = serde_json::from_slice(&line) {
            let _ = serving.commands.send(command).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::control::{answers, join};
    use vmdeck_model::ids::GuestId;

    fn run() -> RunId {
        RunId::from_bits(0x5bba_890d_0102_0304)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_clients_steer_one_run_and_neither_ends_it() {
        let home = tempfile::tempdir().expect("tempdir");
        let (send, mut receive) = mpsc::channel(8);
        let socket = ControlSocket::open(home.path(), &run(), true, send).expect("open");
        let mode = std::fs::metadata(home.path().join(CONTROL)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let stop = |name: &str| Command::Stop { guest: GuestId::new(name).expect("name") };
        let (one, two) = (join(home.path(), false).expect("joined"), join(home.path(), false).expect("joined"));
        socket.until_attached().await;
        for (control, guest) in [(&one, "a"), (&two, "b")] {
            control.lines.send(serde_json::to_string(&stop(guest)).expect("json")).expect("sent");
            assert_eq!(receive.recv().await, Some(stop(guest)));
        }
        drop(one);
        two.lines.send("nonsense".into()).expect("sent");
        two.lines.send(DETACH.into()).expect("sent");
        socket.until_alone().await;
        assert!(socket.was_let_go() && receive.try_recv().is_err());
        drop(socket);
        assert!(!home.path().join(CONTROL).exists() && !answers(home.path()));
        assert!(join(home.path(), false).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_is_only_to_be_watched_is_steered_on_request() {
        let home = tempfile::tempdir().expect("tempdir");
        let (send, _receive) = mpsc::channel(8);
        let _socket = ControlSocket::open(home.path(), &run(), false, send).expect("open");
        let refused = join(home.path(), false).expect_err("not steered").to_string();
        assert!(refused.contains("is only to be watched"), "{refused}");
        join(home.path(), true).expect("asked for");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_path_is_reached_by_a_link_and_the_end_is_told() {
        let home = tempfile::tempdir().expect("tempdir");
        let record = home.path().join("x".repeat(120));
        std::fs::create_dir(&record).expect("mkdir");
        let (send, mut receive) = mpsc::channel(8);
        let socket = ControlSocket::open(&record, &run(), true, send).expect("open");
        let mut control = join(&record, false).expect("joined");
        control.lines.send(r#"{"command":"keep_failed","on":true}"#.into()).expect("sent");
        assert_eq!(receive.recv().await, Some(Command::KeepFailed { on: true }));
        drop(socket);
        control.ended.recv().await;
        assert!(std::fs::symlink_metadata(record.join(CONTROL)).is_err(), "nothing stays");
    }
}
