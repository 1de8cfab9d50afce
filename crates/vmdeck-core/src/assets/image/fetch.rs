//! Fetches an image by its address into the cache: once for all processes, resumed where it was cut, and used only when its digest
//! is the expected one.

use super::{
    System, content,
    digest::{self, Hasher},
    lock,
    store::{ImageStore, OBJECTS, UNPACKED},
    unpack,
};
use crate::{
    context::CallContext,
    host::{capacity, clock, files},
};
use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, header, redirect};
use serde_json::json;
use std::{
    fs::{self, File},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    digest::Digest,
    error::{Fault, Result},
    image::RemoteImage,
    quantity::{show_duration, show_size},
};

/// Most redirects that are followed.
const REDIRECTS: usize = 8;
/// Most bytes of an image of which nobody says how long it is.
const SIZE_MAX: u64 = 256 << 30;
/// What to do about an address that leads nowhere.
pub(super) const CHECK_ADDRESS: &str = "check the address";
/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);
/// The longest pause before a download that was cut is taken up again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a server may say nothing.
    pub stall: Duration,
    /// How often a download is taken up again without a byte of progress.
    pub attempts: u32,
    /// The pause before a download that was cut is taken up again; it doubles while nothing comes.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), attempts: 4, pause: Duration::from_millis(200) }
    }
}

/// Why one attempt ended.
enum Broken {
    /// Another attempt may help.
    Again(String),
    /// Another attempt cannot help.
    Never(Fault),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Never(
            Fault::host("cannot write the download").because(error).hint("free disk space in the cache folder"),
        )
    }
}

/// Returns the image from the cache; fetches it first where it is not there. Cancelling or dropping it leaves what came so far for
/// the next attempt.
pub async fn fetch(
    store: &ImageStore,
    wanted: &RemoteImage,
    patience: Patience,
    context: CallContext<'_>,
) -> Result<System> {
    let cannot = || Fault::infra(format!("cannot fetch the image `{}`", wanted.url));
    if let Some(system) = in_cache(store, wanted) {
        return Ok(system);
    }
    if store.offline {
        return Err(Fault::host(format!("cannot fetch the image `{}`", wanted.url))
            .because("`images.offline` is set, and the image is not in the cache")
            .hint("fetch it once without, by `vmdeck image pull`"));
    }
    store.prepare().map_err(|e| cannot().because(format!("the cache `{}`: {e}", store.folder().display())))?;
    let key = key_of(&wanted.url);
    let waits = || (context.progress)(&format!("another vmdeck fetches {}; waiting for it", shown(&wanted.url)));
    let _alone = lock::take(&store.entry("locks", &key), waits).await.map_err(|e| cannot().because(e))?;
    // The other may just have fetched it.
    if let Some(system) = in_cache(store, wanted) {
        return Ok(system);
    }
    let part = PartialFile { file: store.entry("parts", &key), etag: store.entry("parts", &format!("{key}.etag")) };
    // A digest proves the bytes, whatever way they came.
    let client = client(patience, wanted.digest.is_none()).map_err(|e| cannot().because(e))?;
    let mut download = Download { client, wanted, part, context, told: None };
    let found = match download.run(patience).await {
        Ok(found) => found,
        Err(fault) => return Err(cannot().caused_by(fault)),
    };
    let (store, wanted, part) = (store.clone(), wanted.clone(), download.part);
    let kept = tokio::task::spawn_blocking(move || keep(&store, &wanted, &part, &found)).await;
    kept.map_err(|e| cannot().because(e))?.map_err(|fault| cannot().caused_by(fault))
}

/// Returns whether the image is in the cache.
pub fn is_cached(store: &ImageStore, wanted: &RemoteImage) -> bool {
    in_cache(store, wanted).is_some()
}

fn in_cache(store: &ImageStore, wanted: &RemoteImage) -> Option<System> {
    let known = || {
        let note = vmdeck_files::read_text(&store.entry("names", &note_name(&wanted.url)), vmdeck_files::SMALL).ok()?;
        let json: serde_json::Value = serde_json::from_str(&note).ok()?;
        Digest::parse(json["digest"].as_str()?).ok()
    };
    store.find(&wanted.digest.clone().or_else(known)?)
}

fn note_name(url: &str) -> String {
    format!("url-{}.json", key_of(url))
}

/// Returns the name of the files that belong to an address.
pub(super) fn key_of(url: &str) -> String {
    let mut hasher = Hasher::like(None);
    hasher.update(url.as_bytes());
    hasher.finish().file_name()
}

/// Returns the last part of an address, for a person.
fn shown(url: &str) -> &str {
    url.rsplit('/').find(|part| !part.is_empty()).unwrap_or(url)
}

