use super::*;
use std::{io::Write, time::Duration};
use vmdeck_model::evidence::ERRORS;

struct LogWorld {
    home: tempfile::TempDir,
    logs: LogPane,
}

impl LogWorld {
    async fn new(text: &str) -> Self {
        let home = tempfile::tempdir().expect("tempdir");
        let mut logs = LogPane::new(Waker::new(|| true), crate::host::tests::host());
        let path = home.path().join("console.log");
        std::fs::write(&path, text).expect("write");
        let guest = GuestId::new("deb").expect("name");
        logs.resize(10);
        logs.open(Some(LogSource { guest, label: "console".into(), path })).expect("open");
        let mut world = Self { home, logs };
        world.settle().await;
        world
    }

    /// Until everything that was written is indexed and searched.
    async fn settle(&mut self) {
        let size = std::fs::metadata(self.home.path().join("console.log")).expect("log").len();
        let all = async {
            loop {
                self.logs.refresh();
                let indexed = self.logs.file.as_ref().is_some_and(|f| f.index().bytes() >= size);
                let searched = !self.logs.search.iter().chain(self.logs.jumps.values()).any(LogSearch::is_busy);
                if indexed && searched && self.logs.waiting.is_none() {
                    break self.logs.refresh();
                }
                tokio::task::yield_now().await;
            }
        };
        crate::clock::within(Duration::from_secs(20), all).await.expect("settles");
    }

    async fn append(&mut self, text: &str) {
        let path = self.home.path().join("console.log");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("open");
        file.write_all(text.as_bytes()).expect("write");
        self.settle().await;
    }

    fn screen(&self) -> Vec<u64> {
        self.logs.window(10).iter().map(|l| l.number).collect()
    }
}

fn numbered(count: usize) -> String {
    (0..count).map(|i| format!("line {i}{}\n", if i % 100 == 7 { " ERROR here" } else { "" })).collect()
}

#[tokio::test]
async fn following_sticks_to_the_end_and_a_pause_never_moves() {
    let mut world = LogWorld::new(&numbered(1000)).await;
    assert_eq!(world.screen(), (990..1000).collect::<Vec<_>>());
    world.append("more\n").await;
    assert_eq!(world.screen().last(), Some(&1000));
    world.logs.step(-5);
    let before = world.screen();
    world.append(&numbered(5000)).await;
    assert_eq!((world.screen(), world.logs.unseen()), (before, 5000));
    world.logs.sideways(20);
    world.logs.set_follow(true);
    assert_eq!((world.screen().last(), world.logs.unseen(), world.logs.left), (Some(&6000), 0, 20));
}

#[tokio::test]
async fn a_search_keeps_the_context_counts_and_goes_round() {
    let mut world = LogWorld::new(&numbered(1000)).await;
    world.logs.go(0);
    world.logs.search_for("error");
    world.settle().await;
    assert_eq!((world.logs.at, world.logs.count().as_str()), (7, "error [1 of 10]"));
    assert_eq!(world.screen(), (0..10).collect::<Vec<_>>(), "the lines around it are still there");
    world.logs.next_match(false);
    assert_eq!((world.logs.at, world.logs.count().as_str()), (907, "error [10 of 10]"));
    world.logs.next_match(true);
    assert_eq!(world.logs.at, 7);
    world.logs.only = true;
    assert_eq!(world.screen(), [7, 107, 207, 307, 407, 507, 607, 707, 807, 907]);
    world.logs.step(2);
    assert_eq!(world.logs.at, 207);
    world.logs.search_for("");
    assert!(!world.logs.only && world.logs.count().is_empty());
}

#[tokio::test]
async fn errors_bookmarks_and_selection() {
    let mut world = LogWorld::new(&numbered(300)).await;
    world.logs.go(0);
    world.logs.next_like(ERRORS, true);
    world.settle().await;
    assert_eq!(world.logs.at, 7);
    world.logs.bookmark();
    world.logs.next_like(ERRORS, true);
    world.settle().await;
    assert_eq!(world.logs.at, 107);
    world.logs.next_bookmark(true);
    assert_eq!(world.logs.at, 7);
    assert!(world.logs.is_bookmarked(7) && !world.logs.is_bookmarked(8));
    world.logs.selected_from = Some(7);
    world.logs.step(-2);
    assert_eq!(world.logs.text(world.logs.selection()), "line 5\nline 6\nline 7 ERROR here");
    let to = world.home.path().join("saved");
    let log = world.logs.path().map(Path::to_owned);
    assert_eq!(save::save(&log, &to, &world.logs.part()).expect("saved"), 3);
    world.logs.selected_from = None;
    assert_eq!(save::save(&log, &to, &world.logs.part()).expect("saved"), 300);
}

#[tokio::test]
async fn a_replay_shows_only_what_was_there_then() {
    let world = LogWorld::new("one\ntwo\nthree\n").await;
    std::fs::write(world.home.path().join("console.times"), "0 0\n50 4\n90 8\n").expect("times");
    let path = world.home.path().join("console.log");
    let mut world = world;
    let source = LogSource { guest: GuestId::new("deb").expect("name"), label: "console".into(), path };
    world.logs.open(Some(source)).expect("open");
    world.settle().await;
    for (until, lines) in [(Some(10), 1), (Some(60), 2), (Some(1000), 3), (None, 3)] {
        world.logs.until_ms = until;
        assert_eq!(world.logs.range().1, lines, "{until:?}");
    }
    world.logs.times = TimeMode::Power;
    let times: Vec<_> = world.logs.read(0, 3).iter().map(|l| l.ms).collect();
    assert_eq!(times, [Some(0), Some(50), Some(90)]);
}

#[tokio::test]
async fn a_log_that_does_not_exist_yet_is_empty_and_then_there() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut logs = LogPane::new(Waker::new(|| true), crate::host::tests::host());
    let guest = GuestId::new("deb").expect("name");
    let path = home.path().join("console.log");
    logs.open(Some(LogSource { guest, label: "console".into(), path: path.clone() })).expect("open");
    assert!(logs.window(5).is_empty());
    logs.step(-1);
    logs.bookmark();
    std::fs::write(&path, "hello\n").expect("write");
    let mut world = LogWorld { home, logs };
    world.settle().await;
    assert_eq!(world.screen(), [0]);
}
