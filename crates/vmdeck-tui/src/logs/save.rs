//! Writing a part of a log to a file, as plain text: in one pass over it, whatever its size.

use super::{
    ansi::{self, LineStyle},
    index::split_lines,
};
use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// How many bytes are read at a time.
const BLOCK: usize = 1 << 20;

/// Which part of a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The lines from one number to another, both included.
    Lines(u64, u64),
    /// These lines, in order.
    Hits(Vec<u64>),
    /// This text, which is not in a log file.
    Text(String),
}

/// Writes the part to a file; returns how many lines it has.
pub fn save(log: &Option<PathBuf>, to: &Path, what: &Part) -> io::Result<u64> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut out = BufWriter::new(File::create(to)?);
    let mut count = 0;
    match (log, what) {
        (_, Part::Text(text)) => {
            out.write_all(text.as_bytes())?;
            out.write_all(b"\n")?;
            count = text.lines().count() as u64;
        }
        (Some(log), what) => {
            let mut failed = Ok(());
            each_line(log, |number, bytes| {
                let is_wanted = match what {
                    Part::Lines(from, end) => (*from..=*end).contains(&number),
                    Part::Hits(all) => all.binary_search(&number).is_ok(),
                    Part::Text(_) => false,
                };
                if is_wanted {
                    count += 1;
                    failed = writeln!(out, "{}", ansi::plain(&ansi::render(bytes, LineStyle::Plain)));
                }
                let is_over = match what {
                    Part::Lines(_, end) => number >= *end,
                    Part::Hits(all) => all.last().is_none_or(|last| number >= *last),
                    Part::Text(_) => true,
                };
                failed.is_ok() && !is_over
            })?;
            failed?;
        }
        (None, _) => {}
    }
    out.flush()?;
    Ok(count)
}

/// Goes over a log until `each` has enough.
fn each_line(log: &Path, mut each: impl FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
    let mut file = vmdeck_files::open(log)?;
    let (mut rest, mut block) = (Vec::new(), vec![0; BLOCK]);
    let mut number = 0;
    loop {
        let n = file.read(&mut block)?;
        rest.extend_from_slice(&block[..n]);
        let (mut used, mut enough) = (0, false);
        split_lines(&rest, |piece| {
            // At the end of the file an unfinished line counts too.
            if piece.ended || n == 0 {
                enough = !each(number, piece.bytes);
                number += 1;
                used += piece.size;
            }
            !enough
        });
        if enough || n == 0 {
            return Ok(());
        }
        rest.drain(..used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_log_without_its_colours() {
        let home = tempfile::tempdir().expect("tempdir");
        let (log, to) = (home.path().join("log"), home.path().join("new/saved.txt"));
        std::fs::write(&log, "one\n\x1b[31mtwo\x1b[0m\r\nthree\nfour").expect("write");
        let saved = |what: Part| {
            let count = save(&Some(log.clone()), &to, &what).expect("saved");
            (count, std::fs::read_to_string(&to).expect("text"))
        };
        assert_eq!(saved(Part::Lines(1, 2)), (2, "two\nthree\n".into()));
        assert_eq!(saved(Part::Hits(vec![0, 3])), (2, "one\nfour\n".into()));
        assert_eq!(saved(Part::Lines(0, u64::MAX)), (4, "one\ntwo\nthree\nfour\n".into()));
        assert_eq!(save(&None, &to, &Part::Text("a\nb".into())).expect("saved"), 2);
        assert!(save(&Some("/nowhere".into()), &to, &Part::Lines(0, 1)).is_err());
    }
}
