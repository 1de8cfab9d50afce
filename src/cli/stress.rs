//! The arguments of `vmdeck stress`.

use super::{LockArgs, ReportArgs};
use clap::Args;
use vmdeck_model::select::Selector;

/// The arguments of `vmdeck stress`.
#[derive(Args, Debug, Clone)]
pub struct StressArgs {
    /// What to run: `suite[/case][@guest]` with globs
    #[arg(value_name = "SELECT", required = true, value_parser = |s: &str| Selector::parse(s).map(|_| s.to_owned()))]
    pub select: Vec<String>,
    /// How many times to run each case, each time in a machine of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// How many machines of a guest to have at once: a number, or auto [default: as the config has it]
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<String>,
    /// End at the first failure
    #[arg(long)]
    pub until_failure: bool,
    /// Where its results go.
    #[command(flatten)]
    pub report: ReportArgs,
    /// How it takes the host lock.
    #[command(flatten)]
    pub lock: LockArgs,
}

fn workers(text: &str) -> Result<String, String> {
    let is_count = text.parse::<u32>().is_ok_and(|count| (1..=1024).contains(&count));
    if is_count || text == "auto" { Ok(text.to_owned()) } else { Err("a number from 1 to 1024, or auto".to_owned()) }
}
