//! A run: the plan from config and command line, its record, the reports, and the front end.
//!
//! What happens in it is the engine's.

use super::{Io, cockpit, deps, settings, use_color};
use crate::{
    cli::{ConfigArgs, LookArgs, RunArgs},
    engine::{self, Deps},
    error::{Fault, Result},
    headless,
    host::{clock, files, process, signal},
    model::{
        exit::Exit,
        ids::RunId,
        plan::{self, Keep, Plan, RunOptions, Setup},
        quantity::show_duration,
        suite::Action,
    },
    report::{
        Fanout,
        github::Github,
        jsonl::Jsonl,
        junit::Junit,
        summary::Summary,
        text::{Level, Style, Text},
    },
};
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

/// Where records go by default.
pub(super) const RECORDS: &str = ".vmdeck/runs";
/// What a record takes at the very least, bytes.
const ROOM: usize = 256 * 1024;
/// What to do about a report that cannot be written.
const NO_ROOM: &str = "free disk space where the record is, or set --run-dir; the guests are still taken down";

/// `vmdeck --ci`, and `vmdeck` alone.
pub(super) async fn run(args: &RunArgs, config: &ConfigArgs, look: &LookArgs, io: &mut Io<'_>) -> Result<Exit> {
    if !args.ci && !args.dry_run {
        return cockpit::open(args, config, look, io).await;
    }
    if args.commands {
        // A cockpit's engine: neither its terminal nor its end is ours.
        process::leave_session();
    }
    let setup = settings::load(config)?;
    let plan = make_plan(setup, args, io)?;
    if args.dry_run {
        io.say(show(&plan).trim_end());
        return Ok(Exit::Passed);
    }
    execute(plan, args, look, io).await
}

/// The plan of this config and command line.
pub(super) fn make_plan(setup: Setup, args: &RunArgs, io: &mut Io<'_>) -> Result<Plan> {
    for note in &setup.notes {
        io.warn(&format!("warning: {note}"));
    }
    let selectors = args.selectors();
    let jobs =
        if args.hold { plan::select_guests(&setup, &selectors) } else { plan::select(&setup, &selectors, args.shard) };
    if jobs.is_empty() {
        return Err(nothing_matched(&setup, &args.select));
    }
    // A word that selects nothing, beside others that do, would switch a suite off without a sound.
    for (word, selector) in args.select.iter().zip(&selectors) {
        let alone = std::slice::from_ref(selector);
        let hits = if args.hold { plan::select_guests(&setup, alone) } else { plan::select(&setup, alone, None) };
        if hits.is_empty() {
            return Err(nothing_matched(&setup, std::slice::from_ref(word)));
        }
    }
    let run = RunId::from_bits(args.run_id.unwrap_or_else(|| fastrand::u64(..)));
    let dir = args.run_dir.clone().unwrap_or_else(|| Path::new(RECORDS).join(record_name(&run)));
    let dir = std::path::absolute(&dir).map_err(|e| Fault::user("cannot find the current folder").because(e))?;
    let mut host = setup.host;
    host.lock_timeout = args.lock_timeout.unwrap_or(host.lock_timeout);
    let options = RunOptions {
        keep: args.keep.map_or(Keep::Never, Keep::from),
        retries: args.retries,
        repeat: args.repeat.max(1),
        fail_fast: args.fail_fast,
        no_lock: args.no_lock,
        pause: args.pause,
        hold: args.hold,
        steered: args.commands,
    };
    Ok(Plan { run, dir, host, options, jobs, selection: args.select.clone() })
}

/// The name of the folder of a run's record.
pub(super) fn record_name(run: &RunId) -> String {
    format!("{}-{}", clock::utc().format("%Y%m%dT%H%M%S"), run.short())
}

fn nothing_matched(setup: &Setup, words: &[String]) -> Fault {
    let suites: Vec<&str> = setup.suites.iter().map(|s| s.id.as_str()).collect();
    let guests: Vec<&str> = setup.guests.iter().map(|g| g.id.as_str()).collect();
    let what = if words.is_empty() {
        "the config has no case that runs on a guest".to_owned()
    } else {
        format!("`{}` matches no case", words.join(" "))
    };
    Fault::user("cannot run anything").because(what).hint(format!(
        "suites: {}; guests: {}; `vmdeck --dry-run` shows every case, `vmdeck --help` the subcommands",
        suites.join(", "),
        guests.join(", ")
    ))
}

