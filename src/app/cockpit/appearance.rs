//! How the cockpit looks here: what the terminal and its environment tell, what the config says, what was chosen last.

use crate::cli::Color;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use terminal_colorsaurus::{QueryOptions, ThemeMode};
use vmdeck_core::host::info;
use vmdeck_tui::{look::KeptLook, theme::Depth};

/// How long a terminal may take to tell its background; one behind a slow line is taken for a dark one.
const ANSWER: Duration = Duration::from_millis(400);
/// The largest file of a look, in bytes.
const LARGEST: u64 = 64 * 1024;

/// Returns how many colours are used: `--color`, then `NO_COLOR`, `CLICOLOR_FORCE` and what the terminal is called.
pub(super) fn depth(color: Color, var: impl Fn(&str) -> Option<String>) -> Depth {
    match color {
        Color::Never => Depth::Mono,
        Color::Always => Depth::True,
        Color::Auto => Depth::from_env(var),
    }
}

/// Returns whether text in this environment's locale is not UTF-8, so that only ASCII is certain to be shown.
pub(super) fn is_ascii_only(var: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| var(name).filter(|value| !value.is_empty()));
    let locale = locale.unwrap_or_default().to_lowercase();
    !locale.contains("utf-8") && !locale.contains("utf8")
}

/// Returns the theme that fits the terminal: what it answers, else what `COLORFGBG` says, else dark. It must be asked before anybody
/// else reads from it.
pub(super) fn fitting_theme(depth: Depth, var: impl Fn(&str) -> Option<String>) -> &'static str {
    if depth == Depth::Mono {
        return "dark";
    }
    let mut options = QueryOptions::default();
    options.timeout = ANSWER;
    match terminal_colorsaurus::theme_mode(options) {
        Ok(ThemeMode::Light) => "light",
        Ok(ThemeMode::Dark) => "dark",
        Err(_) => by_variable(var("COLORFGBG").as_deref()),
    }
}

/// Returns the theme for a value of `COLORFGBG`, `15;0` or `0;default;15`: its last part is the background's number of the 16 colours.
fn by_variable(value: Option<&str>) -> &'static str {
    let background = value.and_then(|value| value.rsplit(';').next()?.parse::<u8>().ok());
    // White, and the light ones but for the grey that is called bright black.
    if background.is_some_and(|number| number == 7 || (9..=15).contains(&number)) { "light" } else { "dark" }
}

fn file() -> PathBuf {
    info::state_dir().join("cockpit.json")
}

/// Reads what was chosen last; what cannot be read was never chosen.
pub(super) fn load() -> KeptLook {
    read(&file()).unwrap_or_default()
}

fn read(file: &Path) -> Option<KeptLook> {
    serde_json::from_slice(&vmdeck_files::read(file, LARGEST).ok()?).ok()
}

/// Writes what was chosen.
pub(super) fn save(look: &KeptLook) -> io::Result<()> {
    write(&file(), look)
}

fn write(file: &Path, look: &KeptLook) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        vmdeck_files::make_folders(folder)?;
    }
    // Another cockpit that writes at the same time must not be mixed with this one.
    let fresh = file.with_extension(format!("{}.tmp", std::process::id()));
    let text = serde_json::to_vec_pretty(look).map_err(io::Error::other)?;
    vmdeck_files::write(&fresh, &text).and_then(|()| fs::rename(&fresh, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| all.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn only_a_utf_8_locale_has_more_than_ascii() {
        for (all, ascii) in [
            (&[("LANG", "en_US.UTF-8")][..], false),
            (&[("LANG", "C.utf8")], false),
            (&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")], true),
            (&[("LANG", "C"), ("LC_CTYPE", "UTF-8")], false),
            (&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")], false),
            (&[("LANG", "de_DE.ISO-8859-1")], true),
            (&[], true),
        ] {
            assert_eq!(is_ascii_only(vars(all)), ascii, "{all:?}");
        }
    }

    #[test]
    fn the_variable_tells_the_background_by_its_number() {
        for (value, theme) in [
            (Some("15;0"), "dark"),
            (Some("0;15"), "light"),
            (Some("0;default;15"), "light"),
            (Some("12;7"), "light"),
            (Some("15;8"), "dark"),
            (Some("15;default"), "dark"),
            (Some(""), "dark"),
            (None, "dark"),
        ] {
            assert_eq!(by_variable(value), theme, "{value:?}");
        }
    }

    #[test]
    fn a_look_is_kept_and_a_damaged_one_is_none() {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("state/cockpit.json");
        assert_eq!(read(&file), None);
        let look = KeptLook { run_share: 60, ..KeptLook::default() };
        write(&file, &look).expect("written");
        assert_eq!(read(&file), Some(look));
        assert_eq!(fs::read_dir(file.parent().expect("folder")).expect("dir").count(), 1, "nothing else is left");
        fs::write(&file, "{\"run_share\": \"wide\"").expect("write");
        assert_eq!(read(&file), None);
    }
}
