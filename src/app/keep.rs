//! `vmdeck keep` and `vmdeck down`: guests that stay up between runs, and their end.
//!
//! A later run takes such a machine over with `--reuse`; the rules are the engine's.

use super::{Io, deps::deps, housekeeping::tell_reaped, run, settings};
use crate::cli::{ConfigArgs, OutputArgs, RunArgs};
use vmdeck_core::engine::{
    admission, cleanup,
    reap::{self, ReapScope},
};
use vmdeck_model::{
    error::Result,
    exit::RunExit,
    ids::{GuestId, short_run},
    plan::Setup,
};

/// Boots guests and keeps them; one that is kept already stays as it is, with the code as it is now.
pub(super) async fn up(guests: &[String], config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let setup = settings::load_without_secrets(config)?;
    let named = named(guests, &setup, "keep a guest")?;
    let select = named.iter().filter(|_| !guests.is_empty()).map(|guest| format!("@{guest}")).collect();
    let args = RunArgs { select, ci: true, reuse: true, keep_only: true, repeat: 1, ..RunArgs::default() };
    run::run(&args, config, look, io).await
}

/// Removes the machines that were kept.
pub(super) async fn down(guests: &[String], config: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let setup = settings::load_without_secrets(config)?;
    let named = named(guests, &setup, "remove a machine")?;
    let mut told = Vec::new();
    let scope = ReapScope::KeptFor(&setup.folder, &named);
    let deps = deps(&setup.host)?;
    reap::dead_runs(&deps, scope, &mut |reaped| told.push(reaped)).await;
    admission::sweep(&setup.host.lock);
    let in_use = cleanup::kept_in_use(&deps.state, &setup.folder);
    let in_use: Vec<_> = in_use.into_iter().filter(|(machine, _)| named.contains(&machine.guest)).collect();
    for (machine, run) in &in_use {
        let run = short_run(run);
        let text =
            format!("guest `{}`: its machine is in use by run {run}; `vmdeck attach {run}` joins it", machine.guest);
        io.warn(&text);
    }
    let known = setup.machine_names();
    for guest in cleanup::kept_machines(&deps.state, &setup.folder).into_values().filter(|guest| !known.contains(guest))
    {
        io.warn(&format!(
            "note: a machine is kept for `{guest}`, which the config does not have; `vmdeck cleanup` removes it"
        ));
    }
    if told.is_empty() && in_use.is_empty() {
        io.say("no machine of these guests is kept");
    }
    match tell_reaped(told, io) {
        RunExit::Passed if !in_use.is_empty() => Ok(RunExit::Leftover),
        exit => Ok(exit),
    }
}

/// Returns the guests of these names; without a name, all.
fn named(words: &[String], setup: &Setup, what: &str) -> Result<Vec<GuestId>> {
    let known = setup.machine_names();
    if words.is_empty() {
        return Ok(known);
    }
    let find = |word: &String| {
        let guest = known.iter().find(|guest| guest.as_str() == word).cloned();
        guest.ok_or_else(|| settings::unknown_guest(what, word, setup))
    };
    words.iter().map(find).collect()
}
