//! `vmdeck report`: a run that has a record, as a page or as Markdown.

use super::{Io, runs, settings};
use crate::cli::{ConfigArgs, PageArgs};
use std::path::Path;
use vmdeck_core::{
    history,
    report::{
        html::{HtmlPage, PastVerdicts},
        markdown,
        plan_index::PlanIndex,
    },
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    run_view::RunView,
};

/// How many earlier runs the page tells of.
const PAST: usize = 20;

/// Writes what was asked for.
pub(super) fn run(config: &ConfigArgs, args: &PageArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let record = runs::find(args.run.as_deref())?;
    let cannot = || Fault::user(format!("cannot make a report of `{}`", record.display()));
    // Where its cases are written is known only while the config is there.
    let index =
        || settings::load_untrusted(config).map(|setup| PlanIndex::of_suites(&setup.suites)).unwrap_or_default();
    let folder = record.parent().unwrap_or(Path::new("."));
    let mut page = HtmlPage::new(&record, index(), past(folder, &record), None);
    let mut view = RunView::default();
    let mut take = |event: &vmdeck_model::event::Event| {
        view.apply(event);
        page.take(event);
    };
    history::each_event(&record, &mut take).map_err(|e| cannot().because(e))?;
    if view.run.is_none() {
        return Err(cannot().because("its events.jsonl does not tell of a run"));
    }
    if let Some(file) = &args.html {
        write(file, &page.render(&view), io)?;
    }
    if let Some(file) = &args.markdown {
        write(file, &markdown::render(&view, &index()), io)?;
    }
    Ok(RunExit::Passed)
}

/// Returns what tells how the cases of the last runs of a folder ended, before the one with this record.
pub(super) fn past(folder: &Path, record: &Path) -> impl FnOnce() -> PastVerdicts + Send + 'static {
    let name = record.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let folder = folder.to_owned();
    let of_case =
        |(word, past): (String, Vec<history::PastCase>)| (word, past.iter().map(|case| case.verdict).collect());
    move || history::trends_before(&folder, name.as_deref(), PAST).cases.into_iter().map(of_case).collect()
}

fn write(file: &Path, text: &str, io: &mut Io<'_>) -> Result<()> {
    if file.as_os_str() == "-" {
        io.say(text.trim_end());
        return Ok(());
    }
    let cannot = |e| Fault::user(format!("cannot write `{}`", file.display())).because(e);
    vmdeck_files::write(file, text.as_bytes()).map_err(cannot)?;
    io.warn(&format!("wrote {}", file.display()));
    Ok(())
}
