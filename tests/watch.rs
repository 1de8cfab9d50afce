//! `vmdeck watch`: each change of the code is tested at once, in a guest that stays up; what is stale is ended.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Child,
    sync::mpsc,
    time::{Duration, Instant},
};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, eventually, finish, signal},
};

/// How long a line may take to come; a loaded machine boots a guest in it.
const PATIENCE: Duration = Duration::from_mins(1);

/// A watch that is going on, and the lines that it writes.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Watching {
    fn start(world: &World, args: &[&str]) -> Self {
        let mut child = world.start(&[&["watch"], args].concat());
        let out = child.stdout.take().expect("piped");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with this text; returns all lines up to it.
    fn see(&mut self, text: &str) -> String {
        let from = self.seen.len();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("`{text}` never came:\n{}", self.seen.join("\n")));
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(text)) {
                return self.seen[from..].join("\n");
            }
        }
    }

    fn end(self, code: i32) {
        signal(&self.child, "INT");
        finish(self.child).exits(code);
    }
}

fn world(guest: &str, run: &str) -> World {
    let world = World::new(&format!(
        "{guest}[suites.s]\n[[suites.s.cases]]\nname = \"code\"\nrun = {}\n[[suites.s.cases]]\nname = \"other\"\nrun = \"false\"\n",
        serde_json::Value::from(run)
    ));
    fs::create_dir(world.path("src")).expect("mkdir");
    put(&world, "right");
    world
}

fn local(world: &World) {
    let to = world.path("box/src").display().to_string();
    let guest = format!("[guests.here]\nbackend = \"local\"\n[guests.here.source]\npath = \"src\"\nto = \"{to}\"\n");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), config.replace("[suites.s]", &(guest + "[suites.s]"))).expect("config");
}

fn put(world: &World, text: &str) {
    fs::write(world.path("src/code"), format!("{text}\n")).expect("write");
}

#[test]
fn a_change_has_its_verdict_within_a_second_in_a_real_guest() {
    let micro = Micro::default().guest("micro");
    let world = world(&format!("{micro}[guests.micro.source]\npath = \"src\"\nto = \"/tmp/src\"\n"), "grep right code");
    let mut watching = Watching::start(&world, &["s/code"]);
    watching.see("micro is ready after");
    watching.see("--- green; waiting");
    let mut took = Vec::new();
    for (text, word) in [
        ("wrong", "--- RED now"),
        ("right", "--- green again"),
        ("wrong", "--- RED now"),
        ("right!", "--- green again"),
    ] {
        let start = Instant::now();
        put(&world, text);
        let said = watching.see(word);
        took.push(start.elapsed());
        assert!(said.contains("code changed") && !said.contains("is ready after"), "{said}");
    }
    took.sort();
    // The machine of the tests is loaded; alone it is a third of a second.
    assert!(took[0] < Duration::from_secs(1), "{took:?}");
    watching.end(0);
    world.assert_nothing_left();
}

#[test]
fn what_is_stale_is_ended_and_what_is_no_code_is_no_change() {
    let world = world("", "grep -q slow code && sleep 300; grep right code");
    local(&world);
    world.run(&["keep"]).exits(0);
    let mut watching = Watching::start(&world, &["s/code"]);
    watching.see("--- green; waiting");
    fs::write(world.path("src/.gitignore"), "*.o\n").expect("write");
    watching.see("--- run 2");
    watching.see("--- green; waiting");
    fs::write(world.path("src/x.o"), "").expect("write");
    put(&world, "slow");
    let said = watching.see("--- run 3");
    assert!(said.contains("code changed") && !said.contains("x.o"), "{said}");
    let begun = || {
        let runs = fs::read_dir(world.path(".vmdeck/runs")).into_iter().flatten().flatten();
        runs.filter(|run| {
            fs::read_to_string(run.path().join("events.jsonl")).unwrap_or_default().contains("case_started")
        })
        .count()
            == 3
    };
    eventually("the slow case runs", PATIENCE, begun);
    put(&world, "right");
    watching.see("cancelled: the code has changed");
    watching.see("--- run 4");
    watching.see("--- green; waiting");
    // A mistake in the config is told, and mending it goes on.
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    fs::write(world.path("vmdeck.toml"), format!("{config}\nnonsense = 1\n")).expect("write");
    watching.see("--- RED now");
    fs::write(world.path("vmdeck.toml"), config).expect("write");
    watching.see("--- green again");
    // What a person took away meanwhile is booted again, and is the watch's own then.
    world.run(&["down"]).exits(0).says("removed");
    put(&world, "right again");
    watching.see("--- green; waiting");
    // Another one that ends takes nothing away from this one.
    let mut second = Watching::start(&world, &["s/code"]);
    second.see("--- green; waiting");
    second.end(0);
    watching.end(0);
    world.run(&["down"]).exits(0).says("no machine of these guests is kept");
    // One that was kept before stays.
    world.run(&["keep"]).exits(0);
    let mut last = Watching::start(&world, &["s/code"]);
    last.see("--- green; waiting");
    last.end(0);
    world.run(&["--ci", "--reuse", "s/code"]).exits(0).says("reused ×");
    world.run(&["down"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn the_last_verdict_is_the_exit_and_there_must_be_code_to_watch() {
    let world = world("", "grep right code");
    world.run(&["watch"]).exits(2);
    local(&world);
    let mut watching = Watching::start(&world, &[]);
    watching.see("--- RED; waiting");
    watching.end(1);
    world.assert_nothing_left();
    world.run(&["watch", "nothing/here"]).exits(2).complains("matches no case");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let without: String = config
        .lines()
        .filter(|line| !line.contains("source") && !line.contains("path =") && !line.contains("to ="))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(world.path("vmdeck.toml"), without).expect("write");
    world.run(&["watch"]).exits(2).complains("have no `source`");
}
