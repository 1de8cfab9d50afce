//! Entry points for fuzzing: each feeds hostile bytes to one parser and asserts what must hold whatever they say.
//!
//! The targets in the `fuzz` folder call them with what a fuzzer makes up, the tests below with mutated samples.

use crate::{
    backend::{
        BACKENDS,
        multipass::reply,
        qemu::qmp::{self, QmpEvent, Waiting},
        utm::{leases, utmctl},
    },
    command::marks::{EndMark, FrameMark, FrameMarks},
    config::{self, Sources, Values},
    engine::journal::{self, Record},
    transport::unpack,
};
use futures_util::FutureExt;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{mpsc, oneshot},
};
use vmdeck_model::{
    error::{Blame, Result},
    key::{Key, Kind},
    plan::Setup,
};

/// Sizes of the pieces in which a stream comes as well.
const SIZES: [usize; 3] = [1, 3, 17];
/// The nonce of the marks.
const NONCE: &str = "0123456789abcdef";

/// Bytes that come in pieces of one size.
struct Trickle<'a> {
    left: &'a [u8],
    size: usize,
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.left.split_at(self.left.len().min(self.size).min(into.remaining()));
        into.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

/// Feeds what QEMU's control socket might say to its reader, and a list of forwarded ports to theirs.
///
/// # Panics
/// Where pieces change what is read, or somebody is left waiting.
pub fn qmp(data: &[u8]) {
    let whole = conversation(data, usize::MAX);
    for size in SIZES {
        assert_eq!(conversation(data, size), whole, "in pieces of {size}");
    }
    let (_, events, replies) = whole;
    let lines = memchr::memchr_iter(b'\n', data).count();
    assert!(events.len() + replies.iter().flatten().count() <= lines, "a line is one message at most");
    let text = String::from_utf8_lossy(data);
    if let Some(port) = qmp::forwarded_port(&text, 22) {
        assert!(text.contains(&port.to_string()), "{port} is not in the text");
    }
}

/// What came back for each command.
type QmpReplies = Vec<Option<Result<Value, String>>>;

/// Returns whether there was a greeting, the events, and the replies to the commands 1 to 3.
fn conversation(data: &[u8], size: usize) -> (bool, Vec<QmpEvent>, QmpReplies) {
    let (events_in, mut events) = mpsc::unbounded_channel();
    let (greeted_in, mut greeted) = oneshot::channel();
    let waiting = Waiting::default();
    let ask = |id| {
        let (reply_in, reply) = oneshot::channel();
        waiting.lock().insert(id, reply_in);
        reply
    };
    let replies: Vec<_> = (1..=3).map(ask).collect();
    let stream = Trickle { left: data, size };
    let ended = qmp::listen(stream, Arc::clone(&waiting), events_in, greeted_in).now_or_never();
    assert!(ended.is_some(), "it waits although every byte is there");
    assert!(waiting.lock().is_empty(), "a command waits for ever");
    let events = std::iter::from_fn(|| events.try_recv().ok()).collect();
    (greeted.try_recv().is_ok(), events, replies.into_iter().map(|mut reply| reply.try_recv().ok()).collect())
}

/// Feeds what `utmctl` might print to the readers of its list and of its failures.
///
/// # Panics
/// Where a row does not read back as it was read, or a failure has no words.
pub fn utmctl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let rows = utmctl::rows(&text);
    assert!(rows.len() <= text.lines().count(), "more rows than lines");
    for row in &rows {
        let line = format!("{} {} {}", row.uuid, row.status, row.name);
        assert_eq!(utmctl::rows(&line), std::slice::from_ref(row));
        assert!(utmctl::named(&rows, &row.uuid).is_some(), "a machine is not found by its own id");
        let _ = utmctl::power(&row.status);
    }
    for code in [0, 1, 64, 133] {
        let failure = utmctl::explain("list", &text, code);
        assert!(!failure.fault.to_string().is_empty() && failure.seen.is_empty());
        assert_ne!(failure.kind, utmctl::FailureKind::Late, "it did answer");
    }
}

