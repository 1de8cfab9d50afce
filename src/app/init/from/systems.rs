//! What other tools call a system, to a name of the catalogue: `ubuntu-24.04-64`, `debian/bookworm64`, `rockylinux-9`.

use std::path::Path;
use vmdeck_model::catalogue::Catalogue;

/// Other names of systems.
const ALIASES: [(&str, &str); 6] = [
    ("rockylinux", "rocky"),
    ("centos-stream", "centos-stream"),
    ("centosstream", "centos-stream"),
    ("centos", "centos-stream"),
    ("alma", "almalinux"),
    ("archlinux", "arch"),
];

/// Returns whether a text is an address or a file, and no name.
pub(super) fn is_image(text: &str) -> bool {
    text.starts_with("https://")
        || text.starts_with('/')
        || text.starts_with("./")
        || Path::new(text).extension().is_some_and(|end| end == "qcow2")
}

/// Returns the name of the catalogue that is meant, where that is sure.
pub(super) fn image(system: &str, catalogue: &Catalogue) -> Option<String> {
    let text = system.to_ascii_lowercase();
    let known = catalogue.0.keys().map(|name| (name.as_str(), name.as_str()));
    // The longest word first: `centos-stream` is not `centos`.
    let mut words: Vec<(&str, &str)> = known.chain(ALIASES).collect();
    words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
    let (at, word, name) = words.into_iter().find_map(|(word, name)| Some((text.find(word)?, word, name)))?;
    let entry = catalogue.0.get(name)?;
    let rest = &text[at + word.len()..];
    let mut versions: Vec<(&String, &String)> = entry.versions.iter().collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(version.len()));
    let parts: Vec<&str> = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').collect();
    let is_meant = |version: &str, release: &str| {
        let squeezed = version.replace('.', "");
        parts.iter().any(|part| {
            let part = part.trim_matches('.');
            // `bookworm64` and `9.4` are bookworm and 9.
            part == version
                || part == squeezed
                || part.strip_prefix(version).is_some_and(|tail| tail.starts_with('.'))
                || part.trim_end_matches("64") == release
                || part == release
        })
    };
    // An image of the usual processor is no answer to those.
    if parts
        .iter()
        .any(|part| ["arm", "arm64", "aarch64", "armhf", "i386", "32", "riscv64", "ppc64el", "s390x"].contains(part))
    {
        return None;
    }
    if let Some((version, _)) = versions.iter().find(|(version, release)| is_meant(version, release)) {
        return Some(format!("{name}:{version}"));
    }
    // Without any further word the newest one is meant.
    let says_version =
        parts.iter().any(|part| !part.is_empty() && *part != "64" && ![name, word, "latest"].contains(part));
    let number =
        |version: &&String| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    let newest = entry.versions.keys().max_by_key(number)?;
    (!says_version).then(|| format!("{name}:{newest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;

    #[test]
    fn what_others_call_a_system_is_known_or_left_alone() {
        let catalogue =
            settings::load_text(std::path::Path::new("x"), "").expect("the catalogue").host.images.catalogue;
        for (system, name) in [
            ("ubuntu-24.04-64", Some("ubuntu:24.04")),
            ("ubuntu/jammy64", Some("ubuntu:22.04")),
            ("generic/ubuntu2204", Some("ubuntu:22.04")),
            ("bento/ubuntu-22.04", Some("ubuntu:22.04")),
            ("ubuntu-20.04-64", None),
            ("debian/bookworm64", Some("debian:12")),
            ("debian-12-64", Some("debian:12")),
            ("generic/debian12", Some("debian:12")),
            ("debian-sid-64", None),
            ("opensuse-tumbleweed-64", None),
            ("ubuntu-24.04-arm-64", None),
            ("fedora-43-64", Some("fedora:43")),
            ("fedora/43-cloud-base", Some("fedora:43")),
            ("fedora", Some("fedora:44")),
            ("centos-stream-9", Some("centos-stream:9")),
            ("centos-9-64", Some("centos-stream:9")),
            ("rockylinux-9", Some("rocky:9")),
            ("rockylinux/9.4", Some("rocky:9")),
            ("almalinux/10", Some("almalinux:10")),
            ("opensuse-15.6-64", Some("opensuse:15.6")),
            ("archlinux/archlinux", Some("arch:rolling")),
            ("alpine-3.22", Some("alpine:3.22")),
            ("windows-2022", None),
            ("", None),
        ] {
            assert_eq!(image(system, &catalogue).as_deref(), name, "{system}");
        }
    }
}
