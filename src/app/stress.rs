//! `vmdeck stress`: the same cases again and again, each time in a machine of its own, and how often each of them fails.

use super::{Io, run, runs::RECORDS, settings};
use crate::cli::{ConfigArgs, OutputArgs, RunArgs, StressArgs};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};
use vmdeck_core::{host::random, report::text::safe};
use vmdeck_model::{
    error::Result,
    event::Event,
    exit::RunExit,
    outcome::Verdict,
    quantity::show_count,
    run_view::{EndedCase, RunView},
    text::one_line,
};

/// How many distinct failures of a case are told.
const SHOWN: usize = 5;
/// The quantile of the normal distribution for an interval of 95 %.
const Z: f64 = 1.96;

/// How one case ended over all of its runs.
#[derive(Default)]
struct CaseCounts {
    good: u32,
    bad: u32,
    /// Of those that say nothing about the code.
    unjudged: u32,
    /// Each way to fail, with how often, and the first round.
    failures: BTreeMap<String, (u32, u32, String)>,
}

/// Runs the cases, and tells how often they failed.
pub(super) async fn run(args: &StressArgs, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let mut config = config.clone();
    for guest in settings::load_without_secrets(&config)?.guests {
        config.set.push(format!("guests.{}.fresh=case", guest.id));
        config.set.extend(args.workers.iter().map(|count| format!("guests.{}.workers={count}", guest.id)));
    }
    let id = args.report.run_dir.is_none().then(random::u64);
    let of_run = RunArgs {
        select: args.select.clone(),
        ci: true,
        repeat: args.runs,
        retries: Some(0),
        fail_fast: args.until_failure,
        report: args.report.clone(),
        lock: args.lock.clone(),
        run_id: id,
        ..RunArgs::default()
    };
    // What passes a hundred times is no news.
    let quiet = OutputArgs { quiet: !look.verbose, ..look.clone() };
    let exit = run::run(&of_run, &config, &quiet, io).await?;
    let folder = args.report.run_dir.clone().or_else(|| id.and_then(record_of));
    if let Some(view) = folder.as_deref().and_then(read) {
        tell(&view.cases, io);
    }
    Ok(exit)
}

/// Returns the record of a run of this id.
fn record_of(id: u64) -> Option<PathBuf> {
    let ending = format!("-{}", vmdeck_model::ids::RunId::from_bits(id).short());
    let all = std::fs::read_dir(RECORDS).ok()?.flatten().map(|entry| entry.path());
    all.into_iter().find(|path| path.to_string_lossy().ends_with(&ending))
}

/// Returns what a record says of its run.
fn read(folder: &Path) -> Option<RunView> {
    let events = vmdeck_files::open(&folder.join("events.jsonl")).ok()?;
    let mut view = RunView::default();
    for line in BufReader::new(events).lines().map_while(std::io::Result::ok) {
        if let Ok(event) = serde_json::from_str::<Event>(&line) {
            view.apply(&event);
        }
    }
    Some(view)
}

fn tell(cases: &[EndedCase], io: &mut Io<'_>) {
    let mut all: BTreeMap<String, CaseCounts> = BTreeMap::new();
    for case in cases {
        let counts = all.entry(format!("{}/{}@{}", case.suite, case.case, case.guest)).or_default();
        match case.verdict {
            Verdict::Passed | Verdict::Flaky => counts.good += 1,
            Verdict::Failed => {
                counts.bad += 1;
                let said = case.evidence.as_ref().map(|line| format!(": {line}")).unwrap_or_default();
                let text = safe(&one_line(&format!("{}{said}", case.message)));
                counts.failures.entry(alike(&text)).or_insert((0, case.round, text)).0 += 1;
            }
            Verdict::Infra | Verdict::Skipped | Verdict::Cancelled => counts.unjudged += 1,
        }
    }
    for (name, counts) in &all {
        io.say("");
        io.say(&sentence(name, counts));
        let mut failures: Vec<_> = counts.failures.values().collect();
        failures.sort_by_key(|(count, round, _)| (std::cmp::Reverse(*count), *round));
        for (count, round, text) in failures.iter().take(SHOWN) {
            io.say(&format!("  {count} x  {text}  (first in round {round})"));
        }
        if failures.len() > SHOWN {
            io.say(&format!("  and {} more kinds", failures.len() - SHOWN));
        }
    }
}

/// Returns how often a case failed, and how often it fails, as far as that can be told.
fn sentence(name: &str, counts: &CaseCounts) -> String {
    let runs = counts.good + counts.bad;
    let unjudged = match counts.unjudged {
        0 => String::new(),
        count => format!("; {} could not be judged", show_count(count as usize, "run")),
    };
    if runs == 0 {
        return format!("{name}: no run was judged{unjudged}");
    }
    let (low, high) = interval(counts.bad, runs);
    let share = f64::from(counts.bad) / f64::from(runs);
    format!(
        "{name}: failed {} of {} ({}; with 95 % confidence {} to {}){unjudged}",
        counts.bad,
        show_count(runs as usize, "run"),
        percent(share),
        percent(low),
        percent(high)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Returns the interval in which the true share lies with 95 % confidence, by Wilson's score: it holds for few runs, and for none that failed.
fn interval(bad: u32, runs: u32) -> (f64, f64) {
    let (n, p) = (f64::from(runs), f64::from(bad) / f64::from(runs));
    let base = 1.0 + Z * Z / n;
    let middle = (p + Z * Z / (2.0 * n)) / base;
    let half = Z / base * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// Returns a failure without what differs from time to time: numbers, and what is in hexadecimal digits.
fn alike(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for word in message.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
        let is_hex = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).trim_start_matches("0x");
        let is_hex = is_hex.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_hex.len() >= 4;
        match (has_digit, is_hex) {
            (true, true) => {
                out.push('#');
                out.extend(word.chars().filter(|c| !c.is_ascii_alphanumeric()));
            }
            _ => out.extend(word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c })),
        }
    }
    while out.contains("##") {
        out = out.replace("##", "#");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_at_its_ends() {
        for (bad, runs, low, high) in
            [(0, 100, 0.0, 0.037), (100, 100, 0.963, 1.0), (5, 100, 0.0215, 0.1118), (1, 2, 0.0945, 0.9055)]
        {
            let (a, b) = interval(bad, runs);
            assert!((a - low).abs() < 0.001 && (b - high).abs() < 0.001, "{bad}/{runs}: {a} {b}");
        }
    }

    #[test]
    fn failures_that_differ_by_numbers_alone_are_one() {
        let same = [
            "exit 1: timed out after 1203 ms at 0x7f3a00112233 (pid 4711)",
            "exit 1: timed out after 98 ms at 0x55aa00deadbeef (pid 12)",
        ];
        assert_eq!(alike(same[0]), alike(same[1]));
        assert_ne!(alike("exit 1: no route"), alike("exit 1: no host"));
        assert_eq!(alike("added 3 facade words"), "added # facade words", "a word is no number");
    }

    #[test]
    fn what_was_not_judged_is_told_apart() {
        let counts = CaseCounts { good: 98, bad: 2, unjudged: 1, failures: BTreeMap::new() };
        assert_eq!(
            sentence("s/a@deb", &counts),
            "s/a@deb: failed 2 of 100 runs (2.0 %; with 95 % confidence 0.6 % to 7.0 %); 1 run could not be judged"
        );
        assert_eq!(sentence("s/a@deb", &CaseCounts::default()), "s/a@deb: no run was judged");
    }
}
