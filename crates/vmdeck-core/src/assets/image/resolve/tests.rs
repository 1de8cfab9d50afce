//! Names that are looked up on a server that holds what a distribution publishes, and on one that holds something else.

use super::*;
use crate::assets::image::{ImagePlace, place, store::ImageStore};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    catalogue::{Catalogue, CatalogueEntry},
    digest::Digest,
    image::{Image, ImageConfig},
};

type ServedPages = Arc<Mutex<BTreeMap<String, String>>>;

struct Distribution {
    home: tempfile::TempDir,
    store: ImageStore,
    pages: ServedPages,
    entry: CatalogueEntry,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Returns a distribution with a mirror of its own on this host.
fn distribution() -> Distribution {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let mirror = format!("http://{}/mirror", listener.local_addr().expect("address"));
    let (pages, asked) = (ServedPages::default(), Arc::<Mutex<Vec<String>>>::default());
    let (served, seen) = (Arc::clone(&pages), Arc::clone(&asked));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().expect("clone")).lines().map_while(Result::ok);
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            lines.find(String::is_empty);
            seen.lock().push(path.clone());
            let page = served.lock().get(&path).cloned();
            let status = if page.is_some() { "200 OK" } else { "404 Not Found" };
            let page = page.unwrap_or_else(|| "<html>".to_owned());
            let _ = write!(
                client,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
        }
    });
    let text = |text: &str| Some(text.to_owned());
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let entry = CatalogueEntry {
        versions: pairs(&[("12", "bookworm")]),
        arch: pairs(&[("x86_64", "amd64")]),
        index: text("https://dist.example/cloud/{release}/"),
        listed: text("{stamp}/"),
        stamp: text(r"\d{8}-\d+"),
        image: "https://dist.example/cloud/{release}/{stamp}/d-{version}-{arch}-{stamp}.qcow2".to_owned(),
        moving: text("https://dist.example/cloud/{release}/latest/d-{version}-{arch}.qcow2"),
        sums: "SHA512SUMS".to_owned(),
        mirror: Some(mirror),
        ..CatalogueEntry::default()
    };
    let home = tempfile::tempdir().expect("tempdir");
    let config = ImageConfig { cache: Some(home.path().join("images")), ..ImageConfig::default() };
    Distribution { store: ImageStore::new(&config), home, pages, entry, asked }
}

impl Distribution {
    fn serve(&self, path: &str, page: impl Into<String>) {
        self.pages.lock().insert(path.to_owned(), page.into());
    }

    fn lock(&self) -> PathBuf {
        self.home.path().join("vmdeck.images.lock")
    }

    fn named(&self) -> NamedImage {
        let catalogue = Catalogue(BTreeMap::from([("dist".to_owned(), self.entry.clone())]));
        catalogue.find("dist:12", self.lock()).expect("known")
    }

