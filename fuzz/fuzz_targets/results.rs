//! What a test tool in a guest might report; the first byte chooses the format.

#![no_main]

use vmdeck_results::{Format, fuzz};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let words: Vec<&str> = Format::words().collect();
    // One more than there are: found out from what is said.
    let word = words.get(usize::from(*first) % (words.len() + 1));
    fuzz::read(word.and_then(|word| Format::of_word(word)), rest);
});
