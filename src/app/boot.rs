//! `vmdeck boot [-- CMD...]`: this host's own root under a kernel, for one command. No config, no image, no login.
//!
//! It is a guest with `image = "host"` like any other, in a config that is made here.

use super::{
    Io,
    attend::{self, Attended, Wanted},
    deps::deps,
    prune, settings, terminal,
};
use crate::cli::{BootArgs, ByArg};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::{Table, Value};
use vmdeck_core::{
    backend::qemu::debugger_line,
    command::{CommandExit, sh_quote},
    engine::{
        self,
        shell::{ShellCommand, ShellEnd},
    },
    host::info,
};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase},
    exit::RunExit,
    plan::RunOptions,
};

/// The exit status where the guest did not come to the command, or nothing is known about it: `git bisect run` skips such a
/// commit.
const NO_ANSWER: u8 = 125;
/// The exit status of a command that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// The exit status where the guest's system crashed under the command.
const CRASHED: u8 = 1;
/// Records of boots that failed and are kept.
const RECORDS: usize = 20;
/// The name of the guest.
const GUEST: &str = "host";
/// The variables of ours that the command sees: where its programs are, and its language.
const PASSED_ON: [&str; 3] = ["PATH", "LANG", "LC_ALL"];
/// The folders of the kernel, which the guest has from its own.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

pub(super) async fn run(args: &BootArgs, set: &[String], io: &mut Io<'_>) -> Result<u8> {
    let here = std::env::current_dir().map_err(|e| Fault::user("cannot find the current folder").because(e))?;
    let command = attend::command_line(&args.command);
    let wants_terminal = terminal::is_terminal() && command.is_none();
    if !wants_terminal && command.is_none() {
        return Err(Fault::user("cannot open a shell")
            .because("standard input is not a terminal")
            .hint("give a command: `vmdeck boot -- COMMAND`"));
    }
    let wanted = Wanted {
        command: command.or_else(|| Some(ShellCommand::Text(login_shell(&here)))),
        dir: Some(here.to_string_lossy().into_owned()),
        env: PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect(),
        limit: args.timeout,
        terminal: wants_terminal,
    };
    let (attendance, run) = match begin(args, set, &here, wanted) {
        Ok(begun) => begun,
        // A folder that is not there for one commit says nothing about that commit.
        Err(fault) => {
            io.warn(&fault.render());
            return Ok(NO_ANSWER);
        }
    };
    let machines = info::state_dir().join("machines");
    let (person, gdb) = (std::io::stderr().is_terminal(), args.gdb);
    let tell = |kind: &EventKind, end: &str, io: &mut Io<'_>| match kind {
        EventKind::PhaseStarted { phase: Phase::Create, .. } if person => {
            let _ = write!(io.err, "vmdeck: booting ...{end}");
        }
        EventKind::GuestState { machine: Some(name), to: vmdeck_model::lifecycle::MachineState::Running, .. }
            if gdb =>
        {
            let _ = write!(io.err, "vmdeck: waiting for a debugger: {}{end}", debugger_line(&machines.join(name)));
        }
        kind => attend::tell_trouble(kind, end, io),
    };
    let attended = attendance.attend(Some(run), tell, io).await;
    prune::keep_newest_in(&info::state_dir().join("shells"), RECORDS);
    Ok(status(attended, args, io))
}

/// Returns what a person without a command gets: the user's shell, in the folder where vmdeck was called.
fn login_shell(here: &Path) -> String {
    format!("cd -- {} 2>/dev/null; exec \"${{SHELL:-/bin/sh}}\"", sh_quote(&here.to_string_lossy()))
}

fn begin(
    args: &BootArgs,
    set: &[String],
    here: &Path,
    wanted: Wanted,
) -> Result<(attend::Attendance, (engine::Handle, PathBuf))> {
    let text = config(args, here)?;
    let setup = settings::load_made(Path::new("vmdeck boot"), &text, set)?;
    let guest = setup.guests.into_iter().next().ok_or_else(|| Fault::bug("there is no guest"))?;
    let deps = deps(&setup.host)?;
    let (request, attendance) = attend::request(wanted);
    let options = RunOptions { no_lock: args.no_lock, ..RunOptions::default() };
    let run = attend::start(guest, setup.host, options, deps, request)?;
    Ok((attendance, run))
}

