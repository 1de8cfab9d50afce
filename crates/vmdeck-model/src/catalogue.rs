//! The catalogue: the names that images can have, such as `debian:12`, and where the image of a name is found.
//!
//! Entries are data: vmdeck brings some, the config adds and changes others. Templates hold words in braces: `{version}`,
//! `{release}`, `{arch}`, `{stamp}`, `{file}`.

use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// The file beside the config that holds what each name was resolved to.
pub const LOCK_FILE: &str = "vmdeck.images.lock";

/// Every name that an image can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue(pub BTreeMap<String, CatalogueEntry>);

/// Where the images of one system are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueEntry {
    /// Its versions, each with the word that `{release}` stands for.
    pub versions: BTreeMap<String, String>,
    /// The processors that it has images for, each with the word that `{arch}` stands for.
    pub arch: BTreeMap<String, String>,
    /// The template of the page that lists what there is.
    pub index: Option<String>,
    /// The template of what that page holds for each image.
    pub listed: Option<String>,
    /// The regular expression of what `{stamp}` stands for in `listed`: a date, or a number.
    pub stamp: Option<String>,
    /// The template of an image's address.
    pub image: String,
    /// The template of the address of the newest image, for where no page lists them.
    pub moving: Option<String>,
    /// The template of the file with digests, in the image's folder.
    pub sums: String,
    /// The user that the system has by itself.
    pub user: Option<String>,
    /// The shell of that user; `None` = bash.
    pub shell: Option<String>,
    /// How a guest gets its login at its first boot; `None` = as the guest says.
    pub seed: Option<String>,
    /// The firmware that it needs; `None` = as the guest says.
    pub firmware: Option<String>,
    /// What stands for the scheme and host of the addresses.
    pub mirror: Option<String>,
}

/// An image that the catalogue knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedImage {
    /// The name, with the version that is written in the catalogue: `debian:12` also where `debian:bookworm` was asked for.
    pub name: String,
    /// The version.
    pub version: String,
    /// The word for the version in addresses.
    pub release: String,
    /// Where its images are found.
    pub entry: CatalogueEntry,
    /// The file that holds what it was resolved to.
    pub lock: PathBuf,
}

impl Catalogue {
    /// Returns whether a word has the form of a name: `debian:12`.
    pub fn is_name(word: &str) -> bool {
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        word.split_once(':').is_some_and(|(name, version)| is_part(name) && is_part(version))
    }

    /// Looks a name up: the version, or the word for it. `lock` = the file that holds what names were resolved to. The error is a
    /// sentence.
    pub fn find(&self, name: &str, lock: PathBuf) -> Result<NamedImage, String> {
        let (system, wanted) = name.split_once(':').unwrap_or((name, ""));
        let list = |words: Vec<&String>| words.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(entry) = self.0.get(system) else {
            return Err(format!("no image is called `{system}` (known: {})", list(self.0.keys().collect())));
        };
        let found = entry.versions.iter().find(|(version, release)| *version == wanted || *release == wanted);
        let Some((version, release)) = found else {
            let known = list(entry.versions.keys().collect());
            return Err(format!("`{system}` has no version `{wanted}` (known: {known})"));
        };
        Ok(NamedImage {
            name: format!("{system}:{version}"),
            version: version.clone(),
            release: release.clone(),
            entry: entry.clone(),
            lock,
        })
    }
}

impl NamedImage {
    /// Returns a template with its words filled in; `arch` = the processor as vmdeck names it. The error is a sentence.
    pub fn fill(&self, template: &str, arch: &str, others: &[(&str, &str)]) -> Result<String, String> {
        let Some(word) = self.entry.arch.get(arch) else {
            return Err(format!("`{}` has no image for {arch}", self.name));
        };
        let mut out =
            template.replace("{version}", &self.version).replace("{release}", &self.release).replace("{arch}", word);
        for (name, text) in others {
            out = out.replace(&format!("{{{name}}}"), text);
        }
        Ok(out)
    }

    /// Returns an address at the mirror, if there is one: it stands for the scheme and the host.
    pub fn mirrored(&self, url: &str) -> String {
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
        match (&self.entry.mirror, path) {
            (Some(mirror), Some(path)) => format!("{}/{path}", mirror.trim_end_matches('/')),
            _ => url.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let entry = CatalogueEntry {
            versions: pairs(&[("12", "bookworm"), ("13", "trixie")]),
            arch: pairs(&[("x86_64", "amd64")]),
            image: "https://images.example/cloud/{release}/d-{version}-{arch}-{stamp}.qcow2".to_owned(),
            ..CatalogueEntry::default()
        };
        Catalogue(BTreeMap::from([("debian".to_owned(), entry)]))
    }

    #[test]
    fn a_name_is_found_by_its_version_and_by_the_word_for_it() {
        let lock = PathBuf::from(LOCK_FILE);
        for name in ["debian:12", "debian:bookworm"] {
            let found = catalogue().find(name, lock.clone()).expect(name);
            assert_eq!((found.name.as_str(), found.release.as_str()), ("debian:12", "bookworm"));
        }
        for (name, why) in [("debian:9", "(known: 12, 13)"), ("plan9:4", "(known: debian)"), ("debian:", "no version")]
        {
            assert!(catalogue().find(name, lock.clone()).expect_err(name).contains(why), "{name}");
        }
        for (word, is_name) in [
            ("debian:12", true),
            ("a.b-c:1.2_3", true),
            ("debian", false),
            ("./a:b", false),
            (":1", false),
            ("a:", false),
        ] {
            assert_eq!(Catalogue::is_name(word), is_name, "{word}");
        }
    }

    #[test]
    fn templates_are_filled_and_a_mirror_stands_for_the_host() {
        let mut image = catalogue().find("debian:12", PathBuf::new()).expect("known");
        let url = image.fill(&image.entry.image, "x86_64", &[("stamp", "20260101-1")]).expect("filled");
        assert_eq!(url, "https://images.example/cloud/bookworm/d-12-amd64-20260101-1.qcow2");
        assert!(image.fill("", "riscv64", &[]).expect_err("no such").contains("no image for riscv64"));
        assert_eq!(image.mirrored(&url), url);
        image.entry.mirror = Some("https://mirror.example/images/".to_owned());
        assert_eq!(image.mirrored(&url), "https://mirror.example/images/cloud/bookworm/d-12-amd64-20260101-1.qcow2");
    }
}
