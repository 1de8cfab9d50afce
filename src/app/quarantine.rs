//! `vmdeck quarantine`: lists and changes the tests whose failure is known.

use super::{
    Io,
    quarantine_list::{QuarantineEntry, day, is_about_any, read, today},
    runs, settings,
};
use crate::cli::{ConfigArgs, QuarantineCommand, UntilArgs};
use chrono::{Days, NaiveDate};
use serde_json::json;
use std::path::Path;
use vmdeck_core::history::{self, Trends};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    ids::{CaseId, GuestId, SuiteId},
    outcome::Verdict,
    plan::Setup,
    quantity::show_count,
    quarantine::{QUARANTINE_FILE, QuarantinedTest},
};

/// How often in a row a test passes that may be taken off.
const ENOUGH: usize = 20;
/// How many runs are looked at.
const LOOKED_AT: usize = 100;

/// Runs `vmdeck quarantine`.
pub(super) fn run(config: &ConfigArgs, command: &QuarantineCommand, io: &mut Io<'_>) -> Result<RunExit> {
    let setup = settings::load_without_secrets(config)?;
    let path = setup.folder.join(QUARANTINE_FILE);
    let (list, text) = read(&path)?;
    match command {
        QuarantineCommand::List { json } => {
            show(&setup, &list, *json, io);
            Ok(RunExit::Passed)
        }
        QuarantineCommand::Add { name, issue, on, until } => {
            if list.iter().any(|listed| listed.test.name == *name && listed.on == *on) {
                let hint = format!("`vmdeck quarantine extend '{name}'` excuses it for longer");
                return Err(Fault::user("cannot add the test")
                    .because(format!("`{name}` is there already"))
                    .hint(hint));
            }
            let cannot = |why| Fault::user("cannot add the test").because(why);
            let (cases, _) = QuarantinedTest::parse(name, on.as_deref()).map_err(cannot)?;
            if !is_about_any(&setup, &cases) {
                let why = format!("`{name}` is no case that runs in a guest of the config");
                return Err(cannot(why).hint("`vmdeck list --cases --all` shows them"));
            }
            let until = last_day(until).map_err(cannot)?;
            let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
            let on = on.as_ref().map(|on| format!("on = {}\n", quoted(on))).unwrap_or_default();
            let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
            let entry =
                format!("{gap}[[test]]\nname = {}\n{on}issue = {}\nuntil = {until}\n", quoted(name), quoted(issue));
            write(&path, &format!("{text}{entry}"))?;
            io.say(&format!("`{name}` is excused until {until}; {QUARANTINE_FILE} says so to everybody"));
            Ok(RunExit::Passed)
        }
        QuarantineCommand::Extend { name, until } => {
            let cannot = |why| Fault::user("cannot excuse the test for longer").because(why);
            let until = last_day(until).map_err(cannot)?;
            let named: Vec<&QuarantineEntry> = list.iter().filter(|listed| listed.test.name == *name).collect();
            if named.is_empty() {
                return Err(cannot(format!("`{name}` is not in {QUARANTINE_FILE}")));
            }
            let mut text = text;
            for listed in named.iter().rev() {
                text.replace_range(listed.until_at.clone(), &until.to_string());
            }
            write(&path, &text)?;
            io.say(&format!("`{name}` is excused until {until}"));
            Ok(RunExit::Passed)
        }
        QuarantineCommand::Expire => {
            let over: Vec<&QuarantineEntry> = list.iter().filter(|listed| listed.test.until < today()).collect();
            let kept = without(&text, &over.iter().map(|listed| listed.test.line).collect::<Vec<_>>());
            if !over.is_empty() {
                write(&path, &kept)?;
            }
            for listed in &over {
                io.say(&format!("`{}` is out: its time ended on {}", listed.test.name, listed.test.until));
            }
            io.say(&format!("{} taken out, {} left", show_count(over.len(), "test"), list.len() - over.len()));
            Ok(RunExit::Passed)
        }
    }
}