    async fn resolve(&self, renew: bool) -> Result<RemoteImage> {
        let never = CancellationToken::new();
        let patience = Patience { stall: Duration::from_secs(5), attempts: 1, pause: Duration::from_millis(1) };
        let call = CallContext::new(Duration::from_mins(1), &never);
        let found = resolve(&self.store, &self.named(), "x86_64", renew, patience, call).await?;
        // As when it was fetched.
        keep(&self.store, &self.named(), "x86_64", &found, renew, call).await?;
        Ok(found.image)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

fn listing(stamps: &[&str]) -> String {
    stamps.iter().map(|stamp| format!("<a href=\"{stamp}/\">{stamp}/</a>\n")).collect()
}

#[tokio::test]
async fn the_newest_listed_image_is_found_once_and_stays_until_a_newer_one_is_asked_for() {
    let dist = distribution();
    let digest = Digest::of_bytes(&[7; 64]);
    dist.serve("/mirror/cloud/bookworm/", listing(&["20260712-2537", "20260712-999", "20250101-9", "latest"]));
    let folder = "/mirror/cloud/bookworm/20260712-2537";
    dist.serve(
        &format!("{folder}/SHA512SUMS"),
        format!(
            "{}  d-12-arm64-20260712-2537.qcow2\n{}  d-12-amd64-20260712-2537.qcow2\n",
            "00".repeat(64),
            "07".repeat(64)
        ),
    );
    let found = dist.resolve(false).await.expect("found");
    assert!(found.url.ends_with(&format!("{folder}/d-12-amd64-20260712-2537.qcow2")), "{}", found.url);
    assert_eq!(found.digest, Some(digest.clone()));
    // Kept for everybody: without the mirror, which is this host's own business.
    let lock = std::fs::read_to_string(dist.lock()).expect("the lock file");
    assert!(lock.contains("https://dist.example/cloud/bookworm/20260712-2537/d-12-amd64"), "{lock}");
    assert_eq!(dist.asked().len(), 2);

    dist.serve("/mirror/cloud/bookworm/", listing(&["20260801-1", "20260712-2537"]));
    dist.serve(
        "/mirror/cloud/bookworm/20260801-1/SHA512SUMS",
        format!("{}  d-12-amd64-20260801-1.qcow2\n", "08".repeat(64)),
    );
    assert_eq!(dist.resolve(false).await.expect("kept"), found);
    assert!(dist.asked().is_empty(), "nobody is asked for what is known");
    let newer = dist.resolve(true).await.expect("a newer one");
    assert_eq!(newer.digest, Some(Digest::of_bytes(&[8; 64])));
    assert_eq!(dist.resolve(false).await.expect("kept"), newer);
    let image = Image::Named(Box::new(dist.named()));
    assert!(matches!(place(&dist.store, &image, "x86_64"), Ok(ImagePlace::Elsewhere(wanted)) if wanted == newer));
    assert!(matches!(place(&dist.store, &image, "aarch64"), Ok(ImagePlace::Unknown)));
}

#[tokio::test]
async fn what_is_not_listed_is_looked_for_at_the_moving_address() {
    let dist = distribution();
    dist.serve("/mirror/cloud/bookworm/latest/SHA512SUMS", format!("{} *d-12-amd64.qcow2\n", "09".repeat(64)));
    for page in [None, Some("<html>no list"), Some("x20260712-2537/ 120260712-1/"), Some("20260712-2537/")] {
        if let Some(page) = page {
            dist.serve("/mirror/cloud/bookworm/", page);
        }
        let found = dist.resolve(true).await.expect("found");
        assert!(found.url.ends_with("/latest/d-12-amd64.qcow2"), "{page:?}: {}", found.url);
        assert_eq!(found.digest, Some(Digest::of_bytes(&[9; 64])));
    }
}

#[tokio::test]
async fn without_a_digest_there_is_no_image_and_nothing_is_written() {
    for (sums, why) in [
        (None, "the server says 404"),
        (Some("<html>Sign in</html>".to_owned()), "is a web page"),
        (Some(format!("{}  other.qcow2\n", "01".repeat(64))), "does not name `d-12-amd64-20260712-1.qcow2`"),
        (Some("x".repeat(PAGE_MAX + 1)), "it is too long"),
    ] {
        let dist = distribution();
        dist.serve("/mirror/cloud/bookworm/", listing(&["20260712-1"]));
        if let Some(sums) = sums {
            dist.serve("/mirror/cloud/bookworm/20260712-1/SHA512SUMS", sums);
        }
        let fault = dist.resolve(false).await.expect_err(why);
        assert!(fault.to_string().contains(why), "{fault}");
        assert!(!dist.lock().exists());
    }
    let mut dist = distribution();
    dist.entry.moving = None;
    let fault = dist.resolve(false).await.expect_err("no list");
    assert!(fault.to_string().contains("the server says 404"), "{fault}");
    dist.serve("/mirror/cloud/bookworm/", "nothing");
    let fault = dist.resolve(false).await.expect_err("an empty list");
    assert!(fault.to_string().contains("lists no image for x86_64"), "{fault}");
    dist.entry.arch.clear();
    let fault = dist.resolve(false).await.expect_err("another processor");
    assert!(fault.to_string().contains("`dist:12` has no image for x86_64"), "{fault}");
}

#[tokio::test]
async fn a_lock_file_that_is_broken_is_an_error_and_one_that_cannot_be_written_is_none() {
    let dist = distribution();
    std::fs::write(dist.lock(), "version = 1\nimage = 3\n").expect("written");
    let fault = dist.resolve(false).await.expect_err("broken");
    assert!(fault.to_string().contains("line 2"), "{fault}");

    let offline = ImageConfig { cache: Some(dist.store.folder().to_owned()), offline: true, ..ImageConfig::default() };
    let dist = Distribution { store: ImageStore::new(&offline), ..dist };
    std::fs::remove_file(dist.lock()).expect("removed");
    let fault = dist.resolve(false).await.expect_err("offline");
    assert!(fault.to_string().contains("`images.offline` is set, and `"), "{fault}");

    let dist = distribution();
    dist.serve("/mirror/cloud/bookworm/latest/SHA512SUMS", format!("{}  d-12-amd64.qcow2\n", "09".repeat(64)));
    let named = NamedImage { lock: Path::new("/proc/vmdeck.images.lock").to_owned(), ..dist.named() };
    let never = CancellationToken::new();
    let told: Mutex<Vec<String>> = Mutex::default();
    let tell = |text: &str| told.lock().push(text.to_owned());
    let call = CallContext { progress: &tell, ..CallContext::new(Duration::from_mins(1), &never) };
    let found = resolve(&dist.store, &named, "x86_64", false, Patience::default(), call).await.expect("found");
    keep(&dist.store, &named, "x86_64", &found, false, call).await.expect("no error");
    assert!(told.lock().iter().any(|text| text.contains("cannot write")), "{:?}", told.lock());
}
