//! The packets of subunit, version 2; text may stand between them.
//!
//! A packet is `B3`, two bytes of flags, its length, its fields in a fixed order, and the CRC-32 of all before that.

use crate::{
    place::{self, CodePlace},
    sheet::{Entry, Id, Sheet},
    words,
};
use std::{collections::HashMap, io::BufRead};
use vmdeck_model::subtest::SubtestStatus;

/// The first byte of a packet; no text begins with it.
pub(crate) const MAGIC: u8 = 0xb3;
/// Longest packet.
const LENGTH: usize = 4 << 20;
/// Most tests that may run at once, and most bytes that are kept of what one attaches.
const OPEN: usize = 10_000;
const ATTACHED: usize = 8192;

#[derive(Default)]
struct SubunitTest {
    id: Option<Id>,
    since: Option<f64>,
    attached: String,
}

/// The fields of a packet that matter here.
struct Packet {
    status: u16,
    at: Option<f64>,
    test: Option<String>,
    content: Option<Vec<u8>>,
}

/// Takes the fields of a packet apart.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// Reads a number: the two highest bits say how many bytes it has.
    fn number(&mut self) -> Option<u32> {
        let first = *self.0.first()?;
        let length = usize::from(first >> 6) + 1;
        let bytes = self.0.get(..length)?;
        let value = bytes[1..].iter().fold(u32::from(first & 0x3f), |sum, byte| (sum << 8) | u32::from(*byte));
        self.0 = &self.0[length..];
        Some(value)
    }

    fn bytes(&mut self) -> Option<&[u8]> {
        let length = self.number()? as usize;
        let (bytes, rest) = (self.0.get(..length)?, self.0.get(length..)?);
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Reads the body of a packet, without its checksum.
fn packet(flags: u16, body: &[u8]) -> Option<Packet> {
    let mut fields = Fields(body);
    let mut at = None;
    if flags & 0x0200 != 0 {
        let seconds = fields.0.get(..4)?;
        let seconds = u32::from_be_bytes([seconds[0], seconds[1], seconds[2], seconds[3]]);
        fields.0 = &fields.0[4..];
        at = Some(f64::from(seconds) + f64::from(fields.number()?) / 1e9);
    }
    let test = if flags & 0x0800 != 0 { Some(fields.text()?) } else { None };
    if flags & 0x0080 != 0 {
        for _ in 0..fields.number()? {
            fields.bytes()?;
        }
    }
    if flags & 0x0020 != 0 {
        fields.bytes()?;
    }
    let mut content = None;
    if flags & 0x0040 != 0 {
        fields.bytes()?;
        content = Some(fields.bytes()?.to_vec());
    }
    Some(Packet { status: flags & 7, at, test, content })
}

/// Reads the next packet; `None` = the stream is over. An error says what is wrong with it.
fn next(input: &mut impl BufRead) -> Option<Result<Packet, String>> {
    let mut byte = [0];
    loop {
        if input.read(&mut byte).ok()? == 0 {
            return None;
        }
        if byte[0] == MAGIC {
            break;
        }
    }
    let mut raw = vec![MAGIC];
    let mut take = |count: usize, raw: &mut Vec<u8>| {
        let from = raw.len();
        raw.resize(from + count, 0);
        input.read_exact(&mut raw[from..]).is_ok()
    };
    let cut = || Some(Err("the last packet is cut".to_owned()));
    if !take(3, &mut raw) {
        return cut();
    }
    let more = usize::from(raw[3] >> 6);
    if !take(more, &mut raw) {
        return cut();
    }
    let length = Fields(&raw[3..]).number().unwrap_or(0) as usize;
    if length > LENGTH || length < raw.len() + 4 {
        return Some(Err("a packet has an impossible length".to_owned()));
    }
    let rest = length - raw.len();
    if !take(rest, &mut raw) {
        return cut();
    }
    let (body, sum) = raw.split_at(length - 4);
    if crc32fast::hash(body).to_be_bytes() != sum {
        return Some(Err("a packet is damaged".to_owned()));
    }
    let flags = u16::from_be_bytes([raw[1], raw[2]]);
    Some(packet(flags, &body[4 + more..]).ok_or_else(|| "a packet makes no sense".to_owned()))
}

/// Reads a stream of packets to its end.
pub(super) fn read(input: &mut impl BufRead, sheet: &mut Sheet) {
    let mut running: HashMap<String, SubunitTest> = HashMap::new();
    while let Some(packet) = next(input) {
        let packet = match packet {
            Ok(packet) => packet,
            Err(why) => {
                sheet.summary().lacks(why);
                continue;
            }
        };
        sheet.summary().is_recognized = true;
        let Some(test) = packet.test else { continue };
        if running.len() >= OPEN && !running.contains_key(&test) {
            continue;
        }
        let status = match packet.status {
            3 => SubtestStatus::Passed,
            4 => SubtestStatus::Xpass,
            5 => SubtestStatus::Skipped,
            6 => SubtestStatus::Failed,
            7 => SubtestStatus::Xfail,
            other => {
                let entry = running.entry(test.clone()).or_default();
                if other == 2 && entry.id.is_none() {
                    entry.id = sheet.add(Entry::new("", "", &test));
                    entry.since = packet.at;
                }
                entry.attach(packet.content.as_deref());
                continue;
            }
        };
        let mut test_run = running.remove(&test).unwrap_or_default();
        test_run.attach(packet.content.as_deref());
        let id = test_run.id.or_else(|| sheet.add(Entry::new("", "", &test)));
        sheet.end(id, status);
        if let Some(entry) = sheet.entry(id) {
            entry.took_ms = test_run.since.zip(packet.at).and_then(|(from, to)| words::millis(to - from));
            if status.is_failure() {
                entry.place = CodePlace::find(&test_run.attached, None);
                entry.message = place::reason(&test_run.attached);
            }
        }
        sheet.settle(id);
    }
    let unfinished = running.values().any(|test| test.id.is_some());
    if unfinished {
        sheet.summary().lacks("a test did not end");
    }
    sheet.end_running("");
}

impl SubunitTest {
    fn attach(&mut self, content: Option<&[u8]>) {
        let room = ATTACHED.saturating_sub(self.attached.len());
        let content = content.unwrap_or_default();
        self.attached.push_str(&String::from_utf8_lossy(&content[..content.len().min(room)]));
    }
}
