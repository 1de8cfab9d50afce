//! The plan of a run, from the config and the command line.
//!
//! Carrying it out is the engine's work.

use super::{Io, part, runs, settings};
use crate::cli::{ConfigArgs, RunArgs};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use vmdeck_core::{
    history,
    host::{clock, info, random},
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::{Fresh, Guest},
    ids::RunId,
    job::Job,
    plan::{self, Keep, Plan, RunOptions, RunPurpose, Setup},
    quantity::{show_count, show_duration},
    run_view::RunView,
    select::{Selector, word_of_case},
    shard::RunPart,
    suite::{Case, CaseAction, Suite},
    times::median,
    workers::Workers,
};

/// How many of the last runs tell how long a case takes.
const LOOKED_AT: usize = 5;

/// Returns the plan of this config and command line.
pub(super) fn make_plan(mut setup: Setup, args: &RunArgs, io: &mut Io<'_>) -> Result<Plan> {
    settings::retain_tags(&mut setup, args.tag.as_deref())?;
    for note in &setup.notes {
        io.warn(&format!("warning: {note}"));
    }
    let selectors = args.selectors();
    let has_cases = args.purpose() == RunPurpose::Cases;
    let mut jobs = if has_cases { plan::select(&setup, &selectors) } else { plan::select_guests(&setup, &selectors) };
    let mut selection = args.select.clone();
    if args.keep_only {
        selection.insert(0, "keep".to_owned());
    }
    if let Some(word) = &args.rerun_failed {
        selection = retain_failed(&mut jobs, word, &setup, args, io)?;
    }
    if jobs.is_empty() {
        return Err(nothing_matched(&setup, &args.select));
    }
    // A word that selects nothing, beside others that do, would switch a suite off without a sound.
    for (word, selector) in args.select.iter().zip(&selectors) {
        let alone = std::slice::from_ref(selector);
        let hits = if has_cases { plan::select(&setup, alone) } else { plan::select_guests(&setup, alone) };
        if hits.is_empty() {
            return Err(nothing_matched(&setup, std::slice::from_ref(word)));
        }
    }
    let part = if has_cases { part::take(&mut jobs, &setup, args, io) } else { RunPart::default() };
    if args.failed_first {
        put_failed_first(&mut jobs, io);
    }
    let always_new = |guest: &&Guest| guest.fresh != Fresh::Run;
    for guest in jobs.iter().flat_map(Job::guests).filter(|_| args.reuse).filter(always_new) {
        io.warn(&format!(
            "note: guest `{}` gets new machines, as its `fresh` wants: --reuse changes nothing",
            guest.id
        ));
    }
    let config = setup.file.as_deref().and_then(|file| std::path::absolute(file).ok());
    let run = RunId::from_bits(args.run_id.unwrap_or_else(random::u64));
    let dir = args.report.run_dir.clone().unwrap_or_else(|| Path::new(runs::RECORDS).join(record_name(&run)));
    let dir = std::path::absolute(&dir).map_err(|e| Fault::user("cannot find the current folder").because(e))?;
    as_text(&dir, "the run's record", "set --run-dir to a folder whose path is UTF-8")?;
    as_text(&info::state_dir(), "the state folder", "set XDG_STATE_HOME to a folder whose path is UTF-8")?;
    let mut host = setup.host;
    host.lock_timeout = args.lock.lock_timeout.unwrap_or(host.lock_timeout);
    let options = RunOptions {
        keep: args.keep.map_or(Keep::Never, Keep::from),
        retries: args.retries,
        repeat: args.repeat.max(1),
        fail_fast: args.fail_fast,
        no_lock: args.lock.no_lock,
        pause: args.pause,
        purpose: args.purpose(),
        reuse: args.reuse,
        controlled: args.commands,
    };
    let (folder, quarantine) = (setup.folder, setup.quarantine);
    let usual_ms = usual_times(&jobs);
    Ok(Plan { run, config, folder, dir, host, options, jobs, selection, quarantine, usual_ms, part })
}

/// Returns the median of the times that each case took in the last runs; nobody asks where one is run after the other.
fn usual_times(jobs: &[Job]) -> BTreeMap<String, u64> {
    if jobs.iter().flat_map(Job::guests).all(|guest| guest.workers == Workers::Count(1)) {
        return BTreeMap::new();
    }
    let cases = history::trends(Path::new(runs::RECORDS), LOOKED_AT).cases.into_iter();
    cases.filter_map(|(word, past)| Some((word, median(past.iter().map(|case| case.took_ms).collect())?))).collect()
}

