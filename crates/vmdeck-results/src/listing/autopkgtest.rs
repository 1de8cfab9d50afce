//! The tests of a Debian package: `debian/tests/control`.
//!
//! Facts: the specification of autopkgtest (README.package-tests). What a test depends on is installed by whoever prepares the guest.

use super::listed::{ListedTest, Quote};

/// The command that writes the file.
pub(super) const LIST: &str = "cat debian/tests/control";
/// What a test may be told that changes nothing where it has a guest of its own.
const MET: &[&str] = &[
    "allow-stderr",
    "breaks-testbed",
    "flaky",
    "isolation-container",
    "isolation-machine",
    "needs-internet",
    "needs-recommends",
    "needs-root",
    "needs-sudo",
    "rw-build-tree",
    "skip-not-installable",
    "skippable",
    "superficial",
];
/// The exit code of a test that says that it was skipped.
const SKIPPED: i32 = 77;

/// One paragraph of the file.
#[derive(Default)]
struct Paragraph(Vec<(String, String)>);

impl Paragraph {
    fn get(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value.as_str())
    }

    fn words(&self, field: &str) -> Vec<&str> {
        let words = self.get(field).unwrap_or_default().split([',', ' ', '\t', '\n']);
        words.filter(|word| !word.is_empty()).collect()
    }
}

pub(super) fn read(text: &str, quote: Quote<'_>) -> Result<Vec<ListedTest>, String> {
    let mut out = Vec::new();
    let mut commands = 0;
    for paragraph in paragraphs(text)? {
        let folder = paragraph.get("Tests-Directory").unwrap_or("debian/tests");
        match (paragraph.get("Tests"), paragraph.get("Test-Command")) {
            (Some(_), None) => {
                for name in paragraph.words("Tests") {
                    if !is_name(name) {
                        return Err(format!("`{name}` cannot be a test"));
                    }
                    let file = quote(&format!("{folder}/{name}"));
                    let script = format!("chmod +x {file}\n./{file}");
                    out.push(test(&paragraph, name.to_owned(), &script));
                }
            }
            (None, Some(command)) => {
                commands += 1;
                let features = paragraph.words("Features");
                let named = features.iter().find_map(|feature| feature.strip_prefix("test-name="));
                let name = named.map_or_else(|| format!("command{commands}"), str::to_owned);
                out.push(test(&paragraph, name, command));
            }
            (Some(_), Some(_)) => return Err("a paragraph has `Tests` and `Test-Command`".to_owned()),
            (None, None) => return Err("a paragraph has neither `Tests` nor `Test-Command`".to_owned()),
        }
    }
    let mut names: Vec<&str> = out.iter().map(|test| test.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("`{}` is listed twice", pair[0])),
        None if out.is_empty() => Err("debian/tests/control has no tests".to_owned()),
        None => Ok(out),
    }
}

fn test(paragraph: &Paragraph, name: String, script: &str) -> ListedTest {
    let restrictions = paragraph.words("Restrictions");
    let has = |word: &str| restrictions.contains(&word);
    let unmet = restrictions.iter().find(|word| !MET.contains(word));
    ListedTest {
        name,
        script: format!(
            "AUTOPKGTEST_TMP=$(mktemp -d)\nexport AUTOPKGTEST_TMP ADTTMP=\"$AUTOPKGTEST_TMP\"\n\
             export AUTOPKGTEST_ARTIFACTS=\"$VMDECK_ARTIFACTS\" ADT_ARTIFACTS=\"$VMDECK_ARTIFACTS\"\n{script}\n"
        ),
        as_root: has("needs-root"),
        is_silent: !has("allow-stderr"),
        skip: has("skippable").then_some(SKIPPED),
        skipped: unmet.map(|word| format!("its restriction `{word}` is not met here")),
    }
}

/// Returns whether a name stays in the folder of the tests.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-._/".contains(c);
    name.chars().all(is_plain) && !name.starts_with('/') && !name.split('/').any(|part| part == "..")
}

fn paragraphs(text: &str) -> Result<Vec<Paragraph>, String> {
    let mut out: Vec<Paragraph> = vec![Paragraph::default()];
    for line in text.lines().map(str::trim_end).filter(|line| !line.starts_with('#')) {
        let last = out.len() - 1;
        if line.is_empty() {
            if !out[last].0.is_empty() {
                out.push(Paragraph::default());
            }
        } else if line.starts_with([' ', '\t']) {
            let Some((_, value)) = out[last].0.last_mut() else { return Err(format!("`{line}` goes on with nothing")) };
            value.push('\n');
            value.push_str(line.trim_start());
        } else {
            let Some((name, value)) = line.split_once(':') else { return Err(format!("`{line}` is no field")) };
            if out[last].get(name).is_some() {
                return Err(format!("a paragraph has `{name}` twice"));
            }
            out[last].0.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    out.retain(|paragraph| !paragraph.0.is_empty());
    Ok(out)
}
