//! A run without a screen: its record, its reports, and following it to its end.
//!
//! What happens in it is the engine's.

use super::{Io, deps::deps, headless, io::use_color, plan, settings};
use crate::cli::{ConfigArgs, OutputArgs, RunArgs};
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};
use vmdeck_core::{
    engine::{self, EngineDeps},
    host::{files, process, signal},
    report::{
        Fanout,
        github::Github,
        jsonl::Jsonl,
        junit::Junit,
        summary::Summary,
        text::{Level, Style, Text},
    },
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    plan::Plan,
};

/// What a record takes at the very least, bytes.
const ROOM: usize = 256 * 1024;
/// What to do about a report that cannot be written.
const NO_ROOM: &str = "free disk space where the record is, or set --run-dir; the guests are still taken down";

/// `vmdeck --ci` and `vmdeck --dry-run`.
pub(super) async fn run(args: &RunArgs, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    if args.commands {
        // A cockpit's engine: neither its terminal nor its end is ours.
        process::leave_session();
    }
    let setup = settings::load(config)?;
    let plan = plan::make_plan(setup, args, io)?;
    if args.dry_run {
        io.say(plan::show(&plan).trim_end());
        return Ok(RunExit::Passed);
    }
    execute(plan, args, look, io).await
}

/// Carries a plan out with all its reports.
pub(super) async fn execute(plan: Plan, args: &RunArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
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
    let deps = EngineDeps {
        backend: deps(&plan.host.tools)?,
        binary: std::env::current_exe().ok(),
        signals: Some(signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?),
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

fn style(look: &OutputArgs, to_stderr: bool) -> Style {
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
