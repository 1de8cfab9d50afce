//! Files of results that have come from a guest.

use crate::{document, format::Format, sheet::Sheet, stream::ResultStream, summary::ResultSummary};
use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek},
    path::PathBuf,
};
use vmdeck_model::subtest::Subtest;

/// Bytes of a file that are fed at once.
const PIECE: usize = 64 * 1024;
/// Most bytes of a file.
const MOST: u64 = 64 << 20;

/// A file of results.
#[derive(Clone, Debug)]
pub struct ResultFile {
    /// Where it lies on this host.
    pub path: PathBuf,
    /// Its path in the guest, for people.
    pub name: String,
}

/// Reads files of results; the content of each tells its format. Tests of the same name in two files get the name of their file.
pub fn read_files(files: &[ResultFile], each: &mut dyn FnMut(Subtest)) -> ResultSummary {
    let mut whole = ResultSummary::default();
    let mut seen: Vec<(usize, Subtest)> = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let mut summary = read_file(file, &mut |subtest| seen.push((at, subtest)));
        for text in summary.incomplete.iter_mut().chain(&mut summary.warnings) {
            *text = format!("{}: {text}", crate::words::name(&file.name));
        }
        whole.merge(summary);
    }
    let twice = twice(&seen);
    for (at, subtest) in seen {
        let subtest = if twice.contains(&subtest.name) { within(&files[at].name, subtest) } else { subtest };
        each(subtest);
    }
    whole
}

/// Returns the names that are in more than one file.
fn twice(seen: &[(usize, Subtest)]) -> HashSet<String> {
    let mut first: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    let mut out = HashSet::new();
    for (at, subtest) in seen {
        if *first.entry(&subtest.name).or_insert(*at) != *at {
            out.insert(subtest.name.clone());
        }
    }
    out
}

fn within(file: &str, subtest: Subtest) -> Subtest {
    let file = crate::words::name(file);
    let class = subtest.class.as_ref().map_or_else(|| file.clone(), |class| format!("{file} > {class}"));
    Subtest { name: format!("{file} > {}", subtest.name), class: Some(class), ..subtest }
}

/// Returns what was read of a document.
fn whole(read: Result<(), String>, mut sheet: Sheet, each: &mut dyn FnMut(Subtest)) -> ResultSummary {
    if let Err(why) = read {
        sheet.summary().lacks(why);
    }
    sheet.finish(each)
}

/// Returns whether a file is the JSON of Jest, which may be on one line or on many; it is at its start again.
fn is_jest(file: &mut File) -> bool {
    let mut head = Vec::new();
    let is_read = file.by_ref().take(PIECE as u64).read_to_end(&mut head).is_ok() && file.rewind().is_ok();
    let has = |word: &[u8]| memchr::memmem::find(&head, word).is_some();
    is_read && (has(b"\"numTotalTest") || has(b"\"numFailedTest"))
}

fn read_file(file: &ResultFile, each: &mut dyn FnMut(Subtest)) -> ResultSummary {
    let broken = |why: String| {
        let mut summary = ResultSummary::default();
        summary.lacks(why);
        summary
    };
    let mut open = match vmdeck_files::open(&file.path) {
        Ok(open) => open,
        Err(e) => return broken(format!("it cannot be opened: {e}")),
    };
    let length = open.metadata().map_or(0, |meta| meta.len());
    if length == 0 {
        return broken("it is empty: cut off before its first byte".to_owned());
    }
    let mut head = [0; 64];
    let count = open.read(&mut head).unwrap_or(0);
    if open.rewind().is_err() {
        return broken("it cannot be read twice".to_owned());
    }
    let name = file.name.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_xml = head[..count].iter().find(|byte| !byte.is_ascii_whitespace() && **byte < 0x80) == Some(&b'<');
    if is_xml || name.to_ascii_lowercase().ends_with(".xml") {
        let mut sheet = Sheet::default();
        return whole(document::read(Format::Junit, None, open, &mut sheet), sheet, each);
    }
    if head[..count].contains(&b'{') && is_jest(&mut open) {
        let mut sheet = Sheet::default();
        return whole(document::read(Format::Jest, None, open, &mut sheet), sheet, each);
    }
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let mut stream = ResultStream::of_file(stem);
    let mut piece = vec![0; PIECE];
    let mut left = MOST;
    loop {
        match open.read(&mut piece) {
            Ok(0) => break,
            Ok(_) if left == 0 => {
                let mut summary = stream.finish(each);
                summary.lacks(format!("it is longer than {} MiB", MOST >> 20));
                return summary;
            }
            Ok(count) => {
                stream.feed(&piece[..count], each);
                left = left.saturating_sub(count as u64);
            }
            Err(e) => return broken(format!("it cannot be read: {e}")),
        }
    }
    let mut summary = stream.finish(each);
    if !summary.is_recognized {
        summary.lacks("it holds no test results");
    }
    summary
}