/// Feeds what `multipass --format json` might print to the readers of every command.
///
/// # Panics
/// Where spaces change what is read, or an address is none.
pub fn multipass(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (list, versions) = (reply::list(&text), reply::versions(&text));
    let Ok(value) = serde_json::from_str::<Value>(text.trim()) else {
        assert!(list.is_err() && versions.is_err(), "what is no JSON was read");
        return;
    };
    let compact = value.to_string();
    assert_eq!((reply::list(&compact), reply::versions(&compact)), (list.clone(), versions));
    let mut found: Vec<String> = Vec::new();
    for machine in list.unwrap_or_default() {
        let _ = reply::power(&machine.state);
        found.extend(machine.ipv4);
    }
    for name in value["info"].as_object().into_iter().flat_map(|all| all.keys()) {
        let info = reply::info(&text, name);
        assert_eq!(reply::info(&compact, name), info);
        assert_eq!(reply::snapshots(&compact, name), reply::snapshots(&text, name));
        found.extend(info.map(|info| info.ipv4).unwrap_or_default());
    }
    assert!(found.iter().all(|ip| ip.parse::<IpAddr>().is_ok()), "{found:?} are not all addresses");
}

/// Feeds what a file of DHCP leases might hold to its reader.
///
/// # Panics
/// Where a lease does not read back as it was read, or an address comes from nowhere.
pub fn leases(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let all = leases::parse(&text);
    for lease in &all {
        let name = lease.name.as_ref().map(|name| format!("name={name}\n")).unwrap_or_default();
        let mac = lease.mac.map(|m| m.map(|octet| format!("{octet:x}")).join(":"));
        let mac = mac.map(|mac| format!("hw_address=1,{mac}\n")).unwrap_or_default();
        let block = format!("{{\n{name}ip_address={}\n{mac}lease=0x{:x}\n}}\n", lease.ip, lease.until);
        assert_eq!(leases::parse(&block), std::slice::from_ref(lease));
        let names: Vec<String> = lease.name.clone().into_iter().collect();
        for now in [0, lease.until, u64::MAX] {
            let found = leases::of(&all, lease.mac, &names, now);
            let is_known = !names.is_empty() || lease.mac.is_some();
            assert_eq!(found.len(), usize::from(is_known), "a lease is not found by what is in it");
            assert!(found.iter().all(|ip| all.iter().any(|l| l.ip == *ip)), "{found:?} is nobody's");
        }
    }
    assert!(leases::of(&all, None, &[], 0).is_empty(), "no machine has an address");
}

/// Feeds a stream to the readers of the marks before and after a command's own output.
///
/// # Panics
/// Where pieces change what is read, or a byte is lost or made up.
pub fn marks(data: &[u8]) {
    let read = |size| {
        let begun = begin(data, size);
        let ended = begun.as_ref().map(|(_, rest)| finish(rest, size));
        (begun, ended, finish(data, size))
    };
    let whole = read(usize::MAX);
    for size in SIZES {
        assert_eq!(read(size), whole, "in pieces of {size}");
    }
    let (begun, _, (passed, status, rest)) = whole;
    assert!(begun.is_none_or(|(_, rest)| data.ends_with(&rest)), "a byte was made up after the first mark");
    assert!(data.starts_with(&passed) && data.ends_with(&rest), "a byte was made up around the last mark");
    if status.is_none() {
        assert_eq!(passed.len() + rest.len(), data.len(), "a byte was lost without a mark");
    } else {
        let mark = &data[passed.len()..data.len() - rest.len()];
        assert!(mark.starts_with(format!("[end-{NONCE} ").as_bytes()) && mark.ends_with(b"]"));
    }
}

/// Returns the pid in the first mark, and everything after it.
fn begin(data: &[u8], size: usize) -> Option<(u32, Vec<u8>)> {
    let mut marks = FrameMarks::new(NONCE);
    let mut pieces = data.chunks(size);
    while let Some(piece) = pieces.next() {
        let mut next = marks.feed(piece);
        while let Some(mark) = next {
            if let FrameMark::Running { pid, mut rest } = mark {
                rest.extend(pieces.flatten());
                return Some((pid, rest));
            }
            next = marks.feed(b"");
        }
    }
    None
}

/// Returns what was passed on, the status in the last mark, and what came after it.
fn finish(data: &[u8], size: usize) -> (Vec<u8>, Option<i32>, Vec<u8>) {
    let mut end = EndMark::new(NONCE);
    let passed = data.chunks(size).flat_map(|piece| end.feed(piece)).collect();
    let (status, rest) = end.finish();
    (passed, status, rest)
}

