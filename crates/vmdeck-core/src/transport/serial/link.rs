//! The connection to an agent: messages out by one task, messages in by another, which hands each to the command it is for.

use crate::command::frame;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use vmdeck_guest::wire::{Body, Decoder, Message, PIECE, after_greeting, greeting};

/// Messages of one command that may wait for it: it takes them as they come.
const WAITING: usize = 64;
/// Most bytes that are looked through for the answer to a greeting.
const NOISE_MAX: usize = 64 * 1024;

type Commands = Arc<Mutex<BTreeMap<u32, mpsc::Sender<Body>>>>;

/// The connection to an agent. It ends when this and every command are dropped.
pub(super) struct Link {
    out: mpsc::UnboundedSender<Vec<u8>>,
    commands: Commands,
    next: AtomicU32,
}

impl Link {
    /// Greets the agent on this socket, and waits for its answer, however long that takes.
    pub(super) async fn open(socket: &Path) -> io::Result<Self> {
        let (mut read, mut write) = UnixStream::connect(socket).await?.into_split();
        let nonce = frame::nonce();
        write.write_all(greeting(&nonce).as_bytes()).await?;
        let mut decoder = Decoder::new(PIECE);
        decoder.feed(&answer(&mut read, &nonce).await?);
        // Bounded by the windows of the commands.
        let (out, messages) = mpsc::unbounded_channel();
        let commands = Commands::default();
        tokio::spawn(send_all(write, messages));
        tokio::spawn(take_all(read, decoder, Arc::clone(&commands)));
        Ok(Self { out, commands, next: AtomicU32::new(1) })
    }

    /// Begins a command: its number is nobody else's.
    pub(super) fn begin(&self) -> LinkedCommand {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, messages) = mpsc::channel(WAITING);
        self.commands.lock().insert(id, sender);
        let sender = CommandSender { id, out: self.out.clone() };
        LinkedCommand { sender, messages, commands: Arc::clone(&self.commands), ended: false }
    }
}

/// Returns what comes after the agent's answer to the greeting with this nonce.
async fn answer(read: &mut OwnedReadHalf, nonce: &str) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    loop {
        if read.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(rest) = after_greeting(&seen, nonce) {
            return Ok(rest.to_vec());
        }
        // What an earlier connection left.
        if seen.len() > NOISE_MAX {
            seen.drain(..seen.len() - NOISE_MAX / 2);
        }
    }
}

async fn send_all(mut write: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = messages.recv().await {
        // The reader notices the end.
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Hands out messages until the connection ends, or says what makes no sense; then every command knows that it was lost.
async fn take_all(mut read: OwnedReadHalf, mut decoder: Decoder, commands: Commands) {
    let mut buffer = vec![0; 2 * PIECE];
    'connection: loop {
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => hand(message, &commands).await,
                Ok(None) => break,
                Err(_) => break 'connection,
            }
        }
        match read.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => decoder.feed(&buffer[..length]),
        }
    }
    commands.lock().clear();
}

async fn hand(message: Message, commands: &Commands) {
    let sender = commands.lock().get(&message.id).cloned();
    if let Some(sender) = sender {
        // One that is not wanted any more has no receiver.
        let _ = sender.send(message.body).await;
    }
}

/// The host's end of one command. Dropping it before the command has ended kills the command.
pub(super) struct LinkedCommand {
    /// Sends to the command.
    pub(super) sender: CommandSender,
    messages: mpsc::Receiver<Body>,
    commands: Commands,
    ended: bool,
}

impl LinkedCommand {
    /// Returns the next message of the command; `None` = the connection was lost.
    pub(super) async fn next(&mut self) -> Option<Body> {
        let body = self.messages.recv().await;
        self.ended |= matches!(body, None | Some(Body::Exited(_) | Body::Killed(_) | Body::Refused(_)));
        body
    }
}

impl Drop for LinkedCommand {
    fn drop(&mut self) {
        self.commands.lock().remove(&self.sender.id);
        if !self.ended {
            self.sender.send(Body::Abandon);
        }
    }
}

/// Sends messages for one command.
#[derive(Clone)]
pub(super) struct CommandSender {
    id: u32,
    out: mpsc::UnboundedSender<Vec<u8>>,
}

impl CommandSender {
    /// Sends a message; a connection that is lost is noticed by who waits for the answer.
    pub(super) fn send(&self, body: Body) {
        let _ = self.out.send(Message { id: self.id, body }.to_bytes());
    }
}
