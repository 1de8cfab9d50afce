//! The lock against copies of itself, dead holders, old scripts and hostile paths.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use super::*;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use vmdeck_model::error::{Blame, Result};

fn request(dir: &Path, timeout_ms: u64) -> LockRequest {
    LockRequest {
        path: dir.join("lock.d"),
        shared: false,
        timeout: Duration::from_millis(timeout_ms),
        owner: owner(Some("r1")),
    }
}

async fn take(request: &LockRequest) -> Result<HostLock> {
    acquire(request, |_, _| {}, &CancellationToken::new()).await
}

fn plant(path: &Path, pid: Option<&str>) {
    fs::create_dir_all(path).expect("mkdir");
    if let Some(pid) = pid {
        fs::write(path.join("pid"), pid).expect("pid");
    }
}

/// How long a lock that is free by now may still look taken: a process that another test is just starting holds copies
/// of all descriptors until it becomes its program.
const COPIES: u64 = 5000;

/// Breaks a lock that is dead, once no copy of its descriptor is left.
async fn break_in_the_end(path: &Path, force: bool) -> Option<Holder> {
    loop {
        match break_dead(path, force) {
            Ok(broken) => return broken,
            Err(_) => clock::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Returns a pid that no process has.
fn dead_pid() -> String {
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let pid = child.id();
    child.wait().expect("ended");
    format!("{pid}\n")
}

#[tokio::test]
async fn the_second_waits_says_for_whom_and_gets_it_afterwards() {
    let home = tempfile::tempdir().expect("tempdir");
    let first = take(&request(home.path(), 1000)).await.expect("free");
    let told = Arc::new(AtomicU32::new(0));
    let heard = Arc::clone(&told);
    let second = request(home.path(), 5000);
    let waiter = tokio::spawn(async move {
        let tell = |holder: &Holder, _| {
            assert_eq!(holder.run.as_deref(), Some("r1"));
            assert_eq!(holder.pid, Some(pids::current()));
            heard.fetch_add(1, Ordering::SeqCst);
        };
        acquire(&second, tell, &CancellationToken::new()).await
    });
    while told.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    first.release();
    let lock = waiter.await.expect("task").expect("second");
    assert!(lock.is_ours());
    lock.release();
    assert!(fs::read_dir(home.path()).expect("dir").next().is_none(), "nothing stays behind");
}

#[tokio::test]
async fn a_live_lock_times_out_with_the_holder_named() {
    let home = tempfile::tempdir().expect("tempdir");
    let _held = take(&request(home.path(), 1000)).await.expect("free");
    let fault = take(&request(home.path(), 50)).await.expect_err("busy");
    assert_eq!(fault.blame(), Blame::Lock);
    assert!(fault.to_string().contains(&format!("process {}", pids::current())), "{fault}");
}

#[tokio::test]
async fn a_dead_holder_is_broken_at_once_whatever_its_pid_says() {
    let home = tempfile::tempdir().expect("tempdir");
    let lock = take(&request(home.path(), 1000)).await.expect("free");
    // As after SIGKILL: the descriptor is closed, the directory stays, with the pid of a live process.
    drop(lock);
    assert!(home.path().join("lock.d/owner.json").exists());
    take(&request(home.path(), COPIES)).await.expect("broken").release();
}

#[tokio::test]
async fn a_lock_that_looks_ancient_is_not_stolen_from_a_live_holder() {
    let home = tempfile::tempdir().expect("tempdir");
    let held = take(&request(home.path(), 1000)).await.expect("free");
    std::process::Command::new("touch").args(["-d", "2 hours ago"]).arg(held.path()).status().expect("touch");
    assert!(take(&request(home.path(), 50)).await.is_err());
    assert!(held.is_ours());
}

#[tokio::test]
async fn locks_of_the_old_scripts_are_judged_by_their_pid() {
    let check = |pid: Option<String>, free: bool| async move {
        let home = tempfile::tempdir().expect("tempdir");
        plant(&home.path().join("lock.d"), pid.as_deref());
        let got = take(&request(home.path(), if free { COPIES } else { 50 })).await;
        assert_eq!(got.is_ok(), free, "pid file {pid:?}");
    };
    check(Some(dead_pid()), true).await;
    check(Some(format!("{}\n", pids::current())), false).await;
    // Being made: no pid yet, or garbage that may be completed.
    check(None, false).await;
    check(Some("12\nextra".into()), false).await;
}

#[tokio::test]
async fn a_script_lock_with_a_reused_pid_is_dead() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    plant(&path, Some(&format!("{}\n", pids::current())));
    std::process::Command::new("touch").args(["-d", "3 days ago"]).arg(path.join("pid")).status().expect("touch");
    take(&request(home.path(), COPIES)).await.expect("the process began after the file was written");
}

#[tokio::test]
async fn a_link_or_file_at_the_path_is_refused_and_untouched() {
    let home = tempfile::tempdir().expect("tempdir");
    let decoy = home.path().join("decoy");
    fs::create_dir(&decoy).expect("mkdir");
    std::os::unix::fs::symlink(&decoy, home.path().join("lock.d")).expect("link");
    let fault = take(&request(home.path(), 50)).await.expect_err("a link");
    assert_eq!(fault.blame(), Blame::Host);
    assert!(fs::read_dir(&decoy).expect("dir").next().is_none());
    fs::remove_file(home.path().join("lock.d")).expect("rm");
    fs::write(home.path().join("lock.d"), "x").expect("file");
    assert!(take(&request(home.path(), 50)).await.is_err());
}

#[tokio::test]
async fn release_never_removes_somebody_elses_lock() {
    let home = tempfile::tempdir().expect("tempdir");
    let lock = take(&request(home.path(), 1000)).await.expect("free");
    fs::remove_dir_all(lock.path()).expect("a person follows bad advice");
    plant(&home.path().join("lock.d"), Some("1\n"));
    assert!(!lock.is_ours());
    lock.release();
    assert!(home.path().join("lock.d/pid").exists());
}

#[tokio::test(start_paused = true)]
async fn losing_it_is_noticed() {
    let home = tempfile::tempdir().expect("tempdir");
    let lock = take(&request(home.path(), 1000)).await.expect("free");
    fs::remove_dir_all(lock.path()).expect("removed");
    assert!(lock.watcher().until_lost().await.contains("removed"));
}

#[tokio::test(start_paused = true)]
async fn a_script_that_removes_a_fresh_lock_only_delays_us() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    let request = LockRequest { shared: true, ..request(home.path(), 60_000) };
    let start = clock::now();
    // The old script judged an older lock, and acts on that now.
    let thief = async {
        while !path.exists() {
            clock::sleep(Duration::from_millis(10)).await;
        }
        clock::sleep(Duration::from_millis(500)).await;
        fs::remove_dir_all(&path).expect("removed");
    };
    let (lock, ()) = tokio::join!(take(&request), thief);
    let lock = lock.expect("in the end");
    assert!(lock.is_ours() && start.elapsed() >= SETTLE + Duration::from_millis(500), "{:?}", start.elapsed());
    // Its rule of one hour cannot hit a time stamp that lies in the future.
    assert_eq!(lockdir::age(lock.fd()).expect("age"), Duration::ZERO);
    lock.release();
}

#[tokio::test]
async fn cancelling_the_wait_leaves_nothing() {
    let home = tempfile::tempdir().expect("tempdir");
    let held = take(&request(home.path(), 1000)).await.expect("free");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let second = request(home.path(), 60_000);
    let fault = acquire(&second, |_, _| {}, &cancel).await.expect_err("cancelled");
    assert_eq!(fault.blame(), Blame::Cancelled);
    held.release();
    assert!(fs::read_dir(home.path()).expect("dir").next().is_none());
}

#[tokio::test]
async fn slots_are_shared_out_and_the_next_one_waits() {
    let home = tempfile::tempdir().expect("tempdir");
    let never = CancellationToken::new();
    let request = request(home.path(), 300);
    let first = acquire_slots(&request, 3, 2, |_, _| {}, &never).await.expect("two of three");
    let second = acquire_slots(&request, 3, 2, |_, _| {}, &never).await.expect("the third");
    assert_eq!((first.len(), second.len()), (2, 1));
    let fault = acquire_slots(&request, 3, 1, |_, _| {}, &never).await.expect_err("none left");
    assert_eq!(fault.blame(), Blame::Lock);
    first.into_iter().for_each(HostLock::release);
    assert!(acquire_slots(&request, 3, 1, |_, _| {}, &never).await.is_ok());
}

#[tokio::test]
async fn breaking_refuses_the_living() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    let held = take(&request(home.path(), 1000)).await.expect("free");
    assert!(break_dead(&path, true).is_err(), "a flock is proof of life, --force or not");
    drop(held);
    assert!(break_in_the_end(&path, false).await.is_some());
    assert!(!path.exists() && break_dead(&path, false).expect("free").is_none());
    plant(&path, Some(&format!("{}\n", pids::current())));
    assert!(break_dead(&path, false).is_err());
    assert!(break_in_the_end(&path, true).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_over_a_dead_lock_never_overlap() {
    let home = tempfile::tempdir().expect("tempdir");
    let inside = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (request, inside) = (request(home.path(), 60_000), Arc::clone(&inside));
        tasks.spawn(async move {
            for turn in 0..20 {
                let lock = acquire::at_any_price(&request).await;
                assert!(!inside.swap(true, Ordering::SeqCst), "two inside");
                tokio::task::yield_now().await;
                assert!(lock.is_ours());
                inside.store(false, Ordering::SeqCst);
                // Every other holder dies instead of releasing.
                if turn % 2 == 0 { lock.release() } else { drop(lock) }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no overlap");
    }
}

/// Puts something hostile in a record's place.
fn plant_trap(path: &Path, trap: &str) {
    use rustix::fs::{CWD, FileType, Mode};
    match trap {
        "fifo" => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("fifo"),
        "folder" => fs::create_dir(path).expect("folder"),
        "sparse" => fs::File::create(path).and_then(|file| file.set_len(3 << 30)).expect("sparse"),
        link => std::os::unix::fs::symlink(link, path).expect("link"),
    }
}

#[tokio::test]
async fn whatever_lies_in_a_foreign_lock_is_judged_at_once() {
    for trap in ["fifo", "folder", "sparse", "/dev/zero", "/dev/tty", "pid"] {
        for name in ["pid", "owner.json"] {
            let home = tempfile::tempdir().expect("tempdir");
            let path = home.path().join("lock.d");
            plant(&path, None);
            plant_trap(&path.join(name), trap);
            let start = clock::now();
            if trap == "sparse" {
                // A file, and not one that a lock has: nobody's to remove.
                assert!(look(&path).is_err() && break_dead(&path, true).is_err(), "{trap} as {name}");
                assert!(take(&request(home.path(), 50)).await.is_err() && path.exists(), "{trap} as {name}");
                continue;
            }
            // No pid that can be read: it is being made, and nobody's yet.
            assert!(matches!(look(&path).expect("looked"), Standing::Live(_)), "{trap} as {name}");
            assert!(break_dead(&path, false).is_err(), "{trap} as {name}");
            let fault = take(&request(home.path(), 50)).await.expect_err("busy");
            assert_eq!(fault.blame(), Blame::Lock, "{trap} as {name}: {fault}");
            assert!(break_in_the_end(&path, true).await.is_some(), "{trap} as {name}");
            assert!(start.elapsed() < Duration::from_secs(4), "{trap} as {name} took {:?}", start.elapsed());
        }
    }
}

#[tokio::test]
async fn who_came_first_is_served_first() {
    let home = tempfile::tempdir().expect("tempdir");
    let held = take(&request(home.path(), 1000)).await.expect("free");
    let served = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut waiters = tokio::task::JoinSet::new();
    for turn in 0..6 {
        let (request, served) = (request(home.path(), 60_000), Arc::clone(&served));
        let (waits, mut waiting) = tokio::sync::watch::channel(false);
        waiters.spawn(async move {
            let tell = |_: &Holder, _| {
                waits.send_replace(true);
            };
            let lock = acquire(&request, tell, &CancellationToken::new()).await.expect("in turn");
            served.lock().push(turn);
            lock.release();
        });
        waiting.wait_for(|waits| *waits).await.expect("it waits");
    }
    // A ticket of a process that was killed holds nobody up.
    let queue = queue::folder_of(&home.path().join("lock.d"));
    fs::write(queue.join("00000000000000000001-1-dead"), "").expect("ticket");
    held.release();
    while let Some(done) = waiters.join_next().await {
        done.expect("served");
    }
    assert_eq!(*served.lock(), [0, 1, 2, 3, 4, 5]);
    assert!(fs::read_dir(home.path()).expect("dir").next().is_none(), "the queue is gone with its last waiter");
}

#[tokio::test]
async fn a_change_of_the_lock_and_of_its_queue_is_told_and_nothing_else() {
    let home = tempfile::tempdir().expect("tempdir");
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let _watch = LockWatch::new(&home.path().join("lock.d"), move || {
        let _ = send.send(());
    });
    let mut comes = async || clock::within(Duration::from_secs(20), told.recv()).await.flatten().is_some();
    let held = take(&request(home.path(), 10_000)).await.expect("held");
    assert!(comes().await, "taken");
    let ticket = queue::Ticket::take(&home.path().join("lock.d"), &Holder::default()).expect("ticket");
    assert!(comes().await, "somebody waits");
    drop(ticket);
    held.release();
    assert!(comes().await, "released");
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let _other = LockWatch::new(&home.path().join("lock.d"), move || {
        let _ = send.send(());
    });
    fs::write(home.path().join("another file"), "").expect("write");
    fs::create_dir(home.path().join("lock.d.1")).expect("a slot");
    told.recv().await.expect("the slot");
    assert!(told.try_recv().is_err(), "the other file is none of it");
}

#[tokio::test]
async fn who_waits_is_told_in_their_order_and_nothing_is_changed() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    assert_eq!(waiting(&path), []);
    let owner = |run: &str| Holder { run: Some(run.into()), command: Some("vmdeck --ci".into()), ..owner(None) };
    let first = queue::Ticket::take(&path, &owner("1111")).expect("ticket");
    let second = queue::Ticket::take(&path, &owner("2222")).expect("ticket");
    let folder = queue::folder_of(&path);
    fs::write(folder.join("00000000000000000001-1-dead"), "{}").expect("a ticket of nobody");
    fs::write(folder.join(".0-1-x"), "").expect("one that is not ready");
    // One that lives and tells nonsense.
    let odd = fs::File::create(folder.join("99999999999999999999-77-odd")).expect("ticket");
    rustix::fs::flock(&odd, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("flock");
    io::Write::write_all(&mut &odd, &[b'{'; 9000]).expect("write");
    let seen = waiting(&path);
    let runs: Vec<Option<&str>> = seen.iter().map(|waiter| waiter.run.as_deref()).collect();
    assert_eq!(runs, [Some("1111"), Some("2222"), None]);
    assert_eq!((seen[0].pid, seen[2].pid), (Some(std::process::id()), Some(77)));
    drop(first);
    assert_eq!(waiting(&path)[0].run.as_deref(), Some("2222"));
    assert!(folder.join("00000000000000000001-1-dead").exists() && second.is_there());
}

#[tokio::test]
async fn who_is_first_and_does_not_go_is_passed_over() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    let stopped = queue::Ticket::take(&path, &Holder::default()).expect("ticket");
    let start = clock::now();
    for _ in 0..3 {
        take(&request(home.path(), 10_000)).await.expect("passed over").release();
    }
    assert!(start.elapsed() < Duration::from_millis(1800), "once, and not at every turn: {:?}", start.elapsed());
    assert!(!stopped.is_there(), "when it wakes up it comes last");
}

#[tokio::test(start_paused = true)]
async fn a_hostile_queue_does_not_stop_anybody() {
    for trap in ["fifo", "folder", "sparse", "/dev/zero", "/nowhere"] {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("lock.d");
        plant_trap(&queue::folder_of(&path), trap);
        plant_trap(&home.path().join("lock.d.last"), trap);
        let shared = LockRequest { shared: true, ..request(home.path(), 60_000) };
        let start = clock::now();
        take(&shared).await.expect(trap).release();
        take(&request(home.path(), 60_000)).await.expect(trap).release();
        assert!(start.elapsed() < SETTLE * 3, "{trap} took {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_scripts_get_their_turn_after_each_release() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("lock.d");
    let shared = LockRequest { shared: true, ..request(home.path(), 120_000) };
    let first = take(&shared).await.expect("free");
    let ours = take(&shared);
    // The script looks every 2 s, makes the folder when there is none, and works for a second.
    let script = async {
        loop {
            clock::sleep(Duration::from_secs(2)).await;
            if fs::create_dir(&path).is_ok() {
                break;
            }
        }
        fs::write(path.join("pid"), format!("{}\n", pids::current())).expect("pid");
        clock::sleep(Duration::from_secs(1)).await;
        fs::remove_dir_all(&path).expect("released");
        clock::now()
    };
    first.release();
    let (ours, scripted) = tokio::join!(ours, script);
    let ours = ours.expect("afterwards");
    assert!(scripted < clock::now(), "the script came before us");
    ours.release();
}

#[tokio::test]
async fn a_folder_of_other_things_is_no_lock_and_never_removed() {
    for precious in ["precious", "pid/precious", ".hidden", "owner.json", "pid"] {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("lock.d").join(precious);
        fs::create_dir_all(file.parent().expect("parent")).expect("mkdir");
        fs::write(&file, "some notes of somebody, longer than any pid and no record of ours: [1, 2, 3]")
            .expect("write");
        std::process::Command::new("touch")
            .args(["-d", "3 days ago"])
            .arg(home.path().join("lock.d"))
            .status()
            .expect("touch");
        let fault = take(&request(home.path(), 50)).await.expect_err("no lock");
        assert_eq!(fault.blame(), Blame::Host);
        assert!(fault.to_string().contains("other things"), "{fault}");
        for force in [false, true] {
            assert!(break_dead(&home.path().join("lock.d"), force).is_err());
        }
        assert!(file.exists(), "{precious}");
    }
}

#[tokio::test]
async fn what_killed_waiters_left_of_the_queue_goes_with_the_next_lock() {
    let home = tempfile::tempdir().expect("tempdir");
    let queue = queue::folder_of(&home.path().join("lock.d"));
    fs::create_dir(&queue).expect("mkdir");
    fs::write(queue.join("00000000000000000001-1-dead"), "").expect("ticket");
    take(&request(home.path(), 1000)).await.expect("free").release();
    assert!(fs::read_dir(home.path()).expect("dir").next().is_none());
}
