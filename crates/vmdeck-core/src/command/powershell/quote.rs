//! How a text becomes one word for PowerShell.

/// Quotes a text for PowerShell, which takes the typographic quotes for quotes as well.
pub fn quote(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        out.push(c);
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            out.push(c);
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_of_every_kind_are_doubled() {
        for (text, wanted) in [
            ("a", "'a'"),
            ("it's", "'it''s'"),
            ("\u{2019}x\u{201b}", "'\u{2019}\u{2019}x\u{201b}\u{201b}'"),
            ("", "''"),
        ] {
            assert_eq!(quote(text), wanted);
        }
    }
}
