//! The catalogue of images: the data that vmdeck brings, and what the config adds to it and changes.

use super::{build::Build, tree::Origin};
use regex::Regex;
use std::collections::BTreeMap;
use vmdeck_model::{
    catalogue::{Catalogue, CatalogueEntry},
    image::ImageConfig,
    key::Value,
};

/// The names that need no config.
const BUILT_IN: &str = include_str!("catalogue.toml");
/// The words that a template may hold, besides those that only some may.
const WORDS: [&str; 3] = ["{version}", "{release}", "{arch}"];

impl Build<'_> {
    /// Returns how images are fetched and kept.
    pub(super) fn images(&mut self) -> ImageConfig {
        ImageConfig {
            cache: match self.value("images.cache", "images.cache") {
                Some(Value::Path(path)) => Some(path),
                _ => None,
            },
            offline: self.value("images.offline", "images.offline") == Some(Value::Bool(true)),
            max_size: match self.value("images.max_size", "images.max_size") {
                Some(Value::Size(size)) => Some(size),
                _ => None,
            },
            max_age: self.duration("images.max_age", "images.max_age"),
            catalogue: self.catalogue(),
        }
    }

    fn catalogue(&mut self) -> Catalogue {
        // A test reads it: it is part of this program.
        let mut all: BTreeMap<String, CatalogueEntry> = toml::from_str(BUILT_IN).unwrap_or_default();
        for (name, origin) in self.catalogue_names() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if name.is_empty() || !name.chars().all(is_plain) {
                let text = "the name of an image has letters, digits, `-` and `_`";
                self.problem(&origin, &format!("images.catalogue.{name}"), text, None);
                continue;
            }
            let entry = all.remove(&name).unwrap_or_default();
            let entry = self.entry(&name, &origin, entry);
            all.insert(name, entry);
        }
        let mirror = self.text("images.mirror", "images.mirror");
        self.check_address(&Origin::Nowhere, "images.mirror", mirror.as_deref());
        for entry in all.values_mut().filter(|entry| entry.mirror.is_none()) {
            entry.mirror.clone_from(&mirror);
        }
        Catalogue(all)
    }

    /// Returns an entry with what the config says of it.
    fn entry(&mut self, name: &str, origin: &Origin, mut entry: CatalogueEntry) -> CatalogueEntry {
        let full = |key: &str| format!("images.catalogue.{name}.{key}");
        let any = |key: &str| format!("images.catalogue.*.{key}");
        for (key, map) in [("versions", &mut entry.versions), ("arch", &mut entry.arch)] {
            if let Some(Value::Map(more)) = self.value(&full(key), &any(key)) {
                map.extend(more);
            }
        }
        for (key, text) in [("image", &mut entry.image), ("sums", &mut entry.sums)] {
            if let Some(new) = self.text(&full(key), &any(key)) {
                *text = new;
            }
        }
        for (key, text) in [
            ("index", &mut entry.index),
            ("listed", &mut entry.listed),
            ("stamp", &mut entry.stamp),
            ("moving", &mut entry.moving),
            ("user", &mut entry.user),
            ("shell", &mut entry.shell),
            ("seed", &mut entry.seed),
            ("firmware", &mut entry.firmware),
            ("mirror", &mut entry.mirror),
        ] {
            if let Some(new) = self.text(&full(key), &any(key)) {
                *text = Some(new);
            }
        }
        self.check_entry(name, origin, &entry);
        entry
    }

    fn check_entry(&mut self, name: &str, origin: &Origin, entry: &CatalogueEntry) {
        let full = |key: &str| format!("images.catalogue.{name}.{key}");
        for (key, is_missing) in [
            ("versions", entry.versions.is_empty()),
            ("arch", entry.arch.is_empty()),
            ("image", entry.image.is_empty()),
            ("sums", entry.sums.is_empty()),
        ] {
            if is_missing {
                self.problem(origin, &full(key), "it is missing", Some("docs/design/images.md shows a whole entry"));
            }
        }
        let listing = [("index", &entry.index), ("listed", &entry.listed), ("stamp", &entry.stamp)];
        let given = listing.iter().filter(|(_, text)| text.is_some()).count();
        if !matches!(given, 0 | 3) {
            let text = format!("`index`, `listed` and `stamp` go together; only {given} of them is there");
            self.problem(origin, &full("index"), text, None);
        }
        if let Some(Err(e)) = entry.stamp.as_deref().map(Regex::new) {
            let why = e.to_string().lines().last().unwrap_or_default().to_owned();
            self.problem(origin, &full("stamp"), format!("it is no regular expression: {why}"), None);
        }
        let has_listing = given == 3;
        for (key, text, more) in [
            ("index", entry.index.as_deref(), &[][..]),
            ("listed", entry.listed.as_deref(), &["{stamp}"]),
            ("image", Some(entry.image.as_str()), if has_listing { &["{stamp}"] } else { &[] }),
            ("moving", entry.moving.as_deref(), &[]),
            ("sums", Some(entry.sums.as_str()), &["{stamp}", "{file}"]),
        ] {
            let Some(text) = text else { continue };
            let bare = WORDS.iter().chain(more).fold(text.to_owned(), |text, word| text.replace(word, ""));
            if bare.contains(['{', '}']) {
                let known = WORDS.iter().chain(more).copied().collect::<Vec<_>>().join(", ");
                self.problem(origin, &full(key), format!("`{text}` holds an unknown word (known: {known})"), None);
            }
            if matches!(key, "index" | "image" | "moving") {
                self.check_address(origin, &full(key), Some(text).filter(|text| !text.is_empty()));
            }
        }
        self.check_address(origin, &full("mirror"), entry.mirror.as_deref());
    }

    /// Digests come from these addresses: nobody on the way may change them.
    fn check_address(&mut self, origin: &Origin, key: &str, url: Option<&str>) {
        let is_own = |url: &str| {
            let host = url.strip_prefix("http://").unwrap_or_default();
            ["127.0.0.1", "localhost", "[::1]"]
                .iter()
                .any(|own| host.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])))
        };
        if let Some(url) = url.filter(|url| !url.starts_with("https://") && !is_own(url)) {
            self.problem(origin, key, format!("`{url}` is no address of the kind https"), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn every_entry_that_vmdeck_brings_gives_whole_addresses() {
        let all: BTreeMap<String, CatalogueEntry> = toml::from_str(BUILT_IN).expect("the catalogue");
        let catalogue = Catalogue(all.clone());
        let mut names = 0;
        for (name, entry) in &all {
            if let Some(stamp) = &entry.stamp {
                Regex::new(stamp).expect("stamp");
            }
            assert_eq!((entry.index.is_some(), entry.listed.is_some()), (entry.stamp.is_some(), entry.stamp.is_some()));
            for version in entry.versions.keys() {
                let image = catalogue.find(&format!("{name}:{version}"), PathBuf::new()).expect("known");
                for arch in entry.arch.keys() {
                    names += 1;
                    let url = image.fill(&entry.image, arch, &[("stamp", "1")]).expect("filled");
                    let folder = url.rsplit_once('/').expect("a folder").0;
                    let sums = image.fill(&entry.sums, arch, &[("stamp", "1"), ("file", "x")]).expect("filled");
                    let all = [url.clone(), format!("{folder}/{sums}")];
                    let others = [&entry.index, &entry.moving];
                    let others = others.into_iter().flatten().map(|t| image.fill(t, arch, &[]).expect("filled"));
                    for url in all.into_iter().chain(others) {
                        assert!(url.starts_with("https://") && !url.contains(['{', '}']), "{url}");
                    }
                }
            }
        }
        assert!(names > 30, "{names}");
    }
}
