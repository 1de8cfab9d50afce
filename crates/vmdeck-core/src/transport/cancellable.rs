//! A reader that ends when it is cancelled: blocking work on a thread of its own stops within one piece.
//!
//! What is read is its users' business.

use std::io::{self, Read};
use tokio_util::sync::CancellationToken;

/// Reads until it is cancelled; then every read fails.
pub(super) struct Cancellable<R> {
    inner: R,
    cancel: CancellationToken,
}

impl<R: Read> Cancellable<R> {
    /// Returns a reader of `inner` that this token ends.
    pub(super) fn new(inner: R, cancel: &CancellationToken) -> Self {
        Self { inner, cancel: cancel.clone() }
    }
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("it was cancelled"));
        }
        self.inner.read(buffer)
    }
}