fn last_day(args: &UntilArgs) -> Result<NaiveDate, String> {
    match &args.until {
        Some(text) => match day(text)? {
            day if day < today() => Err(format!("{day} is over")),
            day => Ok(day),
        },
        None => Ok(today() + Days::new(args.days.unsigned_abs())),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    vmdeck_files::write(path, text.as_bytes())
        .map_err(|e| Fault::user(format!("cannot write `{}`", path.display())).because(e))
}

/// Returns the text without the tables whose names stand on these lines.
fn without(text: &str, lines: &[usize]) -> String {
    let mut blocks: Vec<(usize, Vec<&str>)> = vec![(1, Vec::new())];
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("[[") {
            blocks.push((at + 1, Vec::new()));
        }
        if let Some((_, block)) = blocks.last_mut() {
            block.push(line);
        }
    }
    let holds =
        |(first, block): &(usize, Vec<&str>)| lines.iter().any(|line| (*first..first + block.len()).contains(line));
    let kept = blocks.iter().filter(|block| !holds(block)).flat_map(|(_, block)| block);
    kept.fold(String::new(), |out, line| out + line + "\n")
}

/// How often a test has passed without a failure after it, and how often it was run.
struct TestHistory {
    passes: usize,
    runs: usize,
}

/// Returns how the cases that a test is about ended lately; of several the worst.
fn history_of(trends: &Trends, test: &QuarantinedTest) -> Option<TestHistory> {
    let is_about = |word: &str| {
        let (case, guest) = word.rsplit_once('@')?;
        let (suite, case) = case.split_once('/')?;
        let (suite, case) = (SuiteId::new(suite).ok()?, CaseId::try_from(case.to_owned()).ok()?);
        Some(test.cases.matches(&suite, &case, &[&GuestId::new(guest).ok()?]))
    };
    let about = trends.cases.iter().filter(|(word, past)| !past.is_empty() && is_about(word) == Some(true));
    let of_one = about.map(|(_, past)| TestHistory {
        passes: past.iter().rev().take_while(|case| case.verdict == Verdict::Passed).count(),
        runs: past.len(),
    });
    of_one.min_by_key(|history| history.passes)
}

fn show(setup: &Setup, list: &[QuarantineEntry], json: bool, io: &mut Io<'_>) {
    let trends = history::trends(Path::new(runs::RECORDS), LOOKED_AT);
    let state = |listed: &QuarantineEntry| -> (&'static str, String) {
        let test = &listed.test;
        let history = history_of(&trends, test).filter(|_| test.subtest.is_none());
        let passes = history.as_ref().map_or(0, |history| history.passes);
        if test.until < today() {
            ("expired", "not excused any more".to_owned())
        } else if !is_about_any(setup, &test.cases) {
            ("stale", "no such case".to_owned())
        } else if passes >= ENOUGH {
            ("passes", format!("passed the last {passes} times: it can be taken off"))
        } else {
            let told =
                history.map(|history| format!("passed the last {passes} of {}", show_count(history.runs, "run")));
            ("excused", told.unwrap_or_else(|| "no record of it".to_owned()))
        }
    };
    if json {
        let rows: Vec<serde_json::Value> = list
            .iter()
            .map(|listed| {
                let (state, detail) = state(listed);
                let test = &listed.test;
                json!({ "name": test.name, "on": listed.on, "issue": test.issue, "until": test.until, "line": test.line,
                    "state": state, "detail": detail })
            })
            .collect();
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return;
    }
    if list.is_empty() {
        io.say("no test is in quarantine; `vmdeck quarantine add TEST --issue URL` adds one");
        return;
    }
    let on = |listed: &QuarantineEntry| listed.on.clone().unwrap_or_else(|| "*".to_owned());
    let width = list.iter().map(|listed| listed.test.name.chars().count()).max().unwrap_or(0).max(4);
    let wide = list.iter().map(|listed| on(listed).chars().count()).max().unwrap_or(0).max(2);
    io.say(&format!("{:<width$}  {:<wide$}  {:<10}  {:<8} WHY", "TEST", "ON", "UNTIL", "STATE"));
    for listed in list {
        let ((state, detail), test) = (state(listed), &listed.test);
        io.say(&format!(
            "{:<width$}  {:<wide$}  {:<10}  {state:<8} {} ({detail})",
            test.name,
            on(listed),
            test.until.to_string(),
            test.issue
        ));
    }
}
