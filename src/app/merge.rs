//! `vmdeck merge` and `vmdeck times`: the records of several runs as one, and how long cases take.

use super::{
    Io,
    execute::{self, make_record, parent_of},
    part, runs, settings,
};
use crate::cli::{ConfigArgs, MergeArgs, OutputArgs, TimesArgs};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    history,
    host::signal,
    merge::{Merge, MergeOptions, MergeOutcome, times_file},
    report::{
        Fanout,
        github::Github,
        html::HtmlPage,
        junit::Junit,
        plan_index::PlanIndex,
        summary::Summary,
        text::{Level, Style, Text},
    },
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    ids::short_run,
    quantity::{show_count, show_duration},
    shard::RunOrigin,
    times::RunTimes,
};

/// Merges records, and reports on the result as on a run.
pub(super) async fn run(config: &ConfigArgs, args: &MergeArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let records = find(&args.runs)?;
    let options = MergeOptions { force: args.force, expect: args.expect.map(|count| count as usize), link: args.link };
    let merge = Merge::of(&records, options)?;
    if let Some(file) = &args.junit {
        let cannot = |e| Fault::user(format!("cannot write `{}`", file.display())).because(e);
        parent_of(file).and_then(|()| std::fs::File::create(file)).map_err(cannot)?;
    }
    let usual = || Path::new(runs::RECORDS).join(merge.record_name());
    let out = args.output.clone().unwrap_or_else(usual);
    let draft = MergeDraft::begin(&out)?;
    // Where its cases are written is known only while the config is there.
    let index = settings::load_untrusted(config).map(|setup| PlanIndex::of_suites(&setup.suites)).unwrap_or_default();
    let mut fanout = Fanout::default();
    fanout.add(Box::new(Junit::new(
        draft.path().join("junit.xml"),
        args.junit.clone().into_iter().collect(),
        index.clone(),
    )));
    fanout.add(Box::new(Summary::new(draft.path().to_owned())));
    // What earlier runs said is not in the records.
    fanout.add(Box::new(HtmlPage::new(draft.path(), index.clone(), BTreeMap::new, None)));
    let style = Style { live: false, level: Level::Quiet, ..execute::style(look, false) };
    fanout.add(Box::new(Text::new(Box::new(std::io::stdout()), style, index.clone())));
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|v| v == "true") {
        let summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from);
        fanout.add(Box::new(Github::new(Box::new(std::io::stdout()), summary, index)));
    }
    io.say(&format!("{}, merged into `{}`", show_count(merge.origins().len(), "record"), out.display()));
    if !look.quiet {
        show(&merge.origins(), io);
    }
    if merge.is_dirty() {
        io.warn("note: the code had changes that no commit has, and nobody has compared those of the records");
    }
    let MergeOutcome { exit, notes, lost } = merge.write(draft.path(), &mut fanout, &stop_on_signal()?)?;
    draft.publish()?;
    for note in notes.iter().chain(&lost) {
        io.warn(&format!("warning: {note}"));
    }
    history::note(&out);
    if let Some(file) = &args.times
        && let Err(fault) = add(file, merge.times(), io).await
    {
        // The verdict is not theirs.
        io.warn(&format!("warning: {fault}"));
    }
    // A report that was asked for and lost is not green.
    Ok(if exit == RunExit::Passed && !lost.is_empty() { RunExit::Infra } else { exit })
}

/// A merged record that is not whole yet; it is nobody's record until then, and goes where it does not become one.
struct MergeDraft {
    folder: TempDir,
    out: PathBuf,
}

