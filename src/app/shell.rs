//! `vmdeck shell GUEST|RUN/CASE [-- CMD...]`: a kept machine if there is one, else one that is started for it.
//!
//! The terminal and the streams are `attend`'s, the machine the engine's.

use super::{
    Io,
    attend::{self, Attended, Wanted},
    deps::deps,
    settings,
    shell_place::{self, ShellPlace},
    terminal,
};
use crate::cli::ConfigArgs;
use vmdeck_core::{
    assets::snapshot::store::SnapshotStore,
    backend::BackendDeps,
    command::CommandExit,
    engine::shell::{self, ShellEnd},
};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    exit::RunExit,
    plan::RunOptions,
};

pub(super) async fn run(
    word: &str,
    machine: Option<&str>,
    suite: Option<&str>,
    command: &[String],
    config: &ConfigArgs,
    io: &mut Io<'_>,
) -> Result<u8> {
    let known = settings::load_without_secrets(config)?;
    let place = shell_place::of_word(word).or_else(|fault| {
        // A record may be anywhere, or be gone; what is kept of a failure is in one place.
        let kept = SnapshotStore::new(&known.host.snapshots).list();
        shell_place::of_checkpoint(word, &kept).ok_or(fault)
    })?;
    let name = place.guest.as_str();
    let machine = machine.or(place.machine.as_deref());
    let unknown = || settings::unknown_guest("open a shell", name, &known);
    let key = known.guest_named(name).map(|guest| guest.key).ok_or_else(unknown)?;
    let setup = settings::load_for(config, &std::iter::once(key.to_string()).collect())?;
    let guest = setup.guest_named(name).ok_or_else(unknown)?;
    let deps = deps(&setup.host)?;
    let command = attend::command_line(command);
    let wants_terminal = terminal::is_terminal() && command.is_none();
    if !wants_terminal && command.is_none() {
        return Err(Fault::user(format!("cannot open a shell in `{name}`"))
            .because("standard input is not a terminal")
            .hint("give a command: `vmdeck shell GUEST -- COMMAND`"));
    }
    if wants_terminal && !shell::may_have_terminal(&guest) {
        return Err(Fault::user(format!("cannot open a shell in `{name}`"))
            .because("commands reach it only by `exec`, which has no terminal")
            .hint(format!("give a command: `vmdeck shell {name} -- COMMAND`; or set `guests.{key}.ssh.key`")));
    }
    let named = suite.or(place.suite.as_deref());
    // As the tests have it; a command says itself what it wants, unless a suite or a case is named.
    let as_tests = wants_terminal || named.is_some();
    let suite = shell_place::suite_of(&setup, &guest, named)?.filter(|_| as_tests);
    let dir =
        suite.and_then(|suite| suite.dir.clone()).or_else(|| guest.source.as_ref().map(|source| source.to.clone()));
    let dir = match suite.and_then(|suite| shell_place::case_of(suite, &place)) {
        Some(case) => case.folder(dir.as_deref()),
        None => dir,
    };
    let env = suite.map(|suite| shell_place::environment(suite, &guest, &place)).unwrap_or_default();
    let wanted = Wanted { command, dir: dir.filter(|_| as_tests), env, limit: None, terminal: wants_terminal };
    let (mut request, attendance) = attend::request(wanted);
    let mut run = None;
    if let Some(running) = shell::running(&deps, &setup.folder, &guest, machine).await {
        tokio::spawn(async move { shell::in_running(running, &guest, request).await });
    } else if let Some(key) = checkpoint_of(&deps, &place) {
        io.warn(&format!("going on where {word} had failed; this machine is a copy, and goes with the shell"));
        request.checkpoint = Some(key);
        run = Some(attend::start(guest, setup.host, RunOptions::default(), deps, request)?);
    } else if let Some(machine) = machine {
        let gone = Fault::infra(format!("cannot open a shell in `{name}`"));
        return Err(gone
            .because(format!("its machine `{machine}` is gone"))
            .hint(
                "`--keep failed` keeps machines in which something failed; with `checkpoint = \"on-failure\"` of the guest the state at a failure is kept, \
                 unless the system crashed, until `vmdeck snapshot list` does not show it any more",
            ));
    } else if guest.id != guest.key {
        return Err(Fault::user(format!("cannot open a shell in `{name}`"))
            .because("the machines of its suite are not up")
            .hint(format!("`vmdeck shell {}` starts one alone; `--keep failed` keeps those of a run", guest.key)));
    } else {
        run = Some(attend::start(guest, setup.host, RunOptions::default(), deps, request)?);
    }
    let Attended { end, run: exit, .. } = attendance.attend(run, attend::tell_all, io).await;
    match (end, exit) {
        // The command went well and the guest's end did not.
        (Some(Ok(ShellEnd::Exit(_))), Some(exit @ (RunExit::Leftover | RunExit::Bug | RunExit::Infra))) => {
            Ok(exit.code())
        }
        (Some(Ok(ShellEnd::Exit(CommandExit::Code(code)))), _) => Ok(u8::try_from(code).unwrap_or(1)),
        (Some(Ok(ShellEnd::Exit(CommandExit::Signal(signal)))), _) => {
            Err(Fault::infra("cannot finish the command").because(format!("it was killed by SIG{signal}")))
        }
        (Some(Ok(ShellEnd::TimedOut)), _) => Err(Fault::bug("a command without a limit took too long")),
        // Which signal ended it is known to the engine.
        (Some(Err(fault)), Some(exit)) if fault.blame() == Blame::Cancelled => {
            io.warn(&fault.render());
            Ok(exit.code())
        }
        (Some(Err(fault) | Ok(ShellEnd::Crashed(fault))), _) => Err(fault),
        (_, Some(exit)) => Ok(exit.code()),
        _ => Err(Fault::infra("cannot open the shell")),
    }
}

/// Returns the checkpoint of the case of a run that was named, if there is one.
fn checkpoint_of(deps: &BackendDeps, place: &ShellPlace) -> Option<String> {
    let name = format!("{}/{}", place.suite.as_deref()?, place.case.as_deref()?);
    deps.snapshots.checkpoint(place.run.as_deref()?, &place.guest, &name)
}