/// Feeds the bytes of a journal to its reader: as they are, and with every sum put right.
///
/// # Panics
/// Where a machine is named that was never intended, or a torn end is more than that.
pub fn journal(data: &[u8]) {
    replayed(data);
    let text = String::from_utf8_lossy(data);
    let json = |line: &str| line.split_once(' ').map_or(line, |(_, json)| json).to_owned();
    let seal = |json: String| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    let sealed: String = text.lines().map(|line| seal(json(line))).collect();
    replayed(sealed.as_bytes());
}

fn replayed(bytes: &[u8]) {
    let Ok(state) = journal::replay(bytes) else { return };
    let text = String::from_utf8_lossy(bytes);
    let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line.split_once(' ')?.1).ok());
    let mut intended = BTreeSet::new();
    for record in records {
        let again = serde_json::to_string(&record).ok().and_then(|json| serde_json::from_str(&json).ok());
        assert_eq!(again.as_ref(), Some(&record), "a record does not read back");
        if let Record::Intent { name, .. } = record {
            intended.insert(name);
        }
    }
    let named: Vec<&String> = state.open.keys().chain(state.kept.keys()).collect();
    assert!(named.iter().all(|name| intended.contains(*name)), "not all of {named:?} were intended");
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let torn = journal::replay(&bytes[..cut]);
        assert!(torn.is_ok(), "cut at {cut}: {torn:?}");
    }
}

/// Feeds a text to the reader of the config: as the file, and line by line as flags.
///
/// # Panics
/// Where the same text is read in two ways, a mistake is not the user's, or what is shown is no TOML.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let flags: Vec<String> = text.lines().filter(|line| line.contains('=')).take(4).map(str::to_owned).collect();
    for (text, set) in [(&*text, &[][..]), ("", &flags[..])] {
        let (once, again) = (loaded(text, set), loaded(text, set));
        match (once, again) {
            (Ok((_, values)), Ok((_, same))) => {
                assert_eq!(values, same);
                let shown = config::show::render(&values);
                let read = config::tree::parse(Path::new("shown"), &shown);
                assert!(read.is_ok(), "{shown}");
            }
            (Err(fault), Err(same)) => {
                assert_eq!((fault.blame(), fault.to_string()), (Blame::User, same.to_string()));
            }
            _ => panic!("read once and refused once"),
        }
    }
}

/// Feeds what a guest might send as the archive of its artifacts.
///
/// # Panics
/// Where something is written outside of the folder, through a link, executable, or beyond the limit.
pub fn archive(data: &[u8]) {
    const LIMIT: u64 = 4096;
    let home = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder: {e}"));
    let to = home.path().join("to");
    unpack::into_folder(data, &to, LIMIT);
    let (mut folders, mut bytes) = (vec![home.path().to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            assert!(entry.path().starts_with(&to), "{} is outside", entry.path().display());
            assert!(meta.is_dir() || meta.is_file(), "{} is no file", entry.path().display());
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o7111, 0);
                bytes += meta.len();
            }
        }
    }
    assert!(bytes <= LIMIT, "{bytes} bytes");
}

