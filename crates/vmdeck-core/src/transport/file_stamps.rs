//! What tells whether a file of a guest was written since it was looked at last: only the guest's own words are compared with each other,
//! since its clock may be any.

use super::{
    artifact_globs::{self, ArtifactGlobs},
    powershell_transfer,
    session::CommandRunner,
};
use crate::{
    command::{Collected, CommandExit, Input, RemoteCommand, Shell},
    host::clock,
};
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    quantity::show_duration,
    suite::ScriptShell,
    text::one_line,
};

/// How long the guest may take to look.
const LOOK: Duration = Duration::from_mins(1);

/// Returns what tells of each file that the globs name, by its path as an archive of it has it: without `./` or `/` before it.
pub async fn look(
    runner: &dyn CommandRunner,
    globs: &[String],
    base: &RemoteCommand,
    cancel: &CancellationToken,
) -> Result<BTreeMap<String, String>> {
    let failed = || Fault::infra("cannot look at files in the guest");
    let script = match runner.shell() {
        Shell::Posix => artifact_globs::stamp_script(globs),
        Shell::PowerShell => powershell_transfer::stamp_script(globs),
    };
    let command = RemoteCommand { script, shell: ScriptShell::Plain, stdin: Input::Empty, ..base.clone() };
    let mut said = Collected::default();
    let looked = clock::within(LOOK, runner.run(&command, &mut said, cancel)).await;
    let took = || failed().because(format!("it took longer than {}", show_duration(LOOK)));
    let exit = looked.ok_or_else(took)??;
    if exit != CommandExit::Code(0) {
        return Err(failed().because(format!("{exit}: {}", one_line(&String::from_utf8_lossy(&said.stderr)))));
    }
    let text = String::from_utf8_lossy(&said.stdout);
    let mut out = BTreeMap::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty()) {
        let Some((stamp, path)) = line.split_once('\t') else {
            let why = format!("the name of a file holds the end of a line: `{}`", one_line(line));
            return Err(Fault::user("cannot look at files in the guest").because(why));
        };
        out.insert(bare(path).to_owned(), stamp.to_owned());
    }
    Ok(out)
}

/// Leaves of these files only those whose own paths the globs name, and not a folder that they are in.
pub fn named(files: BTreeMap<String, String>, globs: &[String]) -> BTreeMap<String, String> {
    let globs = ArtifactGlobs::new(globs);
    files.into_iter().filter(|(path, _)| globs.names(Path::new(path))).collect()
}

/// Returns those of these names and globs of which there is no file.
pub async fn missing(
    runner: &dyn CommandRunner,
    wanted: &[String],
    base: &RemoteCommand,
    cancel: &CancellationToken,
) -> Result<Vec<String>> {
    let there = look(runner, wanted, base, cancel).await?;
    let globs = ArtifactGlobs::new(wanted);
    let is_there = |at: &usize| there.keys().any(|path| globs.of(Path::new(path)).contains(at));
    Ok((0..globs.len()).filter(|at| !is_there(at)).map(|at| globs.written(at).to_owned()).collect())
}

/// Returns a path as an archive has it.
fn bare(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    path.strip_prefix("./").unwrap_or(path)
}
