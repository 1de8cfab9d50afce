//! Admission over a real folder: who gets memory, who waits, and what the kernel says of the dead.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use super::{
    book::{folder_of, read},
    entry::{EntryState, MemoryEntry},
    *,
};
use crate::{
    backend::record::MachineId,
    engine::{events::EventSender, sample},
    host::{clock, pids},
};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Result},
    event::EventKind,
    guest::Guest,
    ids::{GuestId, RunId},
    plan::RunOptions,
};

const GIB: u64 = 1 << 30;

/// A host whose free memory and disk are what a test says.
#[derive(Default)]
struct FakeMeter {
    memory: AtomicU64,
    disk: AtomicU64,
}

impl Meter for FakeMeter {
    fn total_memory(&self) -> Option<u64> {
        None
    }

    fn free_memory(&self) -> Option<u64> {
        Some(self.memory.load(Ordering::Relaxed))
    }

    fn free_disk(&self, _: &Path) -> Option<u64> {
        Some(self.disk.load(Ordering::Relaxed))
    }

    fn memory_stall(&self) -> Option<f32> {
        None
    }
}

/// A host, and the runs on it.
struct Bench {
    home: tempfile::TempDir,
    meter: Arc<FakeMeter>,
}

impl Bench {
    fn new(free: u64) -> Self {
        let meter = FakeMeter { memory: (free * GIB).into(), disk: u64::MAX.into() };
        Self { home: tempfile::tempdir().expect("tempdir"), meter: Arc::new(meter) }
    }

    fn lock(&self) -> PathBuf {
        self.home.path().join("lock.d")
    }

    fn run(&self, number: u64, limit: Option<u64>) -> (Admission, mpsc::UnboundedReceiver<EventKind>) {
        let host = HostConfig { lock: self.lock(), memory: limit, min_free_disk: 1, ..sample::host() };
        let plan = vmdeck_model::plan::Plan {
            run: RunId::from_bits(number),
            config: None,
            folder: PathBuf::new(),
            dir: PathBuf::new(),
            host,
            options: RunOptions::default(),
            jobs: Vec::new(),
            selection: Vec::new(),
            quarantine: vmdeck_model::quarantine::Quarantine::default(),
            usual_ms: BTreeMap::new(),
            part: vmdeck_model::shard::RunPart::default(),
        };
        let (events, told) = EventSender::new(Arc::default());
        let meter: Arc<dyn Meter> = Arc::clone(&self.meter) as Arc<dyn Meter>;
        (Admission::new(&plan, self.home.path().to_owned(), meter, events), told)
    }

    fn standing(&self) -> MemoryStanding {
        look(&HostConfig { lock: self.lock(), ..sample::host() }, self.meter.as_ref())
    }

    fn is_clean(&self) -> bool {
        !folder_of(&self.lock()).exists()
    }
}

fn guest(name: &str, gib: u64) -> Guest {
    let mut guest = crate::backend::sample::guest(&[]);
    (guest.id, guest.memory) = (GuestId::new(name).expect("name"), gib * GIB);
    guest
}

async fn take(run: &Admission, guests: &[&Guest]) -> Result<BTreeMap<GuestId, Arc<Reservation>>> {
    run.reserve(guests, &CancellationToken::new()).await
}

fn waits(told: &mut mpsc::UnboundedReceiver<EventKind>) -> Vec<(u64, usize, usize)> {
    let mut out = Vec::new();
    while let Ok(kind) = told.try_recv() {
        if let EventKind::MemoryWaiting { left, place, promised, .. } = kind {
            out.push((left / GIB, place, promised.len()));
        }
    }
    out
}

