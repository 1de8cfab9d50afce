//! The folders that each case has in its guest: `VMDECK_ARTIFACTS`, which comes back, and `VMDECK_TMP`, which does not.
//!
//! They are made for all cases of a suite at once, before the first of them, and looked at once more behind the last: one by one they
//! would cost each case two round trips. What a case has put into its own comes back right after it where it did not pass, or where its
//! text names the variable; what a program of a case that passed has put there by itself comes at the end of the suite.

use super::{
    case_artifacts::{self, run},
    suite::SuiteRun,
};
use crate::{
    command::{RemoteCommand, Shell, powershell, sh_quote},
    engine::{context::RunContext, machine::LeasedMachine},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    ids::CaseId,
    suite::{Case, CaseAction, RunAs, Suite},
};

/// What of each case lies below the root: what is fetched has a place of its own.
const KINDS: [&str; 2] = [ARTIFACTS, "tmp"];
const ARTIFACTS: &str = "artifacts";
/// How many cases one command makes folders for.
const PART: usize = 500;

/// The folders of the cases of a suite in one machine.
pub(super) struct SuiteFolders {
    shell: Shell,
    /// Where they are in the guest, by the rights of the cases; what one user makes another may not write to.
    roots: BTreeMap<RunAs, String>,
    /// The cases that have them.
    of: BTreeSet<CaseId>,
}

/// The folders of one case.
#[derive(Clone, Debug)]
pub(super) struct CaseFolders {
    shell: Shell,
    root: String,
    case: String,
    run_as: RunAs,
}

impl SuiteFolders {
    /// Returns those of a suite in a machine; no case has any yet.
    pub(super) fn new(machine: &LeasedMachine) -> Self {
        Self { shell: machine.shell(), roots: BTreeMap::new(), of: BTreeSet::new() }
    }

    /// Makes the folders of these cases.
    pub(super) async fn make<'c>(
        &mut self,
        suite: &SuiteRun<'_>,
        machine: &LeasedMachine,
        cases: impl Iterator<Item = &'c Case>,
    ) -> Result<()> {
        let mut by_rights: BTreeMap<RunAs, Vec<&Case>> = BTreeMap::new();
        for case in cases.filter(|case| has_folders(case)) {
            by_rights.entry(rights(suite.suite, case)).or_default().push(case);
        }
        for (run_as, cases) in by_rights {
            for part in cases.chunks(PART) {
                let names: Vec<String> = part.iter().map(|case| case.id.folder()).collect();
                let root = make(machine, suite.context, suite.suite, run_as, &names).await?;
                self.roots.insert(run_as, root);
                self.of.extend(part.iter().map(|case| case.id.clone()));
            }
        }
        Ok(())
    }

    /// Returns the folders of a case; `None` = it has none.
    pub(super) fn of(&self, suite: &Suite, case: &Case) -> Option<CaseFolders> {
        let run_as = rights(suite, case);
        let root = self.roots.get(&run_as).filter(|_| self.of.contains(&case.id))?;
        Some(CaseFolders { shell: self.shell, root: root.clone(), case: case.id.folder(), run_as })
    }

    /// Fetches what is still there of these cases, each to its place in the record, and removes everything. Returns what did not come.
    pub(super) async fn finish(
        &self,
        suite: &SuiteRun<'_>,
        machine: &LeasedMachine,
        places: &BTreeMap<String, PathBuf>,
    ) -> Result<Option<String>> {
        let SuiteRun { context, guest, suite, .. } = *suite;
        let mut missing = None;
        for (run_as, root) in &self.roots {
            let base = as_user(*run_as);
            let script = look_script(self.shell, root);
            if run(machine, RemoteCommand { script, ..base.clone() }).await?.is_empty() {
                continue;
            }
            missing = missing.or(fetch_all((context, guest, suite), machine, (root, &base), places).await?);
            let script = remove_script(self.shell, root);
            run(machine, RemoteCommand { script, ..base }).await?;
        }
        Ok(missing)
    }

    /// Returns whether any case has some.
    pub(super) fn has_any(&self) -> bool {
        !self.of.is_empty()
    }
}

