//! Where messages to the host go, from every thread of the agent.

use super::wire::{Body, Message, greeting};
use std::{
    fs::File,
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Where messages to the host go. What is left of an earlier connection is not sent over a later one.
#[derive(Clone)]
pub(super) struct HostLine {
    port: Arc<Mutex<File>>,
    connection: Arc<AtomicU64>,
    of: u64,
}

impl HostLine {
    /// Returns the line of this port; a connection has to begin on it.
    pub(super) fn new(port: File) -> Self {
        Self { port: Arc::new(Mutex::new(port)), connection: Arc::default(), of: 0 }
    }

    /// Sends a message; one that cannot be sent has nobody who wants it.
    pub(super) fn send(&self, id: u32, body: Body) {
        let bytes = Message { id, body }.to_bytes();
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if self.connection.load(Ordering::SeqCst) == self.of {
            let _ = port.write_all(&bytes);
        }
    }

    /// Begins the next connection with an answer to its greeting.
    pub(super) fn begin(&mut self, nonce: &str) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        self.of = self.connection.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = port.write_all(greeting(nonce).as_bytes());
    }
}
