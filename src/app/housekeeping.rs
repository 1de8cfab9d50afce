//! `vmdeck list` and `cleanup`: inspecting the host and tidying it.
//!
//! The rules are the engine's; here are the tables and the question.

use super::{
    Io,
    deps::deps,
    settings,
    trust::{self, ConfigUse},
};
use crate::cli::{CleanupArgs, ConfigArgs};
use std::io::IsTerminal;
use vmdeck_core::{
    backend,
    engine::{cleanup as tidy, inventory, reap::Reaped},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    machine::MachineInfo,
    quantity::{show_count, show_size},
    text::Clean,
};

/// Lists every machine; exit 3 where those of a backend could not be seen.
pub(super) async fn list(config: &ConfigArgs, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let setup = trust::load_if_any(config, ConfigUse::Programs, io)?;
    let host = match setup {
        Some(setup) => setup.host,
        None => settings::load_host(config)?.0,
    };
    let deps = deps(&host)?;
    let seen = inventory::list(&deps).await;
    let exit = if seen.unseen.is_empty() { RunExit::Passed } else { RunExit::HostNotReady };
    for fault in &seen.unseen {
        io.warn(&fault.render());
    }
    let rows = seen.rows;
    if json {
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(exit);
    }
    let left = tidy::preview(&deps).iter().filter(|item| !item.kept).count();
    if left > 0 {
        io.warn(&format!(
            "note: dead runs left {}; `vmdeck cleanup` shows and removes it",
            show_count(left, "machine")
        ));
    }
    if rows.is_empty() {
        io.say("no machines");
        return Ok(exit);
    }
    io.say(&format!("{:<28} {:<10} {:<9} {:<14} {:<26} {}", "NAME", "BACKEND", "STATE", "GUEST", "OWNER", "ADDRESS"));
    for row in rows {
        let owner = match row.short_run() {
            Some(run) => format!("run {run} ({})", row.owner),
            None => row.owner.to_string(),
        };
        // A name may come from anybody's process.
        let name = Clean::from_text(&row.machine.name);
        let state = Clean::from_text(&row.machine.state);
        let address = row.machine.address.as_deref().unwrap_or("-");
        let guest = row.guest.as_deref().unwrap_or("-");
        io.say(&format!("{name:<28} {:<10} {state:<9} {guest:<14} {owner:<26} {address}", row.machine.backend));
    }
    Ok(exit)
}

/// Removes what dead runs left, and what was kept.
pub(super) async fn cleanup(config: &ConfigArgs, args: &CleanupArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let (host, left_out) = settings::load_host(config)?;
    if !left_out.is_empty() {
        let list = left_out.join(", ");
        io.warn(&format!("note: `cleanup` uses the programs of the run that made a machine, and no other: not {list}"));
    }
    let deps = deps(&host)?;
    let mut exit = RunExit::Passed;
    let found = tidy::preview(&deps);
    for item in &found {
        io.say(&item.to_string());
    }
    if found.is_empty() {
        io.say("nothing to clean up");
    }
    let strangers = if args.all { by_prefix(&deps, &host.test_prefixes, &mut exit, io).await } else { Vec::new() };
    if args.list_only {
        return Ok(exit);
    }
    let is_any = !found.is_empty() || !strangers.is_empty();
    if is_any && !args.force {
        if !std::io::stdin().is_terminal() {
            return Err(Fault::user("cannot ask whether to remove this")
                .because("standard input is not a terminal")
                .hint("use --force to remove it, or --list-only to list it"));
        }
        if !io.confirmed("Remove all of this?") {
            io.say("nothing was removed");
            return Ok(exit);
        }
    }
    let mut told = Vec::new();
    tidy::run(&deps, &host.lock, &mut |reaped| told.push(reaped)).await;
    tidy::remove(&deps, &strangers, &mut |reaped| told.push(reaped)).await;
    match tell_reaped(told, io) {
        RunExit::Passed => Ok(exit),
        left => Ok(left),
    }
}

/// Says what became of each leftover; exit 6 where something may still be there.
pub(super) fn tell_reaped(told: Vec<Reaped>, io: &mut Io<'_>) -> RunExit {
    let mut exit = RunExit::Passed;
    for reaped in told {
        match reaped {
            Reaped::Gone { what, how, adopted, .. } => {
                let verb = if adopted { "put back" } else { "removed" };
                io.say(&format!("{verb} {}: {how}", Clean::from_text(&what)));
            }
            Reaped::Left { what, fault } => {
                io.warn(&format!("{}: {}", Clean::from_text(&what), fault.render()));
                exit = RunExit::Leftover;
            }
        }
    }
    exit
}

/// Returns the machines made by others that `--all` removes, each with its size.
async fn by_prefix(
    deps: &backend::BackendDeps,
    prefixes: &[String],
    exit: &mut RunExit,
    io: &mut Io<'_>,
) -> Vec<MachineInfo> {
    if prefixes.is_empty() {
        io.warn("note: `host.test_prefixes` is empty, so --all adds nothing");
        return Vec::new();
    }
    let (machines, unseen) = tidy::by_prefix(deps, prefixes).await;
    for fault in unseen {
        io.warn(&fault.render());
        *exit = RunExit::HostNotReady;
    }
    for machine in &machines {
        let size = tidy::size(deps, machine).await.map_or("size unknown".to_owned(), show_size);
        let (name, state) = (Clean::from_text(&machine.name), Clean::from_text(&machine.state));
        io.say(&format!("{name} ({}), {state}, not made by vmdeck, matches a test prefix: {size}", machine.backend));
    }
    if machines.is_empty() && *exit == RunExit::Passed {
        io.say(&format!("no machine made by others begins with {}", prefixes.join(" or ")));
    }
    machines
}