/// Reads the secrets of the guests that the plan needs: others' commands are not run.
pub(super) fn read_secrets(plan: &mut Plan, config: &ConfigArgs) -> Result<()> {
    let names = plan.jobs.iter().flat_map(Job::members).map(|member| member.guest.key.to_string()).collect();
    let setup = settings::load_for(config, &names)?;
    plan.replace_guests(&setup.guests);
    Ok(())
}

/// Puts what failed in the last run that tested something before everything else, and says so.
fn put_failed_first(jobs: &mut [Job], io: &mut Io<'_>) {
    let last = history::last_tested(Path::new(runs::RECORDS)).and_then(|record| history::view(&record).ok());
    let failed = last.map(|view| view.failed()).unwrap_or_default();
    let is_red = |guest: &Guest, suite: &Suite, case: &Case| {
        let own = word_of_case(&suite.id, &case.id, &guest.id);
        // What was found for a case stands for it.
        let (path, at) = (format!("{}/{}/", suite.id, case.id), format!("@{}", guest.id));
        failed.iter().any(|word| *word == own || (word.starts_with(&path) && word.ends_with(&at)))
    };
    let count: usize = jobs.iter_mut().map(|job| job.put_first(is_red)).sum();
    io.warn(&format!("note: {} of the last run first", show_count(count, "failed case")));
}

/// Leaves of these jobs what failed in the run that a word means; returns the words that select it. An error where nothing is left.
fn retain_failed(
    jobs: &mut Vec<Job>,
    word: &str,
    setup: &Setup,
    args: &RunArgs,
    io: &mut Io<'_>,
) -> Result<Vec<String>> {
    let view = view_of_failed(word, io)?;
    let (failed, subtests) = (view.failed(), view.failed_subtests());
    if args.select.is_empty() {
        let is_gone =
            |word: &&String| Selector::parse(word).is_ok_and(|selector| plan::select(setup, &[selector]).is_empty());
        for gone in failed.iter().filter(is_gone) {
            io.warn(&format!("warning: `{gone}` failed, and is not in the config any more"));
        }
    }
    let selectors: Vec<Selector> = failed.iter().filter_map(|word| Selector::parse(word).ok()).collect();
    if args.select.is_empty() {
        // Also those that are run only where they are asked for: what failed is named.
        *jobs = plan::select(setup, &selectors);
    }
    plan::retain(jobs, &selectors);
    for job in jobs.iter_mut() {
        job.run_only(&subtests);
    }
    match (jobs.is_empty(), args.select.is_empty()) {
        (false, _) => Ok(failed),
        (true, true) => Err(nothing_matched(setup, &failed)),
        (true, false) => {
            let why = format!("of `{}` nothing failed then: only {}", args.select.join(" "), failed.join(", "));
            Err(Fault::user("cannot run anything again").because(why))
        }
    }
}

/// Returns what failed in the run that a word means, as words that select it; an error where nothing did.
pub(super) fn failed_of(word: &str, io: &mut Io<'_>) -> Result<Vec<String>> {
    Ok(view_of_failed(word, io)?.failed())
}

/// Returns the end of the run that a word means; an error where nothing failed in it.
fn view_of_failed(word: &str, io: &mut Io<'_>) -> Result<RunView> {
    let record = record_of(word)?;
    let cannot = |e| Fault::user(format!("cannot read the record `{}`", record.display())).because(e);
    let view = history::view(&record).map_err(cannot)?;
    let failed = view.failed();
    if failed.is_empty() {
        return Err(
            Fault::user("cannot run anything again").because(format!("nothing failed in `{}`", record.display()))
        );
    }
    io.warn(&format!("note: {} of `{}` again", show_count(failed.len(), "failed case"), record.display()));
    Ok(view)
}

/// Returns the record of the run that a word means: without one, of the last that tested something.
fn record_of(word: &str) -> Result<PathBuf> {
    let last = || history::last_tested(Path::new(runs::RECORDS)).map_or_else(|| runs::find(None), Ok);
    let record = if word.is_empty() { last() } else { runs::find(Some(word)) };
    record.map_err(|fault| {
        let is_selection = word.contains(['/', '@', '*']);
        if is_selection {
            fault.hint(format!("to select what is run again: `vmdeck --ci {word} --rerun-failed`"))
        } else {
            fault
        }
    })
}

