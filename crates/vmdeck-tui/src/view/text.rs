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

/// Returns a text in lines of at most so many columns, broken between words where that is possible; never none.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut out = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest = word;
        loop {
            let line = out.last_mut().map_or(0, |line| line.width());
            let space = usize::from(line > 0);
            if line + space + rest.width() <= columns {
                break;
            }
            if line > 0 {
                out.push(String::new());
                continue;
            }
            // A word that is longer than a line.
            let cut = rest.char_indices().find(|(at, c)| rest[..at + c.len_utf8()].width() > columns);
            let Some((at, _)) = cut.filter(|(at, _)| *at > 0) else { break };
            if let Some(last) = out.last_mut() {
                last.push_str(&rest[..at]);
            }
            out.push(String::new());
            rest = &rest[at..];
        }
        if let Some(last) = out.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(rest);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrap("lower a guest's memory", 12), ["lower a", "guest's", "memory"]);
        assert_eq!(wrap("", 12), [""]);
        assert_eq!(wrap("0123456789abcdef x", 10), ["0123456789", "abcdef x"]);
        assert_eq!(wrap("日本語日本語 x", 8), ["日本語日", "本語 x"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_wider(text in ".{0,80}", columns in 8usize..60) {
            let lines = wrap(&text, columns);
            prop_assert!(lines.iter().all(|line| line.width() <= columns));
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
