//! How a machine is started from a snapshot: the command line of the frozen one, with places for what each machine has of its own.

use super::{super::argv::path, RECIPE};
use crate::{backend::request::CreateRequest, host::files};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Stand for what each machine has of its own; no command line has such a character.
const PRIVATE: &str = "\u{1}private\u{1}";
const RECORD: &str = "\u{1}record\u{1}";
const NAME: &str = "\u{1}name\u{1}";
const UUID: &str = "\u{1}uuid\u{1}";
const MEMORY: &str = "\u{1}memory\u{1}";

/// How a machine is started from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct ResumeRecipe {
    /// The program.
    pub(in super::super) binary: PathBuf,
    /// Its arguments, with places.
    arguments: Vec<String>,
    /// The guest's memory in bytes.
    pub(in super::super) memory: u64,
    /// Whether it has a disk.
    pub(in super::super) has_disk: bool,
}

impl ResumeRecipe {
    /// Returns the recipe of a machine with this command line; `memory` = the object in it that is the guest's memory.
    pub(in super::super) fn of(
        binary: &Path,
        arguments: &[String],
        request: &CreateRequest<'_>,
        memory: Option<&str>,
        has_disk: bool,
    ) -> Self {
        let places = [
            // Without one, nothing has this text.
            (memory.unwrap_or(MEMORY), MEMORY),
            (&path(request.private_dir), PRIVATE),
            (&path(request.record_dir), RECORD),
            (request.name, NAME),
            (request.uuid, UUID),
        ];
        let with_places =
            |word: &String| places.iter().fold(word.clone(), |word, (own, place)| word.replace(own, place));
        Self {
            binary: binary.to_owned(),
            arguments: arguments.iter().map(with_places).collect(),
            memory: (request.guest.memory >> 20).max(1) << 20,
            has_disk,
        }
    }

    /// Returns the command line of a machine with this memory.
    pub(in super::super) fn arguments(&self, request: &CreateRequest<'_>, memory: &str) -> Vec<String> {
        let own = [
            (MEMORY, memory),
            (PRIVATE, &path(request.private_dir)),
            (RECORD, &path(request.record_dir)),
            (NAME, request.name),
            (UUID, request.uuid),
        ];
        let filled = |word: &String| own.iter().fold(word.clone(), |word, (place, own)| word.replace(place, own));
        self.arguments.iter().map(filled).collect()
    }

    /// Reads the recipe of a snapshot.
    pub(in super::super) fn read(folder: &Path) -> io::Result<Self> {
        let text = vmdeck_files::read_text(&folder.join(RECIPE), vmdeck_files::SMALL)?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        files::write_atomic(&folder.join(RECIPE), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::GuestMemory, *};
    use crate::backend::{request::Lifetime, sample};

    fn request<'a>(guest: &'a vmdeck_model::guest::Guest, of: [&'a str; 4]) -> CreateRequest<'a> {
        let [name, uuid, private, record] = of;
        CreateRequest {
            guest,
            name,
            uuid,
            private_dir: Path::new(private),
            record_dir: Path::new(record),
            lifetime: Lifetime::TiedToUs,
            services: &[],
            network: None,
            freezable: true,
            memory: None,
        }
    }

    #[test]
    fn each_machine_has_what_is_its_own() {
        let guest = sample::guest(&[]);
        let memory = GuestMemory::empty(1 << 20).expect("memory");
        let line = |name: &str, uuid: &str, private: &str, record: &str, memory: &str| -> Vec<String> {
            [
                format!("{name},debug-threads=on"),
                uuid.to_owned(),
                format!("unix:{},server=on", path(&Path::new(private).join("qmp.sock"))),
                format!("socket,logfile={}", path(&Path::new(record).join("console.log"))),
                memory.to_owned(),
                "console=ttyS0 quiet".to_owned(),
            ]
            .into()
        };
        let (one, two) = (["vm-1", "u-1", "/s/a,b", "/r/1"], ["vm-2", "u-2", "/s/c", "/r/with, comma"]);
        let first = line(one[0], one[1], one[2], one[3], &memory.object());
        let recipe =
            ResumeRecipe::of(Path::new("/bin/qemu"), &first, &request(&guest, one), Some(&memory.object()), true);
        let home = tempfile::tempdir().expect("tempdir");
        recipe.write(home.path()).expect("written");
        let read = ResumeRecipe::read(home.path()).expect("read");
        assert_eq!(read, recipe);
        assert_eq!(read.arguments(&request(&guest, one), &memory.object()), first, "there and back");
        assert_eq!(read.arguments(&request(&guest, two), "own"), line(two[0], two[1], two[2], two[3], "own"));
    }
}
