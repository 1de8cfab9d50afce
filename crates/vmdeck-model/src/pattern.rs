//! Patterns as the config writes them: a glob, or a regular expression between slashes.
//!
//! Matching a stream piece by piece is the boot watch's work (`engine::boot`).

use std::fmt;

/// A glob (`*Kernel*on*x86_64*`, `login:`) or a `/regex/`, searched for anywhere in a line.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    regex: regex::bytes::Regex,
}

impl Pattern {
    /// Reads a pattern as written in the config; `*` and `?` do not cross a line's end.
    pub fn parse(source: &str) -> Result<Self, String> {
        let expression = match source.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            Some(regex) => regex.to_owned(),
            None => glob_to_regex(source),
        };
        if source.is_empty() || expression.is_empty() {
            return Err("an empty pattern matches everything; leave the key out instead".into());
        }
        regex::bytes::Regex::new(&expression)
            .map(|regex| Self { source: source.to_owned(), regex })
            .map_err(|e| format!("`{source}` is not a regular expression: {}", last_line(&e.to_string())))
    }

    /// Returns whether the pattern is found in these bytes.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }

    /// Returns whether it is found in these bytes from `start` on; what is before that only decides what `^` and `\b` see.
    /// Where `is_open`, more bytes follow: a match that needs the end to be here does not count.
    pub fn is_match_at(&self, bytes: &[u8], start: usize, is_open: bool) -> bool {
        let found = self.regex.is_match_at(bytes, start);
        // Text that no pattern means: what matches only without it needs the end.
        found && (!is_open || self.regex.is_match_at(&[bytes, &[0xff]].concat(), start))
    }

    /// As written in the config.
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or(text).trim()
}

fn glob_to_regex(glob: &str) -> String {
    let trimmed = glob.trim_matches('*');
    let mut out = String::new();
    for c in trimmed.chars() {
        match c {
            '*' => out.push_str(".*?"),
            '?' => out.push('.'),
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).expect("good pattern").is_match(text.as_bytes())
    }

    #[test]
    fn globs_and_regexes_are_found_anywhere_in_a_line() {
        assert!(matches("login:", "micro login: "));
        assert!(matches("*Kernel*on*x86_64*", "Kernel 5.14 on an x86_64"));
        assert!(!matches("a*b", "a\nb"));
        assert!(matches("a.b", "a.b") && !matches("a.b", "axb"));
        assert!(matches("/panic - .* syncing/", "Kernel panic - not syncing"));
    }

    #[test]
    fn mistakes_are_told() {
        assert!(Pattern::parse("").is_err());
        assert!(Pattern::parse("***").is_err());
        assert!(Pattern::parse("/(/").expect_err("unclosed").contains("unclosed group"));
    }
}
