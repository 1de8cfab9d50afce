//! A long time of misfortune, with tallies at its end: runs with real guests that are killed at random, a lock that many processes want, and
//! memory that is not enough for all.
//!
//! `make soak HOURS=N`; needs QEMU and the micro guest. `make soak KILLS=N` ends after so many kills instead. It fails where anything is left
//! after the next start, where anything of others was touched, where two hold a lock, or where more memory was promised than there is.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]
#![expect(clippy::print_stdout, reason = "it prints its tallies")]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, binary, signal},
};

/// How long what a guardian still does may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // `cargo bench` without a wish: as long as a break.
    let hours = std::env::var("HOURS").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.1);
    let kills = number("KILLS").unwrap_or(u64::MAX);
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut random = fastrand::Rng::with_seed(seed);
    println!("seed {seed}");
    let all = Duration::from_secs_f64(hours * 3600.0);
    let ended = [
        memory(&mut random, all.mul_f64(0.1)),
        lock(&mut random, all.mul_f64(0.1)),
        guests(&mut random, all.mul_f64(0.8), kills),
    ];
    assert!(ended.iter().all(|good| *good), "see the tallies");
}

/// Machines and files of a person that look like ours.
struct Others {
    processes: Vec<Child>,
    file: PathBuf,
}

impl Others {
    fn new(world: &World) -> Self {
        let file = world.path("vmdeck-00000000-abcdefgh.qcow2");
        fs::write(&file, "mine").expect("file");
        let quiet = |command: &mut Command| {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("a process of others")
        };
        let mut sleeper = Command::new("sleep");
        sleeper.arg("1000000").env("VMDECK_MACHINE", "vmdeck-00000000-abcdefgh");
        let mut machine = Command::new("qemu-system-x86_64");
        machine.args(["-S", "-accel", "tcg", "-m", "16", "-display", "none", "-nodefaults"]);
        machine.args(["-name", "vmdeck-00000000-abcdefgh", "-uuid", "00000000-0000-4000-8000-000000000001"]);
        Self { processes: vec![quiet(&mut sleeper), quiet(&mut machine)], file }
    }

