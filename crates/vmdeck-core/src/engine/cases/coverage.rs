//! Collects which lines of the user's programs were run in a guest: those that were built with `--coverage` write it down when they end.
//!
//! Where the guest has gcov, it reads them there, because it must be of the compiler's version; else this host's does.

use crate::{
    command::{Collected, CommandExit, OutputSink, RemoteCommand, Shell, sh_quote},
    coverage::CoverageMap,
    engine::{context::RunContext, machine::LeasedMachine},
    host::{clock, process::Spec},
    transport::artifacts::{self, ArtifactRequest},
};
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Stream},
    guest::{Guest, Source},
    suite::{CoverageKind, Suite},
};

/// The file in the record.
const FILE: &str = "coverage.info";
/// Most bytes of gcov's words that are read.
const WORDS: usize = 256 << 20;
/// How long gcov may take for one file.
const GCOV: Duration = Duration::from_mins(1);
/// The status of the guest's script where it has no gcov.
const NO_GCOV: i32 = 90;

/// Returns the folder of the guest in which its programs write down what was run.
fn folder(suite: &Suite) -> String {
    format!("/var/tmp/vmdeck-coverage/{}", suite.id)
}

/// Tells the programs of a suite where to write; gcov's own variables.
pub(super) fn tell(suite: &Suite, command: &mut RemoteCommand) {
    if suite.coverage == CoverageKind::Gcov {
        command.env.insert("GCOV_PREFIX".into(), folder(suite));
        command.env.insert("GCOV_PREFIX_STRIP".into(), "0".into());
    }
}

/// What is collected of a suite in one machine.
pub(super) struct CoverageRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) suite: &'a Suite,
    /// A command of the suite, with its rights.
    pub(super) base: RemoteCommand,
}

impl CoverageRun<'_> {
    /// Makes an empty folder for what is written.
    pub(super) async fn begin(&self, machine: &LeasedMachine) -> Result<()> {
        if self.suite.coverage == CoverageKind::Off {
            return Ok(());
        }
        if machine.shell() != Shell::Posix {
            return Err(
                Fault::user("cannot collect coverage").because("this version does not read gcov's files in Windows")
            );
        }
        let folder = sh_quote(&folder(self.suite));
        let script = format!("rm -rf {folder}; mkdir -p {folder} && chmod 1777 {folder}");
        let mut seen = Collected::default();
        match self.run(machine, script, &mut seen).await? {
            CommandExit::Code(0) => Ok(()),
            exit => Err(Fault::infra("cannot make the folder for coverage").because(exit)),
        }
    }

    /// Reads what was written, and puts it into the record.
    pub(super) async fn end(&self, machine: &LeasedMachine) -> Result<()> {
        if self.suite.coverage == CoverageKind::Off {
            return Ok(());
        }
        let mut map = CoverageMap::default();
        let place = |path: &str| place(self.guest.source.as_ref(), path);
        let mut words = GcovWords::default();
        let exit = self.run(machine, script(&folder(self.suite)), &mut words).await?;
        let mut complaint = String::from_utf8_lossy(&words.stderr).into_owned();
        if exit == CommandExit::Code(NO_GCOV) {
            complaint.push_str(&self.read_here(machine, &mut map, &place).await?);
        } else if let Err(why) = map.add_gcov(&words.stdout, &place) {
            complaint.push_str(&format!("gcov's words: {why}"));
        }
        let said = vmdeck_model::text::one_line(&complaint);
        if map.is_empty() {
            let why = if said.is_empty() { "no program wrote any" } else { &said };
            return Err(Fault::infra("there is no coverage")
                .because(why)
                .hint("programs built with --coverage write it when they end by themselves"));
        }
        if !said.is_empty() {
            let text = format!("coverage of suite `{}` is not complete: {said}", self.suite.id);
            self.context.events.warn(Some(&self.guest.id), self.context.redactor.text(&text), None);
        }
        self.write(map)
    }

    /// Adds to the record's file, which has all guests and suites.
    fn write(&self, map: CoverageMap) -> Result<()> {
        let mut all = self.context.coverage.lock();
        all.merge(map);
        let total = all.total();
        let path = self.context.plan.dir.join(FILE);
        vmdeck_files::write(&path, all.to_lcov().as_bytes())
            .map_err(|e| Fault::host(format!("cannot write `{}`", path.display())).because(e))?;
        self.context.events.send(EventKind::Coverage { file: FILE.into(), lines: total.lines, hit: total.hit });
        Ok(())
    }

    async fn run(&self, machine: &LeasedMachine, script: String, sink: &mut dyn OutputSink) -> Result<CommandExit> {
        let command = RemoteCommand {
            script,
            shell: vmdeck_model::suite::ScriptShell::Plain,
            separate_stderr: true,
            ..self.base.clone()
        };
        let limit = self.suite.artifacts_timeout;
        let ended = clock::within(limit, machine.controller.run(&command, sink, &self.context.cancel)).await;
        ended.unwrap_or_else(|| Err(Fault::infra("cannot collect coverage").because("it took too long")))
    }

    /// Fetches what was written, and reads it with this host's gcov; returns what it complains of.
    async fn read_here(
        &self,
        machine: &LeasedMachine,
        map: &mut CoverageMap,
        place: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<String> {
        let cannot = || Fault::infra("cannot collect coverage");
        let session = machine.controller.session().ok_or_else(|| cannot().because("there is no session"))?;
        let to = tempfile::tempdir_in(&self.context.plan.dir).map_err(|e| cannot().because(e))?;
        let globs = ["**/*.gcda".to_owned()];
        let request = ArtifactRequest {
            globs: &globs,
            base: RemoteCommand { dir: Some(folder(self.suite)), ..self.base.clone() },
            to: to.path(),
            spool: &self.context.plan.dir,
            bytes: self.suite.artifacts_size,
            limit: self.suite.artifacts_timeout,
        };
        let fetched = artifacts::fetch(session.files().as_ref(), &request, &self.context.cancel).await?;
        let mut complaint = fetched.missing().unwrap_or_default();
        for data in files_below(to.path()) {
            let Ok(below) = data.strip_prefix(to.path()) else { continue };
            let object = format!("/{}", below.to_string_lossy());
            // The notes that the compiler wrote beside the object, on this host: only of the user's own source.
            let notes = place(&object).map(|path| PathBuf::from(path).with_extension("gcno"));
            let copied = notes.as_ref().is_some_and(|notes| std::fs::copy(notes, data.with_extension("gcno")).is_ok());
            if !copied {
                complaint.push_str(&format!("no notes of the compiler for {object}\n"));
                continue;
            }
            match self.gcov(&data).await {
                Ok(words) => {
                    if let Err(why) = map.add_gcov(&words, place) {
                        complaint.push_str(&format!("{object}: {why}\n"));
                    }
                }
                Err(why) => complaint.push_str(&format!("{object}: {why}\n")),
            }
        }
        Ok(complaint)
    }

    /// Returns what this host's gcov says of a file.
    async fn gcov(&self, data: &Path) -> Result<Vec<u8>, String> {
        let (Some(dir), Some(name)) = (data.parent(), data.file_name()) else { return Err("it has no name".into()) };
        let spec = Spec::new("gcov").args(["--json-format".as_ref(), "--".as_ref(), name]).dir(dir);
        let out = self.context.backend.spawner.output(&spec, GCOV).await.map_err(|e| format!("gcov: {e}"))?;
        if !out.status.success() {
            return Err(format!("gcov: {}", out.stderr.trim()));
        }
        let stem = name.to_string_lossy();
        let stem = stem.strip_suffix(".gcda").unwrap_or(&stem);
        let written = [format!("{stem}.gcov.json.gz"), format!("{stem}.gcda.gcov.json.gz")].map(|name| dir.join(name));
        let path = written.iter().find(|path| path.exists()).ok_or("gcov wrote nothing")?;
        let file = vmdeck_files::open(path).map_err(|e| e.to_string())?;
        let mut words = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(file).take(WORDS as u64);
        reader.read_to_end(&mut words).map_err(|e| e.to_string())?;
        Ok(words)
    }
}

