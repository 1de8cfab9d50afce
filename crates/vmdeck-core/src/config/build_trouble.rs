//! The kinds of trouble that are looked for: the library, what the config adds and changes, and what a guest leaves out.

use super::{build::Build, tree::Origin};
use crate::trouble;
use vmdeck_model::{
    guest::Os,
    trouble::{TroubleEnd, TroubleKind, TroubleSeverity},
};

/// The word that leaves all kinds out.
const ALL: &str = "*";

impl Build<'_> {
    /// Returns every kind that the config knows; those of its own are tried first.
    pub(super) fn troubles(&mut self) -> Vec<TroubleKind> {
        let mut library = trouble::built_in();
        let mut own = Vec::new();
        for (name, origin) in self.trouble_names() {
            let full = |key: &str| format!("trouble.{name}.{key}");
            let any = |key: &str| format!("trouble.*.{key}");
            let place = library.iter().position(|kind| kind.id == name);
            let mut kind = place.map_or_else(
                || TroubleKind {
                    id: name.clone(),
                    category: "own".to_owned(),
                    severity: TroubleSeverity::Fail,
                    ends: TroubleEnd::Nothing,
                    regex: String::new(),
                },
                |place| library[place].clone(),
            );
            if let Some(regex) = self.text(&full("pattern"), &any("pattern")) {
                kind.regex = regex;
            }
            if let Some(category) = self.text(&full("category"), &any("category")) {
                kind.category = category;
            }
            if let Some(word) = self.text(&full("severity"), &any("severity")) {
                kind.severity = TroubleSeverity::of_word(&word);
            }
            if let Some(word) = self.text(&full("ends"), &any("ends")) {
                kind.ends = TroubleEnd::of_word(&word);
            }
            if kind.regex.is_empty() {
                let text = "it is missing, or empty, which would match every line";
                self.problem(&origin, &full("pattern"), text, Some("docs/trouble.md lists the kinds that need none"));
            } else if let Some(why) = trouble::refuse(&kind.regex) {
                self.problem(&origin, &full("pattern"), format!("it is no regular expression: {why}"), None);
            }
            match place {
                Some(place) => library[place] = kind,
                None => own.push(kind),
            }
        }
        own.extend(library);
        own
    }

    /// Returns the kinds that are looked for on a guest's console.
    pub(super) fn troubles_of(
        &mut self,
        guest: &str,
        origin: &Origin,
        os: Os,
        all: &[TroubleKind],
    ) -> Vec<TroubleKind> {
        let path = format!("guests.{guest}.trouble_ignore");
        let ignored = self.ignored_troubles(&path, "guests.*.trouble_ignore", origin, all);
        // The library knows systems with Linux.
        if os != Os::Linux || ignored.iter().any(|word| word == ALL) {
            return Vec::new();
        }
        all.iter().filter(|kind| !ignored.contains(&kind.id) && !ignored.contains(&kind.category)).cloned().collect()
    }

    /// Returns the kinds and categories that a key leaves out.
    pub(super) fn ignored_troubles(
        &mut self,
        path: &str,
        pattern: &str,
        origin: &Origin,
        all: &[TroubleKind],
    ) -> Vec<String> {
        let ignored = self.texts(path, pattern);
        for word in &ignored {
            if word != ALL && !all.iter().any(|kind| kind.id == *word || kind.category == *word) {
                let text = format!("`{word}` is no kind and no category of trouble");
                self.problem(origin, path, text, Some("`vmdeck trouble list` lists them"));
            }
        }
        ignored
    }
}
