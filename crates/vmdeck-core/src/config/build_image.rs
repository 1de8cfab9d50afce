//! Checked values to what a guest boots and which folders of this host it sees.

use super::{build::Build, keys::BACKEND, tree::Origin};
use std::path::{Component, Path, PathBuf};
use vmdeck_model::{
    catalogue::{Catalogue, CatalogueEntry, LOCK_FILE},
    digest::Digest,
    guest::{Firmware, Os, Seed, Share, ShareBy},
    image::{BuildWay, Image, Recipe, RemoteImage},
    key::Value,
};

impl Build<'_> {
    /// Returns the system that a guest boots, if `image` says it.
    pub(super) fn image(
        &mut self,
        guest: &str,
        origin: &Origin,
        backend: &str,
        catalogue: &Catalogue,
    ) -> Option<Image> {
        let path = format!("guests.{guest}.image");
        let Some(Value::Image(image)) = self.value(&path, "guests.*.image") else { return None };
        if backend != BACKEND {
            let why = format!("the backend `{backend}` does not boot images; only `{BACKEND}` does");
            self.problem(origin, &path, why, None);
            return None;
        }
        if self.is_written(&format!("guests.{guest}.qemu.image")) {
            self.problem(origin, &path, "`image` and `qemu.image` say two things", Some("keep one of them"));
        }
        match image {
            Image::Built(recipe) => {
                let script = recipe.script.as_ref().map(|script| self.resolve_path(script));
                let way = match &recipe.way {
                    BuildWay::Packages => BuildWay::Packages,
                    BuildWay::Boot(base) => BuildWay::Boot(self.found(guest, origin, catalogue, base.clone())?),
                };
                Some(Image::Built(Box::new(Recipe { script, way, ..*recipe })))
            }
            image => self.found(guest, origin, catalogue, image),
        }
    }

    /// Returns an image with all that the config knows of where it is.
    fn found(&mut self, guest: &str, origin: &Origin, catalogue: &Catalogue, image: Image) -> Option<Image> {
        Some(match image {
            Image::File(path) => Image::File(self.resolve_path(&path)),
            Image::Remote(image) => Image::Remote(self.remote(guest, origin, image.url)),
            Image::Named(image) => match catalogue.find(&image.name, self.resolve_path(Path::new(LOCK_FILE))) {
                Ok(named) => {
                    self.no_digest(guest, origin);
                    Image::Named(Box::new(named))
                }
                Err(why) => {
                    let build = format!(
                        "a file of that name is `./{}`; `vmdeck image list --names` lists what is known",
                        image.name
                    );
                    self.problem(origin, &format!("guests.{guest}.image"), why, Some(&build));
                    return None;
                }
            },
            image @ (Image::Host | Image::Built(_)) => image,
        })
    }

    /// Returns an image that is fetched, with the digest that it must have.
    fn remote(&mut self, guest: &str, origin: &Origin, url: String) -> RemoteImage {
        let path = format!("guests.{guest}.image_sha256");
        let text = self.text(&path, "guests.*.image_sha256");
        let digest = match text.as_deref().map(Digest::parse).transpose() {
            Ok(digest) => digest,
            Err(why) => {
                self.problem(origin, &path, why, None);
                None
            }
        };
        let key = format!("guests.{guest}.image");
        let unverified = self.flag(&format!("guests.{guest}.image_unverified"), "guests.*.image_unverified");
        if text.is_none() && !unverified {
            let text = "an image that is fetched needs its digest";
            let hint = "set `image_sha256`; or `image_unverified = true`, which believes what comes first";
            self.problem(origin, &key, text, Some(hint));
        }
        if text.is_none() && url.starts_with("http:") {
            self.problem(origin, &key, "without a digest only an address of the kind https is fetched", None);
        }
        RemoteImage { url, digest }
    }

    /// An image with a name has its digest in the lock file.
    fn no_digest(&mut self, guest: &str, origin: &Origin) {
        for key in ["image_sha256", "image_unverified"] {
            let path = format!("guests.{guest}.{key}");
            if self.is_written(&path) {
                let text = format!("the digest of an image with a name is in `{LOCK_FILE}`");
                self.problem(origin, &path, text, Some("give the address of the image instead of its name"));
            }
        }
    }

    /// Returns what a guest is given at its first boot.
    pub(super) fn seed(&mut self, guest: &str, origin: &Origin, image: Option<&Image>) -> Seed {
        let path = format!("guests.{guest}.seed");
        let word = self.text(&path, "guests.*.seed").unwrap_or_default();
        // Somebody who has a login needs none.
        let of_image = if self.has_own_login(guest) {
            None
        } else {
            self.of_catalogue(&path, "defaults.seed", image, |entry| entry.seed.as_deref())
        };
        let word = of_image.unwrap_or(word);
        let has_image = image.is_some_and(|image| *image != Image::Host);
        let seed = match word.as_str() {
            "cloud-init" => Seed::CloudInit,
            "credentials" => Seed::Credentials,
            "ignition" => Seed::Ignition,
            "auto" if has_image && !self.has_own_login(guest) => Seed::Auto,
            _ => Seed::None,
        };
        if seed != Seed::None && !has_image {
            self.problem(origin, &path, "only a guest whose `image` is a disk image gets a seed", None);
        }
        if seed != Seed::None && self.has_own_login(guest) {
            let text = "the guest gets a key by its seed, and `ssh` has a key, password or agent of its own";
            self.problem(origin, &path, text, Some("keep one of them; `seed = \"none\"` keeps that of `ssh`"));
        }
        seed
    }

    /// Returns the file with what a guest gets at its first boot besides.
    pub(super) fn user_data(&mut self, guest: &str, origin: &Origin, seed: Seed) -> Option<PathBuf> {
        let path = format!("guests.{guest}.user_data");
        let Some(Value::Path(file)) = self.value(&path, "guests.*.user_data") else { return None };
        if !matches!(seed, Seed::Auto | Seed::CloudInit | Seed::Ignition) {
            let text = "nothing would read it: it goes with the seed of cloud-init or Ignition";
            self.problem(origin, &path, text, Some("set `seed = \"cloud-init\"`, and leave the login to it"));
        }
        Some(file)
    }

    /// Returns what the catalogue says of an image with a name, where the config does not say it.
    fn of_catalogue(
        &mut self,
        path: &str,
        default: &str,
        image: Option<&Image>,
        what: impl Fn(&CatalogueEntry) -> Option<&str>,
    ) -> Option<String> {
        let named = image?.named()?;
        let text = what(&named.entry)?.to_owned();
        if self.is_written(path) || self.is_written(default) {
            return None;
        }
        self.take_over(path, &text, &named.name);
        Some(text)
    }

    /// Returns whether the config says how to log in to a guest by ssh.
    fn has_own_login(&self, guest: &str) -> bool {
        ["key", "password", "agent"].iter().any(|key| {
            self.is_written(&format!("guests.{guest}.ssh.{key}")) || self.is_written(&format!("defaults.ssh.{key}"))
        })
    }

    /// Returns the firmware of a guest.
    pub(super) fn firmware(&mut self, guest: &str, origin: &Origin, backend: &str, image: Option<&Image>) -> Firmware {
        let path = format!("guests.{guest}.firmware");
        let word = self.text(&path, "guests.*.firmware").unwrap_or_default();
        let of_image = self.of_catalogue(&path, "defaults.firmware", image, |entry| entry.firmware.as_deref());
        let word = of_image.unwrap_or(word);
        if self.is_written(&path) && backend != BACKEND {
            self.problem(origin, &path, format!("the backend `{backend}` has no firmware to choose"), None);
        }
        if self.is_written(&path) && self.is_written(&format!("guests.{guest}.qemu.firmware")) {
            self.problem(origin, &path, "`firmware` and `qemu.firmware` say two things", Some("keep one of them"));
        }
        match word.as_str() {
            "auto" => Firmware::Auto,
            "none" | "bios" => Firmware::Bios,
            "uefi" => Firmware::Uefi,
            "uefi-secure" => Firmware::UefiSecure,
            path => Firmware::File(self.resolve_path(Path::new(path))),
        }
    }

    /// Returns the folders of this host that a guest sees, in the order in which they are mounted: a folder before those below.
    pub(super) fn shares(&mut self, guest: &str, origin: &Origin, backend: &str, os: Os) -> Vec<Share> {
        let mut out: Vec<Share> = Vec::new();
        for index in 0.. {
            let full = |key: &str| format!("guests.{guest}.shares.{index}.{key}");
            let any = |key: &str| format!("guests.*.shares.[].{key}");
            if !["path", "to", "read_only", "by"].iter().any(|key| self.is_written(&full(key))) {
                break;
            }
            let shown = format!("guests.{guest}.shares[{index}]");
            let Some(Value::Path(path)) = self.value(&full("path"), &any("path")) else {
                self.problem(origin, &shown, "`path` is missing", Some("name the folder of this host"));
                continue;
            };
            let path = without_dots(&path);
            let to = self.text(&full("to"), &any("to")).unwrap_or_else(|| path.display().to_string());
            if !is_inner(&to) {
                self.problem(
                    origin,
                    &full("to"),
                    format!("`{to}` is not a folder to mount at"),
                    Some("give an absolute path without `..`"),
                );
            }
            // As the guest's kernel reads it: one folder has one name.
            let to: String = Path::new(&to).components().collect::<PathBuf>().to_string_lossy().into_owned();
            if out.iter().any(|other| other.to == to) {
                self.problem(origin, &full("to"), format!("two shares would be mounted at `{to}`"), None);
            }
            out.push(Share {
                read_only: self.value(&full("read_only"), &any("read_only")) != Some(Value::Bool(false)),
                by: ShareBy::of_word(&self.text(&full("by"), &any("by")).unwrap_or_default()),
                path,
                to,
            });
        }
        if !out.is_empty() && (backend != BACKEND || os != Os::Linux) {
            let key = format!("guests.{guest}.shares");
            self.problem(origin, &key, "only Linux guests of the backend `qemu` have shares", None);
        }
        out.sort_by_key(|share| Path::new(&share.to).components().count());
        out
    }
}

/// Returns a path without `.` and with each `..` taken away together with what stands before it: a mount point has to be named as
/// it is.
fn without_dots(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Returns whether a path of the guest is absolute, is not the root itself, and goes only down.
fn is_inner(to: &str) -> bool {
    let parts: Vec<Component<'_>> = Path::new(to).components().collect();
    to.starts_with('/') && parts.len() > 1 && parts[1..].iter().all(|part| matches!(part, Component::Normal(_)))
}
