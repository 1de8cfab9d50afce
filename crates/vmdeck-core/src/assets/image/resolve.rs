//! A name of the catalogue to an address that stays and the digest of what is there, by the lists that a distribution publishes.
//!
//! It is done once: what was found is kept in the lock file beside the config.

use super::{
    fetch::{self, Patience},
    lock,
    lock_file::LockFile,
    store::ImageStore,
    sums,
};
use crate::context::CallContext;
use futures_util::StreamExt;
use regex::Regex;
use vmdeck_model::{
    catalogue::NamedImage,
    digest::Digest,
    error::{Fault, Result},
    image::RemoteImage,
};

/// Most bytes of a page that lists images, or of a file with digests.
const PAGE_MAX: usize = 8 << 20;

/// Returns what a name stands for by the lock file, without asking anybody.
pub(super) fn locked(image: &NamedImage, arch: &str) -> Result<Option<RemoteImage>> {
    Ok(LockFile::read(&image.lock)?.get(&image.name, arch).map(|found| at_mirror(image, found)))
}

fn at_mirror(image: &NamedImage, found: RemoteImage) -> RemoteImage {
    RemoteImage { url: image.mirrored(&found.url), ..found }
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvedImage {
    /// The image, at the mirror if there is one.
    pub(super) image: RemoteImage,
    /// Its address as the catalogue has it, where it was just looked up and is not in the lock file.
    new: Option<String>,
}

/// Returns what a name stands for: by the lock file, else by what is published. `renew` = whether the lock file's word is not enough.
pub(super) async fn resolve(
    store: &ImageStore,
    image: &NamedImage,
    arch: &str,
    renew: bool,
    patience: Patience,
    context: CallContext<'_>,
) -> Result<ResolvedImage> {
    let cannot = || Fault::infra(format!("cannot find the image `{}`", image.name));
    let known = locked(image, arch)?;
    if !renew && let Some(image) = known {
        return Ok(ResolvedImage { image, new: None });
    }
    if store.offline {
        let file = image.lock.display();
        let why =
            if known.is_some() { "nothing may be looked up".to_owned() } else { format!("`{file}` does not name it") };
        return Err(Fault::host(format!("cannot find the image `{}`", image.name))
            .because(format!("`images.offline` is set, and {why}"))
            .hint("look it up once without, by `vmdeck image pull`, or `image update` for a newer one"));
    }
    (context.progress)(&format!("looking up {}", image.name));
    let search = Search { patience, image, arch, context };
    let (url, found) = search.run().await.map_err(|fault| cannot().caused_by(fault))?;
    Ok(ResolvedImage { image: found, new: Some(url) })
}

/// Writes down what a name stands for, once its image is here: what could not be fetched must not take the place of what can.
pub(super) async fn keep(
    store: &ImageStore,
    image: &NamedImage,
    arch: &str,
    resolved: &ResolvedImage,
    renew: bool,
    context: CallContext<'_>,
) -> Result<()> {
    let (Some(url), Some(digest)) = (&resolved.new, &resolved.image.digest) else { return Ok(()) };
    let cannot = |e: std::io::Error| Fault::host(format!("cannot lock `{}`", image.lock.display())).because(e);
    store.prepare().map_err(cannot)?;
    let key = fetch::key_of(&image.lock.to_string_lossy());
    let waits = || (context.progress)("another vmdeck writes down images; waiting for it");
    let _alone = lock::take(&store.entry("locks", &format!("names-{key}")), waits).await.map_err(cannot)?;
    let mut lock_file = LockFile::read(&image.lock)?;
    // Another may have been faster: the first one stays, unless somebody wants a newer one.
    if !renew && lock_file.get(&image.name, arch).is_some() {
        return Ok(());
    }
    lock_file.set(&image.name, arch, url, digest);
    if let Err(e) = lock_file.write(&image.lock) {
        let file = image.lock.display();
        (context.progress)(&format!("cannot write `{file}`: {e}; the next run looks {} up again", image.name));
    }
    Ok(())
}

struct Search<'a> {
    patience: Patience,
    image: &'a NamedImage,
    arch: &'a str,
    context: CallContext<'a>,
}

/// An image that may be there: its address, and the stamp in it.
struct PossibleImage {
    url: String,
    stamp: String,
}

