//! The arguments of a run, and those of them that another way to begin one has as well.

use clap::{Args, ValueEnum};
use std::{path::PathBuf, time::Duration};
use vmdeck_model::{
    plan::{Keep, RunPurpose},
    quantity::parse_duration,
    select::Selector,
    shard::Shard,
    tag_expr::TagExpr,
};

/// The arguments of a run.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
#[derive(Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// What to run: `suite[/case][@guest]` with globs; default: everything
    #[arg(value_name = "SELECT", value_parser = |s: &str| Selector::parse(s).map(|_| s.to_owned()))]
    pub select: Vec<String>,
    /// Run only the cases whose tags fit: `slow and not (net or gpu)`
    #[arg(long, value_name = "EXPR", value_parser = |s: &str| TagExpr::parse(s).map(|_| s.to_owned()))]
    pub tag: Option<String>,
    /// Run without a screen, for CI
    #[arg(long)]
    pub ci: bool,
    /// Run only what failed in an earlier run: the last one, or the one of this folder or id
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "")]
    pub rerun_failed: Option<String>,
    /// Where its results go.
    #[command(flatten)]
    pub report: ReportArgs,
    /// Which guests to keep at the end
    #[arg(long, value_enum, value_name = "WHEN")]
    pub keep: Option<KeepArg>,
    /// How it takes the host lock.
    #[command(flatten)]
    pub lock: LockArgs,
    /// How many times to retry a failed case [default: each case's own setting]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// How many times to run each case
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// Run what failed in the last run first
    #[arg(long)]
    pub failed_first: bool,
    /// End the run at the first failure
    #[arg(long)]
    pub fail_fast: bool,
    /// Run part I of N of the cases; each is in one part only, and `vmdeck merge` adds the records up
    #[arg(long, value_name = "I/N", value_parser = Shard::parse)]
    pub shard: Option<Shard>,
    /// What makes the parts alike: `count`, or `time[:FILE]` by what `vmdeck times` wrote [default file: vmdeck-times.json beside
    /// the config]
    #[arg(long, value_name = "HOW", requires = "shard", value_parser = ShardByArg::parse)]
    pub shard_by: Option<ShardByArg>,
    /// What the parts of one run have in common, so that others are not merged with it [default: the id that CI gives to the run]
    #[arg(long, value_name = "ID", value_parser = plain)]
    pub group: Option<String>,
    /// How long a guest with a failed case, or one that did not boot, is held for inspection before it is taken down
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub pause: Option<Duration>,
    /// Use the machines that an earlier run kept (`--keep`, `vmdeck keep`), where the guest is still the same; they stay kept
    #[arg(long)]
    pub reuse: bool,
    /// Keep the selected guests once they are up, and run nothing in them: `vmdeck keep`.
    #[arg(skip)]
    pub keep_only: bool,
    /// Boot the selected guests, run nothing in them, and keep them up until they are stopped
    #[arg(long)]
    pub hold: bool,
    /// Let other cockpits steer this run (`vmdeck attach`), and not only watch it
    #[arg(long)]
    pub allow_control: bool,
    /// Read commands as JSON lines from standard input; its end without the word `detach` ends the run
    #[arg(long, hide = true)]
    pub commands: bool,
    /// How long the run waits for somebody to join it where its commands end without a word: its cockpit has died
    #[arg(long, hide = true, value_name = "DURATION", value_parser = parse_duration, requires = "commands")]
    pub orphaned: Option<Duration>,
    /// The run's id, 16 hexadecimal digits; default: random
    #[arg(long, hide = true, value_name = "HEX", value_parser = |s: &str| u64::from_str_radix(s, 16))]
    pub run_id: Option<u64>,
    /// Turn off everything in the cockpit that changes something
    #[arg(long)]
    pub read_only: bool,
    /// Print the plan and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl RunArgs {
    /// Returns what guests are booted for.
    pub fn purpose(&self) -> RunPurpose {
        match (self.keep_only, self.hold) {
            (true, _) => RunPurpose::Keep,
            (_, true) => RunPurpose::Hold,
            _ => RunPurpose::Cases,
        }
    }

    /// Returns the selection, read.
    pub fn selectors(&self) -> Vec<Selector> {
        // Each word was checked when the command line was read.
        self.select.iter().filter_map(|word| Selector::parse(word).ok()).collect()
    }
}

fn plain(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.chars().all(|c| !c.is_control()) && text.len() <= 200;
    if is_plain { Ok(text.to_owned()) } else { Err("a word of at most 200 characters, in one line".to_owned()) }
}

/// What makes the parts of a run alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardByArg {
    /// The number of their cases.
    Count,
    /// How long they take, by this file of times, or the usual one.
    Time(Option<PathBuf>),
}

impl ShardByArg {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "count" => Ok(Self::Count),
            None if text == "time" => Ok(Self::Time(None)),
            Some(("time", file)) if !file.is_empty() => Ok(Self::Time(Some(file.into()))),
            _ => Err("count, time, or time:FILE".to_owned()),
        }
    }
}

impl std::fmt::Display for ShardByArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::Time(None) => f.write_str("time"),
            Self::Time(Some(file)) => write!(f, "time:{}", file.display()),
        }
    }
}

/// Where the results of a run go.
#[derive(Args, Debug, Clone, Default)]
pub struct ReportArgs {
    /// Folder of the run's record; default: `.vmdeck/runs/<time>-<id>`
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Also write the report in JUnit format to this file
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Also write the events to this file; `-` = standard output
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
}

/// How a run takes the host lock.
#[derive(Args, Debug, Clone, Default)]
pub struct LockArgs {
    /// How long to wait for the host lock [default: `host.lock_timeout`]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub lock_timeout: Option<Duration>,
    /// Do not take the host lock
    #[arg(long)]
    pub no_lock: bool,
}

/// Which guests `--keep` keeps.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepArg {
    /// Keep no guest.
    Never,
    /// Keep guests that failed.
    Failed,
    /// Keep every guest.
    Always,
}

impl From<KeepArg> for Keep {
    fn from(arg: KeepArg) -> Self {
        match arg {
            KeepArg::Never => Keep::Never,
            KeepArg::Failed => Keep::Failed,
            KeepArg::Always => Keep::Always,
        }
    }
}