#[tokio::test(start_paused = true)]
async fn who_has_no_room_waits_and_is_told_and_the_folder_goes_with_the_last() {
    let bench = Bench::new(6);
    let ((one, _), (two, mut told)) = (bench.run(1, None), bench.run(2, None));
    let (a, b) = (guest("a", 4), guest("b", 3));
    let first = take(&one, &[&a]).await.expect("there is room");
    let waiting = tokio::spawn(async move { take(&two, &[&b]).await.map(|_held| waits(&mut told)) });
    clock::sleep(Duration::from_secs(25)).await;
    let standing = bench.standing();
    assert_eq!((standing.promised.len(), standing.waiting.len(), standing.left), (1, 1, Some(2 * GIB)));
    assert_eq!(standing.promised[0].whose(), format!("`a` of run {}", &RunId::from_bits(1).to_string()[..8]));
    drop(first);
    let told = waiting.await.expect("no panic").expect("in turn");
    assert_eq!(told, [(2, 1, 1); 3], "at once, and every ten seconds");
    assert!(bench.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_has_stays_while_its_process_lives_whatever_becomes_of_its_run() {
    let bench = Bench::new(4);
    let (one, _) = bench.run(1, None);
    let (a, b) = (guest("a", 4), guest("b", 1));
    let held = take(&one, &[&a]).await.expect("there is room");
    // As a machine's process has it.
    let copy = held[&a.id].descriptor().expect("open").try_clone().expect("copy");
    held[&a.id].note_machine(Some(&MachineId { pid: Some(u32::MAX), started: Some(1), ..MachineId::default() })).await;
    held[&a.id].leave(Path::new("/nowhere")).await;
    drop(held);
    let (mut two, _) = bench.run(2, None);
    two.host.lock_timeout = Duration::from_secs(3);
    let late = take(&two, &[&b]).await.expect_err("the other still has it");
    assert_eq!(late.blame(), Blame::Infra);
    let text = late.render();
    assert!(text.contains("0B can be had; `a` of run") && text.contains("vmdeck down GUEST"), "{text}");
    drop(copy);
    assert!(take(&two, &[&b]).await.is_ok());
    assert!(bench.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_kept_machine_of_a_provider_has_its_memory_as_long_as_its_journal_is_there() {
    let bench = Bench::new(4);
    let (one, _) = bench.run(1, None);
    let (a, b) = (guest("a", 4), guest("b", 1));
    let journal = bench.home.path().join("run.journal");
    fs::write(&journal, "").expect("journal");
    let held = take(&one, &[&a]).await.expect("there is room");
    held[&a.id].leave(&journal).await;
    drop(held);
    assert_eq!(bench.standing().promised.len(), 1);
    sweep(&bench.lock());
    assert_eq!(bench.standing().promised.len(), 1);
    fs::remove_file(&journal).expect("taken down");
    assert!(take(&one, &[&b]).await.is_ok());
    assert!(bench.is_clean());
}

#[tokio::test(start_paused = true)]
async fn all_machines_of_a_job_get_their_memory_together_or_none_does() {
    let bench = Bench::new(8);
    let ((one, _), (two, _)) = (bench.run(1, None), bench.run(2, None));
    let (a, b, c) = (guest("a", 5), guest("b", 2), guest("c", 3));
    let held = take(&one, &[&a]).await.expect("there is room");
    let waiting = tokio::spawn(async move { take(&two, &[&b, &c]).await });
    clock::sleep(Duration::from_secs(5)).await;
    let standing = bench.standing();
    assert_eq!((standing.promised.len(), standing.waiting[0].memory), (1, 5 * GIB));
    drop(held);
    let both = waiting.await.expect("no panic").expect("in turn");
    let sizes: Vec<u64> = bench.standing().promised.iter().map(|one| one.memory / GIB).collect();
    assert_eq!((both.len(), sizes.iter().sum::<u64>(), sizes.len()), (2, 5, 2));
    drop(both);
    assert!(bench.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_wait_and_leaves_no_ticket() {
    let bench = Bench::new(2);
    let ((one, _), (two, _)) = (bench.run(1, None), bench.run(2, None));
    let (a, b) = (guest("a", 2), guest("b", 1));
    let held = take(&one, &[&a]).await.expect("there is room");
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    let waiting = tokio::spawn(async move { two.reserve(&[&b], &asked).await.map(drop) });
    clock::sleep(Duration::from_secs(3)).await;
    cancel.cancel();
    assert_eq!(waiting.await.expect("no panic").expect_err("cancelled").blame(), Blame::Cancelled);
    assert_eq!(bench.standing().waiting.len(), 0);
    drop(held);
    assert!(bench.is_clean());
}

#[tokio::test(start_paused = true)]
async fn without_disk_space_nobody_starts() {
    let bench = Bench::new(9);
    let (one, mut told) = bench.run(1, None);
    let a = guest("a", 1);
    bench.meter.disk.store(0, Ordering::Relaxed);
    let waiting = tokio::spawn(async move { take(&one, &[&a]).await.map(drop) });
    clock::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    let mut texts = Vec::new();
    while let Ok(kind) = told.try_recv() {
        if let EventKind::Progress { text, .. } = kind {
            texts.push(text);
        }
    }
    assert!(texts.len() == 1 && texts[0].starts_with("guest `a` waits for disk space: 0B free at"), "{texts:?}");
    bench.meter.disk.store(1, Ordering::Relaxed);
    waiting.await.expect("no panic").expect("there is room");
}

#[tokio::test(start_paused = true)]
async fn what_strangers_put_into_the_book_neither_counts_nor_holds_anybody_up() {
    let bench = Bench::new(4);
    let folder = folder_of(&bench.lock());
    fs::create_dir(&folder).expect("mkdir");
    let dead = MemoryEntry { state: EntryState::Held, ..MemoryEntry::wanted("dead", vec!["x".into()], 4 * GIB) };
    fs::write(folder.join("00000000000000000001-1-dead"), dead.bytes()).expect("dead");
    fs::write(folder.join("00000000000000000002-1-long"), vec![b'x'; 1 << 20]).expect("long");
    fs::create_dir(folder.join("00000000000000000003-1-dir")).expect("dir");
    std::os::unix::fs::symlink("/dev/zero", folder.join("00000000000000000004-1-link")).expect("link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("00000000000000000005-1-pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .expect("pipe");
    // One that lives, says nothing that can be read, and waits for ever.
    let live = fs::File::create(folder.join("00000000000000000006-1-live")).expect("live");
    rustix::fs::flock(&live, rustix::fs::FlockOperation::LockExclusive).expect("flock");
    // And one that waits for what this host never has.
    let huge = fs::File::create(folder.join("00000000000000000007-1-huge")).expect("huge");
    rustix::fs::flock(&huge, rustix::fs::FlockOperation::LockExclusive).expect("flock");
    let wants = MemoryEntry::wanted("huge", vec!["y".into()], u64::MAX);
    fs::write(folder.join("00000000000000000007-1-huge"), wants.bytes()).expect("huge");
    let (one, _) = bench.run(1, None);
    let a = guest("a", 4);
    let start = clock::now();
    take(&one, &[&a]).await.expect("nothing of that counts");
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(!folder.join("00000000000000000001-1-dead").exists(), "nobody's is removed");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_go_when_it_could_is_passed_over() {
    let bench = Bench::new(4);
    let folder = folder_of(&bench.lock());
    fs::create_dir(&folder).expect("mkdir");
    let path = folder.join("00000000000000000001-1-stopped");
    let stopped = fs::File::create(&path).expect("ticket");
    rustix::fs::flock(&stopped, rustix::fs::FlockOperation::LockExclusive).expect("flock");
    fs::write(&path, MemoryEntry::wanted("stopped", vec!["x".into()], GIB).bytes()).expect("ticket");
    let (one, _) = bench.run(1, None);
    let a = guest("a", 4);
    let start = clock::now();
    take(&one, &[&a]).await.expect("passed over");
    assert!((1..=4).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn a_holder_that_is_killed_has_nothing_any_more() {
    let bench = Bench::new(4);
    let folder = folder_of(&bench.lock());
    fs::create_dir(&folder).expect("mkdir");
    let entry = MemoryEntry { state: EntryState::Held, ..MemoryEntry::wanted("r", vec!["x".into()], 3 * GIB) };
    let ticket = folder.join("00000000000000000001-1-held");
    fs::write(&ticket, entry.bytes()).expect("ticket");
    // `flock` holds it for `sleep`, as a machine's process does.
    let mut holder = std::process::Command::new("flock")
        .arg(&ticket)
        .args(["sleep", "1000"])
        .stdin(std::process::Stdio::null())
        .spawn()
        .expect("flock");
    let asleep = || pids::below(holder.id()).into_iter().find(|process| process.has_arg("sleep"));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while bench.standing().promised.is_empty() || asleep().is_none() {
        assert!(std::time::Instant::now() < deadline, "it holds the ticket");
    }
    let sleeper = asleep().expect("asleep");
    holder.kill().expect("killed");
    holder.wait().expect("collected");
    assert_eq!(bench.standing().left, Some(GIB), "its child still has it");
    let pid = rustix::process::Pid::from_raw(i32::try_from(sleeper.pid).expect("pid")).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    while pids::lookup(sleeper.pid).is_some() {}
    assert_eq!(bench.standing().left, Some(4 * GIB));
    sweep(&bench.lock());
    assert!(bench.is_clean());
}

/// Many runs that want more than there is, each cancelled or done at random: at no time is more promised than there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_never_has_more_than_there_is_and_everybody_is_served() {
    let bench = Arc::new(Bench::new(u64::MAX / GIB));
    let held = Arc::new(AtomicU64::new(0));
    let (most, limit) = (Arc::new(AtomicU64::new(0)), 8);
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..12_u64 {
        let (bench, held, most) = (Arc::clone(&bench), Arc::clone(&held), Arc::clone(&most));
        crowd.spawn(async move {
            let (run, _told) = bench.run(number, Some(limit * GIB));
            for turn in 0..2 {
                let size = 1 + (number * 7 + turn * 3) % 5;
                let one = guest("a", size);
                let part = take(&run, &[&one]).await.expect("served");
                let now = held.fetch_add(size, Ordering::SeqCst) + size;
                most.fetch_max(now, Ordering::SeqCst);
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
                held.fetch_sub(size, Ordering::SeqCst);
                drop(part);
            }
        });
    }
    while let Some(done) = crowd.join_next().await {
        done.expect("no panic");
    }
    let most = most.load(Ordering::SeqCst);
    assert!(most <= limit && most >= 5, "{most} of {limit}");
    assert!(bench.is_clean());
    let folder = crate::host::tickets::TicketFolder::make(&folder_of(&bench.lock())).expect("folder");
    assert!(read(&folder, true).promised.is_empty());
}