/// Returns the exit status, and says what it means where that is not the command's own.
fn status(attended: Attended, args: &BootArgs, io: &mut Io<'_>) -> u8 {
    let mut warn = |text: &str| {
        io.warn(text);
        if let Some(record) = &attended.record {
            io.warn(&format!("console log: {}", record.join("guests").join(GUEST).join("console.log").display()));
        }
    };
    match (attended.end, attended.run) {
        (Some(Ok(ShellEnd::Exit(CommandExit::Code(code)))), _) => u8::try_from(code).unwrap_or(1),
        // As a shell tells of it.
        (Some(Ok(ShellEnd::Exit(CommandExit::Signal(name)))), _) => signal_status(&name),
        (Some(Ok(ShellEnd::TimedOut)), _) => {
            let limit = args.timeout.map(vmdeck_model::quantity::show_duration).unwrap_or_default();
            io.warn(&format!("error: the command took longer than {limit} and was ended"));
            TIMED_OUT
        }
        (Some(Ok(ShellEnd::Crashed(fault))), _) => {
            warn(&fault.render());
            CRASHED
        }
        (Some(Err(fault)), exit) if fault.blame() == Blame::Cancelled => exit.unwrap_or(RunExit::Interrupted).code(),
        (Some(Err(fault)), _) => {
            warn(&fault.render());
            NO_ANSWER
        }
        // Whoever ended it wants to know nothing; a preflight has said what it found.
        (None, Some(exit @ (RunExit::Interrupted | RunExit::Terminated | RunExit::Bug))) => exit.code(),
        (None, _) => NO_ANSWER,
    }
}

/// Returns 128 and the number of a signal.
fn signal_status(name: &str) -> u8 {
    let number = (1..32).find(|number| CommandExit::of_signal(*number) == CommandExit::Signal(name.to_owned()));
    number.and_then(|number: i32| u8::try_from(128 + number).ok()).unwrap_or(CRASHED)
}

/// Returns the config of the guest.
fn config(args: &BootArgs, here: &Path) -> Result<String> {
    let mut host = Table::new();
    // Nothing is written to the disk but the initial RAM disk and the logs.
    for (key, value) in [("min_free_disk", "128MiB"), ("warn_free_disk", "128MiB"), ("min_free_memory", "256MiB")] {
        host.insert(key.into(), value.into());
    }
    let mut qemu = Table::new();
    for (key, path) in
        [("kernel", &args.kernel), ("modules", &args.modules), ("initrd", &args.initrd), ("root", &args.root)]
    {
        if let Some(path) = path {
            qemu.insert(key.into(), text_of(&absolute(path)?)?.into());
        }
    }
    if let Some(append) = &args.append {
        qemu.insert("append".into(), append.as_str().into());
    }
    qemu.insert("by".into(), args.by.word().into());
    qemu.insert("gdb".into(), args.gdb.into());
    let mut guest = Table::new();
    guest.insert("backend".into(), "qemu".into());
    guest.insert("image".into(), "host".into());
    guest.insert("memory".into(), args.memory.to_string().into());
    guest.insert("cpus".into(), i64::from(args.cpus).into());
    guest.insert("launch_retries".into(), 1.into());
    let boot_timeout = if args.gdb { Duration::from_hours(24) } else { args.boot_timeout };
    guest.insert("boot_timeout".into(), format!("{}ms", boot_timeout.as_millis()).into());
    guest.insert("network".into(), if args.net { "user" } else { "none" }.into());
    guest.insert("shares".into(), Value::Array(shares(args, here)?));
    guest.insert("qemu".into(), qemu.into());
    if let Some(user) = &args.user {
        guest.insert("serial".into(), Table::from_iter([("user".to_owned(), Value::from(user.as_str()))]).into());
    }
    let guests = Table::from_iter([(GUEST.to_owned(), Value::from(guest))]);
    let all = Table::from_iter([("host".to_owned(), Value::from(host)), ("guests".to_owned(), Value::from(guests))]);
    toml::to_string(&all).map_err(|e| Fault::bug("cannot write the config").because(e))
}

/// Returns the folders to share: those that were named, and the current one, unless it is in one of them already.
fn shares(args: &BootArgs, here: &Path) -> Result<Vec<Value>> {
    let mut all: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for (paths, read_only) in [(&args.share, true), (&args.rw_share, false)] {
        for path in paths {
            let real = std::fs::canonicalize(path)
                .map_err(|e| Fault::user(format!("cannot share `{}`", path.display())).because(e))?;
            all.insert(real, read_only);
        }
    }
    let is_covered = all.keys().any(|shared| here.starts_with(shared));
    let is_kernels = KERNELS.iter().any(|own| here.starts_with(own));
    if !is_covered && here != Path::new("/") && !is_kernels {
        all.insert(here.to_owned(), true);
    }
    all.into_iter()
        .map(|(path, read_only)| {
            let path = Value::from(text_of(&path)?);
            Ok(Table::from_iter([("path".to_owned(), path), ("read_only".to_owned(), read_only.into())]).into())
        })
        .collect()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Fault::user(format!("cannot use `{}`", path.display())).because(e))
}

fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        Fault::user(format!("cannot use `{}`", path.display())).because("the path is not UTF-8").hint("rename it")
    })
}

impl ByArg {
    fn word(self) -> &'static str {
        match self {
            ByArg::Auto => "auto",
            ByArg::Plan9 => "9p",
            ByArg::Virtiofs => "virtiofs",
        }
    }
}
