//! The whole cockpit on a screen without a terminal: keys go in, a fake engine writes a record, pictures come out.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use crossterm::event::{Event as TermEvent, KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use std::{
    fs,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc, oneshot},
};
use vmdeck_core::host::process::Spawner;
use vmdeck_model::{error::Result, event::Holder, exit::RunExit};
use vmdeck_testkit::cockpit::{FakeServices, empty_setup, plain_look};
use vmdeck_tui::{
    effect_runner::EffectRunner,
    event_loop::App,
    host_state::{LockRow, LockState},
    model::{Model, RecordSource, RunRequest},
    msg::Effect,
    replay::Player,
    screen::Screen,
    services::{Engine, Services},
    view,
};

/// How long a picture may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

// --- a screen without a terminal -------------------------------------------------------------------------------------

#[derive(Clone)]
struct ShownScreen {
    terminal: Arc<Mutex<Terminal<TestBackend>>>,
    drawn: Arc<Notify>,
    written: Arc<Mutex<Vec<u8>>>,
    given_back: Arc<Mutex<u32>>,
}

struct TestScreen {
    shown: ShownScreen,
    keys: mpsc::UnboundedReceiver<TermEvent>,
}

impl Screen for TestScreen {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        let mut terminal = self.shown.terminal.lock().expect("lock");
        terminal.draw(|frame| view::view(model, frame)).expect("drawn");
        self.shown.drawn.notify_waiters();
        Ok(())
    }

    async fn next(&mut self) -> Option<TermEvent> {
        self.keys.recv().await
    }

    fn leave(&mut self) {
        *self.shown.given_back.lock().expect("lock") += 1;
    }

    fn enter(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) {
        self.shown.written.lock().expect("lock").extend_from_slice(bytes);
    }

    fn mouse(&mut self, _: bool) {}

    fn size(&self) -> (u16, u16) {
        (120, 40)
    }
}

// --- an engine that only writes a record -----------------------------------------------------------------------------

struct FakeRun {
    dir: PathBuf,
    request: RunRequest,
    commands: mpsc::UnboundedReceiver<String>,
    ended: Option<oneshot::Sender<(Option<RunExit>, String)>>,
    seq: u64,
}

