//! XML of a tool, read element by element. Nothing is expanded or fetched, and a document type is refused.
//!
//! Tools write what XML forbids: control characters, text around the root, other encodings than they name; all of that is read.

use super::{
    catch2::Catch2,
    elements::{Element, Handler, resolve},
    junit::JunitXml,
    nunit::Nunit,
    trx::Trx,
};
use crate::{
    format::{Format, of_root},
    sheet::Sheet,
};
use encoding_rs::{Encoding, UTF_8};
use encoding_rs_io::DecodeReaderBytesBuilder;
use quick_xml::{Reader, events::Event};
use std::io::{BufRead, BufReader};

/// Most elements one in another.
const DEPTH: usize = 64;

/// Reads a document; its root tells the format. An error says that it holds no test results.
pub(super) fn read(input: &mut impl BufRead, wanted: Option<Format>, sheet: &mut Sheet) -> Result<(), String> {
    let encoding = input.fill_buf().ok().and_then(declared).unwrap_or(UTF_8);
    let text = DecodeReaderBytesBuilder::new().encoding(Some(encoding)).bom_override(true).build(input);
    let mut reader = Reader::from_reader(BufReader::new(text));
    reader.config_mut().allow_dangling_amp = true;
    let mut handler: Option<Box<dyn Handler>> = None;
    let (mut depth, mut buffer) = (0usize, Vec::new());
    let complaint = loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::DocType(_)) => {
                sheet.summary().lacks("a document type is refused: nothing in it is expanded or fetched");
                return Ok(());
            }
            Ok(event @ (Event::Start(_) | Event::Empty(_))) => {
                let (Event::Start(start) | Event::Empty(start)) = &event else { continue };
                let element = Element::of(start);
                if handler.is_none() {
                    handler = Some(handler_of(&element.name, wanted)?);
                }
                if depth >= DEPTH {
                    break Some(format!("more than {DEPTH} elements are one in another"));
                }
                if let Some(handler) = &mut handler {
                    handler.open(&element, sheet);
                    if matches!(event, Event::Empty(_)) {
                        handler.close(&element.name, sheet);
                    } else {
                        depth += 1;
                    }
                }
                if depth == 0 {
                    break None;
                }
            }
            Ok(Event::End(end)) => {
                depth = depth.saturating_sub(1);
                if let Some(handler) = &mut handler {
                    handler.close(end.local_name().as_ref(), sheet);
                }
                if depth == 0 && handler.is_some() {
                    break None;
                }
            }
            Ok(Event::Text(text)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&text);
                }
            }
            Ok(Event::CData(text)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&text);
                }
            }
            Ok(Event::GeneralRef(name)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&resolve(&name.into_inner()));
                }
            }
            Ok(Event::Eof) => break Some("it is cut off".to_owned()),
            Ok(_) => {}
            Err(e) => break Some(format!("it is cut off or broken: {}", crate::words::message(&e.to_string()))),
        }
    };
    let Some(mut handler) = handler else { return Err("it holds no test results".to_owned()) };
    if let Some(why) = complaint {
        let inside = handler.inside().map(|name| format!(" inside `{name}`")).unwrap_or_default();
        sheet.summary().lacks(format!("{why}{inside}"));
    } else {
        sheet.summary().is_recognized = true;
    }
    handler.end(sheet);
    Ok(())
}

fn handler_of(root: &str, wanted: Option<Format>) -> Result<Box<dyn Handler>, String> {
    let known = of_root(root);
    if let (Some(wanted), Some(known)) = (wanted, known)
        && wanted != known
    {
        return Err(format!("it is {}, and not {}", known.word(), wanted.word()));
    }
    match known {
        Some(Format::Junit) => Ok(Box::new(JunitXml::default())),
        Some(Format::Trx) => Ok(Box::new(Trx::default())),
        Some(Format::Nunit) => Ok(Box::new(Nunit::default())),
        Some(Format::Catch2) => Ok(Box::new(Catch2::default())),
        _ => Err(format!("its root `{}` is none of test results", crate::words::name(root))),
    }
}

/// Returns the encoding that a document says of itself.
fn declared(head: &[u8]) -> Option<&'static Encoding> {
    let head = &head[..head.len().min(256)];
    let from = memchr::memmem::find(head, b"encoding=")? + "encoding=".len();
    let quote = *head.get(from)?;
    let rest = head.get(from + 1..)?;
    let end = memchr::memchr(quote, rest)?;
    Encoding::for_label(&rest[..end])
}
