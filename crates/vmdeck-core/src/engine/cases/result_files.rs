//! The files of results that a command leaves in the guest: looked at before it, fetched after it. A file counts only if this command
//! wrote it; one that lay there before proves nothing.

use super::subtests::Subtests;
use crate::{
    command::RemoteCommand,
    engine::{context::RunContext, machine::LeasedMachine},
    transport::{
        artifacts::{self, ArtifactRequest},
        file_stamps,
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::error::Fault;
use vmdeck_results::{ResultFile, ResultSummary};

/// Most bytes of all files of one attempt.
const MOST: u64 = 64 << 20;

/// The files of one attempt.
pub(super) struct ResultFiles<'a> {
    globs: &'a [String],
    base: RemoteCommand,
    limit: Duration,
    /// What was there before the command, or why that is not known.
    before: Result<BTreeMap<String, String>, Fault>,
}

impl<'a> ResultFiles<'a> {
    /// Looks at what is there before the command.
    pub(super) async fn look(
        context: &RunContext,
        machine: &LeasedMachine,
        globs: &'a [String],
        base: RemoteCommand,
        limit: Duration,
    ) -> Self {
        let before = Self::stamps(context, machine, globs, &base).await;
        Self { globs, base, limit, before }
    }

    async fn stamps(
        context: &RunContext,
        machine: &LeasedMachine,
        globs: &[String],
        base: &RemoteCommand,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let session = machine.session()?;
        file_stamps::look(session, globs, base, &context.cancel).await
    }

    /// Fetches what the command has written, and reads it.
    pub(super) async fn read(
        &self,
        context: &RunContext,
        machine: &LeasedMachine,
        subtests: &Subtests,
    ) -> ResultSummary {
        match self.fetch(context, machine, subtests).await {
            Ok(summary) => summary,
            Err(fault) => {
                let mut summary = ResultSummary::default();
                summary.lacks(fault.to_string());
                summary
            }
        }
    }

    async fn fetch(
        &self,
        context: &RunContext,
        machine: &LeasedMachine,
        subtests: &Subtests,
    ) -> Result<ResultSummary, Fault> {
        let failed = || Fault::infra("cannot fetch the files of results");
        let before = self.before.as_ref().map_err(Clone::clone)?;
        let after = Self::stamps(context, machine, self.globs, &self.base).await?;
        let session = machine.controller.session().ok_or_else(failed)?;
        let mut whole = ResultSummary::default();
        let (mut files, mut homes) = (Vec::new(), Vec::new());
        for glob in self.globs {
            let home = tempfile::tempdir_in(&context.plan.dir).map_err(|e| failed().because(e))?;
            let globs = [glob.clone()];
            let request = ArtifactRequest {
                globs: &globs,
                base: self.base.clone(),
                to: home.path(),
                spool: &context.plan.dir,
                bytes: MOST,
                limit: self.limit,
            };
            let fetched = artifacts::fetch(session.files().as_ref(), &request, &context.cancel).await?;
            let came = files_below(home.path(), home.path());
            if let Some(missing) = fetched.missing().filter(|_| !came.is_empty()) {
                whole.lacks(missing);
            }
            let is_new = |file: &&ResultFile| after.get(&file.name) != before.get(&file.name);
            let new: Vec<ResultFile> = came.iter().filter(is_new).cloned().collect();
            match (new.is_empty(), came.is_empty()) {
                (true, true) => whole.lacks(format!("there is no file `{glob}`")),
                (true, false) => whole.lacks(format!("`{glob}` is stale: no file of it was written by this command")),
                _ => {}
            }
            for file in new {
                if !files.iter().any(|known: &ResultFile| known.name == file.name) {
                    files.push(file);
                }
            }
            homes.push(home);
        }
        let reader = subtests.clone();
        let read = tokio::task::spawn_blocking(move || reader.read_files(&files)).await;
        whole.merge(read.map_err(|e| Fault::bug("reading the results panicked").because(e))?);
        Ok(whole)
    }
}

/// Returns the files below a folder, with the paths that they have in it.
fn files_below(root: &Path, folder: &Path) -> Vec<ResultFile> {
    let mut out = Vec::new();
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            out.extend(files_below(root, &path));
        } else if let Ok(name) = path.strip_prefix(root) {
            out.push(ResultFile { name: name.to_string_lossy().into_owned(), path: path.clone() });
        }
    }
    out
}
