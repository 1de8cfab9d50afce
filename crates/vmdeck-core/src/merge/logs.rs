//! The logs and artifacts of all records in the folders of one: a case's where they always are, a machine's under its own name where
//! several records had one for the same guest.

use super::source::{self, SourceRecord};
use crate::host::lockdir;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{ids::GuestId, quantity::show_count};

/// The folders of a record that hold a folder for each guest.
const BY_GUEST: [&str; 2] = ["guests", "artifacts"];

/// Copies or links the logs; returns what was left out, as sentences.
pub(super) fn copy(
    sources: &[SourceRecord],
    out: &Path,
    link: bool,
    stop: &CancellationToken,
) -> io::Result<Vec<String>> {
    let shared = source::shared_guests(sources);
    let mut left_out = 0;
    // Of a case that several attempts have logs of, the last attempt's stand where they are looked for.
    let order = sources.iter().filter(|source| !source.superseded);
    for source in order.chain(sources.iter().filter(|source| source.superseded)) {
        for kind in BY_GUEST {
            let from = source.folder.join(kind);
            for name in names(&from)? {
                let is_folder = from.join(&name).symlink_metadata()?.is_dir();
                let Some(guest) = GuestId::try_from(name.clone()).ok().filter(|_| is_folder) else {
                    left_out += 1;
                    continue;
                };
                let is_shared = shared.contains(source.told_as(&guest));
                let machine = guest.of_origin(&source.origin).unwrap_or_else(|_| guest.clone());
                let to = out.join(kind);
                let places = GuestPlaces {
                    own: to.join(&name),
                    machine: is_shared.then(|| to.join(machine.as_str())),
                    of_cases: kind == "artifacts",
                };
                left_out += tree(&from.join(&name), Path::new(""), &places, (link, stop))?;
            }
        }
    }
    let told = format!(
        "{} in the folders of logs left out: only folders and regular files are merged",
        show_count(left_out, "item")
    );
    Ok(if left_out > 0 { vec![told] } else { Vec::new() })
}

/// Where what a record has of a guest goes.
struct GuestPlaces {
    /// The guest's folder in the merged record.
    own: PathBuf,
    /// The folder of this record's machine, where others had one as well.
    machine: Option<PathBuf>,
    /// Whether files that are in no folder of a suite are of cases as well.
    of_cases: bool,
}

impl GuestPlaces {
    /// Returns where a file goes: what is of the machine, and what another record has as well, to the machine's own folder.
    fn of(&self, below: &Path) -> PathBuf {
        let own = self.own.join(below);
        let Some(machine) = &self.machine else { return own };
        // What a suite does around its cases, such as `+setup`, is done in each machine.
        let is_around = below.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"+"));
        let is_of_machine = !self.of_cases && (below.components().count() == 1 || is_around);
        if is_of_machine || own.symlink_metadata().is_ok() { machine.join(below) } else { own }
    }
}

/// Copies what is below a folder; returns how many entries are neither folders nor files.
fn tree(
    root: &Path,
    below: &Path,
    places: &GuestPlaces,
    (link, stop): (bool, &CancellationToken),
) -> io::Result<usize> {
    // A path that ends in a separator would lead through a link.
    let folder = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) };
    let mut left_out = 0;
    for name in names(&folder)? {
        let inner = below.join(&name);
        let kind = folder.join(&name).symlink_metadata()?.file_type();
        if kind.is_dir() {
            left_out += tree(root, &inner, places, (link, stop))?;
        } else if kind.is_file() {
            if stop.is_cancelled() {
                // The events come next, and say it.
                return Ok(left_out);
            }
            file(&folder, &name, &places.of(&inner), link)?;
        } else {
            left_out += 1;
        }
    }
    Ok(left_out)
}

fn file(folder: &Path, name: &str, to: &Path, link: bool) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        vmdeck_files::make_folders(parent)?;
    }
    if link && fs::hard_link(folder.join(name), to).is_ok() {
        return Ok(());
    }
    // By the open folder and no link: whoever made the record chooses names, and nothing beyond it.
    let mut from = vmdeck_files::open_below(lockdir::open(folder)?, name)?;
    let mut target = vmdeck_files::create_new(to)?;
    io::copy(&mut from, &mut target).map(drop)
}

/// Returns the names in a folder, sorted; none where there is no such folder. A name that is no text is left where it is.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    if !folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> =
        fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
