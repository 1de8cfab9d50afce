//! Texts of the framework's config as words of a command line: a POSIX shell's quoting, and the places that are filled in.
//!
//! The framework fills a text in first and lets a shell split it then, so that a blank in a path makes two words of it. Here a text
//! is split first: what is filled in is never split or expanded again.

/// A character of a word, and whether a shell would expand a dollar there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Char {
    char: char,
    expands: bool,
}

/// A word before it is filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShellWord {
    chars: Vec<Char>,
    /// Whether some of it is quoted: then it is a word even where it is empty.
    quoted: bool,
}

impl ShellWord {
    fn push(&mut self, char: char, expands: bool) {
        self.chars.push(Char { char, expands });
    }
}

/// What stands for the names in a text.
pub(super) struct Names<'a> {
    /// The framework's own names for this text: plain text is replaced, whatever is around it.
    pub(super) templates: &'a [(&'static str, &'a str)],
    /// The variables that the framework exports, for a dollar outside of single quotes.
    pub(super) exported: &'a dyn Fn(&str) -> Option<String>,
}

/// Returns the words of a text. An error says what a shell would do that is not done here.
pub(super) fn split(text: &str) -> Result<Vec<ShellWord>, String> {
    let mut words = Vec::new();
    let mut word: Option<ShellWord> = None;
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                word.quoted = true;
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(char) => word.push(char, false),
                        None => return Err("a single quote has no end".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                word.quoted = true;
                loop {
                    match rest.next() {
                        Some('"') => break,
                        Some('\\') if rest.peek().is_some_and(|next| "$`\"\\".contains(*next)) => {
                            word.push(rest.next().unwrap_or_default(), false);
                        }
                        Some(char) => {
                            refuse_command(char, rest.peek())?;
                            word.push(char, true);
                        }
                        None => return Err("a double quote has no end".into()),
                    }
                }
            }
            '\\' => {
                let char = rest.next().ok_or("a backslash stands at the end")?;
                word.get_or_insert_default().push(char, false);
            }
            ';' | '|' | '&' | '<' | '>' | '(' | ')' | '\n' => {
                return Err(format!("`{}` is for a shell, and there is none here; quote it", char.escape_default()));
            }
            '#' if word.is_none() => return Err("`#` begins a comment; quote it".into()),
            char => {
                refuse_command(char, rest.peek())?;
                word.get_or_insert_default().push(char, true);
            }
        }
    }
    words.extend(word);
    Ok(words)
}

fn refuse_command(char: char, next: Option<&char>) -> Result<(), String> {
    if char == '`' || (char == '$' && next == Some(&'(')) {
        return Err("commands in a text are not run".into());
    }
    Ok(())
}

/// Returns the name at the beginning of a word's rest, with how many characters it takes, the dollar included.
fn variable(rest: &[Char]) -> Option<(String, usize)> {
    let plain = |from: usize| -> String {
        let name = rest[from..].iter().map(|c| c.char);
        name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    if rest.get(1)?.char == '{' {
        let name = plain(2);
        let closed = rest.get(2 + name.len()).is_some_and(|c| c.char == '}');
        return (closed && !name.is_empty()).then(|| (name.clone(), name.len() + 3));
    }
    let name = plain(1);
    let begins = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    begins.then(|| (name.clone(), name.len() + 1))
}

/// Returns whether one of these templates stands in the text.
pub(super) fn has_template(text: &str, templates: &[&str]) -> bool {
    templates.iter().any(|name| text.contains(&format!("${name}")))
}

/// Fills a word in; `None` = nothing is left of it. A variable that nobody exports is empty, as in a shell.
pub(super) fn fill(word: &ShellWord, names: &Names<'_>) -> Option<String> {
    let mut out = String::new();
    let mut at = 0;
    while let Some(Char { char, expands }) = word.chars.get(at).copied() {
        if char != '$' {
            out.push(char);
            at += 1;
            continue;
        }
        let rest = &word.chars[at..];
        let is_next =
            |name: &str| name.chars().enumerate().all(|(n, c)| rest.get(n + 1).is_some_and(|next| next.char == c));
        if let Some((name, value)) = names.templates.iter().find(|(name, _)| is_next(name)) {
            out.push_str(value);
            at += name.len() + 1;
        } else if let Some((name, length)) = variable(rest).filter(|_| expands) {
            out.push_str(&(names.exported)(&name).unwrap_or_default());
            at += length;
        } else {
            out.push('$');
            at += 1;
        }
    }
    (word.quoted || !out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str) -> Result<Vec<String>, String> {
        let names = Names {
            templates: &[("FILE", "/a b'\"$X"), ("TYPE", "tdx")],
            exported: &|name| (name == "PORT").then(|| "22 23".to_owned()),
        };
        Ok(split(text)?.iter().filter_map(|word| fill(word, &names)).collect())
    }

    #[test]
    fn a_text_is_split_first_and_filled_in_then() {
        for (text, words) in [
            ("-kernel $FILE -x", vec!["-kernel", "/a b'\"$X", "-x"]),
            ("'$FILE' \"$FILE\"", vec!["/a b'\"$X", "/a b'\"$X"]),
            ("$TYPEVM_$PORT", vec!["tdxVM_22 23"]),
            ("'$PORT' \"${PORT}\" \\$PORT", vec!["$PORT", "22 23", "$PORT"]),
            ("a$NONE $NONE '' \"$NONE\"", vec!["a", "", ""]),
            ("$ a$ $1 ${} $$", vec!["$", "a$", "$1", "${}", "$$"]),
            ("  a\t\tb\\ c  ", vec!["a", "b c"]),
            ("\"a\\\"b\\n\\$PORT\"", vec!["a\"b\\n$PORT"]),
            ("-x '{\"a\":true}'", vec!["-x", "{\"a\":true}"]),
            ("a#b", vec!["a#b"]),
            ("", vec![]),
        ] {
            assert_eq!(
                filled(text).as_deref(),
                Ok(&*words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_only_a_shell_could_do_is_refused() {
        for (text, why) in [
            ("a; b", "`;` is for a shell, and there is none here; quote it"),
            ("a > b", "`>` is for a shell, and there is none here; quote it"),
            ("a\nb", "`\\n` is for a shell, and there is none here; quote it"),
            ("$(id)", "commands in a text are not run"),
            ("\"`id`\"", "commands in a text are not run"),
            ("a #b", "`#` begins a comment; quote it"),
            ("'a", "a single quote has no end"),
            ("\"a", "a double quote has no end"),
            ("a\\", "a backslash stands at the end"),
        ] {
            assert_eq!(filled(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_splits_as_a_shell_does(text in r#"[ a-z'"\\$\t]{0,30}"#) {
            let names = Names { templates: &[], exported: &|_| None };
            let ours = split(&text).ok().map(|words| words.iter().filter_map(|word| fill(word, &names)).collect::<Vec<_>>());
            // It knows no variables, so only texts without a dollar can be compared.
            if !text.contains('$') {
                prop_assert_eq!(ours, shlex::split(&text));
            }
        }
    }
}