impl MergeDraft {
    /// Makes the folder beside the record's own, which must be empty or not there.
    fn begin(out: &Path) -> Result<Self> {
        make_record(out, "-o")?;
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = tempfile::Builder::new().prefix(".merge-").tempdir_in(parent);
        let folder = made.map_err(|e| Fault::user(format!("cannot write beside `{}`", out.display())).because(e))?;
        Ok(Self { folder, out: out.to_owned() })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts it in its place as a whole.
    fn publish(self) -> Result<()> {
        let out = self.out.as_path();
        let published = std::fs::remove_dir(out).and_then(|()| std::fs::rename(self.path(), out));
        published.map_err(|e| {
            Fault::user(format!("cannot write the merged record `{}`", out.display()))
                .because(e)
                .hint("set -o to a folder that is not there yet")
        })
    }
}

impl Drop for MergeDraft {
    fn drop(&mut self) {
        // Of a record that did not become whole nothing stays; a folder that is not empty does.
        let _ = std::fs::remove_dir(&self.out);
    }
}

/// Returns what is cancelled when this process is asked to end.
fn stop_on_signal() -> Result<CancellationToken> {
    let mut signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        if signals.recv().await.is_some() {
            asked.cancel();
        }
    });
    Ok(stop)
}

/// Adds what records tell of times to a file.
pub(super) async fn times(args: &TimesArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let merge = Merge::each(&find(&args.runs)?)?;
    add(&args.output, merge.times(), io).await?;
    Ok(RunExit::Passed)
}

fn find(words: &[String]) -> Result<Vec<PathBuf>> {
    let record = |word: &String| {
        let path = Path::new(word);
        // What looks like a place is one, so that a mistake in it is told as that.
        if path.is_dir() || path.is_file() { Ok(path.to_owned()) } else { runs::find(Some(word)) }
    };
    words.iter().map(record).collect()
}

async fn add(file: &Path, runs: Vec<&RunTimes>, io: &mut Io<'_>) -> Result<()> {
    let cannot = |e| Fault::user(format!("cannot add times to `{}`", file.display())).because(e);
    parent_of(file).map_err(cannot)?;
    let times =
        times_file::add(file, |times| runs.into_iter().for_each(|run| times.add_run(run))).await.map_err(cannot)?;
    let usual = if file == Path::new(part::TIMES) { String::new() } else { format!(":{}", file.display()) };
    let text =
        format!("`{}` knows {}: `--shard I/N --shard-by time{usual}`", file.display(), show_count(times.len(), "case"));
    io.warn(&text);
    Ok(())
}

/// Prints what each record was of, and how far the longest is from the mean.
fn show(origins: &[RunOrigin], io: &mut Io<'_>) {
    let time = |ms: u64| show_duration(Duration::from_millis(ms));
    let name = |origin: &RunOrigin| {
        let attempt = origin.attempt.filter(|_| origin.superseded);
        let earlier = attempt.map_or_else(|| ", earlier".to_owned(), |attempt| format!(", attempt {attempt}"));
        let what =
            origin.shard.map_or_else(|| format!("run {}", short_run(&origin.run)), |shard| format!("shard {shard}"));
        if origin.superseded { format!("{what}{earlier}") } else { what }
    };
    let names = origins.iter().map(|origin| name(origin).len()).max().unwrap_or(0).max(6);
    let hosts = origins.iter().map(|origin| origin.host.len()).max().unwrap_or(0).clamp(4, 32);
    io.say(&format!(
        "  {:<names$}  {:<hosts$}  {:>5}  {:>9}  {:>9}  {:>9}  EXIT",
        "RECORD", "HOST", "CASES", "BOOT", "WAITED", "TOOK"
    ));
    for origin in origins {
        let exit = origin.exit.map_or("none".to_owned(), |exit| exit.code().to_string());
        io.say(&format!(
            "  {:<names$}  {:<hosts$}  {:>5}  {:>9}  {:>9}  {:>9}  {exit}",
            name(origin),
            origin.host.chars().take(hosts).collect::<String>(),
            origin.cases,
            time(origin.boot_ms),
            time(origin.waited_ms),
            time(origin.took_ms)
        ));
    }
    let counted: Vec<&RunOrigin> = origins.iter().filter(|origin| !origin.superseded).collect();
    let total = counted.iter().fold(0_u64, |sum, origin| sum.saturating_add(origin.took_ms));
    if let (Some(longest), true) = (counted.iter().max_by_key(|origin| origin.took_ms), counted.len() > 1) {
        let mean = total / counted.len() as u64;
        let over = time(longest.took_ms.saturating_sub(mean));
        io.say(&format!("  {} of machine time; {} took {over} more than the mean", time(total), name(longest)));
    }
    io.say("");
}
