//! One stream of bytes, read as the tool writes it: found out what it is, given to the reader of that format, and to the next one where
//! another tool follows.

use crate::{
    document::{self, subunit::MAGIC},
    format::Format,
    line::{Line, LineBuffer},
    reader::LineReader,
    sheet::Sheet,
    summary::ResultSummary,
    text,
};
use std::io::{Seek, Write};
use tempfile::SpooledTempFile;
use vmdeck_model::subtest::{Subtest, SubtestProgress};

/// Bytes of a line that tell whether a document begins with it.
const HEAD: usize = 4096;
/// Bytes of a document that are kept in memory; the rest goes to a file without a name.
const SPOOL: usize = 1 << 20;

/// Who takes the bytes.
enum Taker {
    /// Nobody yet: each line may be the first.
    Nobody,
    Lines(Format, Box<dyn LineReader>),
    /// Everything to the end is one document, with so many bytes so far.
    Document(Format, SpooledTempFile, u64),
}

/// See the module.
pub struct ResultStream {
    /// The format that is declared; `None` = the content tells.
    wanted: Option<Format>,
    stem: Option<String>,
    lines: LineBuffer,
    taker: Taker,
    sheet: Sheet,
    /// Whether any byte came.
    has_bytes: bool,
    /// Whether the line that is coming is known to begin nothing.
    is_known_line: bool,
    /// Whether a reader of the stream has read a report for certain.
    was_certain: bool,
}

impl ResultStream {
    /// Returns a stream of this format; `None` = its content tells the format, and may be nothing of ours.
    pub fn new(wanted: Option<Format>) -> Self {
        let mut stream = Self {
            wanted,
            stem: None,
            lines: LineBuffer::default(),
            taker: Taker::Nobody,
            sheet: Sheet::default(),
            has_bytes: false,
            is_known_line: false,
            was_certain: false,
        };
        if wanted == Some(Format::Subunit) {
            // Text may stand between the packets.
            stream.begin_document(Format::Subunit);
        } else if let Some(format) = wanted.filter(|format| !format.is_document()) {
            stream.taker = Taker::Lines(format, text::reader_of(format, None));
        }
        stream
    }

    /// Returns a stream that is a file of this name without its ending.
    pub(crate) fn of_file(stem: &str) -> Self {
        Self { stem: Some(stem.to_owned()), ..Self::new(None) }
    }

    /// Takes a piece of the stream; `each` is called with every sub-test of which nothing more will be said.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(Subtest)) {
        self.has_bytes |= !bytes.is_empty();
        let mut rest = bytes;
        while !rest.is_empty() {
            if matches!(self.taker, Taker::Document(..)) {
                self.spool(rest);
                break;
            }
            let may_begin = self.may_begin();
            if may_begin && self.lines.len() == 0 && rest[0] == MAGIC && self.wanted.is_none() {
                self.begin(Format::Subunit);
                continue;
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            // A document may be one endless line: its beginning is enough to know it.
            let room = if may_begin && !self.is_known_line { HEAD - self.lines.len() } else { usize::MAX };
            let (piece, later) = rest.split_at(end.min(room));
            rest = later;
            let mut lines = std::mem::take(&mut self.lines);
            lines.feed(piece, |line, raw| self.line(&line, raw));
            self.lines = lines;
            if may_begin && !self.is_known_line && self.lines.len() >= HEAD {
                self.is_known_line = true;
                self.look_at_head();
            }
        }
        if self.is_certain() {
            self.sheet.release(each);
        }
    }

    /// Returns whether the next line may be the first of a report.
    fn may_begin(&self) -> bool {
        match &self.taker {
            Taker::Nobody => true,
            Taker::Lines(_, reader) => self.wanted.is_none() && reader.is_closed(),
            Taker::Document(..) => false,
        }
    }

    /// Begins a document whose first line is long.
    fn look_at_head(&mut self) {
        let Some(format) = self.first(&self.lines.so_far()).filter(|format| format.is_document()) else { return };
        self.change_to(format);
        let rest = self.lines.take_rest();
        self.spool(&rest);
    }

    /// Returns how far the tests are, if that has changed since it was asked last.
    pub fn progress(&mut self) -> Option<SubtestProgress> {
        if self.is_certain() { self.sheet.progress() } else { None }
    }