impl FakeRun {
    /// Writes events: each the part after `elapsed_ms`.
    fn tell(&mut self, ms: u64, kinds: &[&str]) {
        let path = self.dir.join("events.jsonl");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("record");
        for kind in kinds {
            self.seq += 1;
            let at = chrono::Utc::now().to_rfc3339();
            writeln!(file, r#"{{"seq":{},"at":"{at}","elapsed_ms":{ms},{kind}}}"#, self.seq).expect("write");
        }
    }

    fn console(&self, text: &str) {
        let dir = self.dir.join("guests/deb");
        fs::create_dir_all(&dir).expect("folder");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(dir.join("console.log")).expect("log");
        file.write_all(text.as_bytes()).expect("write");
    }

    fn begin(&mut self) {
        let run = r#""kind":"run_started","run":"abcdef0123456789","version":"0","host":"h","dir":"/r","selection":[],"cases":2,"guests":[{"guest":"deb","backend":"qemu","os":"linux","isolated":true,"cases":2,"names":["smoke/install","smoke/remove"]}]"#;
        self.tell(0, &[run, r#""kind":"lock_held","path":"/l","waited_ms":0"#]);
    }

    fn boot(&mut self) {
        self.tell(
            100,
            &[
                r#""kind":"guest_state","guest":"deb","from":"NotCreated","to":"Created","why":"w","machine":"vmdeck-x""#,
                r#""kind":"phase_started","guest":"deb","phase":"firmware","usual_ms":500"#,
            ],
        );
    }

    fn end(&mut self, ms: u64, exit: RunExit) {
        let tally = r#"{"passed":0,"failed":0,"infra":0,"skipped":0,"cancelled":0,"flaky":0}"#;
        let code = exit.code();
        self.tell(
            ms,
            &[&format!(r#""kind":"run_ended","tally":{tally},"exit":{code},"took_ms":{ms},"skipped_output":0"#)],
        );
        if let Some(ended) = self.ended.take() {
            let _ = ended.send((Some(exit), String::new()));
        }
    }

    async fn command(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.commands.recv()).await.expect("in time").expect("a command")
    }
}

/// Starts fake engines: each is handed to the test.
fn engines(home: &Path, runs: mpsc::UnboundedSender<FakeRun>) -> impl Fn(&RunRequest) -> Result<Engine> + use<> {
    let (home, count) = (home.to_owned(), Mutex::new(0));
    move |request| {
        let mut count = count.lock().expect("lock");
        *count += 1;
        let dir = home.join(format!("run-{count}"));
        fs::create_dir_all(&dir).expect("folder");
        let (commands, lines) = mpsc::unbounded_channel();
        let (ended, end) = oneshot::channel();
        let run = FakeRun { dir: dir.clone(), request: request.clone(), commands: lines, ended: Some(ended), seq: 0 };
        runs.send(run).expect("the test listens");
        Ok(Engine { dir, commands, ended: end })
    }
}

// --- a test's hands and eyes -----------------------------------------------------------------------------------------

struct CockpitWorld {
    home: tempfile::TempDir,
    fake: Arc<FakeServices>,
    shown: ShownScreen,
    type_in: mpsc::UnboundedSender<TermEvent>,
    runs: mpsc::UnboundedReceiver<FakeRun>,
}

impl CockpitWorld {
    fn text(&self) -> String {
        let terminal = self.shown.terminal.lock().expect("lock");
        let buffer = terminal.backend().buffer();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..buffer.area.height).map(|y| row(y) + "\n").collect()
    }

    async fn see(&self, wanted: &str) {
        let seen = async {
            loop {
                let next = self.shown.drawn.notified();
                if self.text().contains(wanted) {
                    return;
                }
                next.await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, seen).await.is_ok();
        assert!(came, "`{wanted}` never came:\n{}", self.text());
    }

    fn press(&self, words: &str) {
        for word in words.split(' ') {
            let (mods, name) =
                word.strip_prefix("ctrl-").map_or((KeyModifiers::NONE, word), |n| (KeyModifiers::CONTROL, n));
            let code = match name {
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                name => KeyCode::Char(name.chars().next().expect("key")),
            };
            self.type_in.send(TermEvent::Key(KeyEvent::new(code, mods))).expect("the cockpit reads");
        }
    }

    async fn run(&mut self) -> FakeRun {
        tokio::time::timeout(PATIENCE, self.runs.recv()).await.expect("in time").expect("a run")
    }
}

/// Opens a cockpit, lets the test act, and expects the cockpit to end by itself after it.
async fn cockpit<F: Future<Output = ()>>(
    with: impl FnOnce(&FakeServices, &mut Model),
    test: impl FnOnce(CockpitWorld) -> F,
) {
    let home = tempfile::tempdir().expect("tempdir");
    let (runs_in, runs) = mpsc::unbounded_channel();
    let fake = Arc::new(FakeServices::new(home.path(), Box::new(engines(home.path(), runs_in))));
    *fake.setup.lock().expect("lock") = Some(empty_setup());
    let shown = ShownScreen {
        terminal: Arc::new(Mutex::new(Terminal::new(TestBackend::new(120, 40)).expect("terminal"))),
        drawn: Arc::default(),
        written: Arc::default(),
        given_back: Arc::default(),
    };
    let (type_in, keys) = mpsc::unbounded_channel();
    let screen = TestScreen { shown: shown.clone(), keys };
    let (send, receive) = mpsc::channel(256);
    let host: Arc<dyn vmdeck_tui::host::Host> =
        Arc::new(vmdeck::app::LocalHost::new(Spawner::new(None).expect("spawner")));
    let mut model = Model::new(plain_look(), EffectRunner::waker(send.clone()), Arc::clone(&host), (120, 40));
    with(&fake, &mut model);
    let services = Arc::clone(&fake) as Arc<dyn Services>;
    let mut app = App::new(model, screen, services, host, (send, receive), None);
    let first = if app.model().shown.player.is_some() {
        Vec::new()
    } else {
        vec![Effect::LoadSetup, Effect::LookAtLock { attach: true }]
    };
    let test = test(CockpitWorld { home, fake, shown, type_in, runs });
    let (ended, ()) = tokio::join!(app.run(first), test);
    ended.expect("the cockpit ends well");
}

// --- stories ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_fails_one_looks_goes_in_runs_again_and_it_passes() {
    cockpit(
        |_, _| {},
        |mut world| async move {
            world.see("no run yet").await;
            world.press(": s t a r t enter");
            world.see("there is no guest to start").await;
            // The config of this cockpit has no guests: the run itself tells of them.
            world.fake.start(&RunRequest::default()).expect("started");
            let mut first = world.run().await;
            *world.fake.record.lock().expect("lock") = Some(first.dir.clone());
            first.begin();
            let holder = Holder { pid: Some(7), run: Some("r".into()), ..Default::default() };
            let row = LockRow { path: "/l".into(), state: LockState::Held, holder: Some(holder) };
            world.fake.locks.lock().expect("lock").push(row);
            world.press(": r e l o a d enter");
            world.see("run abcdef01 of process 7").await;
            world.see("VIEW ONLY").await;
            first.boot();
            first.console("SeaBIOS\r\n[    0.0] Linux version 6.1\r\nKernel panic - not syncing\r\n");
            world.see("Kernel panic").await;
            first.tell(900, &[r#""kind":"phase_ended","guest":"deb","phase":"firmware","ok":false,"took_ms":800"#]);
            world.see("deb did not boot").await;
            first.tell(1000, &[
                r#""kind":"case_ended","guest":"deb","suite":"smoke","case":"install","round":1,"verdict":"infra","exit":null,"took_ms":0,"message":"cannot boot","stdout_tail":"","stderr_tail":"""#,
            ]);
            first.end(1100, RunExit::Infra);
            world.see("ended, exit 5").await;
            // It is over: what failed can be run again, as a run of our own.
            world.fake.locks.lock().expect("lock").clear();
            world.press("1 R");
            let mut second = world.run().await;
            assert_eq!(second.request.select, ["smoke/install@deb"]);
            second.begin();
            second.boot();
            second.tell(300, &[
                r#""kind":"phase_ended","guest":"deb","phase":"firmware","ok":true,"took_ms":200"#,
                r#""kind":"phase_started","guest":"deb","phase":"first_command""#,
                r#""kind":"route_tried","guest":"deb","transport":"ssh","ok":true,"why":"","took_ms":5,"address":"127.0.0.1:2222""#,
                r#""kind":"phase_ended","guest":"deb","phase":"first_command","ok":true,"took_ms":5"#,
                r#""kind":"guest_state","guest":"deb","from":"Created","to":"Running","why":"w","machine":"vmdeck-y""#,
            ]);
            world.see("booted in").await;
            world.press("S");
            tokio::time::timeout(PATIENCE, async {
                while world.fake.shells.lock().expect("lock").is_empty() {
                    world.shown.drawn.notified().await;
                }
            })
            .await
            .expect("the shell was opened");
            assert!(*world.shown.given_back.lock().expect("lock") >= 1, "on the whole terminal");
            second.tell(500, &[
                r#""kind":"case_ended","guest":"deb","suite":"smoke","case":"install","round":1,"verdict":"passed","exit":0,"took_ms":40,"message":"","stdout_tail":"","stderr_tail":"""#,
            ]);
            world.see("passed").await;
            second.end(700, RunExit::Passed);
            world.see("exit 0").await;
            world.press("q");
        },
    )
    .await;
}

/// Starts a run of the cockpit itself: the welcome's demo is the one way that needs no guest in the config.
async fn own_run(world: &mut CockpitWorld) -> FakeRun {
    world.see("welcome").await;
    *world.fake.setup.lock().expect("lock") = Some(empty_setup());
    world.press("d");
    let mut run = world.run().await;
    run.begin();
    world.see("run abcdef01").await;
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_without_a_config_is_one_key_from_a_run() {
    cockpit(
        |fake, _| *fake.setup.lock().expect("lock") = None,
        |mut world| async move {
            let mut run = own_run(&mut world).await;
            run.boot();
            world.press("X y");
            assert_eq!(run.command().await, r#"{"command":"kill","guest":"deb"}"#);
            world.press("K");
            assert_eq!(run.command().await, r#"{"command":"keep_failed","on":true}"#);
            world.press("q s");
            assert_eq!(run.command().await, r#"{"command":"cancel","reason":"user"}"#);
            world.see("STOPPING").await;
            run.end(900, RunExit::Interrupted);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detaching_says_so_to_the_engine_and_leaves() {
    cockpit(
        |fake, _| *fake.setup.lock().expect("lock") = None,
        |mut world| async move {
            let mut run = own_run(&mut world).await;
            world.press("q");
            world.see("leave?").await;
            world.press("d");
            assert_eq!(run.command().await, "detach");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_is_told_and_a_lost_terminal_ends_the_cockpit() {
    cockpit(
        |fake, _| *fake.setup.lock().expect("lock") = None,
        |mut world| async move {
            let mut run = own_run(&mut world).await;
            run.ended.take().expect("sender").send((None, "thread panicked".into())).expect("heard");
            world.see("the engine died").await;
            world.see("thread panicked").await;
            world.press("enter");
            // Dropping the hands is a terminal that is gone.
            drop(world);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_searched_saved_copied_and_a_console_is_typed_into() {
    cockpit(
        |fake, _| *fake.setup.lock().expect("lock") = None,
        |mut world| async move {
            let mut run = own_run(&mut world).await;
            run.boot();
            let lines: String =
                (0..3000).map(|n| format!("line {n}{}\n", if n % 1000 == 7 { " needle" } else { "" })).collect();
            run.console(&lines);
            world.see("line 2999").await;
            world.press("4 g / n e e d l e enter");
            world.see("needle [1 of 3]").await;
            world.press("n n");
            world.see("needle [3 of 3]").await;
            world.press("&");
            world.see("only matches").await;
            world.press("ctrl-s");
            world.see("3 lines saved in").await;
            let saved = run.dir.join("saved/deb-console-1.txt");
            assert_eq!(
                fs::read_to_string(saved).expect("saved"),
                "line 7 needle\nline 1007 needle\nline 2007 needle\n"
            );
            // Where a desktop has a clipboard program that is taken instead.
            if std::env::var_os("DISPLAY").is_none() && std::env::var_os("WAYLAND_DISPLAY").is_none() {
                world.press("y");
                world.see("OSC 52").await;
                assert!(world.shown.written.lock().expect("lock").starts_with(b"\x1b]52;c;"));
            }
            let line = tokio::net::UnixListener::bind(world.home.path().join("console.sock")).expect("bind");
            world.press("1 a");
            let Ok(attached) = tokio::time::timeout(PATIENCE, line.accept()).await else {
                panic!("nobody attached:\n{}", world.text());
            };
            let (mut guest, _) = attached.expect("attached");
            guest.write_all(b"\r\nmicro login: ").await.expect("written");
            world.see("micro login:").await;
            world.press("r o o t enter");
            let mut typed = [0; 5];
            guest.read_exact(&mut typed).await.expect("typed");
            assert_eq!(&typed, b"root\r");
            drop(guest);
            world.see("the console is closed").await;
            run.end(100, RunExit::Passed);
            world.see("exit 0").await;
            world.press("1 q");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_replayed_to_its_failures_and_to_its_end() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/testkit/records/mixed.jsonl");
    cockpit(
        |_, model| {
            model.shown.record = RecordSource::Replay;
            model.shown.player = Some(Player::load(&record).expect("record"));
        },
        |world| async move {
            world.see("0.0s /").await;
            world.press("F");
            world.see("replay of run").await;
            world.see("1 infra").await;
            world.press("@ 9 9 9 s enter");
            world.see("ended, exit").await;
            world.press("r");
            world.see("this is a replay").await;
            world.press("q");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cockpit_draws_nothing() {
    let frames = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&frames);
    cockpit(
        |_, _| {},
        |world| async move {
            world.see("no run yet").await;
            // Everything that the beginning asked for has come when two pictures are the same and no third one comes.
            let quiet = async {
                loop {
                    if tokio::time::timeout(Duration::from_millis(700), world.shown.drawn.notified()).await.is_err() {
                        return;
                    }
                    *counted.lock().expect("lock") += 1;
                }
            };
            tokio::time::timeout(PATIENCE, quiet).await.expect("it comes to rest");
            world.press("q");
        },
    )
    .await;
    assert!(*frames.lock().expect("lock") < 20, "it drew only what its beginning brought");
}
