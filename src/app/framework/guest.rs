//! A machine of the framework as a guest of vmdeck's own config.

use super::FrameworkMachine;
use std::path::Path;
use toml::{Table, Value};

/// The user that the framework logs in as.
const USER: &str = "root";

impl FrameworkMachine {
    /// Returns the keys of the guest, without its password: `folder` = where relative paths of its arguments begin.
    pub(in crate::app) fn guest(&self, folder: Option<&Path>) -> Table {
        let mut qemu = Table::new();
        // A path is from the folder of the scripts, a bare name from the search path.
        let binary = match folder.filter(|_| self.binary.contains('/')) {
            Some(folder) => folder.join(&self.binary).to_string_lossy().into_owned(),
            None => self.binary.clone(),
        };
        qemu.insert("binary".into(), binary.into());
        if self.kind != "legacy" {
            qemu.insert("vm_type".into(), self.kind.into());
        }
        if let Some(folder) = folder {
            qemu.insert("dir".into(), folder.to_string_lossy().into_owned().into());
        }
        let words = self.arguments.iter().cloned().map(Value::String);
        qemu.insert("arguments".into(), Value::Array(words.collect()));
        let mut guest = Table::new();
        guest.insert("backend".into(), "qemu".into());
        if let Some(cpus) = self.cpus {
            guest.insert("cpus".into(), i64::from(cpus).into());
        }
        if let Some(memory) = self.memory {
            guest.insert("memory".into(), format!("{memory}GiB").into());
        }
        if let Some(pattern) = self.boot_pattern.as_deref().filter(|pattern| !pattern.trim_matches('*').is_empty()) {
            guest.insert("boot".into(), Table::from_iter([("pattern".to_owned(), pattern_of(pattern).into())]).into());
        }
        guest.insert("ssh".into(), Table::from_iter([("user".to_owned(), Value::from(USER))]).into());
        guest.insert("qemu".into(), qemu.into());
        guest
    }
}

/// Returns a pattern of bash as one of vmdeck's. The framework's must match a whole line; here the middle of one will do.
fn pattern_of(glob: &str) -> String {
    let glob = glob.trim().trim_matches('*');
    if !glob.contains(['|', '[', '(', '\\', '/']) {
        return glob.to_owned();
    }
    let mut out = String::new();
    let mut rest = glob.chars().peekable();
    let mut in_class = false;
    while let Some(char) = rest.next() {
        match char {
            '-' if in_class => out.push('-'),
            '*' => out.push_str(".*?"),
            '?' => out.push('.'),
            '|' => out.push('|'),
            '[' => {
                out.push('[');
                in_class = true;
                if rest.peek() == Some(&'!') {
                    rest.next();
                    out.push('^');
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '\\' => out.push_str(&regex::escape(&rest.next().unwrap_or('\\').to_string())),
            char => out.push_str(&regex::escape(&char.to_string())),
        }
    }
    // A bracket without its end is a bracket.
    let is_regex = regex::Regex::new(&out).is_ok();
    let text = if is_regex { out } else { regex::escape(glob) };
    // The alternatives' own stars are for whole lines.
    let parts: Vec<&str> = text.split('|').map(|part| part.strip_prefix(".*?").unwrap_or(part)).collect();
    format!("/{}/", parts.iter().map(|part| part.strip_suffix(".*?").unwrap_or(part)).collect::<Vec<_>>().join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::pattern::Pattern;

    #[test]
    fn a_pattern_of_bash_finds_the_same_lines() {
        for (glob, pattern, found, other) in [
            ("*Kernel*on*x86_64*", "Kernel*on*x86_64", "Kernel 6.1 on an x86_64", "Kernel"),
            ("*a|b*", "/a|b/", "xb", "c"),
            ("*login:*|*Kernel [0-9]*", "/login:|Kernel [0-9]/", "Kernel 6", "Kernel x"),
            ("*[!a]nd /x*", "/[^a]nd /x/", "end /x", "and /x"),
            ("*[oops*", "/\\[oops/", "[oops", "oops"),
        ] {
            assert_eq!(pattern_of(glob), pattern, "{glob}");
            let read = Pattern::parse(pattern).expect(pattern);
            assert!(read.is_match(found.as_bytes()) && !read.is_match(other.as_bytes()), "{glob}");
        }
    }
}