    /// Returns whether it is a report of tests: declared, or found out without a doubt.
    fn is_certain(&self) -> bool {
        match &self.taker {
            Taker::Lines(_, reader) => self.wanted.is_some() || self.was_certain || reader.is_certain(),
            _ => true,
        }
    }

    /// Ends the stream.
    pub fn finish(mut self, each: &mut dyn FnMut(Subtest)) -> ResultSummary {
        if let Some((line, raw)) = self.lines.finish() {
            if matches!(self.taker, Taker::Document(..)) {
                self.spool(&raw);
            } else {
                self.line(&line, &raw);
            }
        }
        let taker = std::mem::replace(&mut self.taker, Taker::Nobody);
        match taker {
            Taker::Nobody => {}
            // It only looked like a report.
            Taker::Lines(_, reader) if self.wanted.is_none() && !self.was_certain && !reader.is_certain() => {
                return ResultSummary::default();
            }
            Taker::Lines(_, mut reader) => reader.end(&mut self.sheet),
            Taker::Document(format, mut file, _) => {
                let read = match file.rewind() {
                    Ok(()) => document::read(format, self.wanted, file, &mut self.sheet),
                    Err(e) => Err(format!("it cannot be read again: {e}")),
                };
                match read {
                    // Any program may write XML.
                    Err(_) if self.wanted.is_none() => self.sheet.summary().is_recognized = false,
                    Err(why) => self.sheet.summary().lacks(why),
                    Ok(()) => {}
                }
            }
        }
        let summary = self.sheet.summary();
        let has_said = summary.tally.total() > 0 || !summary.incomplete.is_empty();
        summary.is_recognized |= has_said;
        if let Some(wanted) = self.wanted
            && wanted.is_document()
            && !summary.is_recognized
        {
            let why = if self.has_bytes {
                format!("standard output holds no {}", wanted.word())
            } else {
                format!("standard output is empty, where {} was declared", wanted.word())
            };
            summary.lacks(why);
        }
        self.sheet.finish(each)
    }

    fn line(&mut self, line: &Line, raw: &[u8]) {
        let is_known = std::mem::take(&mut self.is_known_line);
        if self.may_begin()
            && !is_known
            && let Some(format) = self.first(line).filter(|format| self.current() != Some(*format))
        {
            self.change_to(format);
        }
        match &mut self.taker {
            Taker::Nobody => {}
            Taker::Lines(_, reader) => {
                reader.line(line, &mut self.sheet);
                // What was a report stays one, wherever the stream was cut into pieces.
                self.was_certain |= reader.is_certain();
            }
            Taker::Document(..) => self.spool(raw),
        }
    }

    fn current(&self) -> Option<Format> {
        match &self.taker {
            Taker::Lines(format, _) | Taker::Document(format, ..) => Some(*format),
            Taker::Nobody => None,
        }
    }

    /// Ends the reader that there is, and begins the one of another format.
    fn change_to(&mut self, format: Format) {
        if let Taker::Lines(_, reader) = &mut self.taker {
            self.was_certain |= reader.is_certain();
            reader.end(&mut self.sheet);
        }
        self.begin(format);
    }

    /// Returns the format that begins with this line.
    fn first(&self, line: &Line) -> Option<Format> {
        let bare = line.text.trim_start_matches('\u{feff}').trim_start();
        match self.wanted {
            None => Format::of_line(line),
            Some(format) if format.is_xml() => bare.starts_with('<').then_some(format),
            Some(Format::Jest) => bare.starts_with('{').then_some(Format::Jest),
            Some(_) => None,
        }
    }

    fn begin(&mut self, format: Format) {
        self.sheet.summary().is_recognized = true;
        if format.is_document() {
            self.begin_document(format);
        } else {
            self.taker = Taker::Lines(format, text::reader_of(format, self.stem.as_deref()));
        }
    }

    fn begin_document(&mut self, format: Format) {
        self.taker = Taker::Document(format, SpooledTempFile::new(SPOOL), 0);
    }

    fn spool(&mut self, bytes: &[u8]) {
        let Taker::Document(_, file, length) = &mut self.taker else { return };
        let room = usize::try_from((document::MOST + 1).saturating_sub(*length)).unwrap_or(0);
        let piece = &bytes[..bytes.len().min(room)];
        *length += piece.len() as u64;
        if let Err(e) = file.write_all(piece) {
            self.sheet.summary().lacks(format!("it cannot be kept until its end: {e}"));
        }
    }
}