impl CaseFolders {
    /// Makes those of one case anew, and empty.
    pub(super) async fn renew(
        context: &RunContext,
        suite: &Suite,
        case: &Case,
        machine: &LeasedMachine,
    ) -> Result<Self> {
        let (run_as, name) = (rights(suite, case), case.id.folder());
        let root = make(machine, context, suite, run_as, std::slice::from_ref(&name)).await?;
        Ok(Self { shell: machine.shell(), root, case: name, run_as })
    }

    fn path(&self, kind: &str) -> String {
        let slash = if self.shell == Shell::Posix { '/' } else { '\\' };
        format!("{}{slash}{kind}{slash}{}", self.root, self.case)
    }

    /// Tells a command of the case where they are. A restart, or a test that tidies up, may have taken them away.
    pub(super) fn tell(&self, command: &mut RemoteCommand) {
        let paths = KINDS.map(|kind| self.path(kind));
        if self.shell == Shell::Posix {
            let [artifacts, tmp] = paths.each_ref().map(|path| sh_quote(path));
            command.prepare = format!("[ -d {artifacts} ] || (umask 077; mkdir -p {artifacts} {tmp})");
        }
        let names = [case_artifacts::VARIABLE, "VMDECK_TMP"];
        command.env.extend(names.into_iter().map(str::to_owned).zip(paths));
    }

    /// Fetches what is in the one for artifacts to `to`, and removes both.
    pub(super) async fn fetch(
        &self,
        (context, guest, suite, case): (&RunContext, &Guest, &Suite, &CaseId),
        machine: &LeasedMachine,
        to: &Path,
    ) -> Result<()> {
        let base = as_user(self.run_as);
        let dir = Some(self.path(ARTIFACTS));
        let globs = ["**".to_owned()];
        let place = RemoteCommand { dir, ..base.clone() };
        let of = (context, guest, suite, Some(case));
        let fetched = case_artifacts::fetch(of, machine, &globs, place, (to, &CancellationToken::new())).await?;
        if let Some(missing) = fetched.left_behind() {
            let text = format!("case `{}/{case}`: {missing}", suite.id);
            context.events.warn(Some(&guest.id), context.redactor.text(&text), None);
        }
        let paths = KINDS.map(|kind| self.path(kind));
        let script = match self.shell {
            Shell::Posix => format!("rm -rf -- {} {}", sh_quote(&paths[0]), sh_quote(&paths[1])),
            Shell::PowerShell => {
                format!(
                    "Remove-Item -LiteralPath {} -Recurse -Force",
                    paths.map(|path| powershell::quote(&path)).join(",")
                )
            }
        };
        run(machine, RemoteCommand { script, ..base }).await.map(drop)
    }
}

/// Returns whether a case has folders: one that is run in its guest.
fn has_folders(case: &Case) -> bool {
    matches!(case.action, CaseAction::Run(_) | CaseAction::Script(_) | CaseAction::Steps(_))
}

fn rights(suite: &Suite, case: &Case) -> RunAs {
    case.run_as.unwrap_or(suite.run_as)
}

fn as_user(run_as: RunAs) -> RemoteCommand {
    RemoteCommand { run_as, ..RemoteCommand::new("") }
}

/// Makes the folders of the cases with these names, empty ones; returns the path of their root.
async fn make(
    machine: &LeasedMachine,
    context: &RunContext,
    suite: &Suite,
    run_as: RunAs,
    names: &[String],
) -> Result<String> {
    let who = if run_as == RunAs::Root { "root" } else { "user" };
    let below = format!("vmdeck-{}-{who}/{}", context.plan.run.short(), suite.id);
    let script = match machine.shell() {
        Shell::Posix => make_posix(&below, names),
        Shell::PowerShell => make_windows(&below, names),
    };
    let root = run(machine, RemoteCommand { script, ..as_user(run_as) }).await?;
    if root.is_empty() {
        return Err(
            Fault::infra("cannot prepare the folders of a case").because("the guest does not say where they are")
        );
    }
    Ok(root)
}

