//! What a tool might say that lists its tests; the first byte chooses the tool.

#![no_main]

use vmdeck_results::{list_command, read_list, read_names};

const TOOLS: &[&str] = &["pytest", "go", "cargo", "nextest", "ctest", "bats", "kselftest", "autopkgtest"];

/// Quotes a word as a POSIX shell wants it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let listed = match TOOLS.get(usize::from(*first) % (TOOLS.len() + 1)) {
        Some(tool) => {
            assert!(list_command(tool).is_some(), "{tool}");
            read_list(tool, &text, &quote)
        }
        None => read_names(&text, ("{name}", "run {name}"), &quote),
    };
    for test in listed.unwrap_or_default() {
        assert!(!test.script.contains('\0'), "{test:?}");
    }
});