fn loaded(text: &str, set: &[String]) -> Result<(Setup, Values)> {
    const SSH: &[Key] = &[
        Key { path: "guests.*.ssh.user", kind: Kind::Text, default: Some("\"ci\""), doc: "" },
        Key { path: "guests.*.ssh.password", kind: Kind::Secret, default: None, doc: "" },
    ];
    let mut keys: Vec<Key> = config::keys::core().chain(SSH).copied().collect();
    keys.extend(BACKENDS.iter().flat_map(|row| row.keys.iter().copied()));
    let backends: Vec<&str> = BACKENDS.iter().map(|row| row.kind).collect();
    config::load(&Sources {
        file: Some((Path::new("/no/vmdeck.toml"), text)),
        base: Path::new("/no"),
        env: &BTreeMap::new(),
        set,
        keys: &keys,
        backends: &backends,
        private_networks: &[],
        old_names: &[],
        transports: &["ssh", "exec"],
        secret_command: None,
        secrets_of: None,
        trusts_file: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Texts that parsers stumble over.
    const WORDS: &[&str] = &[
        "\0",
        "\n",
        "\r\n",
        "\t",
        " ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        "=",
        ",",
        ".",
        ":",
        "null",
        "true",
        "[]",
        "{}",
        "-1",
        "0x",
        "1e9",
        "65536",
        "4294967296",
        "18446744073709551616",
        "é",
        "\u{2028}",
        "\u{feff}",
        "'''",
        "#",
    ];
    /// Longest input.
    const LENGTH: usize = 16 << 10;

    /// Calls the target with every seed, and so many times with what became of one.
    fn shake(seeds: &[&str], rounds: usize, target: fn(&[u8])) {
        let mut rng = fastrand::Rng::with_seed(47);
        let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
        let mutants = (0..rounds).map(|_| {
            let mut data = if rng.u8(..) < 16 {
                let length = rng.usize(..64);
                std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
            } else {
                seeds[rng.usize(..seeds.len())].to_vec()
            };
            for _ in 0..rng.usize(1..6) {
                mutate(&mut data, &seeds, &mut rng);
            }
            data.truncate(LENGTH);
            data
        });
        for data in seeds.iter().map(|seed| seed.to_vec()).chain(mutants) {
            let kept = catch_unwind(AssertUnwindSafe(|| target(&data)));
            assert!(kept.is_ok(), "it fails with b\"{}\"", data.escape_ascii());
        }
    }

    fn mutate(data: &mut Vec<u8>, seeds: &[&[u8]], rng: &mut fastrand::Rng) {
        let from = rng.usize(..=data.len());
        let to = (from + rng.usize(..48)).min(data.len());
        let put = |data: &mut Vec<u8>, at: usize, bytes: &[u8]| drop(data.splice(at..at, bytes.iter().copied()));
        match rng.u8(..7) {
            0 if from < data.len() => data[from] ^= 1 << rng.u8(..8),
            1 if from < data.len() => data[from] = rng.u8(..),
            2 => drop(data.drain(from..to)),
            3 => put(data, from, WORDS[rng.usize(..WORDS.len())].as_bytes()),
            4 => {
                let again = data[from..to].repeat(rng.usize(1..4));
                put(data, to, &again);
            }
            5 => {
                let again = data[from..to].to_vec();
                let at = rng.usize(..=data.len());
                put(data, at, &again);
            }
            _ => {
                let other = seeds[rng.usize(..seeds.len())];
                let start = rng.usize(..=other.len());
                let end = rng.usize(start..=other.len());
                data.splice(from..to, other[start..end].iter().copied());
            }
        }
    }

    #[test]
    fn fuzz_qmp() {
        let seeds = [
            "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}}, \"capabilities\": [\"oob\"]}}\r\n\
             {\"return\": {}, \"id\": 1}\r\n{\"event\": \"STOP\"}\r\n{\"id\": 2, \"return\": {\"x\": 7}}\r\nnot json\r\n",
            "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \
             \"reason\": \"guest-shutdown\"}}\r\n{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n",
            "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
             TCP[HOST_FORWARD]  10       127.0.0.1 41973       10.0.2.15    22     0     0\n",
        ];
        shake(&seeds, 20_000, qmp);
    }

    #[test]
    fn fuzz_archive() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(4);
        let long = format!("{}/file", "folder/".repeat(30));
        for name in ["a", "folder/b", long.as_str()] {
            tar.append_data(&mut header.clone(), name, &b"text"[..]).expect("entry");
        }
        for (kind, link) in [(tar::EntryType::Link, "a"), (tar::EntryType::Symlink, "/etc")] {
            let mut header = header.clone();
            header.set_entry_type(kind);
            header.set_size(0);
            tar.append_link(&mut header, "l", link).expect("link");
        }
        let whole = String::from_utf8(tar.into_inner().expect("tar")).expect("text");
        let first = whole[..1024].to_owned();
        shake(&[&whole, &first], 3_000, archive);
    }

    #[test]
    fn fuzz_utmctl() {
        let seeds = [
            "UUID                                 Status   Name\n\
             FC379EA4-195C-499E-BDC9-066470BCA5C9 started  macOS (blank backup)\n\
             0C379EA4-195C-499E-BDC9-066470BCA5C9 stopped  ci-linux\n",
            "Error from event: The operation couldn’t be completed. (OSStatus error -2700.)\nOperation not available.\n",
            "Error from event: x (OSStatus error -1743.)",
            "操作を完了できませんでした。（OSStatusエラー-600）",
            "Error: Virtual machine not found.",
        ];
        shake(&seeds, 120_000, utmctl);
    }

    #[test]
    fn fuzz_multipass() {
        let seeds = [
            r#"{"errors":[],"info":{"foo":{"cpu_count":"1","disks":{"sda1":{"total":"5153960756","used":"1288490188"}},
            "ipv4":["10.168.32.2"],"load":[0.45],"memory":{"total":1503238554,"used":60817408},"state":"Running"}}}"#,
            r#"{"list":[{"ipv4":["N/A"],"name":"a","release":"Not Available","state":"Delayed Shutdown"},
            {"ipv4":["10.21.124.56","172.17.0.1"],"name":"b","state":"Running"},{"ipv4":[],"name":"c","state":"Deleted"}]}"#,
            r#"{"multipass":"1.16.3","multipassd":"1.16.2","update":{"title":"x"}}"#,
            r#"{"errors":[],"info":{"foo":{"clean":{"comment":"","parent":""},"s2":{}},"bar":{}}}"#,
        ];
        shake(&seeds, 200_000, multipass);
    }

    #[test]
    fn fuzz_leases() {
        let seeds = [
            "{\n\tname=ubuntu\n\tip_address=192.168.64.3\n\thw_address=ff,f1:f5:dd:7f:0:2:0:0:ab:11:cb:fb:30:b0:97:b6:3a:67\n\
             \tidentifier=ff,f1\n\tlease=0x678e2ce7\n}\n",
            "{\n\tname=kubemaster\n\tip_address=192.168.64.22\n\thw_address=1,52:54:0:eb:c4:7\n\tidentifier=1,52:54:0:eb:c4:7\n\
             \tlease=0x643f6f22\n}\n{\n\tip_address=192.168.64.9\n\thw_address=1,52:54:0:eb:c4:7\n\tlease=0x643f0000\n}\n",
        ];
        shake(&seeds, 80_000, leases);
    }

    #[test]
    fn fuzz_marks() {
        let seeds = [
            "motd [run-0123456789abcdef 4711]out",
            "[ask 0123456789abcdef]\n[run-0123456789abcdef 12]x[end-0123456789abcdef 7]Error from event: x",
            "text[end-0123456789abcdef 0]",
            "[ask 0123456789abcdef]sudo: a password is required\n",
            "text[end-01234[end-0123456789abcdef 137]",
        ];
        shake(&seeds, 11_000, marks);
    }

    #[test]
    fn fuzz_journal() {
        let lines = [
            r#"{"op":"run","version":3,"run":"r1","pid":7,"started":1700000000,"lock":"/tmp/l","dir":"/d"}"#,
            r#"{"op":"intent","name":"a","backend":"qemu","guest":"deb","dir":"/m","identity":{"uuid":"u","pid":null}}"#,
            r#"{"op":"known","name":"a","identity":{"uuid":"u","pid":9,"started":8},"console":"/m/console"}"#,
            r#"{"op":"reached","name":"a","address":"127.0.0.1:22","host_key":"ssh-ed25519 x"}"#,
            r#"{"op":"intent","name":"b","backend":"utm","guest":"mac","dir":"/n","identity":{},"adopted":{"name":"ci","was":"off"}}"#,
            r#"{"op":"kept","name":"b","address":"[::1]:22","host_key":null}"#,
            r#"{"op":"gone","name":"a","proof":"no such process"}"#,
            r#"{"op":"end"}"#,
        ];
        let seal = |json: &str| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        let whole: String = lines.map(seal).concat();
        let state = journal::replay(whole.as_bytes()).expect("readable");
        assert_eq!((state.open.len(), state.kept.len()), (0, 1), "the seed is a journal");
        let half: String = lines[..5].iter().map(|json| seal(json)).collect();
        shake(&[&whole, &half], 30_000, journal);
    }

    #[test]
    fn fuzz_config() {
        let seeds = [
            "[guests.deb]\nbackend = \"qemu\"\n[suites.smoke]\n[[suites.smoke.cases]]\nname = \"a\"\nrun = \"true\"\n",
            "[defaults]\ncpus = 3\nmemory = \"1GiB\"\n[guests.deb]\nbackend = \"qemu\"\nssh.password = { env = \"PW\" }\n\
             boot = { pattern = \"/login:/\" }\n[guests.deb.source]\npath = \".\"\nto = \"/home/ci/src\"\n\
             [suites.s]\nguests = [\"deb\"]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"x\"\ntimeout = \"2s\"\n",
            "guests.deb.cpus=2\nhost.slots=2\nsuites.smoke.cases.0.timeout=2s\nguests.deb.ssh.user=22.04\n",
            include_str!("../../../config.example.toml"),
        ];
        shake(&seeds, 1_200, config);
    }
}
