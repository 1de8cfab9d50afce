//! Reaching a person outside of the picture: bell, desktop notices, the terminal's own progress, the clipboard.
//!
//! Everything here ends as bytes for the terminal, so a guest's words must never get in unclean.

use crossterm::{Command, clipboard::CopyToClipboard};
use vmdeck_model::text::Clean;

/// The most bytes that terminals accept over OSC 52, as k9s and others found.
const CLIPBOARD_MAX: usize = 74_994;

/// Returns the bytes of a notice, written in this way: `auto`, `bell`, `osc9`, `osc777` or `off`.
pub(super) fn bytes(way: &str, text: &str, env: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    // A semicolon ends a field of these sequences.
    let text = Clean::from_text(text).into_string().replace(';', ",");
    let osc9 = format!("\x1b]9;vmdeck: {text}\x07");
    let osc777 = format!("\x1b]777;notify;vmdeck;{text}\x1b\\");
    let terminal = env("TERM_PROGRAM").unwrap_or_default();
    let term = env("TERM").unwrap_or_default();
    let out = match way {
        "off" => String::new(),
        "bell" => "\x07".into(),
        "osc9" => osc9,
        "osc777" => osc777,
        _ if ["iTerm.app", "WezTerm", "ghostty", "vscode"].contains(&terminal.as_str())
            || env("WT_SESSION").is_some() =>
        {
            format!("\x07{osc9}")
        }
        _ if term.starts_with("rxvt") || term.starts_with("foot") => format!("\x07{osc777}"),
        _ => "\x07".into(),
    };
    out.into_bytes()
}

/// Returns the bytes that show the progress of the run on the terminal's own indicator, where it is known to have one.
pub(super) fn progress(percent: Option<u8>, env: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let terminal = env("TERM_PROGRAM").unwrap_or_default();
    let has_one = ["WezTerm", "ghostty"].contains(&terminal.as_str())
        || ["WT_SESSION", "ConEmuANSI"].iter().any(|n| env(n).is_some());
    has_one.then(|| match percent {
        Some(percent) => format!("\x1b]9;4;1;{percent}\x1b\\").into_bytes(),
        None => b"\x1b]9;4;0;\x1b\\".to_vec(),
    })
}

/// Returns the text for the terminal's clipboard; `None` = it is too long.
pub(super) fn osc52(text: &str) -> Option<Vec<u8>> {
    let mut out = String::new();
    CopyToClipboard::to_clipboard_from(text).write_ansi(&mut out).ok()?;
    (out.len() <= CLIPBOARD_MAX).then(|| out.into_bytes())
}

/// Returns a program of this desktop that takes the clipboard; none over ssh, where the desktop is elsewhere.
pub(super) fn clipboard_program(
    env: impl Fn(&str) -> Option<String>,
    has_program: impl Fn(&str) -> bool,
) -> Option<Vec<String>> {
    if env("SSH_CONNECTION").is_some() {
        return None;
    }
    let all: [(&str, &[&str]); 3] = [
        ("WAYLAND_DISPLAY", &["wl-copy"]),
        ("DISPLAY", &["xclip", "-selection", "clipboard"]),
        ("__CFBundleIdentifier", &["pbcopy"]),
    ];
    let (_, words) = all.into_iter().find(|(variable, words)| env(variable).is_some() && has_program(words[0]))?;
    Some(words.iter().map(|w| (*w).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn notices_are_what_the_terminal_understands_and_hold_no_foreign_sequence() {
        let evil = "done\x1b]0;x\x07;more";
        assert_eq!(bytes("osc9", evil, with(&[])), b"\x1b]9;vmdeck: done,more\x07");
        assert_eq!(bytes("auto", "x", with(&[("TERM_PROGRAM", "WezTerm")])), b"\x07\x1b]9;vmdeck: x\x07");
        assert_eq!(bytes("auto", "x", with(&[("TERM", "foot")])), b"\x07\x1b]777;notify;vmdeck;x\x1b\\");
        assert_eq!(bytes("auto", "x", with(&[("TERM", "xterm")])), b"\x07");
        assert!(bytes("off", "x", with(&[])).is_empty());
    }

    #[test]
    fn progress_only_where_it_is_known_to_be_shown() {
        assert_eq!(progress(Some(40), with(&[("WT_SESSION", "1")])), Some(b"\x1b]9;4;1;40\x1b\\".to_vec()));
        assert_eq!(progress(None, with(&[("TERM_PROGRAM", "ghostty")])), Some(b"\x1b]9;4;0;\x1b\\".to_vec()));
        assert_eq!(progress(Some(1), with(&[("TERM", "xterm")])), None);
    }

    #[test]
    fn the_clipboard_has_a_limit() {
        assert_eq!(osc52("hi"), Some(b"\x1b]52;c;aGk=\x1b\\".to_vec()));
        assert_eq!(osc52(&"x".repeat(60_000)), None);
        assert_eq!(clipboard_program(with(&[("DISPLAY", ":0"), ("SSH_CONNECTION", "x")]), |_| true), None);
    }
}
