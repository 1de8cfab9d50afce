//! `vmdeck trouble`: which kinds of trouble are looked for on consoles, and what a log gives.

use super::{Io, settings};
use crate::cli::{ConfigArgs, TroubleSub};
use serde_json::json;
use std::{io::Read, path::Path};
use vmdeck_core::trouble::TroubleFinder;
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    text::LineSplitter,
    trouble::{TroubleEnd, TroubleKind, TroubleSeverity},
};

/// Bytes of a log that are read at a time.
const PIECE: usize = 64 * 1024;

pub(super) fn run(sub: TroubleSub, config: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let kinds = settings::load_troubles(config)?;
    match sub {
        TroubleSub::List { json } => list(&kinds, json, io),
        TroubleSub::Test { log, json } => test(&kinds, &log, json, io),
    }
}

/// Returns what a kind ends, for a person; `None` = nothing.
fn end_of(kind: &TroubleKind) -> Option<String> {
    (kind.ends != TroubleEnd::Nothing).then(|| format!("ends the {}", kind.ends.word()))
}

fn list(kinds: &[TroubleKind], json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    if json {
        let row = |kind: &TroubleKind| {
            json!({ "id": kind.id, "category": kind.category, "severity": kind.severity.word(), "ends": kind.ends.word(),
                    "pattern": kind.regex })
        };
        let rows: Vec<_> = kinds.iter().map(row).collect();
        io.say(&serde_json::to_string_pretty(&rows).map_err(|e| Fault::bug("cannot write JSON").because(e))?);
        return Ok(RunExit::Passed);
    }
    for kind in kinds {
        let end = end_of(kind).unwrap_or_default();
        io.say(format!("{:<20} {:<11} {:<7} {end}", kind.id, kind.category, kind.severity.word()).trim_end());
    }
    Ok(RunExit::Passed)
}

/// A line of a log that tells of trouble.
struct TroubleLine<'a> {
    number: usize,
    kind: &'a TroubleKind,
    text: String,
}

fn test(kinds: &[TroubleKind], file: &Path, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let cannot = |e: std::io::Error| Fault::user(format!("cannot read `{}`", file.display())).because(e);
    let mut reader: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(vmdeck_files::open(file).map_err(cannot)?),
    };
    let finder = TroubleFinder::new(kinds);
    let (mut found, mut number) = (Vec::new(), 0);
    let mut look = |text: String| {
        number += 1;
        if let Some(kind) = finder.find(text.as_bytes()) {
            found.push(TroubleLine { number, kind, text });
        }
    };
    let mut lines = LineSplitter::default();
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece).map_err(cannot)? {
            0 => break,
            length => lines.feed(&piece[..length], |line| look(line.into_string())),
        }
    }
    lines.feed(b"\n", |line| look(line.into_string()));
    let is_bad = found.iter().any(|line| line.kind.severity == TroubleSeverity::Fail);
    if json {
        let row = |line: &TroubleLine<'_>| {
            json!({ "line": line.number, "id": line.kind.id, "category": line.kind.category,
                    "severity": line.kind.severity.word(), "ends": line.kind.ends.word(), "text": line.text })
        };
        let rows: Vec<_> = found.iter().map(row).collect();
        io.say(&serde_json::to_string_pretty(&rows).map_err(|e| Fault::bug("cannot write JSON").because(e))?);
    } else {
        for line in &found {
            let end = end_of(line.kind).map(|end| format!(", {end}")).unwrap_or_default();
            io.say(&format!(
                "{}:{}: {} ({}{end})",
                file.display(),
                line.number,
                line.kind.id,
                line.kind.severity.word()
            ));
            io.say(&format!("    {}", line.text));
        }
        if found.is_empty() {
            io.say("no trouble");
        }
    }
    Ok(if is_bad { RunExit::TestFailed } else { RunExit::Passed })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    /// The page for people is the library.
    #[test]
    fn every_kind_is_on_its_page_as_it_is() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/trouble.md")).expect("docs/trouble.md");
        let mut table = String::new();
        for kind in vmdeck_core::trouble::built_in() {
            let end = if kind.ends == vmdeck_model::trouble::TroubleEnd::Nothing { "" } else { "yes" };
            let _ = writeln!(table, "| `{}` | {} | {} | {end} |", kind.id, kind.category, kind.severity.word());
        }
        assert!(page.contains(&table), "the table is:\n{table}");
    }
}
