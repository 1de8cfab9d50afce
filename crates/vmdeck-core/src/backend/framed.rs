//! What a command writes whose provider's own status cannot be trusted: our marks are taken out, and give the status.

use crate::command::{CommandExit, OutputSink, RemoteCommand, Shell, frame, marks::EndMark, own_output::OwnOutput};
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    text::one_line,
};

/// What is kept of a command's last words, for the message when its end is lost; bytes.
const LAST_WORDS: usize = 400;

/// What a provider's own words mean.
pub(super) trait ProviderWords {
    /// Returns what the provider says when it did not do it: `before` the command began, or after.
    fn fault(&self, words: &str, before: bool) -> Fault;
    /// Returns whether these words after a command's end are a failure of the provider.
    fn is_failure(&self, words: &str) -> bool;
}

/// Takes the marks out of what a framed command writes.
pub(super) struct FrameDecoder<'a> {
    sink: &'a mut dyn OutputSink,
    own: OwnOutput,
    out: EndMark,
    err: EndMark,
    last: Vec<u8>,
}

impl<'a> FrameDecoder<'a> {
    /// Returns a reader for the marks of this nonce; what is the command's own goes to the sink.
    pub(super) fn new(nonce: &str, sink: &'a mut dyn OutputSink) -> Self {
        let (out, err) = (EndMark::new(nonce), EndMark::new(nonce));
        Self { sink, own: OwnOutput::new(nonce, Shell::Posix), out, err, last: Vec::new() }
    }

    /// Returns the pid of the command in the guest, once it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.own.pid()
    }

    /// Returns whether both streams have come to the command's end; what holds them open longer is not the command.
    pub(super) fn is_complete(&self) -> bool {
        self.out.is_complete() && self.err.is_complete()
    }

    fn pass(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if stream == Stream::Stderr {
            self.last.extend_from_slice(bytes);
            let excess = self.last.len().saturating_sub(LAST_WORDS);
            self.last.drain(..excess);
        }
        self.sink.write(stream, bytes);
    }

    /// Returns the status that the guest itself gave, or the reason why there is none.
    pub(super) fn outcome(mut self, provider: &dyn ProviderWords, asked: &RemoteCommand) -> Result<CommandExit> {
        if self.own.pid().is_none() {
            // The shell around it may have come to its end all the same: then the guest is well, and said no.
            let said = self.err.feed(self.own.said());
            let complaint = one_line(&String::from_utf8_lossy(&said));
            return Err(match self.err.finish().0 {
                Some(status) => frame::refused(asked, &CommandExit::Code(status), &complaint, 0),
                None => provider.fault(&self.own.complaint(), true),
            });
        }
        let ((status, after), (proof, _)) = (self.err.finish(), self.out.finish());
        let after = String::from_utf8_lossy(&after).into_owned();
        match (status, proof) {
            (Some(_), Some(_)) if provider.is_failure(&after) => Err(provider.fault(&after, false)),
            (Some(status), Some(proof)) if status == proof => Ok(CommandExit::Code(status)),
            (Some(_), _) => Err(provider.fault("the end of its standard output is missing", false).hint(
                "the guest agent passes a limited amount; write large output to a file and fetch it as an artifact",
            )),
            (None, _) => {
                let last = [&self.last[..], after.as_bytes()].concat();
                Err(provider.fault(&String::from_utf8_lossy(&last), false))
            }
        }
    }
}

impl OutputSink for FrameDecoder<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream != Stream::Stderr {
            let passed = self.out.feed(&self.own.stdout(bytes));
            return self.pass(stream, &passed);
        }
        let own = self.own.stderr(bytes, |_| ());
        let passed = self.err.feed(&own);
        self.pass(stream, &passed);
    }
}
