//! A client of QEMU's control socket: JSON lines, events and replies told apart by their keys.
//!
//! An event may come before the reply of the command that caused it; a second client gets no greeting until the first is
//! gone; after `quit` the end may be an EOF or a reset (all measured with QEMU 7.2).

use crate::host::clock;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
};
use vmdeck_model::error::{Fault, Result};

/// Longest line that is taken, in bytes; more is not QMP.
const LINE_MAX: u64 = 16 << 20;
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts at a socket that nobody listens on yet.
const NOT_YET: Duration = Duration::from_millis(2);

pub(crate) type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<std::result::Result<Value, String>>>>>;

/// An open control connection.
pub(super) struct Qmp {
    write: AsyncMutex<Box<dyn AsyncWrite + Send + Unpin>>,
    waiting: Waiting,
    next: AtomicU64,
}

/// An event of the machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QmpEvent {
    pub(super) name: String,
    pub(super) data: Value,
}

impl Qmp {
    /// Connects and negotiates. The receiver gets every event and ends when the connection does.
    pub(super) async fn connect(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<QmpEvent>)> {
        let failed = || Fault::infra("cannot talk to QEMU's control socket");
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                // Bound and not listening yet; the caller limits the time.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => clock::sleep(NOT_YET).await,
                Err(e) => return Err(failed().because(e)),
            }
        };
        let (read, write) = stream.into_split();
        let (qmp, events) = Self::over(read, write).await?;
        Ok((qmp, events))
    }

    async fn over(
        read: impl tokio::io::AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(Self, mpsc::UnboundedReceiver<QmpEvent>)> {
        let waiting = Waiting::default();
        let (events_in, events) = mpsc::unbounded_channel();
        let (greeted_in, greeted) = oneshot::channel();
        tokio::spawn(listen(read, Arc::clone(&waiting), events_in, greeted_in));
        let silent = || {
            Fault::infra("cannot talk to QEMU's control socket")
                .because("no greeting came; another client may be connected")
        };
        clock::within(PATIENCE, greeted).await.ok_or_else(silent)?.map_err(|_| silent())?;
        let qmp = Self { write: AsyncMutex::new(Box::new(write)), waiting, next: AtomicU64::new(1) };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok((qmp, events))
    }

    /// Runs a command; the error is QEMU's own text.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let failed = || Fault::infra(format!("cannot execute `{command}` in QEMU"));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply_in, reply) = oneshot::channel();
        self.waiting.lock().insert(id, reply_in);
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id }));
        let sent = async {
            let mut write = self.write.lock().await;
            write.write_all(line.as_bytes()).await?;
            write.flush().await
        };
        let answered = async {
            sent.await.map_err(|e| failed().because(e))?;
            reply.await.map_err(|_| failed().because("the connection ended"))?.map_err(|text| failed().because(text))
        };
        let result = clock::within(PATIENCE, answered).await;
        self.waiting.lock().remove(&id);
        result.unwrap_or_else(|| Err(failed().because(format!("no answer within {} s", PATIENCE.as_secs()))))
    }

    /// Runs a command of the human monitor; its failures come as text in a successful reply.
    pub(super) async fn human(&self, line: &str) -> Result<String> {
        let reply = self.execute("human-monitor-command", json!({ "command-line": line })).await?;
        Ok(reply.as_str().unwrap_or_default().to_owned())
    }
}

pub(crate) async fn listen(
    read: impl tokio::io::AsyncRead + Unpin,
    waiting: Waiting,
    events: mpsc::UnboundedSender<QmpEvent>,
    greeted: oneshot::Sender<()>,
) {
    let mut read = BufReader::new(read);
    let mut greeted = Some(greeted);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut read).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(1..) if line.ends_with(b"\n") => {}
            _ => break,
        }
        let Ok(mut message) = serde_json::from_slice::<Value>(&line) else { continue };
        if message.get("QMP").is_some() {
            if let Some(greeted) = greeted.take() {
                let _ = greeted.send(());
            }
        } else if let Some(name) = message.get("event").and_then(Value::as_str) {
            let event = QmpEvent { name: name.to_owned(), data: message.get("data").cloned().unwrap_or_default() };
            let _ = events.send(event);
        } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
            let reply = match message.get("error") {
                Some(error) => Err(error["desc"].as_str().unwrap_or("refused").to_owned()),
                None => Ok(message["return"].take()),
            };
            if let Some(waiter) = waiting.lock().remove(&id) {
                let _ = waiter.send(reply);
            }
        }
    }
    // Whoever still waits learns that no answer will come.
    waiting.lock().clear();
}

