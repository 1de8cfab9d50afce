//! The composition root: arguments to config to plan to engine to front end. The only room that may know all the others.
//!
//! Each subcommand has a file; what they print goes to a writer that `main` gives them.

mod about;
mod attend;
mod boot;
mod candidates;
mod cases;
mod cockpit;
mod control;
mod customise;
mod demo;
mod deps;
mod doctor;
mod execute;
mod follow;
mod framework;
mod guest_test;
mod headless;
mod housekeeping;
mod image;
mod init;
mod io;
mod keep;
mod locks;
mod merge;
mod micro;
mod old_names;
mod part;
mod plan;
mod prune;
mod quarantine;
mod quarantine_list;
mod report;
mod run;
mod runs;
mod settings;
mod shell;
mod shell_place;
mod snapshot;
mod stand_in;
mod stress;
mod terminal;
mod trouble;
mod trust;
mod watch;

pub use cockpit::LocalHost;
pub use init::Template;
pub use io::Io;

use crate::cli::{Cli, ConfigSub, GuestTestArgs, OutputArgs, Sub};
use clap::Parser;
use clap_complete::CompleteEnv;
use std::{ffi::OsString, io::Write, path::Path};
use vmdeck_core::{
    engine::{guardian, stand_in as engine_stand_in},
    host::{process, read_only},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
};

/// Runs the program; returns its exit code, which may be a guest command's own.
pub fn main(args: Vec<OsString>, io: &mut Io<'_>) -> u8 {
    // The hidden commands come first: they are other programs in the same file.
    #[cfg(target_os = "linux")]
    if vmdeck_guest::is_guest(&args) {
        return vmdeck_guest::main(&args);
    }
    // Secrets are in our memory; the program that the first of the two becomes is itself again.
    process::leave_no_core();
    match args.get(1).and_then(|a| a.to_str()) {
        Some(process::TETHER) => return tether(&args[2..], io),
        Some(read_only::READ_ONLY) => return read_only_for(&args[2..], io),
        Some(engine_stand_in::COMMAND) => return stand_in::main(&args[2..], io),
        Some(guardian::COMMAND) => return guard(&args[2..]),
        _ => {}
    }
    // A shell that completes: what may be written here, and nothing else.
    if std::env::var_os(about::COMPLETE).is_some() {
        let here = std::env::current_dir().ok();
        let done =
            CompleteEnv::with_factory(candidates::command).var(about::COMPLETE).try_complete(args, here.as_deref());
        return if done.is_ok() { 0 } else { RunExit::Usage.code() };
    }
    let asked = match Asked::read(args) {
        Ok(asked) => asked,
        Err(e) => {
            let text = e.render();
            let target: &mut (dyn Write + Send) = if e.use_stderr() { io.err } else { io.out };
            let _ = write!(target, "{text}");
            return if e.use_stderr() { RunExit::Usage.code() } else { 0 };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            io.warn(&Fault::bug("cannot start the runtime").because(e).render());
            return RunExit::Bug.code();
        }
    };
    let work = async {
        match asked {
            Asked::Own(cli) => dispatch(*cli, io).await,
            Asked::GuestTest(args) => guest_test::run(*args, io).await.map(RunExit::code),
        }
    };
    let code = runtime.block_on(work).unwrap_or_else(|fault| {
        io.warn(&fault.render());
        RunExit::of_blame(fault.blame()).code()
    });
    // A thread that waits for typed input cannot be joined.
    runtime.shutdown_background();
    code
}

/// What a command line asks for.
enum Asked {
    /// One of our own commands.
    Own(Box<Cli>),
    /// The work of the guest-test framework's launcher: its flags are letters that mean something else to us.
    GuestTest(Box<GuestTestArgs>),
}

impl Asked {
    fn read(args: Vec<OsString>) -> std::result::Result<Self, clap::Error> {
        let flags = match args.get(1) {
            Some(word) if word == "guest-test" => args[2..].to_vec(),
            _ => {
                let mut cli = Cli::try_parse_from(args)?;
                match cli.command.take() {
                    Some(Sub::GuestTest { flags }) => flags,
                    other => return Ok(Asked::Own(Box::new(Cli { command: other, ..cli }))),
                }
            }
        };
        GuestTestArgs::read(flags).map(|args| Asked::GuestTest(Box::new(args)))
    }
}

/// Returns whether a person at this terminal, or who asks for it, gets lines of text in place of the cockpit.
fn has_no_screen(look: &OutputArgs) -> bool {
    look.plain || (terminal::is_terminal() && execute::is_plain(look))
}

