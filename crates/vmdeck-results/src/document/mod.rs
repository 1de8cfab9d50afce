//! The formats that are one document each: XML, Jest's JSON, and subunit's packets.

mod catch2;
mod elements;
mod jest;
mod junit;
mod nunit;
pub(crate) mod subunit;
mod trx;
mod xml;

use crate::{format::Format, sheet::Sheet};
use std::io::{BufRead, BufReader, Read};

/// Most bytes of a document.
pub(crate) const MOST: u64 = 64 << 20;

/// Reads a document to its end; `wanted` = the format that it must have. An error says that it holds no test results.
pub(crate) fn read(format: Format, wanted: Option<Format>, input: impl Read, sheet: &mut Sheet) -> Result<(), String> {
    let mut input = BufReader::new(input).take(MOST);
    match input.fill_buf() {
        Ok([]) => return Err("it is empty: cut off before its first byte".to_owned()),
        Ok(_) => {}
        Err(e) => return Err(format!("it cannot be read: {e}")),
    }
    match format {
        Format::Jest => jest::read(&mut input, sheet),
        Format::Subunit => subunit::read(&mut input, sheet),
        _ => xml::read(&mut input, wanted, sheet)?,
    }
    if input.limit() == 0 {
        sheet.summary().lacks(format!("it is longer than {} MiB", MOST >> 20));
    }
    sheet.settle_ended();
    Ok(())
}
