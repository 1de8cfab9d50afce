//! A case's own artifacts, which come back whatever became of it: those of its globs, and what lands in the folder `VMDECK_ARTIFACTS`
//! in its guest.

use crate::{
    command::{Collected, RemoteCommand},
    engine::{context::RunContext, machine::LeasedMachine},
    host::clock,
    transport::{
        artifacts::{self, ArtifactRequest},
        unpack::FetchedArtifacts,
    },
};
use std::{path::Path, sync::atomic::Ordering, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::EventKind,
    guest::Guest,
    ids::CaseId,
    quantity::show_size,
    suite::{Case, CaseAction, CaseStep, Suite},
};

/// The variable that names the folder.
pub(super) const VARIABLE: &str = "VMDECK_ARTIFACTS";
/// How long making or removing the folder may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Returns whether a case names the variable, in its own text or in what is run around it: what lands there is fetched right after it.
pub(super) fn is_named(case: &Case) -> bool {
    let around = [&case.around.before, &case.around.after, &case.around.on_failure];
    let names = |text: &str| text.contains(VARIABLE);
    let own = match &case.action {
        CaseAction::Run(text) => names(text),
        CaseAction::Script(path) => vmdeck_files::read_text(path, vmdeck_files::LARGE).is_ok_and(|text| names(&text)),
        CaseAction::Steps(steps) => steps.iter().any(|step| matches!(step, CaseStep::Run(text) if names(text))),
        // Each of the cases that are found is asked.
        CaseAction::Discover(_) | CaseAction::Manual(_) | CaseAction::Host(_) => false,
    };
    own || around.into_iter().flatten().any(|text| names(text))
}

/// Fetches what these globs name, below the working directory of `base`, to the folder `to`, as far as the run has room for it, and tells
/// what came.
pub(super) async fn fetch(
    (context, guest, suite, case): (&RunContext, &Guest, &Suite, Option<&CaseId>),
    machine: &LeasedMachine,
    globs: &[String],
    base: RemoteCommand,
    (to, cancel): (&Path, &CancellationToken),
) -> Result<FetchedArtifacts> {
    let session = machine.session()?;
    let room = context.artifacts_room.load(Ordering::Relaxed);
    let request = ArtifactRequest {
        globs,
        base,
        to,
        spool: &context.plan.dir,
        bytes: suite.artifacts_size.min(room),
        limit: suite.artifacts_timeout,
    };
    let mut fetched = artifacts::fetch(session.files().as_ref(), &request, cancel).await?;
    let _ = context
        .artifacts_room
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| Some(room.saturating_sub(fetched.bytes)));
    if room < suite.artifacts_size && fetched.is_over {
        let limit = show_size(context.plan.host.artifacts_size);
        fetched.lacks(&format!("those of a run may have {limit} in all (`host.artifacts_size`)"));
    }
    if fetched.count > 0 {
        context.events.send(EventKind::ArtifactsFetched {
            guest: guest.id.clone(),
            suite: suite.id.clone(),
            case: case.cloned(),
            files: fetched.count as u64,
            bytes: fetched.bytes,
        });
    }
    Ok(fetched)
}

/// Runs a short command of ours; returns what it says.
pub(super) async fn run(machine: &LeasedMachine, command: RemoteCommand) -> Result<String> {
    let failed = || Fault::infra("cannot prepare the folders of a case");
    let (never, mut seen) = (CancellationToken::new(), Collected::default());
    let ended = clock::within(LIMIT, machine.controller.run(&command, &mut seen, &never)).await;
    let exit = ended.ok_or_else(|| failed().because("the guest does not answer"))??;
    if exit.code() == Some(0) {
        return Ok(vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stdout)));
    }
    let said = vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stderr));
    Err(failed().because(format!("{exit}: {said}")))
}
