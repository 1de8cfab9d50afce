//! The user's own programs: editor and pager, as the environment names them.

/// Returns a variable of the environment that is set and not empty.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Returns the user's own program for a file, at a line.
pub(crate) fn program(editor: bool, path: &std::path::Path, line: u64) -> Vec<std::ffi::OsString> {
    let names: &[&str] = if editor { &["VISUAL", "EDITOR"] } else { &["PAGER"] };
    let wanted = names.iter().find_map(|n| env(n)).unwrap_or_else(|| if editor { "vi".into() } else { "less".into() });
    // The variable may hold options too, as with other programs.
    let mut words: Vec<std::ffi::OsString> = wanted.split_whitespace().map(Into::into).collect();
    let name = wanted.split_whitespace().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if ["less", "more", "most", "vi", "vim", "nvim", "nano", "emacs", "kak", "joe", "micro"].contains(&name) {
        words.push(format!("+{line}").into());
    }
    words.push(path.into());
    words
}