/// Returns what asks servers; `only_https` = whether nobody on the way may have changed what comes.
pub(super) fn client(patience: Patience, only_https: bool) -> reqwest::Result<Client> {
    let policy = redirect::Policy::custom(move |attempt| {
        let scheme = attempt.url().scheme().to_owned();
        if attempt.previous().len() > REDIRECTS {
            attempt.error("it redirects without an end")
        } else if scheme == "https" || (scheme == "http" && !only_https) {
            attempt.follow()
        } else {
            attempt.error(format!("it redirects to the kind of address `{scheme}:`"))
        }
    });
    Client::builder()
        .user_agent(concat!("vmdeck/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(patience.stall)
        .read_timeout(patience.stall)
        .https_only(only_https)
        .redirect(policy)
        .build()
}

/// What has come of an image so far.
struct PartialFile {
    file: PathBuf,
    /// The server's word for the version that it is of.
    etag: PathBuf,
}

impl PartialFile {
    fn remove(&self) {
        let _ = fs::remove_file(&self.file);
        let _ = fs::remove_file(&self.etag);
    }
}

struct Download<'a> {
    client: Client,
    wanted: &'a RemoteImage,
    part: PartialFile,
    context: CallContext<'a>,
    told: Option<clock::Instant>,
}

impl Download<'_> {
    /// Fetches all of it, however often it is cut; returns its digest, which is the expected one.
    async fn run(&mut self, patience: Patience) -> Result<Digest> {
        let (mut attempt, mut pause) = (0, patience.pause);
        loop {
            let before = length_of(&self.part.file);
            let reason = match self.attempt().await {
                Ok(()) => break,
                Err(Broken::Never(fault)) => return Err(fault),
                Err(Broken::Again(reason)) => reason,
            };
            let progress = length_of(&self.part.file) > before;
            attempt = if progress { 1 } else { attempt + 1 };
            if attempt > patience.attempts {
                return Err(Fault::infra("cannot read it from the server").because(reason));
            }
            pause = if progress { patience.pause } else { (pause * 2).min(PAUSE_MAX) };
            (self.context.progress)(&format!("{}: {reason}; going on", shown(&self.wanted.url)));
            clock::sleep(pause).await;
        }
        let (file, like) = (self.part.file.clone(), self.wanted.digest.clone());
        let found = tokio::task::spawn_blocking(move || digest::of_file(&file, like.as_ref())).await;
        let found = found.map_err(io::Error::other).and_then(|found| found);
        let found = found.map_err(|e| Fault::host("cannot read the download").because(e))?;
        match &self.wanted.digest {
            Some(wanted) if *wanted != found => {
                // Nothing of it is of any use.
                self.part.remove();
                Err(Fault::infra("it is another image than the expected one")
                    .because(format!("its digest is {found}, expected {wanted}"))
                    .hint("the server has exchanged it, or `image_sha256` is wrong; nothing of it was kept")
                    .permanent())
            }
            _ => Ok(found),
        }
    }

    /// Asks for the rest of it, and writes what comes.
    async fn attempt(&mut self) -> Result<(), Broken> {
        let have = length_of(&self.part.file);
        let etag = vmdeck_files::read_text(&self.part.etag, vmdeck_files::SMALL).ok().filter(|_| have > 0);
        let mut request = self.client.get(&self.wanted.url);
        if let Some(etag) = &etag {
            // Only of the same version: else all of the other one comes.
            request = request.header(header::RANGE, format!("bytes={have}-")).header(header::IF_RANGE, etag);
        }
        let response = request.send().await.map_err(|e| broken(&e))?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if etag.is_some() && begins_at(&response) == Some(have) => have,
            StatusCode::OK => 0,
            StatusCode::RANGE_NOT_SATISFIABLE if etag.is_some() => {
                // There is no rest: it is whole, or of no use.
                if self.wanted.digest.is_none() {
                    self.part.remove();
                    return Err(Broken::Again("the server has no such part".to_owned()));
                }
                return Ok(());
            }
            StatusCode::PARTIAL_CONTENT => {
                self.part.remove();
                return Err(Broken::Again("the server sent another part than was asked for".to_owned()));
            }
            status if status.is_redirection() => {
                let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
                let to: String = vmdeck_model::text::one_line(to).chars().take(200).collect();
                return Err(Broken::Never(
                    Fault::infra("the server does not give it")
                        .because(format!("it redirects to `{to}`, which is not fetched"))
                        .permanent(),
                ));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Broken::Again(format!("the server says {status}")));
            }
            status => {
                return Err(Broken::Never(
                    Fault::infra("the server does not give it").because(status).hint(CHECK_ADDRESS).permanent(),
                ));
            }
        };
        let whole = response.content_length().map(|rest| start + rest);
        self.check_room(whole.unwrap_or(0), start)?;
        let mut file = self.open(start, &response)?;
        self.write(&mut file, start, whole, response).await
    }

    /// Opens the part at its end, or anew with the version that the server names.
    fn open(&self, start: u64, response: &Response) -> io::Result<File> {
        if start > 0 {
            return vmdeck_files::open_for_append(&self.part.file);
        }
        self.part.remove();
        let file = vmdeck_files::create(&self.part.file)?;
        // A weak version does not promise the same bytes.
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        if let Some(etag) = etag.filter(|etag| !etag.starts_with("W/")) {
            // One that is torn is no version of anything, and all is fetched anew.
            vmdeck_files::write(&self.part.etag, etag.as_bytes())?;
        }
        Ok(file)
    }

    async fn write(
        &mut self,
        file: &mut File,
        start: u64,
        whole: Option<u64>,
        response: Response,
    ) -> Result<(), Broken> {
        let begun = clock::now();
        let mut stream = response.bytes_stream();
        let mut size = start;
        file.seek(io::SeekFrom::End(0))?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| broken(&e))?;
            size += piece.len() as u64;
            if size > SIZE_MAX {
                self.part.remove();
                return Err(Broken::Never(
                    Fault::infra("the server sends without an end").because(show_size(size)).permanent(),
                ));
            }
            file.write_all(&piece)?;
            self.tell(begun, size - start, size, whole);
        }
        file.sync_data()?;
        match whole {
            Some(whole) if size < whole => Err(Broken::Again(format!("it was cut at {size} of {whole} bytes"))),
            _ => Ok(()),
        }
    }

    /// Refuses what cannot fit before it comes: the image, and what it may become when it is unpacked.
    fn check_room(&self, whole: u64, have: u64) -> Result<(), Broken> {
        let need = whole.saturating_sub(have).saturating_add(whole);
        let folder = self.part.file.parent().unwrap_or(Path::new("/"));
        match capacity::free_disk(folder).ok() {
            Some(free) if free < need => Err(Broken::Never(
                Fault::host("there is not enough disk space for the image")
                    .because(format!(
                        "{} are free at `{}`, and it needs {}",
                        show_size(free),
                        folder.display(),
                        show_size(need)
                    ))
                    .hint("`vmdeck image prune` removes images that are not used; or set `images.cache`"),
            )),
            _ => Ok(()),
        }
    }

    fn tell(&mut self, begun: clock::Instant, came: u64, size: u64, whole: Option<u64>) {
        if self.told.is_some_and(|at| at.elapsed() < TELL) {
            return;
        }
        self.told = Some(clock::now());
        let rate = came * 1000 / clock::ms_since(begun).max(1);
        let name = shown(&self.wanted.url);
        let text = match whole.filter(|whole| *whole > 0) {
            Some(whole) => {
                let left = Duration::from_secs(whole.saturating_sub(size) / rate.max(1));
                let (percent, whole) = (size * 100 / whole, show_size(whole));
                format!("fetching {name}: {percent} % of {whole}, {}/s, {} left", show_size(rate), show_duration(left))
            }
            None => format!("fetching {name}: {}, {}/s", show_size(size), show_size(rate)),
        };
        (self.context.progress)(&text);
    }
}

