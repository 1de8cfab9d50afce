//! The command lines of `ssh` and `scp`, read as OpenSSH reads them.

/// A command line: its switches, its options with values, and the other words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SshOptions {
    pub(super) switches: Vec<char>,
    pub(super) values: Vec<(char, String)>,
    pub(super) rest: Vec<String>,
}

impl SshOptions {
    /// Reads a command line in which these letters have a value. `ends` = how many other words there are before everything is one,
    /// as a command of `ssh` is.
    pub(super) fn read(args: &[String], with_value: &str, ends: usize) -> Result<Self, String> {
        let mut out = Self::default();
        let mut args = args.iter();
        while let Some(word) = args.next() {
            match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                Some("-") => {
                    out.rest.extend(args.by_ref().cloned());
                }
                Some(letters) => {
                    for (at, letter) in letters.char_indices() {
                        if !with_value.contains(letter) {
                            out.switches.push(letter);
                            continue;
                        }
                        let rest = &letters[at + letter.len_utf8()..];
                        let value = if rest.is_empty() { args.next().cloned() } else { Some(rest.to_owned()) };
                        out.values.push((letter, value.ok_or_else(|| format!("option -{letter} needs a value"))?));
                        break;
                    }
                }
                None => {
                    out.rest.push(word.clone());
                    // Options may stand behind the host, but not in the command.
                    if out.rest.len() > ends {
                        out.rest.extend(args.by_ref().cloned());
                    }
                }
            }
        }
        Ok(out)
    }

    pub(super) fn has(&self, letter: char) -> bool {
        self.switches.contains(&letter)
    }

    pub(super) fn value(&self, letter: char) -> Option<&str> {
        self.values.iter().rev().find(|(own, _)| *own == letter).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_read_as_openssh_reads_it() {
        let words = |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        for (line, ends, switches, values, rest) in [
            ("-p 22 -o A=b root@localhost", 1, "", "p=22 o=A=b", "root@localhost"),
            ("-p22 -tt host -q ls -l -p 1", 1, "ttq", "p=22", "host ls -l -p 1"),
            ("-nTp 22 host", 1, "nT", "p=22", "host"),
            ("host -- -x", 1, "", "", "host -x"),
            ("-r -P 22 a b host:c", usize::MAX, "r", "P=22", "a b host:c"),
            ("-rP22 - x", usize::MAX, "r", "P=22", "- x"),
        ] {
            let with_value = if ends == 1 { "po" } else { "Po" };
            let got = SshOptions::read(&words(line), with_value, ends).expect("options");
            let values: Vec<(char, String)> =
                words(values).iter().map(|v| (v.chars().next().expect("letter"), v[2..].to_owned())).collect();
            let expected = SshOptions { switches: switches.chars().collect(), values, rest: words(rest) };
            assert_eq!(got, expected, "{line}");
        }
        assert!(SshOptions::read(&words("host -p"), "p", 1).is_err());
    }
}
