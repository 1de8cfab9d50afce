//! The digest of what a config says of its guests and suites: by it the records of several hosts are known to belong together.

use super::{Values, show};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use vmdeck_model::digest::hex;

/// The sections that decide what is tested and where; how a host is used is its own matter.
const SECTIONS: [&str; 3] = ["guests.", "suites.", "trouble."];

/// Returns the digest: the same wherever the same files lie, and without any secret.
pub(super) fn of(values: &Values, folder: &Path) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let home = etcetera::home_dir().ok();
    let shown = |place: PathBuf, short| (place.display().to_string(), short);
    let places: Vec<(String, &str)> =
        std::iter::once(shown(folder, ".")).chain(home.map(|home| shown(home, "~"))).collect();
    let mut sum = Sha256::new();
    for (key, (value, _)) in values.iter().filter(|(key, _)| SECTIONS.iter().any(|section| key.starts_with(section))) {
        let mut text = show::toml(value);
        for (place, short) in &places {
            if text.contains(place) {
                text = text.replace(place, short);
            }
        }
        sum.update(format!("{key} = {text}\n"));
    }
    hex(&sum.finalize())
}
