//! Downloads from a server that does what servers do: it cuts, stalls, lies and leads elsewhere.

use super::*;
use crate::assets::image::store::StoredImage;
use parking_lot::Mutex;
use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{error::Blame, image::ImageConfig};

/// The outcome that is wanted: the right image, or an error with this text.
type WantedOutcome = std::result::Result<(), &'static str>;

/// What a server does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// It serves well, parts included.
    None,
    /// It closes after this many bytes of what it should send.
    Cut(usize),
    /// It sends all, whatever part was asked for.
    IgnoreRange,
    /// It sends a part that begins elsewhere.
    WrongRange,
    /// It promises more bytes than there are.
    Promise(usize),
    /// It says nothing any more after some bytes.
    Stall,
    Status(u16),
    Redirect(&'static str),
    /// It sends for ever, without saying how much.
    Endless,
}

struct FaultyServer {
    url: String,
    /// The first line and the range of each request.
    asked: Arc<Mutex<Vec<String>>>,
}

/// Starts a server whose answers to one request after the other are those of `tricks`, and then good ones.
fn serve(content: Vec<u8>, tricks: Vec<Trick>, etag: &'static str) -> FaultyServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}/a/disk.img", listener.local_addr().expect("address"));
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut tricks = tricks.into_iter();
        for client in listener.incoming().flatten() {
            let (trick, content, seen) = (tricks.next().unwrap_or(Trick::None), content.clone(), Arc::clone(&seen));
            std::thread::spawn(move || answer(client, trick, &content, etag, &seen));
        }
    });
    FaultyServer { url, asked }
}

fn answer(mut client: TcpStream, trick: Trick, content: &[u8], etag: &str, seen: &Mutex<Vec<String>>) {
    let mut start = 0;
    let mut lines = BufReader::new(client.try_clone().expect("clone")).lines();
    let mut first = String::new();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().expect("a range");
        }
        if first.is_empty() {
            first = line;
        }
    }
    seen.lock().push(format!("{first} from {start}"));
    let mut say = |head: &str, body: &[u8]| {
        let _ = client.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = client.write_all(body);
    };
    let part =
        |from: usize| format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}", content.len() - 1, content.len());
    let head = |length: usize| {
        let status = if start > 0 { part(start) } else { "200 OK".to_owned() };
        format!("{status}\r\nETag: {etag}\r\nContent-Length: {length}")
    };
    let rest = &content[start.min(content.len())..];
    match trick {
        _ if start >= content.len() => say("416 Range Not Satisfiable", b""),
        Trick::None => say(&head(rest.len()), rest),
        Trick::Cut(length) => say(&head(rest.len()), &rest[..length.min(rest.len())]),
        Trick::IgnoreRange => say(&format!("200 OK\r\nETag: {etag}\r\nContent-Length: {}", content.len()), content),
        Trick::WrongRange => say(&format!("{}\r\nContent-Length: {}", part(start + 1), rest.len() - 1), &rest[1..]),
        Trick::Promise(length) => say(&head(length), rest),
        Trick::Stall => {
            say(&head(rest.len()), &rest[..1]);
            // Until the other side has had enough.
            let _ = client.read(&mut [0]);
        }
        Trick::Status(code) => say(&format!("{code} No"), b"<html>"),
        Trick::Redirect(to) => say(&format!("302 Found\r\nLocation: {to}"), b""),
        Trick::Endless => {
            say("200 OK", b"");
            while client.write_all(&[0; 8192]).is_ok() {}
        }
    }
}

/// Returns a disk with a boot sector and noise.
fn disk(size: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..size).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
    out
}

fn sum(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::like(None);
    hasher.update(bytes);
    hasher.finish()
}

struct Cache {
    home: tempfile::TempDir,
    store: ImageStore,
}

fn in_folder(folder: &Path) -> ImageConfig {
    ImageConfig { cache: Some(folder.to_owned()), ..ImageConfig::default() }
}

fn cache() -> Cache {
    let home = tempfile::tempdir().expect("tempdir");
    let store = ImageStore::new(&in_folder(&home.path().join("images")));
    Cache { home, store }
}

