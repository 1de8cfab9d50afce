//! What a command writes itself, told apart from what was written before it began.
//!
//! A login shell's own files may speak, sudo may complain: that is no output, and it is the reason where nothing begins.

use super::{
    OutputSink, Shell,
    marks::{FrameMark, FrameMarks, StartMark},
    powershell::clixml::ClixmlDecoder,
};
use std::borrow::Cow;
use vmdeck_model::{event::Stream, text::one_line};

/// Both streams of one command.
#[derive(Clone, Debug)]
pub struct OwnOutput {
    out: StartMark,
    err: FrameMarks,
    /// What makes plain text of PowerShell's standard error.
    plain: Option<ClixmlDecoder>,
    pid: Option<u32>,
}

impl OwnOutput {
    /// Returns a reader for the marks of this nonce in what a command of this language writes.
    pub fn new(nonce: &str, language: Shell) -> Self {
        let plain = (language == Shell::PowerShell).then(ClixmlDecoder::default);
        Self { out: StartMark::new(nonce), err: FrameMarks::new(nonce), plain, pid: None }
    }

    /// Returns the pid of the command in the guest, once it runs.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Takes a piece of standard output; returns what of it is the command's own.
    pub fn stdout<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        self.out.feed(bytes)
    }

    /// Takes a piece of standard error; returns what of it is the command's own. Each mark before that goes to `on_mark`.
    pub fn stderr<'a>(&mut self, bytes: &'a [u8], on_mark: impl FnMut(FrameMark)) -> Cow<'a, [u8]> {
        match self.plain.as_mut().map(|plain| plain.feed(bytes)) {
            Some(text) => Cow::Owned(self.errors(&text, on_mark).into_owned()),
            None => self.errors(bytes, on_mark),
        }
    }

    /// Passes on what of a piece is the command's own.
    pub fn pass(&mut self, stream: Stream, bytes: &[u8], sink: &mut dyn OutputSink) {
        let own = if stream == Stream::Stderr { self.stderr(bytes, |_| ()) } else { self.stdout(bytes) };
        if !own.is_empty() {
            sink.write(stream, &own);
        }
    }

    /// Returns what of standard error was held back, at its end.
    pub fn finish(&mut self) -> Vec<u8> {
        match self.plain.as_mut().map(ClixmlDecoder::finish) {
            Some(rest) => self.errors(&rest, |_| ()).into_owned(),
            None => Vec::new(),
        }
    }

    fn errors<'a>(&mut self, bytes: &'a [u8], mut on_mark: impl FnMut(FrameMark)) -> Cow<'a, [u8]> {
        if self.pid.is_some() {
            return bytes.into();
        }
        let mut next = self.err.feed(bytes);
        while let Some(mark) = next {
            if let FrameMark::Running { pid, rest } = mark {
                self.pid = Some(pid);
                return rest.into();
            }
            on_mark(mark);
            next = self.err.feed(b"");
        }
        Vec::new().into()
    }

    /// Returns what was written to standard error instead of a command's own.
    pub fn said(&self) -> &[u8] {
        self.err.seen()
    }

    /// Returns what was written before the command began, or instead of it, as one line: standard error first.
    pub fn complaint(&self) -> String {
        one_line(&String::from_utf8_lossy(&[self.err.seen(), b"\n", self.out.seen()].concat()))
    }
}