/// Returns the host port that `info usernet` shows for a port of the guest.
///
/// A row reads `TCP[HOST_FORWARD]  10       127.0.0.1 41973       10.0.2.15    22`.
pub(crate) fn forwarded_port(usernet: &str, guest_port: u16) -> Option<u16> {
    usernet.lines().filter(|l| l.trim_start().starts_with("TCP[HOST_FORWARD]")).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, host_port, _, to_port, ..] = words[..] else { return None };
        (to_port.parse() == Ok(guest_port)).then(|| host_port.parse().ok()).flatten()
    })
}

/// Returns whether `info usernet` shows a connection of this host into the guest.
///
/// Its row reads as that of the port which is forwarded, with `TCP[ESTABLISHED]` or another state in front.
pub(crate) fn established(usernet: &str) -> bool {
    let rows = usernet.lines().map(str::trim_start).filter(|row| row.starts_with("TCP["));
    // A connection out of the guest begins at the guest's own address.
    let is_into = |row: &str| row.split_whitespace().nth(2).is_some_and(|source| source.starts_with("127."));
    rows.filter(|row| !row.starts_with("TCP[HOST_FORWARD]") && !row.starts_with("TCP[CLOSED]")).any(is_into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex, split};

    async fn scripted(server: impl AsyncFnOnce(DuplexStream)) -> Result<(Qmp, mpsc::UnboundedReceiver<QmpEvent>)> {
        let (ours, theirs) = duplex(4096);
        let (read, write) = split(ours);
        let (client, ()) = tokio::join!(Qmp::over(read, write), server(theirs));
        client
    }

    async fn greet(mut end: DuplexStream) -> DuplexStream {
        end.write_all(b"{\"QMP\":{}}\r\n").await.expect("greeting");
        let mut line = String::new();
        BufReader::new(&mut end).read_line(&mut line).await.expect("command");
        assert!(line.contains("qmp_capabilities"), "{line}");
        end.write_all(b"{\"return\":{},\"id\":1}\r\n").await.expect("reply");
        end
    }

    #[tokio::test]
    async fn an_event_before_the_reply_is_told_apart() {
        let mut kept = None;
        let (qmp, mut events) = scripted(async |end| kept = Some(greet(end).await)).await.expect("negotiated");
        let mut end = kept.expect("server");
        let server = async {
            end.write_all(b"{\"event\":\"STOP\"}\r\n{\"id\":2,").await.expect("half");
            tokio::task::yield_now().await;
            end.write_all(b"\"return\":{\"x\":7}}\r\nnot json\r\n").await.expect("rest");
        };
        let (reply, ()) = tokio::join!(qmp.execute("stop", json!({})), server);
        assert_eq!(reply.expect("reply")["x"], 7);
        assert_eq!(events.recv().await.expect("event").name, "STOP");
    }

    #[tokio::test]
    async fn the_end_of_the_connection_answers_whoever_waits() {
        let mut kept = None;
        let (qmp, _events) = scripted(async |end| kept = Some(greet(end).await)).await.expect("negotiated");
        let (reply, ()) = tokio::join!(qmp.execute("quit", json!({})), async { drop(kept.take()) });
        assert!(reply.expect_err("ended").to_string().contains("quit"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_greeting_is_no_hang() {
        let (ours, _theirs) = duplex(64);
        let (read, write) = split(ours);
        let error = Qmp::over(read, write).await.err().expect("no greeting");
        assert!(error.to_string().contains("another client"), "{error}");
    }

    #[test]
    fn the_port_is_read_back() {
        let text = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
                    TCP[HOST_FORWARD]  10       127.0.0.1 41973       10.0.2.15    22     0     0\n";
        assert_eq!(forwarded_port(text, 22), Some(41973));
        assert_eq!(forwarded_port(text, 80), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            let _ = forwarded_port(&text, 22);
            let _ = forwarded_port(&format!("TCP[HOST_FORWARD] {text}"), 22);
        }
    }
}
