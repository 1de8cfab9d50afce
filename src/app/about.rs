//! What this program says of itself: its version, its manual pages, its completion scripts.

use super::{Io, settings};
use crate::cli::{Cli, ConfigArgs, GuestTestArgs};
use clap::{Command, CommandFactory};
use clap_complete::{
    Shell,
    env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh},
};
use std::path::Path;
use vmdeck_core::{backend::BACKENDS, host::info, transport::TRANSPORTS};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
};

/// The variable by which a shell asks for completions.
pub(super) const COMPLETE: &str = "VMDECK_COMPLETE";

/// Prints the version; `verbose` = all that helps whoever gets a report of a bug.
pub(super) fn version(verbose: bool, config: &ConfigArgs, io: &mut Io<'_>) -> RunExit {
    io.say(concat!("vmdeck ", env!("CARGO_PKG_VERSION")));
    if !verbose {
        return RunExit::Passed;
    }
    let words = |list: Vec<&str>| list.join(", ");
    let features = if cfg!(feature = "rsa") { "rsa" } else { "none" };
    let config = settings::find(config).map_or("none".to_owned(), |path| path.display().to_string());
    for (name, value) in [
        ("commit", env!("BUILD_COMMIT").to_owned()),
        ("target", env!("BUILD_TARGET").to_owned()),
        ("compiler", env!("BUILD_RUSTC").to_owned()),
        ("features", features.to_owned()),
        ("backends", words(BACKENDS.iter().map(|row| row.kind).collect())),
        ("transports", words(TRANSPORTS.iter().map(|row| row.kind).collect())),
        ("host", format!("{} {}", std::env::consts::OS, info::kernel_version())),
        ("state", info::state_dir().display().to_string()),
        ("cache", info::cache_dir().display().to_string()),
        ("config", config),
    ] {
        io.say(&format!("{:<12}{value}", format!("{name}:")));
    }
    RunExit::Passed
}

/// Prints the manual page of a subcommand, or writes the pages of all into a folder.
pub(super) fn manual(words: &[String], dir: Option<&Path>, io: &mut Io<'_>) -> Result<RunExit> {
    let cannot = || Fault::user("cannot write the manual");
    let mut command = without_help(Cli::command());
    command.build();
    if let Some(dir) = dir {
        vmdeck_files::make_folders(dir).map_err(|e| cannot().because(e))?;
        clap_mangen::generate_to(command, dir).map_err(|e| cannot().because(e))?;
        // Its flags are not among ours.
        let page = clap_mangen::Man::new(guest_test());
        let mut text = Vec::new();
        page.render(&mut text).map_err(|e| cannot().because(e))?;
        vmdeck_files::write(&dir.join("vmdeck-guest-test.1"), &text).map_err(|e| cannot().because(e))?;
        return Ok(RunExit::Passed);
    }
    let mut page = &command;
    for word in words {
        page = page.find_subcommand(word).ok_or_else(|| {
            Fault::user(format!("cannot show a manual page of `{word}`")).because("there is no such subcommand")
        })?;
    }
    let page = if page.get_name() == "guest-test" { guest_test() } else { page.clone() };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|e| cannot().because(e))?;
    let _ = io.out.write_all(&text);
    Ok(RunExit::Passed)
}

/// Returns the command line of the one subcommand that reads its own.
fn guest_test() -> Command {
    GuestTestArgs::command().name("vmdeck-guest-test").bin_name("vmdeck guest-test")
}

/// Returns a command without the subcommands `help`, which would be pages of their own.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

/// Prints the script that makes a shell ask this program for completions.
pub(super) fn completions(shell: Shell, io: &mut Io<'_>) -> Result<RunExit> {
    let registrar: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::PowerShell => &Powershell,
        _ => &Zsh,
    };
    let mut script = Vec::new();
    registrar
        .write_registration(COMPLETE, "vmdeck", "vmdeck", "vmdeck", &mut script)
        .map_err(|e| Fault::bug("cannot write the completion script").because(e))?;
    let _ = io.out.write_all(&script);
    if shell == Shell::Bash {
        // Else bash takes `debian:12` for three words.
        io.say("COMP_WORDBREAKS=${COMP_WORDBREAKS//:/}");
    }
    Ok(RunExit::Passed)
}
