//! Texts of a width: cut, or filled up.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Returns a text cut to so many columns, with a mark where it was cut.
pub(super) fn cut(text: &str, columns: usize, ascii: bool) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mark = if ascii { "~" } else { "…" };
    let (mut out, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    if columns > 0 {
        out.push_str(mark);
    }
    out
}

/// Returns a text in exactly so many columns.
pub(super) fn fit(text: &str, columns: usize, ascii: bool) -> String {
    let text = cut(text, columns, ascii);
    let pad = columns.saturating_sub(text.width());
    text + &" ".repeat(pad)
}
