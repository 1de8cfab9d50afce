//! The tests of a Debian package: `debian/tests/control`.
//!
//! Facts, of autopkgtest's specification: `Depends` of a paragraph names packages, `@` those that are built of the source; each
//! test starts in the root of the source tree. Which tests there are, and what they want, is read in the guest at each run.

use super::{
    draft::{CaseDraft, ConfigDraft, SuiteDraft},
    yaml,
};
use crate::app::init::guest::CODE;
use std::{collections::BTreeSet, path::Path};
use vmdeck_model::error::{Fault, Result};

/// Takes the tests of a package over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let text = yaml::text(path)?;
    let fields = |name: &str| -> Vec<String> {
        let (mut out, mut is_open) = (Vec::new(), false);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let goes_on = line.starts_with([' ', '\t']) && is_open;
            let own = line.split_once(':').filter(|(field, _)| field.eq_ignore_ascii_case(name));
            is_open = goes_on || own.is_some();
            if let Some(value) = own.map(|(_, value)| value).or(goes_on.then_some(line)) {
                out.extend(value.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()));
            }
        }
        out
    };
    if fields("Tests").is_empty() && fields("Test-Command").is_empty() {
        return Err(Fault::user(format!("cannot take `{}` over", path.display())).because("it names no test"));
    }
    draft.guest("debian", "debian-13", CODE);
    let mut packages = BTreeSet::new();
    let mut is_built = fields("Depends").is_empty();
    for need in fields("Depends") {
        let first = need.split('|').next().unwrap_or_default();
        let name = first.split(['(', '[', '<']).next().unwrap_or_default().trim();
        match name {
            "@" | "@builddeps@" | "@recommends@" => is_built = true,
            _ if name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c)) && !name.is_empty() => {
                packages.insert(name.to_owned());
            }
            other => draft.note(format!("the dependency `{other}`")),
        }
    }
    let mut setup = vec!["apt-get update".to_owned()];
    if !packages.is_empty() {
        let names: Vec<String> = packages.into_iter().collect();
        setup.push(format!("apt-get install -y --no-install-recommends {}", names.join(" ")));
    }
    if is_built {
        draft.note("the packages that are built of the source (`@`): build and install them in the setup");
    }
    for (field, what) in [("Features", "features"), ("Classes", "classes"), ("Architecture", "architectures")] {
        if !fields(field).is_empty() {
            draft.note(format!("`{field}` of some tests: their {what} are not looked at, but for `test-name`"));
        }
    }
    draft.suite(SuiteDraft {
        name: "autopkgtest".into(),
        setup,
        run_as_root: true,
        env: vec![("DEBIAN_FRONTEND".into(), "noninteractive".into())],
        timeout: Some("10000s".into()),
        cases: vec![CaseDraft { name: "tests".into(), discover: Some("autopkgtest"), ..CaseDraft::default() }],
        ..SuiteDraft::default()
    });
    Ok(())
}
