//! A run as a page and as Markdown.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use vmdeck_testkit::world::World;

/// What would act if it were not text.
const HOSTILE: &str = "</pre><script>document.title=1</script><img src=x onerror=document.title=2>";

/// A world whose case reports so many tests of its own, of which each fiftieth fails.
fn world(tests: usize) -> World {
    let world = World::new("");
    let config = fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    let tap: String = (1..=tests)
        .map(|n| format!("{} {n} - {HOSTILE} {n}\n", if n % 50 == 0 { "not ok" } else { "ok" }))
        .chain([format!("1..{tests}\n")])
        .collect();
    fs::write(world.path("out.tap"), tap).expect("tap");
    let run = format!("cat {}; echo 'error: {HOSTILE}' >&2; exit 1", world.path("out.tap").display());
    let suite =
        "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"many\"\nresults = [\"tap\"]\n";
    let good = "[[suites.s.cases]]\nname = \"good\"\nrun = \"true\"\n";
    fs::write(world.path("vmdeck.toml"), format!("{config}{suite}run = {}\n{good}", serde_json::Value::from(run)))
        .expect("config");
    world
}

#[test]
fn each_record_has_a_page_and_one_can_be_made_of_it_later() {
    let world = world(100);
    world.run(&["--ci"]).exits(1);
    let mut runs = fs::read_dir(world.path(".vmdeck/runs")).expect("runs").flatten().map(|entry| entry.path());
    let record = runs.find(|path| path.is_dir()).expect("a record");
    let own = fs::read_to_string(record.join("report.html")).expect("page");
    assert!(
        own.contains("s/many") && own.contains("&lt;script&gt;document.title=1") && own.matches("<script").count() == 1
    );
    world.run(&["report", "--html", "later.html"]).exits(0).complains("wrote later.html");
    let later = fs::read_to_string(world.path("later.html")).expect("page");
    assert!(later.contains("vmdeck.toml:") && later.contains("100 tests"), "{later}");
    let markdown = world.run(&["report", "--markdown", "-"]).exits(0);
    assert!(
        markdown.out.contains("#### s/many in here: failed") && !markdown.out.contains("\n</pre>"),
        "{}",
        markdown.out
    );
    world.run(&["report"]).exits(2).complains("--html");
    world.run(&["report", "--html", "nowhere/x.html"]).exits(2).complains("cannot write");
    world.run(&["report", "ffffffff", "--markdown", "-"]).exits(2).complains("`vmdeck runs` lists them");
}

/// Returns what a browser has made of a page, and how long that took it.
fn browse(page: &Path, home: &Path) -> (String, Duration) {
    let start = Instant::now();
    let out = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", home.display()))
        .arg(format!("file://{}", page.display()))
        .stderr(Stdio::null())
        .output()
        .expect("chromium is installed: `apt-get install chromium`");
    (String::from_utf8_lossy(&out.stdout).into_owned(), start.elapsed())
}

/// A browser is large: it is looked at with the slow ones alone.
#[test]
fn a_browser_shows_five_thousand_tests_in_a_second_and_runs_nothing_of_theirs() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let world = world(5_000);
    world.run(&["--ci"]).exits(1);
    world.run(&["report", "--html", "page.html"]).exits(0);
    fs::write(world.path("empty.html"), "<!DOCTYPE html><title>x</title>").expect("page");
    let home = world.path("browser");
    let _ = browse(&world.path("empty.html"), &home);
    let (_, floor) = browse(&world.path("empty.html"), &home);
    let (seen, took) = browse(&world.path("page.html"), &home);
    assert!(seen.contains("<title>run ") && seen.contains("5000 tests"), "nothing of a guest has acted");
    assert!(!seen.contains("role=\"search\" hidden"), "its own script has run");
    assert!(took < floor + Duration::from_secs(1), "{took:?}, an empty page {floor:?}");
}
