//! `vmdeck.images.lock`: the address and digest that each name of an image stands for. It lies beside the config and is committed with
//! it, so that everybody boots the same bytes until somebody asks for newer ones.

use crate::host::{clock, files};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};
use vmdeck_model::{
    digest::Digest,
    error::{Fault, Result},
    image::RemoteImage,
};

/// The form of the file.
const FORM: u32 = 1;
const HEAD: &str =
    "# What the names of images stand for. Made by vmdeck; commit it. `vmdeck image update` looks for newer ones.\n";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockFile {
    version: u32,
    #[serde(default)]
    image: Vec<LockedImage>,
}

/// What one name stands for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedImage {
    name: String,
    arch: String,
    url: String,
    digest: String,
    /// The day when it was looked up.
    resolved: String,
}

impl LockFile {
    /// Reads the file; one that is not there is empty.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let cannot = || Fault::user(format!("cannot use `{}`", path.display()));
        let text = match vmdeck_files::read_text(path, vmdeck_files::LARGE) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { version: FORM, image: Vec::new() }),
            Err(e) => return Err(cannot().because(e)),
        };
        let hint = "restore it from the repository; or remove it, and vmdeck looks every name up anew";
        let lock_file: Self = toml::from_str(&text).map_err(|e| {
            let before = e.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
            cannot().because(format!("line {}: {}", before.matches('\n').count() + 1, e.message())).hint(hint)
        })?;
        if lock_file.version != FORM {
            return Err(cannot()
                .because(format!("it has the form {}, and this vmdeck knows {FORM}", lock_file.version))
                .hint("use the vmdeck that wrote it, or a newer one"));
        }
        for image in &lock_file.image {
            let why = match Digest::parse(&image.digest) {
                Err(why) => Some(why),
                Ok(_) if !["https://", "http://"].iter().any(|kind| image.url.starts_with(kind)) => {
                    Some(format!("`{}` is no address of the kind https", image.url))
                }
                Ok(_) => None,
            };
            if let Some(why) = why {
                return Err(cannot().because(format!("`{}`: {why}", image.name)).hint(hint));
            }
        }
        Ok(lock_file)
    }

    /// Returns what a name stands for.
    pub(super) fn get(&self, name: &str, arch: &str) -> Option<RemoteImage> {
        let image = self.image.iter().find(|image| image.name == name && image.arch == arch)?;
        Some(RemoteImage { url: image.url.clone(), digest: Some(Digest::parse(&image.digest).ok()?) })
    }

    /// Sets what a name stands for.
    pub(super) fn set(&mut self, name: &str, arch: &str, url: &str, digest: &Digest) {
        self.image.retain(|image| image.name != name || image.arch != arch);
        self.image.push(LockedImage {
            name: name.to_owned(),
            arch: arch.to_owned(),
            url: url.to_owned(),
            digest: digest.to_string(),
            resolved: clock::utc().format("%Y-%m-%d").to_string(),
        });
        // The same whoever writes it: a change of one name is a change of one place.
        self.image.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    }

    /// Writes the file, in one step.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        files::write_shared(path, format!("{HEAD}{text}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_named_with_its_line() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("vmdeck.images.lock");
        let mut lock_file = LockFile::read(&path).expect("an absent one is empty");
        let (old, new) = (Digest::of_bytes(&[1; 32]), Digest::of_bytes(&[2; 64]));
        lock_file.set("ubuntu:24.04", "x86_64", "https://a.example/u", &old);
        lock_file.set("debian:12", "x86_64", "https://a.example/old", &old);
        lock_file.set("debian:12", "aarch64", "https://a.example/arm", &old);
        lock_file.set("debian:12", "x86_64", "https://a.example/d", &new);
        lock_file.write(&path).expect("written");
        let read = LockFile::read(&path).expect("read");
        let found = read.get("debian:12", "x86_64").expect("there");
        assert_eq!((found.url.as_str(), found.digest), ("https://a.example/d", Some(new)));
        assert!(read.get("debian:13", "x86_64").is_none());
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.starts_with('#') && text.find("aarch64") < text.find("ubuntu"), "{text}");

        for (text, why) in [
            ("version = 1\n[[image]\n", "line 2"),
            ("version = 7\n", "it has the form 7"),
            ("version = 1\nx = 2\n", "unknown field"),
            (&text.replace("0202", "zz02"), "`debian:12`: a digest has 64"),
            (&text.replace("https://a.example/d", "file:///etc/passwd"), "no address of the kind https"),
        ] {
            std::fs::write(&path, text).expect("written");
            let fault = LockFile::read(&path).map(drop).expect_err(why);
            assert!(fault.to_string().contains(why), "{fault}");
        }
    }
}
