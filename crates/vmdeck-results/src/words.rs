//! Text of a tool as it may go into an event: on one line, clean and bounded.

use vmdeck_model::text::Clean;

/// Most characters of a name.
const NAME: usize = 512;
/// Most characters of a message.
const MESSAGE: usize = 4096;

/// Returns a name on one line.
pub(crate) fn name(text: &str) -> String {
    clean(text, NAME)
}

/// Returns the first line of a message that says something.
pub(crate) fn message(text: &str) -> String {
    text.lines().map(|line| clean(line, MESSAGE)).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Returns a text without escape sequences and control characters; line breaks and tabs become blanks.
fn clean(text: &str, most: usize) -> String {
    let text = text.trim();
    let is_plain = text.len() <= most && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain {
        return text.to_owned();
    }
    // Escape sequences are longer than what is left of them.
    let flat = text.replace("\r\n", " ").chars().take(4 * most).filter_map(flatten).collect::<String>();
    let clean = Clean::from_text(&flat).into_string();
    let clean = clean.trim();
    match clean.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean.to_owned(),
    }
}

fn flatten(c: char) -> Option<char> {
    match c {
        '\t' | '\n' | '\r' => Some(' '),
        '\u{8}' | '\u{fffe}' | '\u{ffff}' => None,
        c => Some(c),
    }
}

/// Returns seconds as milliseconds; `None` = no time that could be.
pub(crate) fn millis(seconds: f64) -> Option<u64> {
    let ms = (seconds * 1000.0).round();
    // A year is more than any test takes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (0.0..3.2e10).contains(&ms).then_some(ms as u64)
}

/// Returns seconds that are written with digits as milliseconds.
pub(crate) fn parse_seconds(text: &str) -> Option<u64> {
    text.trim().replace(',', "").parse::<f64>().ok().and_then(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_clean_line() {
        for (text, want) in [
            ("a\tb", "a b"),
            ("../../x\n::error::y", "../../x ::error::y"),
            ("raw \x1b[31mred\x1b[0m\u{7}", "raw red"),
            ("x\0 \u{fffe}", "x"),
            ("  café  ", "café"),
        ] {
            assert_eq!(name(text), want, "{text:?}");
        }
        assert_eq!(name(&"é".repeat(1000)).chars().count(), NAME + 1);
        assert_eq!(message("\n \n first \n second"), "first");
    }

    #[test]
    fn only_times_that_can_be_are_times() {
        for (text, want) in [
            ("1,234.5", Some(1_234_500)),
            ("0.0015", Some(2)),
            ("", None),
            ("1e308", None),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
        ] {
            assert_eq!(parse_seconds(text), want, "{text}");
        }
    }
}
