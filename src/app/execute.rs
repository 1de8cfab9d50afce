//! Carries a plan out without a screen: its record, its reports, and following it to its end.
//!
//! What happens in it is the engine's.

use super::{Io, control::ControlSocket, deps::deps, headless, io::use_color, prune, report, runs};
use crate::cli::{OutputArgs, RunArgs};
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    engine::{self, EngineDeps},
    history,
    host::{capacity::HostMeter, files, signal},
    report::{
        Fanout, ReportSink,
        github::Github,
        html::HtmlPage,
        jsonl::Jsonl,
        junit::Junit,
        plan_index::PlanIndex,
        summary::Summary,
        text::{Level, Style, Text},
    },
};
use vmdeck_model::{
    command::Command,
    error::{Fault, Result},
    exit::RunExit,
    outcome::CancelReason,
    plan::Plan,
    secret::Redactor,
};

/// The option that names the folder of a run's record.
const RUN_DIR: &str = "--run-dir";
/// The least space that a record takes, in bytes.
const ROOM: usize = 256 * 1024;
/// What to do about a report that cannot be written.
const NO_ROOM: &str = "free disk space where the record is, or set --run-dir; the guests are still taken down";

/// What a person reads of a run.
pub(super) enum Lines {
    /// vmdeck's own lines, and the annotations of a CI that knows some.
    Usual,
    /// Lines in another form.
    Instead(Box<dyn ReportSink>),
    /// vmdeck's own lines on the other stream: the run is only a part of what was asked for, and no report tells of it.
    Aside,
}

/// Carries a plan out with all its reports.
pub(super) async fn execute(
    plan: Plan,
    args: &RunArgs,
    look: &OutputArgs,
    lines: Lines,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    execute_until(plan, args, look, lines, &CancellationToken::new(), io).await
}

/// Carries a plan out with all its reports; it is cancelled when the code that it tests is `stale`.
pub(super) async fn execute_until(
    plan: Plan,
    args: &RunArgs,
    look: &OutputArgs,
    lines: Lines,
    stale: &CancellationToken,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    // What was asked for and cannot be written is found out now, not after the run.
    let unwritable = |path: &Path, e| Fault::user(format!("cannot write `{}`", path.display())).because(e);
    let create = |path: &Path| parent_of(path).and_then(|()| std::fs::File::create(path));
    if let Some(path) = &args.report.junit {
        create(path).map_err(|e| unwritable(path, e))?;
    }
    let to_stdout = args.report.events.as_deref() == Some(Path::new("-"));
    let copy: Option<Box<dyn Write + Send>> = match &args.report.events {
        None => None,
        Some(_) if to_stdout => Some(Box::new(std::io::stdout())),
        Some(path) => Some(Box::new(create(path).map_err(|e| unwritable(path, e))?)),
    };
    let record = open_record(&plan.dir)?;
    let mut fanout = Fanout::default();
    let events = Jsonl::new("events.jsonl".into(), Box::new(record));
    fanout.add(Box::new(events.limited(plan.host.events_size)));
    if let (Some(out), Some(path)) = (copy, &args.report.events) {
        fanout.add(Box::new(Jsonl::new(path.display().to_string(), out)));
    }
    let index = PlanIndex::of(&plan);
    fanout.add(Box::new(Junit::new(
        plan.dir.join("junit.xml"),
        args.report.junit.clone().into_iter().collect(),
        index.clone(),
    )));
    fanout.add(Box::new(Summary::new(plan.dir.clone())));
    let (past, redactor) = (report::past(Path::new(runs::RECORDS), &plan.dir), Redactor::new(&plan.secrets()));
    fanout.add(Box::new(HtmlPage::new(&plan.dir, index.clone(), past, Some(redactor))));
    let is_aside = matches!(lines, Lines::Aside);
    // The events take standard output, so the report for people goes to the other stream.
    let to_stderr = to_stdout || is_aside;
    let text: Box<dyn Write + Send> = if to_stderr { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let style = style(look, to_stderr);
    let is_live = style.live || matches!(lines, Lines::Instead(_)) || args.commands;
    fanout.add(match lines {
        Lines::Instead(sink) => sink,
        Lines::Usual | Lines::Aside => Box::new(Text::new(text, style, index.clone())),
    });
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|v| v == "true") && !to_stderr {
        let summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from);
        fanout.add(Box::new(Github::new(Box::new(std::io::stdout()), summary, index)));
    }
    let deps = EngineDeps {
        backend: deps(&plan.host)?,
        binary: std::env::current_exe().ok(),
        meter: Arc::new(HostMeter),
        signals: Some(signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?),
    };
    let (own, budget) = (plan.dir.clone(), plan.host.records);
    let (run, steered) = (plan.run.clone(), args.commands || args.allow_control);
    let handle = engine::start(plan, deps);
    let control = match ControlSocket::open(&own, &run, steered, handle.commands.clone()) {
        Ok(socket) => Some(Arc::new(socket)),
        Err(e) => {
            io.warn(&format!("warning: no other vmdeck can join this run: {e}"));
            None
        }
    };
    if args.commands {
        let input = tokio::io::BufReader::new(tokio::io::stdin());
        tokio::spawn(headless::obey(input, handle.commands.clone(), control.clone().zip(args.orphaned)));
    }
    let (commands, outdated) = (handle.commands.clone(), stale.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = outdated.cancelled() => drop(commands.send(Command::Cancel { reason: CancelReason::Stale }).await),
            // The run is over.
            () = commands.closed() => {}
        }
    });
    // Whoever sends commands also watches the record.
    let tick = if is_live { headless::LIVE } else { headless::QUIET };
    let told = |why: &str| io.warn(&format!("error: {why}\n\nhint: {NO_ROOM}\n"));
    let exit = headless::follow(handle, &mut fanout, tick, told).await;
    drop(control);
    // In an index where its folder is one of records.
    history::note(&own);
    prune::keep_within(&own, budget);
    Ok(exit)
}