impl Search<'_> {
    /// Returns the address as the catalogue has it, and the image at the mirror.
    async fn run(&self) -> Result<(String, RemoteImage)> {
        let mut first = None;
        for candidate in self.candidates().await? {
            match self.digest(&candidate).await {
                Ok(digest) => {
                    if first.is_some() {
                        (self.context.progress)(&format!("{}: only the moving address is there", self.image.name));
                    }
                    let url = self.image.mirrored(&candidate.url);
                    return Ok((candidate.url, RemoteImage { url, digest: Some(digest) }));
                }
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        Err(first.unwrap_or_else(|| Fault::infra("no image is listed").permanent()))
    }

    /// Returns where the image may be, the best one first: what is listed, then what always is the newest.
    async fn candidates(&self) -> Result<Vec<PossibleImage>> {
        let entry = &self.image.entry;
        let mut out = Vec::new();
        let mut failed = None;
        match (&entry.index, &entry.listed, &entry.stamp) {
            (Some(index), Some(listed), Some(stamp)) => match self.newest(index, listed, stamp).await {
                Ok(stamp) => out.push(PossibleImage { url: self.fill(&entry.image, &[("stamp", &stamp)])?, stamp }),
                Err(fault) => failed = Some(fault),
            },
            _ => out.push(PossibleImage { url: self.fill(&entry.image, &[])?, stamp: String::new() }),
        }
        if let Some(moving) = &entry.moving {
            out.push(PossibleImage { url: self.fill(moving, &[])?, stamp: String::new() });
        }
        match failed {
            Some(fault) if out.is_empty() => Err(fault),
            Some(fault) => {
                (self.context.progress)(&format!("{}: {fault}; trying the moving address", self.image.name));
                Ok(out)
            }
            None => Ok(out),
        }
    }

    /// Returns the highest stamp on the page that lists images.
    async fn newest(&self, index: &str, listed: &str, stamp: &str) -> Result<String> {
        let url = self.image.mirrored(&self.fill(index, &[])?);
        let page = self.page(&url).await?;
        let wrong = |why: String| {
            Fault::user(format!("cannot use the catalogue's entry of `{}`", self.image.name)).because(why)
        };
        // The template as it is, the stamp by its own expression, and nothing before it that would make it part of another name.
        let text = self.fill(listed, &[("stamp", "\0")])?;
        let pattern = regex::escape(&text).replace('\0', &format!("(?<stamp>{stamp})"));
        let regex = Regex::new(&format!("(?:^|[^0-9A-Za-z_.-]){pattern}")).map_err(|e| wrong(e.to_string()))?;
        let all = regex.captures_iter(&page).filter_map(|found| Some(found.name("stamp")?.as_str().to_owned()));
        let newest = all.max_by(|a, b| numbers(a).cmp(&numbers(b)));
        newest.filter(|stamp| !stamp.is_empty() && !stamp.contains(['/', '?', '#'])).ok_or_else(|| {
            Fault::infra(format!("`{url}` lists no image for {}", self.arch))
                .hint("`[images.catalogue]` in the config corrects where it is looked for")
                .permanent()
        })
    }

    /// Returns the digest that is published of an image.
    async fn digest(&self, candidate: &PossibleImage) -> Result<Digest> {
        let (folder, file) = candidate.url.rsplit_once('/').unwrap_or(("", &candidate.url));
        let template = &self.image.entry.sums;
        let name = self.fill(template, &[("stamp", &candidate.stamp), ("file", file)])?;
        let url = self.image.mirrored(&format!("{folder}/{name}"));
        let text = self.page(&url).await?;
        sums::digest_of(&text, file, template.contains("{file}"))
            .map_err(|why| Fault::infra(format!("cannot use `{url}`")).because(why).permanent())
    }

    fn fill(&self, template: &str, others: &[(&str, &str)]) -> Result<String> {
        self.image.fill(template, self.arch, others).map_err(|why| Fault::user("cannot make its address").because(why))
    }

    /// Reads a small text.
    async fn page(&self, url: &str) -> Result<String> {
        let cannot = || Fault::infra(format!("cannot read `{url}`"));
        // Plain only on this host itself: the config was checked for that.
        let client = fetch::client(self.patience, !url.starts_with("http://")).map_err(|e| cannot().because(e))?;
        let response = client.get(url).send().await.map_err(|e| cannot().because(fetch::reason(&e)))?;
        if !response.status().is_success() {
            return Err(cannot().because(format!("the server says {}", response.status())));
        }
        let mut stream = response.bytes_stream();
        let mut out = Vec::new();
        while let Some(piece) = stream.next().await {
            out.extend_from_slice(&piece.map_err(|e| cannot().because(fetch::reason(&e)))?);
            if out.len() > PAGE_MAX {
                return Err(cannot().because("it is too long").permanent());
            }
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// Returns the numbers of a stamp, by which the newer of two is known: 9.10 comes after 9.9.
fn numbers(stamp: &str) -> Vec<u64> {
    stamp.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
