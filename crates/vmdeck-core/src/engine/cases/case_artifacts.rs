//! A case's own artifacts, which come back after each attempt, whatever became of it: those of its globs, and what lands in the folder
//! `VMDECK_ARTIFACTS` in its guest.
//!
//! Only a case that names the variable has such a folder: for all others it would cost a round trip.

use crate::{
    command::{Collected, RemoteCommand, Shell, powershell, sh_quote},
    engine::{context::RunContext, machine::LeasedMachine},
    host::clock,
    transport::{
        artifacts::{self, ArtifactRequest},
        unpack::FetchedArtifacts,
    },
};
use std::{path::Path, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::EventKind,
    guest::Guest,
    ids::GuestId,
    quantity::show_count,
    suite::{Case, CaseAction, CaseStep, Suite},
};

/// The variable that names the folder.
pub(super) const VARIABLE: &str = "VMDECK_ARTIFACTS";
/// How long making or removing the folder may take.
const LIMIT: Duration = Duration::from_mins(1);

/// The folder of one attempt.
pub(super) struct CaseArtifacts {
    /// Its path in the guest.
    pub(super) folder: String,
    /// A command of the case: its rights.
    base: RemoteCommand,
}

/// Returns whether a case names the variable, in its own text or in what is run around it.
pub(super) fn is_wanted(case: &Case) -> bool {
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

impl CaseArtifacts {
    /// Makes the folder; `below` = where it is among those of the run.
    pub(super) async fn make(machine: &LeasedMachine, below: &str, base: RemoteCommand) -> Result<Self> {
        let script = match machine.shell() {
            Shell::Posix => {
                let below = sh_quote(below);
                format!(
                    "umask 077; for d in /var/tmp /tmp \"$HOME\"; do f=$d/{below}\n\
                     rm -rf \"$f\" 2>/dev/null; mkdir -p \"$f\" 2>/dev/null && printf %s \"$f\" && exit; done\n\
                     echo \"none of /var/tmp, /tmp and $HOME can be written to\" >&2; exit 1"
                )
            }
            Shell::PowerShell => format!(
                "$f=[IO.Path]::Combine($env:ProgramData,{})\n\
                 if(Test-Path -LiteralPath $f){{Remove-Item -LiteralPath $f -Recurse -Force}}\n\
                 [void][IO.Directory]::CreateDirectory($f);[Console]::Out.Write($f)",
                powershell::quote(below)
            ),
        };
        let base = RemoteCommand { run_as: base.run_as, ..RemoteCommand::new("") };
        let folder = run(machine, RemoteCommand { script, ..base.clone() }).await?;
        Ok(Self { folder, base })
    }

    /// Fetches what is in the folder to `to`, and removes it in the guest; returns how many files came.
    pub(super) async fn fetch(
        &self,
        (context, guest, suite): (&RunContext, &Guest, &Suite),
        machine: &LeasedMachine,
        to: &Path,
    ) -> Result<usize> {
        let base = RemoteCommand { dir: Some(self.folder.clone()), ..self.base.clone() };
        let fetched = fetch_globs((context, suite), machine, &["**".to_owned()], base, to).await?;
        if let Some(missing) = fetched.missing().filter(|_| fetched.count > 0) {
            context.events.warn(Some(&guest.id), context.redactor.text(&missing), None);
        }
        let script = match machine.shell() {
            Shell::Posix => format!("rm -rf -- {}", sh_quote(&self.folder)),
            Shell::PowerShell => {
                format!("Remove-Item -LiteralPath {} -Recurse -Force", powershell::quote(&self.folder))
            }
        };
        run(machine, RemoteCommand { script, ..self.base.clone() }).await?;
        Ok(fetched.count)
    }
}

/// Fetches what these globs name, below the working directory of `base`, to the folder `to`.
pub(super) async fn fetch_globs(
    (context, suite): (&RunContext, &Suite),
    machine: &LeasedMachine,
    globs: &[String],
    base: RemoteCommand,
    to: &Path,
) -> Result<FetchedArtifacts> {
    let session = machine.session()?;
    let request = ArtifactRequest {
        globs,
        base,
        to,
        spool: &context.plan.dir,
        bytes: suite.artifacts_size,
        limit: suite.artifacts_timeout,
    };
    artifacts::fetch(session.files().as_ref(), &request, &CancellationToken::new()).await
}

/// Tells how many files came of a case.
pub(super) fn tell(context: &RunContext, guest: &GuestId, case: &str, count: usize) {
    let text = format!("case `{case}`: {} fetched", show_count(count, "artifact"));
    context.events.send(EventKind::Progress { guest: Some(guest.clone()), text });
}

/// Runs a short command of ours; returns what it says.
async fn run(machine: &LeasedMachine, command: RemoteCommand) -> Result<String> {
    let failed = || Fault::infra("cannot prepare the folder for a case's artifacts");
    let (never, mut seen) = (CancellationToken::new(), Collected::default());
    let ended = clock::within(LIMIT, machine.controller.run(&command, &mut seen, &never)).await;
    let exit = ended.ok_or_else(|| failed().because("the guest does not answer"))??;
    if exit.code() == Some(0) {
        return Ok(vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stdout)));
    }
    let said = vmdeck_model::text::one_line(&String::from_utf8_lossy(&seen.stderr));
    Err(failed().because(format!("{exit}: {said}")))
}
