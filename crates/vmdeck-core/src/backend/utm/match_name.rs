//! Which machine a guest means that names none: one whose name says that it is for CI, and for which system.
//!
//! A machine without the prefix is never taken: it is somebody's own.

use vmdeck_model::guest::Os;

/// Returns the best of these names for a guest of this system: `ci-os*` before `ci-*`, then the system's word, then the shortest.
pub(super) fn best_match<'a>(names: impl Iterator<Item = &'a str>, os: Os) -> Option<&'a str> {
    let all: Vec<&str> = names.filter(|name| prefix(name).is_some()).collect();
    let mut fitting: Vec<_> = all
        .iter()
        .filter_map(|name| Some(((prefix(name)?, rank(name, os)?, words(name).len(), name.to_lowercase()), *name)))
        .collect();
    fitting.sort();
    if let Some((_, name)) = fitting.first() {
        return Some(name);
    }
    // The only one, if it does not say that it is another system's.
    let others = [Os::Linux, Os::Windows, Os::Macos].into_iter().filter(|other| *other != os);
    match all[..] {
        [only] if others.clone().all(|other| rank(only, other).is_none()) => Some(only),
        _ => None,
    }
}

fn words(name: &str) -> Vec<String> {
    name.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// 0 for `ci-os-...`, 1 for `ci-...`.
fn prefix(name: &str) -> Option<u8> {
    let words = words(name);
    match words.first().map(String::as_str) {
        Some("ci") if words.get(1).is_some_and(|word| word == "os") => Some(0),
        Some("ci") => Some(1),
        _ => None,
    }
}

/// Returns how well a name matches a system, by whole words: `darwin` is not `win`. A version may follow: `windows11`.
fn rank(name: &str, os: Os) -> Option<usize> {
    let known: &[&str] = match os {
        Os::Linux => &["linux", "ubuntu", "debian", "fedora", "alpine", "arch"],
        Os::Windows => &["windows", "win"],
        Os::Macos => &["macos", "darwin", "osx", "mac"],
    };
    let words = words(name);
    let is = |known: &str| words.iter().any(|w| w.trim_end_matches(|c: char| c.is_ascii_digit()) == known);
    known.iter().position(|known| is(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        let check = |names: &[&str], os, is: Option<&str>| {
            assert_eq!(best_match(names.iter().copied(), os), is, "{names:?} {os}");
        };
        check(&["ci-Linux", "ci-os-linux", "linux"], Os::Linux, Some("ci-os-linux"));
        check(&["ci-Linux", "ci-Windows", "ci-macOS"], Os::Linux, Some("ci-Linux"));
        check(&["ci-Linux", "ci-Windows", "ci-macOS"], Os::Windows, Some("ci-Windows"));
        check(&["ci-Linux", "ci-Windows", "ci-macOS"], Os::Macos, Some("ci-macOS"));
        check(&["ci-os-darwin", "ci-win11"], Os::Windows, Some("ci-win11"));
        check(&["ci-os-darwin"], Os::Windows, None);
        check(&["ci-osx", "ci-ubuntu"], Os::Macos, Some("ci-osx"));
        check(&["ci-debian", "ci-linux-old", "ci-linux"], Os::Linux, Some("ci-linux"));
        check(&["CI-Ubuntu"], Os::Linux, Some("CI-Ubuntu"));
        check(&["ci-box"], Os::Linux, Some("ci-box"));
        check(&["ci-box", "ci-other"], Os::Linux, None);
        check(&["my linux", "circle-linux", "linux"], Os::Linux, None);
        check(&[], Os::Linux, None);
    }
}