/// Returns what the guest runs where it has gcov: the compiler's notes are put beside what was written.
fn script(folder: &str) -> String {
    format!(
        r#"d={}
command -v gcov >/dev/null 2>&1 || exit {NO_GCOV}
find "$d" -name '*.gcda' | while IFS= read -r f; do
  n=${{f#"$d"}}
  n=${{n%.gcda}}.gcno
  [ -e "$d$n" ] || cp "$n" "$d$n" || continue
  (cd "$(dirname "$f")" && gcov --stdout --json-format "$f")
done
:"#,
        sh_quote(folder)
    )
}

/// Returns the path on this host of a source file of the guest; `None` = it is not of the user's source.
fn place(source: Option<&Source>, path: &str) -> Option<String> {
    let parts = Path::new(path).components();
    if parts.clone().any(|part| part == std::path::Component::ParentDir) {
        return None;
    }
    match source {
        Some(source) => {
            let below = Path::new(path).strip_prefix(&source.to).ok()?;
            Some(source.path.join(below).to_string_lossy().into_owned())
        }
        // Without a source the guest's own paths are all that there is.
        None => (!path.starts_with("/usr/")).then(|| path.to_owned()),
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => out.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => out.push(entry.path()),
            _ => {}
        }
    }
    out
}

/// Takes gcov's words, up to a limit.
#[derive(Default)]
struct GcovWords {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl OutputSink for GcovWords {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let (into, most) = if stream == Stream::Stderr { (&mut self.stderr, 4096) } else { (&mut self.stdout, WORDS) };
        let room = most.saturating_sub(into.len());
        into.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_own_source_has_a_place() {
        let source = Source { path: "/home/me/app".into(), to: "/root/app".into(), exclude: Vec::new() };
        for (path, expected) in [
            ("/root/app/src/a.c", Some("/home/me/app/src/a.c")),
            ("/root/app/../../etc/x.c", None),
            ("/usr/include/stdio.h", None),
            ("/root/other/a.c", None),
        ] {
            assert_eq!(place(Some(&source), path).as_deref(), expected, "{path}");
        }
        assert_eq!(place(None, "/build/a.c").as_deref(), Some("/build/a.c"));
        assert_eq!(place(None, "/usr/include/a.h"), None);
    }
}