async fn dispatch(cli: Cli, io: &mut Io<'_>) -> Result<u8> {
    let Cli { command, run, config, look, version } = cli;
    let exit = match command {
        None if version => about::version(look.verbose, &config, io),
        None if run.ci || run.dry_run => run::run(&run, &config, &look, io).await?,
        None if has_no_screen(&look) && run.read_only => {
            return Err(Fault::user("cannot open the cockpit")
                .because("there is no screen here, and without one `--read-only` has nothing to look at")
                .hint("`vmdeck attach --plain` follows a run"));
        }
        None if has_no_screen(&look) => {
            if !look.plain {
                io.warn("note: TERM=dumb has no screen: a line for each change instead");
            }
            run::run(&run, &config, &look, io).await?
        }
        None => cockpit::open(&run, &config, &look, io).await?,
        Some(Sub::Doctor(args)) => doctor::run(&args, &config, io).await?,
        Some(Sub::List { cases: true, all, tag, select, json }) => {
            let wanted = cases::WantedCases { tag: tag.as_deref(), select: &select, all };
            cases::list(&config, wanted, json, io)?
        }
        Some(Sub::List { json, .. }) => housekeeping::list(&config, json, io).await?,
        Some(Sub::Cleanup(args)) => housekeeping::cleanup(&config, &args, io).await?,
        Some(Sub::Report(args)) => report::run(&config, &args, io)?,
        Some(Sub::Merge(args)) => merge::run(&config, &args, &look, io).await?,
        Some(Sub::Times(args)) => merge::times(&args, io).await?,
        Some(Sub::Quarantine(command)) => quarantine::run(&config, &command, io)?,
        Some(Sub::Prune(args)) => prune::run(&args, io)?,
        Some(Sub::Lock(sub)) => return locks::run(sub, &config, io).await,
        Some(Sub::Keep { guests }) => keep::up(&guests, &config, &look, io).await?,
        Some(Sub::Watch { select, lock }) => watch::run(&select, &lock, &config, &look, io).await?,
        Some(Sub::Down { guests }) => keep::down(&guests, &config, io).await?,
        Some(Sub::Shell { guest, machine, suite, command }) => {
            return shell::run(&guest, machine.as_deref(), suite.as_deref(), &command, &config, io).await;
        }
        Some(Sub::Boot(args)) => return boot::run(&args, &config.set, io).await,
        Some(Sub::Attach { run, allow_control }) => {
            let record = runs::in_progress(run.as_deref())?;
            if has_no_screen(&look) {
                follow::run(&record, &look).await?
            } else {
                cockpit::attach(record, allow_control, &config, &look, io).await?
            }
        }
        Some(Sub::Runs(args)) => runs::run(&args, io)?,
        Some(Sub::Replay { path }) => {
            let path = match path {
                Some(path) if path.exists() => path,
                word => runs::find(word.as_deref().map(Path::to_string_lossy).as_deref())?,
            };
            cockpit::replay(&path, &config, &look, io).await?
        }
        Some(Sub::Init(args)) => init::run(&args, &config, &look, io).await?,
        Some(Sub::Image(sub)) => image::run(sub, &config, &look, io).await?,
        Some(Sub::Stress(args)) => stress::run(&args, &config, &look, io).await?,
        Some(Sub::Snapshot(sub)) => snapshot::run(&sub, &config, io)?,
        Some(Sub::Trouble(sub)) => trouble::run(sub, &config, io)?,
        Some(Sub::Demo { guest, local }) => demo::run(guest, local, &look, io).await?,
        // It was read as a command of its own.
        Some(Sub::GuestTest { .. }) => RunExit::Bug,
        Some(Sub::Config(ConfigSub::Schema)) => settings::schema(io),
        Some(Sub::Config(ConfigSub::Example)) => settings::example(io),
        Some(Sub::Config(ConfigSub::Check)) => settings::check(&config, io)?,
        Some(Sub::Config(ConfigSub::Show { from: None, .. })) => settings::show(&config, io)?,
        Some(Sub::Config(ConfigSub::Show { from: Some(file), flags })) => init::show(&file, &flags, io)?,
        Some(Sub::Completions { shell }) => about::completions(shell, io)?,
        Some(Sub::Man { subcommand, dir }) => about::manual(&subcommand, dir.as_deref(), io)?,
    };
    Ok(exit.code())
}

fn tether(args: &[OsString], io: &mut Io<'_>) -> u8 {
    let [parent, program, rest @ ..] = args else { return RunExit::Usage.code() };
    let Some(parent) = parent.to_str().and_then(|p| p.parse().ok()) else { return RunExit::Usage.code() };
    let error = process::exec_tethered(parent, program, rest);
    io.warn(&format!("cannot run {}: {error}", program.display()));
    127
}

fn read_only_for(args: &[OsString], io: &mut Io<'_>) -> u8 {
    let [from, to, program, rest @ ..] = args else { return RunExit::Usage.code() };
    let error = read_only::exec_read_only(Path::new(from), Path::new(to), program, rest);
    io.warn(&format!("cannot run {}: {error}", program.display()));
    127
}

fn guard(args: &[OsString]) -> u8 {
    let [journal, lock, base] = args else { return RunExit::Usage.code() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let watched = runtime
        .and_then(|runtime| runtime.block_on(guardian::watch(Path::new(journal), Path::new(lock), Path::new(base))));
    if watched.is_ok() { 0 } else { RunExit::Bug.code() }
}