fn length_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Returns where a part of an answer begins.
fn begins_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Returns the innermost reason of an error of the connection: those around it only say that there is one.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    reason
}

/// Returns whether another attempt may help against an error of the connection.
fn broken(error: &reqwest::Error) -> Broken {
    let reason = reason(error);
    if error.is_redirect() || error.is_builder() {
        return Broken::Never(Fault::infra("the server does not give it").because(reason).permanent());
    }
    Broken::Again(reason)
}

/// Makes a whole download an object of the cache: complete, read-only, under its digest; unpacked beside it where it is compressed.
/// What is no image that may be used is removed.
fn keep(store: &ImageStore, wanted: &RemoteImage, part: &PartialFile, found: &Digest) -> Result<System> {
    let cannot =
        |e: io::Error| Fault::host("cannot keep the download").because(e).hint("free disk space in the cache folder");
    let name = found.file_name();
    let unpacked = store.entry(UNPACKED, &format!(".{name}"));
    let limit = capacity::free_disk(store.folder()).unwrap_or(SIZE_MAX);
    let refuse = |why: String| {
        part.remove();
        let _ = fs::remove_file(&unpacked);
        Fault::infra("it cannot be used").because(why).hint("nothing of it was kept").permanent()
    };
    let is_packed = match unpack::unpack(&part.file, &unpacked, limit) {
        Ok(is_packed) => is_packed,
        Err(e) => return Err(refuse(format!("it cannot be unpacked: {e}"))),
    };
    let disk = if is_packed { &unpacked } else { &part.file };
    content::check_foreign(disk).map_err(refuse)?;
    if is_packed {
        publish(&unpacked, &store.entry(UNPACKED, &name)).map_err(cannot)?;
    }
    // Before the object: what is there without a note is only of an unknown origin.
    let note = json!({ "url": wanted.url, "digest": found.to_string() }).to_string();
    files::write_atomic(&store.entry("names", &format!("{name}.json")), note.as_bytes()).map_err(cannot)?;
    publish(&part.file, &store.entry(OBJECTS, &name)).map_err(cannot)?;
    if wanted.digest.is_none() {
        files::write_atomic(&store.entry("names", &note_name(&wanted.url)), note.as_bytes()).map_err(cannot)?;
    }
    part.remove();
    store.find(found).ok_or_else(|| Fault::host("cannot read the image that was just kept"))
}

/// Gives a whole file its place, safe against a loss of power.
fn publish(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(from, fs::Permissions::from_mode(0o444))?;
    vmdeck_files::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    rustix::fs::fsync(rustix::fs::open(folder, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