fn make_posix(below: &str, names: &[String]) -> String {
    let below = sh_quote(below);
    let paths = |kind: &str| names.iter().map(|name| sh_quote(&format!("{kind}/{name}"))).collect::<Vec<_>>().join(" ");
    let [artifacts, tmp] = KINDS.map(paths);
    // A guest that is this host keeps them in its own folder, which goes with it.
    format!(
        "umask 077\n\
         for d in ${{VMDECK_MACHINE:+\"$HOME\"}} /var/tmp /tmp \"$HOME\"; do f=$d/{below}\n\
         mkdir -p \"$f\" 2>/dev/null && cd \"$f\" && rm -rf {artifacts} {tmp} && mkdir -p {artifacts} {tmp} 2>/dev/null &&\n\
         printf %s \"$f\" && exit; done\n\
         echo \"none of /var/tmp, /tmp and $HOME can be written to\" >&2; exit 1"
    )
}

fn make_windows(below: &str, names: &[String]) -> String {
    let paths =
        KINDS.iter().flat_map(|kind| names.iter().map(move |name| powershell::quote(&format!("{kind}\\{name}"))));
    format!(
        "$f=[IO.Path]::Combine($env:ProgramData,{})\n\
         foreach($n in {}){{$p=[IO.Path]::Combine($f,$n)\n\
         if(Test-Path -LiteralPath $p){{Remove-Item -LiteralPath $p -Recurse -Force}}\n\
         [void][IO.Directory]::CreateDirectory($p)}}\n[Console]::Out.Write($f)",
        powershell::quote(&below.replace('/', "\\")),
        paths.collect::<Vec<_>>().join(",")
    )
}

/// Returns the text that says whether there is still something to be fetched, and removes everything where there is not.
fn look_script(shell: Shell, root: &str) -> String {
    let remove = remove_script(shell, root);
    match shell {
        // Without `find` nobody knows, and it is fetched.
        Shell::Posix => format!(
            "cd {}/{ARTIFACTS} 2>/dev/null || exit 0\nif x=$(find . ! -type d 2>/dev/null) && [ -z \"$x\" ]; then {remove}\nelse echo some; fi",
            sh_quote(root)
        ),
        Shell::PowerShell => format!(
            "if(Get-ChildItem -LiteralPath {} -Recurse -File -Force|Select-Object -First 1){{'some'}}else{{{remove}}}",
            powershell::quote(&format!("{root}\\{ARTIFACTS}"))
        ),
    }
}

fn remove_script(shell: Shell, root: &str) -> String {
    match shell {
        // The folder of the run goes with the last of its suites.
        Shell::Posix => {
            let root = sh_quote(root);
            format!("cd /; rm -rf -- {root}; rmdir -- \"$(dirname -- {root})\" 2>/dev/null; :")
        }
        Shell::PowerShell => format!("Remove-Item -LiteralPath {} -Recurse -Force", powershell::quote(root)),
    }
}

/// Fetches the artifacts of all cases to a folder of their own first: nothing of the guest's may choose its place in the record.
async fn fetch_all(
    (context, guest, suite): (&RunContext, &Guest, &Suite),
    machine: &LeasedMachine,
    (root, base): (&str, &RemoteCommand),
    places: &BTreeMap<String, PathBuf>,
) -> Result<Option<String>> {
    let failed = |e: io::Error| Fault::infra("cannot keep the artifacts of a case").because(e);
    let incoming = tempfile::Builder::new().prefix("artifacts-").tempdir_in(&context.plan.dir).map_err(failed)?;
    let dir = Some(format!("{root}/{ARTIFACTS}"));
    let globs = ["**".to_owned()];
    let place = RemoteCommand { dir, ..base.clone() };
    // What a run that is cancelled has brought about is wanted as well.
    let never = CancellationToken::new();
    let (of, to) = ((context, guest, suite, None), (incoming.path(), &never));
    let fetched = case_artifacts::fetch(of, machine, &globs, place, to).await?;
    for (name, to) in places {
        let from = incoming.path().join(name);
        let has_some = fs::read_dir(&from).is_ok_and(|mut entries| entries.next().is_some());
        if !has_some || to.exists() {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::rename(&from, to).map_err(failed)?;
    }
    Ok(fetched.left_behind())
}