impl Cache {
    async fn fetch(&self, url: &str, digest: Option<Digest>) -> Result<System> {
        let (never, wanted) = (CancellationToken::new(), RemoteImage { url: url.to_owned(), digest });
        let patience = Patience { stall: Duration::from_millis(300), attempts: 3, pause: Duration::from_millis(1) };
        fetch(&self.store, &wanted, patience, CallContext::new(Duration::from_mins(1), &never)).await
    }

    /// Returns every file of the cache that holds something of an image.
    fn kept(&self) -> Vec<String> {
        ["by-digest", "unpacked", "parts"]
            .iter()
            .flat_map(|kind| fs::read_dir(self.home.path().join("images").join(kind)).into_iter().flatten().flatten())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

#[tokio::test]
async fn fifty_cuts_at_any_place_give_the_right_image() {
    let content = disk(1 << 20);
    let cuts = (0..50).map(|n| Trick::Cut((n * 7919) % 40_000)).collect();
    let server = serve(content.clone(), cuts, "\"v1\"");
    let cache = cache();
    let system = cache.fetch(&server.url, Some(sum(&content))).await.expect("fetched");
    assert!(fs::read(&system.disk).expect("read") == content);
    let asked = server.asked.lock().clone();
    assert!(asked.len() > 40 && asked[30].contains("from ") && !asked[30].ends_with("from 0"), "{asked:?}");
    assert_eq!(cache.kept().len(), 1, "{:?}", cache.kept());
    // What is here is not asked for again.
    cache.fetch(&server.url, Some(sum(&content))).await.expect("cached");
    assert_eq!(server.asked.lock().len(), asked.len());
}

#[tokio::test]
async fn whatever_a_server_does_it_is_the_right_image_or_the_right_error() {
    let (content, half) = (disk(100_000), Trick::Cut(50_000));
    let cases: [(&str, Vec<Trick>, WantedOutcome); 12] = [
        ("ranges are forgotten", vec![half, Trick::IgnoreRange], Ok(())),
        ("another part comes", vec![half, Trick::WrongRange], Ok(())),
        ("more is promised than comes", vec![Trick::Promise(200_000); 9], Ok(())),
        ("it stalls once", vec![Trick::Stall], Ok(())),
        (
            "it stalls without progress",
            vec![Trick::Cut(0), Trick::Cut(0), Trick::Cut(0), Trick::Cut(0)],
            Err("cannot read it"),
        ),
        ("it is busy for a while", vec![Trick::Status(503), Trick::Status(429)], Ok(())),
        ("it is not there", vec![Trick::Status(404)], Err("404")),
        (
            "it leads to a file",
            vec![Trick::Redirect("file:///etc/passwd")],
            Err("it redirects to `file:///etc/passwd`, which is not fetched"),
        ),
        ("it leads in a circle", vec![Trick::Redirect("/a/disk.img"); 30], Err("it redirects without an end")),
        ("it leads to itself once", vec![Trick::Redirect("/b/disk.img")], Ok(())),
        ("all came, and the last byte was cut", vec![Trick::Cut(99_999)], Ok(())),
        ("it was cut before the first byte", vec![Trick::Cut(0)], Ok(())),
    ];
    for (what, tricks, wanted) in cases {
        let (server, cache) = (serve(content.clone(), tricks, "\"v1\""), cache());
        match (cache.fetch(&server.url, Some(sum(&content))).await, wanted) {
            (Ok(system), Ok(())) => assert!(fs::read(&system.disk).expect("read") == content, "{what}"),
            (Err(fault), Err(why)) => {
                assert!(fault.to_string().contains(why), "{what}: {fault}");
                assert_eq!(fault.blame(), Blame::Infra, "{what}");
                assert!(cache.store.list().is_empty(), "{what}");
            }
            (result, _) => panic!("{what}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_digest_shows_both_and_keeps_nothing() {
    let (content, other) = (disk(10_000), sum(b"another"));
    let (server, cache) = (serve(content.clone(), Vec::new(), "\"v1\""), cache());
    let fault = cache.fetch(&server.url, Some(other.clone())).await.expect_err("another image");
    let text = fault.to_string();
    assert!(text.contains(&other.to_string()) && text.contains(&sum(&content).to_string()), "{text}");
    assert!(!fault.is_worth_a_retry());
    assert_eq!(cache.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn a_part_of_an_older_version_is_not_gone_on_with() {
    let (old, new) = (disk(100_000), disk(120_000));
    let cache = cache();
    let first = serve(old, vec![Trick::Cut(60_000); 1], "\"old\"");
    // The same address, as far as the cache can tell.
    let part = cache.store.entry("parts", &key_of(&first.url));
    let _ = cache.fetch(&first.url, Some(sum(&new))).await;
    fs::write(&part, vec![9; 60_000]).expect("a part of something else");
    let second = serve(new.clone(), Vec::new(), "\"new\"");
    fs::rename(&part, cache.store.entry("parts", &key_of(&second.url))).expect("moved");
    let system = cache.fetch(&second.url, Some(sum(&new))).await.expect("fetched anew");
    assert!(fs::read(&system.disk).expect("read") == new);
}

#[tokio::test]
async fn what_is_no_image_or_names_files_of_this_host_is_not_kept() {
    let mut linked = vec![0; 4096];
    linked[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    linked[15] = 104;
    let bomb = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"no disk").expect("memory");
        gzip.finish().expect("memory")
    };
    for (content, why) in [
        (b"<html>try later</html>".to_vec(), "it is a web page"),
        (linked, "names another file of this host"),
        (vec![0; 5000], "it is not a disk image"),
        (bomb, "it is not a disk image"),
        (b"\xfd7zXZ\0 no more".to_vec(), "it cannot be unpacked"),
    ] {
        let (server, cache) = (serve(content.clone(), Vec::new(), "\"v1\""), cache());
        let fault = cache.fetch(&server.url, Some(sum(&content))).await.expect_err(why);
        assert!(fault.to_string().contains(why), "{fault}");
        assert_eq!(cache.kept(), Vec::<String>::new(), "{why}");
    }
}

#[tokio::test]
async fn a_compressed_image_is_unpacked_once() {
    let content = disk(300_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&content).expect("memory");
    let packed = gzip.finish().expect("memory");
    let (server, cache) = (serve(packed.clone(), Vec::new(), "\"v1\""), cache());
    let system = cache.fetch(&server.url, Some(sum(&packed))).await.expect("fetched");
    assert!(fs::read(&system.disk).expect("read") == content && system.format == "raw");
    assert_eq!(cache.fetch(&server.url, Some(sum(&packed))).await.expect("cached"), system);
    assert_eq!(server.asked.lock().len(), 1);
}

#[tokio::test]
async fn two_at_once_are_one_download_and_offline_says_what_is_missing() {
    let content = disk(500_000);
    let (server, cache) = (serve(content.clone(), Vec::new(), "\"v1\""), cache());
    let digest = sum(&content);
    let (a, b) =
        tokio::join!(cache.fetch(&server.url, Some(digest.clone())), cache.fetch(&server.url, Some(digest.clone())));
    assert_eq!(a.expect("fetched"), b.expect("fetched"));
    assert_eq!(server.asked.lock().len(), 1);
    let offline = Cache {
        store: ImageStore::new(&ImageConfig { offline: true, ..in_folder(cache.store.folder()) }),
        home: cache.home,
    };
    offline.fetch(&server.url, Some(digest)).await.expect("it is in the cache");
    let fault = offline.fetch(&server.url, Some(sum(b"x"))).await.expect_err("not there");
    assert!(fault.to_string().contains("`images.offline` is set"), "{fault}");
    // A byte that has changed on the disk is found.
    let object: StoredImage = offline.store.list().remove(0);
    fs::remove_file(&object.path).expect("removed");
    fs::write(&object.path, b"other").expect("written");
    assert_eq!(offline.store.verify(&mut |_| ()), [object.name]);
    assert!(offline.store.list().is_empty());
}

#[tokio::test]
async fn a_server_that_sends_for_ever_is_stopped_by_whoever_waits() {
    let (server, cache) = (serve(disk(1000), vec![Trick::Endless], "\"v1\""), cache());
    let never = CancellationToken::new();
    let wanted = RemoteImage { url: server.url.clone(), digest: Some(sum(b"x")) };
    let call = CallContext::new(Duration::from_millis(500), &never);
    let fault =
        call.run("fetch", fetch(&cache.store, &wanted, Patience::default(), call)).await.expect_err("it has no end");
    assert!(fault.to_string().contains("took longer"), "{fault}");
    assert!(cache.store.list().is_empty());
}