/// Refuses a path that the journal and the reports could not hold: what they cannot name, nobody can clean up.
fn as_text(path: &Path, what: &str, remedy: &str) -> Result<()> {
    if path.to_str().is_some() {
        return Ok(());
    }
    Err(Fault::user(format!("cannot use `{}` for {what}", path.display()))
        .because("the path is not UTF-8")
        .hint(remedy))
}

/// Returns the name of the folder of a run's record.
pub(super) fn record_name(run: &RunId) -> String {
    format!("{}-{}", clock::utc().format("%Y%m%dT%H%M%S"), run.short())
}

/// Returns why there is nothing to run.
pub(super) fn nothing_matched(setup: &Setup, words: &[String]) -> Fault {
    let suites: Vec<&str> = setup.suites.iter().map(|s| s.id.as_str()).collect();
    let guests: Vec<String> = setup.machine_names().iter().map(ToString::to_string).collect();
    let what = match words {
        [] => "the config has no case that runs on a guest and is not only run where it is asked for".to_owned(),
        _ => unmeant(setup, words).unwrap_or_else(|| format!("`{}` matches no case", words.join(" "))),
    };
    Fault::user("cannot run anything").because(what).hint(format!(
        "suites: {}; guests: {}; `vmdeck --dry-run` shows every case, `vmdeck --help` the subcommands",
        suites.join(", "),
        guests.join(", ")
    ))
}

fn parsed(words: &[String]) -> Vec<Selector> {
    words.iter().filter_map(|word| Selector::parse(word).ok()).collect()
}

/// Returns which of the cases that these words name is not run for its condition; `None` = it is not that.
fn unmeant(setup: &Setup, words: &[String]) -> Option<String> {
    let guests = setup.machine_names();
    let guests: Vec<_> = guests.iter().collect();
    let cases = setup.suites.iter().flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)));
    let selectors = parsed(words);
    let mut named = cases.filter(|(suite, case)| selectors.iter().any(|s| s.matches(&suite.id, &case.id, &guests)));
    let (suite, case, when) = named.find_map(|(suite, case)| Some((suite, case, case.when.as_ref()?)))?;
    Some(format!("`{}/{}` is not run there: `{}` does not hold", suite.id, case.id, when.text()))
}

/// Returns the plan as text, for `--dry-run`.
pub(super) fn show(plan: &Plan) -> String {
    let mut out = format!("record: {}\nlock:   {}\n", plan.dir.display(), plan.host.lock.display());
    if let Some(planned) = &plan.part.shard {
        out.push_str(&format!("shard:  {} of {}\n", planned.shard, show_count(plan.part.planned_all.len(), "case")));
    }
    for (job, member) in plan.jobs.iter().flat_map(|job| job.members().iter().map(move |member| (job, member))) {
        let guest = &member.guest;
        let memory = vmdeck_model::quantity::show_size(guest.memory);
        let of = if member.role.is_some() { format!("as {}, ", guest.key) } else { String::new() };
        out.push_str(&format!(
            "\nguest {} ({of}{}, {}): {}, {memory}, by {}\n",
            guest.id,
            guest.backend,
            guest.os,
            show_count(guest.cpus as usize, "cpu"),
            guest.transports.join(" then ")
        ));
        for (suite, case) in job.cases_in(&guest.id) {
            let limit = show_duration(case.timeout.unwrap_or(guest.case_timeout));
            let what = match (&case.skip, &case.action) {
                (Some(why), _) => format!("skipped: {why}"),
                (None, CaseAction::Run(text)) => text.lines().next().unwrap_or_default().to_owned(),
                (None, CaseAction::Script(path)) => format!("script {}", path.display()),
                (None, CaseAction::Manual(question)) => format!("a person answers: {question}"),
                (None, CaseAction::Discover(_)) => "what is found in the guest".to_owned(),
                (None, CaseAction::Steps(steps)) => show_count(steps.len(), "step"),
                (None, CaseAction::Host(program)) => format!("on this host: {}", program.program.display()),
            };
            out.push_str(&format!("  {}/{} (at most {limit}): {what}\n", suite.id, case.id));
        }
    }
    let count = plan.case_count();
    out.push_str(&format!("\n{count} case{} in all\n", if count == 1 { "" } else { "s" }));
    out
}
