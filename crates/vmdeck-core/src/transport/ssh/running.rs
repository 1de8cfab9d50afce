//! A command on its channel: what it reads, what it has said of its end, and how its channel is given back.
//!
//! Which command it is, and what its end means, is `session`'s matter.

use crate::{
    command::{CommandExit, input_feed::InputFeed, own_output::OwnOutput},
    host::clock,
};
use russh::{ChannelReadHalf, ChannelWriteHalf, client};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How long further output is waited for, after the exit or after the last piece.
pub(super) const REST: Duration = Duration::from_millis(300);
/// How long it is waited for in all: what a command left running may write for ever.
const REST_MAX: Duration = Duration::from_secs(5);
/// How long a channel that was given back is emptied.
const ABANDONED: Duration = Duration::from_secs(30);
/// Piece of a file that is sent at a time: smaller ones are slower (measured).
const PIECE: usize = 256 * 1024;

/// The end of a channel that is written to.
pub(super) type Write = Arc<ChannelWriteHalf<client::Msg>>;

/// A command on its way.
pub(super) struct RunningCommand {
    pub(super) own: OwnOutput,
    /// Its text and what it reads, until they are being sent.
    pub(super) payload: Option<InputFeed>,
    /// How often sudo has asked for a password.
    pub(super) asked: u32,
    pub(super) ended: Option<ExitSeen>,
    pub(super) write: Write,
    /// Why its input could not be read to the end.
    pub(super) unread: Arc<OnceLock<String>>,
}

/// An exit that was told while the outputs may still be open.
pub(super) struct ExitSeen {
    pub(super) exit: CommandExit,
    at: clock::Instant,
    /// When something came last.
    last: clock::Instant,
    /// Another exit that was told for the same command: then neither proves anything.
    pub(super) other: Option<CommandExit>,
}

impl ExitSeen {
    /// Returns until when output is waited for.
    pub(super) fn until(&self) -> clock::Instant {
        (self.last + REST).min(self.at + REST_MAX)
    }
}

impl RunningCommand {
    pub(super) fn exited(&mut self, exit: CommandExit) {
        let now = clock::now();
        let first = self.ended.get_or_insert(ExitSeen { exit: exit.clone(), at: now, last: now, other: None });
        if first.exit != exit {
            first.other.get_or_insert(exit);
        }
    }

    pub(super) fn touch(&mut self) {
        if let Some(ended) = &mut self.ended {
            ended.last = clock::now();
        }
    }

    /// Begins to send the command and what it reads.
    pub(super) fn send_payload(&mut self) {
        if let Some(input) = self.payload.take() {
            tokio::spawn(send_input(Arc::clone(&self.write), input, Arc::clone(&self.unread)));
        }
    }
}

/// Gives a channel back that is not read to its end by its command: closed, and emptied until the server has closed it too.
pub(super) fn abandon(write: Write, mut read: ChannelReadHalf) {
    tokio::spawn(async move {
        let ended = async {
            let _ = write.close().await;
            while read.wait().await.is_some() {}
        };
        let _ = clock::within(ABANDONED, ended).await;
    });
}

/// Sends the command and its input, and closes it; a command that does not read it is no error. Input that cannot be read to its
/// end closes the channel instead: half a file must not look like a whole one.
async fn send_input(write: Write, mut input: InputFeed, unread: Arc<OnceLock<String>>) {
    loop {
        match input.next(PIECE).await {
            Ok((piece, is_last)) => {
                if (!piece.is_empty() && write.data_bytes(piece).await.is_err()) || is_last {
                    break;
                }
            }
            Err(e) => {
                let _ = unread.set(e.to_string());
                let _ = write.close().await;
                return;
            }
        }
    }
    let _ = write.eof().await;
}