    fn touched(&mut self) -> usize {
        let dead = self.processes.iter_mut().filter_map(|process| process.try_wait().expect("asked")).count();
        dead + usize::from(fs::read_to_string(&self.file).is_ok_and(|text| text != "mine") || !self.file.exists())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Runs with a real guest, each killed at a random time: the run, its guardian, or both; then the next start.
fn guests(random: &mut fastrand::Rng, time: Duration, most: u64) -> bool {
    let guest = Micro::default().guest("g");
    let world = World::new(&format!(
        "{guest}[suites.s]\n[[suites.s.cases]]\nname = \"good\"\nrun = \"true\"\n[[suites.s.cases]]\nname = \"bad\"\nrun = \"exit 3\"\n"
    ));
    let mut others = Others::new(&world);
    let ways: [&[&str]; 4] = [&[], &["--keep", "always"], &["--keep", "failed"], &["--pause", "20s"]];
    let (mut runs, mut killed, mut left, mut green) = (0_u64, [0_u64; 3], 0_u64, 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < time && killed.iter().sum::<u64>() < most {
        let way = ways[random.usize(..ways.len())];
        let mut run = world.start(&[&["--ci", "--run-dir", &format!("record-{runs}")], way].concat());
        runs += 1;
        std::thread::sleep(Duration::from_millis(random.u64(..7000)));
        let guardian = guardian_of(run.id());
        let victim = random.usize(..3);
        if run.try_wait().expect("asked").is_none() {
            killed[victim] += 1;
            if victim != 0
                && let Some(pid) = guardian
            {
                kill(pid);
            }
            if victim != 1 {
                run.kill().expect("killed");
            }
        }
        // One that lives on is ended as a person does it.
        if victim == 1 {
            signal(&run, "INT");
        }
        green += u64::from(run.wait().expect("ended").success());
        for _ in 0..2 {
            world.run(&["cleanup", "--force"]);
        }
        let waited = Instant::now();
        while !is_clean(&world) && waited.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        if !is_clean(&world) {
            left += 1;
            println!("left after run {runs} ({way:?}, victim {victim}): {:?}", world.processes());
        }
        let _ = fs::remove_dir_all(world.path(&format!("record-{}", runs - 1)));
    }
    let touched = others.touched();
    println!(
        "guests: {runs} runs in {:.0} s; killed: {} runs, {} guardians, {} both; left after the next start: {left}; of others \
         touched: {touched}; green although a case fails: {green}",
        begun.elapsed().as_secs_f64(),
        killed[0],
        killed[1],
        killed[2]
    );
    left == 0 && touched == 0 && green == 0
}

/// Sixteen processes that want one lock, of which somebody is killed now and then.
fn lock(random: &mut fastrand::Rng, time: Duration) -> bool {
    let world =
        World::new("[guests.g]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n");
    // Who finds the folder of another one inside was let in beside it; one that was killed left its own, and is dead.
    let inside = "b=$(date +%s%N); \
                  mkdir inside 2>/dev/null || { read p < holder; kill -0 $p 2>/dev/null && echo double >> doubles; }; \
                  echo $$ > holder; rm -rf inside; echo $0 $b $(date +%s%N) >> turns";
    let script =
        format!("while [ ! -e stop ]; do $V lock exec -- sh -c '{inside}' $(date +%s%N) >/dev/null 2>&1; done");
    let start = |_| {
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(world.home.path()).env("XDG_STATE_HOME", world.path("state"));
        shell.env("V", binary()).stdin(Stdio::null()).spawn().expect("bash")
    };
    let shells: Vec<Child> = (0..16).map(start).collect();
    let (begun, mut killed) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(random.u64(100..1500)));
        let own: Vec<u32> = shells.iter().flat_map(|shell| children(shell.id())).collect();
        if let Some(pid) = random.choice(&own) {
            kill(*pid);
            killed += 1;
        }
    }
    fs::write(world.path("stop"), "").expect("stop");
    for mut shell in shells {
        shell.wait().expect("ended");
    }
    let text = |name: &str| fs::read_to_string(world.path(name)).unwrap_or_default();
    let doubles = text("doubles").lines().count();
    // When it asked, when it was let in, when it left; in nanoseconds.
    let numbers = |line: &str| line.split(' ').map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
    let mut turns: Vec<Vec<u64>> = text("turns").lines().filter_map(numbers).filter(|turn| turn.len() == 3).collect();
    turns.sort_unstable_by_key(|turn| turn[1]);
    let mut between: Vec<u64> =
        turns.windows(2).map(|pair| pair[1][1].saturating_sub(pair[0][2]) / 1_000_000).collect();
    between.sort_unstable();
    let waits: Vec<u64> = turns.iter().map(|turn| turn[1].saturating_sub(turn[0]) / 1_000_000).collect();
    let mean = waits.iter().sum::<u64>() / (waits.len() as u64).max(1);
    let turns = turns.len();
    println!(
        "lock: {turns} turns of 16 processes in {:.0} s, {killed} killed; two at a time: {doubles}; from one to the next, a start of a \
         process included: {} ms in the middle; a wait: {mean} ms in the mean, {} ms at most",
        begun.elapsed().as_secs_f64(),
        between.get(between.len() / 2).copied().unwrap_or(0),
        waits.iter().max().copied().unwrap_or(0)
    );
    doubles == 0 && turns > 0
}

/// Runs that together want five times the memory that there is, until the time is over.
fn memory(random: &mut fastrand::Rng, time: Duration) -> bool {
    let world = World::new(
        "memory = \"1GiB\"\n[guests.g]\nbackend = \"fake\"\nmemory = \"512MiB\"\n[guests.g.fake.replies]\n\"work\" = \"0@200ms\"\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"work\"\n",
    );
    let (begun, mut runs, mut red, mut most, mut killed) = (Instant::now(), 0_u64, 0_u64, 0_u64, 0_u64);
    while begun.elapsed() < time || runs == 0 {
        let name = |number: u64| format!("record-{number}");
        let mut round: Vec<Child> =
            (0..10).map(|n| world.start(&["--ci", "--no-lock", "--run-dir", &name(runs + n)])).collect();
        let doomed = random.usize(..20);
        while round.iter_mut().any(|run| run.try_wait().expect("asked").is_none()) {
            most = most.max(promised(&world));
            if let Some(run) = round.get_mut(doomed)
                && random.u8(..) < 32
                && run.try_wait().expect("asked").is_none()
            {
                run.kill().expect("killed");
                killed += 1;
            }
        }
        for (at, mut run) in round.into_iter().enumerate() {
            red += u64::from(!run.wait().expect("ended").success() && at != doomed);
        }
        runs += 10;
    }
    println!(
        "memory: {runs} runs in {:.0} s, {killed} killed, ten at a time for room for two; most promised: {most} MiB of 1024; not green \
         though nobody killed them: {red}",
        begun.elapsed().as_secs_f64()
    );
    most <= 1024 && most > 0 && red == 0
}

/// Returns how many MiB are promised in a world.
fn promised(world: &World) -> u64 {
    let out = world.vmdeck(&["lock", "status", "--json"]).output().expect("vmdeck runs");
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let all = status[0]["memory"]["promised"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|one| one["memory"].as_u64()).sum::<u64>() >> 20
}

fn is_clean(world: &World) -> bool {
    let is_empty = |name: &str| fs::read_dir(world.state().join(name)).map_or(true, |mut dir| dir.next().is_none());
    let names = fs::read_dir(world.home.path()).expect("home").flatten();
    let no_lock = !names.map(|e| e.file_name().to_string_lossy().into_owned()).any(|name| name.starts_with("lock.d"));
    is_empty("machines") && is_empty("runs") && no_lock && world.processes().is_empty()
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn guardian_of(run: u32) -> Option<u32> {
    let is_guardian = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(10).any(|words| words == b"__guardian"))
    };
    children(run).into_iter().find(is_guardian)
}

fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
}
