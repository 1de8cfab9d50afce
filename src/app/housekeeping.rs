//! `vmdeck doctor`, `list` and `cleanup`: looking at the host and tidying it.
//!
//! The rules are the engine's; here are the tables and the question.

use super::{Io, deps, settings};
use crate::{
    cli::ConfigArgs,
    engine::{cleanup as tidy, inventory, preflight, reap::Reaped},
    error::{Fault, Result},
    model::{
        event::{Finding, Severity},
        exit::Exit,
        text::Clean,
    },
};
use std::io::IsTerminal;

/// Every check, with or without a config.
pub(super) async fn doctor(config: &ConfigArgs, json: bool, io: &mut Io<'_>) -> Result<Exit> {
    let deps = deps()?;
    let setup = settings::load_if_any(config)?;
    let findings: Vec<Finding> = match setup {
        Some(setup) => preflight::of_setup(&setup, &deps).await,
        None => preflight::bare(&settings::load_host(config)?, &deps).await,
    };
    let fit = findings.iter().all(|f| f.severity != Severity::Fatal);
    if json {
        let value = serde_json::json!({ "ready": fit, "findings": findings });
        io.say(&serde_json::to_string_pretty(&value).unwrap_or_default());
    } else {
        for finding in &findings {
            let word = finding.severity.word();
            io.say(&format!("{word} {:<12} {}", finding.check, finding.text));
            if let Some(hint) = &finding.hint {
                io.say(&format!("{:18} hint: {hint}", ""));
            }
        }
        io.say(if fit { "\nthis host is ready" } else { "\nthis host is NOT ready" });
    }
    Ok(if fit { Exit::Passed } else { Exit::HostNotReady })
}

/// Every machine.
pub(super) async fn list(json: bool, io: &mut Io<'_>) -> Result<Exit> {
    let rows = inventory::list(&deps()?).await?;
    if json {
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(Exit::Passed);
    }
    if rows.is_empty() {
        io.say("no machines");
        return Ok(Exit::Passed);
    }
    io.say(&format!("{:<28} {:<10} {:<9} {:<26} {}", "NAME", "BACKEND", "STATE", "OWNER", "ADDRESS"));
    for row in rows {
        let owner = match &row.run {
            Some(run) => format!("run {} ({})", &run[..8.min(run.len())], row.owner),
            None => row.owner.to_owned(),
        };
        // A name may come from anybody's process.
        let name = Clean::from_text(&row.machine.name);
        let address = row.machine.address.as_deref().unwrap_or("-");
        io.say(&format!("{name:<28} {:<10} {:<9} {owner:<26} {address}", row.machine.backend, row.machine.state));
    }
    Ok(Exit::Passed)
}

/// What dead runs left, and what was kept.
pub(super) async fn cleanup(config: &ConfigArgs, list_only: bool, force: bool, io: &mut Io<'_>) -> Result<Exit> {
    let deps = deps()?;
    let lock = settings::load_host(config)?.lock;
    let found = tidy::preview(&deps);
    for item in &found {
        io.say(&item.to_string());
    }
    if found.is_empty() {
        io.say("nothing is left behind by runs that have ended");
    }
    if list_only {
        return Ok(Exit::Passed);
    }
    if !force && !found.is_empty() {
        if !std::io::stdin().is_terminal() {
            return Err(Fault::user("cannot ask whether to remove this")
                .because("standard input is no terminal")
                .hint("use --force, or --list-only to look"));
        }
        if !confirmed(io) {
            io.say("nothing was removed");
            return Ok(Exit::Passed);
        }
    }
    let mut exit = Exit::Passed;
    let mut told = Vec::new();
    tidy::run(&deps, &lock, &mut |reaped| told.push(reaped)).await;
    for reaped in told {
        match reaped {
            Reaped::Gone { what, how, .. } => io.say(&format!("removed {what}: {how}")),
            Reaped::Left { what, fault } => {
                io.warn(&format!("{what}: {}", fault.render()));
                exit = Exit::Leftover;
            }
        }
    }
    Ok(exit)
}

fn confirmed(io: &mut Io<'_>) -> bool {
    let _ = write!(io.out, "Remove all of this? [y/N] ");
    let _ = io.out.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
