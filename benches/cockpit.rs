//! The cockpit under load, in figures: one command, `make bench-cockpit`, prints what was asked for beside what came out.
//!
//! The real engine runs four `local` guests that write numbered lines; the real cockpit shows its record on a test screen
//! of 200x60 while keys come in. Figures are of this machine at this time; the ratios and the losses are what to keep.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use crossterm::event::{Event as TermEvent, KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use std::{
    fs,
    io::{self, BufRead, BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use vmdeck_core::host::process::Spawner;
use vmdeck_model::{exit::RunExit, ids::GuestId};
use vmdeck_testkit::cockpit::{FakeServices, plain_look};
use vmdeck_tui::{
    effect_runner::EffectRunner,
    event_loop::App,
    host::Host,
    logs::{LogPane, LogSource, file::Waker},
    model::{Model, Pane, RunRequest},
    msg::Effect,
    screen::Screen,
    services::Engine,
    view,
};

const GUESTS: usize = 4;
const RATE: usize = 25_000;
const PACED: Duration = Duration::from_secs(10);
const ALL_LINES: usize = 10_000_000;

/// Whether a figure was over its limit.
static OVER: AtomicBool = AtomicBool::new(false);

/// A figure with its limit.
fn limit(what: &str, came: f64, most: f64, unit: &str) {
    let is_over = came > most;
    OVER.fetch_or(is_over, Ordering::Relaxed);
    let mark = if is_over { " OVER" } else { "" };
    row(what, &format!("{came:.2} {unit}"), &format!("<= {most} {unit}{mark}"));
}

#[expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
fn row(what: &str, came: &str, asked: &str) {
    println!("{what:<52} {came:>12} {asked:>14}");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, count] = &args[..]
        && mode == "--write"
    {
        return write_lines(count.parse().expect("number"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    row("", "came out", "asked for");
    runtime.block_on(async {
        search().await;
        idle().await;
        load().await;
    });
    runtime.shutdown_background();
    assert!(!OVER.load(Ordering::Relaxed), "a figure is over its limit");
}

// --- what the guests run ---------------------------------------------------------------------------------------------

fn text(number: usize) -> String {
    format!("{number:>9} the quick brown fox jumps over the lazy dog and goes on for a while until ninety-five\n")
}

/// Paced for a while, then as fast as it goes.
fn write_lines(count: usize) {
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let start = Instant::now();
    let paced = RATE * usize::try_from(PACED.as_secs()).expect("seconds");
    for number in 0..count {
        out.write_all(text(number).as_bytes()).expect("written");
        if number < paced && number % (RATE / 100) == 0 {
            out.flush().expect("flushed");
            let due = Duration::from_micros((number * 1_000_000 / RATE) as u64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    out.flush().expect("flushed");
}

// --- a screen that measures ------------------------------------------------------------------------------------------

#[derive(Default)]
struct Measured {
    /// When the oldest key was pressed that no picture shows yet.
    waiting: Option<Instant>,
    key_to_frame: Vec<Duration>,
    frames: Vec<Duration>,
}

struct BenchScreen {
    terminal: Terminal<TestBackend>,
    keys: mpsc::UnboundedReceiver<(Instant, TermEvent)>,
    measured: Arc<Mutex<Measured>>,
}

impl Screen for BenchScreen {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        let start = Instant::now();
        self.terminal.draw(|frame| view::view(model, frame)).expect("drawn");
        let mut measured = self.measured.lock().expect("lock");
        measured.frames.push(start.elapsed());
        if let Some(pressed) = measured.waiting.take() {
            measured.key_to_frame.push(pressed.elapsed());
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<TermEvent> {
        let (pressed, event) = self.keys.recv().await?;
        self.measured.lock().expect("lock").waiting.get_or_insert(pressed);
        Some(event)
    }

    fn leave(&mut self) {}
    fn enter(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn write(&mut self, _: &[u8]) {}
    fn mouse(&mut self, _: bool) {}
    fn size(&self) -> (u16, u16) {
        (200, 60)
    }
}

/// Starts the real engine in a process of its own.
fn start(home: &Path) -> Engine {
    let dir = home.join("record");
    fs::create_dir_all(&dir).expect("folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmdeck"))
        .args(["--ci", "-q", "--run-dir"])
        .arg(&dir)
        .current_dir(home)
        .env("XDG_STATE_HOME", home.join("state"))
        .stdout(Stdio::null())
        .spawn()
        .expect("the engine starts");
    let (commands, _) = mpsc::unbounded_channel();
    let (ended_in, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let code = child.wait().ok().and_then(|s| s.code()).and_then(|c| u8::try_from(c).ok());
        let _ = ended_in.send((code.and_then(|c| RunExit::try_from(c).ok()), String::new()));
    });
    Engine { dir, commands, ended }
}

fn host() -> Arc<dyn Host> {
    Arc::new(vmdeck::app::LocalHost::new(Spawner::new(None).expect("spawner")))
}

type Keys = mpsc::UnboundedSender<(Instant, TermEvent)>;

fn cockpit(home: &Path) -> (App<BenchScreen>, Keys, Arc<Mutex<Measured>>) {
    let (send, receive) = mpsc::channel(256);
    let (type_in, keys) = mpsc::unbounded_channel();
    let measured: Arc<Mutex<Measured>> = Arc::default();
    let terminal = Terminal::new(TestBackend::new(200, 60)).expect("terminal");
    let screen = BenchScreen { terminal, keys, measured: Arc::clone(&measured) };
    let host = host();
    let mut model = Model::new(plain_look(), EffectRunner::waker(send.clone()), Arc::clone(&host), (200, 60));
    model.panes.focus = Pane::Logs;
    let engine_home = home.to_owned();
    let services = Arc::new(FakeServices::new(home, Box::new(move |_: &RunRequest| Ok(start(&engine_home)))));
    (App::new(model, screen, services, host, (send, receive), None), type_in, measured)
}

fn press(keys: &Keys, c: char) {
    let _ = keys.send((Instant::now(), TermEvent::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))));
}

// --- the measurements ------------------------------------------------------------------------------------------------

/// 4 x 25 000 lines/s while keys come in, then as fast as it goes up to ten million lines.
async fn load() {
    let home = tempfile::tempdir().expect("tempdir");
    let own = std::env::current_exe().expect("own path");
    let mut config = format!(
        "[host]\nlock = \"{}\"\nslots = {GUESTS}\nmin_free_disk = \"1MiB\"\nwarn_free_disk = \"1MiB\"\nmin_free_memory = \"1MiB\"\n",
        home.path().join("lock.d").display()
    );
    for n in 0..GUESTS {
        config.push_str(&format!("[guests.g{n}]\nbackend = \"local\"\n"));
    }
    let command = format!("{} --write {}", own.display(), ALL_LINES / GUESTS);
    config.push_str(&format!("[suites.flood]\n[[suites.flood.cases]]\nname = \"lines\"\nrun = \"{command}\"\n"));
    fs::write(home.path().join("vmapp.toml"), config).expect("config");
    let (mut app, keys, measured) = cockpit(home.path());
    let record = home.path().join("record");
    let driver = {
        let (record, measured) = (record.clone(), Arc::clone(&measured));
        async move {
            while !record.join("guests/g0/flood/lines/stdout.log").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // One guest's log is followed: the console is empty, its first case is next.
            press(&keys, ']');
            press(&keys, ']');
            let start = Instant::now();
            *measured.lock().expect("lock") = Measured::default();
            let mut turn = 0;
            while start.elapsed() < PACED.saturating_sub(Duration::from_secs(1)) {
                tokio::time::sleep(Duration::from_millis(37)).await;
                press(&keys, ['w', 'w', 'k', 'f', 't', 'M', 'M'][turn % 7]);
                turn += 1;
            }
            let paced = std::mem::take(&mut *measured.lock().expect("lock"));
            while !record.join("summary.json").exists() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if turn % 4 == 0 {
                    press(&keys, 'f');
                }
                turn += 1;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            let memory = resident();
            let flat_out = std::mem::take(&mut *measured.lock().expect("lock"));
            press(&keys, 'q');
            tokio::time::sleep(Duration::from_millis(100)).await;
            press(&keys, 'd');
            (paced, flat_out, memory)
        }
    };
    let (ended, (mut paced, mut flat_out, memory)) =
        tokio::join!(app.run(vec![Effect::Start(RunRequest::default())]), driver);
    ended.expect("the cockpit ends well");
    let lost: usize = (0..GUESTS).map(|n| missing(&record.join(format!("guests/g{n}/flood/lines/stdout.log")))).sum();
    row("4 guests, 25 000 lines/s each: keys pressed", &paced.key_to_frame.len().to_string(), "");
    limit("  key to frame, p99", in_ms(percentile(&mut paced.key_to_frame, 99)), 50.0, "ms");
    limit("  frame at 200x60, p50", in_ms(percentile(&mut paced.frames, 50)), 3.0, "ms");
    row("  frame at 200x60, p99", &ms(percentile(&mut paced.frames, 99)), "");
    row("then flat out: key to frame, p99", &ms(percentile(&mut flat_out.key_to_frame, 99)), "");
    row("lines in the record", &format!("{}", ALL_LINES - lost), "");
    limit("  lost", f64::from(u32::try_from(lost).unwrap_or(u32::MAX)), 0.0, "lines");
    let mib = f64::from(u32::try_from(memory >> 20).unwrap_or(u32::MAX));
    limit("memory of the cockpit after 10 million lines", mib, 150.0, "MiB");
}

/// Returns lines that are not there, or not where they must be.
fn missing(log: &Path) -> usize {
    let file = io::BufReader::with_capacity(1 << 20, fs::File::open(log).expect("log"));
    let mut next = 0;
    let mut wrong = 0;
    for line in file.lines() {
        let number = line.expect("text").split_whitespace().next().and_then(|w| w.parse::<usize>().ok());
        wrong += usize::from(number != Some(next));
        next += 1;
    }
    wrong + (ALL_LINES / GUESTS).saturating_sub(next)
}

/// A search of a million lines, after they are indexed; against reading and counting them alone.
async fn search() {
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("console.log");
    let mut file = BufWriter::new(fs::File::create(&path).expect("log"));
    for number in 0..1_000_000 {
        file.write_all(text(number).as_bytes()).expect("written");
    }
    file.flush().expect("flushed");
    let mut logs = LogPane::new(Waker::new(|| true), host());
    logs.resize(58);
    let start = Instant::now();
    let guest = GuestId::new("g").expect("name");
    logs.open(Some(LogSource { guest, label: "console".into(), path: path.clone() })).expect("open");
    while logs.range().1 < 1_000_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    row("1 000 000 lines: index", &ms(start.elapsed()), "");
    let floor = Instant::now();
    let bytes = fs::read(&path).expect("read");
    let count = memchr::memchr_iter(b'\n', &bytes).count();
    let floor = floor.elapsed();
    assert_eq!(count, 1_000_000);
    row("  floor: read it once and count its lines", &ms(floor), "");
    drop(bytes);
    for (what, query, hits) in [
        ("a word, seldom", "999990 the", 1),
        ("a word without capitals, nowhere", "needle in it", 0),
        ("an expression", "^ +99999[0-9] the (quick|slow)", 10),
        ("a word in every line", "lazy dog", 1_000_000),
    ] {
        let start = Instant::now();
        logs.search_for(query);
        while logs.search.as_ref().is_some_and(vmdeck_tui::logs::search::LogSearch::is_busy) {
            // As in the cockpit: the loop sleeps while the search has the processors.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = start.elapsed();
        let found = logs.search.as_ref().map_or(0, |s| s.found().lines.len());
        assert_eq!(found, hits, "{query}");
        limit(&format!("  search: {what}"), in_ms(took), 100.0, "ms");
    }
    let mut windows = Vec::new();
    for n in 0..200_u64 {
        logs.go(n * 4999);
        let start = Instant::now();
        assert_eq!(logs.window(58).len(), 58);
        windows.push(start.elapsed());
    }
    row("  a window of 58 lines anywhere in it, p99", &ms(percentile(&mut windows, 99)), "");
}

/// Nothing happens for five seconds.
async fn idle() {
    let home = tempfile::tempdir().expect("tempdir");
    let (mut app, keys, measured) = cockpit(home.path());
    let driver = async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (cpu, frames) = (cpu_time(), measured.lock().expect("lock").frames.len());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let used = cpu_time().saturating_sub(cpu);
        let drawn = measured.lock().expect("lock").frames.len() - frames;
        let _ = keys.send((Instant::now(), TermEvent::Key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE))));
        (used, drawn)
    };
    let (ended, (used, drawn)) = tokio::join!(app.run(vec![Effect::ListMachines]), driver);
    ended.expect("the cockpit ends well");
    limit("idle: CPU over 5 s", used.as_secs_f64() / 5.0 * 100.0, 0.5, "%");
    limit("  pictures drawn", f64::from(u32::try_from(drawn).unwrap_or(u32::MAX)), 0.0, "");
}

fn percentile(all: &mut [Duration], percent: usize) -> Duration {
    all.sort_unstable();
    all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", in_ms(time))
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Processor time of all threads of this process.
fn cpu_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