/// Carries a plan out with all its reports.
pub(super) async fn execute(plan: Plan, args: &RunArgs, look: &LookArgs, io: &mut Io<'_>) -> Result<Exit> {
    // What was asked for and cannot be written is found out now, not after the run.
    let unwritable = |path: &Path, e| Fault::user(format!("cannot write `{}`", path.display())).because(e);
    if let Some(path) = &args.junit {
        std::fs::File::create(path).map_err(|e| unwritable(path, e))?;
    }
    let to_stdout = args.events.as_deref() == Some(Path::new("-"));
    let copy: Option<Box<dyn Write + Send>> = match &args.events {
        None => None,
        Some(_) if to_stdout => Some(Box::new(std::io::stdout())),
        Some(path) => Some(Box::new(std::fs::File::create(path).map_err(|e| unwritable(path, e))?)),
    };
    let record = open_record(&plan.dir)?;
    let mut fanout = Fanout::default();
    fanout.add(Box::new(Jsonl::new("events.jsonl".into(), Box::new(record))));
    if let (Some(out), Some(path)) = (copy, &args.events) {
        fanout.add(Box::new(Jsonl::new(path.display().to_string(), out)));
    }
    let mut junit: Vec<PathBuf> = vec![plan.dir.join("junit.xml")];
    junit.extend(args.junit.clone());
    fanout.add(Box::new(Junit::new(junit)));
    fanout.add(Box::new(Summary::new(plan.dir.clone())));
    // The events take standard output, so the report for people goes to the other stream.
    let text: Box<dyn Write + Send> = if to_stdout { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let style = style(look, to_stdout);
    fanout.add(Box::new(Text::new(text, style)));
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|v| v == "true") && !to_stdout {
        let summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from);
        fanout.add(Box::new(Github::new(Box::new(std::io::stdout()), summary)));
    }
    let deps = Deps {
        backend: deps(&plan.host.tools)?,
        binary: std::env::current_exe().ok(),
        signals: Some(signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?),
        shell: None,
    };
    let handle = engine::start(plan, deps);
    if args.commands {
        let input = tokio::io::BufReader::new(tokio::io::stdin());
        tokio::spawn(headless::obey(input, handle.commands.clone()));
    }
    // Whoever sends commands also watches the record.
    let tick = if style.live || args.commands { headless::LIVE } else { headless::QUIET };
    Ok(headless::follow(handle, &mut fanout, tick, |why| io.warn(&format!("error: {why}\n\nhint: {NO_ROOM}\n"))).await)
}

/// Makes the record's folder and its first file; a record is never written over another.
fn open_record(dir: &Path) -> Result<std::fs::File> {
    let cannot = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::StorageFull => "free disk space, or set --run-dir",
            _ => "set --run-dir to a folder that you can write",
        };
        Fault::host(format!("cannot write the run's record `{}`", dir.display())).because(e).hint(hint)
    };
    let events = dir.join("events.jsonl");
    if events.exists() {
        return Err(Fault::user(format!("cannot use `{}` as the run's record", dir.display()))
            .because("it holds the record of another run")
            .hint("give another --run-dir, or remove it"));
    }
    std::fs::create_dir_all(dir).map_err(cannot)?;
    // A full disk is told now, not by a run that loses its own record.
    files::check_room(dir, ROOM).map_err(cannot)?;
    files::append_private(&events).map_err(cannot)
}

fn style(look: &LookArgs, to_stderr: bool) -> Style {
    let level = match (look.quiet, look.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Verbose,
        _ => Level::Normal,
    };
    let terminal = if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    let live = terminal && std::env::var("TERM").is_ok_and(|t| t != "dumb") && std::env::var_os("CI").is_none();
    let width = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).map_or(80, |s| usize::from(s.ws_col.max(20)));
    Style { color: use_color(look.color), live, level, width }
}

/// The plan as text, for `--dry-run`.
fn show(plan: &Plan) -> String {
    let mut out = format!("record: {}\nlock:   {}\n", plan.dir.display(), plan.host.lock.display());
    for job in &plan.jobs {
        let guest = &job.guest;
        let memory = crate::model::quantity::show_size(guest.memory);
        out.push_str(&format!(
            "\nguest {} ({}, {}): {} cpus, {memory}, by {}\n",
            guest.id,
            guest.backend,
            guest.os,
            guest.cpus,
            guest.transports.join(" then ")
        ));
        for (suite, case) in job.cases() {
            let limit = show_duration(case.timeout.unwrap_or(guest.case_timeout));
            let what = match (&case.skip, &case.action) {
                (Some(why), _) => format!("skipped: {why}"),
                (None, Action::Run(text)) => text.lines().next().unwrap_or_default().to_owned(),
                (None, Action::Script(path)) => format!("script {}", path.display()),
            };
            out.push_str(&format!("  {}/{} (at most {limit}): {what}\n", suite.id, case.id));
        }
    }
    let count = plan.case_count();
    out.push_str(&format!("\n{count} case{} in all\n", if count == 1 { "" } else { "s" }));
    out
}
