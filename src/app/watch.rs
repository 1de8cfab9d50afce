//! `vmdeck watch SELECT`: runs the selected cases again after each change of the code, in guests that stay up.
//!
//! What has changed is told by the core's `source_watch`; each run is one like any other, with a record of its own.

use super::{
    Io,
    deps::deps,
    execute::{Lines, execute_until},
    keep, plan, settings,
};
use crate::cli::{ConfigArgs, KeepArg, LockArgs, OutputArgs, ReportArgs, RunArgs};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    path::PathBuf,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    engine::cleanup,
    host::{clock, signal},
    transport::source_watch::SourceWatch,
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    guest::Source,
    ids::GuestId,
    outcome::Signal,
    quantity::show_count,
};

/// Most names of changed files that are shown.
const NAMES: usize = 3;

/// Watches until a signal ends it; what was booted for it is removed, what was kept before stays. Returns how the last run ended.
pub(super) async fn run(
    select: &[String],
    lock: &LockArgs,
    config: &ConfigArgs,
    look: &OutputArgs,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    let mut signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let args = RunArgs {
        select: select.to_vec(),
        ci: true,
        reuse: true,
        keep: Some(KeepArg::Always),
        repeat: 1,
        lock: lock.clone(),
        report: ReportArgs::default(),
        ..RunArgs::default()
    };
    let wanted = wanted(&args, config, io)?;
    let mut watch = SourceWatch::begin(wanted.sources, wanted.files, wanted.apart).await?;
    let mut rounds = Rounds { args, config, look, count: 0, last: None };
    let (mut changed, mut end) = (Vec::new(), None);
    while end.is_none() {
        let stale = CancellationToken::new();
        let mut newer = None;
        // A boot that is begun again with each save would never come to its end.
        let boots = rounds.count == 0;
        {
            let round = rounds.run(&changed, &stale, io);
            tokio::pin!(round);
            loop {
                tokio::select! {
                    ran = &mut round => {
                        ran?;
                        break;
                    }
                    // The first change ends what it makes stale; what comes meanwhile is seen by the next look.
                    names = watch.changed(), if newer.is_none() => {
                        newer = Some(names);
                        if !boots {
                            stale.cancel();
                        }
                    }
                    Some(signal) = signals.recv() => end = Some(signal),
                }
            }
        }
        if end.is_some() {
            break;
        }
        changed = match newer {
            Some(names) => names,
            None => match wait(&mut watch, &mut signals).await {
                Ok(names) => names,
                Err(signal) => {
                    end = Some(signal);
                    Vec::new()
                }
            },
        };
    }
    let left = cleanup::kept_machines(&wanted.state, &wanted.folder);
    let is_ours =
        |(name, guest): &(&String, &GuestId)| !wanted.kept.contains_key(*name) && wanted.guests.contains(guest);
    let booted: Vec<String> = left.iter().filter(is_ours).map(|(_, guest)| guest.to_string()).collect();
    if !booted.is_empty() {
        keep::down(&booted, config, io).await?;
    }
    Ok(rounds.last.unwrap_or_else(|| end.map_or(RunExit::Interrupted, RunExit::of_signal)))
}

async fn wait(
    watch: &mut SourceWatch,
    signals: &mut mpsc::UnboundedReceiver<Signal>,
) -> std::result::Result<Vec<String>, Signal> {
    tokio::select! {
        names = watch.changed() => Ok(names),
        Some(signal) = signals.recv() => Err(signal),
    }
}

/// What is watched, and for which guests.
struct WatchPlan {
    sources: Vec<Source>,
    files: Vec<PathBuf>,
    /// Where the runs write.
    apart: Vec<PathBuf>,
    state: PathBuf,
    folder: PathBuf,
    guests: BTreeSet<GuestId>,
    /// The machines that were kept before, by their names.
    kept: BTreeMap<String, GuestId>,
}

fn wanted(args: &RunArgs, config: &ConfigArgs, io: &mut Io<'_>) -> Result<WatchPlan> {
    let setup = settings::load_without_secrets(config)?;
    let deps = deps(&setup.host)?;
    let plan = plan::make_plan(setup, args, io)?;
    let sources: Vec<Source> = plan.guests().filter_map(|guest| guest.source.clone()).collect();
    if sources.is_empty() {
        return Err(nothing_to_watch());
    }
    let guests = plan.guests().map(|guest| guest.id.clone()).collect();
    let kept = cleanup::kept_machines(&deps.state, &plan.folder);
    let apart = vec![plan.host.lock, deps.state.clone()];
    let (state, folder) = (deps.state, plan.folder);
    Ok(WatchPlan { sources, files: plan.config.into_iter().collect(), apart, state, folder, guests, kept })
}

/// Returns the error of guests that get no code.
pub(super) fn nothing_to_watch() -> Fault {
    Fault::user("cannot watch anything")
        .because("the guests have no `source`")
        .hint("`guests.NAME.source` names the folder of the code and where it goes in the guest")
}

/// The runs of one watch.
struct Rounds<'a> {
    args: RunArgs,
    config: &'a ConfigArgs,
    look: &'a OutputArgs,
    count: usize,
    /// How the last run that was not made stale ended.
    last: Option<RunExit>,
}

impl Rounds<'_> {
    /// Runs the cases once; a config with a mistake is told, and the next change tried.
    async fn run(&mut self, changed: &[String], stale: &CancellationToken, io: &mut Io<'_>) -> Result<()> {
        self.count += 1;
        let what = if changed.is_empty() { "the first one".to_owned() } else { changes(changed) };
        io.say(&format!(
            "\n--- run {} at {}: {what}",
            self.count,
            clock::utc().with_timezone(&chrono::Local).format("%H:%M:%S")
        ));
        let planned = settings::load_without_secrets(self.config).and_then(|setup| {
            let mut plan = plan::make_plan(setup, &self.args, io)?;
            plan::read_secrets(&mut plan, self.config)?;
            Ok(plan)
        });
        let plan = match planned {
            Ok(plan) => plan,
            Err(fault) => {
                io.warn(&fault.render());
                self.tell(RunExit::Usage, io);
                return Ok(());
            }
        };
        // How the guests boot is worth reading once.
        let quiet = self.look.quiet || (self.count > 1 && !self.look.verbose);
        let look = OutputArgs { quiet, ..self.look.clone() };
        let exit = execute_until(plan, &self.args, &look, Lines::Usual, stale, io).await?;
        if !stale.is_cancelled() {
            self.tell(exit, io);
        }
        Ok(())
    }

    /// Says how a run ended, and rings the bell of a terminal where that is news.
    fn tell(&mut self, exit: RunExit, io: &mut Io<'_>) {
        if matches!(exit, RunExit::Interrupted | RunExit::Terminated) {
            return;
        }
        let turn = exit.turn_from(self.last.replace(exit));
        let word = turn.unwrap_or(if exit == RunExit::Passed { "green" } else { "RED" });
        let bell = if turn.is_some() && std::io::stdout().is_terminal() { "\x07" } else { "" };
        io.say(&format!("--- {word}; waiting for the next change (Ctrl-C ends){bell}"));
    }
}

/// Returns the names of changed files as the beginning of a sentence.
fn changes(names: &[String]) -> String {
    let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES);
    let more = if more > 0 { format!(" and {}", show_count(more, "more file")) } else { String::new() };
    format!("{shown}{more} changed")
}
