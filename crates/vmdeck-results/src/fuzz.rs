//! Entry points for fuzzing: each format, and finding out which one it is.
//!
//! The targets in the `fuzz` folder call them with what a fuzzer makes up, the tests beside the fixtures with mutated ones.

use crate::{format::Format, stream::ResultStream, summary::ResultSummary};
use vmdeck_model::subtest::Subtest;

/// Sizes of the pieces in which a stream comes as well.
const SIZES: [usize; 3] = [1, 7, 4096];

/// Feeds hostile bytes to the reader of a format; `None` = its content tells.
///
/// # Panics
/// Where pieces change what is read, a count is not that of what is shown, or a text is not clean.
pub fn read(format: Option<Format>, data: &[u8]) {
    let whole = in_pieces(format, data, usize::MAX);
    for size in SIZES {
        assert_eq!(in_pieces(format, data, size), whole, "in pieces of {size}");
    }
    let (subtests, summary) = whole;
    let shown = summary.not_shown + subtests.len() as u64;
    assert_eq!(u64::from(summary.tally.total()), shown, "the counts are not those of what is shown");
    for subtest in &subtests {
        let texts = [Some(&subtest.name), Some(&subtest.message), subtest.file.as_ref(), subtest.class.as_ref()];
        assert!(texts.into_iter().flatten().all(|text| !text.contains(char::is_control)), "{subtest:?} is not clean");
    }
}

fn in_pieces(format: Option<Format>, data: &[u8], size: usize) -> (Vec<Subtest>, ResultSummary) {
    let mut stream = ResultStream::new(format);
    let mut out = Vec::new();
    for piece in data.chunks(size.min(data.len().max(1))) {
        stream.feed(piece, &mut |subtest| out.push(subtest));
        drop(stream.progress());
    }
    let summary = stream.finish(&mut |subtest| out.push(subtest));
    (out, summary)
}