/// Makes the folder of a file that was asked for.
pub(super) fn parent_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::create_dir_all(folder),
        _ => Ok(()),
    }
}

/// Makes the record's folder and its first file; a record is never written over another.
fn open_record(dir: &Path) -> Result<std::fs::File> {
    make_record(dir, RUN_DIR)?;
    vmdeck_files::create_new(&dir.join("events.jsonl")).map_err(|e| unwritable_record(dir, RUN_DIR, e))
}

fn unwritable_record(dir: &Path, option: &str, e: std::io::Error) -> Fault {
    let hint = match e.kind() {
        std::io::ErrorKind::StorageFull => format!("free disk space, or set {option}"),
        _ => format!("set {option} to a folder that you can write"),
    };
    Fault::host(format!("cannot write the run's record `{}`", dir.display())).because(e).hint(hint)
}

/// Makes the folder of a record, which an option of the command line names; one that holds a record already is refused.
pub(super) fn make_record(dir: &Path, option: &str) -> Result<()> {
    let cannot = |e| unwritable_record(dir, option, e);
    let events = dir.join("events.jsonl");
    if events.symlink_metadata().is_ok() {
        return Err(Fault::user(format!("cannot use `{}` as the run's record", dir.display()))
            .because("it holds the record of another run")
            .hint(format!("set {option} to another folder, or remove this one")));
    }
    vmdeck_files::make_folders(dir).map_err(cannot)?;
    for name in ["guests", "artifacts"] {
        // Who could put a link there chooses where the record goes.
        if dir.join(name).symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            return Err(Fault::user(format!("cannot use `{}` as the run's record", dir.display()))
                .because(format!("`{name}` in it is no folder"))
                .hint(format!("set {option} to a new folder")));
        }
    }
    // A full disk is told now, not by a run that loses its own record.
    files::check_room(dir, ROOM).map_err(cannot)
}

/// Returns how the lines of a run look on this stream.
pub(super) fn style(look: &OutputArgs, to_stderr: bool) -> Style {
    let level = match (look.quiet, look.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Verbose,
        _ => Level::Normal,
    };
    let terminal = if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    let live = terminal && !is_plain(look) && std::env::var_os("TERM").is_some() && std::env::var_os("CI").is_none();
    let width = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).map_or(80, |s| usize::from(s.ws_col.max(20)));
    Style { color: use_color(look.color), live, level, width }
}

/// Returns whether lines of text are wanted in place of a screen: with `--plain`, and where the terminal has none.
pub(super) fn is_plain(look: &OutputArgs) -> bool {
    look.plain || std::env::var("TERM").is_ok_and(|term| term == "dumb")
}
