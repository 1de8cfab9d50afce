//! The cases that a case stands for: they are found in its guest, and each is run as a case of its own.

use super::{
    case_run::CaseRun,
    command_log::RecordedOutput,
    script_failure::ScriptFailure,
    suite::{ScriptRun, SuiteRun, SuiteScript},
};
use crate::{
    command::{RemoteCommand, Shell, powershell, sh_quote},
    engine::machine::LeasedMachine,
    host::clock,
    transport::file_stamps,
};
use std::collections::BTreeSet;
use vmdeck_model::{
    discover::{Discovery, DiscoverySource, MOST_FOUND},
    error::{Blame, Fault},
    event::{EventKind, FoundCase},
    ids::CaseId,
    outcome::Verdict,
    quantity::show_duration,
    select::Selector,
    suite::{Case, CaseAction, RunAs},
    text::one_line,
};
use vmdeck_results::{ListedTest, list_command, list_results, read_list, read_names, read_paths};

/// Most cases of which one event tells: readers of records take no longer lines.
const PART: usize = 1_000;
/// Most characters of a name that are told.
const NAME: usize = 200;

impl CaseRun<'_> {
    /// Returns the cases that are found and wanted, and tells of them.
    pub(super) async fn discover(
        &self,
        machine: &LeasedMachine,
        discovery: &Discovery,
    ) -> Result<Vec<Case>, ScriptFailure> {
        let Self { context, guest, suite, case, round, .. } = *self;
        let failed = |why: &str| self.undiscovered(Verdict::Failed, why);
        let listed = self.list(machine, &discovery.source).await?;
        if listed.is_empty() {
            return Err(failed("no test was found"));
        }
        if listed.len() > MOST_FOUND {
            return Err(failed(&format!("{} tests were found, and {MOST_FOUND} is the most", listed.len())));
        }
        let results = match &discovery.source {
            DiscoverySource::Tool(tool) if case.results.is_empty() => list_results(tool),
            _ => None,
        };
        let mut ids = BTreeSet::new();
        let (mut cases, mut told) = (Vec::new(), Vec::new());
        for test in listed {
            let id = case.id.found(&test.name);
            if !ids.insert(id.clone()) {
                return Err(failed(&format!("`{}` and another test would both be `{id}`", test.name)));
            }
            if !discovery.wants(&suite.id, &id, &guest.id) {
                continue;
            }
            let name: String = one_line(&context.redactor.text(&test.name)).chars().take(NAME).collect();
            let is_told_by_id = id.path().strip_prefix(case.id.name()).is_some_and(|found| found[1..] == name);
            told.push(FoundCase { case: id.clone(), name: Some(name).filter(|_| !is_told_by_id) });
            let mut found = Case { id, ..case.clone() };
            if let Some(word) = results {
                found.results.streams = vec![word.to_owned()];
            }
            adopt(&mut found, test);
            cases.push(found);
        }
        // One that was asked for and is gone would be green without having been run.
        let ids: Vec<CaseId> = ids.into_iter().collect();
        let unfound = discovery.unfound(&suite.id, &ids, &guest.id);
        let words = || discovery.wanted.iter().map(Selector::text).collect();
        let lacking: Vec<&str> = if cases.is_empty() { words() } else { unfound };
        if !lacking.is_empty() {
            return Err(failed(&format!("no test was found that `{}` selects", lacking.join(" "))));
        }
        for part in told.chunks(PART) {
            context.events.send(EventKind::CasesFound {
                guest: guest.id.clone(),
                suite: suite.id.clone(),
                case: case.id.clone(),
                round,
                cases: part.to_vec(),
            });
        }
        Ok(cases)
    }

    async fn list(&self, machine: &LeasedMachine, source: &DiscoverySource) -> Result<Vec<ListedTest>, ScriptFailure> {
        let quote: fn(&str) -> String = match machine.shell() {
            Shell::Posix => sh_quote,
            Shell::PowerShell => powershell::quote,
        };
        let listed = match source {
            DiscoverySource::Files { glob, run } => {
                let files = self.files(machine, glob).await.map_err(|fault| {
                    let verdict = if fault.blame() == Blame::User { Verdict::Failed } else { Verdict::Infra };
                    self.undiscovered(verdict, &fault.to_string())
                })?;
                Ok(read_paths(&files, (Discovery::PATH, run), &quote))
            }
            DiscoverySource::Command { command, run } => {
                let text = self.run_list(machine, command).await?;
                read_names(&text, (Discovery::NAME, run), &quote)
            }
            DiscoverySource::Tool(tool) => {
                let text = self.run_list(machine, list_command(tool).unwrap_or_default()).await?;
                read_list(tool, &text, &quote)
            }
        };
        listed.map_err(|why| self.undiscovered(Verdict::Failed, &why))
    }

    /// Returns why nothing can be said about the tests that there should be.
    fn undiscovered(&self, verdict: Verdict, why: &str) -> ScriptFailure {
        let reason = self.context.redactor.text(&format!("discover failed: {why}"));
        ScriptFailure { verdict, reason, output: RecordedOutput::default() }
    }

    /// Returns the files that a glob names, in the order of their names.
    async fn files(&self, machine: &LeasedMachine, glob: &str) -> Result<Vec<String>, Fault> {
        let session = machine.session()?;
        let globs = [glob.to_owned()];
        let base = self.base_command();
        let looking = file_stamps::look(session, &globs, &base, &self.context.cancel);
        let limit = self.suite.setup_timeout;
        let took = || Fault::user(format!("looking for `{glob}` took longer than {}", show_duration(limit)));
        let there = clock::within(limit, looking).await.ok_or_else(took)??;
        // A folder that fits stands for what is in it where files are fetched; here only what fits is a test.
        let there = file_stamps::named(there, &globs);
        let root = if glob.starts_with('/') { "/" } else { "" };
        Ok(there.into_keys().map(|path| format!("{root}{path}")).collect())
    }

    async fn run_list(&self, machine: &LeasedMachine, script: &str) -> Result<String, ScriptFailure> {
        let Self { context, guest, suite, case, told, .. } = *self;
        let base = self.attempt_command(1);
        let shell = case.shell.clone().unwrap_or_else(|| base.shell.clone());
        let run = ScriptRun {
            which: SuiteScript::Discover,
            command: RemoteCommand { script: script.to_owned(), shell, ..base },
            dir: self.dir(1).join("+discover"),
            limit: suite.setup_timeout,
            case: Some(&case.id),
            cancel: &context.cancel,
        };
        let listed = SuiteRun { context, guest, suite, told }.run_script(machine, run).await?;
        Ok(String::from_utf8_lossy(&listed).into_owned())
    }
}

/// Has a case run what was listed, as the list wants it.
fn adopt(case: &mut Case, test: ListedTest) {
    case.action = CaseAction::Run(test.script);
    if test.as_root {
        case.run_as = Some(RunAs::Root);
    }
    case.expect.stderr_empty |= test.is_silent;
    case.expect.skip = case.expect.skip.or(test.skip);
    case.skip = case.skip.take().or(test.skipped);
}
