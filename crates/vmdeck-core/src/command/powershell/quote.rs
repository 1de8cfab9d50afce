//! How a text becomes one word for PowerShell, and for a program that it starts.

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

/// Quotes a text as an argument of a program. Windows PowerShell puts quotes around what has a blank in it, and escapes nothing:
/// what is in the text must be escaped as Microsoft's C library reads it, and an empty text would be no argument.
pub fn argument(text: &str) -> String {
    if text.is_empty() {
        return quote("\"\"");
    }
    let mut out = String::new();
    let mut slashes = 0;
    for c in text.chars() {
        match c {
            '\\' => slashes += 1,
            '"' => {
                // Those before a quote are doubled, and one more stands for the quote itself.
                out.push_str(&"\\".repeat(slashes + 1));
                slashes = 0;
            }
            _ => slashes = 0,
        }
        out.push(c);
    }
    if text.contains([' ', '\t']) {
        // The last ones stand before the quote that is put there.
        out.push_str(&"\\".repeat(slashes));
    }
    quote(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_arrives_as_it_is() {
        for (text, wanted) in [
            ("a b", "'a b'"),
            ("", "'\"\"'"),
            ("say \"hi\"", "'say \\\"hi\\\"'"),
            ("a\\\"b", "'a\\\\\\\"b'"),
            ("C:\\x y\\", "'C:\\x y\\\\'"),
            ("C:\\xy\\", "'C:\\xy\\'"),
            ("it's", "'it''s'"),
        ] {
            assert_eq!(argument(text), wanted, "{text}");
        }
    }

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
