//! What a suite needs in a guest before its setup: it is asked for, installed where the config says how, and asked for again.

use super::{
    command_log::RecordedOutput,
    script_failure::ScriptFailure,
    suite::{SuiteRun, SuiteScript},
};
use crate::{
    command::{Collected, CommandExit, RemoteCommand},
    engine::machine::LeasedMachine,
    host::clock,
};
use std::time::Duration;
use vmdeck_model::{
    error::{Fault, Result},
    event::EventKind,
    outcome::Verdict,
    quantity::show_duration,
    requirement::{Requirement, Version},
    text::one_line,
};

/// How long asking for one thing may take.
const ASK: Duration = Duration::from_mins(2);
/// Most characters of a command's words that a message repeats.
const WORDS: usize = 200;

/// What a guest says of a requirement.
enum RequirementState {
    /// It is met.
    Met,
    /// It is not, for this reason.
    Lacks(String),
}

/// Meets everything that a suite needs; where something cannot be met, nothing can be said about its cases.
pub(super) async fn meet(run: &SuiteRun<'_>, machine: &LeasedMachine) -> Result<(), ScriptFailure> {
    for requirement in &run.suite.requires {
        let lacks = match ask(run, machine, requirement).await.map_err(|fault| unasked(run, machine, &fault))? {
            RequirementState::Met => continue,
            RequirementState::Lacks(why) => why,
        };
        let Some(install) = requirement.install_in(run.guest.os.as_str()) else {
            let how = format!("`install.{}` of it would say how it is installed", run.guest.os);
            return Err(failed(run, &format!("the guest lacks what the suite requires: {lacks}; {how}")));
        };
        let text = format!("guest `{}`: {lacks}; installing it", run.guest.id);
        run.context.events.send(EventKind::Progress { guest: Some(run.guest.id.clone()), text });
        run.script(machine, SuiteScript::Install, install).await?;
        if let RequirementState::Lacks(why) =
            ask(run, machine, requirement).await.map_err(|fault| unasked(run, machine, &fault))?
        {
            return Err(failed(
                run,
                &format!("the guest lacks what the suite requires, also after its `install`: {why}"),
            ));
        }
    }
    Ok(())
}

async fn ask(run: &SuiteRun<'_>, machine: &LeasedMachine, requirement: &Requirement) -> Result<RequirementState> {
    // Where the code is, there may be nothing yet.
    let command = RemoteCommand { script: requirement.cmd.clone(), dir: None, ..run.base_command() };
    let (mut said, token) = (Collected::default(), run.context.cancel.child_token());
    let exit = {
        let asking = machine.controller.run(&command, &mut said, &token);
        tokio::pin!(asking);
        let Some(exit) = clock::within(ASK, &mut asking).await else {
            token.cancel();
            let _ = clock::within(ASK, asking).await;
            // It may still run: nothing is installed beside it.
            let took = format!("it took longer than {}", show_duration(ASK));
            return Err(Fault::infra(format!("cannot ask the guest by `{}`", requirement.cmd)).because(took));
        };
        exit?
    };
    let text = String::from_utf8_lossy(&[&said.stdout[..], b"\n", &said.stderr].concat()).into_owned();
    if exit != CommandExit::Code(0) {
        let words: String = one_line(&text).chars().take(WORDS).collect();
        let words = if words.is_empty() { words } else { format!(": {words}") };
        return Ok(RequirementState::Lacks(format!("`{}` ended with {exit}{words}", requirement.cmd)));
    }
    let Some(least) = &requirement.at_least else { return Ok(RequirementState::Met) };
    Ok(match Version::find(&text) {
        Some(version) if version >= *least => RequirementState::Met,
        Some(version) => {
            RequirementState::Lacks(format!("`{}` says {version}, and at least {least} is required", requirement.cmd))
        }
        None => {
            RequirementState::Lacks(format!("`{}` tells no version, and at least {least} is required", requirement.cmd))
        }
    })
}

fn failed(run: &SuiteRun<'_>, why: &str) -> ScriptFailure {
    let reason = run.context.redactor.text(&format!("setup failed: {why}"));
    ScriptFailure { verdict: Verdict::Failed, reason, output: RecordedOutput::default() }
}

/// Returns the failure where the guest could not even be asked.
fn unasked(run: &SuiteRun<'_>, machine: &LeasedMachine, fault: &Fault) -> ScriptFailure {
    machine.give_up();
    let reason = run.context.redactor.text(&format!("setup failed: {fault}"));
    let verdict = if run.context.cancel.is_cancelled() { Verdict::Cancelled } else { Verdict::Infra };
    ScriptFailure { verdict, reason, output: RecordedOutput::default() }
}
